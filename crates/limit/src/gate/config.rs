//! Settings of a gate.

use std::num::NonZero;

use flyball_core::class::ClassSpec;
use flyball_policy::limit::adaptive::{AdaptiveConfig, Algorithm, Signal};
use flyball_policy::limit::admission::AdmissionConfig;

use super::slots::MAX_SLOTS;
use crate::error::Error;

/// The most classes of a gate.
pub const MAX_CLASSES: usize = 64;

/// Whether a gate acts on what it decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Who is to wait waits, who is shed is refused.
    #[default]
    Enforce,
    /// The same decisions, reasons and figures, and everybody comes in at once. What would have waited holds a slot from the moment at which it would have had
    /// one; what would have been refused holds none. The gate's level stays normal, as who heeds it leaves work out.
    Observe,
}

/// A class of calls: how much they matter beside each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateClass {
    /// Its name.
    pub name: String,
    /// 0 to 7, higher first.
    pub priority: u8,
}

/// Settings of a [`Gate`](super::Gate).
#[derive(Clone, Debug, PartialEq)]
pub struct GateConfig {
    /// How many calls may be in at once.
    pub limit: AdaptiveConfig,
    /// Who waits, and who is refused.
    pub admission: AdmissionConfig,
    /// Whether that is done, or only counted.
    pub mode: Mode,
    /// The classes, 1 to [`MAX_CLASSES`]: flyball's five unless set. The names are unique. They are fixed once the gate exists.
    pub classes: Vec<GateClass>,
    /// The class of calls that name none: `interactive` unless set.
    pub default_class: String,
}

impl GateConfig {
    /// For work that this process does itself, such as requests that it serves: the limit follows how long the work waited for a CPU. Where that is not
    /// known (no Linux), it follows latency.
    #[must_use]
    pub fn own_work() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        Self::with_limit(AdaptiveConfig::for_signal(if cfg!(target_os = "linux") {
            Signal::RunDelay { cpus }
        } else {
            Signal::Latency
        }))
    }

    /// For calls of something of which only the latency is known, such as a database or another service.
    #[must_use]
    pub fn dependency() -> Self {
        Self::with_limit(AdaptiveConfig::for_signal(Signal::Latency))
    }

    /// Always so many at once.
    #[must_use]
    pub fn fixed(limit: u32) -> Self {
        Self::with_limit(AdaptiveConfig::new(Algorithm::Fixed(limit)))
    }

    /// With this limit, and defaults for the rest.
    #[must_use]
    pub fn with_limit(limit: AdaptiveConfig) -> Self {
        let built_in = ClassSpec::built_in().into_iter();
        let classes = built_in.map(|class| GateClass {
            name: class.name,
            priority: class.priority,
        });
        Self {
            limit,
            admission: AdmissionConfig::default(),
            mode: Mode::Enforce,
            classes: classes.collect(),
            default_class: "interactive".to_owned(),
        }
    }

    /// Sets who waits and who is refused.
    #[must_use]
    pub fn with_admission(mut self, admission: AdmissionConfig) -> Self {
        self.admission = admission;
        self
    }

    /// Sets whether decisions are acted on.
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Says whether the settings make sense.
    ///
    /// # Errors
    /// [`Error::Setting`] for one out of its range, [`Error::Classes`] for the classes.
    pub fn check(&self) -> Result<(), Error> {
        self.limit.check()?;
        self.admission.check()?;
        let classes = &self.classes;
        let fault = |what: String| Err(Error::Classes(what));
        if !(1..=MAX_CLASSES).contains(&classes.len()) {
            return fault(format!("there must be 1 to {MAX_CLASSES}"));
        }
        for (place, class) in classes.iter().enumerate() {
            if class.priority > 7 {
                return fault(format!(
                    "priority {} of class {:?} must be 0 to 7",
                    class.priority, class.name
                ));
            }
            if classes[..place]
                .iter()
                .any(|other| other.name == class.name)
            {
                return fault(format!("class {:?} is there twice", class.name));
            }
        }
        if !classes.iter().any(|class| class.name == self.default_class) {
            return fault(format!("there is no class {:?}", self.default_class));
        }
        Ok(())
    }

    /// The place of a class.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class.name == name)
    }
}

impl Default for GateConfig {
    fn default() -> Self {
        Self::own_work()
    }
}

// What a policy may ask for fits into the word.
const _: () = assert!(MAX_SLOTS >= 1_000_000);
