//! Where the kernel's files are looked for.

use std::path::{Path, PathBuf};

/// The directory that holds `proc` and `sys`: `/` in earnest, a captured tree of another machine in tests, or the place
/// where a container sees its host.
///
/// Mount points, such as those of control groups, are looked for below it, too. What the kernel tells by system calls
/// (the CPU time, faults and context switches of [`Process`](crate::Process)) is always of the calling process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Root(PathBuf);

impl Root {
    /// Takes `path` for `/`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `path`, absolute or relative, below the root.
    pub(crate) fn join(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Default for Root {
    /// `/`.
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}
