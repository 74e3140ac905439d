//! Adaptive limits: gates of programs, shown, changed, reset.

use crate::Engine;
use crate::config::{LimitScope, LimitSpec};
use crate::error::Error;
use crate::view::GateView;
use flyball_limit::{Algorithm, Degradation, Gate, GateConfig};
use serde_json::{Map, Value, json};

impl Engine {
    /// The gate of a name: one gate, however often it is asked for, made with these settings the first time. It is shown and changed under that
    /// name by API and command line; what the configuration says of it in `limits.adaptive` goes before the settings here.
    ///
    /// # Errors
    /// The name is not 1 to 64 characters of `a-z`, `0-9`, `_` and `-`, or that of something else; settings are out of their ranges; there are
    /// [`MAX_GATES`](crate::MAX_GATES) already.
    pub fn gate(&self, name: &str, config: GateConfig) -> Result<Gate, Error> {
        let changing = self.changing();
        let map = Map::from_iter([("name".to_owned(), json!(name))]);
        LimitSpec::of(&map).map_err(|wrong| Error::Invalid {
            field: "gate",
            found: wrong.found,
            expected: wrong.expected,
        })?;
        let gate = self.shared.program_gate(name, config)?;
        drop(changing);
        // The control loop follows it from now on.
        self.shared.poke();
        Ok(gate)
    }

    /// Every adaptive limit and what it does, by name.
    pub fn adaptive_limits(&self) -> Vec<GateView> {
        self.shared.gate_views()
    }

    /// An adaptive limit and what it does.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn adaptive_limit(&self, name: &str) -> Result<GateView, Error> {
        self.shared
            .gate_view(name)
            .ok_or_else(|| self.unknown_limit(name))
    }

    /// What the service should do without: the worst level of all gates, and of all classes that refuse work, where they do not only observe.
    pub fn degradation(&self) -> Degradation {
        let stats = self.shared.executor.stats();
        let classes = stats
            .classes
            .iter()
            .filter_map(|class| class.shedding.as_ref());
        let acting = classes.filter(|shedding| !shedding.settings.observe);
        let levels = acting.map(|shedding| shedding.level);
        levels.fold(self.shared.degradation(), Degradation::max)
    }

    /// Changes fields of an adaptive limit, those of `limits.adaptive` in the configuration; the others stay. A null takes back what is said of a
    /// field. One that there is not is added where the fields say what it bounds: a class or a dependency.
    ///
    /// # Errors
    /// There is no such limit, nor a `scope` to make one; no such class; no field; limits are switched off, or the durable tasks that it would bound;
    /// [`Error::Config`] with what is wrong. Nothing has changed then.
    pub fn change_limit(
        &self,
        name: &str,
        fields: &Map<String, Value>,
        who: &str,
    ) -> Result<(), Error> {
        let changing = self.changing();
        let given = fields.get("name");
        if given.is_some_and(|given| given != name) {
            return Err(Error::Invalid {
                field: "name",
                found: given.map(Value::to_string).unwrap_or_default(),
                expected: "the name in the path, or none".to_owned(),
            });
        }
        if fields.keys().all(|field| field == "name") {
            return Err(Error::Invalid {
                field: "",
                found: "no field".to_owned(),
                expected: "at least one, null to take back what the configuration says of it"
                    .to_owned(),
            });
        }
        let mut maps = self.config().limits.adaptive.0.clone();
        let at = maps.iter().position(|map| is_named(map, name));
        let at = at.unwrap_or_else(|| {
            maps.push(Map::from_iter([("name".to_owned(), json!(name))]));
            maps.len() - 1
        });
        let before = maps[at].get("scope").cloned();
        for (field, value) in fields {
            match value {
                Value::Null => maps[at].remove(field),
                value => maps[at].insert(field.clone(), value.clone()),
            };
        }
        let known = self.shared.find_gate(name);
        // What is wrong with the fields themselves is said below, as of any configuration.
        if let Ok(spec) = LimitSpec::of(&maps[at]) {
            let moved = known.is_some() && maps[at].get("scope").cloned() != before;
            if moved && spec.gate(spec.base()).is_ok() {
                return Err(Error::Conflict(format!(
                    "what limit {name} bounds cannot be changed"
                )));
            }
            if let LimitScope::Class(class) = &spec.scope {
                self.class(class)?;
            }
            if known.is_none() && spec.scope == LimitScope::Program {
                return Err(self.unknown_limit(name));
            }
            if !self.config().limits.enabled {
                return Err(Error::Off {
                    part: "the configuration's list of limits",
                    setting: "limits.enabled",
                });
            }
            if spec.scope != LimitScope::Program {
                self.shared.durable_tasks()?;
            }
        }
        changing.configure(&json!({ "limits": { "adaptive": maps } }), who, false)?;
        Ok(())
    }

    /// Takes back what the configuration says of a limit: one of a class or a dependency is gone then, a program's is as the program made it.
    ///
    /// # Errors
    /// The configuration says nothing of it. Nothing has changed then.
    pub fn remove_limit(&self, name: &str, who: &str) -> Result<(), Error> {
        let changing = self.changing();
        let mut maps = self.config().limits.adaptive.0.clone();
        let before = maps.len();
        maps.retain(|map| !is_named(map, name));
        if maps.len() == before {
            return Err(match self.shared.find_gate(name) {
                Some(_) => Error::Conflict(format!("limit {name} is as the program made it")),
                None => self.unknown_limit(name),
            });
        }
        changing.configure(&json!({ "limits": { "adaptive": maps } }), who, false)?;
        Ok(())
    }

    /// Has a limit forget what it learnt and begin anew. Calls that are in stay in; counts go on.
    ///
    /// # Errors
    /// There is none of this name; [`Error::Conflict`] for one that is fixed, which has learnt nothing.
    pub fn reset_limit(&self, name: &str, who: &str) -> Result<(), Error> {
        let found = self.shared.find_gate(name);
        let (gate, _) = found.ok_or_else(|| self.unknown_limit(name))?;
        if let Algorithm::Fixed(_) = gate.config().limit.algorithm {
            return Err(Error::Conflict(format!(
                "limit {name} is fixed: it has learnt nothing that it could forget"
            )));
        }
        gate.reset();
        tracing::info!(who, limit = name, "limit reset");
        Ok(())
    }

    fn unknown_limit(&self, name: &str) -> Error {
        let all = self.shared.all_gates();
        let names: Vec<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
        Error::Unknown {
            what: "adaptive limit",
            name: name.to_owned(),
            known: match names.is_empty() {
                true => "; there is none".to_owned(),
                false => format!("; there are {}", names.join(", ")),
            },
        }
    }
}

fn is_named(map: &Map<String, Value>, name: &str) -> bool {
    map.get("name").and_then(Value::as_str) == Some(name)
}
