//! What is reserved: slots, CPUs, memory, and the instances of named resources.
//!
//! Pure. Invariants: what is reserved and what is free add up to what there is, unless there is less than there was, then nothing is free until
//! enough has come back; an instance is held by one task at a time; nothing is reserved of a task that does not fit as a whole; a task that was set aside has
//! no slot, and keeps the rest.

use crate::run::settings::RunSettings;
use crate::task::{Room, Waiting};
use flyball_policy::queue::{Needs, Token};
use std::collections::{BTreeMap, BTreeSet};

/// What a task holds while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Grant {
    /// CPUs, thousandths.
    pub cpu_millis: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Instances of named resources, from 0, lowest first.
    pub resources: BTreeMap<Box<str>, Vec<u32>>,
}

/// All that can be reserved, and what is.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    slots: u32,
    /// Those set aside included.
    used_slots: u32,
    /// Tasks that stand still and gave their slot to others meanwhile.
    aside: BTreeSet<Token>,
    cpu_millis: Option<u32>,
    used_cpu_millis: u64,
    memory_bytes: Option<u64>,
    used_memory_bytes: u128,
    resources: BTreeMap<Box<str>, Resource>,
}

#[derive(Debug, Default)]
struct Resource {
    total: u32,
    held: BTreeSet<u32>,
}

impl Resource {
    fn free(&self) -> u32 {
        let held = self.held.range(..self.total).count();
        self.total - u32::try_from(held).unwrap_or(self.total)
    }
}

impl Ledger {
    /// Sets what there is. What is reserved stays so.
    pub(crate) fn set(&mut self, settings: &RunSettings) {
        self.slots = settings.max_concurrency;
        self.cpu_millis = settings.cpu_millis;
        self.memory_bytes = settings.memory_bytes;
        for (name, total) in &settings.resources {
            self.resources.entry(name.clone()).or_default().total = *total;
        }
        self.resources.retain(|name, resource| {
            if !settings.resources.contains_key(name) {
                resource.total = 0;
            }
            resource.total > 0 || !resource.held.is_empty()
        });
    }

    pub(crate) fn free_slots(&self) -> u32 {
        self.slots.saturating_sub(self.busy_slots())
    }

    /// Whether more slots are in use than there are.
    pub(crate) fn is_over(&self) -> bool {
        self.busy_slots() > self.slots
    }

    fn busy_slots(&self) -> u32 {
        let aside = u32::try_from(self.aside.len()).unwrap_or(u32::MAX);
        self.used_slots.saturating_sub(aside)
    }

    /// A task stands still: its slot is others'.
    pub(crate) fn set_aside(&mut self, token: Token) {
        self.aside.insert(token);
    }

    /// A task that stood still has a slot again, or ends.
    pub(crate) fn take_back(&mut self, token: Token) {
        self.aside.remove(&token);
    }

    /// What a lease may need.
    pub(crate) fn room(&self) -> Room {
        Room {
            cpu_millis: self.free_cpu(),
            memory_bytes: self.free_memory(),
            resources: self
                .resources
                .iter()
                .map(|(name, resource)| (name.clone(), resource.free()))
                .collect(),
        }
    }

    fn free_cpu(&self) -> Option<u32> {
        self.cpu_millis.map(|total| {
            u32::try_from(u64::from(total).saturating_sub(self.used_cpu_millis)).unwrap_or(0)
        })
    }

    fn free_memory(&self) -> Option<u64> {
        self.memory_bytes.map(|total| {
            u64::try_from(u128::from(total).saturating_sub(self.used_memory_bytes)).unwrap_or(0)
        })
    }

    /// What of all that a task needs is more than there is at all: the task would wait for ever. Names as in [`Waiting::Resource`], with what is needed and
    /// how much there is.
    pub(crate) fn beyond(&self, needs: &Needs) -> Vec<(Box<str>, u64, u64)> {
        let mut beyond = Vec::new();
        let mut bound = |name: &str, needs: u64, total: u64| {
            if needs > total {
                beyond.push((name.into(), needs, total));
            }
        };
        if let Some(total) = self.cpu_millis {
            bound("cpu", needs.cpu_millis.into(), total.into());
        }
        if let Some(total) = self.memory_bytes {
            bound("memory", needs.memory_bytes, total);
        }
        for (name, count) in &needs.resources {
            let total = self.resources.get(name).map_or(0, |there| there.total);
            bound(name, (*count).into(), total.into());
        }
        beyond
    }

    /// Reserves a slot and all that a task needs, or nothing. `instead`: another task is to be set aside for it, so there need be no slot.
    pub(crate) fn reserve(&mut self, needs: &Needs, instead: bool) -> Option<Grant> {
        let fits = (instead || self.free_slots() > 0)
            && self.free_cpu().is_none_or(|free| needs.cpu_millis <= free)
            && self
                .free_memory()
                .is_none_or(|free| needs.memory_bytes <= free)
            && needs.resources.iter().all(|(name, count)| {
                self.resources
                    .get(name)
                    .is_some_and(|resource| *count <= resource.free())
            });
        if !fits {
            return None;
        }
        self.used_slots += 1;
        self.used_cpu_millis += u64::from(needs.cpu_millis);
        self.used_memory_bytes += u128::from(needs.memory_bytes);
        let mut grant = Grant {
            cpu_millis: needs.cpu_millis,
            memory_bytes: needs.memory_bytes,
            resources: BTreeMap::new(),
        };
        for (name, count) in &needs.resources {
            if let Some(resource) = self.resources.get_mut(name) {
                let free = (0..resource.total).filter(|instance| !resource.held.contains(instance));
                let taken: Vec<u32> = free.take(*count as usize).collect();
                resource.held.extend(&taken);
                grant.resources.insert(name.clone(), taken);
            }
        }
        Some(grant)
    }

    /// Takes back what a task held.
    pub(crate) fn release(&mut self, grant: &Grant) {
        self.used_slots -= 1;
        self.used_cpu_millis -= u64::from(grant.cpu_millis);
        self.used_memory_bytes -= u128::from(grant.memory_bytes);
        for (name, instances) in &grant.resources {
            if let Some(resource) = self.resources.get_mut(name) {
                for instance in instances {
                    resource.held.remove(instance);
                }
                if resource.total == 0 && resource.held.is_empty() {
                    self.resources.remove(name);
                }
            }
        }
    }

    /// What a task that needs this waits for.
    pub(crate) fn why(&self, needs: &Needs) -> Vec<Waiting> {
        let mut waits = Vec::new();
        if self.free_slots() == 0 {
            waits.push(Waiting::Slots {
                running: self.busy_slots(),
                limit: self.slots,
            });
        }
        let mut lacks = |name: &str, needs: u64, free: u64, total: u64| {
            if needs > free {
                waits.push(Waiting::Resource {
                    name: name.into(),
                    needs,
                    free,
                    total,
                });
            }
        };
        if let (Some(free), Some(total)) = (self.free_cpu(), self.cpu_millis) {
            lacks("cpu", needs.cpu_millis.into(), free.into(), total.into());
        }
        if let (Some(free), Some(total)) = (self.free_memory(), self.memory_bytes) {
            lacks("memory", needs.memory_bytes, free, total);
        }
        for (name, count) in &needs.resources {
            let (free, total) = self
                .resources
                .get(name)
                .map_or((0, 0), |resource| (resource.free(), resource.total));
            lacks(name, (*count).into(), free.into(), total.into());
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyball_core::rng::Rng;

    fn settings(gpus: u32) -> RunSettings {
        RunSettings {
            max_concurrency: 8,
            cpu_millis: Some(4_000),
            memory_bytes: Some(1_000),
            resources: [("gpu".into(), gpus)].into(),
            ..RunSettings::default()
        }
    }

    fn needs(cpu_millis: u32, memory_bytes: u64, gpus: u32) -> Needs {
        Needs {
            cpu_millis,
            memory_bytes,
            resources: (gpus > 0)
                .then(|| ("gpu".into(), gpus))
                .into_iter()
                .collect(),
        }
    }

    /// TASK-17: a grant names the instances, and nobody else holds them meanwhile.
    #[test]
    fn instances_are_named_and_held_once() {
        let mut ledger = Ledger::default();
        ledger.set(&settings(3));
        let first = ledger.reserve(&needs(0, 0, 2), false).unwrap();
        assert_eq!(first.resources["gpu"], [0, 1]);
        let second = ledger.reserve(&needs(0, 0, 1), false).unwrap();
        assert_eq!(second.resources["gpu"], [2]);
        assert!(ledger.reserve(&needs(0, 0, 1), false).is_none());
        assert!(
            ledger.reserve(&needs(0, 0, 0), false).is_some(),
            "other work never waits behind them"
        );
        ledger.release(&first);
        assert_eq!(
            ledger.reserve(&needs(0, 0, 1), false).unwrap().resources["gpu"],
            [0]
        );
    }

    /// TASK-3: nothing is reserved of a task that does not fit, and what is reserved never exceeds what there is.
    #[test]
    fn reserving_is_all_or_nothing_and_bounded() {
        let mut rng = Rng::seeded(7);
        let mut ledger = Ledger::default();
        ledger.set(&settings(4));
        let mut held: Vec<Grant> = Vec::new();
        for _ in 0..20_000 {
            if rng.chance(0.5) && !held.is_empty() {
                let index = rng.below(held.len() as u64) as usize;
                ledger.release(&held.swap_remove(index));
            } else {
                let needs = needs(rng.below(3_000) as u32, rng.below(700), rng.below(4) as u32);
                let before = ledger.room();
                match ledger.reserve(&needs, false) {
                    Some(grant) => held.push(grant),
                    None => assert!(ledger.room() == before && !ledger.why(&needs).is_empty()),
                }
            }
            let cpu: u32 = held.iter().map(|grant| grant.cpu_millis).sum();
            let memory: u64 = held.iter().map(|grant| grant.memory_bytes).sum();
            let gpus: Vec<u32> = held
                .iter()
                .flat_map(|grant| grant.resources.values().flatten().copied())
                .collect();
            let distinct: BTreeSet<u32> = gpus.iter().copied().collect();
            assert!(cpu <= 4_000 && memory <= 1_000 && held.len() <= 8);
            assert!(distinct.len() == gpus.len() && gpus.iter().all(|gpu| *gpu < 4));
            let room = ledger.room();
            assert_eq!(room.cpu_millis, Some(4_000 - cpu));
            assert_eq!(room.memory_bytes, Some(1_000 - memory));
            assert_eq!(room.resources["gpu"], 4 - gpus.len() as u32);
        }
    }

    /// TASK-17: fewer instances than are held: nothing is given until enough came back; those held are given back all the same.
    #[test]
    fn shrinking_waits_for_what_is_held() {
        let mut ledger = Ledger::default();
        ledger.set(&settings(3));
        let grant = ledger.reserve(&needs(0, 0, 3), false).unwrap();
        ledger.set(&settings(1));
        assert!(ledger.reserve(&needs(0, 0, 1), false).is_none());
        ledger.set(&RunSettings::default());
        assert_eq!(ledger.room().resources.get("gpu"), Some(&0));
        ledger.release(&grant);
        assert!(ledger.room().resources.is_empty());
        assert!(ledger.reserve(&needs(0, 0, 1), false).is_none());
    }
}
