//! Tests of the embedded queue.

mod conforms;
mod damage;
mod disk;
mod encoding;
mod faults;
mod fixture;
mod store;
mod torn;
