//! Where a value came from.

use std::fmt;
use std::sync::Arc;

/// Where a value came from. Prints as `default`, `flyball.yaml:12:3`, `FLYBALL_SERVER_LISTEN`, `--listen`, `api` or `program`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The schema.
    Default,
    /// The configuration file.
    File {
        /// The path as it was given.
        file: Arc<str>,
        /// The line, from 1; 0 for the file as a whole.
        line: u32,
        /// The column in characters, from 1; 0 for the file as a whole.
        column: u32,
    },
    /// An environment variable.
    Environment(Arc<str>),
    /// A flag of the command line.
    Flag(Arc<str>),
    /// A change at run time.
    Api,
    /// A program that filled in [`Config`](super::Config) by itself.
    Program,
}

impl Origin {
    /// A place to sort by: layer, line, column.
    pub(super) fn order(&self) -> (u8, u32, u32) {
        match self {
            Self::Default => (0, 0, 0),
            Self::Program => (1, 0, 0),
            Self::File { line, column, .. } => (2, *line, *column),
            Self::Environment(_) => (3, 0, 0),
            Self::Flag(_) => (4, 0, 0),
            Self::Api => (5, 0, 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line: 0, .. } => f.write_str(file),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
            Self::Api => f.write_str("api"),
            Self::Program => f.write_str("program"),
        }
    }
}

impl serde::Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
