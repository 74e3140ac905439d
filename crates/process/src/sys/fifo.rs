//! System calls about fifos: making them, how much lies in them, and who touched them.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{check, read};

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Makes a fifo that only this user may open.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: the string is NUL-terminated and outlives the call.
    check(unsafe { libc::mkfifo(path.as_ptr(), 0o600) })?;
    Ok(())
}

/// Bytes that lie in a pipe or fifo.
pub(crate) fn unread(fifo: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one `int`, which outlives the call.
    check(unsafe { libc::ioctl(fifo.as_raw_fd(), libc::FIONREAD, &mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Tells which files were read or written.
pub(crate) struct Touches(OwnedFd);

impl Touches {
    pub(crate) fn new() -> io::Result<Touches> {
        // SAFETY: no pointers; the descriptor is new and ours.
        unsafe {
            let fd = check(libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK))?;
            Ok(Touches(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Watches a file, as long as it is there or open anywhere; answers its number.
    pub(crate) fn add(&self, path: &Path) -> io::Result<i32> {
        let path = text(path)?;
        // SAFETY: the string is NUL-terminated and outlives the call.
        check(unsafe {
            libc::inotify_add_watch(
                self.0.as_raw_fd(),
                path.as_ptr(),
                libc::IN_ACCESS | libc::IN_MODIFY,
            )
        })
    }

    /// Adds the numbers of files that were touched since; true if there may have been more than the kernel remembers.
    pub(crate) fn take(&self, files: &mut Vec<i32>) -> bool {
        const HEADER: usize = size_of::<libc::inotify_event>();
        let mut buffer = [0_u8; 4096];
        let mut lost = false;
        while let Ok(length) = read(self.0.as_fd(), &mut buffer) {
            let mut rest = &buffer[..length];
            while let Some((header, behind)) = rest.split_at_checked(HEADER) {
                let mut event = MaybeUninit::<libc::inotify_event>::uninit();
                // SAFETY: `header` has the size of the event, whose bytes are all plain numbers; the places do not overlap.
                let event = unsafe {
                    std::ptr::copy_nonoverlapping(
                        header.as_ptr(),
                        event.as_mut_ptr().cast::<u8>(),
                        HEADER,
                    );
                    event.assume_init()
                };
                lost |= event.mask & libc::IN_Q_OVERFLOW != 0;
                files.push(event.wd);
                rest = behind.get(event.len as usize..).unwrap_or_default();
            }
            if length == 0 {
                break;
            }
        }
        lost
    }
}

impl AsFd for Touches {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
