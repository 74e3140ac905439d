//! What the examples share: images to work on, and a client that measures.
//!
//! The examples themselves are the programs in `src/bin`: `hello`, `scope`, `context` and `images`.

pub mod client;
pub mod gallery;
