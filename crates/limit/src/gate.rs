//! A gate: how many calls are in at once, who waits and who is refused, for many threads.
//!
//! The policies of `flyball_policy::limit::{adaptive, admission}` behind one lock, and before that lock a word ([`slots`]) by which a call comes in with one
//! compare-and-swap and leaves with one addition while a slot is free and nobody waits. The lock is taken
//!
//! - for calls that find no slot, and by who leaves while somebody waits;
//! - for one call in k, which is *sampled*: its times are told to the limit, and its future is [followed](follow). k is 1 up to some ten thousand calls
//!   a second and then grows, so that windows of 20 ms keep some hundred samples, which is what a mean needs. Whoever ends a sampled
//!   call and finds the window over measures it and sets the limit.
//!
//! # Invariants
//! - In flight is never above the limit, but for what a lowered limit leaves over and, where the limit is of this process's own work, for calls that
//!   do not wait for lesser ones: of each class and those that matter more never more come in than the limit.
//! - Under the lock: `ask` is raised whenever somebody waits; who waits is in the policy's line and in `waiting`, or was named and only in `waiting`.
//! - A waiter that is named has a slot from then on. Whoever was named and does not take it leaves, and so hands it on.
//! - Neither wakers nor hooks are called, cloned or dropped under the lock.

mod config;
mod enter;
mod figures;
mod follow;
mod permit;
pub(crate) mod slots;
pub(crate) mod sync;
mod threads;
mod windows;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock, TryLockError};
use std::task::Waker;
use std::thread::Thread;
use std::time::Duration;

use flyball_core::time::{Source, Timestamp};
use flyball_policy::limit::adaptive::{AdaptiveLimit, Change, Outcome, Started};
use flyball_policy::limit::admission::{
    Admission, Admit, Degradation, Request, Shed, ShedReason, Ticket,
};
use flyball_policy::limit::precedence::{self, Inside};

pub use config::{GateClass, GateConfig, MAX_CLASSES, Mode};
pub use enter::Enter;
pub use figures::{ClassStatus, GateStatus, LimitChange};
pub use permit::{Offload, Permit};

use crate::error::Error;
use crate::shell::lock;
use figures::{CHANGES_KEPT, Counts, add};
use follow::Sums;
use slots::{Slots, View};
use windows::{Cpu, Sampling};

/// A class of a [`Gate`], looked up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallClass(u8);

/// What is said of a call that wants in. The default is a call of the gate's default class, of nobody in particular, without a deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Its class; the gate's default class unless set.
    pub class: Option<CallClass>,
    /// A hash of whom it is made for: tenant, user, session. Under overload those with the same one are treated alike; without one each call is on its own.
    pub cohort: Option<u64>,
    /// When its answer is of no use any more, on the [gate's clock](Gate::now).
    pub deadline: Option<Timestamp>,
}

impl Ask {
    /// A call whose answer is of no use any more when so much time has passed; the rest as by default.
    ///
    /// ```
    /// use flyball_limit::{Ask, Gate, GateConfig};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), flyball_limit::Error> {
    /// let gate = Gate::new(GateConfig::fixed(1))?;
    /// let ask = Ask {
    ///     class: Some(gate.class("batch")?),
    ///     ..Ask::within(&gate, Duration::from_millis(200))
    /// };
    /// assert!(gate.try_enter(&ask).is_ok());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn within(gate: &Gate, time: Duration) -> Self {
        Self {
            deadline: Some(gate.now().saturating_add(time)),
            ..Self::default()
        }
    }
}

#[derive(Debug)]
enum Sleeper {
    /// Has not said yet how it is woken, or is not to be.
    Nobody,
    Task(Waker),
    Thread(Thread),
}

impl Sleeper {
    fn wake(self) {
        match self {
            Sleeper::Nobody => {}
            Sleeper::Task(waker) => waker.wake(),
            Sleeper::Thread(thread) => thread.unpark(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Standing {
    Waits,
    /// Has a slot, the call's number in the order of starts.
    Named(u32),
    Refused(Shed),
    /// Waits, or was refused, where nobody does or is: it comes in. Only an answer.
    Watches,
}

#[derive(Debug)]
struct Waiting {
    place: u8,
    standing: Standing,
    sleeper: Sleeper,
}

impl Waiting {
    fn take_sleeper(&mut self) -> Sleeper {
        std::mem::replace(&mut self.sleeper, Sleeper::Nobody)
    }
}

#[derive(Debug)]
struct State {
    limit: AdaptiveLimit,
    admission: Admission,
    mode: Mode,
    waiting: BTreeMap<Ticket, Waiting>,
    /// Those of `waiting` that are neither named nor refused.
    queued: u32,
    sampling: Sampling,
    changes: VecDeque<LimitChange>,
}

/// What is to be done once the lock is free.
#[derive(Default)]
struct Later {
    sleepers: Vec<Sleeper>,
    level: Option<Degradation>,
}

type Hook = Arc<dyn Fn(Degradation) + Send + Sync>;

#[derive(Debug)]
#[repr(align(128))]
struct Hot {
    slots: Slots,
    /// Of the numbers of calls, those with none of these bits are sampled.
    mask: AtomicU32,
}

struct Inner {
    hot: Hot,
    counts: Box<[Counts]>,
    clock: Source,
    config: GateConfig,
    default_place: u8,
    level: AtomicU8,
    sums: Sums,
    cpu: Mutex<Cpu>,
    state: Mutex<State>,
    hooks: RwLock<Vec<Hook>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let view = self.hot.slots.view();
        f.debug_struct("Gate")
            .field("limit", &view.limit())
            .field("in_flight", &view.in_flight())
            .finish_non_exhaustive()
    }
}

/// What came of asking.
enum Asked {
    In(Permit),
    Wait(Ticket, Timestamp),
}

/// A gate. Cheap to clone; all clones are one gate.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}

impl Gate {
    /// Makes a gate through which nobody has come.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range, [`Error::Classes`] for the classes.
    pub fn new(config: GateConfig) -> Result<Self, Error> {
        Self::with_clock(config, Source::best())
    }

    /// As [`new`](Self::new), on a clock: for tests. (Futures that wait are woken by tokio's clock all the same.)
    ///
    /// ```
    /// use flyball_core::time::{ManualClock, Source}; // flyball::time
    /// use flyball_limit::{Ask, Gate, GateConfig, ShedReason};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), flyball_limit::Error> {
    /// let clock = ManualClock::new();
    /// let gate = Gate::with_clock(GateConfig::fixed(1), Source::Manual(clock.clone()))?;
    /// let late = Ask::within(&gate, Duration::from_millis(200));
    /// clock.advance(Duration::from_secs(1)); // takes no time
    /// assert_eq!(gate.try_enter(&late).unwrap_err().reason, ShedReason::Deadline);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_clock(config: GateConfig, clock: Source) -> Result<Self, Error> {
        config.check()?;
        let now = clock.now();
        let limit = AdaptiveLimit::new(now, config.limit)?;
        let admission = Admission::new(now, config.admission)?;
        let hot = Hot {
            slots: Slots::new(limit.limit()),
            mask: AtomicU32::new(0),
        };
        let default_place = config.place(&config.default_class).unwrap_or(0) as u8;
        let state = State {
            limit,
            admission,
            mode: config.mode,
            waiting: BTreeMap::new(),
            queued: 0,
            sampling: Sampling::new(now),
            changes: VecDeque::new(),
        };
        let inner = Inner {
            hot,
            counts: config.classes.iter().map(|_| Counts::default()).collect(),
            clock,
            config,
            default_place,
            level: AtomicU8::new(0),
            sums: Sums::default(),
            cpu: Mutex::default(),
            state: Mutex::new(state),
            hooks: RwLock::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Looks a class up.
    ///
    /// # Errors
    /// [`Error::UnknownClass`], which lists those there are.
    pub fn class(&self, name: &str) -> Result<CallClass, Error> {
        match self.inner.config.place(name) {
            Some(place) => Ok(CallClass(place as u8)),
            None => {
                let names = self.inner.config.classes.iter();
                let known: Vec<_> = names.map(|class| class.name.as_str()).collect();
                Err(Error::UnknownClass {
                    name: name.to_owned(),
                    known: known.join(", "),
                })
            }
        }
    }

    /// Comes in if that is possible at once. What would have to wait is refused, and counts as a call that gave up.
    ///
    /// # Errors
    /// Why not, and when to try again.
    #[inline]
    pub fn try_enter(&self, ask: &Ask) -> Result<Permit, Shed> {
        let place = self.place(ask);
        match self.enter_free(place, ask) {
            Some(number) => Ok(self.permit(place, number)),
            None => self.try_ask(place, ask),
        }
    }

    #[cold]
    fn try_ask(&self, place: u8, ask: &Ask) -> Result<Permit, Shed> {
        match self.ask(ask)? {
            Asked::In(permit) => Ok(permit),
            Asked::Wait(ticket, _) => match self.step_out(ticket) {
                Standing::Named(number) => Ok(self.permit(place, number)),
                Standing::Refused(shed) => Err(shed),
                Standing::Waits | Standing::Watches => Err(NO_ANSWER),
            },
        }
    }

    /// Comes in if a slot is free, for calls whose line is elsewhere, as with a queue on disk: who finds none is neither in the gate's line nor shed, and it is
    /// noted that it waits, as by [`note_blocked`](Self::note_blocked). While the gate observes it comes in all the same: beside the limit, counted but
    /// not measured.
    #[must_use]
    pub fn try_slot(&self, class: Option<CallClass>) -> Option<Permit> {
        let ask = Ask {
            class,
            ..Ask::default()
        };
        let place = self.place(&ask);
        match self.enter_free(place, &ask) {
            Some(number) => Some(self.permit(place, number)),
            None => self.note_beside(place),
        }
    }

    #[cold]
    fn note_beside(&self, place: u8) -> Option<Permit> {
        let mut state = lock(&self.inner.state);
        state.limit.note_blocked();
        if state.mode == Mode::Enforce {
            return None;
        }
        drop(state);
        add(&self.inner.counts[usize::from(place)].entered);
        Some(Permit::beside(self.clone(), place))
    }

    /// Comes in, waiting a short time if need be. The future may be dropped at any time.
    ///
    /// The output's error says why not, and when to try again. Must be awaited in a tokio runtime with a timer.
    #[inline]
    pub fn enter(&self, ask: Ask) -> Enter {
        Enter::new(self.clone(), ask)
    }

    /// As [`enter`](Self::enter), blocking this thread.
    ///
    /// # Errors
    /// Why not, and when to try again.
    pub fn enter_blocking(&self, ask: &Ask) -> Result<Permit, Shed> {
        enter::blocking(self, ask)
    }

    /// The present instant on the clock that deadlines are told on.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// What the service should do without at the moment: nothing under [`Mode::Observe`], where [`status`](Self::status) tells what it would be.
    ///
    /// A load; it is brought up to date as calls come and end, and by [`status`](Self::status). So once calls have stopped a level stays until one of those comes.
    #[inline]
    #[must_use]
    pub fn level(&self) -> Degradation {
        let place = self.inner.level.load(Ordering::Relaxed);
        let level = Degradation::ALL.get(usize::from(place));
        level.copied().unwrap_or_default()
    }

    /// Calls `hook` whenever [`level`](Self::level) has changed, on the thread that noticed: that of a call which comes or ends, or of who asks for
    /// [`status`](Self::status). So it should be quick and not block. If it panics that is reported as panics are and goes no further. It stays as long as the gate.
    pub fn on_level(&self, hook: impl Fn(Degradation) + Send + Sync + 'static) {
        let mut hooks = match self.inner.hooks.write() {
            Ok(hooks) => hooks,
            Err(poisoned) => poisoned.into_inner(),
        };
        hooks.push(Arc::new(hook));
    }

    /// How many calls may be in at once.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.inner.hot.slots.view().limit()
    }

    /// How many are.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.inner.hot.slots.view().in_flight()
    }

    /// Whether it only counts what it would do.
    #[must_use]
    pub fn observes(&self) -> bool {
        lock(&self.inner.state).mode == Mode::Observe
    }

    /// Figures.
    #[must_use]
    pub fn status(&self) -> GateStatus {
        let inner = &*self.inner;
        let now = inner.clock.now();
        let mut later = Later::default();
        let mut state = lock(&inner.state);
        inner.catch_up(&mut state, now, &mut later);
        let view = inner.hot.slots.view();
        let classes = inner.config.classes.iter().zip(&inner.counts);
        let status = GateStatus {
            mode: state.mode,
            algorithm: state.limit.config().algorithm.name(),
            limit: view.limit(),
            in_flight: view.in_flight(),
            waiting: state.queued,
            level: state.admission.level(),
            sampled_one_in: inner.hot.mask.load(Ordering::Relaxed) + 1,
            adaptive: *state.limit.stats(),
            admission: state.admission.stats(),
            classes: classes
                .map(|(class, counts)| counts.status(&class.name, class.priority))
                .collect(),
            changes: state.changes.iter().copied().collect(),
        };
        drop(state);
        inner.act(later);
        status
    }

    /// The settings as they are now.
    #[must_use]
    pub fn config(&self) -> GateConfig {
        let state = lock(&self.inner.state);
        GateConfig {
            limit: *state.limit.config(),
            admission: *state.admission.config(),
            mode: state.mode,
            ..self.inner.config.clone()
        }
    }

    /// Changes limit, admission and mode while calls are in and wait. Classes stay as they were made. When the gate begins to observe, all who wait come in.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range, [`Error::Classes`] for other classes; nothing has changed then.
    pub fn set_config(&self, config: &GateConfig) -> Result<(), Error> {
        let inner = &*self.inner;
        config.check()?;
        if config.classes != inner.config.classes
            || config.default_class != inner.config.default_class
        {
            return Err(Error::Classes(
                "they cannot be changed once the gate exists".to_owned(),
            ));
        }
        let now = inner.clock.now();
        let mut later = Later::default();
        let mut state = lock(&inner.state);
        let change = state.limit.set_config(now, config.limit)?;
        state.admission.set_config(config.admission)?;
        state.mode = config.mode;
        if config.mode == Mode::Observe {
            // They stay in the line as calls do that come while it observes.
            let waiting = state.waiting.values_mut();
            later.sleepers.extend(waiting.map(Waiting::take_sleeper));
        }
        inner.hot.slots.set_limit(state.limit.limit());
        inner.note(&mut state, now, change);
        inner.dispatch(&mut state, now, &mut later);
        inner.catch_up(&mut state, now, &mut later);
        drop(state);
        inner.act(later);
        Ok(())
    }

    /// Forgets what the limit has learnt: it is what it was at first, and is found anew. Calls that are in stay in; counts go on.
    pub fn reset(&self) {
        let inner = &*self.inner;
        let now = inner.clock.now();
        let mut later = Later::default();
        let mut state = lock(&inner.state);
        let change = state.limit.reset(now);
        inner.hot.slots.set_limit(state.limit.limit());
        inner.note(&mut state, now, change);
        inner.dispatch(&mut state, now, &mut later);
        drop(state);
        inner.act(later);
    }

    /// Says that a call waits elsewhere because as many are in as may: where who is in is counted here and the line is another's, as with a queue on disk.
    /// The limit grows only while calls are blocked.
    pub fn note_blocked(&self) {
        lock(&self.inner.state).limit.note_blocked();
    }

    fn place(&self, ask: &Ask) -> u8 {
        let place = ask.class.map_or(self.inner.default_place, |class| class.0);
        // A class of another gate with more classes counts as the default one.
        if usize::from(place) < self.inner.counts.len() {
            place
        } else {
            self.inner.default_place
        }
    }

    /// The fast path: the number of the call that came in.
    #[inline]
    fn enter_free(&self, place: u8, ask: &Ask) -> Option<u32> {
        if ask.deadline.is_some_and(|deadline| deadline <= self.now()) {
            return None;
        }
        let number = self.inner.hot.slots.enter()?;
        add(&self.inner.counts[usize::from(place)].entered);
        Some(number)
    }

    #[inline]
    fn permit(&self, place: u8, number: u32) -> Permit {
        self.clone().into_permit(place, number)
    }

    #[inline]
    fn into_permit(self, place: u8, number: u32) -> Permit {
        let sampled = number & self.inner.hot.mask.load(Ordering::Relaxed) == 0;
        let sample = if sampled {
            Some(Box::new(self.inner.sample()))
        } else {
            None
        };
        Permit::new(self, place, sample)
    }

    /// The slow path: asks the policy.
    fn ask(&self, ask: &Ask) -> Result<Asked, Shed> {
        let inner = &*self.inner;
        let place = self.place(ask);
        let counts = &inner.counts[usize::from(place)];
        let now = inner.clock.now();
        let request = Request {
            priority: inner.config.classes[usize::from(place)].priority,
            cohort: ask.cohort,
            deadline: ask.deadline,
        };
        let mut later = Later::default();
        let mut state = lock(&inner.state);
        let observes = state.mode == Mode::Observe;
        // Nobody comes in past the lock from here on, so that a slot that is free stays so.
        let view = inner.hot.slots.raise();
        inner.catch_up(&mut state, now, &mut later);
        if state.queued > 0 {
            inner.expire(&mut state, now, &mut later);
        }
        let beyond = inner.beyond(&state, request.priority);
        let room = view.is_free() || beyond.is_some();
        if !room {
            state.limit.note_blocked();
        }
        let asked = match state.admission.arrive(now, &request, room) {
            Admit::Now => match inner.enter_named(beyond) {
                Some(number) => {
                    state.sampling.entered_asked();
                    add(&counts.entered);
                    Ok((None, number))
                }
                // Only who holds the lock comes in while `ask` is raised, and there was room.
                None => Err(NO_ANSWER),
            },
            Admit::Wait(ticket, until) => {
                let waiting = Waiting {
                    place,
                    standing: Standing::Waits,
                    sleeper: Sleeper::Nobody,
                };
                state.waiting.insert(ticket, waiting);
                state.queued += 1;
                add(&counts.waited);
                Ok((Some((ticket, until)), 0))
            }
            Admit::Shed(shed) => {
                counts.shed(shed.reason);
                Err(shed)
            }
        };
        inner.dispatch(&mut state, now, &mut later);
        inner.catch_up(&mut state, now, &mut later);
        drop(state);
        inner.act(later);
        match asked {
            Ok((None, number)) => Ok(Asked::In(self.permit(place, number))),
            Ok((Some((ticket, _)), _)) if observes => Ok(Asked::In(Permit::watching(
                self.clone(),
                place,
                Some(ticket),
            ))),
            Ok((Some((ticket, until)), _)) => Ok(Asked::Wait(ticket, until)),
            Err(_) if observes => Ok(Asked::In(Permit::watching(self.clone(), place, None))),
            Err(shed) => Err(shed),
        }
    }

    /// Leaves the line for good, and answers what was said: named, which is to be taken or given back, or refused.
    fn step_out(&self, ticket: Ticket) -> Standing {
        let inner = &*self.inner;
        let now = inner.clock.now();
        let mut later = Later::default();
        let mut state = lock(&inner.state);
        let Some(waiting) = state.waiting.remove(&ticket) else {
            return Standing::Waits;
        };
        let standing = match waiting.standing {
            Standing::Waits => {
                state.queued -= 1;
                let gave_up = state.admission.stats().cancelled;
                let shed = state.admission.cancel(now, ticket).unwrap_or(NO_ANSWER);
                let counts = &inner.counts[usize::from(waiting.place)];
                if state.admission.stats().cancelled > gave_up {
                    add(&counts.cancelled);
                } else {
                    counts.shed(shed.reason);
                }
                Standing::Refused(shed)
            }
            known => known,
        };
        inner.dispatch(&mut state, now, &mut later);
        drop(state);
        inner.act(later);
        standing
    }

    /// What is said to who waits, noting how it is woken.
    fn standing(&self, ticket: Ticket, mut sleeper: Sleeper) -> Standing {
        let mut state = lock(&self.inner.state);
        let observes = state.mode == Mode::Observe;
        let standing = match state.waiting.get_mut(&ticket) {
            Some(waiting) => match waiting.standing {
                Standing::Waits | Standing::Refused(_) if observes => Standing::Watches,
                Standing::Waits => {
                    std::mem::swap(&mut waiting.sleeper, &mut sleeper);
                    Standing::Waits
                }
                known => known,
            },
            None => Standing::Refused(NO_ANSWER),
        };
        // The one before is dropped without the lock: dropping a waker may drop the task, and all that it holds of this gate.
        drop(state);
        drop(sleeper);
        standing
    }
}

/// What a waiter is told of whom the policy knows nothing, which cannot be: it fails towards refusing.
const NO_ANSWER: Shed = Shed {
    reason: ShedReason::Waited,
    retry_after: Duration::from_secs(1),
};

impl Inner {
    /// Gives a slot back, or on.
    #[inline]
    fn leave(&self, place: u8) -> View {
        add(&self.counts[usize::from(place)].left);
        let view = self.hot.slots.leave();
        if view.ask() {
            self.hand_on();
        }
        view
    }

    #[cold]
    fn hand_on(&self) {
        let now = self.clock.now();
        let mut later = Later::default();
        let mut state = lock(&self.state);
        self.dispatch(&mut state, now, &mut later);
        drop(state);
        self.act(later);
    }

    /// Names those who wait to free slots, and has newcomers ask as long as anybody waits.
    fn dispatch(&self, state: &mut State, now: Timestamp, later: &mut Later) {
        loop {
            while state.queued > 0 {
                // Who is over its time goes first, so that the slot is looked for for who is named.
                self.expire(state, now, later);
                let first = state.admission.first_waiting();
                let beyond = first.and_then(|first| self.beyond(state, first));
                if beyond.is_none() && !self.hot.slots.view().is_free() {
                    break;
                }
                let mut expired = Vec::new();
                let next = state
                    .admission
                    .next(now, |ticket, shed| expired.push((ticket, shed)));
                for (ticket, shed) in expired {
                    self.refuse(state, ticket, shed, later);
                }
                let Some(ticket) = next else { break };
                self.name(state, ticket, beyond, later);
            }
            if state.queued == 0 {
                self.hot.slots.lower();
                return;
            }
            // Who leaves after this hears of it; who left before is seen.
            if !self.hot.slots.raise().is_free() {
                return;
            }
        }
    }

    /// The number of calls up to which one of this priority comes in though no slot is free.
    fn beyond(&self, state: &State, priority: u8) -> Option<u32> {
        let classes = self.config.classes.iter().zip(&self.counts);
        let inside = classes.map(|(class, counts)| Inside {
            priority: class.priority,
            calls: counts.inside(),
        });
        let view = self.hot.slots.view();
        let now = (view.limit(), view.in_flight());
        precedence::beyond(state.limit.config(), now, priority, inside)
    }

    /// Enters for somebody whom the policy named.
    fn enter_named(&self, beyond: Option<u32>) -> Option<u32> {
        let slots = &self.hot.slots;
        slots.enter_asked().or_else(|| slots.enter_beyond(beyond?))
    }

    fn name(&self, state: &mut State, ticket: Ticket, beyond: Option<u32>, later: &mut Later) {
        state.queued = state.queued.saturating_sub(1);
        let Some(waiting) = state.waiting.get_mut(&ticket) else {
            return;
        };
        later.sleepers.push(waiting.take_sleeper());
        // `ask` is raised and the lock is held, so what was free is free, and who is named is who it was looked for for: those over their time are out.
        let Some(number) = self.enter_named(beyond) else {
            self.counts[usize::from(waiting.place)].shed(NO_ANSWER.reason);
            waiting.standing = Standing::Refused(NO_ANSWER);
            return;
        };
        state.sampling.entered_asked();
        add(&self.counts[usize::from(waiting.place)].entered);
        waiting.standing = Standing::Named(number);
    }

    fn refuse(&self, state: &mut State, ticket: Ticket, shed: Shed, later: &mut Later) {
        state.queued = state.queued.saturating_sub(1);
        let Some(waiting) = state.waiting.get_mut(&ticket) else {
            return;
        };
        self.counts[usize::from(waiting.place)].shed(shed.reason);
        waiting.standing = Standing::Refused(shed);
        later.sleepers.push(waiting.take_sleeper());
    }

    /// Refuses those whose time is over: it shrinks while they wait.
    fn expire(&self, state: &mut State, now: Timestamp, later: &mut Later) {
        let mut expired = Vec::new();
        state
            .admission
            .expire(now, |ticket, shed| expired.push((ticket, shed)));
        for (ticket, shed) in expired {
            self.refuse(state, ticket, shed, later);
        }
    }

    /// Tells the admission of those who came in without asking, and brings its levels up to now.
    fn catch_up(&self, state: &mut State, now: Timestamp, later: &mut Later) {
        let entered = state.sampling.entered_free(self.hot.slots.view());
        state.admission.note_entered(entered);
        state.admission.tick(now);
        let level = match state.mode {
            Mode::Enforce => state.admission.level(),
            Mode::Observe => Degradation::Normal,
        };
        let place = Degradation::ALL.iter().position(|known| *known == level);
        let place = place.unwrap_or(0) as u8;
        if self.level.swap(place, Ordering::Relaxed) != place {
            later.level = Some(level);
        }
    }

    fn act(&self, later: Later) {
        later.sleepers.into_iter().for_each(Sleeper::wake);
        if let Some(level) = later.level {
            let hooks = match self.hooks.read() {
                Ok(hooks) => hooks.clone(),
                Err(poisoned) => poisoned.into_inner().clone(),
            };
            for hook in &hooks {
                // Not the fault of the call that is on this thread, nor of whoever asks for figures.
                let _ = catch_unwind(AssertUnwindSafe(|| hook(level)));
            }
        }
    }

    fn note(&self, state: &mut State, now: Timestamp, change: Option<Change>) {
        if let Some(change) = change {
            if state.changes.len() == CHANGES_KEPT {
                state.changes.pop_front();
            }
            state.changes.push_back(LimitChange { at: now, change });
        }
    }

    /// A call that is looked at closely begins.
    #[cold]
    fn sample(&self) -> permit::Sample {
        threads::this_one_serves();
        let now = self.clock.now();
        let mut later = Later::default();
        let mut state = lock(&self.state);
        let mask = self.hot.mask.load(Ordering::Relaxed);
        let slowed = state.sampling.began(now, mask);
        if slowed != mask {
            self.hot.mask.store(slowed, Ordering::Relaxed);
        }
        let started = state.limit.on_start(now);
        let view = self.hot.slots.view();
        state.limit.set_in_flight(now, view.in_flight());
        self.catch_up(&mut state, now, &mut later);
        drop(state);
        self.act(later);
        permit::Sample::new(started, mask + 1)
    }

    /// It has ended, and left.
    #[cold]
    fn end_sample(&self, started: Started, outcome: Outcome, left: View) {
        let now = self.clock.now();
        let mut later = Later::default();
        let mut state = lock(&self.state);
        state.limit.on_end(now, started, outcome);
        state.limit.set_in_flight(now, left.in_flight());
        let mask = self.hot.mask.load(Ordering::Relaxed);
        let wanted = state.sampling.ended(now, left, mask);
        if wanted != mask {
            self.hot.mask.store(wanted, Ordering::Relaxed);
        }
        let cpu = if state.limit.due(now) {
            // Files are read without the lock; who finds another reading leaves the window to that one.
            drop(state);
            let mut cpu = match self.cpu.try_lock() {
                Ok(cpu) => cpu,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let cpu = cpu.read(now, &self.sums);
            state = lock(&self.state);
            cpu
        } else {
            None
        };
        let before = state.limit.stats().last.map(|window| window.to);
        let change = state.limit.step(now, cpu);
        if let Some(window) = state.limit.stats().last
            && before != Some(window.to)
            && window.completions > 0
        {
            state.admission.note_least_latency(now, window.latency_min);
        }
        if let Some(change) = change {
            self.hot.slots.set_limit(change.to);
            self.note(&mut state, now, Some(change));
            self.dispatch(&mut state, now, &mut later);
        }
        self.catch_up(&mut state, now, &mut later);
        drop(state);
        self.act(later);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use flyball_core::time::ManualClock;
    use flyball_policy::limit::adaptive::{AdaptiveConfig, Algorithm};

    use super::*;

    /// CPU-22: a panic while the CPU's figures were read does not stop the limit for good.
    #[test]
    fn a_panic_beside_the_figures_stops_nothing() {
        let clock = ManualClock::new();
        let config =
            GateConfig::with_limit(AdaptiveConfig::new(Algorithm::aimd()).with_initial(100));
        let gate = Gate::with_clock(config, Source::Manual(clock.clone())).unwrap();
        let inner = Arc::clone(&gate.inner);
        let panics = std::thread::spawn(move || {
            let _cpu = inner.cpu.lock();
            panic!("on purpose")
        });
        assert!(panics.join().is_err() && gate.inner.cpu.is_poisoned());
        for _ in 0..200 {
            let permit = gate.try_enter(&Ask::default()).unwrap();
            clock.advance(Duration::from_millis(1));
            permit.end(Outcome::Failed);
        }
        assert!(gate.limit() < 100);
    }
    /// CPU-22: a waiter's former waker is dropped without the lock: it may be all that held a task which holds the gate.
    #[test]
    fn wakers_are_dropped_without_the_lock() {
        struct Asks(Gate);
        impl std::task::Wake for Asks {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Asks {
            fn drop(&mut self) {
                assert!(self.0.inner.state.try_lock().is_ok());
            }
        }
        let gate = Gate::new(GateConfig::fixed(1)).unwrap();
        let _permit = gate.try_enter(&Ask::default()).unwrap();
        let Ok(Asked::Wait(ticket, _)) = gate.ask(&Ask::default()) else {
            panic!("it waits");
        };
        let waker = Waker::from(Arc::new(Asks(gate.clone())));
        gate.standing(ticket, Sleeper::Task(waker));
        gate.standing(ticket, Sleeper::Task(Waker::noop().clone()));
    }
}
