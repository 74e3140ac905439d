//! What people and programs are shown: plain data, the same for API, command line and library.
//!
//! A figure that is not known is `None`, never zero. Units are in the names where they are not obvious. These types hold no
//! judgement: it is made where the figure is made.

mod control;
mod cpu;
mod limit;
mod sizing;
#[cfg(feature = "tasks")]
mod task_event;
#[cfg(feature = "tasks")]
pub mod tasks;
mod throttle;
mod time;
mod work;

pub use control::{
    DecisionView, EventView, EvidenceView, KnobView, LimitView, PartHealth, PinView, StatusView,
    Utilisation,
};
pub use cpu::{
    CoreView, CpuHealth, CpuProfile, CpuStatus, HealthState, PartFlag, PressureView, UsageEvent,
    UsageEventKind, UsageStats,
};
pub use limit::{GateClassView, GateView, LimitChangeView, LimitEvent};
pub use sizing::{ForecastView, GroupSizing, PoolSizing};
#[cfg(feature = "tasks")]
pub use task_event::TaskEventView;
pub use throttle::{QuotaView, ThrottleEvent, ThrottleView, ThrottlerStats};
pub use time::Time;
pub use work::{
    BalancerStats, BalancerWorkerLoad, ClassView, LatencyView, QueueView, RunningTask,
    SchedulerClass, SchedulerStats, SheddingView, TaskTotals, WorkerEventView, WorkerLoad,
    WorkerStateView, WorkerView,
};
