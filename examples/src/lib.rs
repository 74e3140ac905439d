//! What the examples share: images to work on, a client that measures, and a load that overloads.
//!
//! The examples themselves are the programs in `src/bin`: `hello`, `scope`, `parallel`, `context`, `images` and `blocked`.

pub mod client;
pub mod gallery;
pub mod overload;
