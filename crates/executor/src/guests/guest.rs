//! One thread of a class's rayon pool, as the executor sees it from outside.

use super::signal::{self, FREE, Gate, LEASED, PAUSED, Pausable};
use crate::os::{self, ThreadClock, Unavailable};
use crate::spine::ClassSlot;
use std::cell::Cell;
use std::fs::File;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::time::Duration;

pub(crate) struct Guest {
    pub(crate) slot: &'static ClassSlot,
    gate: Gate,
    /// Who signals the thread, reads its clock or arms its timer is counted in `users` meanwhile, and finds `leaving` unset;
    /// the thread sets that and ends when nobody is counted. So an id is never used after its thread's end. Nothing here waits
    /// for a lock that a paused guest may hold.
    thread: OnceLock<Thread>,
    users: AtomicUsize,
    leaving: AtomicBool,
    /// Its thread has done all it had to.
    gone: AtomicBool,
    /// A stand-in exists: queued, or on a worker.
    pub(super) stand_in: AtomicBool,
    /// When the stand-in was asked for, ns; 0 while there is none.
    pub(super) busy_since: AtomicU64,
    /// CPU time that has been charged, ns.
    charged: AtomicU64,
    /// What the clock showed when the stand-in was asked for, ns.
    seen: AtomicU64,
}

struct Thread {
    id: u32,
    clock: ThreadClock,
    /// `/proc/self/task/ID/stat`: bound to the thread, whatever becomes of its id.
    stat: Option<File>,
}

thread_local! {
    /// The guest that this thread is.
    static GUEST: Cell<*const Guest> = const { Cell::new(std::ptr::null()) };
}

/// Calls `f` with the guest that the calling thread is, if it is one.
pub(super) fn current<R>(f: impl FnOnce(&Guest) -> R) -> Option<R> {
    // SAFETY: set by `Guest::live` for as long as it borrows the guest, on this thread only; `f` runs inside that time.
    unsafe { GUEST.get().as_ref() }.map(f)
}

impl Guest {
    pub(super) fn new(slot: &'static ClassSlot) -> Self {
        Guest {
            slot,
            gate: Gate::new(),
            thread: OnceLock::new(),
            users: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            stand_in: AtomicBool::new(false),
            busy_since: AtomicU64::new(0),
            charged: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        }
    }

    /// Makes the calling thread this guest while `life` runs; what cannot be had is told to `report`.
    pub(super) fn live(&self, report: impl Fn(Unavailable), life: impl FnOnce()) {
        /// Takes the thread out before it ends, also when `life` panics.
        struct Leave<'a>(
            &'a Guest,
            #[allow(dead_code, reason = "dropped")] Pausable<'a>,
        );
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.leaving.store(true, SeqCst);
                // Workers and the supervisor, for some microseconds.
                while self.0.users.load(SeqCst) != 0 {
                    std::thread::yield_now();
                }
                GUEST.set(std::ptr::null());
            }
        }
        GUEST.set(self);
        let (pausable, made) = Pausable::enter(&self.gate);
        let _leave = Leave(self, pausable);
        if let Err(unavailable) = made {
            report(unavailable);
        }
        let known = os::thread_id().and_then(|id| {
            Ok(Thread {
                id,
                clock: ThreadClock::of_current_thread()?,
                stat: File::open(format!("/proc/self/task/{id}/stat")).ok(),
            })
        });
        match known {
            Ok(thread) => {
                // What it took to start is nobody's.
                let begun = thread.clock.read().unwrap_or(0);
                self.charged.store(begun, SeqCst);
                self.seen.store(begun, SeqCst);
                let _ = self.thread.set(thread);
            }
            Err(unavailable) => report(unavailable),
        }
        life();
    }

    /// Notes that its thread has done all it had to.
    pub(super) fn note_gone(&self) {
        self.gone.store(true, SeqCst);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(SeqCst)
    }

    /// Calls `f` with the thread, unless it has not begun or is about to end.
    fn with_thread<R>(&self, f: impl FnOnce(&Thread) -> R) -> Option<R> {
        self.users.fetch_add(1, SeqCst);
        let thread = self.thread.get().filter(|_| !self.leaving.load(SeqCst));
        let answer = thread.map(f);
        self.users.fetch_sub(1, SeqCst);
        answer
    }

    /// CPU time by its thread's clock, ns; None before it has started and once it has ended.
    pub(super) fn cpu(&self) -> Option<u64> {
        self.with_thread(|thread| thread.clock.read()).flatten()
    }

    /// CPU time that has not been charged, ns.
    pub(super) fn uncharged(&self) -> u64 {
        self.cpu()
            .map_or(0, |cpu| cpu.saturating_sub(self.charged.load(SeqCst)))
    }

    /// Takes what has not been charged, ns.
    pub(super) fn take_uncharged(&self) -> u64 {
        let Some(cpu) = self.cpu() else {
            return 0;
        };
        cpu.saturating_sub(self.charged.fetch_max(cpu, SeqCst))
    }

    pub(super) fn note_seen(&self) {
        self.seen.store(self.cpu().unwrap_or(0), SeqCst);
    }

    /// True when it runs, or has, since a stand-in was asked for, or waits for leave to.
    pub(super) fn wants_to_run(&self) -> bool {
        self.gate.state() == PAUSED
            || self.cpu().is_some_and(|cpu| cpu != self.seen.load(SeqCst))
            || self.is_runnable()
    }

    /// True when the kernel runs it or would; read from its state, some 5 µs.
    pub(super) fn is_runnable(&self) -> bool {
        self.with_thread(|thread| thread.stat.as_ref().is_some_and(says_running))
            .unwrap_or(false)
    }

    /// Lets it run for `time`.
    pub(super) fn lease(&self, time: Duration) {
        self.with_thread(|_| self.gate.arm(time));
        self.gate.lease();
    }

    /// Sleeps while its lease lasts, at most `timeout`; true when the lease is over.
    pub(super) fn await_end_of_lease(&self, timeout: Duration) -> bool {
        self.gate.await_end_of_lease(timeout);
        self.gate.state() != LEASED
    }

    /// Keeps it from running, soon.
    pub(super) fn pause(&self) {
        if self.must_pause() {
            self.nudge();
        }
    }

    /// Says that it must not run, without making it look; false where guests cannot be paused, or it is already.
    pub(super) fn must_pause(&self) -> bool {
        signal::works() && (self.gate.change(FREE, PAUSED) || self.gate.change(LEASED, PAUSED))
    }

    /// Makes it look whether it may run, unless it has been let run meanwhile.
    pub(super) fn nudge(&self) {
        self.with_thread(|thread| {
            if self.gate.state() == PAUSED {
                self.gate.arm(Duration::ZERO);
                signal::send(thread.id);
            }
        });
    }

    /// Pauses it anew if it runs though it should not: without a timer, a breath ends only so.
    pub(super) fn hold(&self) {
        if self.gate.state() == PAUSED && self.is_runnable() {
            self.nudge();
        }
    }

    /// Lets it run without end.
    pub(super) fn set_free(&self) {
        self.with_thread(|_| self.gate.arm(Duration::ZERO));
        self.gate.set_free();
    }

    /// The stand-in is gone, and nothing holds the guest up.
    pub(super) fn rest(&self) {
        self.set_free();
        self.busy_since.store(0, Relaxed);
        self.stand_in.store(false, SeqCst);
    }
}

/// Reads the state letter of a `/proc/…/stat`: it follows the name, which stands in parentheses and may hold any character.
fn says_running(stat: &File) -> bool {
    let mut text = [0u8; 128];
    let Ok(length) = std::os::unix::fs::FileExt::read_at(stat, &mut text, 0) else {
        return false;
    };
    let text = &text[..length];
    text.iter()
        .rposition(|&byte| byte == b')')
        .is_some_and(|end| text[end..].get(2) == Some(&b'R'))
}
