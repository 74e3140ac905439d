//! The joblog: a line for each command that ended, in the columns of GNU parallel, so that tools which read those read these.
//!
//! A thread of its own writes the lines and syncs them, those together that came while it was busy: a line counts when it is on
//! disk, and the run ends when all are. Where results are kept, too, they are synced before the line that says so.
//!
//! Invariants: the file has whole lines only, a torn one at its end is taken off when the file is opened; one run at a time
//! writes it; what the run itself ended (Ctrl-C, `--halt now`) is not in it and runs again.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use flyball_process::{Ended, Error, Exit, SpawnReason};

use crate::signals;

const HEADER: &str = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";

/// Fields of a line before the command.
const FIELDS: usize = 8;

/// Lines that wait for the disk; then the run waits, too.
const WAITING_MAX: usize = 4096;

/// What a shell says for a program that is not there, and for one that cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// What stands for the exit status of a command that its timeout ended.
const TIMED_OUT: i32 = -1;

/// How a command ended, as far as the log tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) failed: bool,
    pub(crate) command: OsString,
}

/// What a joblog says: the last line of each number.
#[derive(Default, Debug)]
pub(crate) struct Past(HashMap<u64, Entry>);

impl Past {
    /// Reads a joblog; one that is not there says nothing. `commands`: whether they are wanted.
    ///
    /// # Errors
    /// Of reading, and of a line that is none; says which.
    pub(crate) fn read(path: &Path, commands: bool) -> Result<Past, String> {
        let failed = |what: String| format!("cannot read the joblog {}: {what}", path.display());
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Past::default()),
            Err(error) => return Err(failed(error.to_string())),
        };
        let (mut reader, mut past, mut line) = (BufReader::new(file), HashMap::new(), Vec::new());
        for number in 1_u64.. {
            line.clear();
            let count = reader
                .read_until(b'\n', &mut line)
                .map_err(|error| failed(error.to_string()))?;
            // A torn line is no line: its command may not have ended.
            if count == 0 || line.pop() != Some(b'\n') {
                break;
            }
            if line.is_empty() || line.starts_with(b"Seq\t") {
                continue;
            }
            let (seq, entry) = entry(&line, commands)
                .ok_or_else(|| failed(format!("line {number} is not one of a joblog")))?;
            past.insert(seq, entry);
        }
        Ok(Past(past))
    }

    /// Numbers of what ran, or of what succeeded only.
    pub(crate) fn numbers(&self, succeeded_only: bool) -> std::collections::HashSet<u64> {
        self.0
            .iter()
            .filter(|(_, entry)| !(succeeded_only && entry.failed))
            .map(|(number, _)| *number)
            .collect()
    }

    /// What failed, in order.
    pub(crate) fn failed(self) -> Vec<(u64, OsString)> {
        let mut failed: Vec<(u64, OsString)> = self
            .0
            .into_iter()
            .filter(|(_, entry)| entry.failed)
            .map(|(number, entry)| (number, entry.command))
            .collect();
        failed.sort_by_key(|(number, _)| *number);
        failed
    }
}

fn entry(line: &[u8], commands: bool) -> Option<(u64, Entry)> {
    let fields: Vec<&[u8]> = line.splitn(FIELDS + 1, |byte| *byte == b'\t').collect();
    let number = |index: usize| -> Option<i64> {
        std::str::from_utf8(fields.get(index)?)
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let seq = u64::try_from(number(0)?).ok().filter(|seq| *seq > 0)?;
    let failed = number(6)? != 0 || number(7)? != 0;
    let command = fields.get(FIELDS)?;
    let command = if commands && failed {
        let newlines = |byte: &u8| if *byte == 0 { b'\n' } else { *byte };
        OsString::from_vec(command.iter().map(newlines).collect())
    } else {
        OsString::new()
    };
    Some((seq, Entry { failed, command }))
}

/// What is told about a command.
pub(crate) struct Line {
    pub(crate) number: u64,
    /// When it started, since the epoch.
    pub(crate) started: Duration,
    pub(crate) ran: Duration,
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) exit: i32,
    pub(crate) signal: i32,
    pub(crate) command: Vec<u8>,
}

impl Line {
    fn write(&self, text: &mut Vec<u8>) {
        let _ = write!(
            text,
            "{}\t:\t{:.3}\t{:10.3}\t{}\t{}\t{}\t{}\t",
            self.number,
            self.started.as_secs_f64(),
            self.ran.as_secs_f64(),
            self.read,
            self.written,
            self.exit,
            self.signal
        );
        text.extend_from_slice(&self.command);
        text.push(b'\n');
    }
}

/// Exit status and signal of a command that ran, or could not be started; `None` for what says nothing about the command.
pub(crate) fn status(result: &Result<Exit, Error>) -> Option<(i32, i32)> {
    match result {
        Ok(exit) => Some(match (exit.timed_out, exit.ended) {
            (false, Ended::Exited(code)) => (code, 0),
            (true, Ended::Signalled { signal, .. }) => (TIMED_OUT, signal),
            (true, _) => (TIMED_OUT, 0),
            (false, Ended::Signalled { signal, .. }) => (0, signal),
            (false, _) => (NOT_EXECUTABLE, 0),
        }),
        Err(Error::Spawn { reason, .. }) => Some(match reason {
            SpawnReason::NotFound => (NOT_FOUND, 0),
            _ => (NOT_EXECUTABLE, 0),
        }),
        Err(_) => None,
    }
}

/// How a joblog is begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begin {
    Anew,
    Append,
}

/// The joblog that a run writes.
pub(crate) struct JobLog {
    lines: Option<SyncSender<Line>>,
    thread: Option<JoinHandle<()>>,
}

impl JobLog {
    /// Opens it and starts its thread, which tells `trouble` once when it cannot write. `results`: a folder whose filesystem is
    /// synced before the lines.
    ///
    /// # Errors
    /// Of opening; another run writes it.
    pub(crate) fn open(
        path: &Path,
        begin: Begin,
        results: Option<File>,
        trouble: impl Fn(String) + Send + 'static,
    ) -> Result<JobLog, String> {
        let failed =
            |error: io::Error| format!("cannot write the joblog {}: {error}", path.display());
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "another run writes the joblog {}; wait for it, or name another",
                    path.display()
                ));
            }
            // Where a filesystem knows no locks, nothing is lost by that.
            Err(TryLockError::Error(_)) => {}
        }
        let plain = file.metadata().map_err(failed)?.is_file();
        if plain {
            let length = match begin {
                Begin::Anew => 0,
                Begin::Append => whole_lines(&mut file).map_err(failed)?,
            };
            file.set_len(length).map_err(failed)?;
            file.seek(SeekFrom::Start(length)).map_err(failed)?;
            if length == 0 {
                file.write_all(HEADER.as_bytes()).map_err(failed)?;
            }
        } else {
            file.write_all(HEADER.as_bytes()).map_err(failed)?;
        }
        let (lines, inbox) = sync_channel(WAITING_MAX);
        let name = path.display().to_string();
        let mut writer = Writer {
            file,
            results,
            plain,
        };
        let thread = std::thread::Builder::new()
            .name("flyball-joblog".to_owned())
            .spawn(move || {
                if let Err(error) = writer.write(&inbox) {
                    trouble(format!("cannot write the joblog {name}: {error}"));
                }
            })
            .map_err(failed)?;
        Ok(JobLog {
            lines: Some(lines),
            thread: Some(thread),
        })
    }

    /// Writes a line, soon.
    pub(crate) fn write(&self, line: Line) {
        if let Some(lines) = &self.lines {
            // The thread has told why when it is gone.
            let _ = lines.send(line);
        }
    }

    /// Waits until all lines are on disk.
    pub(crate) fn finish(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for JobLog {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Bytes up to the end of the last whole line.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const CHUNK: u64 = 64 * 1024;
    let mut end = file.seek(SeekFrom::End(0))?;
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        let mut chunk = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        io::Read::read_exact(file, &mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

struct Writer {
    file: File,
    results: Option<File>,
    /// A file that can be synced and cut, not a pipe or a device.
    plain: bool,
}

impl Writer {
    fn write(&mut self, inbox: &Receiver<Line>) -> io::Result<()> {
        let mut text = Vec::new();
        while let Ok(line) = inbox.recv() {
            text.clear();
            line.write(&mut text);
            for line in inbox.try_iter().take(WAITING_MAX) {
                line.write(&mut text);
            }
            if let Some(results) = &self.results {
                signals::sync_filesystem(results)?;
            }
            self.append(&text)?;
        }
        Ok(())
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if !self.plain {
            return self.file.write_all(text);
        }
        let before = self.file.stream_position()?;
        let written = self.file.write_all(text);
        if written.is_err() {
            // Half a line on a full disk would be read as a whole one by other tools.
            let _ = self.file.set_len(before);
        }
        written?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64, exit: i32, command: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        Line {
            number,
            started: Duration::from_millis(1_700_000_000_123),
            ran: Duration::from_millis(1500),
            read: 0,
            written: 7,
            exit,
            signal: 0,
            command: command.to_vec(),
        }
        .write(&mut text);
        text
    }

    /// TASK-12: the columns that tools know.
    #[test]
    fn a_line_has_the_columns_of_parallel() {
        assert_eq!(
            String::from_utf8(line(3, 1, b"exit 1")).unwrap(),
            "3\t:\t1700000000.123\t     1.500\t0\t7\t1\t0\texit 1\n"
        );
    }

    #[test]
    fn lines_are_read_back() {
        let mut text = line(2, 1, b"printf 'a\tb\0c'");
        text.pop();
        let (number, entry) = entry(&text, true).unwrap();
        assert_eq!((number, entry.failed), (2, true));
        assert_eq!(entry.command, "printf 'a\tb\nc'");
        for wrong in [&b"x\t:\t"[..], b"1\t:\t1\t1\t0\t0\t0\t0", b"hello"] {
            assert!(super::entry(wrong, true).is_none());
        }
    }
}
