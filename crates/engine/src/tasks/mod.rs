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
use std::path::Path;

/// Tells tasks apart that are submitted under one idempotency key: by what they do and how they are arranged. Times are left out, as a
/// program that repeats `delay` names other ones, and so is what comes from the configuration where the program says nothing.
fn fingerprint(task: &NewTask) -> [u8; 32] {
    let head = &task.head;
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(head.kind.as_bytes());
    add(head.class.as_bytes());
    add(&head.priority.to_le_bytes());
    add(&task.payload);
    for name in [&head.key, &head.affinity_key, &head.group] {
        add(&[u8::from(name.is_some())]);
        add(name.as_deref().unwrap_or_default().as_bytes());
    }
    add(head
        .unique
        .as_ref()
        .map_or(&[], |unique| unique.key.as_bytes()));
    // Lists begin with their length, so that the end of one is not taken for the beginning of the next.
    add(&head.after.len().to_le_bytes());
    for parent in &head.after {
        add(&parent.parent.0.to_le_bytes());
        add(&[parent.when as u8]);
    }
    add(&head.needs.cpu_millis.to_le_bytes());
    add(&head.needs.memory_bytes.to_le_bytes());
    add(&head.needs.resources.len().to_le_bytes());
    for (name, count) in &head.needs.resources {
        add(name.as_bytes());
        add(&count.to_le_bytes());
    }
    add(&task.labels.len().to_le_bytes());
    for (name, value) in &task.labels {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    match &task.run {
        Run::Command(command) => {
            add(b"command");
            add(&command.argv.len().to_le_bytes());
            for word in &command.argv {
                add(word.as_encoded_bytes());
            }
            let folder = command.cwd.as_deref().unwrap_or(Path::new(""));
            add(folder.as_os_str().as_encoded_bytes());
            add(&[u8::from(command.clear_env)]);
            for (name, value) in &command.env {
                add(name.as_encoded_bytes());
                add(value.as_encoded_bytes());
            }
        }
        Run::Http(call) => {
            add(b"http");
            add(call.method.as_bytes());
            add(call.url.as_bytes());
            add(&[u8::from(call.body.is_some())]);
            add(call.body.as_deref().unwrap_or_default());
            for (name, value) in &call.headers {
                add(name.as_bytes());
                add(value.as_bytes());
            }
        }
        Run::Handler => add(b"handler"),
    }
    hash.finalize().into()
}
