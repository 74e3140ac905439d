//! Tests of the embedded queue.

mod conforms;
mod fixture;
