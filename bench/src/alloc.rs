//! An allocator that counts live bytes and allocations while it is told to.
//!
//! Off, it costs one relaxed load an allocation, the same for every subject.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Forwards to the system's allocator and keeps the balance of requested bytes and the number of requests.
pub struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicI64 = AtomicI64::new(0);
static REQUESTS: AtomicI64 = AtomicI64::new(0);

#[inline]
fn note(bytes: i64, requests: i64) {
    if ON.load(Ordering::Relaxed) {
        LIVE.fetch_add(bytes, Ordering::Relaxed);
        REQUESTS.fetch_add(requests, Ordering::Relaxed);
    }
}

// SAFETY: every call is forwarded unchanged to `System`, which keeps the contract; counting touches no memory of the
// caller and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64, 1);
        // SAFETY: the caller's obligations are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(-(layout.size() as i64), 0);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64, 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as i64 - layout.size() as i64, 1);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Growth of live bytes, as requested from the allocator by any thread, while `f` runs.
pub fn growth(f: impl FnOnce()) -> i64 {
    LIVE.store(0, Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
    f();
    ON.store(false, Ordering::SeqCst);
    LIVE.load(Ordering::SeqCst)
}

/// How often any thread asked the allocator for memory while `f` ran.
pub fn requests(f: impl FnOnce()) -> i64 {
    REQUESTS.store(0, Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
    f();
    ON.store(false, Ordering::SeqCst);
    REQUESTS.load(Ordering::SeqCst)
}
