//! Inputs, one after the other, without holding all of them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};

use crate::template::Values;

/// Records that a reading thread hands over at once, at most.
const BATCH: usize = 256;

/// Longest record. The system takes arguments of 128 KiB at most; this leaves room for input that is not meant as one.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// What a reading thread has found.
pub(crate) enum Read {
    /// Some inputs, in order.
    Some(Vec<OsString>),
    /// No more, or an error.
    End(io::Result<()>),
}

/// Where inputs come from.
pub(crate) enum Source {
    /// Every combination of the lists, the last one changing fastest.
    Lists {
        lists: Vec<Vec<OsString>>,
        next: u64,
        total: u64,
    },
    /// A thread that reads a file or standard input; asked for each batch.
    Thread {
        ask: SyncSender<()>,
        asked: bool,
        ended: bool,
        ready: VecDeque<OsString>,
    },
    /// One command without inputs.
    Once { done: bool },
}

/// What asking for inputs finds.
pub(crate) enum Next {
    /// The inputs of one command.
    Values(Values),
    /// More may come.
    Later,
    /// No more.
    End,
}

impl Source {
    /// Combinations of lists.
    pub(crate) fn lists(lists: Vec<Vec<OsString>>) -> Source {
        let total = lists
            .iter()
            .map(|list| list.len() as u64)
            .fold(1, u64::saturating_mul);
        Source::Lists {
            lists,
            next: 0,
            total,
        }
    }

    /// Reads records that end with `end` on a thread of its own, which tells `found`.
    pub(crate) fn reading<E: Send + 'static>(
        mut reader: BufReader<impl io::Read + Send + 'static>,
        end: u8,
        events: Sender<E>,
        found: impl Fn(Read) -> E + Send + 'static,
    ) -> Source {
        let (ask, asked) = sync_channel(1);
        std::thread::spawn(move || {
            let result = read_batches(&mut reader, end, &asked, |batch| {
                events.send(found(Read::Some(batch))).is_ok()
            });
            let _ = events.send(found(Read::End(result)));
        });
        Source::Thread {
            ask,
            asked: false,
            ended: false,
            ready: VecDeque::new(),
        }
    }

    /// How many commands there will be with so many inputs each, where that is known.
    pub(crate) fn total(&self, each: usize) -> Option<u64> {
        match self {
            Source::Lists { lists, total, .. } if lists.len() == 1 => {
                Some(total.div_ceil(each as u64))
            }
            Source::Lists { total, .. } => Some(*total),
            Source::Thread { .. } => None,
            Source::Once { .. } => Some(1),
        }
    }

    /// Takes in what the thread has read.
    pub(crate) fn arrived(&mut self, read: Read) -> io::Result<()> {
        let Source::Thread {
            asked,
            ended,
            ready,
            ..
        } = self
        else {
            return Ok(());
        };
        *asked = false;
        match read {
            Read::Some(batch) => ready.extend(batch),
            Read::End(result) => {
                *ended = true;
                return result;
            }
        }
        Ok(())
    }

    /// The inputs of the next command: up to `count`, within `bytes`.
    pub(crate) fn next(&mut self, count: usize, bytes: usize) -> Next {
        match self {
            Source::Once { done: true } => Next::End,
            Source::Once { done } => {
                *done = true;
                Next::Values(Values::new())
            }
            Source::Lists { next, total, .. } if *next >= *total => Next::End,
            Source::Lists { lists, next, .. } if lists.len() == 1 => {
                let rest = &lists[0][*next as usize..];
                let taken = fitting(rest.iter(), count, bytes);
                *next += taken as u64;
                Next::Values(rest[..taken].to_vec())
            }
            Source::Lists { lists, next, .. } => {
                let mut index = *next;
                *next += 1;
                let mut values: Values = Vec::with_capacity(lists.len());
                for list in lists.iter().rev() {
                    values.push(list[(index % list.len() as u64) as usize].clone());
                    index /= list.len() as u64;
                }
                values.reverse();
                Next::Values(values)
            }
            Source::Thread {
                ask,
                asked,
                ended,
                ready,
            } => {
                let taken = fitting(ready.iter(), count, bytes);
                let enough = taken == count || taken < ready.len() || *ended;
                if (ready.len() < BATCH || !enough) && !*ended && !*asked {
                    *asked = ask.try_send(()).is_ok();
                }
                match (taken, enough) {
                    (0, _) if *ended => Next::End,
                    (_, true) if taken > 0 => Next::Values(ready.drain(..taken).collect()),
                    _ => Next::Later,
                }
            }
        }
    }
}

/// How many of the next inputs make one command: at least one.
fn fitting<'a>(inputs: impl Iterator<Item = &'a OsString>, count: usize, bytes: usize) -> usize {
    let mut sum = 0;
    inputs
        .take(count)
        .enumerate()
        .take_while(|(index, input)| {
            sum += input.len() + 1;
            *index == 0 || sum <= bytes
        })
        .count()
}

fn read_batches(
    reader: &mut BufReader<impl io::Read>,
    end: u8,
    asked: &Receiver<()>,
    mut tell: impl FnMut(Vec<OsString>) -> bool,
) -> io::Result<()> {
    while asked.recv().is_ok() {
        let mut batch = Vec::new();
        loop {
            let mut record = Vec::new();
            let count =
                io::Read::take(&mut *reader, RECORD_BYTES_MAX).read_until(end, &mut record)?;
            let over = count == 0;
            if count as u64 == RECORD_BYTES_MAX && record.last() != Some(&end) {
                let what = format!("an input is longer than {RECORD_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            if record.last() == Some(&end) {
                record.pop();
            }
            // Empty lines are no inputs; an empty record between NULs was meant.
            if !over && (!record.is_empty() || end == 0) {
                batch.push(OsString::from_vec(record));
            }
            if over {
                if !batch.is_empty() {
                    tell(batch);
                }
                return Ok(());
            }
            // Whatever has arrived is handed over before waiting for more.
            let more = reader.buffer().contains(&end);
            if batch.len() >= BATCH || (!more && !batch.is_empty()) {
                break;
            }
        }
        if !tell(batch) {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(source: &mut Source, count: usize, bytes: usize) -> Vec<String> {
        let mut out = Vec::new();
        while let Next::Values(values) = source.next(count, bytes) {
            out.push(
                values
                    .iter()
                    .map(|value| value.to_string_lossy())
                    .collect::<Vec<_>>()
                    .join("+"),
            );
        }
        out
    }

    fn list(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn lists_combine_with_the_last_changing_fastest() {
        let mut source = Source::lists(vec![list("a b"), list("1 2 3")]);
        assert_eq!(source.total(1), Some(6));
        assert_eq!(
            all(&mut source, 1, 9),
            ["a+1", "a+2", "a+3", "b+1", "b+2", "b+3"]
        );
        assert_eq!(Source::lists(vec![list("a"), Vec::new()]).total(1), Some(0));
    }

    #[test]
    fn commands_take_as_many_inputs_as_fit() {
        assert_eq!(
            all(&mut Source::lists(vec![list("a b c")]), 2, 1000),
            ["a+b", "c"]
        );
        assert_eq!(
            all(&mut Source::lists(vec![list("aaa bbb ccccccccc d")]), 9, 8),
            ["aaa+bbb", "ccccccccc", "d"]
        );
    }

    /// TASK-12: inputs are read lazily, a batch when asked.
    #[test]
    fn a_thread_reads_only_when_asked() {
        let (sender, events) = std::sync::mpsc::channel();
        let text: String = (0..1000).map(|number| format!("{number}\n\n")).collect();
        let reader = BufReader::new(io::Cursor::new(text));
        let mut source = Source::reading(reader, b'\n', sender, |read| read);
        let mut seen = Vec::new();
        loop {
            match source.next(1, 1000) {
                Next::Values(values) => seen.extend(values),
                Next::Later => source.arrived(events.recv().unwrap()).unwrap(),
                Next::End => break,
            }
            let Source::Thread { ready, .. } = &source else {
                unreachable!()
            };
            assert!(ready.len() <= 2 * BATCH);
        }
        assert_eq!(seen.len(), 1000);
        assert_eq!(seen[999], "999");
    }
}
