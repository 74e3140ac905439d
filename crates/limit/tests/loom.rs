//! Model checks of a gate's word: every interleaving, up to a bound on preemptions.
//!
//! `cargo test --release -p flyball-limit --features loom --test loom`
//!
//! The line of those who wait is a number behind a lock here; naming one means entering for it, as in the gate. A lost wake-up shows as a waiter who is never
//! named although all have left. A model that cannot fail proves nothing: those named `…_is_caught` leave out one step and expect loom to find the
//! interleaving that the step is there for.

use flyball_limit::model::Model;
use loom::sync::{Arc, Mutex};
use loom::thread;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[derive(Default)]
struct Line {
    waiting: u32,
    named: u32,
}

struct Gate {
    slots: Model,
    line: Mutex<Line>,
    /// Leaves out the look after raising.
    careless: bool,
}

impl Gate {
    fn new(limit: u32) -> Self {
        Self {
            slots: Model::new(limit),
            line: Mutex::default(),
            careless: false,
        }
    }

    /// In, or in line.
    fn enter(&self) -> bool {
        if self.slots.enter() {
            return true;
        }
        let mut line = self.line.lock().unwrap();
        let free = if self.careless {
            let free = self.slots.is_free();
            self.slots.raise();
            free
        } else {
            self.slots.raise()
        };
        if free && line.waiting == 0 {
            assert!(self.slots.enter_asked(), "a free slot went past the lock");
            self.dispatch(&mut line);
            return true;
        }
        line.waiting += 1;
        if !self.careless {
            self.dispatch(&mut line);
        }
        false
    }

    /// In though no slot may be free, as long as fewer than `most` are: whether there is room, and whether it is in.
    fn enter_beyond(&self, most: u32) -> (bool, bool) {
        let mut line = self.line.lock().unwrap();
        if !self.careless {
            self.slots.raise();
        }
        let may = self.slots.in_flight() < most;
        let entered = may && (self.slots.enter_asked() || self.slots.enter_beyond(most));
        self.dispatch(&mut line);
        (may, entered)
    }

    fn leave(&self) {
        if self.slots.leave() {
            let mut line = self.line.lock().unwrap();
            self.dispatch(&mut line);
        }
    }

    fn dispatch(&self, line: &mut Line) {
        loop {
            while line.waiting > 0 && self.slots.is_free() {
                assert!(self.slots.enter_asked(), "a free slot went past the lock");
                line.waiting -= 1;
                line.named += 1;
            }
            if line.waiting == 0 {
                self.slots.lower();
                return;
            }
            if !self.slots.raise() {
                return;
            }
        }
    }

    /// One of those in line: whether it was named, and then it is in.
    fn take(&self) -> bool {
        let mut line = self.line.lock().unwrap();
        let named = line.named > 0;
        line.named -= u32::from(named);
        named
    }

    /// All who are named leave, until nobody is; nobody else is about. Answers who waits for ever.
    fn drain(&self) -> u32 {
        while self.take() {
            self.leave();
        }
        let line = self.line.lock().unwrap();
        assert_eq!(self.slots.in_flight(), 0, "a slot is lost");
        line.waiting
    }
}

fn come_and_go(gate: &Arc<Gate>) -> thread::JoinHandle<()> {
    let gate = Arc::clone(gate);
    thread::spawn(move || {
        if gate.enter() {
            gate.leave();
        }
    })
}

/// CPU-22: three calls at one slot: nobody is lost and nobody waits beside a free slot.
#[test]
fn nobody_waits_for_ever() {
    check(|| {
        let gate = Arc::new(Gate::new(1));
        let others = [come_and_go(&gate), come_and_go(&gate)];
        if gate.enter() {
            gate.leave();
        }
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(gate.drain(), 0);
    });
}

/// CPU-22: in flight never exceeds the limit, seen by all at any time.
#[test]
fn the_limit_holds() {
    check(|| {
        let gate = Arc::new(Gate::new(1));
        let inside = Arc::new(loom::sync::atomic::AtomicU32::new(0));
        let work = |gate: &Gate, inside: &loom::sync::atomic::AtomicU32| {
            if gate.enter() {
                let before = inside.fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
                assert_eq!(before, 0, "two in one slot");
                inside.fetch_sub(1, loom::sync::atomic::Ordering::Relaxed);
                gate.leave();
            }
        };
        let other = {
            let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
            thread::spawn(move || work(&gate, &inside))
        };
        work(&gate, &inside);
        other.join().unwrap();
        assert_eq!(gate.drain(), 0);
    });
}

/// CPU-22: the limit is lowered and raised while calls come and go: who waited for the higher one is named.
#[test]
fn the_limit_changes_under_them() {
    check(|| {
        let gate = Arc::new(Gate::new(1));
        let other = come_and_go(&gate);
        let changer = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                for limit in [0, 2] {
                    let mut line = gate.line.lock().unwrap();
                    gate.slots.set_limit(limit);
                    gate.dispatch(&mut line);
                }
            })
        };
        if gate.enter() {
            gate.leave();
        }
        other.join().unwrap();
        changer.join().unwrap();
        assert_eq!(gate.drain(), 0);
    });
}

/// CPU-22: somebody gives up waiting at the moment at which it is named: its slot goes on to the next.
#[test]
fn who_gives_up_leaks_nothing() {
    check(|| {
        let gate = Arc::new(Gate::new(1));
        assert!(gate.enter());
        let quitter = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                if gate.enter() || gate.take() {
                    gate.leave();
                    return;
                }
                // Still in line, unless it was named since.
                let mut line = gate.line.lock().unwrap();
                if line.named > 0 {
                    line.named -= 1;
                    drop(line);
                    gate.leave();
                } else {
                    line.waiting -= 1;
                    gate.dispatch(&mut line);
                }
            })
        };
        gate.leave();
        quitter.join().unwrap();
        assert_eq!(gate.drain(), 0);
        assert!(gate.enter());
    });
}

/// CPU-22, CPU-23: a call that does not wait for lesser ones finds its place beyond the limit, however they come and go; they never are more than the limit, and
/// nobody is lost when those beyond it leave.
#[test]
fn who_matters_more_comes_in_beyond_the_limit() {
    check(|| {
        let gate = Arc::new(Gate::new(1));
        let lesser = Arc::new(loom::sync::atomic::AtomicU32::new(0));
        let others = [(); 2].map(|()| {
            let (gate, lesser) = (Arc::clone(&gate), Arc::clone(&lesser));
            thread::spawn(move || {
                if gate.enter() {
                    let before = lesser.fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
                    assert_eq!(before, 0, "two in one slot");
                    lesser.fetch_sub(1, loom::sync::atomic::Ordering::Relaxed);
                    gate.leave();
                }
            })
        });
        let came = gate.enter_beyond(2);
        assert!(gate.slots.in_flight() <= 2);
        gate.leave();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(came, (true, true), "one lesser call is in at most");
        assert_eq!(gate.drain(), 0);
    });
}

/// Without raising first, the room that was seen may be another's by then.
#[test]
#[should_panic(expected = "the room went past the lock")]
fn a_look_at_the_room_before_raising_is_caught() {
    check(|| {
        let gate = Arc::new(Gate {
            careless: true,
            ..Gate::new(2)
        });
        let others = [come_and_go(&gate), come_and_go(&gate)];
        let (may, entered) = gate.enter_beyond(2);
        if entered {
            gate.leave();
        }
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(may, entered, "the room went past the lock");
    });
}

/// Without the answer of raising, a slot that was freed just before is not seen, and who waits for it waits for ever.
#[test]
#[should_panic(expected = "waits for ever")]
fn a_look_before_raising_is_caught() {
    check(|| {
        let gate = Arc::new(Gate {
            careless: true,
            ..Gate::new(1)
        });
        let other = come_and_go(&gate);
        if gate.enter() {
            gate.leave();
        }
        other.join().unwrap();
        assert_eq!(gate.drain(), 0, "waits for ever");
    });
}
