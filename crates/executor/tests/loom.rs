//! Model checks: every interleaving, and every value that the memory model lets a load return, of the structures that threads
//! meet in, up to a bound on preemptions.
//!
//! `cargo test --release -p flyball-executor --features loom --test loom`
//!
//! A lost wake-up shows as a deadlock, which loom reports, because the models end only when all work was taken. A model that cannot
//! fail proves nothing: those named `…_is_caught` leave out one step of a protocol and expect loom to find the interleaving
//! that the step is there for. What cannot be left out from here (an ordering inside a structure) was weakened by hand; the
//! comments say what loom answered.

use flyball_executor::model::{
    Group, NO_RANK, Queue, RING_CAPACITY, Ring, STACK_CAPACITY, Signals, Stack, sc_fence,
};
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::time::Duration;

/// Explores a model with at most so many preemptions in a run.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

/// Expects loom to find the fault in a model, in a process of its own: loom cannot unwind out of a deadlock, it aborts.
fn caught(test: &str, complaint: &str, model: impl Fn()) {
    const CHILD: &str = "FLYBALL_FAULTY_MODEL";
    if std::env::var_os(CHILD).is_some() {
        return model();
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success(), "the model does not fail: {said}");
    assert!(said.contains(complaint), "another complaint: {said}");
}

/// Each of the entries `1..=count` is in exactly one place.
fn assert_each_once(count: usize, places: impl IntoIterator<Item = Vec<usize>>) {
    let mut all: Vec<usize> = places.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (1..=count).collect::<Vec<_>>());
}

mod ring {
    use super::*;

    /// A full ring whose owner takes one and adds one, in the slot that became free, while `thieves` steal.
    ///
    /// With `tail` published by a relaxed store in place of the swap in `push`, loom finds a thief that reads an empty slot; with
    /// `pop` or `steal` moving `head` by a plain store in place of the compare-and-swap, an entry that two have. A relaxed load
    /// of `head` in `push` it cannot judge: loom never lets a load return what is stored later.
    fn owner_and(thieves: usize, preemptions: usize) {
        check(preemptions, move || {
            let ring = Arc::new(Ring::default());
            let mut mine = Vec::new();
            // Not at the start of the slots, so that the indexes wrap around.
            ring.push(1).unwrap();
            mine.extend(ring.pop());
            for entry in 2..=1 + RING_CAPACITY {
                ring.push_quiet(entry).unwrap();
            }
            assert_eq!(ring.push(99), Err(99));
            let thieves: Vec<_> = (0..thieves)
                .map(|_| {
                    let ring = ring.clone();
                    thread::spawn(move || ring.steal())
                })
                .collect();
            let mut next = 2 + RING_CAPACITY;
            mine.extend(ring.pop());
            for _ in 0..2 {
                if ring.push(next).is_ok() {
                    next += 1;
                }
            }
            mine.extend(ring.pop());
            let mut places: Vec<Vec<usize>> = thieves
                .into_iter()
                .map(|thief| thief.join().unwrap())
                .collect();
            for stolen in &places {
                assert!(stolen.is_sorted(), "stolen in order: {stolen:?}");
            }
            mine.extend(std::iter::from_fn(|| ring.pop()));
            assert!(mine.is_sorted(), "taken in order: {mine:?}");
            assert!(ring.is_empty());
            places.push(mine);
            assert_each_once(next - 1, places);
        });
    }

    /// CPU-13: an owner and a thief take every entry exactly once, and lose none.
    #[test]
    fn an_owner_and_a_thief_take_each_entry_once() {
        owner_and(1, 3);
    }

    /// CPU-13: an owner and two thieves take every entry exactly once, and lose none.
    #[test]
    fn an_owner_and_two_thieves_take_each_entry_once() {
        owner_and(2, 3);
    }

    /// CPU-13: a push into an empty ring against a thief: it has the entry or leaves it.
    #[test]
    fn a_thief_sees_a_whole_entry_or_none() {
        check(3, || {
            let ring = Arc::new(Ring::default());
            let thief = {
                let ring = ring.clone();
                thread::spawn(move || ring.steal())
            };
            ring.push(1).unwrap();
            ring.push_quiet(2).unwrap();
            let mine: Vec<usize> = ring.pop().into_iter().collect();
            let stolen = thief.join().unwrap();
            let left = std::iter::from_fn(|| ring.pop()).collect();
            assert_each_once(2, [mine, stolen, left]);
        });
    }
}

mod stack {
    use super::*;

    /// The owner pops what it pushed while thieves take from the other end, down to the last entry.
    ///
    /// Without the fence (the sequential consistency) between lowering `bottom` and reading `top` in `pop`, or between the two
    /// loads in `steal`, loom finds an entry that two have; also where `pop` takes the last one without a compare-and-swap.
    fn owner_and(thieves: usize, entries: usize, preemptions: usize) {
        check(preemptions, move || {
            let stack = Arc::new(Stack::default());
            for entry in 1..=entries {
                stack.push(entry).unwrap();
            }
            let thieves: Vec<_> = (0..thieves)
                .map(|_| {
                    let stack = stack.clone();
                    thread::spawn(move || stack.steal().into_iter().collect::<Vec<_>>())
                })
                .collect();
            let mut mine = Vec::new();
            mine.extend(stack.pop());
            stack.push(entries + 1).unwrap();
            mine.extend(stack.pop());
            mine.extend(stack.pop());
            let mut places: Vec<Vec<usize>> = thieves
                .into_iter()
                .map(|thief| thief.join().unwrap())
                .collect();
            mine.extend(std::iter::from_fn(|| stack.pop()));
            assert!(stack.is_empty());
            places.push(mine);
            assert_each_once(entries + 1, places);
        });
    }

    /// CPU-13: the last entry goes to the owner or to the thief, never to both or to nobody.
    #[test]
    fn the_last_entry_has_one_taker() {
        owner_and(1, 1, 4);
    }

    /// CPU-13: the same with two thieves.
    #[test]
    fn the_last_entry_has_one_taker_of_three() {
        owner_and(2, 1, 3);
    }

    /// CPU-13: with more than one entry owner and thieves meet at the last ones.
    #[test]
    fn an_owner_and_two_thieves_take_each_entry_once() {
        owner_and(2, 2, 3);
    }

    /// CPU-13: a full stack gives the entry back; slots are used again only after a thief has left them.
    #[test]
    fn a_slot_is_used_again_only_when_it_is_free() {
        check(3, || {
            let stack = Arc::new(Stack::default());
            for entry in 1..=STACK_CAPACITY {
                stack.push(entry).unwrap();
            }
            let thief = {
                let stack = stack.clone();
                thread::spawn(move || stack.steal().into_iter().collect::<Vec<_>>())
            };
            let next = STACK_CAPACITY + 1;
            let refused = stack.push(next).is_err();
            let stolen = thief.join().unwrap();
            assert!(stolen.len() == 1, "the owner took none, so it finds one");
            let left: Vec<usize> = std::iter::from_fn(|| stack.pop()).collect();
            assert_each_once(next - usize::from(refused), [stolen, left]);
        });
    }
}

mod queue {
    use super::*;

    /// CPU-12: two producers, one of which pushes a batch, and a consumer that takes a batch and gives a part of it back: nothing
    /// is lost, and what each producer pushed comes out in its order.
    ///
    /// With a relaxed swap of the tail, or a relaxed store of the link, loom finds a link that a consumer follows before its
    /// entry was written.
    #[test]
    fn what_two_producers_push_is_taken_once_and_in_order() {
        check(3, || {
            let queue = Arc::new(Queue::default());
            let producers = [
                {
                    let queue = queue.clone();
                    thread::spawn(move || queue.push_all(&[1, 2]))
                },
                {
                    let queue = queue.clone();
                    thread::spawn(move || {
                        queue.push(3);
                        queue.push(4);
                    })
                },
            ];
            // While they push; what is given back comes first when it is taken again.
            let (kept, back) = queue.take(3).split(1);
            queue.give_back(back);
            let mut taken = kept.into_numbers();
            for producer in producers {
                producer.join().unwrap();
            }
            while !queue.is_empty() {
                let more = queue.take(2).into_numbers();
                assert!(!more.is_empty(), "counted and linked, and not to be had");
                taken.extend(more);
            }
            assert!(queue.take(1).into_numbers().is_empty(), "zero means empty");
            let place = |entry| taken.iter().position(|&other| other == entry);
            assert!(place(1) < place(2) && place(3) < place(4), "{taken:?}");
            assert_each_once(4, [taken]);
        });
    }

    /// CPU-12: two consumers, one of which gives back what it took: each entry has one taker in the end, and is counted as long
    /// as it can be taken.
    #[test]
    fn what_is_given_back_is_taken_once() {
        check(3, || {
            let queue = Arc::new(Queue::default());
            queue.push_all(&[1, 2, 3]);
            let other = {
                let queue = queue.clone();
                thread::spawn(move || queue.take(2).into_numbers())
            };
            let observer = {
                let queue = queue.clone();
                thread::spawn(move || queue.len())
            };
            let (kept, back) = queue.take(2).split(1);
            queue.give_back(back);
            let mine = kept.into_numbers();
            let others = other.join().unwrap();
            assert!(observer.join().unwrap() <= 3, "taken before it was counted");
            let left = queue.take(3).into_numbers();
            assert_eq!(queue.len(), 0);
            assert_each_once(3, [mine, others, left]);
        });
    }

    /// CPU-12: an entry that a consumer could take is never uncounted: whoever reads a length of zero after a push has returned
    /// knows that somebody took the entry.
    #[test]
    fn a_length_of_zero_means_empty() {
        check(3, || {
            let queue = Arc::new(Queue::default());
            let pushed = Arc::new(AtomicBool::new(false));
            let producer = {
                let (queue, pushed) = (queue.clone(), pushed.clone());
                thread::spawn(move || {
                    queue.push(1);
                    pushed.store(true, SeqCst);
                })
            };
            let consumer = {
                let queue = queue.clone();
                thread::spawn(move || queue.take(1).into_numbers())
            };
            let was_pushed = pushed.load(SeqCst);
            let counted = queue.len();
            assert!(counted <= 1, "taken before it was counted");
            let was_empty = counted == 0;
            let taken = consumer.join().unwrap();
            assert!(
                !(was_pushed && was_empty && taken.is_empty()),
                "pushed, not taken, and not counted"
            );
            producer.join().unwrap();
            let left = queue.take(1).into_numbers();
            assert_each_once(1, [taken, left]);
        });
    }

    /// Two producers that mark the class ready, which it is from before, against a consumer that finds the queue empty and unmarks
    /// it.
    fn marking(ask_again: bool) {
        check(3, move || {
            let shared = Arc::new((Queue::default(), Signals::new(1, 1)));
            shared.1.mark_ready(3);
            let producers: Vec<_> = (1..=2)
                .map(|number| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        shared.0.push(number);
                        shared.1.mark_ready(3);
                    })
                })
                .collect();
            let (queue, signals) = &*shared;
            let mut taken = queue.take(1).into_numbers();
            if taken.is_empty() {
                signals.unmark_ready(3, || !ask_again || queue.is_empty());
            }
            for producer in producers {
                producer.join().unwrap();
            }
            if !queue.is_empty() {
                assert_eq!(signals.ready(), 1 << 3, "work that nobody sees");
            }
            taken.extend(queue.take(2).into_numbers());
            assert_each_once(2, [taken]);
        });
    }

    /// CPU-12: a class with work in its queue is always marked ready, whoever unmarks it at the same time.
    #[test]
    fn work_is_never_left_unmarked() {
        marking(true);
    }

    /// The model above fails where `unmark_ready` does not look at the queue once more.
    #[test]
    fn unmarking_without_a_second_look_is_caught() {
        caught(
            "queue::unmarking_without_a_second_look_is_caught",
            "work that nobody sees",
            || {
                marking(false);
            },
        );
    }
}

/// Workers and producers as `worker.rs` and `dispatch.rs` have them, over the real [`Signals`]: what is not in the model is what
/// tasks there are and who may run them, for which a count stands.
mod wake_ups {
    use super::*;

    /// Steps that a model leaves out, to show that it can fail.
    #[derive(Clone, Copy, Default)]
    struct Flaws {
        /// A worker sleeps without looking once more after it set its idle bit.
        no_second_look: bool,
        /// A producer looks for idle workers before it makes the work visible.
        announces_first: bool,
        /// A searcher that found work and was the last does not look for more.
        no_passing_on: bool,
        /// Who gives a token back wakes nobody.
        keeps_tokens_secret: bool,
    }

    struct Pool {
        signals: Signals,
        group: Group,
        workers: usize,
        /// Tasks to be taken.
        queued: AtomicUsize,
        /// Tasks not yet ended, those to be submitted included.
        left: AtomicUsize,
        stop: AtomicBool,
        /// Tasks that a task waits for before it ends, itself included: they have to run side by side.
        together: usize,
        arrived: Mutex<usize>,
        all_there: Condvar,
        flaws: Flaws,
    }

    impl Pool {
        fn new(group: Group, workers: usize, parallelism: u32, tasks: usize) -> Self {
            Pool {
                signals: Signals::new(workers, parallelism),
                group,
                workers,
                queued: AtomicUsize::new(0),
                left: AtomicUsize::new(tasks),
                stop: AtomicBool::new(false),
                together: 1,
                arrived: Mutex::new(0),
                all_there: Condvar::new(),
                flaws: Flaws::default(),
            }
        }

        /// `ClassSlot::announce` after a push.
        fn submit(&self) {
            if self.flaws.announces_first {
                self.signals.wake_one(self.group);
            }
            self.queued.fetch_add(1, SeqCst);
            sc_fence();
            self.signals.mark_ready(0);
            if !self.flaws.announces_first {
                self.signals.wake_one(self.group);
            }
        }

        fn has_work(&self) -> bool {
            self.signals.ready() != 0
        }

        /// `Pool::pass_on`.
        fn pass_on(&self) {
            if self.signals.any_idle(self.group) && self.has_work() {
                self.signals.wake_one(self.group);
            }
        }

        fn take(&self) -> bool {
            if self.signals.ready() == 0 {
                return false;
            }
            let taken = self
                .queued
                .fetch_update(SeqCst, SeqCst, |queued| queued.checked_sub(1))
                .is_ok();
            if !taken {
                self.signals
                    .unmark_ready(0, || self.queued.load(SeqCst) == 0);
            }
            taken
        }

        fn run_task(&self) {
            if self.together > 1 {
                let mut arrived = self.arrived.lock().unwrap();
                *arrived += 1;
                self.all_there.notify_all();
                while *arrived < self.together {
                    arrived = self.all_there.wait(arrived).unwrap();
                }
            }
            if self.left.fetch_sub(1, SeqCst) == 1 {
                // The end of the model, as `join_threads` does it.
                self.stop.store(true, SeqCst);
                sc_fence();
                for worker in 0..self.workers {
                    self.signals.wake_worker(self.group, worker);
                }
            }
        }

        /// `Worker::run` with what matters of `next_slice`, `begin`, `found_work` and `idle`.
        fn work(&self, me: usize, naps: u32) {
            let (signals, group) = (&self.signals, self.group);
            let (mut searching, mut token, mut naps_left) = (true, false, naps);
            signals.start_searching(group);
            loop {
                if self.has_work() {
                    token = token || signals.acquire_token(group);
                    if token && self.take() {
                        naps_left = naps;
                        if std::mem::replace(&mut searching, false)
                            && signals.stop_searching(group)
                            && !self.flaws.no_passing_on
                        {
                            self.pass_on();
                        }
                        self.run_task();
                        continue;
                    }
                }
                if self.stop.load(SeqCst) {
                    break;
                }
                if !std::mem::replace(&mut searching, true) {
                    signals.start_searching(group);
                }
                if std::mem::replace(&mut token, false) {
                    signals.release_token(group);
                }
                if naps_left > 0 {
                    naps_left -= 1;
                    signals.nap(group, me, Duration::from_micros(50));
                    continue;
                }
                naps_left = naps;
                signals.park(group, me, None, || {
                    if self.flaws.no_second_look {
                        return false;
                    }
                    self.stop.load(SeqCst)
                        || (group == Group::Front || signals.has_room()) && self.has_work()
                });
            }
            if token {
                signals.release_token(group);
            }
            if searching {
                signals.stop_searching(group);
            }
            self.pass_on();
        }
    }

    /// Starts workers, and producers of one task each, the calling thread being one of them.
    fn run(pool: Pool, producers: usize, naps: u32) {
        let pool = Arc::new(pool);
        let mut threads = Vec::new();
        for worker in 0..pool.workers {
            let pool = pool.clone();
            threads.push(thread::spawn(move || pool.work(worker, naps)));
        }
        for _ in 1..producers {
            let pool = pool.clone();
            threads.push(thread::spawn(move || pool.submit()));
        }
        pool.submit();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(pool.queued.load(SeqCst), 0);
    }

    fn one_worker_two_producers(flaws: Flaws) {
        check(3, move || {
            let mut pool = Pool::new(Group::Front, 1, 1, 2);
            pool.flaws = flaws;
            run(pool, 2, 0);
        });
    }

    /// CPU-1, CPU-6: never runnable work, an idle worker and no wake-up on its way: two producers against one worker.
    #[test]
    fn one_worker_finds_what_two_producers_submit() {
        one_worker_two_producers(Flaws::default());
    }

    #[test]
    fn sleeping_without_a_second_look_is_caught() {
        caught(
            "wake_ups::sleeping_without_a_second_look_is_caught",
            "deadlock",
            || {
                one_worker_two_producers(Flaws {
                    no_second_look: true,
                    ..Flaws::default()
                });
            },
        );
    }

    #[test]
    fn announcing_before_the_work_is_visible_is_caught() {
        caught(
            "wake_ups::announcing_before_the_work_is_visible_is_caught",
            "deadlock",
            || {
                one_worker_two_producers(Flaws {
                    announces_first: true,
                    ..Flaws::default()
                });
            },
        );
    }

    /// Two tasks, each of which ends only when the other has started.
    fn two_workers_side_by_side(preemptions: usize, flaws: Flaws) {
        check(preemptions, move || {
            let mut pool = Pool::new(Group::Back, 2, 2, 2);
            pool.together = 2;
            pool.flaws = flaws;
            let pool = Arc::new(pool);
            let workers: Vec<_> = (0..2)
                .map(|worker| {
                    let pool = pool.clone();
                    thread::spawn(move || pool.work(worker, 0))
                })
                .collect();
            pool.submit();
            pool.submit();
            for worker in workers {
                worker.join().unwrap();
            }
        });
    }

    /// CPU-1: at most one searcher is woken at a time, and yet every task that could run does: two tasks that need each other.
    #[test]
    fn a_searcher_that_finds_work_passes_the_search_on() {
        two_workers_side_by_side(3, Flaws::default());
    }

    #[test]
    fn keeping_the_search_to_oneself_is_caught() {
        caught(
            "wake_ups::keeping_the_search_to_oneself_is_caught",
            "deadlock",
            || {
                two_workers_side_by_side(
                    2,
                    Flaws {
                        no_passing_on: true,
                        ..Flaws::default()
                    },
                );
            },
        );
    }

    /// CPU-1: two workers, two producers, tasks that do not wait for each other.
    #[test]
    fn two_workers_find_what_two_producers_submit() {
        check(2, || run(Pool::new(Group::Front, 2, 1, 2), 2, 0));
    }

    /// CPU-1: a worker that naps is in nobody's list, and finds by itself what was submitted meanwhile.
    #[test]
    fn what_is_submitted_during_a_nap_is_found() {
        check(3, || run(Pool::new(Group::Front, 1, 1, 2), 2, 1));
        check(2, || run(Pool::new(Group::Back, 2, 1, 2), 1 + 1, 1));
    }

    /// CPU-16: one token for two back workers: who gets none sleeps, and nothing is left.
    #[test]
    fn two_back_workers_share_one_token() {
        check(2, || run(Pool::new(Group::Back, 2, 1, 2), 2, 0));
    }

    /// A front worker that has the only token gives it back while a producer submits to the back group.
    fn token_passes(flaws: Flaws) {
        check(3, move || {
            let mut pool = Pool::new(Group::Back, 1, 1, 1);
            pool.flaws = flaws;
            let pool = Arc::new(pool);
            assert!(pool.signals.acquire_token(Group::Front));
            let front = {
                let pool = pool.clone();
                thread::spawn(move || {
                    pool.signals.release_token(Group::Front);
                    if !pool.flaws.keeps_tokens_secret {
                        pool.pass_on();
                    }
                })
            };
            let back = {
                let pool = pool.clone();
                thread::spawn(move || pool.work(0, 0))
            };
            pool.submit();
            front.join().unwrap();
            back.join().unwrap();
        });
    }

    /// CPU-6, CPU-16: a back worker without a token sleeps though there is work, and wakes when a front worker gives its token
    /// back.
    #[test]
    fn a_released_token_wakes_a_back_worker() {
        token_passes(Flaws::default());
    }

    #[test]
    fn a_token_given_back_in_secret_is_caught() {
        caught(
            "wake_ups::a_token_given_back_in_secret_is_caught",
            "deadlock",
            || {
                token_passes(Flaws {
                    keeps_tokens_secret: true,
                    ..Flaws::default()
                });
            },
        );
    }

    /// CPU-18: a worker that is told to stop while it goes to sleep does not sleep.
    #[test]
    fn a_stop_is_not_slept_through() {
        check(3, || {
            let pool = Arc::new(Pool::new(Group::Front, 1, 1, 1));
            let worker = {
                let pool = pool.clone();
                thread::spawn(move || pool.work(0, 0))
            };
            pool.stop.store(true, SeqCst);
            sc_fence();
            pool.signals.wake_worker(Group::Front, 0);
            worker.join().unwrap();
        });
    }
}

mod slices {
    use super::*;

    const LOW: u8 = 2;
    const HIGH: u8 = 5;

    /// A worker begins a slice of a low class, a producer makes a high one ready and finds nobody to wake.
    fn begin_against_newcomer(look_again: bool) {
        check(4, move || {
            let signals = Arc::new(Signals::new(1, 1));
            signals.publish_rank(0, NO_RANK);
            let producer = {
                let signals = signals.clone();
                thread::spawn(move || {
                    signals.mark_ready(HIGH);
                    assert!(!signals.wake_one(Group::Front));
                    signals.revoke_below(0..1, HIGH);
                })
            };
            // As in `begin` and `start_slice`.
            let ready = signals.ready();
            signals.publish_rank(0, LOW);
            if look_again && (signals.ready() & !ready) >> HIGH != 0 {
                signals.revoke(0);
            }
            producer.join().unwrap();
            assert!(
                ready >> HIGH != 0 || signals.is_revoked(0),
                "a higher rank that nobody knows of"
            );
        });
    }

    /// CPU-6: work of a higher rank that comes while a slice begins is seen by the pick, or takes the slice back.
    #[test]
    fn a_newcomer_is_seen_or_takes_the_slice_back() {
        begin_against_newcomer(true);
    }

    #[test]
    fn a_slice_begun_without_a_second_look_is_caught() {
        caught(
            "slices::a_slice_begun_without_a_second_look_is_caught",
            "a higher rank that nobody knows of",
            || {
                begin_against_newcomer(false);
            },
        );
    }

    /// CPU-6: slices of the same or a higher rank, and workers without one, are left alone.
    #[test]
    fn only_lower_ranks_lose_their_slice() {
        check(2, || {
            let signals = Signals::new(3, 3);
            signals.publish_rank(0, HIGH);
            signals.publish_rank(1, LOW);
            signals.publish_rank(2, NO_RANK);
            signals.revoke_below(0..3, HIGH);
            let revoked = [0, 1, 2].map(|worker| signals.is_revoked(worker));
            assert_eq!(revoked, [false, true, false]);
            signals.publish_rank(1, HIGH);
            assert!(!signals.is_revoked(1), "a new slice begins unrevoked");
        });
    }
}

mod shutdown {
    use super::*;

    /// The end of a pool against producers that were admitted before it: the queue and the flag that says that it is over.
    fn late_push(own_sweep: bool) {
        check(3, move || {
            let shared = Arc::new((Queue::default(), AtomicBool::new(false)));
            let producers: Vec<_> = (1..=2)
                .map(|number| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        let (queue, terminated) = &*shared;
                        queue.push(number);
                        // `Class::sweep_if_late`, `dispatch::enqueue_at`.
                        if own_sweep && terminated.load(SeqCst) {
                            return queue.take(2).into_numbers();
                        }
                        Vec::new()
                    })
                })
                .collect();
            let (queue, terminated) = &*shared;
            terminated.store(true, SeqCst);
            sc_fence();
            let mut places = vec![queue.take(2).into_numbers()];
            for producer in producers {
                places.push(producer.join().unwrap());
            }
            let left = queue.take(2).into_numbers();
            assert!(left.is_empty(), "left in a queue that nobody serves");
            assert_each_once(2, places);
        });
    }

    /// CPU-18: what is pushed while a pool ends is cancelled by whoever comes second, and by one of them only.
    #[test]
    fn a_late_push_is_swept_by_whoever_comes_second() {
        late_push(true);
    }

    #[test]
    fn a_late_push_without_a_look_at_the_flag_is_caught() {
        caught(
            "shutdown::a_late_push_without_a_look_at_the_flag_is_caught",
            "left in a queue that nobody serves",
            || {
                late_push(false);
            },
        );
    }
}
