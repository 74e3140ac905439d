//! Runs durable tasks in a program: takes them from a queue, starts them where there is room, and reports their ends.
//!
//! | module | what it is |
//! |---|---|
//! | `runners` | [`Runners`]: what a program holds |
//! | `settings`, `allow`, `reach` | what people set; whose commands may run, and what calls of others may reach |
//! | `handlers`, `context` | what a program registers for kinds of tasks, and what it is told |
//! | `dispatcher` | takes tasks, starts them, hears of cancellations |
//! | `ledger` | what is reserved, pure |
//! | `line` | when calls come back for which a dependency had no slot, pure |
//! | `breakers` | dependencies that are left alone for a while |
//! | `gates` | adaptive limits of classes and dependencies |
//! | `drive` | one run: signs of life, timeout, the report |
//! | `handle`, `command`, `http` | the ways in which tasks run |
//! | `outputs` | what commands wrote |
//! | `figures` | counts by kind, events |
//!
//! ```text
//!   queue ── lease ──► dispatcher ── reserve, breaker ──► drive ──► handler in a class · command in a slot · call of a URL
//!     ▲                    ▲                                │
//!     └── heartbeat, finish ┼───────────────────────────────┤
//!                           └─────────── release ───────────┘
//! ```
//!
//! Everything but handlers and processes happens on one thread, which its owner ends.

#![cfg_attr(
    not(all(feature = "command", feature = "http")),
    allow(dead_code, reason = "some things only commands or calls of URLs do")
)]

mod allow;
mod breakers;
#[cfg(feature = "command")]
mod command;
#[cfg(feature = "http")]
mod connect;
mod context;
mod dispatcher;
mod drive;
mod ended;
mod figures;
mod gates;
mod handle;
mod handlers;
#[cfg(feature = "http")]
mod http;
mod hub;
mod ledger;
mod line;
#[cfg(feature = "command")]
mod outputs;
mod parts;
mod reach;
mod runners;
mod settings;
mod url;

pub use allow::{AllowList, Fault};
pub use breakers::{DependencyError, DependencyStatus};
pub use context::{CHECKPOINT_BYTES_MAX, CheckpointError, Phase, TaskContext};
pub use dispatcher::Running;
pub use figures::{EVENTS_MAX, Happened, KindCounts, RunEvent};
pub use gates::Gates;
pub use handlers::{Handlers, RegisterError, TaskError};
#[cfg(feature = "http")]
pub use http::{check_header, check_url};
pub use hub::Classes;
pub use ledger::Grant;
#[cfg(feature = "command")]
pub use outputs::{OutputError, OutputReader, OutputStatus, Outputs, Stream};
pub use reach::Reach;
pub use runners::{Drained, Parts, Runners, StartError};
pub use settings::{HealthCheck, MAX_CONCURRENCY, MAX_RESOURCES, OutputLimits, RunSettings};
