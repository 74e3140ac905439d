//! The sensors on this machine and on captured trees of others.

mod here;
