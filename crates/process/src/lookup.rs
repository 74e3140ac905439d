//! Which file a program's name means.
//!
//! The kernel takes files, not names: `execvp` tries one after the other along PATH, at the cost of a system call for each that is not there. Who starts
//! thousands of commands mostly starts the same one again, so the place where it was found last is tried first, for a second. What is not there any
//! more is looked for along PATH as ever; what was put into an earlier folder meanwhile is found after that second at the latest.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use flyball_core::time::Timestamp;

use crate::sys;

/// How long the place of a program is believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// What execvp takes where there is no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/bin:/usr/bin";

/// Remembers where the last program was.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    program: Vec<u8>,
    path: Vec<u8>,
    found: Vec<CString>,
    until: Timestamp,
}

impl Lookup {
    /// The files that a program's name may mean, in the order in which they are to be tried: itself with a slash in it, else along the PATH of the
    /// command's environment.
    pub(crate) fn files(&mut self, program: &[u8], env: &[CString], now: Timestamp) -> &[CString] {
        let path = env
            .iter()
            .find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="))
            .unwrap_or(DEFAULT_PATH);
        if now >= self.until || self.program != program || self.path != path {
            self.found = candidates(program, path);
            // A folder that is not named from the root depends on where the command starts.
            let fixed = self
                .found
                .iter()
                .all(|file| file.as_bytes().starts_with(b"/"));
            let first = self.found.iter().position(|file| sys::is_program(file));
            if let (true, Some(first)) = (fixed, first) {
                self.found[..=first].rotate_right(1);
            }
            self.program = program.to_vec();
            self.path = path.to_vec();
            self.until = now.saturating_add(BELIEVED);
        }
        &self.found
    }
}

fn candidates(program: &[u8], path: &[u8]) -> Vec<CString> {
    if program.contains(&b'/') || program.is_empty() {
        return CString::new(program).into_iter().collect();
    }
    path.split(|byte| *byte == b':')
        .map(|folder| match folder {
            [] => Path::new("."),
            folder => Path::new(OsStr::from_bytes(folder)),
        })
        .filter_map(|folder| {
            let file = folder.join(OsStr::from_bytes(program));
            CString::new(file.into_os_string().into_vec()).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn program(folder: &Path, name: &str) -> CString {
        let file = folder.join(name);
        fs::write(&file, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        CString::new(file.into_os_string().into_vec()).unwrap()
    }

    /// TASK-3: a program is found along PATH; where it was is tried first for a while, and never instead of the rest.
    #[test]
    fn the_place_where_a_program_was_is_tried_first() {
        let root = std::env::temp_dir().join(format!("flyball-lookup-{}", std::process::id()));
        let folders = ["a", "b", "c"].map(|name| root.join(name));
        for folder in &folders {
            fs::create_dir_all(folder.join("folder")).unwrap();
        }
        let [a, b, c] = &folders;
        let env = [format!(
            "PATH={}:{}:{}",
            a.display(),
            b.display(),
            c.display()
        )]
        .map(|entry| CString::new(entry).unwrap());
        let in_b = program(b, "tool");
        program(c, "folder-like");
        fs::write(a.join("tool"), "no program").unwrap();
        let mut lookup = Lookup::default();
        let second = Timestamp::ZERO.saturating_add(Duration::from_secs(1));
        let files = lookup.files(b"tool", &env, second);
        assert_eq!((files.len(), &files[0]), (3, &in_b));
        // Believed for a second, and no longer.
        fs::remove_file(a.join("tool")).unwrap();
        let in_a = program(a, "tool");
        let almost = second.saturating_add(Duration::from_millis(999));
        assert_eq!(lookup.files(b"tool", &env, almost)[0], in_b);
        let later = second.saturating_add(Duration::from_secs(1));
        assert_eq!(lookup.files(b"tool", &env, later)[0], in_a);
        // A folder is no program, another PATH another place, and a name with a slash its own.
        let files = lookup.files(b"folder", &env, later);
        assert!(files[0].as_bytes().starts_with(a.as_os_str().as_bytes()));
        let other = [CString::new(format!("PATH={}", b.display())).unwrap()];
        assert_eq!(lookup.files(b"tool", &other, later), [in_b]);
        assert_eq!(
            lookup.files(b"./tool", &other, later),
            [CString::new("./tool").unwrap()]
        );
        assert_eq!(
            lookup.files(b"tool", &[], later)[0].as_bytes(),
            b"/usr/local/bin/tool"
        );
        fs::remove_dir_all(&root).unwrap();
    }
}
