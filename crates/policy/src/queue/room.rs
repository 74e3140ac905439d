//! Room: what is free, what is held, and who competes for it.

use alloc::collections::BTreeSet;

use super::Queue;
use super::command::Room;
use super::line::NO_NEEDS;
use super::task::Needs;

impl Queue {
    /// Remembers what is free, and the most there ever was.
    pub(super) fn see(&mut self, room: &Room) {
        let (seen, held) = (&mut self.seen, &self.held);
        if seen.free != *room {
            seen.free.clone_from(room);
        }
        seen.any = true;
        let cpu = u64::from(room.cpu_millis.unwrap_or(0)) + held.cpu_millis;
        seen.cpu_millis = seen.cpu_millis.max(cpu);
        let memory = room
            .memory_bytes
            .unwrap_or(0)
            .saturating_add(held.memory_bytes);
        seen.memory_bytes = seen.memory_bytes.max(memory);
        for (name, free) in &room.resources {
            let total = u64::from(*free) + held.resources.get(name).copied().unwrap_or(0);
            match seen.resources.get_mut(name) {
                Some(known) => *known = (*known).max(total),
                None => {
                    seen.resources.insert(name.clone(), total);
                }
            }
        }
        if seen.resources.len() > room.resources.len() {
            seen.resources
                .retain(|name, _| room.resources.contains_key(name));
        }
    }

    /// Forgets what there once was: what is free and held now counts.
    pub(super) fn see_anew(&mut self) {
        let room = core::mem::take(&mut self.seen).free;
        self.see(&room);
    }

    /// Whether there was room for it once.
    pub(super) fn ever_fits(&self, needs: &Needs) -> bool {
        let seen = &self.seen;
        (seen.free.cpu_millis.is_none() || u64::from(needs.cpu_millis) <= seen.cpu_millis)
            && (seen.free.memory_bytes.is_none() || needs.memory_bytes <= seen.memory_bytes)
            && needs.resources.iter().all(|(name, count)| {
                seen.resources
                    .get(name)
                    .is_some_and(|total| u64::from(*count) <= *total)
            })
    }

    /// Counts what a lease holds.
    pub(super) fn hold(&mut self, line: u32, more: bool) {
        let number = self.lines.lane_of(line).needs;
        if number == NO_NEEDS {
            return;
        }
        let needs = self.lines.needs.key(number);
        let held = &mut self.held;
        let change = |held: &mut u64, by: u64| {
            *held = if more {
                held.saturating_add(by)
            } else {
                held.saturating_sub(by)
            };
        };
        change(&mut held.cpu_millis, u64::from(needs.cpu_millis));
        change(&mut held.memory_bytes, needs.memory_bytes);
        for (name, count) in &needs.resources {
            if let Some(known) = held.resources.get_mut(name) {
                change(known, u64::from(*count));
                if *known == 0 {
                    held.resources.remove(name);
                }
            } else if more {
                held.resources.insert(name.clone(), u64::from(*count));
            }
        }
    }
}

/// Takes what a task needs out of a room.
pub(super) fn take_room(room: &mut Room, needs: &Needs) {
    if let Some(free) = &mut room.cpu_millis {
        *free = free.saturating_sub(needs.cpu_millis);
    }
    if let Some(free) = &mut room.memory_bytes {
        *free = free.saturating_sub(needs.memory_bytes);
    }
    for (name, count) in &needs.resources {
        if let Some(free) = room.resources.get_mut(name) {
            *free = free.saturating_sub(*count);
        }
    }
}

/// Whether one takes of what the other lacks.
pub(super) fn competes(first: &Needs, other: &Needs, room: &Room) -> bool {
    let cpu = room.cpu_millis.is_some_and(|free| first.cpu_millis > free) && other.cpu_millis > 0;
    let memory = room
        .memory_bytes
        .is_some_and(|free| first.memory_bytes > free)
        && other.memory_bytes > 0;
    let named: BTreeSet<&str> = first
        .resources
        .iter()
        .filter(|(name, count)| room.resources.get(name).copied().unwrap_or(0) < *count)
        .map(|(name, _)| &**name)
        .collect();
    cpu || memory
        || other
            .resources
            .iter()
            .any(|(name, _)| named.contains(&**name))
}
