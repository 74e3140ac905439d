//! Property tests of the scheduler, in virtual time.

mod fairness;
mod frame;
mod front;
mod inside;
mod joint;
mod machine;
mod waiting;
