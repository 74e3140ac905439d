//! A scope of the user's service manager, with a bound on memory.
//!
//! Users may not make control groups, but their own systemd may, and hands out *scopes*: groups around processes that somebody else
//! starts. `systemd-run --user --scope` asks for one over the user's bus, enters it, and becomes the program it was given; so the
//! spawn server is started through it, and all commands are born in the scope. There is one group then for all, and none for
//! each.
//!
//! Leaves out: the system's service manager (root makes groups itself, see `cgroup`).

use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The program that asks for a scope and becomes another program in it.
#[derive(Clone, Debug)]
pub struct Scope {
    program: PathBuf,
    memory: u64,
}

impl Scope {
    /// A scope with a bound on memory in bytes, swap not included.
    ///
    /// # Errors
    /// Why there can be none, for people. That the manager refuses is known only when the server starts
    /// ([`Error::Handshake`](crate::Error::Handshake)).
    pub fn with_memory(bytes: u64) -> Result<Scope, String> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        Scope::find(
            bytes,
            runtime.as_deref(),
            &path,
            Path::new("/sys/fs/cgroup"),
        )
    }

    /// The same with given surroundings: the user's runtime folder, the search path, and where control groups are mounted.
    ///
    /// # Errors
    /// As [`with_memory`](Scope::with_memory).
    pub fn find(
        bytes: u64,
        runtime: Option<&Path>,
        path: &std::ffi::OsStr,
        groups: &Path,
    ) -> Result<Scope, String> {
        let controllers = std::fs::read_to_string(groups.join("cgroup.controllers"));
        if !controllers.is_ok_and(|all| all.split_whitespace().any(|name| name == "memory")) {
            return Err("memory is not bounded by control groups of version 2 here".to_owned());
        }
        let socket = runtime
            .ok_or("XDG_RUNTIME_DIR is not set, so there is no service manager of this user")?
            .join("systemd/private");
        let there = std::fs::metadata(&socket).is_ok_and(|it| it.file_type().is_socket());
        if !there {
            return Err("no service manager of this user runs".to_owned());
        }
        let program = std::env::split_paths(path)
            .map(|folder| folder.join("systemd-run"))
            .find(|program| program.is_file())
            .ok_or("systemd-run is not installed")?;
        Ok(Scope {
            program,
            memory: bytes,
        })
    }

    /// The program to start, and its arguments in front of those of the program that runs in the scope.
    pub(crate) fn words(&self) -> (&Path, Vec<OsString>) {
        let words = [
            "--user".to_owned(),
            "--scope".to_owned(),
            "--quiet".to_owned(),
            "--collect".to_owned(),
            format!("--property=MemoryMax={}", self.memory),
            "--property=MemorySwapMax=0".to_owned(),
            // One command that is killed must not end the others and the server.
            "--property=OOMPolicy=continue".to_owned(),
            "--".to_owned(),
        ];
        (&self.program, words.map(OsString::from).to_vec())
    }
}
