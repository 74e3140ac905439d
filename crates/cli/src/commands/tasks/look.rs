//! Lists of tasks, single ones, what they wait for, figures.

use flyball_engine::view::Time;
use flyball_engine::view::tasks::{ByState, FilterBody, TaskStatsView, TaskView, WhyView};
use serde::Deserialize;

use super::filter::{Which, name, parameters};
use super::words::{ran, span, state_ink, state_line, what};
use crate::client::{Failure, escape};
use crate::commands::{PAGE, Paging, Session, document, note, with_query};
use crate::show::{Column, Ink, Screen, Table, bytes, count, inert, millis, percent, whole_millis};

/// Tasks of a page, at most: with the environments of commands in them, a thousand could be more than an answer may have.
const PAGE_TASKS: usize = 100;

#[derive(Deserialize)]
struct TaskPage {
    items: Vec<TaskView>,
    next_cursor: Option<String>,
    #[serde(default)]
    damaged: Vec<String>,
}

/// The newest tasks that fit, at most so many, and whether there are more.
pub(super) fn newest(
    session: &Session,
    filter: &FilterBody,
    most: usize,
    mut each: impl FnMut(TaskView),
) -> Result<bool, Failure> {
    let base = parameters(filter).map_err(Failure::Usage)?;
    let (mut seen, mut cursor) = (0, None);
    while seen < most {
        let mut query = base.clone();
        query.push(("limit", PAGE_TASKS.min(most - seen).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let reply = session.client.get(&with_query("/v1/tasks", &query))?;
        let page: TaskPage = reply.read()?;
        if !page.damaged.is_empty() {
            let ids: Vec<String> = page.damaged.iter().map(|id| inert(id)).collect();
            note(&format!(
                "what was kept of these tasks is damaged: {}",
                ids.join(", ")
            ));
        }
        seen += page.items.len();
        page.items.into_iter().for_each(&mut each);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(false),
        }
    }
    Ok(cursor.is_some())
}

pub(super) fn list(
    session: &Session,
    which: &Which,
    last: usize,
    quiet: bool,
    paging: &Paging,
) -> Result<Vec<u8>, Failure> {
    let filter = which.body();
    if session.json {
        let mut query = parameters(&filter).map_err(Failure::Usage)?;
        query.push(("limit", paging.limit.unwrap_or(PAGE).to_string()));
        query.extend(paging.cursor.clone().map(|cursor| ("cursor", cursor)));
        let path = with_query("/v1/tasks", &query);
        return Ok(document(&session.client.get(&path)?));
    }
    if paging.limit.is_some() || paging.cursor.is_some() {
        let text = "--limit and --cursor are for --json; -n says how many a table shows";
        return Err(Failure::Usage(text.to_owned()));
    }
    let mut tasks = Vec::new();
    let more = newest(session, &filter, last, |task| tasks.push(task))?;
    if more {
        note(&format!("there are more tasks; -n shows more than {last}"));
    }
    if quiet {
        let ids = tasks.iter().map(|task| inert(&task.id) + "\n");
        return Ok(ids.collect::<String>().into_bytes());
    }
    if tasks.is_empty() {
        let text = if which.is_empty() {
            "there are no tasks; `flyball submit` submits one\n"
        } else {
            "no task fits\n"
        };
        return Ok(text.as_bytes().to_vec());
    }
    Ok(table(&tasks, session.screen).into_bytes())
}

fn table(tasks: &[TaskView], screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("ID"),
        Column::left("STATE"),
        Column::left("CLASS"),
        Column::left("KIND"),
        Column::right("TRY"),
        Column::right("AGE"),
        Column::right("RAN"),
        Column::left("WHAT"),
    ]);
    let now = Time::now();
    for task in tasks {
        let plain = |text: String| (text, Ink::Plain);
        let state = match &task.reason {
            Some(reason) if reason != "error" => format!("{} ({reason})", name(task.state)),
            _ => name(task.state).to_owned(),
        };
        table.painted([
            plain(task.id.clone()),
            (state, state_ink(task.state)),
            plain(task.class.clone()),
            plain(task.kind.clone()),
            plain(task.attempt.to_string()),
            plain(span(task.created_at, now)),
            plain(ran(task)),
            plain(what(task)),
        ]);
    }
    table.print(screen)
}

/// One task as the daemon knows it.
pub(super) fn task(session: &Session, id: u64) -> Result<TaskView, Failure> {
    session.client.get(&format!("/v1/tasks/{id}"))?.read()
}

pub(super) fn show(session: &Session, ids: &[u64]) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        let reply = session.client.get(&format!("/v1/tasks/{id}"))?;
        if !session.json && index > 0 {
            out.push(b'\n');
        }
        out.extend(session.show(&reply, details)?);
    }
    Ok(out)
}

fn details(task: TaskView, screen: Screen) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let mut row = |name: &'static str, value: String| rows.push((name, value));
    let state = screen.paint(state_ink(task.state), &state_line(&task));
    row("state", state);
    row("kind", inert(&task.kind));
    row("class", {
        let priority = match task.priority {
            0 => String::new(),
            n => format!(", priority {n}"),
        };
        format!("{}{priority}", inert(&task.class))
    });
    row("does", inert(&what(&task)));
    if let Some(command) = &task.command {
        if let Some(cwd) = &command.cwd {
            row("folder", inert(&cwd.0.to_string_lossy()));
        }
        let variables = command.env.0.len();
        if variables > 0 {
            let whole = if command.clear_env { "" } else { " more" };
            row("variables", format!("{variables}{whole}; --json has them"));
        }
    }
    row(
        "attempts",
        format!(
            "{} started, {} failed, {} at most",
            task.attempt, task.attempts_counted, task.retry.max_attempts
        ),
    );
    row("submitted", task.created_at.to_string());
    for (name, time) in [
        ("not before", task.not_before),
        ("ready", task.ready_at),
        ("deadline", task.deadline),
        ("started", task.started_at),
        ("ended", task.ended_at),
    ] {
        if let Some(time) = time {
            row(name, time.to_string());
        }
    }
    if task.started_at.is_some() {
        row("ran", ran(&task));
    }
    if let Some(timeout) = task.timeout_ms {
        row("timeout", whole_millis(timeout));
    }
    if let Some(cron) = &task.cron {
        row(
            "calendar",
            format!("{} ({})", inert(&cron.expression), inert(&cron.time_zone)),
        );
    }
    if let Some(entry) = &task.cron_of {
        row("made by", format!("the calendar entry {}", inert(entry)));
    }
    if !task.after.is_empty() {
        let parents = task.after.iter().map(|parent| {
            let on = serde_json::to_string(&parent.on).unwrap_or_default();
            format!("{} ({})", inert(&parent.id), on.trim_matches('"'))
        });
        row("after", parents.collect::<Vec<_>>().join(", "));
    }
    for (name, text) in [
        ("group", &task.group),
        ("key", &task.key),
        ("affinity", &task.affinity_key),
        ("worker", &task.worker),
        ("says", &task.message),
    ] {
        if let Some(text) = text {
            row(name, inert(text));
        }
    }
    if let Some(unique) = &task.unique {
        row("unique", inert(&unique.key));
    }
    if !task.labels.is_empty() {
        let labels = task.labels.iter();
        let labels = labels.map(|(name, value)| inert(&format!("{name}={value}")));
        row("labels", labels.collect::<Vec<_>>().join(", "));
    }
    let mut needs = Vec::new();
    if task.cpu > 0.0 {
        needs.push(format!("{} CPUs", task.cpu));
    }
    if task.memory_bytes > 0 {
        needs.push(bytes(task.memory_bytes));
    }
    needs.extend(
        task.resources
            .iter()
            .map(|(name, count)| format!("{} {count}", inert(name))),
    );
    if !needs.is_empty() {
        row("needs", needs.join(", "));
    }
    if let Some(progress) = task.progress_percent {
        row("progress", percent(f64::from(progress)));
    }
    let usage = &task.usage;
    if let Some(status) = usage.exit_status {
        row("exit status", status.to_string());
    }
    if let Some(signal) = usage.signal {
        row("signal", signal.to_string());
    }
    if usage.cpu_ms.is_some() || usage.peak_memory_bytes.is_some() {
        row(
            "used",
            format!(
                "{} of CPU, most memory {}",
                millis(usage.cpu_ms),
                bytes(usage.peak_memory_bytes)
            ),
        );
    }
    if let Some(result) = &task.result {
        row("result", inert(result.get()));
    }
    let lines = rows
        .iter()
        .map(|(name, value)| format!("{name:<12} {value}\n"));
    format!("task {}\n{}", inert(&task.id), lines.collect::<String>())
}

pub(super) fn why(session: &Session, ids: &[u64]) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    for id in ids {
        let reply = session
            .client
            .get(&format!("/v1/tasks/{}/why", escape(&id.to_string())))?;
        out.extend(session.show(&reply, |why: WhyView, _| reasons(&why))?);
    }
    Ok(out)
}

fn reasons(why: &WhyView) -> String {
    let id = inert(&why.id);
    match &why.waiting[..] {
        [] => format!("task {id}: nothing holds it back\n"),
        [one] => format!("task {id}: {}\n", inert(&one.detail)),
        several => {
            let lines = several
                .iter()
                .map(|one| format!("  {}\n", inert(&one.detail)));
            format!(
                "task {id} waits for all of these:\n{}",
                lines.collect::<String>()
            )
        }
    }
}

pub(super) fn stats(session: &Session) -> Result<Vec<u8>, Failure> {
    session.show(&session.client.get("/v1/tasks/stats")?, figures)
}

fn figures(stats: TaskStatsView, screen: Screen) -> String {
    let mut out = String::new();
    if let Some(why) = &stats.stopped {
        let text = format!("the store has stopped: {}", inert(why));
        out.push_str(&(screen.paint(Ink::Bad, &text) + "\n"));
    }
    if stats.damaged > 0 {
        let text = format!("damaged tasks: {}", stats.damaged);
        out.push_str(&(screen.paint(Ink::Bad, &text) + "\n"));
    }
    let states = |counts: &ByState| {
        let words = counts.iter().filter(|(_, count)| **count > 0);
        let words: Vec<String> = words
            .map(|(state, count)| format!("{count} {}", name(*state)))
            .collect();
        if words.is_empty() {
            "none".to_owned()
        } else {
            words.join(", ")
        }
    };
    out.push_str(&format!("tasks     {}\n", states(&stats.by_state)));
    out.push_str(&format!(
        "since the start of the daemon: {} taken, {} completed, {} attempts failed, {} leases ran out, {} refused as the queue was full\n",
        stats.accepted,
        stats.completed,
        stats.failed_attempts,
        stats.expired_leases,
        stats.refused
    ));
    if stats.key_excess + stats.retry_excess > 0 {
        out.push_str(&format!(
            "limits that only observe would have held back {} starts by their key and {} retries\n",
            stats.key_excess, stats.retry_excess
        ));
    }
    out.push_str(&format!(
        "store     {} on disk, about {} of memory\n",
        bytes(stats.disk_bytes),
        bytes(stats.memory_bytes)
    ));
    for pause in &stats.paused {
        let what = match &pause.name {
            Some(name) => format!("{} {}", inert(&pause.scope), inert(name)),
            None => "all tasks".to_owned(),
        };
        let text = format!(
            "paused    {what}, by {} since {}",
            inert(&pause.by),
            pause.since
        );
        out.push_str(&(screen.paint(Ink::Doubtful, &text) + "\n"));
    }
    let mut table = Table::new([
        Column::left("OF"),
        Column::left("NAME"),
        Column::right("LIVE"),
        Column::left("TASKS"),
    ]);
    let mut any = false;
    for (of, groups) in [("class", &stats.by_class), ("kind", &stats.by_kind)] {
        for (name, counts) in groups {
            any = true;
            let sum = counts.values().sum::<u64>();
            table.row([of.to_owned(), name.clone(), count(sum), states(counts)]);
        }
    }
    if any {
        out.push('\n');
        out.push_str(&table.print(screen));
    }
    out
}
