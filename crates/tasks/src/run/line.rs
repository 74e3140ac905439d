//! When calls come back that a dependency's limit had no slot for.
//!
//! They are in the queue meanwhile, so nobody wakes them when a slot is free: each is given a time of its own, one after the other, a little closer together
//! than slots come free, which is as often as the limit goes into the time that calls usually have theirs. So there is always one that asks for a slot that
//! is free, and never a herd of them after a time without any. One that comes too early goes to the end of the line.
//!
//! A limit that people raise or take away has more slots than those times are made for: who waits is called back then, the oldest first, as many as would
//! now have a time within [`LONGEST`].
//!
//! Pure. Invariants: each class has a line of its own, so that nobody stands behind those who matter less; no wait is below [`SHORTEST`] or above [`LONGEST`], however
//! many wait: who would have a longer one comes back within the second half of it, and asks again; of those who wait the newest [`AWAY_MAX`] are known by name.

use flyball_core::time::Timestamp;
use flyball_limit::CallClass;
use flyball_policy::queue::TaskId;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The shortest wait: a task that comes back at once meets the same calls.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest one: a limit that has grown by itself is used after that at the latest.
const LONGEST: Duration = Duration::from_secs(15);
/// How long a call is taken to have its slot before one has ended: short, as who is too early only asks again.
const FIRST_GUESS: Duration = Duration::from_millis(5);
/// Of the time between two slots that come free, as much lies between two that come back: some are too early, so that hardly a slot waits.
const CLOSER: f64 = 0.8;
/// At a small limit a slot that came free just after somebody was too early would wait for long: they come this often within the time of a call at least,
const TRIES: f64 = 16.0;
/// but not more often than this for that cause: calls wait that long for a slot anyway.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// The weight of the newest call in the usual time.
const WEIGHT: f64 = 0.125;
/// The golden ratio's part below one: its multiples spread evenly, however many there are (Knuth, The Art of Computer Programming 3, 6.4).
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Of how many who wait it is known which they are.
const AWAY_MAX: usize = 10_000;

/// A task, and how often it was started.
pub(crate) type Attempt = (TaskId, u32);

/// Those who wait for one dependency.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// How long calls have their slots, seconds.
    usual: Option<f64>,
    /// When the last of each class comes back.
    last: HashMap<Option<CallClass>, Timestamp>,
    /// Those for whom the line was too long.
    beyond: u32,
    /// Who was turned away and has not come back yet.
    away: BTreeMap<TaskId, u32>,
    /// The least slots that there were when somebody was turned away, since the limit was last set.
    slots: Option<u32>,
}

impl Line {
    /// A call has given its slot back, after this long.
    pub(crate) fn left(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        let usual = self.usual.get_or_insert(took);
        *usual += (took - *usual) * WEIGHT;
    }

    /// How far apart they come back, seconds.
    fn step(&self, slots: u32) -> f64 {
        let usual = self.usual.unwrap_or(FIRST_GUESS.as_secs_f64());
        let free = usual / f64::from(slots.max(1)) * CLOSER;
        let step = free.min((usual / TRIES).max(TRY_EVERY.as_secs_f64()));
        step.min(LONGEST.as_secs_f64())
    }

    /// One found no slot of so many: after how long it comes back.
    pub(crate) fn turn_away(
        &mut self,
        now: Timestamp,
        attempt: Attempt,
        class: Option<CallClass>,
        slots: u32,
    ) -> Duration {
        self.away.insert(attempt.0, attempt.1);
        if self.away.len() > AWAY_MAX {
            // Those who never come back, as they were cancelled, go by and by.
            self.away.pop_first();
        }
        self.slots = Some(self.slots.map_or(slots, |least| least.min(slots)));
        let step = Duration::from_secs_f64(self.step(slots));
        let last = self.last.entry(class).or_insert(now);
        let then = now.max(*last).saturating_add(step);
        let wait = then.duration_since(now);
        if wait > LONGEST {
            self.beyond = self.beyond.wrapping_add(1);
            let part = (f64::from(self.beyond) * GOLDEN).fract();
            return LONGEST.mul_f64(0.5 + part / 2.0);
        }
        *last = then;
        wait.max(SHORTEST)
    }

    /// One has come back.
    pub(crate) fn back(&mut self, id: TaskId) {
        self.away.remove(&id);
    }

    /// Whether it was turned away, and has not come back.
    pub(crate) fn is_away(&self, attempt: Attempt) -> bool {
        self.away.get(&attempt.0) == Some(&attempt.1)
    }

    /// The limit was set: who is to come back at once, as there are more slots than those have times for.
    pub(crate) fn set(&mut self, slots: u32) -> Vec<Attempt> {
        let before = self.slots.replace(slots);
        if before.is_none_or(|before| slots <= before) {
            return Vec::new();
        }
        self.last.clear();
        // A quotient without bounds is cut to the largest number.
        let most = (LONGEST.as_secs_f64() / self.step(slots)).ceil() as usize;
        let mut called = Vec::new();
        while called.len() < most
            && let Some(attempt) = self.away.pop_first()
        {
            called.push(attempt);
        }
        called
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    /// Calls that take so long come all at once; nobody waits at the gate. When the last has ended, and how often one was turned away.
    fn all_at_once(calls: u32, slots: u32, takes: Duration) -> (Duration, u32) {
        let mut line = Line::default();
        let mut come: BinaryHeap<_> = (0..calls).map(|_| Reverse(ms(0))).collect();
        let mut leave: BinaryHeap<Reverse<Timestamp>> = BinaryHeap::new();
        let (mut now, mut away) = (ms(0), 0);
        while let Some(Reverse(comes)) = come.pop() {
            now = comes;
            while leave.peek().is_some_and(|Reverse(leaves)| *leaves <= now) {
                leave.pop();
                line.left(takes);
            }
            if leave.len() < slots as usize {
                leave.push(Reverse(now.saturating_add(takes)));
            } else {
                away += 1;
                let wait = line.turn_away(now, (TaskId(1), 1), None, slots);
                assert!((SHORTEST..=LONGEST).contains(&wait), "{wait:?}");
                come.push(Reverse(now.saturating_add(wait)));
            }
        }
        (now.saturating_add(takes).duration_since(ms(0)), away)
    }

    /// CPU-21: what a limit turns away comes back as slots come free: hardly a slot stays empty while calls wait, and few come in vain.
    #[test]
    fn slots_are_not_left_empty() {
        for (calls, slots, takes) in [
            (40, 3, 400),
            (160, 3, 400),
            (100, 1, 50),
            (600, 8, 200),
            (4_000, 40, 100),
            (2_000, 4, 5),
            (2_000, 4, 2),
        ] {
            let takes = Duration::from_millis(takes);
            let rounds = calls / slots + u32::from(calls % slots > 0);
            let ideal = takes * rounds;
            let (taken, away) = all_at_once(calls, slots, takes);
            let what = format!("{calls} by {slots}, {takes:?}: {taken:?} of {ideal:?}, {away}");
            // Nobody waits at the gate here, which fills the gaps of a small limit.
            assert!(
                taken.as_secs_f64() <= ideal.as_secs_f64() * 1.2 + 1.0,
                "{what}"
            );
            assert!(away <= calls * 40, "{what}");
        }
    }

    /// CPU-21: each class has a line of its own, and no wait is without bounds.
    #[test]
    fn lines_are_by_class_and_bounded() {
        let gate = flyball_limit::Gate::new(flyball_limit::GateConfig::fixed(1)).unwrap();
        let [batch, normal] = ["batch", "normal"].map(|name| gate.class(name).ok());
        let mut line = Line::default();
        line.left(Duration::from_secs(1));
        let waits: Vec<_> = (0..10_000)
            .map(|_| line.turn_away(ms(0), (TaskId(1), 1), batch, 1))
            .collect();
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        let late = waits[1_000..].iter();
        let within = |wait: &&Duration| **wait < LONGEST.mul_f64(0.51);
        let herd = late.filter(within).count();
        assert!((100..300).contains(&herd), "a fiftieth of them: {herd}");
        let wait = line.turn_away(ms(0), (TaskId(1), 1), normal, 1);
        assert!(wait < Duration::from_millis(100));
        for took in [Duration::ZERO, Duration::MAX] {
            line.left(took);
            for slots in [0, 1, u32::MAX] {
                let end = Timestamp::from_nanos(u64::MAX);
                let wait = line.turn_away(end, (TaskId(1), 1), None, slots);
                assert!((SHORTEST..=LONGEST).contains(&wait), "{wait:?}");
            }
        }
    }
    /// CPU-21: when the limit is set higher, those come back at once who have a place in a line by that limit, the oldest first, and no others; known are a bounded
    /// number.
    #[test]
    fn a_higher_limit_calls_back() {
        let mut line = Line::default();
        line.left(Duration::from_secs(1));
        assert!(line.set(4).is_empty());
        let away = |line: &mut Line, number, slots| {
            line.turn_away(ms(0), (TaskId(number), 2), None, slots);
        };
        (0..1_000).for_each(|number| away(&mut line, number, 4));
        assert!(line.is_away((TaskId(3), 2)) && !line.is_away((TaskId(3), 1)));
        line.back(TaskId(3));
        assert!(!line.is_away((TaskId(3), 2)));
        assert!(line.set(4).is_empty() && line.set(2).is_empty());
        // As the limit may have grown by itself before anybody set it.
        away(&mut line, 0, 8);
        let called = line.set(8);
        let step = line.step(8);
        let expected = (LONGEST.as_secs_f64() / step).ceil() as usize;
        assert_eq!(called.len(), expected, "{step}");
        assert_eq!(&called[..4], [0, 1, 2, 4].map(|number| (TaskId(number), 2)));
        assert!(called.iter().all(|attempt| !line.is_away(*attempt)));
        assert_eq!(line.set(u32::MAX).len(), 999 - expected);
        assert!(line.set(u32::MAX).is_empty());
        let most = AWAY_MAX as u64;
        (0..most + 10).for_each(|number| away(&mut line, number, 1));
        assert!(!line.is_away((TaskId(9), 2)) && line.is_away((TaskId(10), 2)));
        assert_eq!(line.set(u32::MAX).len(), AWAY_MAX);
    }
}
