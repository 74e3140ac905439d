//! Records of a file or of standard input, read on a thread of its own.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Read;

/// Records that a reading thread hands over at once, at most.
pub(super) const BATCH: usize = 256;

/// Longest record. The system takes arguments of 128 KiB at most; this leaves room for input that is not meant as one.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// Most bytes of inputs that are held at once, where all have to be: combined files, shuffled or counted inputs.
const HELD_BYTES_MAX: usize = 1 << 30;

/// What a record takes beside its bytes when it is held.
const RECORD_OVERHEAD: usize = size_of::<OsString>() + 16;

/// A thread that reads when it is asked.
pub(super) struct Thread<T> {
    ask: SyncSender<()>,
    asked: bool,
    pub(super) ended: bool,
    pub(super) ready: VecDeque<T>,
}

impl<T> Thread<T> {
    /// Starts it: `read` gets what tells it that more is wanted.
    pub(super) fn start(read: impl FnOnce(&Receiver<()>) + Send + 'static) -> Thread<T> {
        let (ask, asked) = sync_channel(1);
        std::thread::spawn(move || read(&asked));
        Thread {
            ask,
            asked: false,
            ended: false,
            ready: VecDeque::new(),
        }
    }

    /// Asks for more, once.
    pub(super) fn ask(&mut self) {
        if !self.ended && !self.asked {
            self.asked = self.ask.try_send(()).is_ok();
        }
    }

    pub(super) fn arrived(&mut self, more: impl IntoIterator<Item = T>) {
        self.asked = false;
        self.ready.extend(more);
    }

    pub(super) fn end(&mut self) {
        self.asked = false;
        self.ended = true;
    }
}

/// Reads records one by one.
pub(crate) struct Records {
    reader: BufReader<Box<dyn io::Read + Send>>,
    end: u8,
}

impl Records {
    /// Records that end with the byte `end`.
    pub(crate) fn new(reader: impl io::Read + Send + 'static, end: u8) -> Records {
        Records {
            reader: BufReader::new(Box::new(reader)),
            end,
        }
    }

    /// The next record, without what ends it. Empty lines are no records; between other ends they were meant.
    ///
    /// # Errors
    /// Of reading; `InvalidData` for a record beyond the bound.
    pub(crate) fn next(&mut self) -> io::Result<Option<OsString>> {
        loop {
            let mut record = Vec::new();
            let count = io::Read::take(&mut self.reader, RECORD_BYTES_MAX)
                .read_until(self.end, &mut record)?;
            if count == 0 {
                return Ok(None);
            }
            if record.last() == Some(&self.end) {
                record.pop();
            } else if count as u64 == RECORD_BYTES_MAX {
                let what = format!("an input is longer than {RECORD_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            if !record.is_empty() || self.end != b'\n' {
                return Ok(Some(OsString::from_vec(record)));
            }
        }
    }

    /// Whether another record is there without reading more.
    fn has_more(&self) -> bool {
        self.reader.buffer().contains(&self.end)
    }

    /// All that follow.
    ///
    /// # Errors
    /// As [`next`](Records::next), and when they are more than can be held.
    pub(crate) fn all(mut self) -> io::Result<Vec<OsString>> {
        let (mut all, mut bytes) = (Vec::new(), 0);
        while let Some(record) = self.next()? {
            bytes += record.len() + RECORD_OVERHEAD;
            if bytes > HELD_BYTES_MAX {
                let what = "these inputs have to be held all at once, and are more than 1 GiB";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            all.push(record);
        }
        Ok(all)
    }
}

/// Hands records over, a batch when asked.
pub(super) fn records(
    mut records: Records,
    found: impl Fn(Read) -> bool + Send + 'static,
) -> Thread<OsString> {
    Thread::start(move |asked| {
        let result = read_batches(&mut records, asked, |batch| found(Read::Some(batch)));
        found(Read::End(result));
    })
}

fn read_batches(
    records: &mut Records,
    asked: &Receiver<()>,
    mut tell: impl FnMut(Vec<OsString>) -> bool,
) -> io::Result<()> {
    while asked.recv().is_ok() {
        let mut batch = Vec::new();
        loop {
            match records.next()? {
                Some(record) => batch.push(record),
                None => {
                    if !batch.is_empty() {
                        tell(batch);
                    }
                    return Ok(());
                }
            }
            // Whatever has arrived is handed over before waiting for more.
            if batch.len() >= BATCH || !records.has_more() {
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
    use super::super::{Kind, Next, Source};
    use super::*;

    /// TASK-12: inputs are read lazily, a batch when asked.
    #[test]
    fn a_thread_reads_only_when_asked() {
        let (sender, events) = std::sync::mpsc::channel();
        let text: String = (0..1000).map(|number| format!("{number}\n\n")).collect();
        let records = Records::new(io::Cursor::new(text), b'\n');
        let mut source = Source::records(records, move |read| sender.send(read).is_ok());
        let mut seen = Vec::new();
        loop {
            match source.next(1, 1000) {
                Next::Input(input) => seen.extend(input.values),
                Next::Later => source.arrived(events.recv().unwrap()).unwrap(),
                Next::End => break,
            }
            let Kind::Records(thread) = &source.kind else {
                unreachable!()
            };
            assert!(thread.ready.len() <= 2 * BATCH);
        }
        assert_eq!(seen.len(), 1000);
        assert_eq!(seen[999], "999");
    }

    #[test]
    fn empty_lines_are_no_records_and_empty_fields_are() {
        let all = |text: &'static str, end| {
            Records::new(io::Cursor::new(text), end)
                .all()
                .unwrap()
                .len()
        };
        assert_eq!(all("a\n\nb", b'\n'), 2);
        assert_eq!(all("a,,b", b','), 3);
    }
}
