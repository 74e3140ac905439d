//! Changes of the configuration while the engine runs: validated as a whole, then done, or not done at all.
//!
//! What can fail (classes) goes first and is undone if a later step of it fails; what cannot follows. Guarantees of classes must not
//! add up to more than everything at any moment, so lower ones are set before higher ones. A class that is removed cannot be brought
//! back, as whoever holds a handle of it would hold one of the removed class; so that comes last, and only where all that are to go
//! have no tasks.

use crate::Engine;
use crate::config::{Change, Config, Loaded, Origin, Sources};
use crate::error::Error;
use crate::events::EventKind;
use crate::settings;
use crate::shared::Shared;
use flyball_core::class::{ClassSpec, MAX_CLASSES};
use flyball_executor::Stats;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

/// A change of the configuration as streams tell it.
#[derive(Serialize)]
struct Changed<'a> {
    who: &'a str,
    changes: &'a [Change],
}

impl Engine {
    /// The configuration with the origin of each value.
    pub fn configuration(&self) -> Arc<Loaded> {
        self.shared.loaded()
    }

    /// Changes settings: nested objects of the keys to change, `null` to go back to what file, environment and flags say. Answers what
    /// changed, with old and new values; with `dry_run` it only says what would.
    ///
    /// # Errors
    /// [`Error::Config`] with everything that is wrong, [`Error::Conflict`] when it does not go together with what runs. Nothing has
    /// changed then.
    pub fn configure(
        &self,
        changes: &Value,
        who: &str,
        dry_run: bool,
    ) -> Result<Vec<Change>, Error> {
        self.changing().configure(changes, who, dry_run)
    }

    /// Reads the configuration anew from where it came from. Changes made while running stay in force.
    ///
    /// # Errors
    /// As [`Engine::configure`].
    pub fn reload(&self, sources: &Sources, who: &str) -> Result<Vec<Change>, Error> {
        let changing = self.changing();
        let (loaded, changes) = self.configuration().reload(sources)?;
        changing.take_over(loaded, changes, who, false)
    }

    /// Waits until nobody else changes the configuration. What is read of it then is what a change of it starts from.
    pub(crate) fn changing(&self) -> Changing<'_> {
        let alone = self.shared.changing.lock();
        Changing {
            shared: &self.shared,
            _alone: alone.unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// The right to change the configuration, of which there is one.
pub(crate) struct Changing<'a> {
    shared: &'a Arc<Shared>,
    _alone: MutexGuard<'a, ()>,
}

impl Changing<'_> {
    /// As [`Engine::configure`].
    pub(crate) fn configure(
        &self,
        changes: &Value,
        who: &str,
        dry_run: bool,
    ) -> Result<Vec<Change>, Error> {
        let (loaded, changes) = self.shared.loaded().with_changes(changes, Origin::Api)?;
        self.take_over(loaded, changes, who, dry_run)
    }

    /// Goes back to an earlier configuration.
    pub(crate) fn restore(&self, before: &Loaded, who: &str) -> Result<(), Error> {
        let changes = self.shared.loaded().changes_to(before);
        self.take_over(before.clone(), changes, who, false)?;
        Ok(())
    }

    fn take_over(
        &self,
        loaded: Loaded,
        changes: Vec<Change>,
        who: &str,
        dry_run: bool,
    ) -> Result<Vec<Change>, Error> {
        let (old, new) = (self.shared.config(), loaded.config.clone());
        let steps = class_steps(self.shared, &old, &new)?;
        self.shared.check_limits(&new)?;
        #[cfg(feature = "tasks")]
        self.check_tasks(&new)?;
        if dry_run {
            return Ok(changes);
        }
        // The steps that can fail; what was opened is closed again if another one does.
        #[cfg(feature = "tasks")]
        let open = match (old.scheduler.enabled, new.scheduler.enabled) {
            (false, true) => self.shared.tasks.open(self.shared, &new)?,
            _ => None,
        };
        #[cfg(feature = "tasks")]
        let opened = open.is_some();
        #[cfg(feature = "tasks")]
        if let Some(open) = open {
            self.shared.tasks.take(self.shared, open)?;
        }
        let done = run_steps(self.shared, steps);
        #[cfg(feature = "tasks")]
        if done.is_err() && opened {
            self.shared.tasks.switch_off(self.shared.now());
        }
        done?;
        self.shared.set_key_limits(Some(&old), &new)?;
        self.shared.set_shedding(Some(&old), &new)?;
        let executor = &self.shared.executor;
        // The ranges of these keys are within what the executor takes.
        executor.set_tuning(&settings::tuning(&new, executor.tuning()))?;
        if settings::algorithm(&old) != settings::algorithm(&new) {
            executor.set_algorithm(settings::algorithm(&new));
        }
        if settings::strategy(&old) != settings::strategy(&new) {
            executor.set_strategy(settings::strategy(&new));
        }
        #[cfg(feature = "tasks")]
        self.turn_tasks(&old, &new);
        self.shared.set_loaded(loaded);
        self.shared.configure_limits(&new);
        self.shared.set_pool_bounds();
        self.shared.configure_throttles();
        #[cfg(feature = "tasks")]
        {
            let enabled = !self.shared.is_draining();
            self.shared.tasks.set_runners(&new, enabled);
            self.shared.tasks.changed();
        }
        for change in &changes {
            tracing::info!(
                who,
                key = change.key,
                old = %change.old,
                new = %change.new,
                "configuration changed"
            );
        }
        if !changes.is_empty() {
            let changed = Changed {
                who,
                changes: &changes,
            };
            self.shared.tell(EventKind::Config, &changed);
            self.shared.poke();
        }
        Ok(changes)
    }
}

#[cfg(feature = "tasks")]
impl Changing<'_> {
    /// Finds out what would keep durable tasks from following a configuration.
    fn check_tasks(&self, new: &Config) -> Result<(), Error> {
        if new.scheduler.enabled && self.shared.tasks.is_closing() {
            return Err(Error::Conflict(
                "the queue of tasks is still being closed; it can be switched on when its tasks have come to their end"
                    .to_owned(),
            ));
        }
        if let Some(open) = self.shared.tasks.opened()
            && let Err(fault) = open.run_settings(new, true).validate()
        {
            return Err(Error::Conflict(fault.to_string()));
        }
        Ok(())
    }

    /// Switches durable tasks off, or says that there is nowhere to keep them; what could be opened has been taken.
    fn turn_tasks(&self, old: &Config, new: &Config) {
        let tasks = &self.shared.tasks;
        if old.scheduler.enabled && !new.scheduler.enabled {
            let timeout = old.worker_pool.shutdown_timeout;
            tasks.switch_off(self.shared.now().saturating_add(timeout));
        } else if new.scheduler.enabled && tasks.opened().is_none() {
            tasks.lack();
        }
    }
}

impl Shared {
    /// What keys may do, in every class of which the configuration says another thing than before (at the start: anything). What a
    /// program set by itself stays.
    pub(crate) fn set_key_limits(&self, old: Option<&Config>, new: &Config) -> Result<(), Error> {
        let built_in = ClassSpec::built_in().map(|spec| spec.name);
        let configured = new.classes.iter().map(|spec| spec.name.clone());
        for name in built_in.into_iter().chain(configured) {
            let limits = new.classes.key_limits(&name);
            let before = old.map(|old| old.classes.key_limits(&name));
            if limits != before.unwrap_or_default() {
                self.executor.class(&name)?.set_key_limits(limits)?;
            }
        }
        Ok(())
    }
}

impl Shared {
    /// When work of a class is refused because of how long it would wait, in every class of which the configuration says another thing than before (at the
    /// start: never). What a program set by itself stays.
    pub(crate) fn set_shedding(&self, old: Option<&Config>, new: &Config) -> Result<(), Error> {
        let built_in = ClassSpec::built_in().map(|spec| spec.name);
        let configured = new.classes.iter().map(|spec| spec.name.clone());
        for name in built_in.into_iter().chain(configured) {
            let shedding = new.classes.shedding(&name);
            let before = old.and_then(|old| old.classes.shedding(&name));
            if shedding != before {
                self.executor.class(&name)?.set_shedding(shedding)?;
            }
        }
        Ok(())
    }
}

/// One step, and the one that takes it back.
enum Step {
    Add(ClassSpec),
    Set { from: ClassSpec, to: ClassSpec },
    Remove(ClassSpec),
}

/// What has to be done to the classes. Those that a program added by itself are none of the configuration's business.
fn class_steps(shared: &Shared, old: &Config, new: &Config) -> Result<Vec<Step>, Error> {
    let named = |config: &Config| -> BTreeMap<String, ClassSpec> {
        let built_in = ClassSpec::built_in().into_iter();
        built_in
            .chain(settings::classes(config))
            .map(|spec| (spec.name.clone(), spec))
            .collect()
    };
    let (old, new) = (named(old), named(new));
    let stats = shared.executor.stats();
    let (mut steps, mut removals) = (Vec::new(), Vec::new());
    for (name, from) in &old {
        match new.get(name) {
            None => {
                if from.guarantee > 0.0 {
                    steps.push(Step::Set {
                        from: from.clone(),
                        to: from.clone().with_guarantee(0.0),
                    });
                }
                removals.push(Step::Remove(from.clone()));
            }
            Some(to) if to.group != from.group => {
                return Err(Error::Conflict(format!(
                    "class {name} is in the {} group; a class cannot change its group while the engine runs",
                    from.group
                )));
            }
            Some(to) if to != from => steps.push(Step::Set {
                from: from.clone(),
                to: to.clone(),
            }),
            Some(_) => {}
        }
    }
    for (name, spec) in &new {
        if !old.contains_key(name) {
            if stats.class(name).is_some() {
                return Err(Error::Exists {
                    what: "class",
                    name: name.clone(),
                });
            }
            steps.push(Step::Add(spec.clone()));
        }
    }
    if removals.len() > 1 {
        // The executor finds out when it is at it, when others may be gone already.
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            removable(&stats, name)?;
        }
    }
    // By what each does to the sum of guarantees, the most negative first.
    steps.sort_by(|a, b| a.weight().total_cmp(&b.weight()));
    let added = steps.iter().filter(|step| matches!(step, Step::Add(_)));
    if stats.classes.len() + added.count() > MAX_CLASSES {
        // There is no place for the new ones before the old ones are gone.
        removals.append(&mut steps);
        return Ok(removals);
    }
    steps.append(&mut removals);
    Ok(steps)
}

/// Fails while a class has tasks.
fn removable(stats: &Stats, name: &str) -> Result<(), Error> {
    match stats.class(name) {
        Some(class) if class.queued > 0 || class.running > 0 => {
            Err(flyball_executor::Error::ClassInUse {
                name: name.to_owned(),
                queued: class.queued,
                running: class.running,
                waiting: 0,
            }
            .into())
        }
        _ => Ok(()),
    }
}

impl Step {
    fn weight(&self) -> f64 {
        match self {
            Step::Add(spec) => spec.guarantee,
            Step::Set { from, to } => to.guarantee - from.guarantee,
            Step::Remove(_) => 0.0,
        }
    }

    fn run(&self, shared: &Shared) -> Result<(), flyball_executor::Error> {
        match self {
            Step::Add(spec) => shared.executor.add_class(spec.clone()).map(drop),
            Step::Set { to, .. } => shared.executor.set_class(to.clone()),
            Step::Remove(spec) => shared.executor.remove_class(&spec.name),
        }
    }

    fn inverse(self) -> Step {
        match self {
            Step::Add(spec) => Step::Remove(spec),
            Step::Set { from, to } => Step::Set { from: to, to: from },
            Step::Remove(spec) => Step::Add(spec),
        }
    }
}

/// Runs all steps, or none: those that were done are taken back when one fails.
fn run_steps(shared: &Shared, steps: Vec<Step>) -> Result<(), Error> {
    let mut done = Vec::new();
    for step in steps {
        if let Err(error) = step.run(shared) {
            for step in done.into_iter().rev() {
                if let Err(error) = Step::inverse(step).run(shared) {
                    tracing::error!(%error, "a class could not be set back");
                }
            }
            return Err(error.into());
        }
        done.push(step);
    }
    Ok(())
}
