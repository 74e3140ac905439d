//! Durable tasks as clients write and read them in JSON.
//!
//! | module | what it is |
//! |---|---|
//! | `submit` | what a client submits, checked and made into tasks of the queue |
//! | `breaker` | breakers of dependencies |
//! | `command` | commands and calls of URLs in it; bytes that are no text |
//! | `work` | leases, signs of life and ends, as outside workers send them |
//! | `select` | filters and selections |
//! | `task` | a task as it is shown |
//! | `why` | what a task waits for, in words and figures |
//! | `stats` | figures of the queue |
//! | `strict` | objects that name a key twice are refused |
//! | `mask` | what only administrators may read of a payload |
//!
//! Pure: bytes in, values out; nothing here waits or asks the time. Payloads, results and checkpoints are JSON that nobody here looks into: they are
//! kept as the bytes that came.
//!
//! Invariants: whatever is wrong with a body is said all at once, with pointers; nothing unchecked reaches the queue; every text that people
//! choose is bounded and holds no control characters, so that it is inert in log, page and terminal.

mod breaker;
mod command;
mod mask;
mod select;
mod stats;
mod strict;
mod submit;
mod task;
mod why;
mod work;

pub use breaker::{
    BreakerBody, BreakerConfigBody, BreakerConfigView, BreakerModeName, BreakerView, ForceName,
};
pub use command::{CommandBody, EnvBody, HttpBody, OsText};
pub use select::{
    FilterBody, PauseBody, PauseView, PausesView, SelectionBody, parse_id, parse_label, parse_state,
};
pub use stats::{ByState, TaskStatsView};
pub use submit::{
    AfterBody, AfterGroupBody, ConflictName, CronBody, CronFields, Defaults, MissedName,
    NewTaskBody, OnParentFailureName, Outcome, OverlapName, RetryBody, Submission, SubmitBody,
    TaskBatchBody, UniqueBody,
};
pub use task::{
    AcceptedView, AttemptUsage, CronView, ParentView, RetryView, TaskState, TaskView, UniqueView,
    task_view,
};
pub use why::{WaitingView, WhyView, why_view};
pub use work::{
    CheckpointBody, CompleteBody, FailBody, FinishBody, FinishItem, FinishedItem, FinishedView,
    HeartbeatBody, LeaseBody, LeaseView, LeasesView, ReleaseBody, UsageBody, parse_token,
};

use std::fmt::Write as _;

/// Most wrong places that are listed.
const MAX_FAULTS: usize = 100;
/// Longest name of a kind, a worker, a class or a reference, bytes.
pub(crate) const MAX_NAME: usize = 128;
/// Longest key of any sort, and longest value of a label, bytes.
pub(crate) const MAX_KEY: usize = 256;

/// A place in a body that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// A JSON pointer (RFC 6901) into the body, or `?name` for a parameter.
    pub pointer: String,
    /// What is wrong there, and what is expected.
    pub detail: String,
}

/// Everything that is wrong with a body, as far as it fits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// One fault.
    pub fn one(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut faults = Faults::default();
        faults.add(pointer, detail);
        faults
    }

    /// Adds one; beyond 100 they are left out.
    pub fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.0.len() < MAX_FAULTS {
            self.0.push(Fault {
                pointer: pointer.into(),
                detail: detail.into(),
            });
        }
    }

    /// The faults.
    #[must_use]
    pub fn list(&self) -> &[Fault] {
        &self.0
    }

    /// `value`, unless something is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub fn or<T>(self, value: T) -> Result<T, Faults> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

/// Where a checker is in a body: a pointer that grows with the way down, written only where something is wrong.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    pub(crate) const ROOT: At<'static> = At {
        parent: None,
        step: Step::Root,
    };

    pub(crate) fn key(&'a self, key: &'a str) -> At<'a> {
        At {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    pub(crate) fn index(&'a self, index: usize) -> At<'a> {
        At {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    pub(crate) fn pointer(&self) -> String {
        let mut pointer = self.parent.map(At::pointer).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Key(key) => {
                let key: String = key.chars().take(MAX_KEY).collect();
                let _ = write!(pointer, "/{}", key.replace('~', "~0").replace('/', "~1"));
            }
            Step::Index(index) => {
                let _ = write!(pointer, "/{index}");
            }
        }
        pointer
    }
}

/// Checks a text that people choose: 1 to `most` bytes, without control characters.
pub(crate) fn check_name(at: At<'_>, text: &str, most: usize, faults: &mut Faults) {
    if text.is_empty() || text.len() > most {
        faults.add(
            at.pointer(),
            format!("found {} bytes, expected 1 to {most}", text.len()),
        );
    } else if !is_inert(text) {
        faults.add(
            at.pointer(),
            "holds a control character, expected plain text",
        );
    }
}

/// Whether a text is harmless wherever it is shown: no control characters, and none that turn the direction of the text around them.
pub(crate) fn is_inert(text: &str) -> bool {
    // Nearly all names are plain ASCII, which one pass over the bytes tells.
    text.bytes().all(|b| (0x20..0x7f).contains(&b))
        || !text.chars().any(|c| {
            c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
        })
}

/// The place in the body that a field of the queue's own refusal means: `after[0]` of task 3 in a batch is `/tasks/3/after/0`.
#[must_use]
pub fn pointer_of(index: Option<usize>, field: &str) -> String {
    let mut pointer = String::new();
    if let Some(index) = index {
        let _ = write!(pointer, "/tasks/{index}");
    }
    for step in field.split(['.', '[']).filter(|step| !step.is_empty()) {
        let step = step.trim_end_matches(']');
        let _ = write!(pointer, "/{}", step.replace('~', "~0").replace('/', "~1"));
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-1: what the queue refuses is pointed to in the body that came.
    #[test]
    fn fields_of_the_queue_are_places_in_the_body() {
        assert_eq!(
            pointer_of(None, "retry.max_attempts"),
            "/retry/max_attempts"
        );
        assert_eq!(pointer_of(Some(3), "after[0]"), "/tasks/3/after/0");
        assert_eq!(pointer_of(None, ""), "");
        let at = At::ROOT.key("tasks");
        let at = at.index(1);
        assert_eq!(at.key("a/b~").pointer(), "/tasks/1/a~1b~0");
    }

    #[test]
    fn names_are_bounded_and_inert() {
        let faults = |text: &str| {
            let mut faults = Faults::default();
            check_name(At::ROOT.key("kind"), text, MAX_NAME, &mut faults);
            faults.list().len()
        };
        for good in ["a", "größe", "<script>", &"x".repeat(MAX_NAME)] {
            assert_eq!(faults(good), 0, "{good}");
        }
        for bad in [
            "",
            "a\nb",
            "\u{1b}[31m",
            "\u{202e}abc",
            "\u{85}",
            &"x".repeat(MAX_NAME + 1),
        ] {
            assert_eq!(faults(bad), 1, "{bad:?}");
        }
    }
}
