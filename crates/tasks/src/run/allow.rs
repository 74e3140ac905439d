//! Which commands may be run for whom.
//!
//! The local user may run what the local user may run. Everybody else asks over a network, where a command is code of a stranger: it must be one
//! of the programs that the configuration names, in a folder that it names, with no variable that it does not name.
//!
//! Invariants: an empty list allows nothing; a check has no effect but reading links of the file system; the check at submission is repeated at
//! the start, as links may have been turned since.
//!
//! Leaves out what the arguments mean to the program: a shell or an interpreter on the list allows everything.

use crate::task::CommandSpec;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// What a command of others than the local user finds as its PATH, unless the list lets it set one: the usual folders of programs.
pub(crate) const CLEAN_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What is wrong with one field of what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} {fault}")]
pub struct Fault {
    /// The field as the API names it, such as `command.argv[0]`.
    pub field: Box<str>,
    /// What is wrong and what was expected.
    pub fault: Box<str>,
}

impl Fault {
    pub(crate) fn new(field: &str, fault: impl Into<Box<str>>) -> Fault {
        Fault {
            field: field.into(),
            fault: fault.into(),
        }
    }
}

/// The commands that may be run for others than the local user. Empty: none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AllowList {
    /// Programs, as absolute paths without `.` and `..`; a task names one of them letter for letter.
    pub programs: Vec<PathBuf>,
    /// Folders, as absolute paths: a command works in one of them or below, links followed. A command that names no folder gets the first.
    pub folders: Vec<PathBuf>,
    /// Names of variables that a task may set; a `*` at the end stands for any rest.
    pub env: Vec<String>,
}

impl AllowList {
    /// Says whether the list itself makes sense.
    ///
    /// # Errors
    /// The first entry that is no absolute path, or no name of a variable.
    pub fn validate(&self) -> Result<(), Fault> {
        for (field, paths) in [
            ("commands.programs", &self.programs),
            ("commands.folders", &self.folders),
        ] {
            if let Some(path) = paths.iter().find(|path| !is_plain(path)) {
                return Err(Fault::new(
                    field,
                    format!("holds {path:?}, expected absolute paths without . and .."),
                ));
            }
        }
        if let Some(name) = self.env.iter().find(|name| !is_pattern(name)) {
            return Err(Fault::new(
                "commands.env",
                format!("holds {name:?}, expected names of variables, with * at the end at most"),
            ));
        }
        Ok(())
    }

    /// Says whether a command may be run. One of the local user always may.
    ///
    /// # Errors
    /// The first field that the list does not allow.
    pub fn check(&self, command: &CommandSpec) -> Result<(), Fault> {
        if command.local {
            return Ok(());
        }
        let refuse = |field: &str, fault: String| Err(Fault::new(field, fault));
        let Some(program) = command.argv.first() else {
            return refuse("command.argv", "is empty, expected a program".to_owned());
        };
        if !self
            .programs
            .iter()
            .any(|allowed| allowed.as_os_str() == program)
        {
            return refuse(
                "command.argv[0]",
                format!(
                    "is {program:?}, which is not among the programs that commands.programs allows"
                ),
            );
        }
        self.folder(command)?;
        for (index, (name, _)) in command.env.iter().enumerate() {
            if !self.allows_variable(name) {
                return refuse(
                    &format!("command.env[{index}]"),
                    format!("sets {name:?}, which commands.env does not allow"),
                );
            }
        }
        if command.nice < 0 {
            return refuse(
                "command.nice",
                format!("is {}, expected 0 to 19", command.nice),
            );
        }
        Ok(())
    }

    /// The folder that a command works in, links followed.
    pub(crate) fn folder(&self, command: &CommandSpec) -> Result<Option<PathBuf>, Fault> {
        if command.local {
            return Ok(command.cwd.clone());
        }
        let field = "command.cwd";
        let Some(asked) = command
            .cwd
            .as_deref()
            .or(self.folders.first().map(|first| &**first))
        else {
            return Err(Fault::new(
                field,
                "is not given, and commands.folders allows no folder",
            ));
        };
        if !asked.is_absolute() {
            return Err(Fault::new(
                field,
                format!("is {asked:?}, expected an absolute path"),
            ));
        }
        let real = asked
            .canonicalize()
            .map_err(|error| Fault::new(field, format!("is {asked:?}: {error}")))?;
        let inside = self.folders.iter().any(|folder| {
            folder
                .canonicalize()
                .is_ok_and(|folder| real.starts_with(folder))
        });
        if !inside {
            return Err(Fault::new(
                field,
                format!(
                    "is {asked:?}, which is outside of the folders that commands.folders allows"
                ),
            ));
        }
        Ok(Some(real))
    }

    fn allows_variable(&self, name: &OsStr) -> bool {
        let Some(name) = name.to_str() else {
            return false;
        };
        self.env
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == pattern,
            })
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        // `components` leaves out a `.` in the middle; the letters are compared later, so it must not be there.
        && !path.to_string_lossy().split('/').any(|part| part == ".")
}

fn is_pattern(pattern: &str) -> bool {
    let name = pattern.strip_suffix('*').unwrap_or(pattern);
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !pattern.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(folder: &Path) -> AllowList {
        AllowList {
            programs: vec!["/bin/echo".into()],
            folders: vec![folder.into()],
            env: vec!["LANG".into(), "APP_*".into()],
        }
    }

    fn command(program: &str) -> CommandSpec {
        CommandSpec {
            argv: vec![program.into(), "x".into()],
            ..CommandSpec::default()
        }
    }

    fn field(answer: Result<(), Fault>) -> String {
        answer.unwrap_err().field.into()
    }

    /// TASK-11: commands of others run only as the list says: program, folder, variables.
    #[test]
    fn only_what_is_listed_is_allowed() {
        let base = std::env::temp_dir().join(format!("flyball-allow-{}", std::process::id()));
        let inside = base.join("jail/inside");
        std::fs::create_dir_all(&inside).unwrap();
        let link = base.join("jail/out");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("/", &link).unwrap();
        let list = list(&base.join("jail"));
        list.validate().unwrap();

        list.check(&command("/bin/echo")).unwrap();
        for program in ["echo", "/bin/sh", "/bin/../bin/echo", "/bin/./echo", ""] {
            assert_eq!(field(list.check(&command(program))), "command.argv[0]");
        }
        for (folder, fine) in [
            (inside.clone(), true),
            (base.clone(), false),
            (base.join("jail/.."), false),
            (link.clone(), false),
            (link.join("etc"), false),
            (base.join("jail/none"), false),
            ("jail".into(), false),
        ] {
            let command = CommandSpec {
                cwd: Some(folder.clone()),
                ..command("/bin/echo")
            };
            assert_eq!(list.check(&command).is_ok(), fine, "{folder:?}");
        }
        for (name, fine) in [
            ("LANG", true),
            ("APP_X", true),
            ("LD_PRELOAD", false),
            ("LANGX", false),
        ] {
            let command = CommandSpec {
                env: vec![(name.into(), "1".into())],
                ..command("/bin/echo")
            };
            assert_eq!(list.check(&command).is_ok(), fine, "{name}");
        }
        assert_eq!(
            field(list.check(&CommandSpec {
                nice: -1,
                ..command("/bin/echo")
            })),
            "command.nice"
        );
        std::fs::remove_dir_all(&base).unwrap();
    }

    /// TASK-23: nobody is asked about commands of the local user; without a list nobody else runs any.
    #[test]
    fn the_local_user_needs_no_list() {
        let none = AllowList::default();
        let local = CommandSpec {
            local: true,
            ..command("whatever")
        };
        none.check(&local).unwrap();
        assert_eq!(field(none.check(&command("/bin/echo"))), "command.argv[0]");
    }

    #[test]
    fn lists_are_checked_themselves() {
        for bad in ["bin/echo", "/bin/../echo", "/bin/./echo", ""] {
            let list = AllowList {
                programs: vec![bad.into()],
                ..AllowList::default()
            };
            assert_eq!(
                &*list.validate().unwrap_err().field,
                "commands.programs",
                "{bad}"
            );
        }
        for bad in ["", "A B", "1A", "A*B", "A=B"] {
            let list = AllowList {
                env: vec![bad.into()],
                ..AllowList::default()
            };
            assert_eq!(
                &*list.validate().unwrap_err().field,
                "commands.env",
                "{bad}"
            );
        }
    }
}
