//! Which worker a thread is, and whether its loop goes on, seen from outside.
//!
//! tokio's figures stand still for as long as [`event_interval`](tokio::runtime::Builder::event_interval) polls take (61 by default), so they do not tell
//! one long poll from many short ones, and they do not say which thread a worker is on. The loop's own state does. A worker's loop keeps a *context* on its stack:
//! a counted pointer to the worker (the runtime's address, the worker's number), and beside it a cell with the pointer to the worker's *core*. The core counts each
//! task that is taken and counts nothing during a poll; it is absent while `block_in_place` has given the worker to another thread.
//!
//! Where the fields are is the compiler's choice, so they are known by what they hold: the worker by the runtime's address; the core by lying beside an
//! unborrowed cell's zero, next to the worker, and by holding two counted pointers itself (its queue and its parker). In the core any word
//! that goes up by a little and is not part of a pointer is a count.
//!
//! All of that is reading, through the kernel, of memory that another thread may be changing or may have freed: a look may be wrong, it cannot do harm.
//! Should a later tokio arrange its state otherwise, the worker is not recognised, and the figures and the names on the stack decide alone.

use crate::stack::{Raw, Unwound};
use crate::sys;
use std::ops::Range;

/// Bytes of the core that are looked at; it has 120 in tokio 1.54, and allocators round that up to this.
const CORE: usize = 128;
/// A counted object's two counts, and the worker's three words.
const WORKER: usize = 40;
/// How far from the pointer to the worker the pointer to the core is looked for: the size of the context (56 bytes).
const NEAR: u64 = 64;
/// Most references to a counted object, and most polls between two looks: more would take longer than the longest interval.
const COUNT_MAX: u64 = 1_000_000;

type Look = [u8; CORE];

/// A worker that was recognised on a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recognised {
    /// Its number.
    pub(super) worker: usize,
    /// Its core, if this thread has it.
    pub(super) core: Option<Core>,
}

/// A worker's core under observation.
#[derive(Clone, Debug)]
pub(super) struct Core {
    address: u64,
    last: Look,
}

impl PartialEq for Core {
    /// Whether it is the same core, whatever it looked like.
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Eq for Core {}

impl Core {
    /// Whether the loop has taken a task since the last look.
    pub(super) fn progressed(&mut self) -> bool {
        let Some(now) = read::<CORE>(self.address) else {
            return false;
        };
        let before = std::mem::replace(&mut self.last, now);
        (0..CORE / 8).any(|lane| {
            let (old, new) = (word(&before, lane), word(&now, lane));
            old != new && (counts_up(old, new) && !is_mapped(old) && !is_mapped(new))
        })
    }

    fn recognise(address: u64, runtime: u64) -> Option<Core> {
        if !could_point(address) || address == runtime {
            return None;
        }
        let last = read::<CORE>(address)?;
        let counted = (0..CORE / 8)
            .filter(|&lane| is_counted(word(&last, lane)))
            .count();
        (counted >= 2).then_some(Core { address, last })
    }
}

/// Recognises the worker of the runtime at address `runtime`, which has `workers` workers, in `part` of a stack.
pub(super) fn recognise(
    raw: &Raw,
    part: Range<u64>,
    runtime: u64,
    workers: usize,
) -> Option<Recognised> {
    let mut recognised: Option<Recognised> = None;
    for slot in part.clone().step_by(8) {
        let Some(pointer) = raw.word(slot) else {
            break;
        };
        let Some(worker) = worker_at(pointer, runtime, workers) else {
            continue;
        };
        let core = (slot.saturating_sub(NEAR)..=slot + NEAR)
            .step_by(8)
            .filter(|near| part.contains(near))
            .filter(|near| raw.word(near - 8) == Some(0) || raw.word(near + 8) == Some(0))
            .filter_map(|near| raw.word(near))
            // The context lies on the stack and is referred to from there, too; the core is on the heap.
            .filter(|&near| near != pointer && !raw.holds(near))
            .find_map(|near| Core::recognise(near, runtime));
        match &mut recognised {
            Some(known) if known.worker == worker => known.core = known.core.take().or(core),
            // A nested loop: the inner one, which comes first, is the one that polls.
            Some(_) => {}
            None => recognised = Some(Recognised { worker, core }),
        }
    }
    recognised
}

/// The number of the worker that a counted pointer leads to, if it leads to one of this runtime.
fn worker_at(pointer: u64, runtime: u64, workers: usize) -> Option<usize> {
    if !could_point(pointer) || pointer == runtime {
        return None;
    }
    let bytes = read::<WORKER>(pointer)?;
    let [strong, weak, data @ ..] = [0, 1, 2, 3, 4].map(|lane| word(&bytes, lane));
    if !is_count(strong) || !is_count(weak) {
        return None;
    }
    let place = data.iter().position(|&word| word == runtime)?;
    // The other two are the number and the place of a core that nobody has taken: zero, or a pointer.
    let mut numbers = (0..3)
        .filter(|&index| index != place)
        .map(|index| data[index])
        .filter(|&word| word < workers as u64);
    let (first, second) = (numbers.next()?, numbers.next().unwrap_or(0));
    usize::try_from(first.max(second)).ok()
}

/// The part of the stack from the call `from` outwards to the call `to`, by their places in the list.
pub(super) fn part(unwound: &Unwound, from: usize, to: usize) -> Range<u64> {
    unwound.calls[from].memory.start.next_multiple_of(8)..unwound.calls[to].memory.end
}

/// Whether one of the two halves went up by a little while the other stayed, or the whole did.
fn counts_up(old: u64, new: u64) -> bool {
    let little = |step: u64| (1..=COUNT_MAX).contains(&step);
    let (old_high, new_high) = (old >> 32, new >> 32);
    little(new.wrapping_sub(old))
        || (old as u32 == new as u32 && little(new_high.wrapping_sub(old_high)))
}

fn could_point(word: u64) -> bool {
    word >= 1 << 16 && word.is_multiple_of(8) && word < 1 << 56
}

fn is_mapped(word: u64) -> bool {
    could_point(word) && read::<8>(word).is_some()
}

fn is_count(word: u64) -> bool {
    (1..=COUNT_MAX).contains(&word)
}

/// Whether the word points to something that begins with two counts of references.
fn is_counted(pointer: u64) -> bool {
    could_point(pointer)
        && read::<16>(pointer)
            .is_some_and(|counts| is_count(word(&counts, 0)) && is_count(word(&counts, 1)))
}

fn read<const N: usize>(address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (sys::read_memory(address, &mut bytes) == N).then_some(bytes)
}

fn word(bytes: &[u8], lane: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[8 * lane..8 * lane + 8]);
    u64::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn counts_go_up_by_a_little() {
        assert!(counts_up(5, 6));
        assert!(counts_up(5 << 32 | 61, 9 << 32 | 61), "the upper half");
        assert!(counts_up(61 << 32 | 5, 61 << 32 | 9), "the lower half");
        assert!(!counts_up(6, 5));
        assert!(!counts_up(0, 0x7f81_9400_3d00), "a pointer appears");
    }

    fn pointer<T>(object: &Arc<T>) -> u64 {
        // The counts lie before the value.
        Arc::as_ptr(object).addr() as u64 - 16
    }

    /// Like a core: two counted pointers, a slot for a task, and a tick that shares a word.
    #[repr(C, align(128))]
    struct Model {
        slot: u64,
        queue: Arc<u64>,
        parker: Arc<u64>,
        tick: u32,
        interval: u32,
        rest: [u64; 12],
    }

    #[test]
    fn a_core_goes_on_when_its_tick_does() {
        let task = Box::new(7u64);
        let mut model = Box::new(Model {
            slot: 0,
            queue: Arc::new(1),
            parker: Arc::new(2),
            tick: 41,
            interval: 61,
            rest: [0; 12],
        });
        let address = std::ptr::from_ref(&*model).addr() as u64;
        let mut core = Core::recognise(address, 0).expect("two counted pointers");
        assert!(!core.progressed());
        model.slot = std::ptr::from_ref(&*task).addr() as u64;
        assert!(!core.progressed(), "a task woken during the poll");
        model.slot = 0;
        assert!(!core.progressed(), "and taken away");
        model.tick += 3;
        assert!(core.progressed());
        assert!(!core.progressed());
        std::hint::black_box((&model.queue, &model.parker, model.interval, &model.rest));
        assert_eq!(Core::recognise(pointer(&model.queue), 0), None);
    }

    #[test]
    fn a_worker_is_known_by_its_runtime() {
        let runtime = 0x7f00_0000_1000u64;
        for (words, number) in [
            ([runtime, 3, 0], Some(3)),
            ([0, runtime, 0], Some(0)),
            ([0x7f00_0000_2000, 2, runtime], Some(2)),
            ([runtime, 4, 0x7f00_0000_2000], None),
            ([1, 2, 3], None),
        ] {
            let worker = Arc::new(words);
            assert_eq!(
                worker_at(pointer(&worker), runtime, 4),
                number,
                "{words:x?}"
            );
        }
    }
}
