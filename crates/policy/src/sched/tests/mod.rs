//! Property tests of the scheduler in virtual time.
