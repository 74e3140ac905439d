//! Filters and selections of tasks, and what is paused.

use super::submit::{MAX_LABEL_NAME, MAX_LABELS};
use super::{At, Faults, MAX_KEY, MAX_NAME, check_name};
use crate::view::Time;
use flyball_tasks::{Filter, Label, Pauses, Scope, Selection, State, TaskId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most tasks that one call changes.
const MAX_SELECTED: u32 = 1000;

/// Reads the id of a task: digits only.
#[must_use]
pub fn parse_id(text: &str) -> Option<TaskId> {
    is_number(text).then(|| text.parse().ok()).flatten()
}

/// Whether a text is a number as it is written here: a task or a lease has one name only.
pub(super) fn is_number(text: &str) -> bool {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0'))
}

/// Reads the name of a state.
#[must_use]
pub fn parse_state(name: &str) -> Option<State> {
    State::ALL.into_iter().find(|state| state.name() == name)
}

/// Reads a label as a parameter has it: `name=value`.
#[must_use]
pub fn parse_label(text: &str) -> Option<Label> {
    let (name, value) = text.split_once('=')?;
    Some((name.into(), value.into()))
}

/// What tasks must have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FilterBody {
    /// One of these states; any where it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(example = json!(["dead"])))]
    pub states: Vec<String>,
    /// The class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// All of these labels.
    #[serde(
        default,
        deserialize_with = "super::strict::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
}

impl FilterBody {
    /// Checks it.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn filter(self) -> Result<Filter, Faults> {
        let mut faults = Faults::default();
        let filter = self.check(At::ROOT, &mut faults);
        faults.or(filter)
    }

    pub(crate) fn check(self, at: At<'_>, faults: &mut Faults) -> Filter {
        let mut filter = Filter::default();
        let place = at.key("states");
        for (index, name) in self.states.iter().enumerate() {
            match parse_state(name) {
                Some(state) if !filter.states.contains(&state) => filter.states.push(state),
                Some(_) => {}
                None => {
                    let known = State::ALL.map(State::name).join(", ");
                    faults.add(
                        place.index(index).pointer(),
                        format!("expected one of {known}"),
                    );
                }
            }
        }
        let mut text = |key: &str, value: Option<String>, most: usize| {
            if let Some(value) = &value {
                check_name(at.key(key), value, most, faults);
            }
            value.map(String::into_boxed_str)
        };
        filter.class = text("class", self.class, MAX_NAME);
        filter.kind = text("kind", self.kind, MAX_NAME);
        filter.group = text("group", self.group, MAX_KEY);
        let place = at.key("labels");
        if self.labels.len() > MAX_LABELS {
            faults.add(
                place.pointer(),
                format!("found {}, expected at most {MAX_LABELS}", self.labels.len()),
            );
        }
        for (name, value) in self.labels {
            check_name(place.key(&name), &name, MAX_LABEL_NAME, faults);
            filter.labels.push((name.into(), value.into()));
        }
        filter
    }
}

/// Tasks that something shall be done to: by id, or by what they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SelectionBody {
    /// These, at most 1,000: all or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// Those that fit; an empty filter is refused, so that nobody means everything by mistake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterBody>,
    /// At most so many of those that fit, 1 to 1,000; 1,000 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
}

impl SelectionBody {
    /// Checks it.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(self) -> Result<Selection, Faults> {
        let mut faults = Faults::default();
        let at = At::ROOT;
        match (self.ids, self.filter) {
            (Some(ids), None) => {
                let place = at.key("ids");
                if ids.is_empty() || ids.len() > MAX_SELECTED as usize {
                    faults.add(
                        place.pointer(),
                        format!("found {}, expected 1 to {MAX_SELECTED}", ids.len()),
                    );
                }
                if self.limit.is_some() {
                    faults.add(at.key("limit").pointer(), "goes with `filter` only");
                }
                let mut known = Vec::with_capacity(ids.len().min(MAX_SELECTED as usize));
                for (index, id) in ids.iter().enumerate() {
                    match parse_id(id) {
                        Some(id) => known.push(id),
                        None => faults.add(place.index(index).pointer(), "is no id of a task"),
                    }
                }
                faults.or(Selection::Ids(known))
            }
            (None, Some(filter)) => {
                if filter == FilterBody::default() {
                    faults.add(
                        at.key("filter").pointer(),
                        "is empty, expected at least one condition",
                    );
                }
                let filter = filter.check(at.key("filter"), &mut faults);
                let limit = self.limit.unwrap_or(MAX_SELECTED);
                if !(1..=MAX_SELECTED).contains(&limit) {
                    faults.add(
                        at.key("limit").pointer(),
                        format!("found {limit}, expected 1 to {MAX_SELECTED}"),
                    );
                }
                faults.or(Selection::Filter(filter, limit))
            }
            _ => Err(Faults::one("", "expected either `ids` or `filter`")),
        }
    }
}

/// What to pause or to resume: exactly one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PauseBody {
    /// All tasks of a kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// All tasks of a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// All tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

impl PauseBody {
    /// Checks it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(self) -> Result<Scope, Faults> {
        let mut faults = Faults::default();
        let at = At::ROOT;
        let scope = match (self.kind, self.class, self.all) {
            (Some(kind), None, None) => {
                check_name(at.key("kind"), &kind, MAX_NAME, &mut faults);
                Scope::Kind(kind.into())
            }
            (None, Some(class), None) => {
                check_name(at.key("class"), &class, MAX_NAME, &mut faults);
                Scope::Class(class.into())
            }
            (None, None, Some(true)) => Scope::All,
            _ => {
                return Err(Faults::one(
                    "",
                    "expected exactly one of `kind`, `class` and `\"all\": true`",
                ));
            }
        };
        faults.or(scope)
    }
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PauseView {
    /// `all`, `class` or `kind`.
    pub scope: String,
    /// Of the class or kind.
    pub name: Option<String>,
    /// Who paused it.
    pub by: String,
    /// Since when.
    pub since: Time,
}

/// Everything that is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PausesView {
    /// Whether the call changed anything.
    pub changed: bool,
    /// What is paused now.
    pub paused: Vec<PauseView>,
}

impl PauseView {
    pub(crate) fn all_of(pauses: &Pauses) -> Vec<Self> {
        pauses
            .iter()
            .map(|(scope, (by, since))| {
                let (scope, name) = scope_of(scope);
                PauseView {
                    scope,
                    name,
                    by: by.to_string(),
                    since: Time::from_unix_nanos(since.unix_nanos()),
                }
            })
            .collect()
    }
}

/// A scope's sort and name.
pub(crate) fn scope_of(scope: &Scope) -> (String, Option<String>) {
    match scope {
        Scope::All => ("all".to_owned(), None),
        Scope::Class(name) => ("class".to_owned(), Some(name.to_string())),
        Scope::Kind(name) => ("kind".to_owned(), Some(name.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TASK-10: tasks are chosen by id or by filter, never all by mistake.
    #[test]
    fn selections_are_checked() {
        let check = |body: &str| serde_json::from_str::<SelectionBody>(body).unwrap().check();
        assert_eq!(
            check(r#"{"ids":["7","8"]}"#),
            Ok(Selection::Ids(vec![TaskId(7), TaskId(8)]))
        );
        let filter = Filter {
            states: vec![State::Dead],
            kind: Some("mail".into()),
            labels: vec![("a".into(), "b".into())],
            ..Filter::default()
        };
        assert_eq!(
            check(r#"{"filter":{"states":["dead"],"kind":"mail","labels":{"a":"b"}},"limit":5}"#),
            Ok(Selection::Filter(filter, 5))
        );
        for (body, pointer) in [
            ("{}", ""),
            (r#"{"ids":["1"],"filter":{"kind":"a"}}"#, ""),
            (r#"{"ids":[]}"#, "/ids"),
            (r#"{"ids":["1","+2"]}"#, "/ids/1"),
            (r#"{"ids":["1"],"limit":1}"#, "/limit"),
            (r#"{"filter":{}}"#, "/filter"),
            (r#"{"filter":{"states":["undead"]}}"#, "/filter/states/0"),
            (r#"{"filter":{"kind":""}}"#, "/filter/kind"),
            (r#"{"filter":{"kind":"a"},"limit":0}"#, "/limit"),
        ] {
            let faults = check(body).expect_err(body);
            assert_eq!(faults.list()[0].pointer, pointer, "{body}");
        }
    }

    /// TASK-6: exactly one scope is paused or resumed.
    #[test]
    fn pauses_are_checked() {
        let check = |body: &str| serde_json::from_str::<PauseBody>(body).unwrap().check();
        assert_eq!(check(r#"{"kind":"a"}"#), Ok(Scope::Kind("a".into())));
        assert_eq!(check(r#"{"class":"a"}"#), Ok(Scope::Class("a".into())));
        assert_eq!(check(r#"{"all":true}"#), Ok(Scope::All));
        for bad in [
            "{}",
            r#"{"all":false}"#,
            r#"{"kind":"a","class":"b"}"#,
            r#"{"kind":""}"#,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
