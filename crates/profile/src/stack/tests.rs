//! Stacks of threads that the tests know.

use super::*;
use crate::{Error, sys};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

fn sampler() -> Sampler {
    Sampler::new(SIGNAL).expect("the signal is free")
}

fn stack_of(thread: u32) -> Stack {
    let raw = sampler().capture(thread).expect("a stack");
    name(&Unwinder::new().unwind(&raw))
}

#[inline(never)]
fn waits_here(messages: &Receiver<()>) {
    let _ = messages.recv();
    std::hint::black_box(());
}

/// A thread that waits until the sender is dropped, after `prepare`.
fn waiting(prepare: impl FnOnce() + Send + 'static) -> (u32, Sender<()>, JoinHandle<()>) {
    let (release, messages) = channel();
    let (tell, told) = channel();
    let handle = std::thread::spawn(move || {
        prepare();
        let _ = tell.send(sys::thread_id());
        waits_here(&messages);
    });
    (told.recv().expect("the thread's id"), release, handle)
}

#[test]
fn the_functions_of_a_waiting_thread_are_named() {
    let (thread, release, handle) = waiting(|| ());
    // The thread may not have arrived where it waits.
    let stack = loop {
        let stack = stack_of(thread);
        if stack.mentions("waits_here") {
            break stack;
        }
    };
    assert!(stack.is_complete(), "{stack:#}");
    let culprit = stack.culprit().expect("a function of the program");
    assert!(culprit.function().unwrap().contains("waits_here"));
    assert!(stack.short().len() < stack.frames().len());
    drop(release);
    handle.join().unwrap();
}

#[inline(never)]
fn deep(left: usize, messages: &Receiver<()>, tell: &Sender<u32>) -> u64 {
    let room = std::hint::black_box([left as u64; 128]);
    if left == 0 {
        let _ = tell.send(sys::thread_id());
        waits_here(messages);
        return room[0];
    }
    deep(left - 1, messages, tell) + room[left % 128]
}

#[test]
fn a_stack_that_is_too_deep_lacks_its_outer_end() {
    let (release, messages) = channel();
    let (tell, told) = channel();
    let handle = std::thread::spawn(move || deep(200, &messages, &tell));
    let stack = stack_of(told.recv().unwrap());
    assert!(!stack.is_complete());
    assert!(stack.frames().len() > 16, "{stack:#}");
    assert!(stack.mentions("deep"), "{stack:#}");
    drop(release);
    handle.join().unwrap();
}

#[test]
fn a_thread_that_blocks_signals_is_given_up_on() {
    let (thread, release, handle) = waiting(sys::block_signals);
    let refused = sampler().capture(thread).unwrap_err();
    assert!(matches!(refused, Error::NoAnswer { .. }), "{refused}");
    drop(release);
    handle.join().unwrap();
    // The next one is answered all the same.
    let (thread, release, handle) = waiting(|| ());
    assert!(sampler().capture(thread).is_ok());
    drop(release);
    handle.join().unwrap();
}

#[test]
fn a_thread_that_has_ended_is_no_crash() {
    let (thread, release, handle) = waiting(|| ());
    drop(release);
    handle.join().unwrap();
    // The number may be another thread's by now, which then answers.
    if let Err(refused) = sampler().capture(thread) {
        let gone = matches!(refused, Error::ThreadEnded | Error::NoAnswer { .. });
        assert!(gone, "{refused}");
    }
}

#[test]
fn many_ask_at_once_while_threads_come_and_go() {
    let stop = Arc::new(AtomicBool::new(false));
    let (told, ids) = channel();
    let busy = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let _ = told.send(sys::thread_id());
            let mut strings = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // What an unwinder in the handler would deadlock with: allocation, and panics that unwind.
                strings.push(format!("{:?}", std::thread::current().id()));
                strings.truncate(100);
                let _ = std::thread::spawn(|| ()).join();
                let _ = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(7)));
            }
        })
    };
    let thread = ids.recv().unwrap();
    let start = Arc::new(Barrier::new(3));
    let askers: Vec<_> = (0..3)
        .map(|_| {
            let start = Arc::clone(&start);
            std::thread::spawn(move || {
                let mut unwinder = Unwinder::new();
                start.wait();
                (0..200)
                    .filter(|_| {
                        let raw = sampler().capture(thread).expect("a stack");
                        assert!(raw.holds(raw.registers.sp));
                        unwinder.unwind(&raw).complete
                    })
                    .count()
            })
        })
        .collect();
    for asker in askers {
        // An interrupted allocator or system call without unwind tables may cut a stack short, not all of them.
        assert!(asker.join().unwrap() > 100);
    }
    stop.store(true, Ordering::Relaxed);
    busy.join().unwrap();
}

#[test]
fn names_tell_whose_a_function_is() {
    let frame = |function: Option<&str>| Frame {
        address: 1,
        function: function.map(str::to_owned),
        file: None,
        line: None,
        inlined: false,
    };
    for internal in [
        "std::thread::sleep",
        "<core::pin::Pin<P> as core::future::future::Future>::poll",
        "<&mut alloc::boxed::Box<T> as app::Trait>::call",
        "tokio::runtime::task::raw::poll",
        "clone3",
    ] {
        assert!(frame(Some(internal)).is_internal(), "{internal}");
    }
    for own in [
        "app::handler::{{closure}}",
        "<app::Reader as std::io::Read>::read",
        "<&mut app::Reader as std::io::Read>::read",
        "tokio_util::codec::decode",
        "standard::thing",
    ] {
        assert!(!frame(Some(own)).is_internal(), "{own}");
    }
    assert!(frame(None).is_internal());
    let frames: Vec<Frame> = [
        "clock_nanosleep",
        "std::thread::sleep",
        "app::inner",
        "core::ops::function::FnOnce::call_once",
        "app::outer",
        "tokio::runtime::task::raw::poll",
        "app::main",
    ]
    .map(|name| frame(Some(name)))
    .into();
    let mut stack = Stack {
        frames,
        complete: true,
    };
    assert_eq!(
        stack.to_string(),
        "std::thread::sleep\napp::inner\napp::outer"
    );
    assert_eq!(format!("{stack:#}").lines().count(), 7);
    stack.frames[4].file = Some("/home/x/.cargo/registry/src/y/app-1.0.0/lib.rs".into());
    assert_eq!(stack.to_string(), "std::thread::sleep\napp::inner");
}
