//! How bad it is: levels by which a service leaves out what is optional.
//!
//! A level is entered when calls are refused for a second, and left when they have not been for ten: leaving out work frees capacity, so
//! that a level would end itself and come again if it were left as soon as it helps.
//!
//! That second is one of calls, not of the clock: callers who come together and stay away between are refused as much as those who come evenly. So times
//! without calls neither count nor interrupt it, unless they are as long as a level takes to end; and times that had few refused end it only once they make
//! the whole of it mild.

use flyball_core::time::Timestamp;

/// What a service should do without.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Degradation {
    /// Nothing.
    #[default]
    Normal,
    /// What is optional: calls are refused.
    Conserve,
    /// All but the core: half of the calls are refused.
    Survive,
}

impl Degradation {
    /// All, the mildest first.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Conserve, Self::Survive];

    /// Its name: `normal`, `conserve` or `survive`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Conserve => "conserve",
            Self::Survive => "survive",
        }
    }
}

impl core::fmt::Display for Degradation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// The part of calls refused is measured so often.
const INTERVAL_NANOS: u64 = 250_000_000;
/// The part of calls refused from which a level is meant.
const CONSERVE: f64 = 0.02;
const SURVIVE: f64 = 0.5;
/// A level is left below this part of what it is entered at.
const LEAVE: f64 = 0.5;
/// In how many intervals it must be meant: a second. They count as intervals however long nobody looked, as a single call may have been refused meanwhile.
const ENTER: u32 = 4;
/// How long it must not be needed.
const LEAVE_NANOS: u64 = 10_000_000_000;

/// What became of calls.
#[derive(Clone, Copy, Default, Debug)]
struct Answers {
    /// All of them.
    all: u64,
    shed: u64,
}

impl Answers {
    fn add(&mut self, other: Self) {
        self.all = self.all.saturating_add(other.all);
        self.shed = self.shed.saturating_add(other.shed);
    }

    /// The part of them that was refused, 0 to 1.
    fn pressure(self) -> f64 {
        match self.all.max(self.shed) {
            0 => 0.0,
            all => self.shed as f64 / all as f64,
        }
    }
}

/// The intervals since a higher level was first meant.
#[derive(Clone, Copy, Default, Debug)]
struct Spell {
    /// Those in which it was.
    worse: u32,
    /// When it was last.
    last: Timestamp,
    answers: Answers,
}

#[derive(Clone, Debug)]
pub(in crate::limit) struct Levels {
    level: Degradation,
    began: Timestamp,
    /// Since then.
    answers: Answers,
    pressure: f64,
    spell: Spell,
    /// Since when this level is not needed.
    better_since: Option<Timestamp>,
}

impl Levels {
    pub(in crate::limit) fn new(now: Timestamp) -> Self {
        Self {
            level: Degradation::Normal,
            began: now,
            answers: Answers::default(),
            pressure: 0.0,
            spell: Spell::default(),
            better_since: None,
        }
    }

    /// So many calls were answered, `shed` of them by a refusal.
    pub(in crate::limit) fn answered(&mut self, all: u64, shed: u64) {
        self.answers.add(Answers { all, shed });
    }

    pub(in crate::limit) fn level(&self) -> Degradation {
        self.level
    }

    /// The part of calls refused in the last interval, 0 to 1.
    pub(in crate::limit) fn pressure(&self) -> f64 {
        self.pressure
    }

    pub(in crate::limit) fn tick(&mut self, now: Timestamp) {
        if now.saturating_nanos_since(self.began) < INTERVAL_NANOS {
            return;
        }
        let began = core::mem::replace(&mut self.began, now);
        let answers = core::mem::take(&mut self.answers);
        self.pressure = answers.pressure();
        self.rise(now, answers);
        let needed = at(self.pressure / LEAVE);
        if needed < self.level {
            let since = *self.better_since.get_or_insert(began);
            if now.saturating_nanos_since(since) >= LEAVE_NANOS {
                self.level = needed;
                self.better_since = None;
            }
        } else {
            self.better_since = None;
        }
    }

    fn rise(&mut self, now: Timestamp, answers: Answers) {
        let spell = &mut self.spell;
        if now.saturating_nanos_since(spell.last) >= LEAVE_NANOS {
            *spell = Spell::default();
        }
        if at(answers.pressure()) > self.level {
            spell.worse = spell.worse.saturating_add(1);
            spell.last = now;
        }
        if spell.worse == 0 {
            return;
        }
        spell.answers.add(answers);
        let meant = at(spell.answers.pressure());
        if meant <= self.level {
            *spell = Spell::default();
        } else if spell.worse >= ENTER {
            self.level = meant;
            *spell = Spell::default();
        }
    }
}

fn at(pressure: f64) -> Degradation {
    if pressure >= SURVIVE {
        Degradation::Survive
    } else if pressure >= CONSERVE {
        Degradation::Conserve
    } else {
        Degradation::Normal
    }
}
