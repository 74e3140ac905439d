//! What a command wrote, byte for byte; with `--follow` from before its start to its end, through retries and restarts of the daemon.

use std::io::{self, Write};
use std::time::Duration;

use flyball_engine::view::tasks::TaskView;
use hyper::Method;

use super::events::{Heard, Watch};
use super::filter::has_ended;
use super::look::task;
use crate::client::Failure;
use crate::commands::{Session, note};

/// For the daemon to begin its answer.
const BEGINS: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(3600);

pub(super) fn run(session: &Session, id: u64, stderr: bool, follow: bool) -> Result<u8, Failure> {
    if session.json {
        return Err(Failure::Usage(
            "an output is bytes, which --json cannot be".to_owned(),
        ));
    }
    let reading = Reading {
        session,
        id,
        stream: if stderr { "stderr" } else { "stdout" },
    };
    if follow {
        return reading.follow();
    }
    match reading.pour(0, false, &mut 0) {
        Ok(Read::Whole { dropped }) => {
            say_dropped(dropped);
            Ok(0)
        }
        Ok(Read::NobodyReads) => Ok(0),
        Err(Failure::Missing(_)) => {
            // Of the task itself it is known why.
            let task = task(session, id)?;
            Err(Failure::Missing(none(&task)))
        }
        Err(failure) => Err(failure),
    }
}

fn none(task: &TaskView) -> String {
    let id = &task.id;
    if task.command.is_none() {
        format!("task {id} is no command: it has no output")
    } else if task.attempt == 0 && !has_ended(task.state) {
        format!("task {id} has not started: it has no output yet; --follow waits for it")
    } else if task.attempt == 0 {
        format!("task {id} never started: it has no output")
    } else {
        format!("the output of task {id} is not kept any more")
    }
}

fn say_dropped(dropped: Option<u64>) {
    if let Some(bytes @ 1..) = dropped {
        note(&format!(
            "{bytes} more bytes were written, beyond what is kept"
        ));
    }
}

enum Read {
    Whole { dropped: Option<u64> },
    NobodyReads,
}

struct Reading<'a> {
    session: &'a Session,
    id: u64,
    stream: &'static str,
}

impl Reading<'_> {
    /// Prints from a byte on, and counts what it printed.
    fn pour(&self, from: u64, follow: bool, printed: &mut u64) -> Result<Read, Failure> {
        let path = format!(
            "/v1/tasks/{}/output?stream={}&from={from}&follow={follow}",
            self.id, self.stream
        );
        let mut out = io::stdout().lock();
        let poured = self
            .session
            .client
            .pour(Method::GET, &path, None, BEGINS, &mut |bytes| {
                out.write_all(bytes)?;
                *printed += bytes.len() as u64;
                // Whoever follows sees what is there.
                if follow { out.flush() } else { Ok(()) }
            })?;
        match poured.and_then(|poured| out.flush().map(|()| poured)) {
            Ok(poured) => Ok(Read::Whole {
                dropped: poured.dropped,
            }),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Read::NobodyReads),
            Err(error) => Err(Failure::Broken(format!("cannot write the output: {error}"))),
        }
    }

    fn follow(&self) -> Result<u8, Failure> {
        let mut watch = Watch::new(&self.session.client);
        let (mut attempt, mut printed) = (0, 0);
        loop {
            match watch.next(LONG)? {
                Heard::Nothing | Heard::News(_) => continue,
                Heard::Event(event) if event.id != self.id.to_string() => continue,
                Heard::Event(_) | Heard::Look => {}
            }
            let task = match task(self.session, self.id) {
                Ok(task) => task,
                Err(failure) => {
                    watch.lost(failure, LONG)?;
                    continue;
                }
            };
            if task.command.is_none() {
                return Err(Failure::Missing(none(&task)));
            }
            if task.attempt > attempt {
                if printed > 0 {
                    note(&format!("attempt {} begins anew", task.attempt));
                }
                (attempt, printed) = (task.attempt, 0);
            }
            if attempt > 0 {
                let mut more = 0;
                let read = self.pour(printed, true, &mut more);
                printed += more;
                match read {
                    Ok(Read::Whole { .. }) => {}
                    Ok(Read::NobodyReads) => return Ok(0),
                    // Its files are made after its lease: the next event, or its end, tells.
                    Err(Failure::Missing(_)) if !has_ended(task.state) => {}
                    Err(Failure::Missing(_)) => return Err(Failure::Missing(none(&task))),
                    Err(failure) => {
                        watch.lost(failure, LONG)?;
                    }
                }
            }
            if has_ended(task.state) {
                if task.attempt == 0 {
                    return Err(Failure::Missing(none(&task)));
                }
                // How much there was beyond the bound is known at the end.
                if let Ok(Read::Whole { dropped }) = self.pour(u64::MAX, false, &mut 0) {
                    say_dropped(dropped);
                }
                return Ok(0);
            }
        }
    }
}
