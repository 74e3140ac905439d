//! What the scheduler knows of a class.

use flyball_core::class::{ClassSpec, Group, MAX_PRIORITY, MAX_SHARES};
use flyball_core::id::ClassId;
use flyball_core::time::nanos_of;

use crate::Error;

/// The part of a class specification that scheduling needs; ranges as in [`ClassSpec`].
#[derive(Clone, PartialEq, Debug)]
pub struct ClassParams {
    /// 0 to 7, higher first.
    pub priority: u8,
    /// 1 to 1,000,000.
    pub shares: u32,
    /// 0 to 1 of all CPU.
    pub guarantee: f64,
    /// Above 0, at most 1 of all CPU; not below the guarantee.
    pub ceiling: f64,
    /// At least 1 ns.
    pub latency_target_ns: u64,
    /// 1 ns to 10 s.
    pub slice_ns: u64,
    /// Grants that may be out at once, at least 1; `u32::MAX` for no limit.
    pub concurrency: u32,
    /// The group of workers that runs the class.
    pub group: Group,
}

/// The longest slice the scheduler takes; ten times what a class specification allows.
const MAX_SLICE_NS: u64 = 10_000_000_000;

impl ClassParams {
    /// Checks the ranges.
    pub(crate) fn check(&self, class: ClassId) -> Result<(), Error> {
        let require = |holds: bool, field, expected| {
            if holds {
                Ok(())
            } else {
                Err(Error::Parameter {
                    class,
                    field,
                    expected,
                })
            }
        };
        let unit = 0.0..=1.0;
        require(self.priority <= MAX_PRIORITY, "priority", "0 to 7")?;
        require(
            (1..=MAX_SHARES).contains(&self.shares),
            "shares",
            "1 to 1000000",
        )?;
        require(unit.contains(&self.guarantee), "guarantee", "0 to 1")?;
        require(
            self.ceiling > 0.0 && unit.contains(&self.ceiling),
            "ceiling",
            "above 0, at most 1",
        )?;
        require(
            self.guarantee <= self.ceiling,
            "guarantee",
            "at most its ceiling",
        )?;
        require(self.latency_target_ns > 0, "latency target", "above 0")?;
        require(
            (1..=MAX_SLICE_NS).contains(&self.slice_ns),
            "time slice",
            "1 ns to 10 s",
        )?;
        require(self.concurrency > 0, "concurrency", "at least 1")
    }
}

impl From<&ClassSpec> for ClassParams {
    fn from(spec: &ClassSpec) -> Self {
        Self {
            priority: spec.priority,
            shares: spec.shares,
            guarantee: spec.guarantee,
            ceiling: spec.ceiling,
            latency_target_ns: nanos_of(spec.latency_target),
            slice_ns: nanos_of(spec.time_slice),
            concurrency: spec.concurrency.unwrap_or(u32::MAX),
            group: spec.group,
        }
    }
}
