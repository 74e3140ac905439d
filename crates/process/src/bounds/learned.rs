//! Peaks of earlier runs, kept in the user's cache: one small file a command, named by a hash of it.
//!
//! The hash and not the command, because commands hold what nobody wants to find in a cache. A file that is damaged, or of a later
//! version, is the same as none: what is lost is learned again.
//!
//! Invariants: a file is replaced whole or not at all; there are at most [`FILES_MAX`], and the one unused for longest goes first.

use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use flyball_policy::budget::Peaks;

/// Most commands that are remembered.
pub const FILES_MAX: usize = 512;

/// Largest file that is read, bytes: all buckets have some 10 KiB.
const FILE_BYTES_MAX: u64 = 32 * 1024;

const HEADER: &str = "flyball peaks 1";

const EXTENSION: &str = "peaks";

/// Where the peaks of one command are kept.
#[derive(Clone, Debug)]
pub struct Learned {
    folder: PathBuf,
    path: PathBuf,
}

/// The folder for this user: `flyball/peaks` in `$XDG_CACHE_HOME`, or in `.cache` at home. `None` where neither is known.
#[must_use]
pub fn user_folder() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .map(|cache| cache.join("flyball/peaks"))
}

impl Learned {
    /// Of the command with these words, in a folder.
    pub fn of<S: AsRef<std::ffi::OsStr>>(
        folder: &Path,
        words: impl IntoIterator<Item = S>,
    ) -> Learned {
        // FNV-1a, 64 bits; each word ends with a NUL, which it cannot hold.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for word in words {
            for byte in word.as_ref().as_bytes().iter().chain(&[0]) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        Learned {
            folder: folder.to_owned(),
            path: folder.join(format!("{hash:016x}.{EXTENSION}")),
        }
    }

    /// What is known; nothing where there is no file, or one that does not read as such.
    #[must_use]
    pub fn load(&self) -> Peaks {
        let mut text = String::new();
        fs::File::open(&self.path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
            .ok()
            .and_then(|_| parse(&text))
            .unwrap_or_default()
    }

    /// Keeps what is known now.
    ///
    /// # Errors
    /// From the system; what was kept before is unharmed then.
    pub fn save(&self, peaks: &Peaks) -> io::Result<()> {
        let mut text = format!("{HEADER}\nseen {}\n", peaks.seen());
        for (bucket, weight) in peaks.buckets() {
            text += &format!("{bucket} {weight}\n");
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        self.make_room()?;
        let new = self
            .path
            .with_extension(format!("new-{}", std::process::id()));
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// Removes what was unused for longest, so that one more file is within the bound.
    fn make_room(&self) -> io::Result<()> {
        let mut all: Vec<_> = fs::read_dir(&self.folder)?
            .flatten()
            .filter(|entry| entry.path() != self.path)
            .map(|entry| {
                (
                    entry.metadata().and_then(|it| it.modified()).ok(),
                    entry.path(),
                )
            })
            .collect();
        if all.len() >= FILES_MAX {
            all.sort();
            for (_, path) in &all[..all.len() + 1 - FILES_MAX] {
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }
}

fn parse(text: &str) -> Option<Peaks> {
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let seen = lines.next()?.strip_prefix("seen ")?.parse().ok()?;
    let buckets = lines
        .map(|line| {
            let (bucket, weight) = line.split_once(' ')?;
            Some((bucket.parse().ok()?, weight.parse().ok()?))
        })
        .collect::<Option<Vec<(u16, f64)>>>()?;
    Peaks::from_buckets(seen, buckets)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("flyball-learned-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn peaks() -> Peaks {
        let mut peaks = Peaks::new();
        (1..50).for_each(|number| peaks.add(number << 20));
        peaks
    }

    /// TASK-12: what was learned is there in the next run, of this command and no other.
    #[test]
    fn peaks_are_kept_by_command() {
        let folder = Folder::new("kept");
        let learned = Learned::of(&folder.0, ["gzip", "{}"]);
        assert_eq!(learned.load(), Peaks::new());
        learned.save(&peaks()).unwrap();
        assert_eq!(learned.load(), peaks());
        assert_eq!(Learned::of(&folder.0, ["gzip", "{}"]).load(), peaks());
        assert_eq!(Learned::of(&folder.0, ["gzip{}"]).load(), Peaks::new());
    }

    /// TASK-12: a damaged file is none, whatever it holds.
    #[test]
    fn damaged_files_are_none() {
        let folder = Folder::new("damaged");
        let learned = Learned::of(&folder.0, ["x"]);
        learned.save(&peaks()).unwrap();
        let good = fs::read(&learned.path).unwrap();
        for cut in 0..good.len() {
            fs::write(&learned.path, &good[..cut]).unwrap();
            let _ = learned.load();
        }
        for wrong in [
            "",
            "flyball peaks 2\nseen 1\n3 1\n",
            "flyball peaks 1\nseen -1\n",
            "flyball peaks 1\nseen 9\n70000 1\n",
            "flyball peaks 1\nseen 9\n7 NaN\n",
            "flyball peaks 1\nseen 9\n7 inf\n",
            "flyball peaks 1\nseen 9\n7 1\n7 1\n",
        ] {
            fs::write(&learned.path, wrong).unwrap();
            assert_eq!(learned.load(), Peaks::new(), "{wrong:?}");
        }
        fs::write(&learned.path, [0xff; 100]).unwrap();
        assert_eq!(learned.load(), Peaks::new());
        fs::remove_file(&learned.path).unwrap();
        fs::create_dir(&learned.path).unwrap();
        assert_eq!(learned.load(), Peaks::new());
        assert!(learned.save(&peaks()).is_err());
    }

    /// TASK-12: the cache is bounded.
    #[test]
    fn the_oldest_goes() {
        let folder = Folder::new("bounded");
        for number in 0..FILES_MAX + 20 {
            Learned::of(&folder.0, [number.to_string()])
                .save(&peaks())
                .unwrap();
        }
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), FILES_MAX);
        assert_eq!(
            Learned::of(&folder.0, [(FILES_MAX + 19).to_string()]).load(),
            peaks()
        );
    }
}
