//! The fifos of one command.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Style;
use super::share::View;
use crate::sys::fifo::{self, Touches};

/// A token, as GNU make writes it.
const TOKEN: u8 = b'+';

/// The way of tokens to and from one command.
pub(super) struct Lane {
    pub(super) used: bool,
    /// Tokens that were put in and not taken back.
    pub(super) placed: u32,
    /// Tokens that lie there, as of the last look.
    pub(super) ready: u32,
    changed: u64,
    /// Of the command that has it, and what commands of that group may have at most.
    group: usize,
    most: u32,
    path: PathBuf,
    /// By which tokens go out, and in the style of fifos come back.
    out: File,
    /// By which they come back in the style of descriptors, and where that fifo is.
    back: Option<(PathBuf, File)>,
}

impl Lane {
    /// Makes a lane that nobody uses.
    pub(super) fn make(
        folder: &Path,
        number: usize,
        style: Style,
        touches: &Touches,
    ) -> io::Result<Lane> {
        let make = |name: String| {
            let path = folder.join(name);
            match fifo::make(&path) {
                // Of an earlier attempt that failed half-way.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => made?,
            }
            touches.add(&path)?;
            // Both ends, so that nobody's open waits and no read meets the end.
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)?;
            io::Result::Ok((path, file))
        };
        let (path, out) = make(number.to_string())?;
        let back = match style {
            Style::Fifo => None,
            Style::Pipe => Some(make(format!("{number}-back"))?),
        };
        Ok(Lane {
            used: false,
            placed: 0,
            ready: 0,
            changed: 0,
            group: 0,
            most: u32::MAX,
            path,
            out,
            back,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// New descriptors for a command in the style of descriptors: one to read, one to write. They block, as clients expect.
    pub(super) fn ends(&self) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        let Some((back, _)) = &self.back else {
            return Ok(None);
        };
        let read = File::open(&self.path)?;
        let write = OpenOptions::new().write(true).open(back)?;
        Ok(Some((read.into(), write.into())))
    }

    pub(super) fn view(&self) -> View {
        View {
            used: self.used,
            placed: self.placed,
            ready: self.ready,
            changed: self.changed,
            group: self.group,
            most: self.most,
        }
    }

    /// What commands of a group may have at most.
    pub(super) fn bound(&mut self, group: usize, most: u32) {
        if self.group == group {
            self.most = most;
        }
    }

    /// Tokens that its command holds.
    pub(super) fn held(&self) -> u32 {
        self.placed.saturating_sub(self.ready)
    }

    /// A command of a group gets it.
    pub(super) fn begin(&mut self, group: usize, now: u64) {
        self.used = true;
        self.group = group;
        self.changed = now;
    }

    /// Its command's tree has ended: what it held is the pool's again, and nothing is left for the next one.
    pub(super) fn end(&mut self) {
        self.used = false;
        drain(&self.out);
        if let Some((_, back)) = &self.back {
            drain(back);
        }
        self.placed = 0;
        self.ready = 0;
    }

    /// Counts what lies there; true if the command took or returned a token since the last look.
    pub(super) fn look(&mut self) -> bool {
        if !self.used {
            return false;
        }
        let before = (self.placed, self.ready);
        if let Some((_, back)) = &self.back {
            // Before what lies in the other one is counted: who takes and returns one in between is seen the next time, for it is told of.
            self.placed = self.placed.saturating_sub(drain(back));
        }
        let lying = fifo::unread(self.out.as_fd()).unwrap_or(0);
        let lying = u32::try_from(lying).unwrap_or(u32::MAX);
        // More than were put in are nobody's.
        for _ in self.placed..lying {
            let _ = take_one(&self.out);
        }
        self.ready = lying.min(self.placed);
        before != (self.placed, self.ready)
    }

    /// Puts a token in.
    pub(super) fn put(&mut self, now: u64) {
        if (&self.out).write_all(&[TOKEN]).is_ok() {
            self.placed += 1;
            self.ready += 1;
        }
        self.changed = now;
    }

    /// Takes a token back that lies there, if its command did not come first.
    pub(super) fn take(&mut self, now: u64) {
        if take_one(&self.out) {
            self.placed = self.placed.saturating_sub(1);
        }
        self.ready = self.ready.saturating_sub(1);
        self.changed = now;
    }
}

fn take_one(mut fifo: &File) -> bool {
    matches!(fifo.read(&mut [0]), Ok(1))
}

/// Reads all that lies in a fifo; answers how much.
fn drain(mut fifo: &File) -> u32 {
    let mut count = 0_u32;
    let mut buffer = [0; 256];
    while let Ok(read @ 1..) = fifo.read(&mut buffer) {
        count = count.saturating_add(read as u32);
        if read < buffer.len() {
            break;
        }
    }
    count
}
