//! Pausing a thread from outside: a word that says whether it may run, a signal that makes it look, and a timer of its own.
//!
//! A named unsafe module: all system calls about guests are here. The word has three values:
//!
//! | word | meaning |
//! |---|---|
//! | `FREE` | it runs, nobody stands in for it |
//! | `LEASED` | it runs until its timer's signal; its stand-in sleeps on the word |
//! | `PAUSED` | at its next signal, or already, it sleeps on the word |
//!
//! The handler runs on the guest. It turns `LEASED` into `PAUSED` (the lease is over) and wakes the stand-in; then, while the word
//! says `PAUSED`, it sleeps, for at most [`PAUSE_MAX`] at a time, after which it lets the thread run for [`BREATH`] and has the timer
//! call it again. A signal that comes for no reason ends a lease early, which costs a scheduling decision and nothing else.
//!
//! **Async-signal safety.** The handler reads a thread-local pointer that has neither initialiser nor destructor and was touched
//! before the first signal, does atomic operations, and makes three system calls (`futex`, `timer_settime`); it keeps `errno`.
//!
//! **Which signal.** `SIGVTALRM`, else `SIGURG`: whichever the program does not handle when the first guest is made, and that one for
//! the life of the process. Nobody sends the first but `setitimer(ITIMER_VIRTUAL)`, and the second is sent by the kernel only for
//! out-of-band data to those who asked; debuggers pass both on, the C library uses neither. The second comes second because
//! others choose it for the same good reasons: Go's runtime, and flyball's own `watch`. If the program handles both, or takes the
//! chosen one later, guests are not paused.
//!
//! The handler restarts system calls (`SA_RESTART`); those that the kernel never restarts (`poll`, `epoll_wait`, `select`) may
//! answer `EINTR` inside rayon jobs. It uses the alternate stack, if the thread has one.
//!
//! **No stray victims.** Signals go to a thread of this process only (`tgkill`), and only while the guest is known to live. Should an
//! id be used again all the same, the handler finds no lease on that thread and returns.

use crate::os::Unavailable;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::*};
use std::time::Duration;

pub(crate) const FREE: u32 = 0;
pub(crate) const LEASED: u32 = 1;
pub(crate) const PAUSED: u32 = 2;

/// The longest a guest is kept from running at a stretch: a tick of the supervisor.
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(10);
/// How long it runs then, a hundredth of that: longer than any allocator holds a lock.
pub(crate) const BREATH: Duration = Duration::from_micros(100);

/// Says whether a guest may run.
pub(crate) struct Gate {
    word: AtomicU32,
    /// The kernel's number of the guest's timer; [`NO_TIMER`] without one.
    timer: AtomicI32,
}

const NO_TIMER: i32 = -1;

thread_local! {
    /// The gate of this thread, if it is a guest.
    static GATE: Cell<*const Gate> = const { Cell::new(std::ptr::null()) };
}

impl Gate {
    pub(crate) fn new() -> Self {
        Gate {
            word: AtomicU32::new(FREE),
            timer: AtomicI32::new(NO_TIMER),
        }
    }

    pub(crate) fn state(&self) -> u32 {
        self.word.load(SeqCst)
    }

    /// Moves from one state to another, if it is in it, and wakes who sleeps on the word.
    pub(crate) fn change(&self, from: u32, to: u32) -> bool {
        let changed = self.word.compare_exchange(from, to, SeqCst, SeqCst).is_ok();
        if changed {
            imp::wake(&self.word);
        }
        changed
    }

    /// Lets the guest run until its timer's signal.
    pub(crate) fn lease(&self) {
        if self.word.swap(LEASED, SeqCst) == PAUSED {
            imp::wake(&self.word);
        }
    }

    /// Lets the guest run without end.
    pub(crate) fn set_free(&self) {
        if self.word.swap(FREE, SeqCst) != FREE {
            imp::wake(&self.word);
        }
    }

    /// Sleeps while the lease lasts, for at most `timeout`.
    pub(crate) fn await_end_of_lease(&self, timeout: Duration) {
        imp::wait(&self.word, LEASED, timeout);
    }

    /// Arms the guest's timer. The guest lives.
    pub(crate) fn arm(&self, after: Duration) {
        if works() {
            imp::arm(self.timer.load(Relaxed), after);
        }
    }

    /// What the handler does.
    fn obey(&self) {
        self.change(LEASED, PAUSED);
        while self.state() == PAUSED {
            let timed_out = imp::wait(&self.word, PAUSED, PAUSE_MAX);
            if timed_out && self.state() == PAUSED {
                self.arm(BREATH);
                return;
            }
        }
    }
}

/// The calling thread as one that can be paused; no longer so when this is dropped.
pub(crate) struct Pausable<'a>(&'a Gate);

impl<'a> Pausable<'a> {
    /// Lets the calling thread be paused by `gate`, if threads can be. Without a timer leases end when the stand-in says so, and pauses with a tick.
    pub(crate) fn enter(gate: &'a Gate) -> (Self, Result<(), Unavailable>) {
        GATE.set(gate);
        let signal = SIGNAL.load(SeqCst);
        let made = if signal > NONE {
            imp::new_timer(signal).map(|timer| gate.timer.store(timer, Relaxed))
        } else {
            Ok(()) // said by `install`
        };
        (Pausable(gate), made)
    }
}

impl Drop for Pausable<'_> {
    fn drop(&mut self) {
        GATE.set(std::ptr::null());
        let timer = self.0.timer.swap(NO_TIMER, Relaxed);
        imp::delete_timer(timer);
    }
}

/// The signal that is handled here; [`NONE`] before that is known, [`LOST`] when somebody else has taken it since: then nothing
/// here sends it any more.
static SIGNAL: AtomicI32 = AtomicI32::new(NONE);
const NONE: i32 = 0;
const LOST: i32 = -1;

/// Puts the handler in place, once a process.
///
/// # Errors
/// [`Unavailable`] where the program handles the signals itself, or the platform is not Linux.
pub(crate) fn install() -> Result<(), Unavailable> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    match SIGNAL.load(SeqCst) {
        NONE => SIGNAL.store(imp::install()?, SeqCst),
        LOST => return Err(taken()),
        _ => {}
    }
    Ok(())
}

/// Looks whether the handler is still in place.
///
/// # Errors
/// [`Unavailable`] when it is not.
pub(crate) fn check() -> Result<(), Unavailable> {
    match SIGNAL.load(SeqCst) {
        signal if signal > NONE && imp::is_ours(signal) => Ok(()),
        NONE => Err(taken()),
        _ => {
            SIGNAL.store(LOST, SeqCst);
            Err(taken())
        }
    }
}

fn taken() -> Unavailable {
    Unavailable::new(
        "pausing rayon's threads",
        "the program handles SIGVTALRM and SIGURG itself; they are charged, not paused",
    )
}

/// True while threads can be paused.
pub(crate) fn works() -> bool {
    SIGNAL.load(Relaxed) > NONE
}

/// Makes a thread of this process look at its gate.
pub(crate) fn send(thread: u32) {
    if works() {
        imp::send(thread, SIGNAL.load(Relaxed));
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use super::{GATE, NO_TIMER};
    use crate::os::Unavailable;
    use std::mem;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    const WHAT: &str = "pausing rayon's threads";
    /// In the order in which they are tried.
    const SIGNALS: [libc::c_int; 2] = [libc::SIGVTALRM, libc::SIGURG];

    extern "C" fn on_signal(_: libc::c_int) {
        let gate = GATE.get();
        // SAFETY: set while the gate lives, on this thread only; null on threads that are no guests.
        let Some(gate) = (unsafe { gate.as_ref() }) else {
            return;
        };
        // SAFETY: the address of this thread's errno, always valid.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        let kept = unsafe { *errno };
        gate.obey();
        // SAFETY: as above.
        unsafe { *errno = kept };
    }

    fn handler() -> libc::sighandler_t {
        on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t
    }

    fn present(signal: libc::c_int) -> Option<libc::sighandler_t> {
        // SAFETY: a plain C struct for which all zeroes is a value.
        let mut old: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: `old` is writable and lives through the call; nothing is changed.
        let status = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut old) };
        (status == 0).then_some(old.sa_sigaction)
    }

    /// Handles the first signal that nobody handles; returns which.
    pub(super) fn install() -> Result<i32, Unavailable> {
        let is_free =
            |&signal: &i32| matches!(present(signal), Some(libc::SIG_DFL | libc::SIG_IGN));
        let signal = SIGNALS.into_iter().find(is_free).ok_or_else(super::taken)?;
        // SAFETY: a plain C struct for which all zeroes is a value: no flags, an empty mask.
        let mut new: libc::sigaction = unsafe { mem::zeroed() };
        new.sa_sigaction = handler();
        new.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: the handler is a function of the right type that lives as long as the program, and async-signal-safe (see the
        // top of the module).
        let status = unsafe { libc::sigaction(signal, &raw const new, std::ptr::null_mut()) };
        if status == 0 {
            Ok(signal)
        } else {
            Err(last_error())
        }
    }

    pub(super) fn is_ours(signal: libc::c_int) -> bool {
        present(signal) == Some(handler())
    }

    fn last_error() -> Unavailable {
        Unavailable::new(WHAT, std::io::Error::last_os_error().to_string())
    }

    /// The creator of the thread may have blocked the signal.
    fn unblock(signal: libc::c_int) -> Result<(), Unavailable> {
        // SAFETY: a plain C struct for which all zeroes is a value.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is writable and lives through the calls, of which the last only reads it.
        let status = unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
        };
        if status == 0 {
            Ok(())
        } else {
            Err(last_error())
        }
    }

    /// A timer whose signal goes to the calling thread; the kernel's number for it.
    pub(super) fn new_timer(signal: libc::c_int) -> Result<i32, Unavailable> {
        unblock(signal)?;
        // SAFETY: takes nothing and always succeeds.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        // SAFETY: a plain C struct for which all zeroes is a value.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = thread as libc::c_int;
        let mut timer: libc::c_int = NO_TIMER;
        // SAFETY: both pointers are valid through the call. The system call is made directly, as the C library's number of a
        // timer is a pointer, which a handler cannot keep in an integer of known meaning.
        let status = unsafe {
            libc::syscall(
                libc::SYS_timer_create,
                libc::CLOCK_MONOTONIC,
                &raw mut event,
                &raw mut timer,
            )
        };
        if status == 0 {
            Ok(timer)
        } else {
            Err(last_error())
        }
    }

    pub(super) fn arm(timer: i32, after: Duration) {
        if timer == NO_TIMER {
            return;
        }
        // SAFETY: a plain C struct for which all zeroes is a value.
        let mut when: libc::itimerspec = unsafe { mem::zeroed() };
        when.it_value = timespec(after);
        // SAFETY: `when` lives through the call, which only reads it; a number that is no timer is refused.
        unsafe {
            libc::syscall(
                libc::SYS_timer_settime,
                timer,
                0,
                &raw const when,
                std::ptr::null_mut::<libc::itimerspec>(),
            );
        }
    }

    pub(super) fn delete_timer(timer: i32) {
        if timer != NO_TIMER {
            // SAFETY: takes a number only; it was made by `new_timer` and is deleted once.
            unsafe { libc::syscall(libc::SYS_timer_delete, timer) };
        }
    }

    pub(super) fn send(thread: u32, signal: libc::c_int) {
        // SAFETY: takes numbers only; a thread that is not of this process gets nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
    }

    fn timespec(time: Duration) -> libc::timespec {
        libc::timespec {
            tv_sec: time.as_secs() as libc::time_t,
            tv_nsec: time.subsec_nanos() as libc::c_long,
        }
    }

    /// Sleeps while the word has the value; true when the time was over.
    pub(super) fn wait(word: &AtomicU32, value: u32, timeout: Duration) -> bool {
        let timeout = timespec(timeout);
        // SAFETY: word and timeout live through the call, which only reads them.
        let status = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                value,
                &raw const timeout,
            )
        };
        // SAFETY: the address of this thread's errno, always valid.
        status == -1 && unsafe { *libc::__errno_location() } == libc::ETIMEDOUT
    }

    pub(super) fn wake(word: &AtomicU32) {
        // SAFETY: the word's address serves as a name only.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                libc::c_int::MAX,
            );
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use crate::os::Unavailable;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    fn platform() -> Unavailable {
        Unavailable::new("pausing rayon's threads", "this platform is not Linux")
    }

    pub(super) fn install() -> Result<i32, Unavailable> {
        Err(platform())
    }

    pub(super) fn is_ours(_signal: i32) -> bool {
        false
    }

    pub(super) fn new_timer(_signal: i32) -> Result<i32, Unavailable> {
        Err(platform())
    }

    pub(super) fn arm(_timer: i32, _after: Duration) {}

    pub(super) fn delete_timer(_timer: i32) {}

    pub(super) fn send(_thread: u32, _signal: i32) {}

    /// There are no stand-ins without thread clocks, so nobody waits for the end of a lease.
    pub(super) fn wait(_word: &AtomicU32, _value: u32, timeout: Duration) -> bool {
        std::thread::park_timeout(timeout);
        true
    }

    pub(super) fn wake(_word: &AtomicU32) {}
}
