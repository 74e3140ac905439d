//! A stream cut into blocks of whole records (`--pipe`).
//!
//! A block goes to a file without a name in the temporary folder: a command may read it at its own pace, twice, or not at all, and
//! nothing waits for it.

use std::fs::File;
use std::io::{self, Read as _, Seek, Write};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::Read;
use super::reading::Thread;
use crate::run::nameless_file;

/// Largest block: it is held while its end is looked for.
pub(crate) const BLOCK_BYTES_MAX: usize = 1 << 30;

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Cuts a stream.
pub(crate) struct Cutter {
    reader: Box<dyn io::Read + Send>,
    /// What ends a record, then what begins the next: the cut is between them.
    mark: Vec<u8>,
    /// Bytes of the mark that belong to the record before.
    before: usize,
    block: usize,
    /// Records in a block, instead of its size.
    records: Option<u64>,
    /// Records at the start of the stream that each block begins with.
    header_records: u64,
    header: Vec<u8>,
    held: Vec<u8>,
    ended: bool,
}

impl Cutter {
    /// Records end with `end`, or where `start` follows, or both.
    pub(crate) fn new(reader: impl io::Read + Send + 'static, end: &[u8], start: &[u8]) -> Cutter {
        Cutter {
            reader: Box::new(reader),
            mark: [end, start].concat(),
            before: end.len(),
            block: 1 << 20,
            records: None,
            header_records: 0,
            header: Vec::new(),
            held: Vec::new(),
            ended: false,
        }
    }

    /// Blocks of about so many bytes: as many whole records as fit, at least one.
    pub(crate) fn block(mut self, bytes: usize) -> Cutter {
        self.block = bytes.clamp(1, BLOCK_BYTES_MAX);
        self
    }

    /// Blocks of so many records.
    pub(crate) fn records(mut self, count: Option<u64>) -> Cutter {
        self.records = count;
        self
    }

    /// So many records at the start are put before every block.
    pub(crate) fn header(mut self, count: u64) -> Cutter {
        self.header_records = count;
        self
    }

    /// The next block.
    ///
    /// # Errors
    /// Of reading; `InvalidData` for a record beyond the bound.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.header_records > 0 {
            let count = std::mem::take(&mut self.header_records);
            self.header = self.cut(Some(count))?;
        }
        let block = self.cut(self.records)?;
        if block.is_empty() {
            return Ok(None);
        }
        if self.header.is_empty() {
            return Ok(Some(block));
        }
        Ok(Some([self.header.as_slice(), &block].concat()))
    }

    fn cut(&mut self, records: Option<u64>) -> io::Result<Vec<u8>> {
        let mut left = records;
        let mut from = 0;
        loop {
            let cut = match &mut left {
                Some(left) => {
                    let mut cut = None;
                    while let Some(at) = self.first_cut(from) {
                        from = at;
                        *left -= 1;
                        if *left == 0 {
                            cut = Some(at);
                            break;
                        }
                    }
                    cut
                }
                None if self.ended && self.held.len() <= self.block => Some(self.held.len()),
                None if self.held.len() < self.block => None,
                None => {
                    let fitting = match from {
                        0 => self.last_cut(self.block),
                        _ => None,
                    };
                    // A record is longer than a block: its own end will do.
                    let cut = fitting.or_else(|| self.first_cut(from));
                    from = self.held.len().saturating_sub(self.mark.len()).max(1);
                    cut
                }
            };
            if let Some(at) = cut {
                let rest = self.held.split_off(at);
                return Ok(std::mem::replace(&mut self.held, rest));
            }
            if self.ended {
                return Ok(std::mem::take(&mut self.held));
            }
            if self.held.len() > BLOCK_BYTES_MAX {
                let what = format!("a block is longer than {BLOCK_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let room = self.block.saturating_sub(self.held.len());
        let chunk = room.clamp(CHUNK_BYTES, BLOCK_BYTES_MAX) as u64;
        let count = self
            .reader
            .by_ref()
            .take(chunk)
            .read_to_end(&mut self.held)?;
        self.ended = count == 0;
        Ok(())
    }

    /// The first place after `from` where the stream may be cut.
    fn first_cut(&self, from: usize) -> Option<usize> {
        if self.mark.is_empty() {
            return (from < self.held.len()).then_some(from + 1);
        }
        let start = (from + 1).saturating_sub(self.before);
        let found = find(self.held.get(start..)?, &self.mark)?;
        let cut = start + found + self.before;
        (cut > from).then_some(cut)
    }

    /// The last place up to `within` where the stream may be cut.
    fn last_cut(&self, within: usize) -> Option<usize> {
        if self.mark.is_empty() {
            return (within > 0).then_some(within);
        }
        // What begins the next record may stand beyond the size.
        let end = (within + self.mark.len() - self.before).min(self.held.len());
        let at = find_last(&self.held[..end], &self.mark)?;
        let cut = at + self.before;
        (cut > 0).then_some(cut)
    }
}

fn find(text: &[u8], mark: &[u8]) -> Option<usize> {
    match mark {
        [byte] => text.iter().position(|other| other == byte),
        _ => text.windows(mark.len()).position(|window| window == mark),
    }
}

fn find_last(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).rposition(|window| window == mark)
}

/// Hands blocks over, one when asked.
pub(super) fn thread(
    mut cutter: Cutter,
    found: impl Fn(Read) -> bool + Send + 'static,
) -> Thread<Arc<File>> {
    Thread::start(move |asked| {
        let result = hand_over(&mut cutter, asked, &found);
        found(Read::End(result));
    })
}

fn hand_over(
    cutter: &mut Cutter,
    asked: &Receiver<()>,
    found: impl Fn(Read) -> bool,
) -> io::Result<()> {
    while asked.recv().is_ok() {
        let Some(block) = cutter.next()? else {
            return Ok(());
        };
        let file = kept(&block).map_err(|error| {
            let folder = std::env::temp_dir();
            let why = format!("a block cannot be kept in {}: {error}", folder.display());
            io::Error::new(error.kind(), why)
        })?;
        if !found(Read::Block(Arc::new(file))) {
            return Ok(());
        }
    }
    Ok(())
}

/// A file that holds a block, at its start.
fn kept(block: &[u8]) -> io::Result<File> {
    let mut file = nameless_file()?;
    file.write_all(block)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str, made: impl Fn(Cutter) -> Cutter, marks: [&str; 2]) -> Vec<String> {
        let reader = io::Cursor::new(text.to_owned());
        let mut cutter = made(Cutter::new(
            reader,
            marks[0].as_bytes(),
            marks[1].as_bytes(),
        ));
        let mut all = Vec::new();
        while let Some(block) = cutter.next().unwrap() {
            all.push(String::from_utf8(block).unwrap());
        }
        all
    }

    /// TASK-12: blocks hold whole records.
    #[test]
    fn blocks_hold_whole_records() {
        let lines = ["\n", ""];
        assert_eq!(
            blocks("1\n2\n3\n4\n5\n", |cutter| cutter.block(5), lines),
            ["1\n2\n", "3\n4\n", "5\n"]
        );
        assert_eq!(
            blocks("long line\nx\n", |cutter| cutter.block(3), lines),
            ["long line\n", "x\n"]
        );
        assert_eq!(blocks("abc", |cutter| cutter.block(1), lines), ["abc"]);
        assert_eq!(
            blocks("1\n2\n3", |cutter| cutter.records(Some(2)), lines),
            ["1\n2\n", "3"]
        );
        assert!(blocks("", |cutter| cutter, lines).is_empty());
    }

    #[test]
    fn records_may_begin_with_a_mark() {
        let text = ">a\n1\n>b\n2\n>c\n";
        let one = |cutter: Cutter| cutter.records(Some(1));
        for marks in [["", ">"], ["\n", ">"]] {
            assert_eq!(blocks(text, one, marks), [">a\n1\n", ">b\n2\n", ">c\n"]);
            assert_eq!(
                blocks(text, |cutter| cutter.block(6), marks),
                [">a\n1\n", ">b\n2\n", ">c\n"]
            );
        }
        assert_eq!(blocks("aXbX", one, ["X", ""]), ["aX", "bX"]);
        assert_eq!(
            blocks("abcde", |cutter| cutter.block(2), ["", ""]),
            ["ab", "cd", "e"]
        );
    }

    #[test]
    fn a_header_is_in_every_block() {
        assert_eq!(
            blocks(
                "h\n1\n2\n",
                |cutter| cutter.records(Some(1)).header(1),
                ["\n", ""]
            ),
            ["h\n1\n", "h\n2\n"]
        );
    }
}
