//! What an error of SQLite means.

use crate::embedded::rows::Fault;
use rusqlite::ffi::{SQLITE_IOERR_SHMSIZE, SQLITE_NOTADB};
use rusqlite::{Error, ErrorCode};

/// Tells a full disk and a damaged file from a disk that fails.
pub(super) fn fault(error: &Error) -> Fault {
    let text = error.to_string();
    match error {
        // Growing the index of the log is the one write whose lack of space is told as an error of the disk.
        Error::SqliteFailure(code, _) if code.extended_code == SQLITE_IOERR_SHMSIZE => {
            Fault::NoSpace(text)
        }
        Error::SqliteFailure(code, _) => match code.code {
            ErrorCode::DiskFull => Fault::NoSpace(text),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => damaged(text),
            _ if code.extended_code == SQLITE_NOTADB => damaged(text),
            _ => Fault::Failed(text),
        },
        // A value of another type than the column was written with.
        Error::InvalidColumnType(..)
        | Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::Utf8Error(..) => damaged(text),
        _ => Fault::Failed(text),
    }
}

fn damaged(what: String) -> Fault {
    Fault::Damaged { id: None, what }
}
