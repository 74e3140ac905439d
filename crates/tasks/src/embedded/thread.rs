//! The thread that writes.

use super::core::Core;
use super::inbox::Woken;
use super::message::Message;
use super::shared::Shared;
use std::sync::Arc;

/// Requests of one group, at most. What a group holds is bounded by the room of the inbox, too.
const GROUP_MESSAGES: usize = 4096;

/// Does what is asked until the queue is closed and nobody is left who could ask.
pub(super) fn run(mut core: Core, shared: &Arc<Shared>) {
    let mut messages: Vec<Message> = Vec::new();
    let mut returns = Vec::new();
    loop {
        let wait = core.wait();
        let woken = shared.inbox.receive(&mut messages, GROUP_MESSAGES, wait);
        #[cfg(test)]
        if shared.dies.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        shared.take_returns(&mut returns);
        core.run(&mut messages, &mut returns);
        if woken == Woken::Closed {
            core.end();
            return;
        }
    }
}
