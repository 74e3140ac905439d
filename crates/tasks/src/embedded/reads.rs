//! What is asked of the rows without the writer: tasks, and pages of them.
//!
//! A few threads with a connection each do it, as a page may have to look at many rows, and a future must not block. What one answers is bounded: by
//! tasks, by bytes, and by the ids it looks at, so that a page may be short, or empty, and still say where the next one begins.

use super::code::{body, head, note, record};
use super::inbox::{Inbox, Woken};
use super::rows::{Fault, Reads, Scan, Whole};
use super::shared::Shared;
use crate::error::Error;
use crate::{Filter, Page, Query, Run, Task};
use flyball_policy::queue::{State, TaskId};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Threads that read.
const THREADS: usize = 2;

/// Requests that wait for one of them, at most; more wait to be put in.
const WAITING: u32 = 256;

/// Ids that one page looks at, at most: about 50 ms.
const PAGE_IDS: u64 = 200_000;

/// A page ends when it holds this many bytes of payloads, results, and what runs.
const PAGE_BYTES: usize = 8 << 20;

/// The most tasks of a page.
const PAGE_TASKS: u32 = 1_000;

type Job = Box<dyn FnOnce(&mut dyn Reads) + Send>;

/// The threads that read.
pub(super) struct Readers {
    jobs: Arc<Inbox<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts the threads.
    pub(super) fn start(readers: Vec<Box<dyn Reads>>) -> std::io::Result<Readers> {
        let mut all = Readers {
            jobs: Arc::new(Inbox::new(WAITING)),
            threads: Vec::new(),
        };
        for mut reader in readers {
            let jobs = all.jobs.clone();
            let thread = std::thread::Builder::new()
                .name("flyball-queue-r".to_owned())
                .spawn(move || {
                    let mut job = Vec::new();
                    while jobs.receive(&mut job, 1, None) == Woken::Work {
                        for job in job.drain(..) {
                            job(&mut *reader);
                        }
                    }
                });
            match thread {
                Ok(thread) => all.threads.push(thread),
                Err(error) => {
                    all.end();
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// How many readers are wanted.
    pub(super) const fn wanted() -> usize {
        THREADS
    }

    /// Has one of the threads read.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut dyn Reads) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |reader| {
            // Who asked may have gone.
            drop(reply.send(read(reader)));
        });
        self.jobs.send(job, 0).await.map_err(|_| Error::Closing)?;
        answer.await.map_err(|_| Error::Closing)?
    }

    /// Ends the threads when what was asked is done.
    pub(super) fn end(&mut self) {
        self.jobs.close();
        for thread in self.threads.drain(..) {
            // A reader that panicked has dropped its answer, which said so.
            let _ = thread.join();
        }
    }
}

/// Says why nothing could be read.
fn unread(fault: Fault) -> Error {
    match fault {
        Fault::Damaged { id: Some(id), what } => Error::Damaged { id, what },
        other => Error::Stopped {
            why: format!("cannot read: {other}"),
        },
    }
}

/// All that is known of a task.
pub(super) fn task(reader: &mut dyn Reads, shared: &Shared, id: TaskId) -> Result<Task, Error> {
    let whole = reader
        .whole(id)
        .map_err(|fault| damaged(shared, id, fault))?;
    let Some(whole) = whole else {
        return Err(match shared.damaged().tasks.get(&id) {
            Some(what) => Error::Damaged {
                id,
                what: what.clone(),
            },
            None => Error::UnknownTask { id },
        });
    };
    assemble(id, &whole).inspect_err(|error| {
        if let Error::Damaged { what, .. } = error {
            shared.damaged().tasks.entry(id).or_insert(what.clone());
        }
    })
}

/// Notes that a task cannot be read, and says so.
fn damaged(shared: &Shared, id: TaskId, fault: Fault) -> Error {
    let what = fault.to_string();
    if matches!(fault, Fault::Damaged { .. }) {
        shared
            .damaged()
            .tasks
            .entry(id)
            .or_insert_with(|| what.clone());
    }
    Error::Damaged { id, what }
}

fn assemble(id: TaskId, whole: &Whole) -> Result<Task, Error> {
    let damage = |part: &'static str| {
        move |damage: super::code::wire::Damage| Error::Damaged {
            id,
            what: format!("{part}: {damage}"),
        }
    };
    let head = head::decode(&whole.head, id).map_err(damage("head"))?;
    let record = record::decode(&whole.record, id).map_err(damage("record"))?;
    let sealed = whole.body.as_ref().ok_or_else(|| Error::Damaged {
        id,
        what: "body: it is missing".to_owned(),
    })?;
    let body = body::decode(sealed, id).map_err(damage("body"))?;
    let notes = &whole.notes;
    let progress = notes
        .beat
        .as_ref()
        .map(|sealed| note::decode_progress(sealed, id))
        .transpose()
        .map_err(damage("progress"))?
        // That of an attempt before says nothing of this one.
        .filter(|progress| progress.attempt == record.attempts.started)
        .unwrap_or_default();
    let error = notes
        .failure
        .as_ref()
        .map(|sealed| note::decode_failure(sealed, id))
        .transpose()
        .map_err(damage("error"))?;
    let outcome = notes
        .outcome
        .as_ref()
        .map(|sealed| note::decode_outcome(sealed, id))
        .transpose()
        .map_err(damage("result"))?
        .unwrap_or_default();
    let (worker, lease_expires_at) = match record.lease {
        Some(lease) => (Some(lease.worker), Some(lease.expires_at)),
        None => (None, None),
    };
    Ok(Task {
        id,
        head,
        run: body.run,
        payload: body.payload,
        labels: body.labels,
        secrets: body.secrets,
        state: record.state,
        reason: record.reason,
        attempts: record.attempts,
        created_at: record.created_at,
        ready_at: record.ready_at,
        started_at: record.started_at,
        ended_at: record.ended_at,
        worker,
        lease_expires_at,
        progress: progress.percent,
        message: progress.message,
        result: outcome.result,
        error,
        usage: outcome.usage,
        cancel_requested: record.cancel_requested,
        cron_of: record.cron_of,
    })
}

/// A page of tasks.
pub(super) fn list(reader: &mut dyn Reads, shared: &Shared, query: &Query) -> Result<Page, Error> {
    let most = query.limit.clamp(1, PAGE_TASKS) as usize;
    let mut page = Page::default();
    let mut bytes = 0;
    let mut before = query.before.map_or(u64::MAX, |id| id.0);
    let mut left = PAGE_IDS;
    loop {
        let want = most - page.tasks.len();
        let found = find(reader, shared, &query.filter, before, want, &mut left)?;
        page.damaged.extend(found.damaged);
        for id in found.ids {
            match task(reader, shared, id) {
                Ok(task) => {
                    bytes += task.payload.len() + task.result.as_ref().map_or(0, |json| json.len());
                    bytes += weight(&task.run);
                    page.tasks.push(task);
                }
                Err(Error::Damaged { id, .. }) => page.damaged.push(id),
                // Forgotten meanwhile.
                Err(Error::UnknownTask { .. }) => {}
                Err(other) => return Err(other),
            }
            if bytes >= PAGE_BYTES {
                page.next = Some(id);
                return Ok(page);
            }
        }
        page.next = found.next.map(TaskId);
        match found.next {
            Some(next) if page.tasks.len() < most && left > 0 => before = next,
            _ => return Ok(page),
        }
    }
}

/// Bytes of what a task runs, near enough.
fn weight(run: &Run) -> usize {
    match run {
        Run::Handler => 0,
        Run::Command(command) => {
            let words = command.argv.iter().map(|word| word.len());
            let pairs = command
                .env
                .iter()
                .map(|(name, value)| name.len() + value.len());
            words.sum::<usize>() + pairs.sum::<usize>()
        }
        Run::Http(call) => {
            let fields = call
                .headers
                .iter()
                .map(|(name, value)| name.len() + value.len());
            let body = call.body.as_ref().map_or(0, |body| body.len());
            call.url.len() + body + fields.sum::<usize>()
        }
    }
}

/// Ids that a filter fits, newest first, at most so many.
pub(super) fn matching(
    reader: &mut dyn Reads,
    shared: &Shared,
    filter: &Filter,
    most: usize,
) -> Result<Vec<TaskId>, Error> {
    let mut ids = Vec::new();
    let mut before = u64::MAX;
    // To the last task, however many there are: "cancel all of this kind" must find the oldest, too.
    loop {
        let mut left = PAGE_IDS;
        let found = find(reader, shared, filter, before, most - ids.len(), &mut left)?;
        ids.extend(found.ids);
        match found.next {
            Some(next) if ids.len() < most => before = next,
            _ => return Ok(ids),
        }
    }
}

#[derive(Debug, Default)]
struct Found {
    ids: Vec<TaskId>,
    damaged: Vec<TaskId>,
    /// Where to go on.
    next: Option<u64>,
}

/// Looks for tasks that a filter fits, older than `before`.
fn find(
    reader: &mut dyn Reads,
    shared: &Shared,
    filter: &Filter,
    before: u64,
    want: usize,
    left: &mut u64,
) -> Result<Found, Error> {
    let mut found = Found::default();
    if want == 0 {
        found.next = Some(before);
        return Ok(found);
    }
    if filter.states == [State::Running] {
        return running(reader, shared, filter, before, want);
    }
    let ids = *left;
    let scan = Scan {
        before,
        states: filter.states.clone(),
        ids,
    };
    let mut seen = before;
    let mut visited = 0;
    let scanned = reader.scan(&scan, &mut |id, sealed_head, sealed_record| {
        seen = id.0;
        visited += 1;
        match fits(filter, id, sealed_head, sealed_record) {
            Ok(true) => found.ids.push(id),
            Ok(false) => {}
            Err(()) => found.damaged.push(id),
        }
        found.ids.len() >= want
    });
    match scanned {
        Ok(next) => {
            // What was looked at is not told; a scan that came to its end has looked at all it was allowed.
            *left = if found.ids.len() >= want {
                ids.saturating_sub(visited)
            } else {
                0
            };
            found.next = next;
        }
        Err(Fault::Damaged { id, what }) => {
            let at = id
                .map_or(seen.saturating_sub(1), |id| id.0)
                .min(seen - 1)
                .max(1);
            found.damaged.push(TaskId(at));
            let mut known = shared.damaged();
            known.tasks.entry(TaskId(at)).or_insert(what);
            // On below those that are known to be lost with it, which are neighbours.
            let mut next = at;
            while next > 1 && known.tasks.contains_key(&TaskId(next - 1)) {
                next -= 1;
            }
            found.next = (next > 1).then_some(next);
            *left = left.saturating_sub(1);
        }
        Err(other) => return Err(unread(other)),
    }
    if !filter.labels.is_empty() {
        let ids = std::mem::take(&mut found.ids);
        for id in ids {
            match reader.body(id) {
                Ok(Some(sealed)) => match body::labels(&sealed, id) {
                    Ok(labels) if filter.labels.iter().all(|label| labels.contains(label)) => {
                        found.ids.push(id);
                    }
                    Ok(_) => {}
                    Err(_) => found.damaged.push(id),
                },
                Ok(None) => {}
                Err(Fault::Damaged { .. }) => found.damaged.push(id),
                Err(other) => return Err(unread(other)),
            }
        }
    }
    Ok(found)
}

/// Looks for tasks that are leased: the writer knows which.
fn running(
    reader: &mut dyn Reads,
    shared: &Shared,
    filter: &Filter,
    before: u64,
    want: usize,
) -> Result<Found, Error> {
    let mut found = Found::default();
    let ids: Vec<TaskId> = shared
        .running()
        .range(..TaskId(before))
        .rev()
        .copied()
        .collect();
    for id in ids {
        let fit = match reader.whole(id) {
            Ok(Some(whole)) => {
                let labels = whole
                    .body
                    .as_ref()
                    .and_then(|sealed| body::labels(sealed, id).ok())
                    .unwrap_or_default();
                fits(filter, id, &whole.head, &whole.record)
                    .map(|fit| fit && filter.labels.iter().all(|label| labels.contains(label)))
            }
            Ok(None) => Ok(false),
            Err(Fault::Damaged { .. }) => Err(()),
            Err(other) => return Err(unread(other)),
        };
        match fit {
            Ok(true) => found.ids.push(id),
            Ok(false) => {}
            Err(()) => found.damaged.push(id),
        }
        if found.ids.len() >= want {
            found.next = Some(id.0);
            return Ok(found);
        }
    }
    Ok(found)
}

/// Whether a task is one that is looked for, labels aside.
fn fits(filter: &Filter, id: TaskId, sealed_head: &[u8], sealed_record: &[u8]) -> Result<bool, ()> {
    let record = record::decode(sealed_record, id).map_err(drop)?;
    if !filter.states.is_empty() && !filter.states.contains(&record.state) {
        return Ok(false);
    }
    let head = head::decode(sealed_head, id).map_err(drop)?;
    let is = |wanted: &Option<Box<str>>, has: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| has == Some(wanted))
    };
    Ok(is(&filter.class, Some(&head.class))
        && is(&filter.kind, Some(&head.kind))
        && is(&filter.group, head.group.as_deref()))
}
