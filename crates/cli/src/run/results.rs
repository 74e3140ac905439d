//! What `--results` keeps of each command: its outputs, its number and its exit status.
//!
//! `DIR/1/VALUE/2/VALUE/` holds `stdout`, `stderr`, `seq` and `exit`; with names for the inputs they stand in place of the numbers. A
//! DIR with placeholders names a file: `NAME` for standard output, `NAME.err`, `NAME.seq` and `NAME.exit`; with a `/` at its end, a
//! folder. The parts are written under a name that begins with a dot and renamed when all are there, so that what is seen is whole.
//!
//! Values become names: `/` is written `\_`, `\` is `\\`, control characters are `\xHH`, a dot at the start is `\.`, nothing is `\0`.
//! What is longer than a name may be is cut and ends with a hash. A value that came before in the run gets `\=SEQ`.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::template::{Filling, Syntax, Text};

/// Longest name made from a value; filesystems take 255 bytes, and a suffix may follow.
const NAME_BYTES_MAX: usize = 200;

/// The parts of a result, and what they add to the name of a file.
const PARTS: [(&str, &str); 4] = [
    ("stdout", ""),
    ("stderr", ".err"),
    ("seq", ".seq"),
    ("exit", ".exit"),
];

/// Start of the names of folders that are not whole yet; the id of the run's process and a number follow.
const BEGUN: &str = ".flyball-";

enum Naming {
    /// Folders by number or name of the input, and by value.
    Inputs { names: Vec<OsString> },
    /// As the text says: a folder each, or files.
    Text { text: Text, folder: bool },
}

/// Where results go.
pub(crate) struct Results {
    root: PathBuf,
    naming: Naming,
    /// Hashes of the names that this run has used, and by which command: 16 bytes each.
    used: HashMap<u64, u64>,
    /// Whether results of an earlier run under another number stay as they are.
    keeps: bool,
    /// Hashes of the folders where nothing is left any more of what a run that was killed had begun.
    swept: HashSet<u64>,
}

/// The result of a command that runs.
pub(crate) struct Pending {
    number: u64,
    target: PathBuf,
    /// Whether the target is a folder; else it is the start of file names.
    folder: bool,
    place: PathBuf,
    pub(crate) stdout: File,
    pub(crate) stderr: File,
}

impl Results {
    /// Makes the folder. `keeps`: the run goes on with what an earlier one began.
    ///
    /// # Errors
    /// Of making it; a form that is not offered.
    pub(crate) fn new(target: &OsStr, syntax: &Syntax<'_>, keeps: bool) -> Result<Results, String> {
        let bytes = target.as_bytes();
        for form in [".csv", ".tsv", ".json"] {
            if bytes.ends_with(form.as_bytes()) {
                return Err(format!(
                    "--results: a table ({form}) is not offered; a folder holds a result for each command, --joblog a line"
                ));
            }
        }
        if bytes.is_empty() {
            return Err("--results: the name of the folder is empty".to_owned());
        }
        let text = Text::parse(target, syntax);
        let (root, naming) = if text.has_places() {
            let folder = bytes.ends_with(b"/");
            let fixed = bytes.split(|byte| *byte == b'{').next().unwrap_or_default();
            let root = match fixed.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => &fixed[..=slash],
                None => b".",
            };
            (OsStr::from_bytes(root), Naming::Text { text, folder })
        } else {
            let names = syntax.names.to_vec();
            (target, Naming::Inputs { names })
        };
        let root = PathBuf::from(root);
        fs::create_dir_all(&root)
            .map_err(|error| format!("cannot make the folder {}: {error}", root.display()))?;
        Ok(Results {
            root,
            naming,
            used: HashMap::new(),
            keeps,
            swept: HashSet::new(),
        })
    }

    /// The folder, to sync what is in it.
    ///
    /// # Errors
    /// Of opening it.
    pub(crate) fn folder(&self) -> io::Result<File> {
        File::open(&self.root)
    }

    fn target(&self, filling: &Filling<'_>) -> PathBuf {
        match &self.naming {
            Naming::Inputs { names } => {
                let mut path = self.root.clone();
                for (index, value) in filling.values.iter().enumerate() {
                    match names.get(index) {
                        Some(name) => path.push(safe_name(name.as_bytes())),
                        None => path.push((index + 1).to_string()),
                    }
                    path.push(safe_name(value.as_bytes()));
                }
                if filling.values.is_empty() {
                    path.push(filling.number.to_string());
                }
                path
            }
            Naming::Text { text, .. } => {
                let made = |value: Vec<u8>| safe_name(&value).into_vec();
                let mut name = text.fill(filling, made);
                while name.len() > 1 && name.ends_with(b"/") {
                    name.pop();
                }
                PathBuf::from(OsString::from_vec(name))
            }
        }
    }

    /// Begins the result of a command.
    ///
    /// # Errors
    /// Of making folders and files.
    pub(crate) fn begin(&mut self, filling: &Filling<'_>) -> io::Result<Pending> {
        let mut target = self.target(filling);
        let folder = !matches!(self.naming, Naming::Text { folder: false, .. });
        let seq = |target: &Path| part(target, folder, 2);
        let taken_before = || {
            self.keeps
                && fs::read_to_string(seq(&target))
                    .is_ok_and(|seq| seq.trim() != filling.number.to_string())
        };
        let taken = self
            .used
            .get(&hash(&target))
            .is_some_and(|number| *number != filling.number);
        if taken || taken_before() {
            target = with_suffix(&target, &format!("\\={}", filling.number));
        }
        self.used.insert(hash(&target), filling.number);
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if self.keeps && self.swept.insert(hash(&parent)) {
            sweep(&parent);
        }
        let place = parent.join(format!("{BEGUN}{}-{}", std::process::id(), filling.number));
        match fs::create_dir(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&parent)?;
                fs::create_dir(&place)?;
            }
            // Left by a run of the same process id, or by an attempt of this command.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        Ok(Pending {
            number: filling.number,
            folder,
            stdout: File::create(place.join("stdout"))?,
            stderr: File::create(place.join("stderr"))?,
            place,
            target,
        })
    }
}

/// Takes away what runs that were killed had begun in a folder. What cannot be taken away stays: no reader looks at it.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(BEGUN)?.split_once('-'))
            .filter(|(_, number)| number.parse::<u64>().is_ok())
            .and_then(|(process, _)| process.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Pending {
    /// Puts the result in its place. `exit`: how the command ended.
    ///
    /// # Errors
    /// Of writing and renaming; nothing has been put in place then.
    pub(crate) fn finish(self, exit: &str) -> io::Result<()> {
        let finished = self.put(exit);
        if finished.is_err() {
            let _ = fs::remove_dir_all(&self.place);
        }
        finished
    }

    fn put(&self, exit: &str) -> io::Result<()> {
        let write = |name: &str, text: String| {
            File::create(self.place.join(name)).and_then(|mut file| file.write_all(text.as_bytes()))
        };
        write("seq", self.number.to_string())?;
        write("exit", format!("{exit}\n"))?;
        if !self.folder {
            for (index, (name, _)) in PARTS.iter().enumerate() {
                fs::rename(self.place.join(name), part(&self.target, false, index))?;
            }
            return fs::remove_dir(&self.place);
        }
        match fs::rename(&self.place, &self.target) {
            // Another result stands there, or the folders of further inputs: its parts are replaced one by one.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                for (name, _) in PARTS {
                    fs::rename(self.place.join(name), self.target.join(name))?;
                }
                fs::remove_dir(&self.place)
            }
            renamed => renamed,
        }
    }

    /// Takes away what was begun.
    pub(crate) fn discard(self) {
        let _ = fs::remove_dir_all(&self.place);
    }
}

fn part(target: &Path, folder: bool, index: usize) -> PathBuf {
    let (name, suffix) = PARTS[index];
    if folder {
        target.join(name)
    } else {
        with_suffix(target, suffix)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A name that holds a value, is no path, and is not hidden.
fn safe_name(value: &[u8]) -> OsString {
    if value.is_empty() {
        return "\\0".into();
    }
    let mut name = Vec::with_capacity(value.len());
    for (index, &byte) in value.iter().enumerate() {
        match byte {
            b'/' => name.extend(b"\\_"),
            b'\\' => name.extend(b"\\\\"),
            b'.' if index == 0 => name.extend(b"\\."),
            _ if byte.is_ascii_control() => name.extend(format!("\\x{byte:02x}").bytes()),
            _ => name.push(byte),
        }
    }
    if name.len() > NAME_BYTES_MAX {
        let mut cut = NAME_BYTES_MAX;
        // Not inside of a character.
        while cut > NAME_BYTES_MAX - 4 && name[cut] & 0xc0 == 0x80 {
            cut -= 1;
        }
        name.truncate(cut);
        name.extend(format!("\\~{:016x}", hash(value)).bytes());
    }
    OsString::from_vec(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// TASK-12: no value leaves the folder, hides, or meets another.
    #[test]
    fn names_are_safe_and_differ() {
        let values: [&[u8]; 10] = [
            b"", b".", b"..", b"a/b", b"a\\_b", b"/etc", b"a\nb", b"\xff", b"-x", b"..x",
        ];
        let names: HashSet<OsString> = values.iter().map(|value| safe_name(value)).collect();
        assert_eq!(names.len(), values.len());
        for name in &names {
            assert!(!name.as_bytes().contains(&b'/') && !name.as_bytes().starts_with(b"."));
        }
        let long = |last: u8| safe_name(&[vec![b'x'; 500], vec![last]].concat());
        assert!(long(b'a').len() < 250 && long(b'a') != long(b'b'));
    }
}
