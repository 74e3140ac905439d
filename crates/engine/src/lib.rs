//! The engine of flyball: one configuration, its parts, and the loop that controls them.
//!
//! This is the only crate that wires. It starts the executor and opens the sensors as the configuration says, runs the control
//! loop on one thread of its own, and answers what API, command line and library ask.
//!
//! ```text
//! sensors ─► Snapshot ─► controllers ─► proposals ─► arbiter ─► decisions ─► executor
//!                │                                                  │
//!                └────────────► history, figures                    └─► log, API, event stream
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `engine` | what its owner holds |
//! | `answers` | what it answers, and the changes it takes: the same behind every door |
//! | `config` | one file, environment, flags → validated configuration, with the origin of each value |
//! | `settings` | what the configuration means for the parts (pure) |
//! | `apply` | changes of the configuration while it runs, whole or not at all |
//! | `control` | the control loop |
//! | `knobs`, `decisions` | the arbiter's knobs and what its decisions do; their log |
//! | `throttles` | what throttles see, and what their levels do |
//! | `limits` | gates by name, of programs and of the configuration |
//! | `unused` | what the configuration names and nothing comes of |
//! | `tasks` | durable tasks: the queue, and what runs them (feature `tasks`) |
//! | `snapshot` | one look at machine and executor, and those that are kept |
//! | `usage`, `health` | judgements on them (pure) |
//! | `events` | the bounded stream of what happened |
//! | `view` | what people and programs are shown |

mod answers;
mod apply;
pub mod config;
mod control;
mod decisions;
mod engine;
mod error;
pub mod events;
pub mod health;
pub mod knobs;
mod limits;
mod settings;
mod shared;
pub mod snapshot;
#[cfg(feature = "tasks")]
mod tasks;
mod throttles;
mod unused;
pub mod usage;
pub mod view;

pub use answers::{DecisionQuery, ScaleRequest, WorkerChange};
pub use decisions::MAX_DECISIONS;
pub use engine::{Engine, Options};
pub use error::Error;
pub use limits::MAX_GATES;
#[cfg(feature = "tasks")]
pub use tasks::Draft;
pub use throttles::MAX_THROTTLE_EVENTS;
