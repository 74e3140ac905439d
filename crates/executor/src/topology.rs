//! What the machine looks like: which CPUs share a core, a package, a memory node, and how warm they are.
//!
//! Read from sysfs below a root that is `/` in earnest and a directory of the test's making in tests. sysfs is not to be
//! trusted: files are absent in containers, empty while a CPU goes offline, or hold what no document mentions. A file that
//! cannot be understood counts as absent, and an absent file costs only what it would have told: a CPU without a topology
//! is a core of its own, one without a node belongs to node 0.
//!
//! Invariants: nothing here fails for want of a single file; each CPU stands in exactly one core; [`Topology::layout`] only
//! names CPUs that are online and allowed.
//!
//! Left out: what a temperature means. [`heat`] reads; the policy crate turns readings into weights.
//!
//! Follows the kernel's `Documentation/ABI/stable/sysfs-devices-system-cpu` and `Documentation/admin-guide/cputopology.rst`.

mod cpu_set;
pub(crate) mod heat;
mod quota;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(crate) use cpu_set::CpuSet;
pub(crate) use quota::quota_cpus;

use crate::os::Unavailable;

/// How workers are laid over memory nodes while fewer of them exist than CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// Node after node in turn: the most memory bandwidth.
    #[default]
    Spread,
    /// One node is filled before the next begins: the shortest way between workers.
    Pack,
}

/// One logical CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// The kernel's number.
    pub(crate) id: u32,
    /// The lowest number among the CPUs that share its physical core; equal for SMT siblings.
    pub(crate) core: u32,
    /// The core's number as the kernel prints it, which is unique within a package only.
    pub(crate) core_id: Option<u32>,
    /// The socket.
    pub(crate) package: u32,
    /// The memory node.
    pub(crate) node: u32,
}

/// The CPUs that are online and allowed, in the order of their numbers. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topology {
    cpus: Vec<Cpu>,
}

impl Topology {
    /// Reads the machine below `root` (`/` in earnest), keeping CPUs of `allowed` only (`None`: all).
    ///
    /// # Errors
    /// [`Unavailable`] when there is no `sys/devices/system/cpu` below `root` or none of its CPUs is both online and
    /// allowed.
    pub(crate) fn read(root: &Path, allowed: Option<&CpuSet>) -> Result<Self, Unavailable> {
        const WHAT: &str = "the CPU topology";
        let base = root.join("sys/devices/system/cpu");
        let present = numbered(&base, "cpu")
            .map_err(|error| Unavailable::new(WHAT, format!("{}: {error}", base.display())))?;
        let online = read_set(&base.join("online"));
        let usable: CpuSet = present
            .keys()
            .copied()
            .filter(|&cpu| allowed.is_none_or(|set| set.contains(cpu)))
            .filter(|&cpu| match &online {
                Some(set) => set.contains(cpu),
                // `cpu0/online` is absent where CPU 0 cannot go offline.
                None => read_number(&present[&cpu].join("online")) != Some(0),
            })
            .collect();
        if usable.is_empty() {
            return Err(Unavailable::new(
                WHAT,
                format!("{}: no CPU is online and allowed", base.display()),
            ));
        }
        let mut cpus: Vec<Cpu> = usable
            .iter()
            .map(|id| read_cpu(id, &present[&id]))
            .collect();
        name_cores(&mut cpus);
        Ok(Self { cpus })
    }

    /// A machine of which only the usable CPUs are known: each counts as a core, all on one node. For platforms without
    /// sysfs. An empty set counts as CPU 0.
    pub(crate) fn flat(usable: &CpuSet) -> Self {
        let lone = |id| Cpu {
            id,
            core: id,
            core_id: None,
            package: 0,
            node: 0,
        };
        let cpus: Vec<Cpu> = usable.iter().map(lone).collect();
        Self {
            cpus: if cpus.is_empty() { vec![lone(0)] } else { cpus },
        }
    }

    /// The CPUs, in the order of their numbers.
    pub(crate) fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// Where `workers` workers are pinned, worker by worker, each to one CPU.
    ///
    /// Each physical core gets a worker before any core gets a second one on its SMT sibling; within the same round
    /// `layout` orders the memory nodes. With more workers than CPUs the order begins again.
    pub(crate) fn layout(&self, workers: usize, layout: Layout) -> Vec<CpuSet> {
        let order = self.order(layout);
        (0..workers)
            .map(|worker| [order[worker % order.len()]].into_iter().collect())
            .collect()
    }

    fn order(&self, layout: Layout) -> Vec<u32> {
        // A CPU's round is its position among the siblings of its core; its turn is the position of its core among the
        // cores of its node.
        let mut siblings_seen: BTreeMap<u32, usize> = BTreeMap::new();
        let mut cores_by_node: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut keyed: Vec<(usize, usize, u32, u32)> = Vec::with_capacity(self.cpus.len());
        for cpu in &self.cpus {
            let seen = siblings_seen.entry(cpu.core).or_default();
            let round = *seen;
            *seen += 1;
            let cores = cores_by_node.entry(cpu.node).or_default();
            let turn = cores
                .iter()
                .position(|&core| core == cpu.core)
                .unwrap_or_else(|| {
                    cores.push(cpu.core);
                    cores.len() - 1
                });
            keyed.push((round, turn, cpu.node, cpu.id));
        }
        keyed.sort_by_key(|&(round, turn, node, id)| match layout {
            Layout::Spread => (round, turn, node as usize, id),
            Layout::Pack => (round, node as usize, turn, id),
        });
        keyed.into_iter().map(|(.., id)| id).collect()
    }
}

fn read_cpu(id: u32, directory: &Path) -> Cpu {
    let topology = directory.join("topology");
    let siblings = read_set(&topology.join("core_cpus_list"))
        .or_else(|| read_set(&topology.join("thread_siblings_list")))
        // A list that leaves out the CPU itself is garbage.
        .filter(|set| set.contains(id));
    Cpu {
        id,
        core: siblings.and_then(|set| set.iter().next()).unwrap_or(id),
        core_id: read_number(&topology.join("core_id")),
        package: read_number(&topology.join("physical_package_id")).unwrap_or(0),
        node: numbered(directory, "node")
            .ok()
            .and_then(|nodes| nodes.into_keys().next())
            .unwrap_or(0),
    }
}

/// Makes `core` the lowest *usable* CPU of each core, so that siblings outside the mask leave no trace, and splits
/// cores that their CPUs do not agree about.
fn name_cores(cpus: &mut [Cpu]) {
    let mut first: BTreeMap<(u32, u32, u32), u32> = BTreeMap::new();
    for cpu in cpus {
        cpu.core = *first
            .entry((cpu.package, cpu.node, cpu.core))
            .or_insert(cpu.id);
    }
}

/// Entries of `directory` named `prefix` and a number, by that number.
fn numbered(directory: &Path, prefix: &str) -> std::io::Result<BTreeMap<u32, PathBuf>> {
    Ok(std::fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?;
            // `parse` alone would also take "+1".
            if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            Some((number.parse().ok()?, entry.path()))
        })
        .collect())
}

fn read_set(path: &Path) -> Option<CpuSet> {
    read_text(path)?.parse().ok()
}

fn read_number<N: std::str::FromStr>(path: &Path) -> Option<N> {
    read_text(path)?.parse().ok()
}

/// The trimmed content of a small text file; `None` when it cannot be read or is not UTF-8.
fn read_text(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// The packages of `cpus` in the order of their numbers.
fn packages(cpus: &[Cpu]) -> BTreeSet<u32> {
    cpus.iter().map(|cpu| cpu.package).collect()
}

#[cfg(test)]
mod tests;
