//! What all processes below this one have used of the CPU.
//!
//! A process that has ended is in the figures of the one that waited for it; keepers take in what nobody else waits for, and the
//! spawn server the keepers. So the sum over all that descend from this process, and over those they have waited for, misses nothing but
//! what has ended this moment. It counts keepers and spawn server, too: they are there for the commands.
//!
//! Figures of single processes are in the kernel's clock ticks, of 10 ms as a rule.

use std::fs;

use crate::sys;
use crate::tree;

/// CPU time of all descendants of this process since it began, those that have ended included, nanoseconds. May fall by a moment's worth
/// when a process ends; whoever wants differences keeps the highest.
#[must_use]
pub fn of_descendants() -> u64 {
    let own = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let waited_for = fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|text| parse(&text))
        .map_or(0, |(_, waited_for)| waited_for);
    of_descendants_of(own).saturating_add(waited_for.saturating_mul(tick_ns()))
}

/// CPU time of all that descend from a process and of those they have waited for, nanoseconds; not its own.
pub(crate) fn of_descendants_of(root: i32) -> u64 {
    let mut ticks = 0u64;
    for member in tree::descendants(root) {
        let stat = fs::read_to_string(format!("/proc/{}/stat", member.pid)).ok();
        if let Some((itself, waited_for)) = stat.and_then(|text| parse(&text)) {
            ticks = itself.saturating_add(waited_for).saturating_add(ticks);
        }
    }
    ticks.saturating_mul(tick_ns())
}

fn tick_ns() -> u64 {
    1_000_000_000 / sys::ticks_per_second()
}

/// Ticks of a process itself, and of those it has waited for.
fn parse(text: &str) -> Option<(u64, u64)> {
    // The name may hold blanks and brackets.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || {
        fields
            .next()?
            .parse::<i64>()
            .ok()
            .map(|ticks| ticks.max(0) as u64)
    };
    let (user, system, waited_user, waited_system) = (next()?, next()?, next()?, next()?);
    Some((
        user.saturating_add(system),
        waited_user.saturating_add(waited_system),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPU-20: the line of a process is read whatever its name is, and what is none is not.
    #[test]
    fn a_line_is_read() {
        let line = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 7 -3 20 0 1 0";
        assert_eq!(parse(line), Some((120, 7)));
        for garbage in [
            "",
            "7 (a",
            "7 (a) S 1 2",
            "7 (a) S 1 7 7 0 -1 4194560 1 2 3 4 x 20 7 3",
        ] {
            assert_eq!(parse(garbage), None, "{garbage}");
        }
    }

    /// CPU-20: what a child has used is known once it has ended.
    #[test]
    fn children_are_counted() {
        let before = of_descendants();
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let ended = std::process::Command::new("sh")
            .args(["-c", script])
            .status()
            .unwrap();
        assert!(ended.success());
        assert!(of_descendants() > before);
    }
}
