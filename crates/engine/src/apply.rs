//! Changes of the configuration while the engine runs: validated as a whole, then done, or not done at all.
//!
//! What can fail (classes) goes first and is undone if a later step of it fails; what cannot follows. Guarantees of classes must not
//! add up to more than everything at any moment, so lower ones are set before higher ones.

use crate::Engine;
use crate::config::{Change, Config, Loaded, Origin, Sources};
use crate::error::Error;
use crate::events::EventKind;
use crate::settings;
use crate::shared::Shared;
use flyball_core::class::{ClassSpec, Group};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

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
        let _changing = self.changing();
        let (loaded, changes) = self.configuration().with_changes(changes, Origin::Api)?;
        self.take_over(loaded, changes, who, dry_run)
    }

    /// Reads the configuration anew from where it came from. Changes made while running stay in force.
    ///
    /// # Errors
    /// As [`Engine::configure`].
    pub fn reload(&self, sources: &Sources, who: &str) -> Result<Vec<Change>, Error> {
        let _changing = self.changing();
        let (loaded, changes) = self.configuration().reload(sources)?;
        self.take_over(loaded, changes, who, false)
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        let changing = &self.shared.changing;
        changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_over(
        &self,
        loaded: Loaded,
        changes: Vec<Change>,
        who: &str,
        dry_run: bool,
    ) -> Result<Vec<Change>, Error> {
        let (old, new) = (self.config(), loaded.config.clone());
        let steps = class_steps(&self.shared, &old, &new)?;
        if dry_run {
            return Ok(changes);
        }
        run_steps(&self.shared, steps)?;
        self.shared.set_key_limits(&new)?;
        self.shared.executor.set_tuning(&settings::tuning(&new))?;
        let executor = &self.shared.executor;
        if settings::algorithm(&old) != settings::algorithm(&new) {
            executor.set_algorithm(settings::algorithm(&new));
        }
        if settings::strategy(&old) != settings::strategy(&new) {
            executor.set_strategy(settings::strategy(&new));
        }
        self.shared.set_loaded(loaded);
        self.shared.set_pool_bounds(&new);
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
        }
        self.shared.poke();
        Ok(changes)
    }
}

impl Shared {
    /// What keys may do, in every class that the configuration has a say in.
    pub(crate) fn set_key_limits(&self, config: &Config) -> Result<(), Error> {
        let built_in = ClassSpec::built_in().map(|spec| spec.name);
        let configured = config.classes.iter().map(|spec| spec.name.clone());
        for name in built_in.into_iter().chain(configured) {
            let class = self.executor.class(&name)?;
            let limits = config.classes.key_limits(&name);
            if class.key_limits() != limits {
                class.set_key_limits(limits)?;
            }
        }
        Ok(())
    }

    /// The bounds of the pool's knobs, as configuration and parallelism have them.
    pub(crate) fn set_pool_bounds(&self, config: &Config) {
        let parallelism = self.executor.stats().parallelism;
        let knobs = self.knobs();
        let ids = [Group::Front, Group::Back].map(|group| (knobs.of(group), group));
        drop(knobs);
        self.set_bounds(
            &ids.map(|(id, group)| (id, settings::range(config, group, parallelism, self.cpus))),
        );
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
    let mut steps = Vec::new();
    for (name, from) in &old {
        match new.get(name) {
            None => steps.push(Step::Remove(from.clone())),
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
    // By what each does to the sum of guarantees, the most negative first.
    steps.sort_by(|a, b| a.weight().total_cmp(&b.weight()));
    Ok(steps)
}

impl Step {
    fn weight(&self) -> f64 {
        match self {
            Step::Add(spec) => spec.guarantee,
            Step::Set { from, to } => to.guarantee - from.guarantee,
            Step::Remove(spec) => -spec.guarantee,
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
