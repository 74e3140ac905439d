//! What a configuration is read from, and reading the file.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::schema::ENVIRONMENT_PREFIX;
use super::tree::MAX_FILE;

/// What a configuration is read from.
#[derive(Clone, Default)]
pub struct Sources {
    pub(super) file: FileSource,
    /// Name and value, those of ours only, sorted.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// Flag, key and value.
    pub(super) flags: Vec<(String, String, String)>,
}

/// Tells where values come from, and no value: each may be a secret.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = match &self.file {
            FileSource::None => None,
            FileSource::File { path, .. } => Some(path.as_path()),
            FileSource::Text { name, .. } => Some(Path::new(name)),
        };
        let variables: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        let flags: Vec<_> = self
            .flags
            .iter()
            .map(|(flag, key, _)| (flag, key))
            .collect();
        f.debug_struct("Sources")
            .field("file", &file)
            .field("environment", &variables)
            .field("flags", &flags)
            .finish()
    }
}

/// The file, or what stands for it.
#[derive(Clone, Default)]
pub(super) enum FileSource {
    #[default]
    None,
    File {
        path: PathBuf,
        optional: bool,
    },
    Text {
        name: String,
        bytes: Vec<u8>,
    },
}

impl Sources {
    /// No source: everything at its default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this file, which must exist.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = FileSource::File {
            path: path.into(),
            optional: false,
        };
        self
    }

    /// Reads this file if it exists.
    #[must_use]
    pub fn with_file_if_present(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = FileSource::File {
            path: path.into(),
            optional: true,
        };
        self
    }

    /// Reads these bytes as if they were the file of this name.
    #[must_use]
    pub fn with_text(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.file = FileSource::Text {
            name: name.into(),
            bytes: bytes.into(),
        };
        self
    }

    /// Takes the variables among these that begin with `FLYBALL_`, such as all of `std::env::vars_os()`. An empty one counts as not
    /// set.
    #[must_use]
    pub fn with_environment(
        mut self,
        variables: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Self {
        let prefix = ENVIRONMENT_PREFIX.as_bytes();
        self.environment = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .filter(|(name, _)| name.as_encoded_bytes().starts_with(prefix))
            .collect();
        self.environment.sort();
        self
    }

    /// Adds a flag of the command line (`--listen`) that sets a key (`server.listen`).
    #[must_use]
    pub fn with_flag(
        mut self,
        flag: impl Into<String>,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        self.flags.push((flag.into(), key.into(), value.into()));
        self
    }
}

/// Why a file gives no bytes.
pub(super) enum Unreadable {
    Absent,
    Because(String),
}

impl From<std::io::Error> for Unreadable {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Unreadable::Absent,
            _ => Unreadable::Because(format!("cannot be read: {error}")),
        }
    }
}

/// Reads a file up to one byte over the bound. Only files: opening a FIFO could wait for ever, and a device never ends.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, Unreadable> {
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "a folder"
        } else {
            "a device, FIFO or socket"
        };
        return Err(Unreadable::Because(format!("is {what}, expected a file")));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
