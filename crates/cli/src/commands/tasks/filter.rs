//! Filters: what tasks must have in common.

use clap::Args;
use flyball_engine::view::tasks::{FilterBody, TaskState, parse_label};

/// All states, as the API names them.
const STATES: [TaskState; 10] = [
    TaskState::Scheduled,
    TaskState::Blocked,
    TaskState::Pending,
    TaskState::Running,
    TaskState::Paused,
    TaskState::Completed,
    TaskState::Failed,
    TaskState::Cancelled,
    TaskState::Skipped,
    TaskState::Dead,
];

/// Options that choose tasks.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which tasks")]
pub(super) struct Which {
    /// In one of these states: scheduled, blocked, pending, running, paused, completed, failed, cancelled, skipped, dead; `live` and `ended`
    /// stand for those that have not and have ended
    #[arg(long, value_name = "STATE,…", value_delimiter = ',', value_parser = parse_states)]
    state: Vec<States>,
    /// Of this class
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Of this kind
    #[arg(long, value_name = "NAME")]
    kind: Option<String>,
    /// Of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// With this label; several: with all of them
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,
}

/// What one word of `--state` stands for.
#[derive(Clone, Debug)]
struct States(Vec<TaskState>);

/// Whether nothing more happens to a task by itself.
pub(super) fn has_ended(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Completed
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Skipped
            | TaskState::Dead
    )
}

/// The name of a state.
pub(super) fn name(state: TaskState) -> &'static str {
    match state {
        TaskState::Scheduled => "scheduled",
        TaskState::Blocked => "blocked",
        TaskState::Pending => "pending",
        TaskState::Running => "running",
        TaskState::Paused => "paused",
        TaskState::Completed => "completed",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
        TaskState::Skipped => "skipped",
        TaskState::Dead => "dead",
    }
}

fn parse_states(text: &str) -> Result<States, String> {
    let all = STATES.into_iter();
    let states: Vec<TaskState> = match text {
        "live" => all.filter(|state| !has_ended(*state)).collect(),
        "ended" => all.filter(|state| has_ended(*state)).collect(),
        one => all.filter(|state| name(*state) == one).collect(),
    };
    if states.is_empty() {
        let names = STATES.map(name).join(", ");
        return Err(format!("expected {names}, live or ended"));
    }
    Ok(States(states))
}

/// `NAME=VALUE`, as labels are written.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match parse_label(text) {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE, for example team=video".to_owned()),
    }
}

impl Which {
    /// Whether nothing is chosen by.
    pub(super) fn is_empty(&self) -> bool {
        self.body() == FilterBody::default()
    }

    fn states(&self) -> Vec<TaskState> {
        let mut states: Vec<TaskState> =
            self.state.iter().flat_map(|word| word.0.clone()).collect();
        states.sort_unstable();
        states.dedup();
        states
    }

    /// As the API has it in bodies.
    pub(super) fn body(&self) -> FilterBody {
        FilterBody {
            states: self.states().into_iter().map(|s| name(s).into()).collect(),
            class: self.class.clone(),
            kind: self.kind.clone(),
            group: self.group.clone(),
            labels: self.label.iter().cloned().collect(),
        }
    }

    /// The same, of those states only that something can be done to. None: no task can be both.
    pub(super) fn among(&self, fit: impl Fn(TaskState) -> bool) -> Option<FilterBody> {
        let mut states = self.states();
        if states.is_empty() {
            states = STATES.to_vec();
        }
        states.retain(|state| fit(*state));
        let mut body = self.body();
        body.states = states.into_iter().map(|s| name(s).into()).collect();
        (!body.states.is_empty()).then_some(body)
    }
}

/// A filter as parameters of a query. A comma in a label would be taken for the next one: the error names it.
pub(super) fn parameters(filter: &FilterBody) -> Result<Vec<(&'static str, String)>, String> {
    let mut query = Vec::new();
    if !filter.states.is_empty() {
        query.push(("state", filter.states.join(",")));
    }
    let texts = [
        ("class", &filter.class),
        ("kind", &filter.kind),
        ("group", &filter.group),
    ];
    for (name, value) in texts {
        query.extend(value.clone().map(|value| (name, value)));
    }
    let labels: Vec<String> = filter
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if let Some(label) = labels.iter().find(|label| label.contains(',')) {
        return Err(format!(
            "the label {label:?} holds a comma: tasks cannot be listed by it"
        ));
    }
    if !labels.is_empty() {
        query.push(("label", labels.join(",")));
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(words: &[&str]) -> Vec<String> {
        let which = Which {
            state: words
                .iter()
                .map(|word| parse_states(word).unwrap())
                .collect(),
            ..Which::default()
        };
        which.body().states
    }

    /// TASK-10: words for several states, and those only that can be retried.
    #[test]
    fn words_stand_for_states() {
        assert_eq!(states(&["dead", "dead", "blocked"]), ["blocked", "dead"]);
        assert_eq!(
            states(&["live"]).len() + states(&["ended"]).len(),
            STATES.len()
        );
        assert!(parse_states("undead").is_err());
        let which = Which {
            state: vec![parse_states("live").unwrap()],
            ..Which::default()
        };
        assert_eq!(which.among(has_ended), None);
        let any = Which::default().among(has_ended).unwrap();
        assert_eq!(any.states.len(), 5);
        assert!(Which::default().is_empty() && !which.is_empty());
    }

    #[test]
    fn filters_become_queries() {
        let which = Which {
            kind: Some("a b".into()),
            label: vec![("t".into(), "v=1".into()), ("a".into(), "".into())],
            ..Which::default()
        };
        assert_eq!(
            parameters(&which.body()).unwrap(),
            [("kind", "a b".to_owned()), ("label", "a=,t=v=1".to_owned())]
        );
        let comma = Which {
            label: vec![("t".into(), "a,b".into())],
            ..Which::default()
        };
        assert!(parameters(&comma.body()).is_err());
    }
}
