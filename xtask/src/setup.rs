//! `cargo xtask setup`: the programs that tests and the README's commands run.
//!
//! They stand on nearly every Linux. What is missing is installed with apt-get where that exists and the user may; else
//! the packages are named. Crates come with cargo, so nothing else is fetched.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// A program that must be there, and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("cc", "gcc"),
    ("cp", "coreutils"),
    ("git", "git"),
    ("gzip", "gzip"),
    ("kill", "procps"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mount", "mount"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("sh", "dash"),
    ("sha256sum", "coreutils"),
    ("truncate", "coreutils"),
    ("umount", "mount"),
    ("unshare", "util-linux"),
    ("xargs", "findutils"),
];

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.status().context("starting apt-get")?;
    if !status.success() {
        bail!("apt-get {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Whether the effective user is root, as /proc says.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let users = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap_or_default();
    users.split_whitespace().nth(1) == Some("0")
}

/// Installs what is missing.
pub(crate) fn run() -> Result<()> {
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_in_path(program))
        .map(|(_, package)| *package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        let names: Vec<&str> = PROGRAMS.iter().map(|(program, _)| *program).collect();
        println!("nothing to install: {} are there", names.join(", "));
        return Ok(());
    }
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "install these packages, then try again: {}",
            packages.join(" ")
        );
    }
    apt_get(&["update", "--quiet"])?;
    let mut install = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    install.extend(&packages);
    apt_get(&install)
}
