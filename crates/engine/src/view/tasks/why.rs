//! What a task waits for, in words and figures.

use super::select::scope_of;
use super::submit::Outcome;
use super::task::{TaskState, time};
use crate::view::Time;
use flyball_tasks::{OnParentFailure, TaskId, Waiting};
use serde::{Deserialize, Serialize};

/// One thing that a task waits for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaitingView {
    /// `until`, `backoff`, `retry_budget`, `parent`, `group`, `paused`, `class_limit`, `key_limit`, `unique`, `slots`, `resource`, `breaker`, `call_limit`, `nobody_takes`, `turn`,
    /// `running`, `ended` or `other`.
    #[serde(rename = "for")]
    pub waits_for: String,
    /// The same as a sentence.
    pub detail: String,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The other task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Its state, or that of the task itself where it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// The outcome of the parent that lets the task go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Outcome>,
    /// The class, kind, resource, dependency or worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u32>,
    /// May run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<u64>,
    /// Free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// There are at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Tasks that go first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
}

/// What a task waits for now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WhyView {
    /// The task.
    pub id: String,
    /// Everything that holds it back; it starts when none of it does.
    pub waiting: Vec<WaitingView>,
}

/// What a task waits for.
#[must_use]
pub fn why_view(id: TaskId, waiting: &[Waiting]) -> WhyView {
    WhyView {
        id: id.to_string(),
        waiting: waiting.iter().map(WaitingView::from).collect(),
    }
}

fn of(waits_for: &str, detail: String) -> WaitingView {
    WaitingView {
        waits_for: waits_for.to_owned(),
        detail,
        ..WaitingView::default()
    }
}

fn limit(waits_for: &str, what: &str, running: u32, most: u32) -> WaitingView {
    WaitingView {
        running: Some(running),
        limit: Some(most),
        ..of(waits_for, format!("{running} of {most} {what} run"))
    }
}

impl From<&Waiting> for WaitingView {
    fn from(waiting: &Waiting) -> Self {
        match waiting {
            Waiting::Until(at) => {
                let at = time(*at);
                WaitingView {
                    until: Some(at),
                    ..of("until", format!("it starts at {at} at the earliest"))
                }
            }
            Waiting::Backoff(at) => {
                let at = time(*at);
                WaitingView {
                    until: Some(at),
                    ..of("backoff", format!("the next attempt begins at {at}"))
                }
            }
            Waiting::Parent {
                id,
                state,
                when,
                otherwise,
            } => {
                let on = Outcome::from(*when);
                let lets_go = match on {
                    Outcome::Success => "completes",
                    Outcome::Failure => "fails",
                    Outcome::Any => "ends",
                };
                let fate = match (on, otherwise) {
                    (Outcome::Any, _) => "",
                    (_, OnParentFailure::Skip) => ", and is skipped otherwise",
                    (_, OnParentFailure::Fail) => ", and fails otherwise",
                };
                WaitingView {
                    task: Some(id.to_string()),
                    state: Some((*state).into()),
                    on: Some(on),
                    ..of(
                        "parent",
                        format!(
                            "it starts when task {id}, which is {}, {lets_go}{fate}",
                            state.name()
                        ),
                    )
                }
            }
            Waiting::Paused(scope) => {
                let (sort, name) = scope_of(scope);
                let what = match &name {
                    Some(name) => format!("the {sort} {name:?} is paused"),
                    None => "all tasks are paused".to_owned(),
                };
                WaitingView {
                    name,
                    ..of("paused", what)
                }
            }
            Waiting::ClassLimit {
                running,
                limit: most,
            } => limit("class_limit", "tasks of its class", *running, *most),
            Waiting::KeyLimit {
                running,
                limit: most,
            } => limit("key_limit", "tasks of its key", *running, *most),
            Waiting::Slots {
                running,
                limit: most,
            } => limit("slots", "tasks", *running, *most),
            Waiting::CallLimit {
                key,
                running,
                limit: most,
            } => WaitingView {
                name: Some(key.to_string()),
                running: Some(*running),
                limit: Some(*most),
                ..of(
                    "call_limit",
                    format!("{running} of {most} calls of {key:?} are out"),
                )
            },
            Waiting::Unique { by } => WaitingView {
                task: Some(by.to_string()),
                ..of("unique", format!("task {by} of the same unique key runs"))
            },
            Waiting::Resource {
                name,
                needs,
                free,
                total,
            } => {
                let detail = if needs > total {
                    format!(
                        "it needs {needs} of {name:?}, and there are only {total}: it waits for ever"
                    )
                } else {
                    format!("it needs {needs} of {name:?}; {free} of {total} are free")
                };
                WaitingView {
                    name: Some(name.to_string()),
                    needs: Some(*needs),
                    free: Some(*free),
                    total: Some(*total),
                    ..of("resource", detail)
                }
            }
            Waiting::Breaker { key, until } => {
                let until = until.map(time);
                let detail = match until {
                    Some(until) => format!("the breaker of {key:?} is open until {until}"),
                    None => format!("the breaker of {key:?} is open"),
                };
                WaitingView {
                    name: Some(key.to_string()),
                    until,
                    ..of("breaker", detail)
                }
            }
            Waiting::NobodyTakes { since } => {
                let since = time(*since);
                WaitingView {
                    since: Some(since),
                    ..of(
                        "nobody_takes",
                        format!("nobody has taken its kind since {since}"),
                    )
                }
            }
            Waiting::Turn { ahead } => WaitingView {
                ahead: Some(*ahead),
                ..of(
                    "turn",
                    format!("at least {ahead} others of its class go first"),
                )
            },
            Waiting::Running { worker } => WaitingView {
                name: Some(worker.to_string()),
                ..of("running", format!("it runs; {worker:?} has it"))
            },
            Waiting::Ended(state) => WaitingView {
                state: Some((*state).into()),
                ..of("ended", format!("nothing: it has ended ({})", state.name()))
            },
            Waiting::RetryBudget => of(
                "retry_budget",
                "it may be tried again when retries of its kind are fewer beside its calls (scheduler.retry_budget_percent)"
                    .to_owned(),
            ),
            Waiting::Group { name, open } => WaitingView {
                name: Some(name.to_string()),
                ..of(
                    "group",
                    format!(
                        "it starts when all tasks of the group {name:?} have ended; {open} have not"
                    ),
                )
            },
            other => of("other", format!("{other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyball_tasks::{Scope, State, When};

    /// TASK-16: what a task waits for is named, in words and in figures.
    #[test]
    fn waits_are_said_in_words_and_figures() {
        let view = |waiting: Waiting| WaitingView::from(&waiting);
        let parent = view(Waiting::Parent {
            id: TaskId(7),
            state: State::Running,
            when: When::Success,
            otherwise: OnParentFailure::Skip,
        });
        assert_eq!(
            parent.detail,
            "it starts when task 7, which is running, completes, and is skipped otherwise"
        );
        let limit = view(Waiting::ClassLimit {
            running: 2,
            limit: 2,
        });
        assert_eq!(limit.detail, "2 of 2 tasks of its class run");
        let calls = view(Waiting::CallLimit {
            key: "db:5432".into(),
            running: 3,
            limit: 3,
        });
        assert_eq!(calls.detail, "3 of 3 calls of \"db:5432\" are out");
        assert_eq!(
            (calls.limit, calls.name.as_deref()),
            (Some(3), Some("db:5432"))
        );
        let never = view(Waiting::Resource {
            name: "gpu".into(),
            needs: 3,
            free: 1,
            total: 2,
        });
        assert!(never.detail.ends_with("waits for ever"), "{}", never.detail);
        assert_eq!(never.name.as_deref(), Some("gpu"));
        let paused = view(Waiting::Paused(Scope::Kind("a\u{1b}b".into())));
        assert!(!paused.detail.contains('\u{1b}'), "text is inert");
        let json = serde_json::to_value(view(Waiting::Turn { ahead: 4 })).unwrap();
        assert_eq!((&json["for"], &json["ahead"]), (&"turn".into(), &4.into()));
        assert!(json.get("until").is_none());
    }
}
