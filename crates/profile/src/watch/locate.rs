//! Which thread a worker is on.
//!
//! tokio does not tell without `tokio_unstable`. Whose stack is copied is decided by what probes answered ([`Answer`]: a thread that polled one while a
//! worker was parked is not that worker); a thread that has not answered may have been blocked from the start, or have taken a
//! worker over in `block_in_place`: it is looked at if it has the name of those that did. What the stack says decides: it is the worker only if tokio's worker
//! loop is on it, is polling a task, and is that worker's ([`turn::recognise`]).
//!
//! Should the loop's state never be recognised, a thread with the runtime's address in that part of its stack is taken to be any worker that it may be: then the numbers of workers
//! that are blocked at once may be taken for each other's.

use super::probe::Answer;
use super::threads::{self, Thread};
use super::turn::{self, Core};
use crate::stack::{self, Raw, Sampler, Unwinder, Unwound};
use crate::{Error, sys};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;

/// Most threads that are known of one runtime; more are looked for when they are needed.
const KNOWN_MAX: usize = 1024;
/// Most stacks that are copied to find one worker.
const CAPTURES_MAX: usize = 32;
/// Most addresses whose part is remembered; then all are forgotten.
const PARTS_MAX: usize = 8192;

/// Whether a worker was ever recognised by its loop's state: tokio is compiled once into a program, so then all are.
static RECOGNISES: AtomicBool = AtomicBool::new(false);

/// The name that tokio gives to the threads of a runtime unless told otherwise.
const TOKIO_NAME: &str = "tokio-rt-worker";

#[derive(Clone, Debug)]
struct Known {
    name: String,
    /// For each worker, whether this thread may be it.
    may_be: Vec<bool>,
    /// Larger for a later answer.
    answered: u64,
}

/// A thread that was found to be polling a task as a worker.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) thread: Thread,
    /// The worker's core, if it was recognised.
    pub(super) core: Option<Core>,
    /// The worker's number, likewise.
    worker: Option<usize>,
    pub(super) unwound: Unwound,
}

/// What is known of the threads of one runtime.
#[derive(Debug)]
pub(super) struct Locator {
    workers: usize,
    known: HashMap<Thread, Known>,
    answers: u64,
    /// The address by which the runtime's threads refer to it.
    runtime: Option<u64>,
    unwinder: Unwinder,
    parts: HashMap<u64, Part>,
    captures: u64,
}

impl Locator {
    pub(super) fn new(handle: &Handle, workers: usize) -> Self {
        Locator {
            workers,
            known: HashMap::new(),
            answers: 0,
            runtime: address_of(handle),
            unwinder: Unwinder::new(),
            parts: HashMap::new(),
            captures: 0,
        }
    }

    /// How many stacks were copied.
    pub(super) fn captures(&self) -> u64 {
        self.captures
    }

    /// Learns from an answer.
    pub(super) fn learn(&mut self, answer: &Answer) {
        let Some(thread) = threads::find(answer.thread) else {
            return;
        };
        self.answers += 1;
        if !self.known.contains_key(&thread) {
            if self.known.len() >= KNOWN_MAX {
                self.forget_ended();
            }
            if self.known.len() >= KNOWN_MAX {
                return;
            }
        }
        let workers = self.workers;
        let known = self.known.entry(thread).or_insert_with(|| Known {
            name: threads::name(thread.id).unwrap_or_default(),
            may_be: vec![true; workers],
            answered: 0,
        });
        known.answered = self.answers;
        for (may_be, &parked) in known.may_be.iter_mut().zip(&answer.parked) {
            *may_be &= !parked;
        }
        if !known.may_be.contains(&true) {
            // The thread has changed to another worker (`block_in_place` does that): what was known of it is void.
            known.may_be = answer.parked.iter().map(|&parked| !parked).collect();
            known.may_be.resize(workers, true);
        }
    }

    /// The thread is the worker, and no other.
    fn settle(&mut self, thread: Thread, worker: usize) {
        if let Some(known) = self.known.get_mut(&thread) {
            known.may_be.fill(false);
            known.may_be[worker] = true;
        }
    }

    /// Whether every worker has a thread that can only be it.
    pub(super) fn is_complete(&self) -> bool {
        let mut sure = vec![false; self.workers];
        for known in self.known.values() {
            if let Some(worker) = only(&known.may_be) {
                sure[worker] = true;
            }
        }
        !sure.contains(&false)
    }

    fn forget_ended(&mut self) {
        self.known.retain(|&thread, _| threads::is_alive(thread));
    }

    /// Finds the thread on which `worker` polls a task, other than those `taken` by other workers.
    pub(super) fn find(
        &mut self,
        worker: usize,
        sampler: &Sampler,
        taken: &[Thread],
    ) -> Option<Found> {
        self.forget_ended();
        let mut candidates = self.candidates(worker, taken);
        candidates.truncate(CAPTURES_MAX);
        for thread in candidates {
            if let Ok(Some(found)) = self.look(thread, sampler)
                && found.worker.is_none_or(|number| number == worker)
            {
                return Some(found);
            }
        }
        None
    }

    /// Threads that may be the worker, the likeliest first: those that can be no other, and then whoever was heard of last, as a worker that changed
    /// threads is on the later one.
    fn candidates(&self, worker: usize, taken: &[Thread]) -> Vec<Thread> {
        let mut known: Vec<(&Thread, &Known)> = self
            .known
            .iter()
            .filter(|(thread, known)| known.may_be[worker] && !taken.contains(thread))
            .collect();
        known.sort_unstable_by_key(|(_, known)| {
            let choices = known.may_be.iter().filter(|&&may_be| may_be).count();
            (choices, u64::MAX - known.answered)
        });
        let own = sys::thread_id();
        let mut unknown: Vec<Thread> = threads::all()
            .into_iter()
            .filter(|&id| id != own && self.known.keys().all(|thread| thread.id != id))
            .filter(|&id| {
                threads::name(id).is_some_and(|name| {
                    name == TOKIO_NAME || self.known.values().any(|known| known.name == name)
                }) || self.known.is_empty()
            })
            .filter_map(threads::find)
            .filter(|thread| !taken.contains(thread))
            .collect();
        unknown.sort_unstable_by(|a, b| b.cmp(a));
        known
            .into_iter()
            .map(|(&thread, _)| thread)
            .chain(unknown)
            .collect()
    }

    /// Copies a thread's stack and says whether it is polling a task as a worker.
    ///
    /// # Errors
    /// Why the stack could not be had.
    pub(super) fn look(
        &mut self,
        thread: Thread,
        sampler: &Sampler,
    ) -> Result<Option<Found>, Error> {
        if !threads::is_alive(thread) {
            return Err(Error::ThreadEnded);
        }
        self.captures += 1;
        let raw = sampler.capture(thread.id)?;
        if !threads::is_alive(thread) {
            return Err(Error::ThreadEnded);
        }
        let unwound = self.unwinder.unwind(&raw);
        let Some(part) = self.polling(&unwound) else {
            return Ok(None);
        };
        let recognised = self
            .runtime
            .and_then(|runtime| turn::recognise(&raw, part.clone(), runtime, self.workers));
        let (worker, core) = match recognised {
            Some(recognised) => {
                RECOGNISES.store(true, Ordering::Relaxed);
                self.settle(thread, recognised.worker);
                if recognised.core.is_none() {
                    // Its worker goes on elsewhere.
                    return Ok(None);
                }
                (Some(recognised.worker), recognised.core)
            }
            // Where workers can be recognised, this is one of another runtime.
            None if RECOGNISES.load(Ordering::Relaxed) => return Ok(None),
            None if self
                .runtime
                .is_some_and(|runtime| refers_to(&raw, part, runtime)) =>
            {
                (None, None)
            }
            None => return Ok(None),
        };
        Ok(Some(Found {
            thread,
            core,
            worker,
            unwound,
        }))
    }

    /// The worker loop's part of the stack, if it is polling a task: from the outermost call of the worker's code inwards to the poll.
    fn polling(&mut self, unwound: &Unwound) -> Option<Range<u64>> {
        let parts: Vec<Part> = unwound
            .calls
            .iter()
            .enumerate()
            .map(|(depth, call)| self.part_of(call.address, depth == 0))
            .collect();
        let outermost = parts.iter().rposition(|part| part.worker)?;
        let poll = parts[..outermost]
            .iter()
            .rposition(|part| part.task && !part.worker)?;
        if parts[..poll].iter().any(|part| part.given_away) {
            return None;
        }
        Some(turn::part(unwound, poll + 1, outermost))
    }

    fn part_of(&mut self, address: u64, innermost: bool) -> Part {
        if let Some(&part) = self.parts.get(&address) {
            return part;
        }
        let mut frames = Vec::new();
        stack::name_call(address, innermost, &mut frames);
        let mut part = Part::default();
        for name in frames.iter().filter_map(stack::Frame::function) {
            part.worker |= name.contains("tokio::runtime::scheduler::multi_thread::worker::");
            part.task |= name.contains("tokio::runtime::task::");
            part.given_away |= name.contains("block_in_place")
                || name.contains("tokio::runtime::context::runtime_mt::exit_runtime");
        }
        if self.parts.len() >= PARTS_MAX {
            self.parts.clear();
        }
        self.parts.insert(address, part);
        part
    }
}

/// Which part of tokio a call belongs to.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// The worker's loop.
    worker: bool,
    /// What polls a task.
    task: bool,
    /// `block_in_place`, in which the worker goes on elsewhere.
    given_away: bool,
}

fn only(may_be: &[bool]) -> Option<usize> {
    let first = may_be.iter().position(|&may_be| may_be)?;
    (!may_be[first + 1..].contains(&true)).then_some(first)
}

/// The address by which a handle refers to its runtime: the word of it that is one. Only compared, never followed.
fn address_of(handle: &Handle) -> Option<u64> {
    let mut bytes = [0u8; size_of::<Handle>()];
    if sys::read_memory(std::ptr::from_ref(handle).addr() as u64, &mut bytes) != bytes.len() {
        return None;
    }
    bytes
        .chunks_exact(8)
        .filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?)))
        .find(|&word| word >= 1 << 16 && word.is_multiple_of(8) && word < 1 << 56)
}

/// Whether the address is in this part of the stack.
fn refers_to(raw: &Raw, mut part: Range<u64>, address: u64) -> bool {
    part.any(|slot| slot.is_multiple_of(8) && raw.word(slot) == Some(address))
}
