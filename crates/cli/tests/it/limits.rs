//! Bounds on all commands of a run together: memory, load, the machine shared with other runs.
//!
//! Runs as root bound memory by control groups where this machine lets root make them; the same runs as another user have to sample.
//! Both are tested where tests run as root, else what there is.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use flyball_core::time::{Clock, OsClock};

use crate::{Folder, Ran, finish, flyball};

/// A program that fills so many MiB and says so, then stays until its standard input ends or for as long as it is told.
const HOG: &str = "import sys, time
held = bytearray(int(sys.argv[1]) << 20)
held[::4096] = b'x' * len(held[::4096])
time.sleep(float(sys.argv[2]))
print('held', sys.argv[1])
";

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0)
}

/// This binary where every user can run it: a folder of the tests may be closed to others. Copied by a program of its own, because a
/// file that this one has open for writing cannot be run, and children of other tests may have it open for a moment longer.
fn open_binary(folder: &Folder) -> PathBuf {
    let path = folder.path("flyball");
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_flyball")).arg(&path);
    assert!(copy.status().unwrap().success());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Commands that bound memory hard and by sampling: one of them, or both.
fn ways(folder: &Folder) -> Vec<(bool, Command)> {
    let mut own = flyball();
    surround(&mut own, folder);
    let mut ways = vec![(is_root() && groups_can_be_made(), own)];
    if ways[0].0 {
        const NOBODY: u32 = 65534;
        let mut other = Command::new(open_binary(folder));
        other
            .stdin(Stdio::null())
            .env("SHELL", "/bin/sh")
            .uid(NOBODY)
            .gid(NOBODY);
        surround(&mut other, folder);
        ways.push((false, other));
    }
    ways
}

fn surround(command: &mut Command, folder: &Folder) {
    std::fs::set_permissions(folder.path(""), std::fs::Permissions::from_mode(0o777)).unwrap();
    command
        .current_dir(folder.path(""))
        .env("XDG_CACHE_HOME", folder.path("cache"))
        .args(["run", "--alone"]);
}

fn groups_can_be_made() -> bool {
    flyball_process::bounds::cgroup::CgroupPool::make().is_ok()
}

fn hog(command: &mut Command, options: &[&str], inputs: &[&str]) -> Ran {
    finish(
        command
            .args(options)
            .args(["python3", "-c", HOG, "{1}", "{2}", ":::"])
            .args(inputs)
            .args([":::", "0.3"]),
    )
}

/// TASK-12, TASK-20: commands that need more together than the bound all end well, the youngest of them after having run again alone.
#[test]
fn too_many_hogs_run_one_after_the_other() {
    let folder = Folder::new("hogs");
    for (hard, mut command) in ways(&folder) {
        let ran = hog(
            &mut command,
            &["-j4", "--mem", "300MB"],
            &["120", "121", "122", "123"],
        );
        assert_eq!(ran.code, 0, "{}", ran.err);
        let mut lines = ran.lines();
        lines.sort_unstable();
        assert_eq!(lines, ["held 120", "held 121", "held 122", "held 123"]);
        let kept = if hard {
            "hard, kept by the kernel"
        } else {
            "soft, sampled every 50 ms"
        };
        assert!(
            ran.err.contains(&format!("--mem 300MB: {kept}")),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("4 done in"), "{}", ran.err);
    }
}

/// TASK-20: what is above the bound by itself fails, and says so; the others do not.
#[test]
fn a_command_above_the_bound_by_itself_fails_with_that_reason() {
    let folder = Folder::new("large");
    for (_, mut command) in ways(&folder) {
        let ran = hog(
            &mut command,
            &["-j2", "--mem", "200MB"],
            &["20", "400", "21"],
        );
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert_eq!(ran.lines().len(), 2, "{}", ran.text());
        assert!(
            ran.err
                .contains("out of memory: it needs more than --mem 200MB by itself"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("2 done, 1 failed"), "{}", ran.err);
    }
}

/// TASK-20: a success of a command of which the kernel killed a part is none: half of a pipeline's work is missing.
#[test]
fn a_success_with_a_part_killed_is_a_failure() {
    let folder = Folder::new("part");
    let (hard, mut command) = ways(&folder).remove(0);
    if !hard {
        return;
    }
    let hog = "python3 -c 'print(len(bytes(300_000_000).replace(b\"\\0\", b\"x\")))' | cat; true";
    let ran = finish(
        command
            .args(["--mem", "100MB", "--joblog", "log"])
            .args([hog, ":::", "a"]),
    );
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(
        ran.err.contains("it needs more than --mem 100MB by itself"),
        "{}",
        ran.err
    );
    let log = std::fs::read_to_string(folder.path("log")).unwrap();
    let ends: Vec<&str> = log.lines().nth(1).unwrap().split('\t').collect();
    assert_eq!(ends[6..8], ["0", "9"], "{log}");
}

/// TASK-12: reservations are kept: no two at once where only one fits; more where more fit.
#[test]
fn reservations_decide_what_runs_at_once() {
    let folder = Folder::new("reserved");
    let script = "mkdir here.{#}; ls -d here.* | wc -l; sleep 0.05; rmdir here.{#}";
    let (_, mut command) = ways(&folder).remove(0);
    let ran = finish(command.args([
        "-j4",
        "--mem",
        "100MB",
        "--mem-each",
        "60MB",
        script,
        ":::",
        "1",
        "2",
        "3",
        "4",
    ]));
    assert!(
        ran.lines().iter().all(|count| count.trim() == "1"),
        "{}",
        ran.text()
    );
    assert_eq!(ran.lines().len(), 4);
    assert!(ran.err.contains("--mem-each 60MB"), "{}", ran.err);
}

/// TASK-12: auto learns from commands that ended, and knows in the next run.
#[test]
fn peaks_are_learned_and_kept() {
    let folder = Folder::new("learned");
    let inputs: Vec<String> = (20..32).map(|size: u32| size.to_string()).collect();
    let run = |inputs: &[String]| {
        let mut command = flyball();
        surround(&mut command, &folder);
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let ran = finish(
            command
                .args([
                    "-j2",
                    "--json",
                    "--mem-each",
                    "auto",
                    "python3",
                    "-c",
                    HOG,
                    "{1}",
                    "{2}",
                    ":::",
                ])
                .args(inputs)
                .args([":::", "0"]),
        );
        assert_eq!(ran.code, 0, "{}", ran.err);
        let json: serde_json::Value =
            serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
        json["bounds"]["memory"]["reserve_each_bytes"].as_u64()
    };
    assert_eq!(run(&inputs[..3]), None, "three teach nothing");
    let learned = run(&inputs[3..]).expect("twelve do");
    assert!((30 << 20..70 << 20).contains(&learned), "{learned}");
    let kept = run(&inputs[..1]).expect("it was kept");
    assert!((30 << 20..70 << 20).contains(&kept), "{kept}");
}

/// TASK-12: a bound that nothing meets changes nothing.
#[test]
fn wide_bounds_change_nothing() {
    let folder = Folder::new("wide");
    let inputs: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let (_, mut command) = ways(&folder).remove(0);
    let ran = finish(
        command
            .args([
                "-k",
                "--mem",
                "8G",
                "--mem-each",
                "auto",
                "--load",
                "1000",
                "--memfree",
                "1M",
                "echo",
                ":::",
            ])
            .args(&inputs),
    );
    assert_eq!(
        (ran.lines(), ran.code),
        (inputs.iter().map(String::as_str).collect(), 0),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("--load 1000: sampled") && ran.err.contains("--memfree 1MB: sampled"),
        "{}",
        ran.err
    );
}

/// TASK-12: while the machine has less free than is to stay free, nothing starts; Ctrl-C ends the wait.
#[test]
fn nothing_starts_without_free_memory() {
    let folder = Folder::new("memfree");
    let mut command = flyball();
    surround(&mut command, &folder);
    command.args(["--memfree", "1EB", "echo", ":::", "a", "b"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("it listens to signals and its spawn server", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        threads.flatten().any(|thread| {
            std::fs::read_to_string(thread.path().join("comm"))
                .is_ok_and(|name| name.trim() == "flyball-process")
        })
    });
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.is_empty());
}

fn interrupt(child: &Child) {
    let status = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Inputs without end: each command says that it runs, and waits in a pipe for its end.
struct Run {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Run {
    /// Starts a run that shares by `folder`, whose commands wait until a file is there.
    fn start(folder: &Folder, name: &str, options: &[&str]) -> Run {
        let mut command = flyball();
        let script =
            format!("mkdir {name}.{{}}; cat fifo.{name} > /dev/null; rmdir {name}.{{}}; echo {{}}");
        let fifo = folder.path(format!("fifo.{name}"));
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let inputs: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        let mut child = command
            .current_dir(folder.path(""))
            .env("XDG_RUNTIME_DIR", folder.path("runtime"))
            .arg("run")
            .args(options)
            .arg(&script)
            .arg(":::")
            .args(&inputs)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Run { child, out }
    }
}

/// Waits for something, 20 s at most.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = OsClock.now();
    while !is_so() {
        let waited = OsClock.now().duration_since(start);
        assert!(waited.as_secs() < 20, "not within 20 s: {what}");
        std::thread::yield_now();
    }
}

/// Commands of a run that run now.
fn running(folder: &Folder, name: &str) -> usize {
    std::fs::read_dir(folder.path(""))
        .unwrap()
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("{name}."))
        })
        .count()
}

fn wait_for(folder: &Folder, name: &str, wanted: usize) {
    until(&format!("{wanted} commands of {name}"), || {
        running(folder, name) == wanted
    });
}

/// Lets one command of a run end.
fn end_one(folder: &Folder, run: &mut Run, name: &str) {
    // Opening waits for a reader, and closing ends it; one `cat` or all that have opened it meanwhile.
    drop(
        std::fs::OpenOptions::new()
            .write(true)
            .open(folder.path(format!("fifo.{name}")))
            .unwrap(),
    );
    let mut line = String::new();
    run.out.read_line(&mut line).unwrap();
}

/// TASK-21: two runs share the slots of the machine by the shares of their classes, one that says its number has it, and one that
/// is killed leaves its slots at once.
#[test]
fn runs_share_the_machine() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus < 2 {
        return;
    }
    let folder = Folder::new("shared");
    std::fs::create_dir(folder.path("runtime")).unwrap();
    let mut first = Run::start(&folder, "first", &[]);
    wait_for(&folder, "first", cpus);
    let mut second = Run::start(&folder, "second", &[]);
    wait_for(&folder, "second", cpus / 2);
    // What the first has beyond its half ends, and is not replaced.
    while running(&folder, "first") > cpus.div_ceil(2) {
        end_one(&folder, &mut first, "first");
    }
    wait_for(&folder, "first", cpus.div_ceil(2));
    wait_for(&folder, "second", cpus / 2);
    // Whoever says a number has it, whatever the others do.
    let number = (cpus * 2).to_string();
    let mut fixed = Run::start(&folder, "fixed", &["-j", &number]);
    wait_for(&folder, "fixed", cpus * 2);
    fixed.child.kill().unwrap();
    fixed.child.wait().unwrap();
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    wait_for(&folder, "first", cpus);
    interrupt(&first.child);
    let mut rest = String::new();
    first.out.read_to_string(&mut rest).unwrap();
    assert_eq!(first.child.wait().unwrap().code(), Some(130));
}

/// TASK-21: the summary speaks of others only where they took slots that the run could have used.
#[test]
fn a_share_is_said_where_it_was_less() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus < 2 {
        return;
    }
    let folder = Folder::new("said");
    std::fs::create_dir(folder.path("runtime")).unwrap();
    let mut first = Run::start(&folder, "first", &[]);
    wait_for(&folder, "first", cpus);
    let beside = |inputs: &[&str]| {
        finish(
            flyball()
                .env("XDG_RUNTIME_DIR", folder.path("runtime"))
                .args(["run", "true", ":::"])
                .args(inputs),
        )
    };
    let one = beside(&["a"]);
    assert!(!one.err.contains("shared with"), "{}", one.err);
    let many: Vec<String> = (0..3 * cpus).map(|number| number.to_string()).collect();
    let many = beside(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let half = match cpus / 2 {
        1 => "1 command at once".to_owned(),
        more => format!("{more} commands at once"),
    };
    let said = format!("shared with 1 other run: {half}");
    assert!(many.err.contains(&said), "{}", many.err);
    interrupt(&first.child);
    let mut rest = String::new();
    first.out.read_to_string(&mut rest).unwrap();
    assert_eq!(first.child.wait().unwrap().code(), Some(130));
}

/// TASK-21: a folder that is not one's own is refused and said, and the run goes on without.
#[test]
fn a_hostile_folder_is_said_and_not_used() {
    let folder = Folder::new("hostile-share");
    std::os::unix::fs::symlink("/", folder.path("flyball")).unwrap();
    let ran = finish(
        flyball()
            .env("XDG_RUNTIME_DIR", folder.path(""))
            .args(["run", "echo", ":::", "a"]),
    );
    assert_eq!((ran.text(), ran.code), ("a\n", 0));
    assert!(
        ran.err.contains("not shared with other runs") && ran.err.contains("link"),
        "{}",
        ran.err
    );
}
