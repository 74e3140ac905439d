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
//! | `config` | one file, environment, flags → validated configuration, with the origin of each value |
//! | `view` | what people and programs are shown |
//! | `usage` | statistics of CPU use over the history (pure) |
//! | `events` | the bounded stream of what happened |

pub mod config;
pub mod events;
pub mod usage;
pub mod view;
