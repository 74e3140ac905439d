//! What cannot be watched is refused.

use crate::support::runtime;
use flyball_profile::Error;
use flyball_profile::watch::{Options, THRESHOLD_MAX, THRESHOLD_MIN};
use std::mem::MaybeUninit;
use std::time::Duration;

/// CPU-28: a current-thread runtime is refused, as its figures do not tell.
#[test]
fn current_thread_runtimes_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let refused = flyball_profile::watch(runtime.handle()).unwrap_err();
    assert_eq!(refused, Error::CurrentThread);
}

/// CPU-28: thresholds that tell nothing are refused.
#[test]
fn thresholds_out_of_range_are_refused() {
    let runtime = runtime(1);
    for given in [
        Duration::ZERO,
        THRESHOLD_MIN - Duration::from_nanos(1),
        THRESHOLD_MAX + Duration::from_nanos(1),
        Duration::MAX,
    ] {
        let refused = Options::new()
            .threshold(given)
            .watch(runtime.handle())
            .unwrap_err();
        assert!(matches!(refused, Error::Threshold { .. }), "{refused}");
    }
    for given in [THRESHOLD_MIN, THRESHOLD_MAX] {
        Options::new()
            .threshold(given)
            .watch(runtime.handle())
            .expect("in range");
    }
}

/// CPU-28: signals that programs need are refused, and so is one that somebody handles, whose handler stays.
#[test]
fn signals_of_others_are_refused() {
    let runtime = runtime(1);
    for signal in [0, -1, 9, libc::SIGSEGV, libc::SIGTERM, libc::SIGCHLD, 1000] {
        let refused = Options::new()
            .signal(signal)
            .watch(runtime.handle())
            .unwrap_err();
        assert_eq!(refused, Error::Signal { signal });
    }
    extern "C" fn theirs(_: libc::c_int) {}
    let handler_of = |signal| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: the call only writes the present action to memory that is valid when all zero.
        unsafe {
            libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
            action.assume_init().sa_sigaction
        }
    };
    let signal = libc::SIGUSR2;
    // SAFETY: the handler does nothing; no other test uses this signal.
    unsafe { libc::signal(signal, theirs as *const () as libc::sighandler_t) };
    let before = handler_of(signal);
    let refused = Options::new()
        .signal(signal)
        .watch(runtime.handle())
        .unwrap_err();
    assert_eq!(refused, Error::SignalInUse { signal });
    assert_eq!(handler_of(signal), before);
}

/// CPU-28: another signal does as well as the default one.
#[test]
fn another_signal_can_be_chosen() {
    let runtime = runtime(1);
    Options::new()
        .signal(libc::SIGRTMIN() + 3)
        .watch(runtime.handle())
        .expect("a real-time signal");
}
