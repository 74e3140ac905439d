//! What the configuration names and nothing comes of, with the reason: limits of classes that there are not or of gates that nobody makes, throttles that
//! find nobody to hold back.
//!
//! None of it is a fault: a program may add the class or make the gate later. But a name that was mistyped looks the same, and who wrote it should hear
//! of it.
//!
//! Leaves out what is switched off by name, and keys that this build has no part for ([`Notice`](crate::config::Notice)).

use crate::Engine;
use crate::config::{Config, LimitScope, LimitSpec, Scope, ThrottleSpec};
use crate::shared::Shared;
use crate::throttles;
use flyball_executor::Stats;

impl Engine {
    /// What the configuration names and nothing comes of as things are, a sentence each that begins with its place: limits of classes that there are not or
    /// of gates that no program makes, throttles that find nobody to hold back. Limits and throttles that are switched off are left out.
    pub fn unused_settings(&self) -> Vec<String> {
        let shared = &self.shared;
        let config = shared.config();
        let mut all = Vec::new();
        if config.limits.enabled {
            for (index, spec) in limits(&config) {
                if let Some(why) = shared.unused_limit(&spec) {
                    let name = &spec.name;
                    all.push(format!(
                        "limits.adaptive[{index}] ({name}) bounds nothing: {why}"
                    ));
                }
            }
        }
        if throttles::all_off(&config).is_none() {
            let stats = shared.executor.stats();
            let maps = config.throttling.throttles.0.iter().enumerate();
            for (index, map) in maps {
                let spec = ThrottleSpec::of(map).ok().filter(|spec| spec.enabled);
                let why =
                    spec.and_then(|spec| Some((shared.unused_throttle(&spec, &stats)?, spec)));
                if let Some((why, ThrottleSpec { name, .. })) = why {
                    all.push(format!(
                        "throttling.throttles[{index}] ({name}) holds nothing back: {why}"
                    ));
                }
            }
        }
        all
    }
}

/// The limits of a configuration with their places. What could not be read was refused with it.
fn limits(config: &Config) -> impl Iterator<Item = (usize, LimitSpec)> {
    let maps = config.limits.adaptive.0.iter().enumerate();
    maps.filter_map(|(index, map)| Some((index, LimitSpec::of(map).ok()?)))
}

impl Shared {
    /// The limits that the configuration names and that have no gate, and why.
    pub(crate) fn limits_without_gate(&self) -> Vec<(String, String)> {
        let config = self.config();
        let without = limits(&config).filter(|(_, spec)| self.find_gate(&spec.name).is_none());
        let mut all = Vec::new();
        for (_, spec) in without {
            let why = if config.limits.enabled {
                self.unused_limit(&spec)
                    .unwrap_or_else(|| "it could not be made, and the log says why".to_owned())
            } else {
                "limits are switched off; limits.enabled switches them on".to_owned()
            };
            all.push((spec.name, why));
        }
        all
    }

    fn unused_limit(&self, spec: &LimitSpec) -> Option<String> {
        if spec.scope == LimitScope::Program && self.find_gate(&spec.name).is_none() {
            let why = "no program has made a gate of this name; with the scope class:NAME or dependency:NAME it would bound durable tasks";
            return Some(why.to_owned());
        }
        self.unused_scope(&spec.scope)
    }

    /// Why there is nothing that a gate of this scope could bound; `None` where there is, or may be.
    pub(crate) fn unused_scope(&self, scope: &LimitScope) -> Option<String> {
        if *scope == LimitScope::Program {
            return None;
        }
        if let Err(why) = self.durable_tasks() {
            return Some(why.to_string());
        }
        match scope {
            LimitScope::Class(name) => self.no_class(name),
            LimitScope::Dependency(_) | LimitScope::Program => None,
        }
    }

    fn unused_throttle(&self, spec: &ThrottleSpec, stats: &Stats) -> Option<String> {
        if !throttles::acts_on(spec, stats).is_empty() {
            return None;
        }
        let class = match &spec.scope {
            Scope::Class(name) => name,
            _ => &spec.below,
        };
        let none_below = || format!("no class has a lower priority than {class}");
        Some(self.no_class(class).unwrap_or_else(none_below))
    }

    /// Says that there is no such class, if there is none.
    fn no_class(&self, name: &str) -> Option<String> {
        let error = self.executor.class(name).err()?;
        Some(error.to_string())
    }
}
