//! Why a reading is not to be had.

use std::io;

/// Why a reading is not to be had. Small and comparable, so that a file that fails at every sample is reported once and
/// costs no allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The kernel refused, by error number.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Os(i32),
    /// A refusal without a number.
    #[error("cannot be read: {0}")]
    Io(io::ErrorKind),
    /// More than [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES).
    #[error("is larger than {} bytes", crate::MAX_FILE_BYTES)]
    TooLarge,
    /// The content is not what the kernel documents: what is wrong.
    #[error("{0}")]
    Malformed(&'static str),
    /// There is no such thing on this machine.
    #[error("{0}")]
    Absent(&'static str),
}

impl Error {
    /// Whether there is no such file, as opposed to one that cannot be read.
    pub(crate) fn is_missing(self) -> bool {
        self == Error::Os(libc::ENOENT)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => Error::Os(number),
            None => Error::Io(error.kind()),
        }
    }
}
