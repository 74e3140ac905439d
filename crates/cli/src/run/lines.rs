//! Output by lines (`--line-buffer`): a thread reads the pipes of all commands and prints each line when it is whole.
//!
//! Invariants: a line is printed in one piece, its tag before it, unless it is longer than [`LINE_BYTES_MAX`]; a command's output
//! has been printed when its [`Drained`] is told; a reader that went away does not block the commands.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use super::output::Streams;
use super::progress;
use crate::signals;

/// A longer line is printed in pieces.
const LINE_BYTES_MAX: usize = 1 << 20;

const CHUNK_BYTES: usize = 64 * 1024;

/// What the thread tells.
pub(crate) enum Told {
    /// All output of a command has been printed.
    Drained(Drained),
    /// Standard output or error takes no more.
    Unprintable(io::Error),
}

/// What a command wrote.
pub(crate) struct Drained {
    pub(crate) number: u64,
    pub(crate) stdout_bytes: u64,
    /// Why its copy is not whole.
    pub(crate) lost: Option<io::Error>,
}

enum Order {
    Watch {
        number: u64,
        tag: Vec<u8>,
        pipes: [PipeReader; 2],
        copies: [Option<File>; 2],
    },
    /// The command has ended: what is in its pipes is all.
    End(u64),
}

/// The thread.
pub(crate) struct Lines {
    orders: Option<Sender<Order>>,
    wake: PipeWriter,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    /// Starts it. `shown`: whether progress has to be cleared before a line is printed.
    ///
    /// # Errors
    /// What the system refused.
    pub(crate) fn start(
        shown: Arc<AtomicBool>,
        tell: impl Fn(Told) + Send + 'static,
    ) -> io::Result<Lines> {
        let (orders, inbox) = channel();
        let (woken, wake) = io::pipe()?;
        let printer = Printer {
            streams: Streams::new()?,
            shown,
            closed: false,
        };
        let watcher = Watcher {
            inbox,
            woken,
            commands: HashMap::new(),
            printer,
        };
        let thread = std::thread::Builder::new()
            .name("flyball-lines".to_owned())
            .spawn(move || watcher.run(&tell))?;
        Ok(Lines {
            orders: Some(orders),
            wake,
            thread: Some(thread),
        })
    }

    /// Descriptors for the output and error of a command.
    ///
    /// # Errors
    /// Of making pipes.
    pub(crate) fn watch(
        &mut self,
        number: u64,
        tag: Vec<u8>,
        copies: [Option<File>; 2],
    ) -> io::Result<[OwnedFd; 2]> {
        let (stdout, to_stdout) = io::pipe()?;
        let (stderr, to_stderr) = io::pipe()?;
        self.order(Order::Watch {
            number,
            tag,
            pipes: [stdout, stderr],
            copies,
        });
        Ok([to_stdout.into(), to_stderr.into()])
    }

    /// Says that a command has ended.
    pub(crate) fn end(&mut self, number: u64) {
        self.order(Order::End(number));
    }

    fn order(&mut self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
        let _ = self.wake.write_all(b"x");
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.wake.write_all(b"x");
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Stream {
    pipe: Option<PipeReader>,
    /// What is not a whole line yet.
    rest: Vec<u8>,
    at_start: bool,
    bytes: u64,
    copy: Option<File>,
    lost: Option<io::Error>,
}

struct Watched {
    tag: Vec<u8>,
    streams: [Stream; 2],
}

struct Printer {
    streams: Streams,
    shown: Arc<AtomicBool>,
    closed: bool,
}

impl Printer {
    fn print(&mut self, which: usize, text: &[u8], tell: &impl Fn(Told)) {
        if self.closed || text.is_empty() {
            return;
        }
        // Progress is drawn under the same lock.
        let mut err = io::stderr().lock();
        if self.shown.swap(false, Ordering::Relaxed) {
            let _ = err.write_all(progress::CLEAR.as_bytes());
        }
        if let Err(error) = self.streams.of(which).write_all(text) {
            self.closed = true;
            tell(Told::Unprintable(error));
        }
    }
}

struct Watcher {
    inbox: Receiver<Order>,
    woken: PipeReader,
    commands: HashMap<u64, Watched>,
    printer: Printer,
}

impl Watcher {
    fn run(mut self, tell: &impl Fn(Told)) {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let mut watched = vec![self.woken.as_raw_fd()];
            let mut whose = vec![(0, 0)];
            for (number, command) in &self.commands {
                for (which, stream) in command.streams.iter().enumerate() {
                    if let Some(pipe) = &stream.pipe {
                        watched.push(pipe.as_raw_fd());
                        whose.push((*number, which));
                    }
                }
            }
            let ready = signals::readable(&watched, None);
            for (&(number, which), _) in whose
                .iter()
                .zip(&ready)
                .skip(1)
                .filter(|(_, ready)| **ready)
            {
                if let Some(command) = self.commands.get_mut(&number) {
                    command.pump(which, &mut chunk, &mut self.printer, tell);
                }
            }
            if ready.first() == Some(&true) {
                let _ = self.woken.read(&mut chunk);
                if !self.orders(&mut chunk, tell) {
                    return;
                }
            }
        }
    }

    /// Does as told; answers whether there may be more.
    fn orders(&mut self, chunk: &mut [u8], tell: &impl Fn(Told)) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Watch {
                    number,
                    tag,
                    pipes,
                    copies,
                }) => {
                    let [stdout, stderr] = pipes;
                    let [to_stdout, to_stderr] = copies;
                    let streams = [
                        Stream::new(stdout, to_stdout),
                        Stream::new(stderr, to_stderr),
                    ];
                    self.commands.insert(number, Watched { tag, streams });
                }
                Ok(Order::End(number)) => {
                    if let Some(mut command) = self.commands.remove(&number) {
                        let drained = command.finish(number, chunk, &mut self.printer, tell);
                        tell(Told::Drained(drained));
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
}

impl Watched {
    /// Takes one chunk of a pipe that has some, or its end.
    fn pump(
        &mut self,
        which: usize,
        chunk: &mut [u8],
        printer: &mut Printer,
        tell: &impl Fn(Told),
    ) {
        let stream = &mut self.streams[which];
        let Some(pipe) = &mut stream.pipe else {
            return;
        };
        match pipe.read(chunk) {
            Ok(count) if count > 0 => {
                let text = stream.lines(&chunk[..count], &self.tag);
                printer.print(which, &text, tell);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => stream.pipe = None,
        }
    }

    fn finish(
        &mut self,
        number: u64,
        chunk: &mut [u8],
        printer: &mut Printer,
        tell: &impl Fn(Told),
    ) -> Drained {
        for which in 0..2 {
            // What holds the other end now is no process of the command; it is not waited for.
            while let Some(pipe) = &self.streams[which].pipe
                && signals::readable(&[pipe.as_fd().as_raw_fd()], Some(0)) == [true]
            {
                self.pump(which, chunk, printer, tell);
            }
            let stream = &mut self.streams[which];
            let text = stream.end(&self.tag);
            printer.print(which, &text, tell);
        }
        Drained {
            number,
            stdout_bytes: self.streams[0].bytes,
            lost: self
                .streams
                .iter_mut()
                .find_map(|stream| stream.lost.take()),
        }
    }
}

impl Stream {
    fn new(pipe: PipeReader, copy: Option<File>) -> Stream {
        Stream {
            pipe: Some(pipe),
            rest: Vec::new(),
            at_start: true,
            bytes: 0,
            copy,
            lost: None,
        }
    }

    /// Takes bytes in and answers what may be printed: whole lines with their tags.
    fn lines(&mut self, bytes: &[u8], tag: &[u8]) -> Vec<u8> {
        self.bytes += bytes.len() as u64;
        if let Some(copy) = &mut self.copy
            && let Err(error) = copy.write_all(bytes)
        {
            self.copy = None;
            self.lost = Some(error);
        }
        self.rest.extend_from_slice(bytes);
        let whole = match self.rest.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if self.rest.len() > LINE_BYTES_MAX => self.rest.len(),
            None => return Vec::new(),
        };
        let rest = self.rest.split_off(whole);
        let whole = std::mem::replace(&mut self.rest, rest);
        self.tagged(whole, tag)
    }

    /// What is left when the output has ended.
    fn end(&mut self, tag: &[u8]) -> Vec<u8> {
        let rest = std::mem::take(&mut self.rest);
        let mut text = self.tagged(rest, tag);
        // A tag on the next line would otherwise stand in the middle of this one.
        if !self.at_start && !tag.is_empty() {
            text.push(b'\n');
        }
        text
    }

    fn tagged(&mut self, text: Vec<u8>, tag: &[u8]) -> Vec<u8> {
        let Some(last) = text.last() else {
            return text;
        };
        let (began, ends) = (self.at_start, *last == b'\n');
        self.at_start = ends;
        if tag.is_empty() {
            return text;
        }
        let mut out = Vec::with_capacity(text.len() + tag.len() * 4);
        for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if index > 0 || began {
                out.extend_from_slice(tag);
            }
            out.extend_from_slice(line);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_printed_when_they_are_whole() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut stream = Stream::new(reader, None);
        assert_eq!(stream.lines(b"a\nb", b"t:"), b"t:a\n");
        assert_eq!(stream.lines(b"c", b"t:"), b"");
        assert_eq!(stream.lines(b"d\n\ne", b"t:"), b"t:bcd\nt:\n");
        assert_eq!(stream.end(b"t:"), b"t:e\n");
        assert_eq!(stream.bytes, 8);
    }

    #[test]
    fn a_line_without_end_has_one_tag() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut stream = Stream::new(reader, None);
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        assert_eq!(stream.lines(&long, b"t:").len(), long.len() + 2);
        assert_eq!(stream.lines(b"y\nz\n", b"t:"), b"y\nt:z\n");
    }
}
