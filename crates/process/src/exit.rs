//! How a command ended and what its tree used.

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::sys;
use crate::wire::{Caught, Report};

/// How the program of a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Ended {
    /// It exited with this code, 0..=255.
    Exited(i32),
    /// A signal ended it.
    Signalled {
        /// Its number.
        signal: i32,
        /// Whether a core was written.
        core: bool,
    },
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exited(code) => write!(f, "exit {code}"),
            Ended::Signalled { signal, .. } => match signal_name(*signal) {
                Some(name) => write!(f, "{name}"),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGUSR2 => "SIGUSR2",
        _ => return None,
    })
}

/// Bytes read and written by a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct IoBytes {
    /// By system calls: files, pipes, terminals, sockets read with read(2); from the page cache too.
    pub read: u64,
    /// By system calls.
    pub written: u64,
    /// Fetched from storage.
    pub storage_read: u64,
    /// Sent (or to be sent) to storage.
    pub storage_written: u64,
}

/// The end of a command: nothing of its tree runs any more, [`survivors`](Exit::survivors) apart.
#[derive(Debug)]
#[non_exhaustive]
pub struct Exit {
    /// How its program (the root of the tree) ended.
    pub ended: Ended,
    /// Its timeout passed and ended it.
    pub timed_out: bool,
    /// It was ended by [`Child::kill`](crate::Child::kill) or its kin.
    pub killed: bool,
    /// From before its process was made until its program ended.
    pub wall: Duration,
    /// Of that, how long it stood paused; paused time does not count for the timeout.
    pub paused: Duration,
    /// CPU time in user mode of all of its tree.
    pub user: Duration,
    /// CPU time in the kernel of all of its tree.
    pub system: Duration,
    /// Most resident memory of the largest process in the tree, in bytes. Not below that of the keeper (some 2 MiB), with which
    /// the kernel starts counting.
    pub peak_memory: u64,
    /// The kernel killed a process of the tree because its control group, or one around it, had no memory left. False where
    /// commands have no group of their own.
    pub out_of_memory: bool,
    /// Context switches because it waited.
    pub voluntary_switches: u64,
    /// Context switches because its time was over.
    pub involuntary_switches: u64,
    /// What the tree read and wrote; `None` where the kernel does not tell.
    pub io: Option<IoBytes>,
    /// Processes that were still there when its program ended, and were ended after it.
    pub leftovers: u32,
    /// Processes that SIGKILL did not end within 5 s: in an uninterruptible wait, or of another user.
    pub survivors: u32,
    /// What was captured of its standard output.
    pub stdout: Option<Output>,
    /// What was captured of its standard error.
    pub stderr: Option<Output>,
}

impl Exit {
    /// Whether it exited with code 0, not by a timeout or a kill.
    #[must_use]
    pub fn success(&self) -> bool {
        self.ended == Ended::Exited(0) && !self.timed_out
    }

    /// CPU time in user mode and in the kernel.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }

    pub(crate) fn from_report(report: Report, fds: Vec<OwnedFd>) -> Exit {
        let mut files = fds.into_iter().map(File::from);
        let [stdout, stderr] = report
            .outputs
            .map(|caught| caught.map(|caught| Output::new(caught, &mut files)));
        Exit {
            ended: match (
                sys::exit_code(report.status),
                sys::end_signal(report.status),
            ) {
                (Some(code), _) => Ended::Exited(code),
                (None, Some((signal, core))) => Ended::Signalled { signal, core },
                (None, None) => Ended::Signalled {
                    signal: libc::SIGKILL,
                    core: false,
                },
            },
            timed_out: report.timed_out,
            killed: report.killed,
            wall: Duration::from_nanos(report.wall_ns),
            paused: Duration::from_nanos(report.paused_ns),
            user: Duration::from_micros(report.user_us),
            system: Duration::from_micros(report.system_us),
            peak_memory: report.peak_rss_kib * 1024,
            out_of_memory: false,
            voluntary_switches: report.voluntary,
            involuntary_switches: report.involuntary,
            io: report
                .io
                .map(|[read, written, storage_read, storage_written]| IoBytes {
                    read,
                    written,
                    storage_read,
                    storage_written,
                }),
            leftovers: report.leftovers,
            survivors: report.survivors,
            stdout,
            stderr,
        }
    }
}

/// An output that was captured, or written to a bounded file.
#[derive(Debug)]
pub struct Output {
    written: u64,
    kept: u64,
    error: Option<io::Error>,
    inline: Vec<u8>,
    file: Option<File>,
}

impl Output {
    fn new(caught: Caught, files: &mut impl Iterator<Item = File>) -> Output {
        Output {
            written: caught.written,
            kept: caught.kept,
            error: (caught.errno != 0).then(|| io::Error::from_raw_os_error(caught.errno as i32)),
            inline: caught.inline,
            file: if caught.spilled { files.next() } else { None },
        }
    }

    /// All bytes that the tree wrote.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that were kept: the first ones.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Bytes beyond the bound, or after a failure to keep more.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.written - self.kept
    }

    /// Why less was kept than the bound allows: a full disk, for instance.
    #[must_use]
    pub fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    /// Whether the kept bytes are held in memory (short output) and not in an unnamed file.
    #[must_use]
    pub fn in_memory(&self) -> bool {
        self.file.is_none()
    }

    /// Reads the kept bytes from their start. Empty where they went to a file of the caller's.
    pub fn reader(&self) -> impl Read + '_ {
        match &self.file {
            Some(file) => Source::File { file, at: 0 },
            None => Source::Memory(Cursor::new(&self.inline)),
        }
    }

    /// Copies the kept bytes to `writer`.
    ///
    /// # Errors
    /// Of the file or of the writer.
    pub fn copy_to(&self, writer: &mut impl Write) -> io::Result<u64> {
        match &self.file {
            None => writer
                .write_all(&self.inline)
                .map(|()| self.inline.len() as u64),
            Some(_) => io::copy(&mut self.reader(), writer),
        }
    }

    /// The kept bytes in memory.
    ///
    /// # Errors
    /// Of the file that holds them.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.copy_to(&mut bytes)?;
        Ok(bytes)
    }
}

enum Source<'a> {
    Memory(Cursor<&'a Vec<u8>>),
    File { file: &'a File, at: u64 },
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Memory(cursor) => cursor.read(buffer),
            Source::File { file, at } => {
                let count = file.read_at(buffer, *at)?;
                *at += count as u64;
                Ok(count)
            }
        }
    }
}
