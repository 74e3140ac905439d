//! What the examples share: images to work on, and a client that measures.
//!
//! The examples themselves are the programs in `src/bin`: `hello`, `scope`, `parallel`, `context`, `images` and `blocked`.

pub mod client;
pub mod gallery;
