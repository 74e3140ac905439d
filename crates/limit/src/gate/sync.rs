//! The atomic word that [`slots`](super::slots) uses: the standard library's, or loom's under the `loom` feature.

#[cfg(feature = "loom")]
pub(crate) use loom::sync::atomic;
#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::atomic;
