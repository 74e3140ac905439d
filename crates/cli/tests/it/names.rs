//! Hostile file names.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::{Folder, run, run_with};

fn hostile() -> Vec<OsString> {
    let names: [&[u8]; 14] = [
        b"with space",
        b"quote'single",
        b"quote\"double",
        b"semi;touch OOPS",
        b"new\nline",
        b"$(touch OOPS)",
        b"`touch OOPS`",
        b"-rf",
        b"--help",
        b"back\\slash",
        b"star*?[x]",
        b"not-utf8-\xff\xfe",
        b"& touch OOPS #",
        b"{}",
    ];
    names
        .into_iter()
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect()
}

fn expected() -> Vec<Vec<u8>> {
    hostile()
        .into_iter()
        .map(|name| [b"<".as_slice(), name.as_bytes(), b">"].concat())
        .collect()
}

fn arguments(words: &[&str]) -> Vec<OsString> {
    words
        .iter()
        .map(OsString::from)
        .chain([":::".into()])
        .chain(hostile())
        .collect()
}

/// TASK-12: several words never meet a shell.
#[test]
fn words_keep_hostile_names_whole() {
    let ran = run(arguments(&["-k", "printf", "<%s>", "{}"]));
    assert_eq!((ran.out, ran.code), (expected().concat(), 0), "{}", ran.err);
}

/// TASK-12: inputs are quoted for a shell, outside of quotes, in double and in single ones, and in `$(…)`.
#[test]
fn scripts_keep_hostile_names_whole() {
    let scripts = [
        "printf '<%s>' {}",
        "printf '<%s>' \"{}\"",
        "printf '<%s>' '{}'",
        "printf '%s' \"<$(printf %s {})>\"",
        "x={}; printf '<%s>' \"$x\"",
    ];
    let folder = Folder::new("hostile");
    for script in scripts {
        let mut command = crate::flyball();
        let ran = crate::finish(
            command
                .current_dir(folder.path(""))
                .arg("run")
                .args(arguments(&["-k", script])),
        );
        assert_eq!(ran.code, 0, "{script}: {}", ran.err);
        assert_eq!(ran.out, expected().concat(), "{script}");
    }
    assert_eq!(
        std::fs::read_dir(folder.path("")).unwrap().count(),
        0,
        "a name was executed"
    );
}

/// TASK-12: real files with such names, from standard input.
#[test]
fn files_with_hostile_names_are_found() {
    let folder = Folder::new("files");
    let mut list = Vec::new();
    for name in hostile() {
        let path = folder.path(&name);
        std::fs::write(&path, "x").unwrap();
        list.extend_from_slice(path.as_os_str().as_bytes());
        list.push(0);
    }
    let ran = run_with(["-0", "-k", "cat", "{}"], &list);
    assert_eq!(
        (ran.text(), ran.code),
        ("x".repeat(hostile().len()).as_str(), 0),
        "{}",
        ran.err
    );
    let ran = run_with(["-0", "-k", "cat < {}"], &list);
    assert_eq!(
        (ran.text(), ran.code),
        ("x".repeat(hostile().len()).as_str(), 0),
        "{}",
        ran.err
    );
}

/// TASK-12: the command that reruns what failed can be pasted, and does.
#[test]
fn the_rerun_command_reruns_exactly_what_failed() {
    let folder = Folder::new("rerun");
    // Fails the first time that it sees a name which is not plain; then succeeds.
    let script = "case {/} in plain*) exit 0;; esac; test -e {}.seen && printf '<%s>' {/} || { touch {}.seen; exit 9; }";
    let inputs = hostile()
        .into_iter()
        .filter(|name| name != "{}")
        .chain(["plain1".into(), "plain2".into()]);
    let paths = inputs.map(|name| folder.path(name).into_os_string());
    let words = ["-k", script, ":::"].map(OsString::from);
    let first = run(words.into_iter().chain(paths));
    assert_eq!(first.code, 1, "{}", first.err);
    assert!(first.err.contains("2 done, 13 failed"), "{}", first.err);
    let again = first
        .err
        .lines()
        .find_map(|line| line.trim().strip_prefix("again, only what failed: "))
        .unwrap();
    let again = again.replacen("flyball", env!("CARGO_BIN_EXE_flyball"), 1);
    let output = std::process::Command::new("bash")
        .env("SHELL", "/bin/sh")
        .arg("-c")
        .arg(&again)
        .output()
        .unwrap();
    let expected: Vec<Vec<u8>> = expected()
        .into_iter()
        .filter(|name| name != b"<{}>")
        .collect();
    assert_eq!(
        output.stdout,
        expected.concat(),
        "{again}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success());
}
