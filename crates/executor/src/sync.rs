//! The synchronisation primitives of the wake-up protocol: the standard library's, or loom's under the `loom` feature.
//!
//! Only [`ring`](crate::ring), [`stack`](crate::stack), [`queue`](crate::queue) and [`signals`](crate::signals) use this module; they are the parts
//! that `tests/loom.rs` explores exhaustively.

#[cfg(feature = "loom")]
pub(crate) use loom::sync::{Condvar, Mutex, atomic};
#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::{Condvar, Mutex, atomic};

/// Orders earlier writes before later reads of other locations, for loom only.
///
/// The protocol's two-sided checks ("write mine, then read yours") use sequentially consistent accesses, which the memory
/// model orders totally. loom treats such accesses as acquire-release, so under loom a real fence takes their place.
#[inline(always)]
pub(crate) fn sc_fence() {
    #[cfg(feature = "loom")]
    atomic::fence(atomic::Ordering::SeqCst);
}
