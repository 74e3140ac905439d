//! From what is on disk to a machine that is ready.

use super::Core;
use crate::clock::Clocks;
use crate::embedded::cache::RowCache;
use crate::embedded::code::wire::Damage;
use crate::embedded::code::{head, meta, record};
use crate::embedded::options::Limits;
use crate::embedded::ring::Names;
use crate::embedded::rows::{Fault, Rows, Writes};
use crate::embedded::shared::Shared;
use flyball_policy::queue::{
    Calendar, Effects, Figures, MetaChange, Opening, Queue, Settings, State, TaskId,
};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

struct SharedCalendar(Arc<dyn Calendar + Send + Sync>);

impl Calendar for SharedCalendar {
    fn check(&self, cron: &flyball_policy::queue::Cron) -> Result<(), String> {
        self.0.check(cron)
    }

    fn next(
        &self,
        cron: &flyball_policy::queue::Cron,
        after: flyball_core::time::WallTime,
    ) -> Option<flyball_core::time::WallTime> {
        self.0.next(cron, after)
    }
}

impl Core {
    /// Reads what is on disk and makes it ready.
    pub(in crate::embedded) fn open(
        mut rows: Box<dyn Rows>,
        settings: Settings,
        limits: Limits,
        calendar: Arc<dyn Calendar + Send + Sync>,
        clocks: Arc<dyn Clocks>,
        shared: Arc<Shared>,
    ) -> Result<Core, Fault> {
        let life = read_life(&mut *rows)?;
        let epoch = life.epoch.saturating_add(1);
        let mut writes = Writes::default();
        write_life(
            &mut writes,
            meta::Life {
                epoch,
                clean: false,
            },
        );
        // Before anything else: who dies from here on has crashed, and its epoch is used up.
        rows.commit(&writes, true)?;
        let used_bytes = rows.used_bytes()?;
        let mut core = Core {
            queue: Queue::new(settings, Box::new(SharedCalendar(calendar.clone()))),
            settings,
            calendar,
            classes: Vec::new(),
            rows,
            clocks,
            cache: RowCache::new(limits.cache_bytes),
            limits,
            shared,
            names: Names::default(),
            effects: Effects::default(),
            added: Vec::new(),
            changed: Vec::new(),
            writes: Writes::default(),
            events: Vec::new(),
            settle: Vec::new(),
            grants: Vec::new(),
            sync: false,
            ready: false,
            askers: VecDeque::new(),
            epoch,
            used_bytes,
            grown_bytes: 0,
            coming_bytes: 0,
            unmeasured_bytes: 0,
            before: Figures::default(),
            refused: 0,
            stopped: None,
            blocked: None,
            closed: false,
        };
        core.load(if life.clean {
            Opening::Clean { epoch }
        } else {
            Opening::Crashed { epoch }
        })?;
        // What opening changed (attempts of tasks that ran, ticks that were missed) is on disk before anybody asks.
        core.sync = true;
        core.write()?;
        core.shared.ring.push(&mut core.events);
        Ok(core)
    }

    /// Makes the machine from what is on disk.
    pub(super) fn load(&mut self, opening: Opening) -> Result<(), Fault> {
        let mut queue = Queue::new(
            self.settings,
            Box::new(SharedCalendar(self.calendar.clone())),
        );
        queue.set_classes(&self.classes);
        let mut damaged_meta = 0u64;
        let mut requests = Vec::new();
        let read = self
            .rows
            .load_meta(&mut |key, value| match meta::decode(key, value) {
                // They name tasks, which come first.
                Ok(meta::Meta::Queue(change @ MetaChange::Idempotency(..))) => {
                    requests.push(change)
                }
                Ok(meta::Meta::Queue(change)) => queue.restore_meta(change),
                Ok(meta::Meta::Life(_)) => {}
                Err(_) => damaged_meta += 1,
            });
        match read {
            Ok(()) => {}
            // Tasks are more than pauses and remembered requests.
            Err(Fault::Damaged { .. }) => damaged_meta += 1,
            Err(other) => return Err(other),
        }
        let shared = self.shared.clone();
        let mut damaged = shared.damaged();
        damaged.meta = damaged_meta;
        let mut running = BTreeSet::new();
        let lost = self.rows.load(&mut |id, sealed_head, sealed_record| {
            if damaged.tasks.contains_key(&id) {
                return;
            }
            let read = head::decode(sealed_head, id)
                .and_then(|head| Ok((head, record::decode(sealed_record, id)?)));
            match read {
                Ok((head, record)) => {
                    if matches!(record.state, State::Running | State::Paused) {
                        running.insert(id);
                    }
                    queue.restore(id, &head, &record);
                }
                Err(Damage(what)) => {
                    damaged.tasks.insert(id, what.to_owned());
                }
            }
        })?;
        for id in lost {
            damaged
                .tasks
                .entry(id)
                .or_insert_with(|| "its page cannot be read".to_owned());
        }
        drop(damaged);
        for request in requests {
            queue.restore_meta(request);
        }
        // No new task gets the name of one that is on disk, readable or not.
        queue.restore_meta(MetaChange::LastId(TaskId(self.rows.last_id()?)));
        self.queue = queue;
        let now = self.clocks.now();
        self.effects.clear();
        self.queue.opened(now, opening, &mut self.effects);
        self.absorb(now, &mut []);
        self.ready = true;
        *self.shared.running() = running;
        Ok(())
    }
}

fn read_life(rows: &mut dyn Rows) -> Result<meta::Life, Fault> {
    let mut life = None;
    let mut damaged = false;
    let key = meta::life_key();
    let read = rows.load_meta(&mut |found, value| {
        if found == key {
            match meta::decode(found, value) {
                Ok(meta::Meta::Life(read)) => life = Some(read),
                _ => damaged = true,
            }
        }
    });
    match read {
        Ok(()) => {}
        Err(Fault::Damaged { .. }) => damaged = true,
        Err(other) => return Err(other),
    }
    match life {
        Some(life) => Ok(life),
        // Epochs must grow, and the last one is not known: one that no store reaches by itself.
        None if damaged => Ok(meta::Life {
            epoch: u32::MAX / 2,
            clean: false,
        }),
        None => Ok(meta::Life {
            epoch: 0,
            clean: true,
        }),
    }
}

pub(super) fn write_life(writes: &mut Writes, life: meta::Life) {
    let part = writes.part(|row| meta::encode_life(row, life));
    writes.meta.push((meta::life_key(), Some(part)));
}
