//! Throttles: shown, added, changed.

use crate::Engine;
use crate::config::{DEFAULT_THROTTLE, QUOTA_THROTTLE, ThrottleSpec};
use crate::error::Error;
use crate::view::{ThrottleView, ThrottlerStats};
use serde_json::{Map, Value, json};

impl Engine {
    /// All throttles together, and what happened last.
    pub fn throttler_stats(&self) -> ThrottlerStats {
        self.shared.throttler_stats()
    }

    /// Every throttle and what it does; those of the daemon first.
    pub fn throttles(&self) -> Vec<ThrottleView> {
        self.shared.throttle_views()
    }

    /// Adds a throttle: the fields of `throttling.throttles` in the configuration.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Unknown`] for a class that there is not; [`Error::Config`] with what is wrong. Nothing has changed then.
    pub fn add_throttle(&self, fields: &Map<String, Value>, who: &str) -> Result<(), Error> {
        let changing = self.changing();
        let name = fields.get("name").and_then(Value::as_str).unwrap_or("");
        let mut maps = self.config().throttling.throttles.0.clone();
        let taken = is_daemons(name) || maps.iter().any(|map| is_named(map, name));
        // What is wrong with the rest of it counts first, and the configuration says it.
        if taken && is_sound(fields) {
            return Err(Error::Exists {
                what: "throttle",
                name: name.to_owned(),
            });
        }
        self.check_classes(fields)?;
        maps.push(fields.clone());
        changing.configure(&throttling(maps), who, false)?;
        Ok(())
    }

    /// Changes fields of the throttle of the name in `name`; the others stay. A null takes back what is said of a field. Of the daemon's
    /// own, threshold (of `machine`), mode and enabled can be changed, which are keys of the configuration: the latter two of both.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Invalid`] with what is wrong with the fields, also where there is no such throttle; else that there is none.
    /// Nothing has changed then.
    pub fn change_throttle(&self, fields: &Map<String, Value>, who: &str) -> Result<(), Error> {
        let changing = self.changing();
        let Some(name) = fields.get("name").and_then(Value::as_str) else {
            return Err(Error::Invalid {
                field: "name",
                found: fields
                    .get("name")
                    .map_or("nothing".into(), Value::to_string),
                expected: "the name of a throttle".to_owned(),
            });
        };
        if is_daemons(name) {
            let mut keys = Map::new();
            for (field, value) in fields.iter().filter(|(field, _)| *field != "name") {
                let known = match field.as_str() {
                    "threshold_percent" => name == DEFAULT_THROTTLE,
                    "mode" | "enabled" => true,
                    _ => false,
                };
                if !known {
                    return Err(not_of_the_daemons(name, field, value));
                }
                let key = match field.as_str() {
                    "enabled" => "own",
                    field => field,
                };
                keys.insert(key.to_owned(), value.clone());
            }
            changing.configure(&json!({ "throttling": keys }), who, false)?;
            return Ok(());
        }
        let mut maps = self.config().throttling.throttles.0.clone();
        let Some(map) = maps.iter_mut().find(|map| is_named(map, name)) else {
            check_change(fields)?;
            return Err(self.unknown_throttle(name));
        };
        for (field, value) in fields {
            match value {
                Value::Null => map.remove(field),
                value => map.insert(field.clone(), value.clone()),
            };
        }
        self.check_classes(map)?;
        changing.configure(&throttling(maps), who, false)?;
        Ok(())
    }

    /// Takes a throttle away.
    ///
    /// # Errors
    /// There is none of this name; [`Error::Conflict`] for one of the daemon's own. Nothing has changed then.
    pub fn remove_throttle(&self, name: &str, who: &str) -> Result<(), Error> {
        let changing = self.changing();
        let mut maps = self.config().throttling.throttles.0.clone();
        let before = maps.len();
        maps.retain(|map| !is_named(map, name));
        if maps.len() == before {
            let own = self.throttles().iter().any(|own| own.name == name);
            return Err(match own {
                true => Error::Conflict(format!(
                    "throttle {name} is the daemon's own: it can be switched off, not removed"
                )),
                false => self.unknown_throttle(name),
            });
        }
        changing.configure(&throttling(maps), who, false)?;
        Ok(())
    }

    fn unknown_throttle(&self, name: &str) -> Error {
        let all = self.throttles();
        let names: Vec<&str> = all.iter().map(|throttle| &*throttle.name).collect();
        Error::Unknown {
            what: "throttle",
            name: name.to_owned(),
            known: match names.is_empty() {
                true => "; there is none".to_owned(),
                false => format!("; there are {}", names.join(", ")),
            },
        }
    }

    /// A class that a throttle names is there. What else is wrong the configuration says.
    fn check_classes(&self, map: &Map<String, Value>) -> Result<(), Error> {
        let Ok(spec) = ThrottleSpec::of(map) else {
            return Ok(());
        };
        if let crate::config::Scope::Class(name) = &spec.scope {
            self.class(name)?;
        }
        self.class(&spec.below)?;
        Ok(())
    }
}

fn is_daemons(name: &str) -> bool {
    [DEFAULT_THROTTLE, QUOTA_THROTTLE].contains(&name)
}

/// Whether all but the name could be a throttle's.
fn is_sound(fields: &Map<String, Value>) -> bool {
    let mut fields = fields.clone();
    fields.insert("name".to_owned(), json!("any"));
    ThrottleSpec::of(&fields).is_ok()
}

/// Finds what is wrong with fields whatever the throttle is that they would change.
fn check_change(fields: &Map<String, Value>) -> Result<(), Error> {
    let mut whole = Map::new();
    whole.insert("scope".to_owned(), json!("machine"));
    whole.insert("threshold_percent".to_owned(), json!(100));
    let said = fields.iter().filter(|(_, value)| !value.is_null());
    whole.extend(said.map(|(field, value)| (field.clone(), value.clone())));
    ThrottleSpec::of(&whole)?;
    Ok(())
}

/// Says that a field of one of the daemon's own throttles cannot be changed.
fn not_of_the_daemons(name: &str, field: &str, value: &Value) -> Error {
    let own = match name {
        DEFAULT_THROTTLE => "threshold_percent, mode and enabled",
        _ => "mode and enabled",
    };
    let known = ThrottleSpec::FIELDS
        .iter()
        .find(|(known, _)| *known == field);
    match known {
        Some(&(field, _)) => Error::Invalid {
            field,
            found: value.to_string(),
            expected: format!("nothing: of {name} {own} can be changed"),
        },
        None => Error::Invalid {
            field: "",
            found: format!("the field {field:?}"),
            expected: own.to_owned(),
        },
    }
}

fn is_named(map: &Map<String, Value>, name: &str) -> bool {
    map.get("name").and_then(Value::as_str) == Some(name)
}

fn throttling(maps: Vec<Map<String, Value>>) -> Value {
    json!({ "throttling": { "throttles": maps } })
}
