//! Waiting for tasks, and showing what happens to them: by the daemon's stream of events, through its restarts.
//!
//! The stream is opened before a task is looked at, so that no end falls between the two. Where the daemon has no stream left, the tasks are looked
//! at again and again instead; while it is away, it is tried again for a minute.

use std::collections::BTreeSet;
use std::time::Duration;

use flyball_core::time::{Clock, OsClock, Timestamp};
use flyball_engine::view::tasks::TaskView;
use flyball_engine::view::{EventView, TaskEventView};
use serde_json::Value;

use super::filter::has_ended;
use super::look::task;
use super::words::state_line;
use crate::client::{Client, Events, Failure};
use crate::commands::{Session, note, put};
use crate::show::{Ink, inert};

const PATH: &str = "/v1/events?types=task";
/// How long a daemon may be away, as in a restart.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to reach it, and between two looks without a stream.
const PAUSE: Duration = Duration::from_millis(500);
/// Waits without an end are made of waits of this length.
const LONG: Duration = Duration::from_secs(3600);

/// What was heard.
pub(super) enum Heard {
    Event(Box<TaskEventView>),
    /// Of the queue as a whole, or of what runs tasks: a sentence.
    News(String),
    /// Something may have been missed: look at the tasks themselves.
    Look,
    /// The time is over, or the daemon is away.
    Nothing,
}

/// Hears of tasks.
pub(super) struct Watch<'a> {
    client: &'a Client,
    stream: Option<Events<'a>>,
    reached: bool,
    /// Since when the daemon has been away.
    away: Option<Timestamp>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(client: &'a Client) -> Watch<'a> {
        Watch {
            client,
            stream: None,
            reached: false,
            away: None,
        }
    }

    /// What comes next, within so long.
    pub(super) fn next(&mut self, within: Duration) -> Result<Heard, Failure> {
        let Some(stream) = &mut self.stream else {
            return match self.client.events(PATH) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    (self.reached, self.away) = (true, None);
                    Ok(Heard::Look)
                }
                Err(Failure::Refused(_)) => {
                    if self.reached {
                        self.client.pause(PAUSE.min(within));
                    }
                    (self.reached, self.away) = (true, None);
                    Ok(Heard::Look)
                }
                Err(failure) => self.lost(failure, within),
            };
        };
        match stream.next_within(within) {
            Ok(None) => Ok(Heard::Nothing),
            Ok(Some(event)) if event.kind == "task" => read(&event.data),
            Ok(Some(_)) => Ok(Heard::Look),
            Err(failure) => self.lost(failure, within),
        }
    }

    /// The daemon does not answer: says so after a while, if it was there before.
    pub(super) fn lost(&mut self, failure: Failure, within: Duration) -> Result<Heard, Failure> {
        let away = matches!(failure, Failure::Unreachable(_) | Failure::Ending(_));
        if !self.reached || !away {
            return Err(failure);
        }
        self.stream = None;
        let now = OsClock.now();
        let away = *self.away.get_or_insert(now);
        if now.saturating_nanos_since(away) > PATIENCE.as_nanos() as u64 {
            return Err(failure);
        }
        self.client.pause(PAUSE.min(within));
        Ok(Heard::Nothing)
    }
}

/// What an event tells: of a task, of events that were missed, or of something that has no task.
fn read(data: &str) -> Result<Heard, Failure> {
    let event: EventView = serde_json::from_str(data).map_err(|error| {
        Failure::Broken(format!(
            "an event of the daemon is none that this version understands: {}",
            inert(&error.to_string())
        ))
    })?;
    if event.data.get("missed").is_some() {
        return Ok(Heard::Look);
    }
    let reason = event.data.get("reason").and_then(Value::as_str);
    let news = reason.map(|reason| format!("{}  {}\n", event.timestamp, inert(reason)));
    Ok(match (serde_json::from_value(event.data), news) {
        (Ok(task), _) => Heard::Event(task),
        (Err(_), Some(news)) => Heard::News(news),
        (Err(_), None) => Heard::Nothing,
    })
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waited {
    /// All have ended.
    All,
    /// The time was over first.
    TimeOver,
}

/// Waits until tasks have ended, and hands each over when it has.
pub(crate) fn wait_for(
    session: &Session,
    ids: &[u64],
    within: Option<Duration>,
    each: &mut dyn FnMut(&TaskView),
) -> Result<Waited, Failure> {
    let until = within.map(|within| OsClock.now().saturating_add(within));
    let mut left: BTreeSet<u64> = ids.iter().copied().collect();
    let mut watch = Watch::new(&session.client);
    while !left.is_empty() {
        let time = match until {
            None => LONG,
            Some(until) => Duration::from_nanos(until.saturating_nanos_since(OsClock.now())),
        };
        if time.is_zero() {
            return Ok(Waited::TimeOver);
        }
        let look_at: Vec<u64> = match watch.next(time)? {
            Heard::Nothing | Heard::News(_) => continue,
            Heard::Look => left.iter().copied().collect(),
            Heard::Event(event) => match event.id.parse() {
                Ok(id) if left.contains(&id) && is_end(&event.to) => vec![id],
                _ => continue,
            },
        };
        for id in look_at {
            match task(session, id) {
                Ok(task) if has_ended(task.state) => {
                    left.remove(&id);
                    each(&task);
                }
                Ok(task) if task.cron.is_some() => {
                    return Err(Failure::Usage(format!(
                        "task {id} is an entry of the calendar and does not end by itself; wait for one of the tasks that it makes"
                    )));
                }
                Ok(_) => {}
                Err(failure) => {
                    watch.lost(failure, time)?;
                    break;
                }
            }
        }
    }
    Ok(Waited::All)
}

fn is_end(state: &str) -> bool {
    ["completed", "failed", "cancelled", "skipped", "dead"].contains(&state)
}

/// `flyball tasks wait`.
pub(super) fn wait(
    session: &Session,
    ids: &[u64],
    within: Option<Duration>,
) -> Result<u8, Failure> {
    let mut status = 0;
    let waited = wait_for(session, ids, within, &mut |task| {
        if task.state != flyball_engine::view::tasks::TaskState::Completed {
            status = 1;
        }
        put(&if session.json {
            // Plain data: writing it cannot fail.
            serde_json::to_string(task).unwrap_or_default() + "\n"
        } else {
            format!("task {} {}\n", inert(&task.id), state_line(task))
        });
    })?;
    if waited == Waited::TimeOver {
        note("the time is over; not all have ended");
        return Ok(1);
    }
    Ok(status)
}

/// `flyball tasks follow`.
pub(super) fn follow(
    session: &Session,
    ids: Vec<u64>,
    class: Option<&str>,
    kind: Option<&str>,
) -> Result<u8, Failure> {
    let some = !ids.is_empty();
    let mut left: BTreeSet<u64> = ids.into_iter().collect();
    let mut watch = Watch::new(&session.client);
    let mut looked = false;
    loop {
        match watch.next(LONG)? {
            Heard::Nothing => {}
            Heard::News(news) => {
                let all = !some && class.is_none() && kind.is_none();
                if all && !session.json && !put(&news) {
                    return Ok(0);
                }
            }
            Heard::Look => {
                if looked && !session.json {
                    put(
                        "… the daemon was away, or had more events than this could read; some are missing\n",
                    );
                }
                looked = true;
                let mut ended = Vec::new();
                for id in &left {
                    match task(session, *id) {
                        Ok(task) if has_ended(task.state) => ended.push(task),
                        Ok(_) => {}
                        Err(failure) => {
                            watch.lost(failure, LONG)?;
                            break;
                        }
                    }
                }
                for task in ended {
                    put(&if session.json {
                        serde_json::to_string(&task).unwrap_or_default() + "\n"
                    } else {
                        format!("task {} {}\n", inert(&task.id), state_line(&task))
                    });
                    left.retain(|id| id.to_string() != task.id);
                }
            }
            Heard::Event(event) => {
                let id: Option<u64> = event.id.parse().ok();
                let wanted = (!some || id.is_some_and(|id| left.contains(&id)))
                    && class.is_none_or(|class| class == event.class)
                    && kind.is_none_or(|kind| kind == event.kind);
                if !wanted {
                    continue;
                }
                if !put(&line(session, &event)) {
                    return Ok(0);
                }
                if is_end(&event.to) {
                    id.map(|id| left.remove(&id));
                }
            }
        }
        if some && left.is_empty() {
            return Ok(0);
        }
    }
}

fn line(session: &Session, event: &TaskEventView) -> String {
    if session.json {
        // Plain data: writing it cannot fail.
        return serde_json::to_string(event).unwrap_or_default() + "\n";
    }
    let ink = match event.to.as_str() {
        "completed" => Ink::Good,
        "failed" | "dead" => Ink::Bad,
        "cancelled" | "skipped" | "paused" => Ink::Doubtful,
        _ => Ink::Plain,
    };
    let change = match &event.from {
        Some(from) if *from != event.to => format!("{} → {}", inert(from), inert(&event.to)),
        _ => inert(&event.to),
    };
    let reason = if event.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", inert(&event.reason))
    };
    format!(
        "{}  task {} {} ({})  {}{reason}\n",
        event.at,
        inert(&event.id),
        inert(&event.kind),
        inert(&event.class),
        session.screen.paint(ink, &change)
    )
}
