//! The protocol as `tests/loom.rs` sees it.
