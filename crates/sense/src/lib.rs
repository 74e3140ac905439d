//! What the machine does: CPU, memory and pressure as the kernel counts them.
//!
//! A control loop that looks often must look cheaply, and what it acts on must be true. So [`Sensors`] keeps the kernel's
//! files open, reads each with one `pread` into one reused buffer and parses bytes: a [`Sample`] of everything costs a few
//! dozen microseconds, mostly the kernel's own, and allocates nothing once the first has been taken. A sample holds
//! *counters*; [`usage()`] turns two samples into percentages and rates, and is a pure function.
//!
//! Invariants:
//! - **An unknown figure is `None`, never zero.** A file that is missing, cut off, garbage, too large or gone makes the one
//!   reading that needs it `None` and stands in [`Sensors::unavailable`] with the reason, once. Nothing here fails or panics
//!   for want of a file, and a file that comes back is read again.
//! - **Percentages come from counter differences** over the caller's window, never from a guess; a counter that went
//!   backwards and a CPU that was not there before have no percentage.
//! - **Everything below a [`Root`]**, so that the captured files of other machines can be read like those of this one.
//! - **Bounded**: files up to [`MAX_FILE_BYTES`], control groups up to [`MAX_LEVELS`] deep.
//!
//! Left out: judgement (what is too much), history, disks, networks and temperatures.
//!
//! Follows the kernel's `Documentation/filesystems/proc.rst`, `Documentation/accounting/psi.rst`,
//! `Documentation/admin-guide/cgroup-v2.rst`, `Documentation/admin-guide/cgroup-v1/memory.rst` and
//! `Documentation/scheduler/sched-bwc.rst`.
//!
//! ```
//! use flyball_core::time::{Clock, OsClock};
//! use flyball_sense::{Root, Sample, Sensors, usage};
//!
//! let mut sensors = Sensors::open(&Root::default());
//! let (mut before, mut after) = (Sample::default(), Sample::default());
//! sensors.sample(OsClock.now(), &mut before);
//! // … a second later:
//! sensors.sample(OsClock.now(), &mut after);
//! let usage = usage(&before, &after);
//! if let Some(cpu) = &usage.cpu {
//!     assert!((0.0..=100.0).contains(&cpu.overall_percent));
//! }
//! ```

mod bytes;
mod cgroup;
mod error;
mod proc;
mod root;
mod sample;
mod sensors;
mod source;
mod sys;
mod usage;

pub use cgroup::{ControlGroup, MAX_LEVELS, control_group};
pub use root::Root;
pub use sample::{
    CgroupMemory, CoreTimes, CpuTimes, Load, Memory, Pressure, Process, Quota, Sample, Stall, Tick,
};
pub use sensors::{Readings, Sensors, Unavailable};
pub use source::MAX_FILE_BYTES;
pub use usage::{CoreUsage, CpuShares, Usage, usage};
