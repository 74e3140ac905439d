//! The processor's time stamp counter as a clock.
//!
//! Reading it costs about 10 ns, a half to a fifth of the kernel's clock. It is offered only where the kernel itself
//! keeps time by it (clock source `tsc` or `kvm-clock`) and the processor says that it neither stops nor changes its
//! rate (`constant_tsc`, `nonstop_tsc`): then it runs in step on all cores. A
//! processor may execute a reading some tens of nanoseconds early, so readings of two threads can be in the wrong order
//! by that much: subtract with the saturating methods of [`Timestamp`].
//!
//! Drift: the rate is measured once, over 4 ms, against `CLOCK_MONOTONIC`; the error of that measurement (two reads
//! bracketed to some 50 ns) and the kernel's own slewing towards network time let the two clocks drift apart by up to
//! some 30 µs a second, and by 500 µs a second while the kernel slews. Differences within one clock carry the same
//! relative error, at most 0.05 %. Do not subtract a reading of one from a reading of the other when the exact length
//! matters.
//!
//! The unsafe code is the one instruction only.

#![allow(unsafe_code)]

use super::{Clock, Timestamp};

/// A clock on the time stamp counter, calibrated once a process; it has the epoch of [`OsClock`](super::OsClock).
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    /// Counter value and kernel time at calibration.
    base_ticks: u64,
    base_nanos: u64,
    /// Nanoseconds a tick, as a 32.32 fixed-point number.
    nanos_per_tick: u64,
}

impl TscClock {
    /// Returns the clock, or `None` where the counter cannot be trusted. The first call calibrates it (4 ms) and may
    /// read two files; later calls are a load.
    pub fn get() -> Option<Self> {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        {
            static CLOCK: std::sync::OnceLock<Option<TscClock>> = std::sync::OnceLock::new();
            *CLOCK.get_or_init(|| {
                if machine::is_trustworthy() {
                    machine::calibrate()
                } else {
                    None
                }
            })
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        {
            None
        }
    }

    /// Converts a counter value; a value before the calibration counts as the calibration itself.
    #[inline]
    fn at(&self, ticks: u64) -> Timestamp {
        let elapsed = ticks.saturating_sub(self.base_ticks);
        let nanos = ((u128::from(elapsed) * u128::from(self.nanos_per_tick)) >> 32) as u64;
        Timestamp::from_nanos(self.base_nanos.saturating_add(nanos))
    }
}

impl Clock for TscClock {
    #[inline]
    fn now(&self) -> Timestamp {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        {
            self.at(machine::ticks())
        }
        // A value exists only where `get` answered one, which it never does here; the kernel's clock is a true answer.
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        {
            let _ = self.at(0);
            super::OsClock.now()
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod machine {
    use core::arch::x86_64::_rdtsc;

    use super::TscClock;
    use crate::time::{Clock, OsClock};

    /// Long enough that a bracket of 50 ns at each end is an error of some 25 parts in a million; short enough for the
    /// start of a command.
    const CALIBRATION_NS: u64 = 4_000_000;
    /// Readings at each end, of which the one with the tightest bracket counts.
    const READINGS: u32 = 16;

    /// Reads the counter. There is no fence before it: one would more than double the cost (from 10 to 22 ns), to order
    /// the reading against others within some tens of nanoseconds.
    #[inline]
    pub(super) fn ticks() -> u64 {
        // SAFETY: every x86_64 processor has the instruction; it touches no memory.
        unsafe { _rdtsc() }
    }

    /// Says whether the kernel and the processor vouch for the counter.
    pub(super) fn is_trustworthy() -> bool {
        let source = std::fs::read_to_string(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        );
        let kernel_uses_it = source.is_ok_and(|name| matches!(name.trim(), "tsc" | "kvm-clock"));
        kernel_uses_it && flags().is_some_and(|flags| vouches(&flags))
    }

    /// Returns the flags of the first processor.
    fn flags() -> Option<String> {
        use std::io::BufRead;
        let file = std::fs::File::open("/proc/cpuinfo").ok()?;
        let lines = std::io::BufReader::new(file).lines().map_while(Result::ok);
        lines.take(64).find(|line| line.starts_with("flags"))
    }

    pub(super) fn vouches(flags: &str) -> bool {
        let has = |wanted| flags.split_ascii_whitespace().any(|flag| flag == wanted);
        has("constant_tsc") && has("nonstop_tsc")
    }

    /// Measures the rate of the counter against the kernel's clock; `None` if the counter did not move as it should.
    pub(super) fn calibrate() -> Option<TscClock> {
        let (base_ticks, base_nanos) = reading();
        while OsClock.now().as_nanos() < base_nanos + CALIBRATION_NS {
            core::hint::spin_loop();
        }
        let (end_ticks, end_nanos) = reading();
        let ticks = end_ticks
            .checked_sub(base_ticks)
            .filter(|ticks| *ticks > 0)?;
        let rate = (u128::from(end_nanos - base_nanos) << 32) / u128::from(ticks);
        // 100 MHz to 100 GHz: anything else is not a time stamp counter of this century.
        let plausible = (1u128 << 32) / 100..=(1u128 << 32) * 10;
        plausible.contains(&rate).then_some(TscClock {
            base_ticks,
            base_nanos,
            nanos_per_tick: rate as u64,
        })
    }

    /// Returns a counter value and the kernel's time at the same moment, from the tightest of several brackets.
    fn reading() -> (u64, u64) {
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..READINGS {
            let before = ticks();
            let nanos = OsClock.now().as_nanos();
            let width = ticks().saturating_sub(before);
            if width < best.0 {
                best = (width, before + width / 2, nanos);
            }
        }
        (best.1, best.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds_without_overflow() {
        // 2 GHz: half a nanosecond a tick.
        let clock = TscClock {
            base_ticks: 1_000,
            base_nanos: 500,
            nanos_per_tick: 1 << 31,
        };
        assert_eq!(clock.at(1_000).as_nanos(), 500);
        assert_eq!(clock.at(3_000).as_nanos(), 1_500);
        assert_eq!(clock.at(10).as_nanos(), 500, "before the calibration");
        let century_ticks = 2_000_000_000u64 * 3600 * 24 * 365 * 100;
        assert_eq!(
            clock.at(1_000 + century_ticks).as_nanos(),
            500 + century_ticks / 2
        );
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn a_counter_needs_both_flags() {
        assert!(machine::vouches(
            "flags\t: fpu constant_tsc rep_good nonstop_tsc cpuid"
        ));
        assert!(!machine::vouches(
            "flags\t: fpu constant_tsc rep_good cpuid"
        ));
        assert!(!machine::vouches(
            "flags\t: fpu nonstop_tsc constant_tsc_not"
        ));
    }
}
