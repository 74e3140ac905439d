//! The CPU quota of the cgroups around this process.
//!
//! A container with `--cpus 1.5` on a machine of 64 CPUs can run 1.5 threads at once over time. The quota may stand at any
//! level between the process's cgroup and the top of what is mounted, and the tightest one holds. Version 2 says it in
//! `cpu.max` ("quota period" or "max period"), version 1 in `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us`.
//!
//! Follows the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `Documentation/scheduler/sched-bwc.rst`.

use std::path::{Path, PathBuf};

use super::{read_number, read_text};

/// CPUs that the tightest quota allows (such as 1.5), below `root` (`/` in earnest); `None` when there is none.
pub(crate) fn quota_cpus(root: &Path) -> Option<f64> {
    let groups = read_text(&root.join("proc/self/cgroup"))?;
    let mounts = read_text(&root.join("proc/self/mountinfo")).unwrap_or_default();
    let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::parse).collect();
    let tightest = groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let version_2 = controllers.is_empty();
            let matches = |mount: &&Mount<'_>| {
                if version_2 {
                    mount.kind == "cgroup2"
                } else {
                    mount.kind == "cgroup" && mount.options.split(',').any(|option| option == "cpu")
                }
            };
            if !version_2 && !controllers.split(',').any(|name| name == "cpu") {
                return None;
            }
            let read = if version_2 {
                version_2_quota
            } else {
                version_1_quota
            };
            let mount = mounts.iter().find(matches)?;
            mount
                .levels(root, path)
                .iter()
                .filter_map(|level| read(level))
                .min_by(f64::total_cmp)
        })
        .min_by(f64::total_cmp);
    tightest.filter(|cpus| cpus.is_finite() && *cpus > 0.0)
}

fn version_2_quota(level: &Path) -> Option<f64> {
    let text = read_text(&level.join("cpu.max"))?;
    let (quota, period) = text.split_once(' ')?;
    ratio(quota.parse().ok()?, period.parse().ok()?)
}

fn version_1_quota(level: &Path) -> Option<f64> {
    ratio(
        read_number(&level.join("cpu.cfs_quota_us"))?,
        read_number(&level.join("cpu.cfs_period_us"))?,
    )
}

fn ratio(quota_us: i64, period_us: i64) -> Option<f64> {
    (quota_us > 0 && period_us > 0).then(|| quota_us as f64 / period_us as f64)
}

/// A line of `/proc/self/mountinfo`, as far as it matters here.
struct Mount<'a> {
    /// The directory of the file system that is visible at `point`.
    subtree: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mut right = right.split(' ');
        Some(Self {
            subtree: left.next()?,
            point: left.next()?,
            kind: right.next()?,
            options: right.nth(1)?,
        })
    }

    /// The directories from the group `path` up to the mount point.
    fn levels(&self, root: &Path, path: &str) -> Vec<PathBuf> {
        let top = root.join(self.point.trim_start_matches('/'));
        // In a container without a cgroup namespace the path is the host's while the mount shows the subtree only.
        let below = Path::new(path)
            .strip_prefix(self.subtree)
            .unwrap_or(Path::new(""));
        let below: PathBuf = below
            .components()
            .filter(|part| matches!(part, std::path::Component::Normal(_)))
            .collect();
        top.join(&below)
            .ancestors()
            .take(below.components().count() + 1)
            .map(Path::to_owned)
            .collect()
    }
}
