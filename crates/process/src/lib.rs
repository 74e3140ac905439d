//! Starting, limiting, watching and ending processes, without forking the program that asks.
//!
//! A program of many gigabytes and threads must not fork: it is slow, and the peak memory of every child would read as its own.
//! So the program executes itself anew as a small *spawn server* ([`init`], [`SpawnServer`]). The server makes *keepers*, one
//! for each command that runs at once; a keeper starts the command, is told by the kernel of every process in its tree, kills all
//! of them when asked, when the time is over or when the program is gone, and reports what they used.
//!
//! ```no_run
//! use flyball_process::{Command, Options, SpawnServer};
//!
//! fn main() -> Result<(), flyball_process::Error> {
//!     flyball_process::init();
//!     let server = SpawnServer::start(Options::default())?;
//!     let mut child = server.spawn(Command::new("gzip").args(["-kc", "notes.txt"]).capture_stdout(1 << 20))?;
//!     let exit = child.wait_blocking()?;
//!     assert!(exit.success());
//!     println!("{:?} of CPU, {} bytes at most", exit.cpu(), exit.peak_memory);
//!     Ok(())
//! }
//! ```
//!
//! # Promises
//! - When a command has ended, by itself, by its timeout, by [`Child::kill`], or by the death of this program (`kill -9` too),
//!   nothing of its tree is left: not what forked twice, called `setsid`, ignores SIGTERM or is stopped. What cannot be killed
//!   (it changed its user, or waits for a dead disk) is counted in [`Exit::survivors`].
//! - Peak memory, CPU time and I/O are the kernel's own counts, taken when the processes are reaped.
//! - Children, outputs, queues and messages have bounds, and an error or a count says when one was met.
//!
//! # Leaves out
//! Durable tasks, retries and sharing between machines. Nothing starts before [`SpawnServer::start`].

pub mod bounds;
mod capture;
mod child;
mod command;
mod error;
mod exit;
mod jobserver;
mod keeper;
mod lookup;
mod resident;
mod server;
mod slots;
mod sys;
mod tree;
mod wire;

pub use child::{Child, Control, Status, Wait};
pub use command::{Command, IoPriority, Isolation, Resource};
pub use error::{Error, SpawnReason, Stage};
pub use exit::{Ended, Exit, IoBytes, Output};
pub use jobserver::{Held, Jobserver, JobserverOptions, JobserverStats, Style};
pub use resident::init;
pub use server::{Containment, Options, SpawnServer};
pub use slots::{ClassUsage, Slots};
