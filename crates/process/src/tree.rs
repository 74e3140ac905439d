//! Who descends from this process, and signals to all of them.
//!
//! A keeper is a subreaper that runs one command at a time, so its descendants are the command's tree, exactly: children that
//! forked twice or called `setsid` come back to it when their parent ends. Nothing here is asked for on the path of a command that
//! ends by itself; the kernel's answer "no child" says then that the tree is empty.
//!
//! Invariant: a signal goes through a pidfd whose process was seen to descend from this one *after* the pidfd was opened, so a
//! process id that is reused meanwhile is never hit.
//!
//! Leaves out: reaping and timing (`keeper`).

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;

use crate::sys;

/// Most passes over a tree that keeps forking while it is signalled; the next turn of the keeper's loop goes on.
const PASSES_MAX: usize = 16;

/// One descendant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Member {
    pub(crate) pid: i32,
    /// As /proc tells it: `R`, `S`, `T`, `Z` ….
    pub(crate) state: u8,
}

/// All descendants of `root` that are alive, parents before children.
pub(crate) fn descendants(root: i32) -> Vec<Member> {
    let mut members = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut parents = vec![root];
    if !fs::exists(format!("/proc/{root}/task/{root}/children")).unwrap_or(false) {
        return descendants_by_scan(root);
    }
    while let Some(parent) = parents.pop() {
        for pid in children(parent) {
            let Some((state, actual)) = state_and_parent(pid) else {
                continue;
            };
            if !seen.insert(pid) || !seen.contains(&actual) {
                continue;
            }
            parents.push(pid);
            if state != b'Z' && state != b'X' {
                members.push(Member { pid, state });
            }
        }
    }
    members
}

/// Children are listed under the thread that made them.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// For kernels without children files: one scan over all processes.
fn descendants_by_scan(root: i32) -> Vec<Member> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let all: Vec<(i32, u8, i32)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| state_and_parent(pid).map(|(state, parent)| (pid, state, parent)))
        .collect();
    let mut family = vec![root];
    let mut members = Vec::new();
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        for &(pid, state, _) in all
            .iter()
            .filter(|(pid, _, of)| *of == parent && *pid != root)
        {
            if !family.contains(&pid) {
                family.push(pid);
                if state != b'Z' && state != b'X' {
                    members.push(Member { pid, state });
                }
            }
        }
        next += 1;
    }
    members
}

/// State and parent from /proc/PID/stat. The name between them may hold anything, parentheses too.
fn state_and_parent(pid: i32) -> Option<(u8, i32)> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &[u8]) -> Option<(u8, i32)> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = stat[after_name..]
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    let state = *fields.next()?.first()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    Some((state, parent))
}

/// Signals every descendant of `root`, also those that appear meanwhile; answers how many were reached.
pub(crate) fn signal(root: i32, number: i32) -> u32 {
    signal_where(root, number, |_| true)
}

/// Stops every descendant, until a pass finds none that runs; answers those that stood still already, by their own will, for job control or under a
/// debugger. The others cannot have children while they stand still, so no number of these becomes another process's below `root`.
pub(crate) fn stop(root: i32) -> HashSet<i32> {
    let mut stood = HashSet::new();
    signal_where(root, libc::SIGSTOP, |member| {
        let stands = matches!(member.state, b'T' | b't');
        if stands {
            stood.insert(member.pid);
        } else {
            // It went on between two passes.
            stood.remove(&member.pid);
        }
        !stands
    });
    stood
}

/// Lets every descendant go on that [`stop`] stopped: all but those that it found standing still.
pub(crate) fn go_on(root: i32, stood: &HashSet<i32>) {
    signal_where(root, libc::SIGCONT, |member| !stood.contains(&member.pid));
}

fn signal_where(root: i32, number: i32, mut wanted: impl FnMut(&Member) -> bool) -> u32 {
    let mut done = HashSet::new();
    for _ in 0..PASSES_MAX {
        let fresh: Vec<Member> = descendants(root)
            .into_iter()
            .filter(|member| !done.contains(&member.pid) && wanted(member))
            .collect();
        if fresh.is_empty() {
            break;
        }
        for member in fresh {
            done.insert(member.pid);
            let Ok(process) = sys::pidfd_open(member.pid) else {
                continue;
            };
            if descends(member.pid, root) {
                let _ = sys::pidfd_signal(process.as_fd(), number);
            }
        }
    }
    done.len() as u32
}

/// Whether `pid` has `root` among its ancestors now.
fn descends(pid: i32, root: i32) -> bool {
    let mut current = pid;
    // The depth of a chain of processes is bounded by the number of process ids.
    for _ in 0..1 << 16 {
        match state_and_parent(current) {
            Some((_, parent)) if parent == root => return true,
            Some((_, parent)) if parent > 1 => current = parent,
            _ => return false,
        }
    }
    false
}

/// Bytes that a process and the children it waited for read and wrote, by system calls and from and to storage. `None` where the
/// kernel does not count, or does not tell (a child that changed its user).
pub(crate) fn io_of(pid: i32) -> Option<[u64; 4]> {
    parse_io(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?)
}

fn parse_io(text: &str) -> Option<[u64; 4]> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    Some([
        field("rchar:")?,
        field("wchar:")?,
        field("read_bytes:")?,
        field("write_bytes:")?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse_the_parent() {
        assert_eq!(parse_stat(b"12 (a) R 99 (b)) T 7 12 12 0"), Some((b'T', 7)));
        assert_eq!(parse_stat(b"12 (sh"), None);
    }

    #[test]
    fn io_is_known_only_when_all_of_it_is() {
        let text = "rchar: 1\nwchar: 2\nsyscr: 9\nsyscw: 9\nread_bytes: 3\nwrite_bytes: 4\ncancelled_write_bytes: 0\n";
        assert_eq!(parse_io(text), Some([1, 2, 3, 4]));
        assert_eq!(parse_io("rchar: 1\n"), None);
    }

    #[test]
    fn both_ways_to_find_descendants_agree() {
        // Nobody else starts or ends children of this process's init: compare on a quiet subtree, ourselves.
        let me = std::process::id() as i32;
        let pids = |members: Vec<Member>| {
            members
                .into_iter()
                .map(|member| member.pid)
                .collect::<Vec<_>>()
        };
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(pids(descendants(me)).contains(&(child.id() as i32)));
        assert!(pids(descendants_by_scan(me)).contains(&(child.id() as i32)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
