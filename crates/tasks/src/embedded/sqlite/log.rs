//! The write-ahead log, looked at before SQLite reads it.
//!
//! SQLite takes a log up to the first frame whose checksum does not fit and forgets the rest, as a crash leaves just that at its end. A damaged byte in
//! the middle looks the same to it: everything that was acknowledged after it would be gone, and nobody would say so. Here the rest is looked
//! at, too: if whole commits follow the frame that does not fit, that is told, and the log is kept beside the file, for people.
//!
//! A power cut can leave this as well, where the disk wrote later changes before earlier ones; then only what was never acknowledged as durable
//! follows. The two cannot be told apart, so what is found is reported and not repaired: frames put together by guessing could be worse than
//! none.
//!
//! The format is that of <https://www.sqlite.org/fileformat2.html#walformat>.

use super::beside;
use super::writer::PAGE_BYTES;
use crate::embedded::rows::Fault;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// With the lowest bit: checksums read words as big-endian.
const MAGIC: u32 = 0x377f_0682;

/// What follows a place where the log does not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Frames before, which are read.
    pub(super) sound: u64,
    /// Whole commits after, which are not.
    pub(super) commits: u64,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the log does not fit together after frame {}: {} commits behind it are lost; if the power was not cut, the file is damaged",
            self.sound, self.commits
        )
    }
}

/// Looks at the log of a file; if it is broken, keeps it beside as `-wal.damaged`. Before anybody opens the file.
pub(super) fn look(file: &Path) -> Result<Option<Broken>, Fault> {
    let log = beside(file, "-wal");
    let Some(broken) = read(&log)? else {
        return Ok(None);
    };
    let kept = beside(file, "-wal.damaged");
    // A disk without space for it shall not keep the queue from opening.
    if fs::copy(&log, &kept).is_err() {
        let _ = fs::remove_file(&kept);
    }
    Ok(Some(broken))
}

/// Reads a log to its end.
pub(super) fn read(log: &Path) -> Result<Option<Broken>, Fault> {
    let failed =
        |error: io::Error| Fault::Failed(format!("cannot read {}: {error}", log.display()));
    match File::open(log) {
        Ok(file) => scan(BufReader::with_capacity(1 << 20, file)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn scan(mut log: impl Read) -> io::Result<Option<Broken>> {
    let mut header = [0; HEADER];
    if !fill(&mut log, &mut header)? {
        return Ok(None);
    }
    if header == [0; HEADER] {
        // Never written: a crash was faster.
        return Ok(None);
    }
    let stored = (word(&header, 24), word(&header, 28));
    let fits = |big| checksum(big, (0, 0), &header[..24]) == stored;
    let header_fits = word(&header, 0) & !1 == MAGIC && fits(word(&header, 0) & 1 == 1);
    let big = if header_fits {
        word(&header, 0) & 1 == 1
    } else {
        cfg!(target_endian = "big")
    };
    // As it stands there, so that damage in the header does not spoil the first frame.
    let mut sum = stored;
    let mut salts = (word(&header, 16), word(&header, 20));
    let mut sound = 0;
    let mut commits = 0;
    let mut broken = !header_fits;
    let mut frame = [0; FRAME_HEADER + PAGE_BYTES as usize];
    let mut first = true;
    while fill(&mut log, &mut frame)? {
        let own = (word(&frame, 8), word(&frame, 12));
        if broken && first {
            // Damage may be in the header's salts; those of the frames count then.
            salts = own;
        }
        first = false;
        let expected = checksum(big, checksum(big, sum, &frame[..8]), &frame[FRAME_HEADER..]);
        // The chain goes on from what stands in the frame, so that one damaged frame does not spoil those behind.
        sum = (word(&frame, 16), word(&frame, 20));
        let fits = own == salts && sum == expected;
        if fits && !broken {
            sound += 1;
        } else if fits {
            commits += u64::from(word(&frame, 4) != 0);
        } else {
            broken = true;
        }
    }
    Ok((broken && commits > 0).then_some(Broken { sound, commits }))
}

/// Reads so many bytes; false where there are no more.
fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

/// SQLite's checksum of the log, over pairs of words.
fn checksum(big: bool, start: (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let (mut a, mut b) = start;
    for pair in bytes.chunks_exact(8) {
        let (mut x, mut y) = (word(pair, 0), word(pair, 4));
        if !big {
            (x, y) = (x.swap_bytes(), y.swap_bytes());
        }
        a = a.wrapping_add(x).wrapping_add(b);
        b = b.wrapping_add(y).wrapping_add(a);
    }
    (a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyball_core::rng::Rng;
    use rusqlite::Connection;

    /// A log of some commits, and where the last one begins.
    fn log() -> (Vec<u8>, usize) {
        let folder = std::env::temp_dir().join(format!("flyball-log-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t (a);",
            )
            .unwrap();
        let mut last = 0;
        for number in 0..30 {
            last = fs::metadata(folder.join("a.db-wal")).unwrap().len();
            connection
                .execute("INSERT INTO t VALUES (?1)", (vec![number; 3_000],))
                .unwrap();
        }
        let log = fs::read(folder.join("a.db-wal")).unwrap();
        drop(connection);
        fs::remove_dir_all(&folder).unwrap();
        (log, last as usize)
    }

    /// TASK-1: damage anywhere in the log but in its last commit is found; what a crash leaves at its end, and the rest of an older log behind
    /// it, is none.
    #[test]
    fn damage_in_the_middle_is_told_from_an_end() {
        let (sound, last) = log();
        assert_eq!(scan(&sound[..]).unwrap(), None);
        let mut rng = Rng::seeded(7);
        for _ in 0..150 {
            let mut bytes = sound.clone();
            let place = rng.below(last as u64) as usize;
            bytes[place] ^= rng.between(1, 255) as u8;
            let found = scan(&bytes[..]).unwrap();
            assert!(found.is_some(), "at {place}");
        }
        for _ in 0..50 {
            let end = rng.below(sound.len() as u64) as usize;
            assert_eq!(scan(&sound[..end]).unwrap(), None, "cut at {end}");
            let mut torn = sound[..end].to_vec();
            torn.resize(end + 10_000, 0);
            assert_eq!(scan(&torn[..]).unwrap(), None, "torn at {end}");
        }
        // An older log, with other salts, behind the frames of a newer one.
        let frame = 4096 + FRAME_HEADER;
        let mut older = sound.clone();
        for start in (HEADER + 5 * frame..older.len()).step_by(frame) {
            older[start + 8] ^= 1;
        }
        assert_eq!(scan(&older[..]).unwrap(), None);
    }
}
