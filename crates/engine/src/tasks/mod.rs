//! Durable tasks as a part of the engine: which queue there is, who follows it, what the configuration means for it.
//!
//! | module | what it is |
//! |---|---|
//! | `calls` | what programs ask of it |
//! | `draft` | a task in the making |
//! | `part` | the queue that is open, or why there is none |
//! | `open` | what is open while it is on: store, runners, processes |
//! | `follow` | the thread that follows it |
//! | `settings` | what the configuration means for it (pure) |
//! | `verdict` | how well it is (pure) |
//!
//! Invariants: without a folder named by program or configuration nothing is opened, and no thread started; when the part is switched
//! off its queue is closed, and what is in it stays on disk.

mod calls;
mod draft;
mod follow;
mod open;
mod part;
pub(crate) mod settings;
mod verdict;

pub use draft::Draft;
pub(crate) use part::{Given, Part};

use flyball_tasks::{NewTask, Run};
use sha2::{Digest, Sha256};

/// Tells tasks apart that are submitted under one idempotency key.
fn fingerprint(task: &NewTask) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(task.head.kind.as_bytes());
    add(task.head.class.as_bytes());
    add(&task.payload);
    match &task.run {
        Run::Command(command) => {
            for word in &command.argv {
                add(word.as_encoded_bytes());
            }
        }
        Run::Http(call) => {
            add(call.method.as_bytes());
            add(call.url.as_bytes());
            add(call.body.as_deref().unwrap_or_default());
        }
        Run::Handler => {}
    }
    hash.finalize().into()
}
