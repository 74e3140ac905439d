//! One output of a command, kept up to a bound.
//!
//! The child writes into a pipe; the keeper reads it and keeps the first bytes in memory, then in an unnamed temporary file (or in
//! the caller's file from the start), and past the bound only counts. So a command never blocks on its output, never fills a disk,
//! and the common short output costs no file.
//!
//! Invariant: `written ≥ kept`, and what is kept is a prefix of what was written.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::sys;
use crate::wire::Caught;

/// Output up to this size travels in the report; beyond it, in a file. One pipe holds as much.
pub(crate) const INLINE_BYTES_MAX: usize = 64 * 1024;

const CHUNK_BYTES: usize = 64 * 1024;

/// Reads one pipe.
pub(crate) struct Catcher {
    reader: OwnedFd,
    writer: Option<OwnedFd>,
    limit: u64,
    file: Option<File>,
    spilled: bool,
    caught: Caught,
    ended: bool,
}

impl Catcher {
    /// Makes the pipe. `file` takes the bytes where the caller wants them there.
    pub(crate) fn new(limit: u64, file: Option<OwnedFd>) -> io::Result<Catcher> {
        let (reader, writer) = sys::output_pipe()?;
        Ok(Catcher {
            reader,
            writer: Some(writer),
            limit,
            file: file.map(File::from),
            spilled: false,
            caught: Caught::default(),
            ended: false,
        })
    }

    /// The end that the child gets.
    pub(crate) fn writer(&self) -> RawFd {
        self.writer.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// After the child has its copy.
    pub(crate) fn close_writer(&mut self) {
        self.writer = None;
    }

    /// What to watch; negative when the output has ended.
    pub(crate) fn reader(&self) -> RawFd {
        if self.ended {
            -1
        } else {
            self.reader.as_raw_fd()
        }
    }

    /// Takes one chunk.
    pub(crate) fn pump(&mut self, spill_directory: &Path) {
        let mut chunk = [0; CHUNK_BYTES];
        match sys::retry(|| sys::read(self.reader.as_fd(), &mut chunk)) {
            Ok(0) => self.ended = true,
            Ok(count) => self.keep(&chunk[..count], spill_directory),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended = true,
        }
    }

    fn keep(&mut self, chunk: &[u8], spill_directory: &Path) {
        self.caught.written += chunk.len() as u64;
        let room = self
            .limit
            .saturating_sub(self.caught.kept)
            .min(chunk.len() as u64) as usize;
        if room == 0 || self.caught.errno != 0 {
            return;
        }
        let chunk = &chunk[..room];
        if self.file.is_none() {
            if self.caught.inline.len() + chunk.len() <= INLINE_BYTES_MAX {
                self.caught.inline.extend_from_slice(chunk);
                self.caught.kept += chunk.len() as u64;
                return;
            }
            match temporary_file(spill_directory) {
                Ok(mut file) => {
                    let inline = std::mem::take(&mut self.caught.inline);
                    if let Err(error) = file.write_all(&inline) {
                        self.caught.inline = inline;
                        self.fail(&error);
                        return;
                    }
                    self.file = Some(file);
                    self.spilled = true;
                }
                Err(error) => {
                    self.fail(&error);
                    return;
                }
            }
        }
        let mut left = chunk;
        while let Some(file) = &mut self.file
            && !left.is_empty()
        {
            // A disk that fills up takes a part, which is kept and counted.
            match sys::retry(|| file.write(left)) {
                Ok(0) => return self.fail(&io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.caught.kept += count as u64;
                    left = &left[count..];
                }
                Err(error) => return self.fail(&error),
            }
        }
    }

    /// A full disk ends the keeping, not the command.
    fn fail(&mut self, error: &io::Error) {
        self.caught.errno = error.raw_os_error().unwrap_or(libc::EIO) as u32;
    }

    /// After the tree has ended: what is still in the pipe, then the result and the file that holds it.
    pub(crate) fn finish(mut self, spill_directory: &Path) -> (Caught, Option<OwnedFd>) {
        let mut chunk = [0; CHUNK_BYTES];
        while !self.ended {
            match sys::retry(|| sys::read(self.reader.as_fd(), &mut chunk)) {
                Ok(0) | Err(_) => self.ended = true,
                Ok(count) => self.keep(&chunk[..count], spill_directory),
            }
        }
        self.caught.spilled = self.spilled;
        let file = if self.spilled {
            self.file.map(OwnedFd::from)
        } else {
            None
        };
        (self.caught, file)
    }
}

/// A file without a name, gone when its last descriptor closes.
fn temporary_file(directory: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(directory)
        .or_else(|error| {
            // Filesystems without O_TMPFILE (overlay on old kernels, NFS): a name for a moment.
            if !matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
            ) {
                return Err(error);
            }
            let path = directory.join(format!(
                ".flyball-{}-{}",
                std::process::id(),
                flyball_core::time::process_cpu_nanos()
            ));
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    fn catch(limit: u64, data: &[u8]) -> (Caught, Option<OwnedFd>) {
        let mut catcher = Catcher::new(limit, None).unwrap();
        let directory = std::env::temp_dir();
        let mut writer = File::from(catcher.writer.take().unwrap());
        for chunk in data.chunks(4096) {
            writer.write_all(chunk).unwrap();
            catcher.pump(&directory);
        }
        drop(writer);
        catcher.finish(&directory)
    }

    #[test]
    fn short_output_needs_no_file() {
        let (caught, file) = catch(1 << 20, b"hello");
        assert_eq!(
            (caught.written, caught.kept, caught.inline.as_slice()),
            (5, 5, b"hello".as_slice())
        );
        assert!(file.is_none());
    }

    #[test]
    fn long_output_spills_whole_and_in_order() {
        let data: Vec<u8> = (0..300_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        let (caught, file) = catch(1 << 20, &data);
        assert!(caught.spilled && caught.inline.is_empty());
        let mut file = File::from(file.unwrap());
        file.rewind().unwrap();
        let mut back = Vec::new();
        file.read_to_end(&mut back).unwrap();
        assert_eq!(back, data);
    }

    #[test]
    fn beyond_the_bound_is_counted_and_dropped() {
        let (caught, _) = catch(1000, &[1; 5000]);
        assert_eq!(
            (caught.written, caught.kept, caught.inline.len()),
            (5000, 1000, 1000)
        );
    }
}
