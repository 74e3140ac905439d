//! What may be set of a single worker: its weight, its CPUs, its keys.
//!
//! The settings belong to the worker's number and outlive its thread. Everything is checked before anything changes.

use crate::error::Error;
use crate::event::What;
use crate::os;
use crate::pool::{Pool, WorkerShared};
use crate::spine::{IO_WORKER, workers_of};
use crate::topology::{CpuSet, Topology};
use flyball_core::id::WorkerId;
use std::path::Path;
use std::sync::atomic::Ordering::*;

/// Most affinity keys that one worker can be given.
pub const MAX_AFFINITY_KEYS: usize = 1_024;
/// The greatest weight of a worker.
const WEIGHT_MAX: f64 = 100.0;

/// What to change of a worker; None leaves a setting as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkerSettings {
    /// How much it should get compared with the others of its group, 0 to 100; 1 is usual. At 0 it is tagged nothing while others can
    /// be; work that is tagged for nobody it takes all the same.
    pub weight: Option<f64>,
    /// The CPUs it may run on, of those that the program may use; empty: as the configuration says.
    pub affinity_cores: Option<Vec<u32>>,
    /// Affinity keys whose tasks are meant for it under the strategies `affinity` and `locality`, at most 1,024; empty: none. A key has
    /// one worker: another one that had it loses it. While the worker has as many tasks as it may, the strategy decides.
    pub affinity_keys: Option<Vec<u64>>,
}

impl Pool {
    /// Changes a worker that exists, or nothing.
    pub(crate) fn set_worker(&self, id: u16, settings: &WorkerSettings) -> Result<(), Error> {
        let worker = self
            .workers
            .get(usize::from(id))
            .and_then(|worker| worker.get())
            .ok_or(Error::UnknownWorker(id))?;
        check(id, settings)?;
        // The one step that may fail comes first.
        if let Some(cores) = &settings.affinity_cores {
            self.set_cores(worker, cores)?;
        }
        if let Some(weight) = settings.weight {
            worker
                .weight_set
                .store((weight * 10_000.0).round() as u32, SeqCst);
            worker.publish_weight();
        }
        if let Some(keys) = &settings.affinity_keys {
            let mut owners = self.key_owners.write().unwrap_or_else(|e| e.into_inner());
            owners.retain(|_, owner| *owner != id);
            owners.extend(keys.iter().map(|&key| (key, id)));
        }
        self.events.push(
            self.now(),
            Some(worker.index),
            What::Changed,
            describe(settings),
        );
        Ok(())
    }

    /// The worker that an affinity key was given to.
    pub(crate) fn owner_of(&self, key: u64) -> Option<WorkerId> {
        let owners = self.key_owners.read().unwrap_or_else(|e| e.into_inner());
        owners.get(&key).map(|&owner| WorkerId::new(owner))
    }

    fn set_cores(&self, worker: &WorkerShared, cores: &[u32]) -> Result<(), Error> {
        let out_of_range = |found: String, expected| Error::Config {
            key: "affinity_cores",
            found,
            expected,
        };
        let unavailable = |why: os::Unavailable| Error::Os {
            what: "pin the worker",
            source: std::io::Error::other(why),
        };
        let usable = os::usable_cpus().map_err(unavailable)?;
        let wanted: CpuSet = cores.iter().copied().collect();
        if let Some(cpu) = cores.iter().find(|&&cpu| !usable.contains(cpu)) {
            return Err(out_of_range(
                format!("CPU {cpu}"),
                "CPUs that this program may run on",
            ));
        }
        let mut kept = worker
            .affinity_cores
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        let (set, pinned_to) = if wanted.is_empty() {
            self.layout_of(worker.index, Some(&usable))
                .and_then(Result::ok)
                .map_or((usable, None), |cpus| {
                    let first = cpus.iter().next();
                    (cpus, first)
                })
        } else {
            let first = wanted.iter().next();
            (wanted.clone(), first)
        };
        {
            // The thread clears its number under this lock before it ends.
            let thread = worker.thread_id.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(thread) = *thread {
                os::pin_thread(thread, &set).map_err(unavailable)?;
            }
        }
        *kept = wanted.iter().collect();
        *worker.pinned_to.lock().unwrap_or_else(|e| e.into_inner()) = pinned_to;
        Ok(())
    }

    /// The CPUs that the configured layout gives a worker, of those allowed; None without a layout.
    pub(crate) fn layout_of(
        &self,
        index: usize,
        allowed: Option<&CpuSet>,
    ) -> Option<Result<CpuSet, os::Unavailable>> {
        let layout = self.config.pin.filter(|_| index != IO_WORKER)?;
        let topology = Topology::read(Path::new("/"), allowed)
            .or_else(|why| allowed.map(Topology::flat).ok_or(why));
        let position = index - workers_of(crate::spine::group_of(index)).start;
        Some(topology.map(|topology| {
            topology
                .layout(position + 1, layout)
                .pop()
                .unwrap_or_else(|| std::iter::empty().collect())
        }))
    }
}

fn check(id: u16, settings: &WorkerSettings) -> Result<(), Error> {
    let refuse = |key, found: String, expected| {
        Err(Error::Config {
            key,
            found,
            expected,
        })
    };
    if usize::from(id) == IO_WORKER
        && (settings.weight.is_some() || settings.affinity_keys.is_some())
    {
        return refuse(
            "worker",
            id.to_string(),
            "another one (this drives tokio: nothing is placed there)",
        );
    }
    if let Some(weight) = settings.weight
        && !(0.0..=WEIGHT_MAX).contains(&weight)
    {
        return refuse("weight", weight.to_string(), "0 to 100");
    }
    if let Some(keys) = &settings.affinity_keys
        && keys.len() > MAX_AFFINITY_KEYS
    {
        return refuse(
            "affinity_keys",
            format!("{} keys", keys.len()),
            "at most 1,024 keys",
        );
    }
    Ok(())
}

fn describe(settings: &WorkerSettings) -> String {
    let parts = [
        settings.weight.map(|weight| format!("weight {weight}")),
        settings
            .affinity_cores
            .as_ref()
            .map(|cores| format!("CPUs {cores:?}")),
        settings
            .affinity_keys
            .as_ref()
            .map(|keys| format!("{} affinity keys", keys.len())),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("set by hand: {}", parts.join(", "))
}

impl WorkerShared {
    /// Puts what was set and what heat leaves of it into force.
    pub(crate) fn publish_weight(&self) {
        let set = u64::from(self.weight_set.load(SeqCst));
        let heat = u64::from(self.weight_by_heat.load(SeqCst));
        self.weight.store((set * heat / 10_000) as u32, SeqCst);
    }
}
