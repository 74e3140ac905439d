//! Threads and memory are back where they were. Each test runs in a process of its own.

use crate::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::AtomicIsize;

/// Counts the bytes in use.
struct Counting;

static IN_USE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: passes everything on to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// One life of an executor with something of everything, some of it cut off by the end.
fn cycle(round: usize) {
    let executor = start(Config {
        strategy: flyball_executor::Strategy::ALL[round % 12],
        algorithm: flyball_executor::Algorithm::ALL[round % 4],
        ..small()
    });
    let mut handles = Vec::new();
    for class in executor.classes() {
        for n in 0..50 {
            class.execute(|| ()).unwrap();
            handles.push(class.task().affinity_key(n).kind("work").run(move || n));
            handles.push(class.spawn(async move {
                tokio::time::sleep(Duration::from_micros(10)).await;
                n
            }));
            handles.push(class.spawn(std::future::pending()));
            class.run(|| panic!("part of the cycle")).detach();
            let inner = class.clone();
            handles.push(class.run(move || {
                inner.execute(|| ()).unwrap();
                n
            }));
        }
        class.scope(|scope| scope.run(|| ())).unwrap();
    }
    let waiting = handles.len() / 4;
    eventually("only those that wait for ever are left", || {
        let ended = handles.iter().filter(|handle| handle.is_finished()).count();
        ended == handles.len() - waiting
    });
    drop(handles.split_off(handles.len() / 2));
    let report = executor.shutdown(Duration::ZERO).unwrap();
    assert!(report.left_running.is_empty());
}

/// CPU-18: after 50 starts and shutdowns there are as many threads as before, and no more memory is in use.
#[test]
fn nothing_is_left_of_fifty_executors() {
    if !is_alone("leaks::nothing_is_left_of_fifty_executors") {
        return;
    }
    std::panic::set_hook(Box::new(|_| ()));
    let threads_before = threads();
    // What is made once and kept: clocks, the memory that outlives tasks, tokio's.
    (0..12).for_each(cycle);
    eventually("all threads have ended", || threads() == threads_before);
    let in_use_before = IN_USE.load(SeqCst);
    (0..48).for_each(cycle);
    eventually("all threads have ended", || threads() == threads_before);
    let grown = IN_USE.load(SeqCst) - in_use_before;
    assert!(grown < 64 * 1024, "{grown} bytes more in use");
}

/// CPU-18, CPU-3: a long life leaves nothing either: tasks in their hundred thousands, ended in every way.
#[test]
fn nothing_is_left_of_tasks() {
    if !is_alone("leaks::nothing_is_left_of_tasks") {
        return;
    }
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let round = || {
        for n in 0..2_000u32 {
            normal.execute(|| ()).unwrap();
            let mut value = normal.run(move || vec![n; 100]);
            let mut future = normal.spawn(async move {
                flyball_executor::yield_now().await;
                vec![n; 100]
            });
            let waiting = normal.spawn(std::future::pending::<()>());
            normal.spawn(async move { vec![n; 100] }).detach();
            drop(normal.run(move || vec![n; 100]));
            if n % 2 == 0 {
                value.join().unwrap();
                future.join().unwrap();
            }
            waiting.cancel();
        }
        eventually("nothing waits", || {
            let stats = executor.stats();
            stats.waiting_futures == 0 && stats.class("normal").unwrap().queued == 0
        });
    };
    (0..3).for_each(|_| round());
    eventually("all ended", || executor.stats().running == 0);
    let before = IN_USE.load(SeqCst);
    (0..10).for_each(|_| round());
    eventually("all ended", || executor.stats().running == 0);
    let grown = IN_USE.load(SeqCst) - before;
    assert!(grown < 64 * 1024, "{grown} bytes more in use");
    end(executor);
}

/// CPU-5: the figures of an executor that has seen every class and kind stay within half a megabyte.
#[test]
fn figures_have_a_byte_budget() {
    if !is_alone("leaks::figures_have_a_byte_budget") {
        return;
    }
    let executor = start(small());
    let before = IN_USE.load(SeqCst);
    for class in executor.classes() {
        let mut handles: Vec<_> = (0..500)
            .map(|n| class.task().kind(&format!("kind {n}")).run(|| ()))
            .collect();
        for handle in &mut handles {
            handle.join().unwrap();
        }
    }
    drop(executor.stats());
    let grown = IN_USE.load(SeqCst) - before;
    assert!(grown < 4 << 20, "{grown} bytes for figures");
    end(executor);
}
