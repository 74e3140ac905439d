//! What a tree of processes uses now.
//!
//! Two ways. Resident memory (`/proc/PID/statm`) costs some 5 µs a process and counts pages that processes share once for each of
//! them, so its sum is never too low. Proportional memory (`/proc/PID/smaps_rollup`) divides shared pages among those who share
//! them, which is what the tree takes from the machine, and costs forty times as much. So a bound is watched by the first and judged by
//! the second.
//!
//! Leaves out: control groups, which know better and are asked instead where there is one for each command.

use std::fs;

use super::cgroup;
use crate::sys;
use crate::tree;

/// How memory is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Count {
    /// Resident pages, shared ones for each process: quick and never too low.
    Resident,
    /// Shared pages divided among those who share them: true and dear. Resident where the kernel does not tell, as of processes
    /// that changed their user.
    Proportional,
}

/// Memory of all descendants of a process, bytes.
pub(crate) fn of_descendants(root: i32, count: Count) -> u64 {
    let page = sys::page_bytes();
    tree::descendants(root)
        .into_iter()
        .filter_map(|member| {
            let proportional = match count {
                Count::Proportional => proportional(member.pid),
                Count::Resident => None,
            };
            proportional.or_else(|| Some(resident_pages(member.pid)?.saturating_mul(page)))
        })
        .fold(0, u64::saturating_add)
}

/// How much the control groups around this process let it grow, caches not counted, as those make room; `None` when none has a bound.
#[must_use]
pub fn group_room() -> Option<u64> {
    let group = flyball_sense::control_group(&flyball_sense::Root::default(), "memory").ok()?;
    let room = |directory: &std::path::PathBuf| {
        let bound = cgroup::bound(group.version, directory)?;
        Some(bound.saturating_sub(cgroup::used(group.version, directory)?))
    };
    group.directories.iter().filter_map(room).min()
}

fn resident_pages(pid: i32) -> Option<u64> {
    parse_statm(&fs::read_to_string(format!("/proc/{pid}/statm")).ok()?)
}

fn parse_statm(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn proportional(pid: i32) -> Option<u64> {
    parse_rollup(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_rollup(text: &str) -> Option<u64> {
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))?
        .trim()
        .strip_suffix("kB")?
        .trim_end()
        .parse()
        .ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_or_unknown() {
        assert_eq!(parse_statm("1000 250 80 1 0 99 0\n"), Some(250));
        assert_eq!(parse_statm("1000"), None);
        let rollup = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  2000 kB\nPss:      1500 kB\nPss_Dirty: 9 kB\n";
        assert_eq!(parse_rollup(rollup), Some(1500 * 1024));
        for wrong in [
            "",
            "Pss: x kB\n",
            "Pss: 12\n",
            "Pss: 99999999999999999999 kB\n",
        ] {
            assert_eq!(parse_rollup(wrong), None, "{wrong:?}");
        }
    }

    /// TASK-20: memory that is touched is counted both ways.
    #[test]
    fn what_a_child_touches_is_counted() {
        let me = std::process::id() as i32;
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(of_descendants(me, Count::Resident) > 0);
        assert!(of_descendants(me, Count::Proportional) > 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
