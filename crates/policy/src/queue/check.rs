//! Whether what the machine keeps in more than one place agrees: for tests.

use alloc::collections::BTreeMap;

use flyball_core::time::WallTime;

use super::Queue;
use super::entry::{LINED, NONE, ended_index, state_index};
use super::task::State;

impl Queue {
    /// Counts everything anew and compares. Looks at every task.
    ///
    /// # Panics
    /// If anything does not agree: a bug of the machine.
    pub fn check(&self) {
        let mut by_state = [0u64; 10];
        let mut by_class: BTreeMap<u32, [u64; 10]> = BTreeMap::new();
        let mut running: BTreeMap<u32, u32> = BTreeMap::new();
        let mut in_line: BTreeMap<u32, u32> = BTreeMap::new();
        let mut groups: BTreeMap<u32, (u64, [u64; 5])> = BTreeMap::new();
        let (mut leases, mut backoffs, mut waits, mut ended) = (0, 0, 0, 0);
        for (slot, entry) in self.tasks.iter() {
            assert_eq!(self.index.get(entry.id), Some(slot), "the index finds it");
            by_state[state_index(entry.state)] += 1;
            let lane = self.lines.lane_of(entry.line);
            let extra = entry.extra.as_deref();
            if !entry.state.is_terminal() {
                by_class.entry(lane.class).or_default()[state_index(entry.state)] += 1;
            }
            let backoff = extra.and_then(|extra| extra.backoff);
            assert_eq!(entry.leased(), entry.run != NONE, "a lease if it runs");
            match entry.state {
                State::Running | State::Paused => {
                    leases += 1;
                    let run = &self.runs[entry.run];
                    assert!(self.leases.contains(&(run.expires, slot)));
                    *running
                        .entry(self.lines.lines.key(entry.line).key)
                        .or_default() += 1;
                    if let Some((unique, _)) = extra.and_then(|extra| extra.unique) {
                        assert_eq!(self.uniques[unique].holder, Some(slot));
                    }
                }
                State::Scheduled => match backoff {
                    Some((at, _)) => {
                        backoffs += 1;
                        assert!(self.backoffs.contains(&(at, slot)));
                    }
                    None => {
                        waits += 1;
                        let at = WallTime::from_unix_nanos(entry.moment);
                        assert!(self.waits.contains(&(at, slot)));
                    }
                },
                State::Blocked => {
                    let extra = extra.expect("who waits has parents or a group");
                    let open = extra.after.iter().filter(|link| link.waits).count();
                    assert_eq!(open, extra.open as usize);
                    assert!(extra.open > 0 || extra.waits_group, "it waits for somebody");
                    for link in extra.after.iter().filter(|link| link.waits) {
                        let parent = self.index.get(link.dependency.parent).expect("a parent");
                        let parent = &self.tasks[parent];
                        let children = &parent.extra.as_ref().expect("children").children;
                        assert!(children.contains(&entry.id), "its parent knows it");
                        assert!(
                            !parent.state.is_terminal() || !self.backlog.is_empty(),
                            "who ended tells"
                        );
                    }
                }
                State::Pending => {
                    if entry.has(LINED) {
                        *in_line.entry(entry.line).or_default() += 1;
                    } else {
                        let (unique, _) = extra
                            .and_then(|extra| extra.unique)
                            .expect("only who waits for a unique key stands in no line");
                        let key = &self.uniques[unique];
                        assert!(key.holder.is_some_and(|holder| holder != slot));
                        assert_eq!(key.waiting, Some(slot));
                    }
                }
                _ => ended += 1,
            }
            assert!(!entry.has(LINED) || entry.state == State::Pending);
            let waits_to_start = matches!(
                entry.state,
                State::Scheduled | State::Blocked | State::Pending
            );
            if let Some(deadline) = entry.deadline() {
                assert_eq!(self.deadlines.contains(&(deadline, slot)), waits_to_start);
            }
            if let Some(group) = extra.and_then(|extra| extra.group) {
                let counts = groups.entry(group).or_default();
                if entry.state.is_terminal() {
                    counts.1[ended_index(entry.state)] += 1;
                } else {
                    counts.0 += 1;
                }
            }
        }
        assert_eq!(by_state, self.figures.by_state, "counts by state");
        assert_eq!(leases, self.leases.len(), "leases");
        assert_eq!(leases, self.runs.len(), "runs");
        assert_eq!(backoffs, self.backoffs.len(), "backoffs");
        assert_eq!(waits, self.waits.len(), "waits");
        assert_eq!(ended, self.ended.len + self.dead.len, "ended");
        for (number, _, class) in self.lines.classes.iter() {
            let counts = by_class.get(&number).copied().unwrap_or_default();
            assert_eq!(class.counts, counts, "counts of class {}", class.rule.name);
        }
        for (number, _, key) in self.lines.keys.iter() {
            let counted = running.get(&number).copied().unwrap_or_default();
            assert_eq!(key.running, counted, "running of a key");
        }
        for (number, _, group) in self.groups.iter() {
            let (live, mut counts) = groups.get(&number).copied().unwrap_or_default();
            for (count, forgotten) in counts.iter_mut().zip(group.forgotten) {
                *count += forgotten;
            }
            assert_eq!(
                (group.live, group.ended),
                (live, counts),
                "counts of a group"
            );
        }
        for (number, _, line) in self.lines.lines.iter() {
            let count = in_line.get(&number).copied().unwrap_or_default();
            assert_eq!(line.len, count, "length of a line");
            let mut walked = 0;
            let (mut slot, mut order) = (line.head, 0);
            while slot != NONE {
                let entry = &self.tasks[slot];
                assert!(entry.moment > order, "in order");
                order = entry.moment;
                slot = entry.next;
                walked += 1;
            }
            assert_eq!(walked, count, "a line is linked");
        }
    }
}
