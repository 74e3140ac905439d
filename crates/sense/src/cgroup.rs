//! The control groups around the calling process: CPU quota and memory limit.
//!
//! `/proc/self/cgroup` says which groups the process is in, `/proc/self/mountinfo` where their files can be seen. A limit
//! may stand at any level between the process's own group and the top of what is mounted, and the tightest holds; so all
//! levels are kept open. As a service manager may move a process, the membership is read again each [`LOOK_AGAIN`].
//!
//! A controller belongs to one hierarchy only: to the version 1 hierarchy that names it, else to version 2. In a container
//! the path may be the host's while the mount shows a subtree (`mountinfo` then names the subtree as its root), or both
//! are relative to a cgroup namespace. A path that cannot be matched with a mount leaves the readings unknown: another
//! group's limits would be worse than none.

use crate::bytes::{keyed, line, lines, number};
use crate::error::Error;
use crate::root::Root;
use crate::sample::{CgroupMemory, Quota};
use crate::source::{Buffer, MAX_FILE_BYTES, Source};
use flyball_core::time::Timestamp;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// How many levels of control groups are looked at. systemd and Kubernetes nest about six; of a process deeper down nothing
/// is told, as a limit might stand further out.
pub const MAX_LEVELS: usize = 32;

/// How often the membership is read again. Moves are rare, and the reading costs as much as that of the load.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// From here on a version 1 limit means none: the kernel prints the largest multiple of a page below 2^63.
const UNLIMITED_V1: u64 = 1 << 62;

/// Where the files of a controller are: directories from the process's group outwards.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    version: u8,
    levels: Vec<PathBuf>,
}

/// The control group of the calling process for one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControlGroup {
    /// The kind of hierarchy that holds the controller, 1 or 2.
    pub version: u8,
    /// Its directory, and those of the groups around it outwards, as far as they can be seen.
    pub directories: Vec<PathBuf>,
}

/// Finds the control group of the calling process that holds `controller`, such as `memory`.
///
/// # Errors
/// Why it is not known, for people.
pub fn control_group(root: &Root, controller: &str) -> Result<ControlGroup, String> {
    let [groups, mounts] = ["proc/self/cgroup", "proc/self/mountinfo"].map(|name| {
        let path = root.join(Path::new(name));
        read_whole(&path).map_err(|error| format!("{}: {error}", path.display()))
    });
    let place = place(root, controller.as_bytes(), &groups?, &mounts?);
    let Place { version, levels } = place.map_err(|error| error.to_string())?;
    Ok(ControlGroup {
        version,
        directories: levels,
    })
}

/// A line of `mountinfo` that is a control group hierarchy.
struct Mount {
    /// The directory of the hierarchy that is visible at `point`.
    subtree: PathBuf,
    point: PathBuf,
    version: u8,
    options: Vec<u8>,
}

/// A path as `mountinfo` writes it: blanks and backslashes as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] => {
                path.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&path))
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let dash = line.windows(3).position(|part| part == b" - ")?;
        let mut left = line[..dash].split(|&byte| byte == b' ').skip(3);
        let mut right = line[dash + 3..].split(|&byte| byte == b' ');
        let (subtree, point) = (left.next()?, left.next()?);
        let version = match right.next()? {
            b"cgroup" => 1,
            b"cgroup2" => 2,
            _ => return None,
        };
        Some(Self {
            subtree: unescaped(subtree),
            point: unescaped(point),
            version,
            options: right.nth(1)?.to_vec(),
        })
    }

    fn holds(&self, version: u8, controller: &[u8]) -> bool {
        self.version == version
            && (version == 2
                || self
                    .options
                    .split(|&byte| byte == b',')
                    .any(|name| name == controller))
    }
}

fn is_plain(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_) | Component::RootDir))
}

/// Finds the files of `controller` by the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn place(root: &Root, controller: &[u8], groups: &[u8], mounts: &[u8]) -> Result<Place, Error> {
    let mut own: Option<(u8, &[u8])> = None;
    for line in lines(groups) {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if controllers
            .split(|&byte| byte == b',')
            .any(|name| name == controller)
        {
            own = Some((1, path));
            break;
        }
        if controllers.is_empty() {
            own = Some((2, path));
        }
    }
    let (version, path) =
        own.ok_or(Error::Absent("names no control group with this controller"))?;
    let path = Path::new(OsStr::from_bytes(path));
    let mounted: Vec<Mount> = lines(mounts)
        .filter_map(Mount::parse)
        .filter(|mount| mount.holds(version, controller))
        .collect();
    if mounted.is_empty() {
        return Err(Error::Absent(
            "the hierarchy of this controller is not mounted",
        ));
    }
    // The largest part of the hierarchy shows the most levels; among equals the last mount is the visible one.
    let (mount, below) = mounted
        .iter()
        .filter_map(|mount| Some((mount, path.strip_prefix(&mount.subtree).ok()?)))
        .filter(|(mount, below)| is_plain(&mount.subtree) && is_plain(below))
        .max_by_key(|(_, below)| below.components().count())
        .ok_or(Error::Absent(
            "the process's control group is not below what is mounted",
        ))?;
    let top = root.join(&mount.point);
    // The top is a level, too.
    let levels = below.components().count() + 1;
    if levels > MAX_LEVELS {
        return Err(Error::Absent(
            "names a control group that is nested too deep",
        ));
    }
    let levels = top
        .join(below)
        .ancestors()
        .take(levels)
        .map(Path::to_owned)
        .collect();
    Ok(Place { version, levels })
}

/// A file with a limit: a number, or a word that says that there is none.
fn limit(text: &[u8]) -> Option<Option<u64>> {
    let line = line(text)?;
    if line == b"max"
        || line
            .strip_prefix(b"-")
            .is_some_and(|rest| number(rest).is_some())
    {
        return Some(None);
    }
    Some(Some(number(line)?))
}

/// The CPU files of a level.
#[derive(Debug)]
struct CpuLevel {
    /// `cpu.max`, or `cpu.cfs_quota_us`.
    quota: Source,
    /// `cpu.cfs_period_us` under version 1.
    period: Option<Source>,
    stat: Source,
}

struct Throttling {
    periods: u64,
    throttled_periods: u64,
    throttled_ns: u64,
}

impl CpuLevel {
    fn open(version: u8, directory: &Path) -> Self {
        let open = |name| Source::open(directory.join(name));
        let (quota, period) = match version {
            2 => ("cpu.max", None),
            _ => ("cpu.cfs_quota_us", Some("cpu.cfs_period_us")),
        };
        Self {
            quota: open(quota),
            period: period.map(open),
            stat: open("cpu.stat"),
        }
    }

    /// CPUs that the quota allows; `None` when there is none.
    fn cpus(&mut self, buffer: &mut Buffer, now: Timestamp) -> Result<Option<f64>, Error> {
        const ODD: Error =
            Error::Malformed("its CPU quota is neither a quota and a period nor `max`");
        let text = self.quota.read(buffer, now)?;
        let (quota, period) = match &mut self.period {
            None => {
                let mut words = line(text).ok_or(ODD)?.splitn(2, |&byte| byte == b' ');
                let quota = match words.next() {
                    Some(b"max") => None,
                    word => Some(word.and_then(number).ok_or(ODD)?),
                };
                (quota, words.next().and_then(number).ok_or(ODD)?)
            }
            Some(file) => {
                let quota = limit(text).ok_or(ODD)?;
                let text = file.read(buffer, now)?;
                (quota, line(text).and_then(number).ok_or(ODD)?)
            }
        };
        match quota {
            None => Ok(None),
            Some(quota) if quota > 0 && period > 0 => Ok(Some(quota as f64 / period as f64)),
            Some(_) => Err(ODD),
        }
    }

    fn throttling(&mut self, buffer: &mut Buffer, now: Timestamp) -> Result<Throttling, Error> {
        let text = self.stat.read(buffer, now)?;
        let throttled_ns = match &self.period {
            None => keyed(text, b"throttled_usec").and_then(|us| us.checked_mul(1000)),
            Some(_) => keyed(text, b"throttled_time"),
        };
        let parse = || {
            Some(Throttling {
                periods: keyed(text, b"nr_periods")?,
                throttled_periods: keyed(text, b"nr_throttled")?,
                throttled_ns: throttled_ns?,
            })
        };
        parse().ok_or(Error::Malformed(
            "its cpu.stat lacks the figures of a quota",
        ))
    }
}

/// The memory files of a level.
#[derive(Debug)]
struct MemoryLevel {
    limit: Source,
    current: Source,
}

impl MemoryLevel {
    fn open(version: u8, directory: &Path) -> Self {
        let (limit, current) = match version {
            2 => ("memory.max", "memory.current"),
            _ => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        };
        Self {
            limit: Source::open(directory.join(limit)),
            current: Source::open(directory.join(current)),
        }
    }

    fn limit(&mut self, buffer: &mut Buffer, now: Timestamp) -> Result<Option<u64>, Error> {
        let limit = limit(self.limit.read(buffer, now)?).ok_or(Error::Malformed(
            "its memory limit is neither a number nor `max`",
        ))?;
        Ok(limit.filter(|bytes| *bytes < UNLIMITED_V1))
    }

    fn current(&mut self, buffer: &mut Buffer, now: Timestamp) -> Result<u64, Error> {
        let text = self.current.read(buffer, now)?;
        line(text)
            .and_then(number)
            .ok_or(Error::Malformed("its memory use is not a number"))
    }
}

/// Memory at all levels, the peak and the kills of the process's own.
#[derive(Debug)]
struct MemoryFiles {
    version: u8,
    levels: Vec<MemoryLevel>,
    peak: Source,
    events: Source,
}

impl MemoryFiles {
    fn open(place: &Place) -> Self {
        let (peak, events) = match place.version {
            2 => ("memory.peak", "memory.events"),
            _ => ("memory.max_usage_in_bytes", "memory.oom_control"),
        };
        let own = |name| Source::open(place.levels[0].join(name));
        Self {
            version: place.version,
            levels: place
                .levels
                .iter()
                .map(|directory| MemoryLevel::open(place.version, directory))
                .collect(),
            peak: own(peak),
            events: own(events),
        }
    }

    fn read(&mut self, buffer: &mut Buffer, now: Timestamp) -> Result<CgroupMemory, Error> {
        let mut memory = CgroupMemory {
            version: self.version,
            ..CgroupMemory::default()
        };
        for (index, level) in self.levels.iter_mut().enumerate() {
            let own = index == 0;
            if own {
                memory.current_bytes = level.current(buffer, now)?;
            }
            let limit = match level.limit(buffer, now) {
                // The outermost group has no limit, nor has one without this controller.
                Err(error) if error.is_missing() => None,
                other => other?,
            };
            let Some(limit) = limit else { continue };
            let current = match own {
                true => memory.current_bytes,
                false => level.current(buffer, now)?,
            };
            let least =
                |known: Option<u64>, new: u64| Some(known.map_or(new, |known| known.min(new)));
            memory.limit_bytes = least(memory.limit_bytes, limit);
            memory.headroom_bytes = least(memory.headroom_bytes, limit.saturating_sub(current));
        }
        // Kernels that lack these two are common, so they are not worth a reason.
        memory.peak_bytes = self
            .peak
            .read(buffer, now)
            .ok()
            .and_then(line)
            .and_then(number);
        memory.oom_kills = self
            .events
            .read(buffer, now)
            .ok()
            .and_then(|text| keyed(text, b"oom_kill"));
        Ok(memory)
    }
}

/// The groups, with their files kept open.
#[derive(Debug)]
pub(crate) struct Groups {
    root: Root,
    membership: Source,
    /// The membership that the files below were opened for.
    known: Vec<u8>,
    look_again: Timestamp,
    cpu: Result<Vec<CpuLevel>, Error>,
    memory: Result<MemoryFiles, Error>,
}

impl Groups {
    pub(crate) fn open(root: &Root) -> Self {
        let unknown = Error::Absent("was not read yet");
        Self {
            root: root.clone(),
            membership: Source::open(root.join(Path::new("proc/self/cgroup"))),
            known: Vec::new(),
            look_again: Timestamp::ZERO,
            cpu: Err(unknown),
            memory: Err(unknown),
        }
    }

    /// Opens the files anew if the process was moved.
    pub(crate) fn follow(&mut self, buffer: &mut Buffer, now: Timestamp) {
        if now < self.look_again {
            return;
        }
        self.look_again = now.saturating_add(LOOK_AGAIN);
        match self.membership.read(buffer, now) {
            Ok(groups) if groups == self.known => {}
            Ok(groups) => {
                self.known = groups.to_vec();
                let mounts = read_whole(&self.root.join(Path::new("proc/self/mountinfo")));
                let place = |controller| match &mounts {
                    Ok(mounts) => place(&self.root, controller, &self.known, mounts),
                    Err(error) => Err(*error),
                };
                self.cpu = place(b"cpu").map(|place| {
                    let open = |directory: &PathBuf| CpuLevel::open(place.version, directory);
                    place.levels.iter().map(open).collect()
                });
                self.memory = place(b"memory").map(|place| MemoryFiles::open(&place));
            }
            Err(error) => {
                self.known.clear();
                self.cpu = Err(error);
                self.memory = Err(error);
            }
        }
    }

    /// The quota; `None` when there is none.
    pub(crate) fn quota(
        &mut self,
        buffer: &mut Buffer,
        now: Timestamp,
    ) -> Result<Option<Quota>, Error> {
        let levels = self.cpu.as_mut().map_err(|error| *error)?;
        let mut tightest: Option<Quota> = None;
        let mut throttled_ns: u64 = 0;
        let mut missing = None;
        let mut seen = false;
        for (level, files) in (0..).zip(levels) {
            let cpus = match files.cpus(buffer, now) {
                Err(error) if error.is_missing() => {
                    missing = Some(error);
                    continue;
                }
                other => other?,
            };
            seen = true;
            let Some(cpus) = cpus else { continue };
            let throttling = files.throttling(buffer, now)?;
            throttled_ns = throttled_ns.saturating_add(throttling.throttled_ns);
            if tightest.is_none_or(|known| cpus < known.cpus) {
                tightest = Some(Quota {
                    cpus,
                    level,
                    periods: throttling.periods,
                    throttled_periods: throttling.throttled_periods,
                    throttled_ns: throttling.throttled_ns,
                    other_throttled_ns: 0,
                });
            }
        }
        match missing {
            Some(error) if !seen => Err(error),
            _ => Ok(tightest.map(|quota| Quota {
                other_throttled_ns: throttled_ns.saturating_sub(quota.throttled_ns),
                ..quota
            })),
        }
    }

    /// The memory group.
    pub(crate) fn memory(
        &mut self,
        buffer: &mut Buffer,
        now: Timestamp,
    ) -> Result<CgroupMemory, Error> {
        self.memory
            .as_mut()
            .map_err(|error| *error)?
            .read(buffer, now)
    }

    /// What a failure of the quota is about.
    pub(crate) fn cpu_path(&self) -> &Path {
        match &self.cpu {
            Ok(levels) => levels
                .first()
                .map_or(self.membership.path(), |own| own.quota.path()),
            Err(_) => self.membership.path(),
        }
    }

    /// What a failure of the memory group is about.
    pub(crate) fn memory_path(&self) -> &Path {
        match &self.memory {
            Ok(files) => files
                .levels
                .first()
                .map_or(self.membership.path(), |own| own.current.path()),
            Err(_) => self.membership.path(),
        }
    }
}

/// A file that the kernel hands out in pieces.
fn read_whole(path: &Path) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES as u64 + 1)
        .read_to_end(&mut text)?;
    if text.len() > MAX_FILE_BYTES {
        return Err(Error::TooLarge);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_mountinfo() {
        for (text, path) in [
            (&b"/a\\040b\\134c\\011"[..], "/a b\\c\t"),
            (b"/plain", "/plain"),
            (b"/cut\\04", "/cut\\04"),
            (b"/odd\\999", "/odd\\999"),
            (b"", ""),
        ] {
            assert_eq!(unescaped(text), Path::new(path));
        }
    }

    #[test]
    fn limits() {
        for (text, wanted) in [
            (&b"max\n"[..], Some(None)),
            (b"-1\n", Some(None)),
            (b"0\n", Some(Some(0))),
            (b"4096\n", Some(Some(4096))),
            (b"4096", None),
            (b"maximum\n", None),
            (b"-\n", None),
            (b"-x\n", None),
            (b"1 2\n", None),
        ] {
            assert_eq!(limit(text), wanted, "{text:?}");
        }
    }
}
