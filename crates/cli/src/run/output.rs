//! Outputs of commands, whole and in order.
//!
//! What a command wrote is printed when it has ended, so lines of two commands never mix. With `--keep-order` it waits for those
//! before it: a little in memory, beyond [`HELD_BYTES_MAX`] in one file without a name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use flyball_process::Output;

/// Most bytes of outputs that wait for their turn in memory.
const HELD_BYTES_MAX: u64 = 16 << 20;

/// Standard output and error of this program, unbuffered: a write is a command's output.
pub(crate) struct Streams {
    out: File,
    err: File,
}

impl Streams {
    pub(crate) fn new() -> io::Result<Streams> {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
        Ok(Streams {
            out: copy(io::stdout().as_fd())?,
            err: copy(io::stderr().as_fd())?,
        })
    }

    /// Standard output (0) or error (1).
    pub(crate) fn of(&mut self, which: usize) -> &mut File {
        if which == 0 {
            &mut self.out
        } else {
            &mut self.err
        }
    }

    fn print(&mut self, held: &Held, spool: Option<&File>) -> io::Result<()> {
        for (part, to) in [(&held.stdout, &mut self.out), (&held.stderr, &mut self.err)] {
            match (part, spool) {
                (Part::Nothing, _) => {}
                (Part::Output(output), _) => copy(output.reader(), &held.tag, to)?,
                (Part::Spooled { at, length }, Some(spool)) => {
                    copy(
                        Section {
                            file: spool,
                            at: *at,
                            end: at + length,
                        },
                        &held.tag,
                        to,
                    )?;
                }
                (Part::Spooled { .. }, None) => {}
            }
        }
        Ok(())
    }
}

fn copy(mut from: impl Read, tag: &[u8], to: &mut File) -> io::Result<()> {
    if tag.is_empty() {
        return io::copy(&mut from, to).map(drop);
    }
    // A line may be of any length: the tag goes before its first bytes, the rest follows as it comes.
    let mut from = BufReader::new(from);
    let mut to = io::BufWriter::new(to);
    let mut at_start = true;
    loop {
        let chunk = from.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        for line in chunk.split_inclusive(|byte| *byte == b'\n') {
            if at_start {
                to.write_all(tag)?;
            }
            to.write_all(line)?;
            at_start = line.ends_with(b"\n");
        }
        let count = chunk.len();
        from.consume(count);
    }
    if !at_start {
        to.write_all(b"\n")?;
    }
    to.flush()
}

struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = (self.end - self.at).min(buffer.len() as u64) as usize;
        let count = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

enum Part {
    Nothing,
    Output(Output),
    Spooled { at: u64, length: u64 },
}

impl Part {
    fn new(output: Option<Output>) -> Part {
        output
            .filter(|output| output.kept() > 0)
            .map_or(Part::Nothing, Part::Output)
    }
}

/// The outputs of one command.
pub(crate) struct Held {
    tag: Vec<u8>,
    stdout: Part,
    stderr: Part,
}

impl Held {
    /// Nothing.
    pub(crate) fn nothing() -> Held {
        Held::new(Vec::new(), None, None)
    }

    pub(crate) fn new(tag: Vec<u8>, stdout: Option<Output>, stderr: Option<Output>) -> Held {
        Held {
            tag,
            stdout: Part::new(stdout),
            stderr: Part::new(stderr),
        }
    }

    /// Whether printing it would write anything.
    pub(crate) fn is_empty(&self) -> bool {
        matches!((&self.stdout, &self.stderr), (Part::Nothing, Part::Nothing))
    }
}

/// Prints outputs, in the order of their numbers if asked.
pub(crate) struct Printer {
    streams: Streams,
    keep_order: bool,
    next: u64,
    waiting: BTreeMap<u64, Held>,
    held_bytes: u64,
    spool: Option<File>,
    spooled: u64,
}

impl Printer {
    /// Numbers start at 1.
    pub(crate) fn new(keep_order: bool) -> io::Result<Printer> {
        Ok(Printer {
            streams: Streams::new()?,
            keep_order,
            next: 1,
            waiting: BTreeMap::new(),
            held_bytes: 0,
            spool: None,
            spooled: 0,
        })
    }

    /// Outputs that wait for others.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the outputs of a command and prints what may be printed.
    ///
    /// # Errors
    /// Of writing; `BrokenPipe` when nobody reads any more.
    pub(crate) fn take(&mut self, number: u64, held: Held) -> io::Result<()> {
        if !self.keep_order {
            return self.streams.print(&held, None);
        }
        if number != self.next {
            let held = self.hold(held)?;
            self.waiting.insert(number, held);
            return Ok(());
        }
        self.streams.print(&held, self.spool.as_ref())?;
        self.next += 1;
        while let Some(held) = self.waiting.remove(&self.next) {
            self.release(&held);
            self.streams.print(&held, self.spool.as_ref())?;
            self.next += 1;
        }
        if self.waiting.is_empty() && self.spooled > 0 {
            self.spool = None;
            self.spooled = 0;
        }
        Ok(())
    }

    /// Prints what still waits, past the gaps that commands which never ended have left.
    ///
    /// # Errors
    /// Of writing.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        for held in std::mem::take(&mut self.waiting).into_values() {
            self.streams.print(&held, self.spool.as_ref())?;
        }
        Ok(())
    }

    fn hold(&mut self, mut held: Held) -> io::Result<Held> {
        for part in [&mut held.stdout, &mut held.stderr] {
            let Part::Output(output) = part else { continue };
            // A file each would use up the descriptors.
            if output.in_memory() && self.held_bytes + output.kept() <= HELD_BYTES_MAX {
                self.held_bytes += output.kept();
                continue;
            }
            let mut spool = match self.spool.take() {
                Some(spool) => spool,
                None => nameless_file()?,
            };
            let at = self.spooled;
            let length = output.copy_to(&mut spool);
            self.spool = Some(spool);
            let length = length?;
            self.spooled += length;
            *part = Part::Spooled { at, length };
        }
        Ok(held)
    }

    fn release(&mut self, held: &Held) {
        for part in [&held.stdout, &held.stderr] {
            if let Part::Output(output) = part {
                self.held_bytes -= output.kept();
            }
        }
    }
}

/// A file in the temporary folder that goes when it is closed.
pub(crate) fn nameless_file() -> io::Result<File> {
    let folder = std::env::temp_dir();
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(&folder)
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "no file can be made in the temporary folder {}: {error}",
                    folder.display()
                ),
            )
        })
}
