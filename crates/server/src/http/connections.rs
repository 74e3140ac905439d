//! The connections there are, bounded; when one more comes, who goes.
//!
//! Order of leaving: those that only wait to be closed, then those whose head is incomplete, then those idle between requests, then
//! those whose body is still on its way; within each the one that has been so for longest. A request that is being answered is never
//! cut off. So whoever opens sockets and says nothing pushes out its own kind, and whoever asks is answered.
//!
//! Ages are turns of a counter rather than times: only their order matters.

use super::head::Refusal;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// Connections after which one more is allowed again: seldom enough that the refusals of a lasting shortage cost next to nothing.
const REGAIN: u64 = 64;

/// What a connection is doing, in the order in which connections leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Answered for the last time; waits for the peer to close.
    Closing,
    /// No complete head yet.
    Head,
    /// Between requests.
    Idle,
    /// The head is there, the body not all.
    Body,
    /// Being answered.
    Busy,
}

#[derive(Debug, Default)]
struct State {
    /// Heads handed to the library whose answer has not ended.
    open: u32,
    /// Requests so far.
    requests: u64,
    /// The body of the last request is not all there.
    body: bool,
    /// Bytes of a head are there.
    partial: bool,
    closing: bool,
    turn: u64,
    verdicts: VecDeque<Option<Refusal>>,
}

impl State {
    fn phase(&self) -> Phase {
        if self.closing {
            Phase::Closing
        } else if self.open > 0 {
            if self.body { Phase::Body } else { Phase::Busy }
        } else if self.partial || self.requests == 0 {
            Phase::Head
        } else {
            Phase::Idle
        }
    }
}

/// What the parts of one connection know of each other.
#[derive(Debug)]
pub(crate) struct Link {
    number: u64,
    connections: Arc<Connections>,
    state: Mutex<State>,
    /// Told when the connection has to go.
    pub(crate) evicted: Notify,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        let before = state.phase();
        change(&mut state);
        if state.phase() != before {
            state.turn = self.connections.turn();
        }
    }

    /// A head goes to the library, with what was found wrong with it.
    pub(crate) fn head(&self, verdict: Option<Refusal>, body: bool) {
        self.change(|state| {
            state.open += 1;
            state.requests += 1;
            state.partial = false;
            state.body = body;
            state.verdicts.push_back(verdict);
        });
    }

    /// The verdict on the next request that the library presents; `None` if it presents one that was never judged.
    pub(crate) fn verdict(&self) -> Option<Option<Refusal>> {
        self.state().verdicts.pop_front()
    }

    /// The body of the last request is complete.
    pub(crate) fn body_done(&self) {
        self.change(|state| state.body = false);
    }

    /// The first bytes of a head are there.
    pub(crate) fn partial(&self) {
        self.change(|state| state.partial = true);
    }

    /// An answer ended.
    pub(crate) fn answered(&self) {
        self.change(|state| {
            state.open = state.open.saturating_sub(1);
            // A body that nobody read ends the connection.
            state.closing |= state.body && state.open == 0;
        });
    }

    /// The last answer was written.
    pub(crate) fn closing(&self) {
        self.change(|state| state.closing = true);
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state().phase()
    }

    /// True if nothing was asked on this connection yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.state().requests == 0
    }

    fn turn(&self) -> u64 {
        self.state().turn
    }
}

/// Leaves the table when a connection's task ends, however it ends.
pub(crate) struct Entry(pub(crate) Arc<Link>);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.connections.remove(self.0.number);
    }
}

#[derive(Debug, Default)]
struct Table {
    links: BTreeMap<u64, Arc<Link>>,
    next: u64,
    turn: u64,
    /// Connections that may be open now: fewer than the bound after the process ran out of files.
    room: usize,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Connections {
    most: usize,
    table: Mutex<Table>,
    /// Told when a connection left.
    pub(crate) left: Notify,
}

impl Connections {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Connections {
            most,
            table: Mutex::new(Table {
                room: most,
                ..Table::default()
            }),
            left: Notify::new(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn turn(&self) -> u64 {
        let mut table = self.table();
        table.turn += 1;
        table.turn
    }

    fn remove(&self, number: u64) {
        self.table().links.remove(&number);
        self.left.notify_waiters();
    }

    pub(crate) fn len(&self) -> usize {
        self.table().links.len()
    }

    /// True if one more has to wait until another one left.
    pub(crate) fn is_full(&self) -> bool {
        let table = self.table();
        table.links.len() >= table.room
    }

    /// The system refused one more than there are: from now on there are fewer than that, so that the next one finds a file. Room comes
    /// back by one with every [`REGAIN`] connections.
    pub(crate) fn shrink(&self) {
        let mut table = self.table();
        table.room = table.links.len().saturating_sub(1).max(1);
    }

    /// Enters a new connection.
    pub(crate) fn enter(self: &Arc<Self>) -> Entry {
        let turn = self.turn();
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        if number.is_multiple_of(REGAIN) {
            table.room = (table.room + 1).min(self.most);
        }
        let link = Arc::new(Link {
            number,
            connections: self.clone(),
            state: Mutex::new(State {
                turn,
                ..State::default()
            }),
            evicted: Notify::new(),
        });
        table.links.insert(number, link.clone());
        Entry(link)
    }

    /// Tells the connection that has to go first that it must; returns false if every one is being answered.
    pub(crate) fn evict(&self) -> bool {
        let links: Vec<Arc<Link>> = self.table().links.values().cloned().collect();
        let first = links
            .iter()
            .filter(|link| link.phase() < Phase::Busy)
            .min_by_key(|link| (link.phase(), link.turn()));
        match first {
            Some(link) => {
                link.evicted.notify_one();
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evicted(connections: &Connections, links: &[&Entry]) -> usize {
        assert!(connections.evict());
        // A permit left in the `Notify` is what a task would see.
        let told: Vec<usize> = (0..links.len())
            .filter(|n| {
                let waiting = links[*n].0.evicted.notified();
                let mut waiting = std::pin::pin!(waiting);
                waiting.as_mut().enable()
            })
            .collect();
        assert_eq!(told.len(), 1);
        told[0]
    }

    #[test]
    fn the_oldest_incomplete_head_goes_before_idle_ones_and_nobody_who_is_answered() {
        let connections = Connections::new(4);
        let busy = connections.enter();
        busy.0.head(None, false);
        let idle = connections.enter();
        idle.0.head(None, false);
        idle.0.answered();
        let old = connections.enter();
        let young = connections.enter();
        assert!(connections.is_full());
        assert_eq!(evicted(&connections, &[&busy, &idle, &old, &young]), 2);
        drop(old);
        assert!(!connections.is_full());
        young.0.head(None, true);
        assert_eq!(evicted(&connections, &[&busy, &idle, &young]), 1);
        drop(idle);
        assert_eq!(young.0.phase(), Phase::Body);
        assert_eq!(evicted(&connections, &[&busy, &young]), 1);
        young.0.body_done();
        assert!(!connections.evict());
        busy.0.answered();
        assert_eq!(busy.0.phase(), Phase::Idle);
        busy.0.partial();
        assert_eq!(busy.0.phase(), Phase::Head);
        drop((busy, young));
        assert_eq!(connections.len(), 0);
    }

    #[test]
    fn an_answer_before_the_end_of_the_body_ends_the_connection() {
        let connections = Connections::new(4);
        let entry = connections.enter();
        entry.0.head(None, true);
        entry.0.answered();
        assert_eq!(entry.0.phase(), Phase::Closing);
    }
}
