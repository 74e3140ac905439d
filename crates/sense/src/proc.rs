//! The texts of `/proc`: `stat`, `loadavg`, `meminfo`, `pressure/*` and `self/statm`, parsed.
//!
//! Strict where a mistake would make a figure that looks real: too few fields, a number that is none, a line that was cut
//! off make the reading an error. Fields that later kernels add at the end are passed over.

use crate::bytes::{
    line, lines, lines_from_the_end, take_decimal, take_line, take_number, take_word,
};
use crate::error::Error;
use crate::sample::{CoreTimes, CpuTimes, Load, Memory, Pressure, Stall};

/// A hundredth of a second: the unit in which Linux tells CPU times to programs (`USER_HZ`) on every platform that Rust has
/// for it.
const TICK_NS: u64 = 10_000_000;

/// What one look at `/proc/stat` told.
pub(crate) struct Stat {
    pub(crate) cpu: Result<CpuTimes, Error>,
    /// Whether the list of cores is to be believed.
    pub(crate) cores: Result<(), Error>,
    pub(crate) context_switches: Result<u64, Error>,
}

fn cpu_times(mut rest: &[u8]) -> Option<CpuTimes> {
    let mut next = || take_number(&mut rest)?.checked_mul(TICK_NS);
    Some(CpuTimes {
        user_ns: next()?,
        nice_ns: next()?,
        system_ns: next()?,
        idle_ns: next()?,
        iowait_ns: next()?,
        irq_ns: next()?,
        softirq_ns: next()?,
        steal_ns: next()?,
    })
}

fn core_times(line: &[u8]) -> Option<CoreTimes> {
    let mut rest = line.strip_prefix(b"cpu")?;
    // A blank would belong to the sum of all CPUs.
    if !rest.first()?.is_ascii_digit() {
        return None;
    }
    Some(CoreTimes {
        cpu: take_number(&mut rest)?.try_into().ok()?,
        times: cpu_times(rest)?,
    })
}

/// Parses `/proc/stat`. `cores` is cleared and filled; it is empty when they cannot be believed.
pub(crate) fn stat(text: &[u8], cores: &mut Vec<CoreTimes>) -> Stat {
    cores.clear();
    let mut cpu = Err(Error::Malformed("has no line `cpu` with eight numbers"));
    let mut odd_core = None;
    let mut rest = text;
    // The line of interrupts that follows may be very long, so it is not even split off.
    while rest.starts_with(b"cpu") {
        let Some(line) = take_line(&mut rest) else {
            break;
        };
        if let Some(sum) = line.strip_prefix(b"cpu ") {
            if let Some(times) = cpu_times(sum) {
                cpu = Ok(times);
            }
            continue;
        }
        match core_times(line) {
            Some(core) if cores.last().is_none_or(|last| last.cpu < core.cpu) => cores.push(core),
            Some(_) => odd_core = Some("lists its CPUs out of order"),
            None => odd_core = Some("has a CPU without eight numbers"),
        }
    }
    // A text that ends here, or in the middle of such a line, was cut off and might lack CPUs.
    if !rest.starts_with(b"intr") {
        odd_core = Some("does not go on with interrupts after its CPUs");
    } else if cores.is_empty() {
        odd_core = odd_core.or(Some("lists no CPU"));
    }
    let cores = match odd_core {
        Some(reason) => {
            cores.clear();
            Err(Error::Malformed(reason))
        }
        None => Ok(()),
    };
    // For the same reason the search for this one begins at the end.
    let context_switches = lines_from_the_end(text)
        .take_while(|line| !line.starts_with(b"intr"))
        .find_map(|line| {
            let mut rest = line.strip_prefix(b"ctxt ")?;
            take_number(&mut rest)
        })
        .ok_or(Error::Malformed("has no line `ctxt` with a number"));
    Stat {
        cpu,
        cores,
        context_switches,
    }
}

/// Parses `/proc/loadavg`, such as `0.20 0.18 0.12 1/80 11206`.
pub(crate) fn load(text: &[u8]) -> Result<Load, Error> {
    let parse = || {
        let mut rest = line(text)?;
        let (one, five, fifteen) = (
            take_decimal(&mut rest)?,
            take_decimal(&mut rest)?,
            take_decimal(&mut rest)?,
        );
        rest = rest.strip_prefix(b" ")?;
        let slash = rest.iter().position(|&byte| byte == b'/')?;
        let (mut runnable, mut threads) = (&rest[..slash], &rest[slash + 1..]);
        Some(Load {
            one,
            five,
            fifteen,
            runnable: take_number(&mut runnable)?,
            threads: take_number(&mut threads)?,
        })
    };
    parse().ok_or(Error::Malformed("is not a line of load averages"))
}

/// Parses `/proc/meminfo`.
pub(crate) fn memory(text: &[u8]) -> Result<Memory, Error> {
    // In the order in which the kernel prints them, so that one pass finds all; lines between are passed over.
    const KEYS: [&[u8]; 9] = [
        b"MemTotal:",
        b"MemFree:",
        b"MemAvailable:",
        b"Buffers:",
        b"Cached:",
        b"SwapTotal:",
        b"SwapFree:",
        b"Dirty:",
        b"Shmem:",
    ];
    let mut bytes = [0; KEYS.len()];
    let mut found = 0;
    for line in lines(text) {
        let Some(mut rest) = KEYS.get(found).and_then(|key| line.strip_prefix(*key)) else {
            continue;
        };
        let value = take_number(&mut rest).and_then(|kib| kib.checked_mul(1024));
        match (value, rest) {
            (Some(value), b" kB") => bytes[found] = value,
            _ => return Err(Error::Malformed("has a line that is not a number of kB")),
        }
        found += 1;
        if found == KEYS.len() {
            break;
        }
    }
    if found < KEYS.len() {
        return Err(Error::Malformed("lacks a line that every kernel has"));
    }
    let [
        total_bytes,
        free_bytes,
        available_bytes,
        buffers_bytes,
        cached_bytes,
        swap_total_bytes,
        swap_free_bytes,
        dirty_bytes,
        shared_bytes,
    ] = bytes;
    Ok(Memory {
        total_bytes,
        available_bytes,
        free_bytes,
        buffers_bytes,
        cached_bytes,
        shared_bytes,
        swap_total_bytes,
        swap_free_bytes,
        dirty_bytes,
    })
}

fn stall(mut rest: &[u8]) -> Option<Stall> {
    let mut average = |key: &[u8]| {
        take_word(&mut rest, key)?;
        take_decimal(&mut rest).filter(|percent| *percent <= 100.0)
    };
    let (avg10, avg60, avg300) = (
        average(b"avg10=")?,
        average(b"avg60=")?,
        average(b"avg300=")?,
    );
    take_word(&mut rest, b"total=")?;
    Some(Stall {
        avg10,
        avg60,
        avg300,
        total_ns: take_number(&mut rest)?.checked_mul(1000)?,
    })
}

/// Parses a file of `/proc/pressure`.
pub(crate) fn pressure(text: &[u8]) -> Result<Pressure, Error> {
    let find = |kind: &[u8]| lines(text).find_map(|line| line.strip_prefix(kind));
    let some = find(b"some ").and_then(stall);
    let full = match find(b"full ") {
        // A line that is there must be right.
        Some(line) => Some(stall(line).ok_or(Error::Malformed("has an odd line `full`"))?),
        None => None,
    };
    let some = some.ok_or(Error::Malformed("has no line `some` of four figures"))?;
    Ok(Pressure { some, full })
}

/// Parses `/proc/self/statm`: pages mapped and pages resident.
pub(crate) fn statm(text: &[u8]) -> Result<(u64, u64), Error> {
    let parse = || {
        let mut rest = line(text)?;
        Some((take_number(&mut rest)?, take_number(&mut rest)?))
    };
    parse().ok_or(Error::Malformed("is not a line of page counts"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &[u8]) -> usize {
        let mut cores = Vec::new();
        let stat = stat(text, &mut cores);
        assert_eq!(stat.cores.is_ok(), !cores.is_empty());
        [
            stat.cpu.is_ok(),
            stat.cores.is_ok(),
            stat.context_switches.is_ok(),
            load(text).is_ok(),
            memory(text).is_ok(),
            pressure(text).is_ok(),
            statm(text).is_ok(),
        ]
        .into_iter()
        .filter(|known| *known)
        .count()
    }

    #[test]
    fn odd_texts_are_refused() {
        let refused = |text: &str| all(text.as_bytes()) == 0;
        for text in [
            "",
            // Not enough kinds of time.
            "cpu  1 2 3 4 5 6 7\ncpu0 1 2 3 4 5 6 7\nintr 1\n",
            // CPUs out of order, twice, with a number that needs more than 32 bits.
            "cpu1 1 1 1 1 1 1 1 1\ncpu0 1 1 1 1 1 1 1 1\nintr 1\n",
            "cpu1 1 1 1 1 1 1 1 1\ncpu1 1 1 1 1 1 1 1 1\nintr 1\n",
            "cpu4294967296 1 1 1 1 1 1 1 1\nintr 1\n",
            // Ticks that need more than 64 bits as nanoseconds.
            "cpu  1844674407371 1 1 1 1 1 1 1\nintr 1\n",
            "0.1 0.2 0.3 4 5\n",
            "0.1 0.2 0.3 4/x 5\n",
            "0.1 0.2 -0.3 4/5 6\n",
            // kB, or whatever it is.
            "MemTotal:       24684096 MB\n",
            "MemTotal:       24684096\n",
            "some avg10=100.01 avg60=1.00 avg300=1.00 total=1\n",
            "some avg10=1.00 avg60=1.00 total=1\n",
            "some avg10=1.00 avg60=1.00 avg300=1.00 total=18446744073709551615\n",
            "some avg10=1.00 avg60=1.00 avg300=1.00 total=1\nfull avg10=x\n",
        ] {
            assert!(refused(text), "{text}");
        }
        assert!(statm(b"1\n").is_err());
        // More kinds of time and more fields than today are fine.
        assert_eq!(
            all(b"cpu  1 1 1 1 1 1 1 1 1 1 1 1\ncpu0 1 1 1 1 1 1 1 1 1 1 1\nintr 1\nctxt 7\n"),
            3
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(
            text in prop::collection::vec(any::<u8>(), 0..200),
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "cpu", "cpu0", " ", "\n", "1", "18446744073709551615", "intr", "ctxt", "some ", "full ",
                    "avg10=", "avg60=", "avg300=", "total=", ".", "/", "-", "MemTotal:", " kB", "0.00",
                ]),
                0..60,
            ),
        ) {
            all(&text);
            all(pieces.concat().as_bytes());
        }
    }
}
