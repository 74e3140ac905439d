//! The connections there are, bounded; when one more comes, who goes.
//!
//! Order of leaving: those that only wait to be closed, then those whose head is incomplete, then those idle between requests, then
//! those whose body is still on its way, then those who do not read their answer; within each the one that has been so for longest. A
//! request that is being answered to somebody who reads is never cut off. So whoever opens sockets and says nothing pushes out its own kind, and whoever asks is answered.
//!
//! Ages are turns of a counter rather than times: only their order matters.

use super::head::Refusal;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Being answered, and not reading it.
    Unread,
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
    /// The socket takes nothing more of an answer.
    unread: bool,
    closing: bool,
    verdicts: VecDeque<Option<Refusal>>,
}

impl State {
    fn phase(&self) -> Phase {
        if self.closing {
            Phase::Closing
        } else if self.open > 0 {
            match (self.body, self.unread) {
                (true, _) => Phase::Body,
                (false, true) => Phase::Unread,
                (false, false) => Phase::Busy,
            }
        } else if self.partial || self.requests == 0 {
            Phase::Head
        } else {
            Phase::Idle
        }
    }
}

/// One connection in the table.
#[derive(Debug)]
struct Row {
    state: State,
    /// Its place in the order of leaving: its phase, and the turn at which that began.
    place: (Phase, u64),
    evicted: Arc<Notify>,
}

/// A connection's hold on its row in the table.
#[derive(Debug)]
pub(crate) struct Link {
    number: u64,
    connections: Arc<Connections>,
    /// Told when the connection has to go.
    pub(crate) evicted: Arc<Notify>,
}

impl Link {
    /// Changes the row and its place; `None` once it has left.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> Option<R> {
        let mut table = self.connections.table();
        let turn = table.turn;
        let row = table.rows.get_mut(&self.number)?;
        let result = change(&mut row.state);
        let (old, phase) = (row.place, row.state.phase());
        if phase != old.0 {
            row.place = (phase, turn);
            table.turn += 1;
            table.order.remove(&(old.0, old.1, self.number));
            table.order.insert((phase, turn, self.number));
        }
        Some(result)
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

    /// Begins a request that is answered without the library, if the library has nothing to do; true if so.
    pub(crate) fn begin(&self) -> bool {
        let begun = self.change(|state| {
            let idle = state.open == 0 && !state.closing;
            if idle {
                state.open = 1;
                state.requests += 1;
                state.partial = false;
            }
            idle
        });
        begun.unwrap_or(false)
    }

    /// Whether the library has nothing to do.
    pub(crate) fn is_free(&self) -> bool {
        let table = self.connections.table();
        let row = table.rows.get(&self.number);
        row.is_some_and(|row| row.state.open == 0 && !row.state.closing)
    }

    /// The verdict on the next request that the library presents; `None` if it presents one that was never judged.
    pub(crate) fn verdict(&self) -> Option<Option<Refusal>> {
        self.change(|state| state.verdicts.pop_front()).flatten()
    }

    /// The body of the last request is complete.
    pub(crate) fn body_done(&self) {
        self.change(|state| state.body = false);
    }

    /// The first bytes of a head are there.
    pub(crate) fn partial(&self) {
        self.change(|state| state.partial = true);
    }

    /// Whether the socket takes nothing more, because the peer does not read.
    pub(crate) fn unread(&self, unread: bool) {
        self.change(|state| state.unread = unread);
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

    /// What it is doing, and whether nothing was asked on it yet; one that has left is closing.
    pub(crate) fn phase(&self) -> (Phase, bool) {
        let table = self.connections.table();
        let row = table.rows.get(&self.number);
        row.map_or((Phase::Closing, false), |row| {
            (row.place.0, row.state.requests == 0)
        })
    }
}

/// Leaves the table when a connection's task ends, however it ends.
pub(crate) struct Entry(pub(crate) Arc<Link>);

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = self.0.connections.table();
        if let Some(row) = table.rows.remove(&self.0.number) {
            table
                .order
                .remove(&(row.place.0, row.place.1, self.0.number));
        }
        drop(table);
        self.0.connections.left.notify_waiters();
    }
}

/// Hashes the numbers of connections, which are given here and in turn: nobody can choose them so that they collide.
#[derive(Debug, Default)]
struct Numbers(u64);

impl Hasher for Numbers {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The table looks at the upper bits, too. 2^64 divided by the golden ratio, odd (Knuth, The Art of Computer Programming 3, 6.4).
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[derive(Debug, Default)]
struct Table {
    rows: HashMap<u64, Row, BuildHasherDefault<Numbers>>,
    /// Who leaves first: phase, turn, number.
    order: BTreeSet<(Phase, u64, u64)>,
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
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.table().rows.len()
    }

    /// True if one more has to wait until another one left.
    pub(crate) fn is_full(&self) -> bool {
        let table = self.table();
        table.rows.len() >= table.room
    }

    /// The system refused one more than there are: from now on there are fewer than that, so that the next one finds a file. Room comes
    /// back by one with every [`REGAIN`] connections. True if there was all the room before.
    pub(crate) fn shrink(&self) -> bool {
        let mut table = self.table();
        let first = table.room == self.most;
        table.room = table.rows.len().saturating_sub(1).max(1);
        first
    }

    /// Enters a new connection.
    pub(crate) fn enter(self: &Arc<Self>) -> Entry {
        let mut table = self.table();
        let (number, turn) = (table.next, table.turn);
        table.next += 1;
        table.turn += 1;
        if number.is_multiple_of(REGAIN) {
            table.room = (table.room + 1).min(self.most);
        }
        let evicted = Arc::new(Notify::new());
        let state = State::default();
        let place = (state.phase(), turn);
        let row = Row {
            state,
            place,
            evicted: evicted.clone(),
        };
        table.rows.insert(number, row);
        table.order.insert((place.0, turn, number));
        drop(table);
        Entry(Arc::new(Link {
            number,
            connections: self.clone(),
            evicted,
        }))
    }

    /// Tells the connection that has to go first that it must; returns false if every one is being answered and reads.
    pub(crate) fn evict(&self) -> bool {
        let table = self.table();
        match table.order.first() {
            Some((phase, _, number)) if *phase < Phase::Busy => {
                if let Some(row) = table.rows.get(number) {
                    row.evicted.notify_one();
                }
                true
            }
            _ => false,
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
        assert_eq!(young.0.phase().0, Phase::Body);
        assert_eq!(evicted(&connections, &[&busy, &young]), 1);
        young.0.body_done();
        assert!(!connections.evict());
        // Who does not read the answer goes, and stays when it reads again.
        young.0.unread(true);
        assert_eq!(evicted(&connections, &[&busy, &young]), 1);
        young.0.unread(false);
        assert!(!connections.evict());
        busy.0.answered();
        assert_eq!(busy.0.phase().0, Phase::Idle);
        busy.0.partial();
        assert_eq!(busy.0.phase().0, Phase::Head);
        drop((busy, young));
        assert_eq!(connections.len(), 0);
        assert!(connections.table().order.is_empty());
    }

    #[test]
    fn a_shortage_of_files_shrinks_the_table_for_a_while() {
        let connections = Connections::new(4);
        let held: Vec<Entry> = (0..3).map(|_| connections.enter()).collect();
        assert!(connections.shrink(), "there was room");
        assert!(connections.is_full());
        assert!(!connections.shrink());
        drop(held);
        let regained = 3 * REGAIN;
        for _ in 0..regained {
            drop(connections.enter());
        }
        assert!(connections.shrink(), "the room came back");
        assert!(!connections.is_full(), "one always fits");
    }

    #[test]
    fn an_answer_before_the_end_of_the_body_ends_the_connection() {
        let connections = Connections::new(4);
        let entry = connections.enter();
        entry.0.head(None, true);
        entry.0.answered();
        assert_eq!(entry.0.phase().0, Phase::Closing);
    }
}
