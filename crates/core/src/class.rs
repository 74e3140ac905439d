//! Scheduling classes: what a class is promised and how far it may go.
//!
//! CPU, memory and I/O speak of the same classes. A [`ClassSpec`] is what people write; [`ClassSpec::validate`] is the
//! gate between what they wrote and what runs, so policies may rely on the ranges stated at each field. Bounds that
//! need all classes at once (guarantees over 100 %) are checked where classes are added.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

/// The number of classes that one engine can have: the bits of a word, so that sets of classes are one word.
pub const MAX_CLASSES: usize = 64;
/// The highest priority of a class; the lowest is 0.
pub const MAX_PRIORITY: u8 = 7;
/// The most shares that a class can have.
pub const MAX_SHARES: u32 = 1_000_000;
/// The shortest time slice: below it, reading the CPU clock (0.4 µs) would cost more than 4 %.
pub const MIN_TIME_SLICE: Duration = Duration::from_micros(10);
/// The longest time slice.
pub const MAX_TIME_SLICE: Duration = Duration::from_secs(1);
/// The longest name of a class, in bytes.
pub const MAX_NAME_LEN: usize = 64;
/// The queue limit of a class that names none: 2^20 tasks.
pub const DEFAULT_QUEUE_LIMIT: usize = 1 << 20;

/// The group of worker threads that runs a class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Group {
    /// Parked until needed, at normal priority of the operating system: takes the CPU from the back group.
    Front,
    /// At low priority of the operating system: runs whenever the front group does not.
    Back,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Front => "front",
            Self::Back => "back",
        })
    }
}

impl FromStr for Group {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text {
            "front" => Ok(Self::Front),
            "back" => Ok(Self::Back),
            _ => Err(SpecError::Group { given: text.into() }),
        }
    }
}

/// What a class is promised and how far it may go.
#[derive(Clone, PartialEq, Debug)]
pub struct ClassSpec {
    /// 1 to 64 characters of `a-z`, `0-9`, `_`, `-`.
    pub name: String,
    /// 0 to 7, higher first. Decides under the algorithm `priority`, and breaks ties under the others.
    pub priority: u8,
    /// 1 to 1,000,000: the weight of the class against the other classes that have work.
    pub shares: u32,
    /// 0 to 1: the part of all CPU that the class gets at least while it has work. All guarantees together are at most 1.
    pub guarantee: f64,
    /// Above 0, at most 1: the part of all CPU that the class gets at most. Not below the guarantee.
    pub ceiling: f64,
    /// How long a task may wait before it counts as late; orders tasks by deadline where the algorithm does.
    pub latency_target: Duration,
    /// 10 µs to 1 s: how long the class runs before the scheduler decides again.
    pub time_slice: Duration,
    /// At least 1: the tasks that may wait in the class; more are refused.
    pub queue_limit: usize,
    /// Whether queued work in memory may be refused again under overload.
    pub sheddable: bool,
    /// Whether a running command of the class may be paused while one of a class with a higher priority needs its slot.
    pub preemptible: bool,
    /// How many workers may run the class at once, at least 1; `None` for no limit.
    pub concurrency: Option<u32>,
    /// The group of threads that runs the class.
    pub group: Group,
    /// -20 to 19: the niceness of child processes of the class.
    pub niceness: i8,
}

impl ClassSpec {
    /// Makes a class like `normal` with another name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            priority: 2,
            shares: 1024,
            guarantee: 0.0,
            ceiling: 1.0,
            latency_target: Duration::from_millis(50),
            time_slice: Duration::from_micros(100),
            queue_limit: DEFAULT_QUEUE_LIMIT,
            sheddable: false,
            preemptible: false,
            concurrency: None,
            group: Group::Back,
            niceness: 0,
        }
    }

    /// Returns the classes that every engine starts with: `critical`, `interactive` (front group), `normal`, `batch`,
    /// `idle` (back group), highest priority first.
    ///
    /// Shares step by a factor so that each class prevails over all those below it together without starving them;
    /// no class has a guarantee, a ceiling or a limit on concurrency.
    pub fn built_in() -> [Self; 5] {
        let ms = Duration::from_millis;
        [
            Self::new("critical")
                .with_priority(4)
                .with_shares(4096)
                .with_group(Group::Front)
                .with_latency_target(ms(1)),
            Self::new("interactive")
                .with_priority(3)
                .with_shares(2048)
                .with_group(Group::Front)
                .with_latency_target(ms(5)),
            Self::new("normal"),
            Self::new("batch")
                .with_priority(1)
                .with_shares(256)
                .with_latency_target(ms(1_000))
                .with_sheddable(true)
                .with_preemptible(true)
                .with_niceness(10),
            Self::new("idle")
                .with_priority(0)
                .with_shares(16)
                .with_latency_target(ms(10_000))
                .with_sheddable(true)
                .with_preemptible(true)
                .with_niceness(19),
        ]
    }

    /// Sets the priority, 0 to 7.
    #[must_use]
    pub fn with_priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the shares, 1 to 1,000,000.
    #[must_use]
    pub fn with_shares(mut self, shares: u32) -> Self {
        self.shares = shares;
        self
    }

    /// Sets the guaranteed minimum, 0 to 1 of all CPU.
    #[must_use]
    pub fn with_guarantee(mut self, guarantee: f64) -> Self {
        self.guarantee = guarantee;
        self
    }

    /// Sets the ceiling, above 0 and at most 1 of all CPU.
    #[must_use]
    pub fn with_ceiling(mut self, ceiling: f64) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// Sets the latency target.
    #[must_use]
    pub fn with_latency_target(mut self, target: Duration) -> Self {
        self.latency_target = target;
        self
    }

    /// Sets the time slice, 10 µs to 1 s.
    #[must_use]
    pub fn with_time_slice(mut self, slice: Duration) -> Self {
        self.time_slice = slice;
        self
    }

    /// Sets the number of tasks that may wait.
    #[must_use]
    pub fn with_queue_limit(mut self, limit: usize) -> Self {
        self.queue_limit = limit;
        self
    }

    /// Sets whether queued work may be refused again under overload.
    #[must_use]
    pub fn with_sheddable(mut self, sheddable: bool) -> Self {
        self.sheddable = sheddable;
        self
    }

    /// Sets whether running commands may be paused for those of a higher priority.
    #[must_use]
    pub fn with_preemptible(mut self, preemptible: bool) -> Self {
        self.preemptible = preemptible;
        self
    }

    /// Sets how many workers may run the class at once; `None` for no limit.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: impl Into<Option<u32>>) -> Self {
        self.concurrency = concurrency.into();
        self
    }

    /// Sets the group of threads that runs the class.
    #[must_use]
    pub fn with_group(mut self, group: Group) -> Self {
        self.group = group;
        self
    }

    /// Sets the niceness of child processes, -20 to 19.
    #[must_use]
    pub fn with_niceness(mut self, niceness: i8) -> Self {
        self.niceness = niceness;
        self
    }

    /// Checks every field against the range that it states.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), SpecError> {
        let class = || self.name.clone();
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if self.name.is_empty() || self.name.len() > MAX_NAME_LEN || !self.name.chars().all(allowed)
        {
            return Err(SpecError::Name { given: class() });
        }
        if self.priority > MAX_PRIORITY {
            return Err(SpecError::Priority {
                class: class(),
                given: self.priority,
            });
        }
        if self.shares == 0 || self.shares > MAX_SHARES {
            return Err(SpecError::Shares {
                class: class(),
                given: self.shares,
            });
        }
        if !(0.0..=1.0).contains(&self.guarantee) {
            return Err(SpecError::Guarantee {
                class: class(),
                given: self.guarantee,
            });
        }
        if !(self.ceiling > 0.0 && self.ceiling <= 1.0) {
            return Err(SpecError::Ceiling {
                class: class(),
                given: self.ceiling,
            });
        }
        if self.guarantee > self.ceiling {
            return Err(SpecError::GuaranteeAboveCeiling {
                class: class(),
                guarantee: self.guarantee,
                ceiling: self.ceiling,
            });
        }
        if self.latency_target.is_zero() {
            return Err(SpecError::LatencyTarget { class: class() });
        }
        if self.time_slice < MIN_TIME_SLICE || self.time_slice > MAX_TIME_SLICE {
            return Err(SpecError::TimeSlice {
                class: class(),
                given: self.time_slice,
            });
        }
        if self.queue_limit == 0 {
            return Err(SpecError::QueueLimit { class: class() });
        }
        if self.concurrency == Some(0) {
            return Err(SpecError::Concurrency { class: class() });
        }
        if !(-20..=19).contains(&self.niceness) {
            return Err(SpecError::Niceness {
                class: class(),
                given: self.niceness,
            });
        }
        Ok(())
    }
}

/// Says which field of a [`ClassSpec`] is out of its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields repeat the message
pub enum SpecError {
    /// The name is empty, too long or has other characters than allowed.
    #[error("class name {given:?} must be 1 to 64 characters of a-z, 0-9, '_' and '-'")]
    Name { given: String },
    /// The priority is above 7.
    #[error("priority {given} of class {class} must be 0 to 7")]
    Priority { class: String, given: u8 },
    /// The shares are 0 or above 1,000,000.
    #[error("shares {given} of class {class} must be 1 to 1000000")]
    Shares { class: String, given: u32 },
    /// The guarantee is not a part of the whole.
    #[error("guarantee {given} of class {class} must be 0 to 1")]
    Guarantee { class: String, given: f64 },
    /// The ceiling is not a part of the whole, or nothing.
    #[error("ceiling {given} of class {class} must be above 0 and at most 1")]
    Ceiling { class: String, given: f64 },
    /// The class would be promised more than it may have.
    #[error("guarantee {guarantee} of class {class} is above its ceiling {ceiling}")]
    GuaranteeAboveCeiling {
        class: String,
        guarantee: f64,
        ceiling: f64,
    },
    /// The latency target is zero.
    #[error("latency target of class {class} must be above 0")]
    LatencyTarget { class: String },
    /// The time slice is below 10 µs or above 1 s.
    #[error("time slice {given:?} of class {class} must be 10us to 1s")]
    TimeSlice { class: String, given: Duration },
    /// The queue limit is zero: the class could never take a task.
    #[error("queue limit of class {class} must be at least 1")]
    QueueLimit { class: String },
    /// The limit on concurrency is zero: the class could never run.
    #[error("concurrency of class {class} must be at least 1, or absent for no limit")]
    Concurrency { class: String },
    /// The niceness is not one that the kernel knows.
    #[error("niceness {given} of class {class} must be -20 to 19")]
    Niceness { class: String, given: i8 },
    /// The group is neither front nor back.
    #[error("group {given:?} must be front or back")]
    Group { given: String },
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    /// CPU-2: the built-in classes exist, in order, and are valid.
    #[test]
    fn built_in_classes_are_valid_and_ordered() {
        let classes = ClassSpec::built_in();
        let names: alloc::vec::Vec<_> = classes.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(
            names,
            ["critical", "interactive", "normal", "batch", "idle"]
        );
        for class in &classes {
            assert_eq!(class.validate(), Ok(()));
        }
        assert!(classes.is_sorted_by(|a, b| a.priority > b.priority
            && a.shares > b.shares
            && a.group <= b.group));
    }

    /// CPU-2: each bound of a class is checked, at the bound, and the message names class, value and range.
    #[test]
    fn every_bound_is_checked() {
        let spec = || ClassSpec::new("jobs");
        let bad = [
            (ClassSpec::new(""), "class name \"\" must be"),
            (ClassSpec::new("Jobs"), "class name \"Jobs\" must be"),
            (ClassSpec::new("j".repeat(65)), "must be 1 to 64 characters"),
            (
                spec().with_priority(8),
                "priority 8 of class jobs must be 0 to 7",
            ),
            (
                spec().with_shares(0),
                "shares 0 of class jobs must be 1 to 1000000",
            ),
            (spec().with_shares(1_000_001), "shares 1000001"),
            (spec().with_guarantee(-0.1), "guarantee -0.1 of class jobs"),
            (
                spec().with_guarantee(f64::NAN),
                "guarantee NaN of class jobs",
            ),
            (spec().with_ceiling(0.0), "ceiling 0 of class jobs"),
            (spec().with_ceiling(f64::NAN), "ceiling NaN of class jobs"),
            (
                spec().with_guarantee(0.6).with_ceiling(0.5),
                "guarantee 0.6 of class jobs is above its ceiling 0.5",
            ),
            (
                spec().with_latency_target(Duration::ZERO),
                "latency target of class jobs",
            ),
            (
                spec().with_time_slice(Duration::from_micros(9)),
                "time slice 9µs of class jobs",
            ),
            (
                spec().with_time_slice(Duration::from_millis(1001)),
                "time slice 1.001s of class jobs",
            ),
            (spec().with_queue_limit(0), "queue limit of class jobs"),
            (spec().with_concurrency(0), "concurrency of class jobs"),
            (spec().with_niceness(20), "niceness 20 of class jobs"),
        ];
        for (spec, message) in bad {
            let error = spec.validate().expect_err(message).to_string();
            assert!(
                error.contains(message),
                "{error:?} should contain {message:?}"
            );
        }
        let at_the_bounds = spec()
            .with_priority(7)
            .with_shares(1_000_000)
            .with_guarantee(1.0)
            .with_time_slice(MIN_TIME_SLICE)
            .with_queue_limit(1)
            .with_concurrency(1)
            .with_niceness(-20);
        assert_eq!(at_the_bounds.validate(), Ok(()));
        assert_eq!(ClassSpec::new("j".repeat(64)).validate(), Ok(()));
    }

    #[test]
    fn groups_read_as_they_print() {
        for group in [Group::Front, Group::Back] {
            assert_eq!(group.to_string().parse(), Ok(group));
        }
        assert!("middle".parse::<Group>().is_err());
    }
}
