//! The jobserver, with real clients. A job says its process id on a pipe and waits at a gate that the test opens, so what runs at once is counted, not timed.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flyball_core::class::ClassSpec;
use flyball_core::time::{Clock, OsClock};
use flyball_policy::sched::Algorithm;
use flyball_process::{
    Child, Command, Ended, Jobserver, JobserverOptions, JobserverStats, Slots, SpawnServer, Style,
};

use crate::{Test, Watchline, server, shell};

pub(crate) const TESTS: &[Test] = &[
    (
        "jobserver::a_make_uses_the_free_slots",
        a_make_uses_the_free_slots,
    ),
    ("jobserver::two_makes_share", two_makes_share),
    (
        "jobserver::makes_inside_makes_share",
        makes_inside_makes_share,
    ),
    (
        "jobserver::kill_9_of_a_make_brings_its_tokens_back",
        kill_9_of_a_make_brings_its_tokens_back,
    ),
    (
        "jobserver::kill_9_of_a_holder_of_a_fifo_brings_its_tokens_back",
        kill_9_of_a_holder_of_a_fifo_brings_its_tokens_back,
    ),
    (
        "jobserver::a_token_that_nobody_takes_moves_on",
        a_token_that_nobody_takes_moves_on,
    ),
    (
        "jobserver::a_start_is_paid_by_tokens_that_come_back",
        a_start_is_paid_by_tokens_that_come_back,
    ),
    (
        "jobserver::forged_tokens_are_nobodys",
        forged_tokens_are_nobodys,
    ),
    ("jobserver::a_class_has_its_bound", a_class_has_its_bound),
    ("jobserver::cargo_shares", cargo_shares),
    (
        "jobserver::a_jobserver_of_its_own_is_kept",
        a_jobserver_of_its_own_is_kept,
    ),
];

/// A folder with a gate; jobs that wait there go on one by one.
struct Site {
    folder: PathBuf,
    gate: File,
}

impl Site {
    fn new(name: &str) -> Site {
        let folder = std::env::temp_dir().join(format!("flyball-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("gate");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let gate = OpenOptions::new().read(true).write(true).open(path);
        Site {
            gate: gate.unwrap(),
            folder,
        }
    }

    fn write(&self, name: &str, text: &str) -> &Site {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// What a job does: says its id and waits.
    fn job(&self) -> String {
        format!(
            "sh -c 'echo $$$$ >&2; read x < {}/gate'",
            self.folder.display()
        )
    }

    fn makefile(&self, name: &str, jobs: usize) -> &Site {
        let targets: Vec<String> = (0..jobs).map(|job| format!("{name}-{job}")).collect();
        let targets = targets.join(" ");
        let text = format!(
            "all: {targets}\n.PHONY: all {targets}\n{targets}:\n\t@{}\n",
            self.job()
        );
        self.write(name, &text)
    }

    /// Lets so many jobs go on.
    fn open(&self, count: usize) {
        (&self.gate).write_all(&vec![b'\n'; count]).unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Shop {
    jobserver: Jobserver,
    slots: Slots,
    // Dropped last: it ends what is left.
    _server: SpawnServer,
}

impl Shop {
    fn new(count: u32, style: Option<Style>) -> Shop {
        let server = server();
        let slots = Slots::new(&server, count, Algorithm::Cfs);
        slots.insert(ClassSpec::new("normal")).unwrap();
        let mut options = JobserverOptions::default();
        options.style = style.unwrap_or(options.style);
        let jobserver = Jobserver::start(count, options).unwrap();
        slots.set_jobserver(Some(jobserver.clone()));
        Shop {
            jobserver,
            slots,
            _server: server,
        }
    }

    fn submit(&self, command: Command) -> Child {
        let class = self.slots.class("normal").unwrap();
        self.slots.submit(class, command).unwrap()
    }

    /// Waits, 20 s at most, for what the jobserver's thread is about to do.
    fn until(&self, what: &str, holds: impl Fn(&JobserverStats) -> bool) -> JobserverStats {
        let clock = OsClock;
        let limit = clock.now().saturating_add(Duration::from_secs(20));
        loop {
            let stats = self.jobserver.stats();
            if holds(&stats) {
                return stats;
            }
            assert!(clock.now() < limit, "{what}: {stats:?}");
            std::thread::yield_now();
        }
    }
}

fn make(site: &Site, file: &str, says: std::io::PipeWriter) -> Command {
    Command::new("make")
        .args(["-f", file])
        .current_dir(&site.folder)
        .null_stdout()
        .stderr(says)
        .env("MAKEFLAGS", "")
}

/// Whether there is such a program; without it the test says so and proves nothing.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        let _ = write!(std::io::stdout(), "(no {program} here) ");
    }
    found
}

/// TASK-22: a make without -j runs as many jobs as there are slots, and gives the tokens back.
fn a_make_uses_the_free_slots() {
    if !is_there("make") {
        return;
    }
    let site = Site::new("make");
    site.makefile("many", 9);
    let shop = Shop::new(4, None);
    let (mut jobs, says) = Watchline::new();
    let mut make = shop.submit(make(&site, "many", says));
    jobs.pids(4);
    let stats = shop.jobserver.stats();
    assert_eq!((stats.running, stats.held, stats.ready), (1, 3, 0));
    site.open(9);
    assert!(make.wait_blocking().unwrap().success());
    let stats = shop.jobserver.stats();
    assert_eq!((stats.running, stats.held, stats.restored), (0, 0, 0));
}

/// TASK-22: two makes never run more jobs than there are slots.
fn two_makes_share() {
    if !is_there("make") {
        return;
    }
    let site = Site::new("makes");
    site.makefile("a", 6).makefile("b", 6);
    let shop = Shop::new(5, None);
    let (mut jobs, says) = Watchline::new();
    let again = says.try_clone().unwrap();
    let mut one = shop.submit(make(&site, "a", says));
    let mut two = shop.submit(make(&site, "b", again));
    jobs.pids(5);
    shop.until("five jobs", |stats| {
        stats.running == 2 && stats.held == 3 && stats.ready == 0
    });
    site.open(12);
    assert!(one.wait_blocking().unwrap().success());
    assert!(two.wait_blocking().unwrap().success());
    assert_eq!(shop.jobserver.stats().restored, 0);
}

/// TASK-22: makes that a make starts, and those of a shell, share the same slots.
fn makes_inside_makes_share() {
    if !is_there("make") {
        return;
    }
    let site = Site::new("nested");
    site.makefile("leaf", 3);
    site.write(
        "top",
        "all: x y\n.PHONY: all x y\nx y:\n\t@$(MAKE) --no-print-directory -f leaf\n",
    );
    let shop = Shop::new(4, None);
    let (mut jobs, says) = Watchline::new();
    let script = shell("make -f top && make -f leaf")
        .current_dir(&site.folder)
        .null_stdout()
        .stderr(says)
        .env("MAKEFLAGS", "");
    let mut script = shop.submit(script);
    jobs.pids(4);
    assert_eq!(shop.jobserver.stats().held, 3);
    site.open(9);
    assert!(script.wait_blocking().unwrap().success());
    assert_eq!(shop.jobserver.stats().restored, 0);
}

/// TASK-22: a make that is killed in the middle takes no token along: the next has all of them.
fn kill_9_of_a_make_brings_its_tokens_back() {
    if !is_there("make") {
        return;
    }
    let site = Site::new("killed");
    site.makefile("many", 8);
    let shop = Shop::new(4, None);
    for round in 1..=3 {
        let (mut jobs, says) = Watchline::new();
        let mut victim = shop.submit(make(&site, "many", says));
        jobs.pids(4);
        assert_eq!(shop.jobserver.stats().held, 3);
        let pid = victim.wait_started().unwrap();
        let killed = std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status();
        assert!(killed.unwrap().success());
        let exit = victim.wait_blocking().unwrap();
        assert!(
            matches!(exit.ended, Ended::Signalled { signal: 9, .. }),
            "{exit:?}"
        );
        jobs.assert_closes();
        let stats = shop.jobserver.stats();
        assert_eq!(
            (stats.running, stats.held, stats.ready, stats.restored),
            (0, 0, 0, 3 * round)
        );
    }
}

/// A client in the style of fifos: takes this many tokens, says so, and goes on at the gate with what is to be done then.
fn holder(site: &Site, tokens: usize, then: &str, says: std::io::PipeWriter) -> Command {
    let script = format!(
        "exec 3<>\"${{MAKEFLAGS##*fifo:}}\"; head -c {tokens} <&3 >/dev/null; echo $$ >&2; read x < gate; {then}"
    );
    shell(&script).current_dir(&site.folder).stderr(says)
}

/// TASK-22: tokens come back from whoever held them, in the style of fifos, too.
fn kill_9_of_a_holder_of_a_fifo_brings_its_tokens_back() {
    let site = Site::new("holder");
    let shop = Shop::new(4, Some(Style::Fifo));
    let (mut jobs, says) = Watchline::new();
    let again = says.try_clone().unwrap();
    let mut lost = shop.submit(holder(&site, 2, "", says));
    jobs.pids(1);
    assert_eq!(shop.jobserver.stats().held, 2);
    lost.control().kill_now();
    let _ = lost.wait_blocking();
    assert_eq!(shop.jobserver.stats().restored, 2);
    let mut good = shop.submit(holder(&site, 3, "printf +++ >&3", again));
    jobs.pids(1);
    assert_eq!(shop.jobserver.stats().held, 3);
    site.open(1);
    assert!(good.wait_blocking().unwrap().success());
    let stats = shop.jobserver.stats();
    assert_eq!((stats.held, stats.ready, stats.restored), (0, 0, 2));
}

/// TASK-22: a command that never looks at its token keeps nobody waiting.
fn a_token_that_nobody_takes_moves_on() {
    for style in [Style::Fifo, Style::Pipe] {
        let site = Site::new("moving");
        let shop = Shop::new(4, Some(style));
        let (mut jobs, says) = Watchline::new();
        let again = says.try_clone().unwrap();
        let idle = "echo $$ >&2; read x < gate";
        let mut idlers: Vec<Child> = (0..2)
            .map(|_| {
                let says = again.try_clone().unwrap();
                shop.submit(shell(idle).current_dir(&site.folder).stderr(says))
            })
            .collect();
        jobs.pids(2);
        // Not every shell knows descriptors of two digits.
        let wants = "head -c 1 <&98 >/dev/null; echo $$ >&2; read x < gate; printf + >&99";
        let command = match style {
            Style::Pipe if !is_there("bash") => continue,
            Style::Pipe => Command::new("bash").args(["-c", wants]),
            _ => holder(&site, 1, "printf + >&3", again.try_clone().unwrap()),
        };
        let command = command.current_dir(&site.folder).stderr(says);
        idlers.push(shop.submit(command));
        jobs.pids(1);
        let stats = shop.jobserver.stats();
        assert_eq!((stats.running, stats.held, stats.ready), (3, 1, 0));
        site.open(3);
        for mut idler in idlers {
            assert!(idler.wait_blocking().unwrap().success());
        }
    }
}

/// TASK-22: a command that starts while tokens are out is not held up; what comes back then is kept until the sum is right.
fn a_start_is_paid_by_tokens_that_come_back() {
    let site = Site::new("paid");
    let shop = Shop::new(2, Some(Style::Fifo));
    let (mut jobs, says) = Watchline::new();
    let again = says.try_clone().unwrap();
    let mut first = shop.submit(holder(
        &site,
        1,
        "printf + >&3; echo $$ >&2; read x < gate",
        says,
    ));
    jobs.pids(1);
    let idle = shell("echo $$ >&2; read x < gate2").current_dir(&site.folder);
    let made = std::process::Command::new("mkfifo")
        .arg(site.folder.join("gate2"))
        .status();
    assert!(made.unwrap().success());
    let gate2 = site.folder.join("gate2");
    let gate2 = OpenOptions::new().read(true).write(true).open(gate2);
    let mut second = shop.submit(idle.stderr(again));
    jobs.pids(1);
    let stats = shop.jobserver.stats();
    assert_eq!((stats.running, stats.held), (2, 1), "one too many");
    site.open(1);
    jobs.pids(1);
    shop.until("it is kept", |stats| stats.held == 0 && stats.ready == 0);
    gate2.unwrap().write_all(b"\n").unwrap();
    assert!(second.wait_blocking().unwrap().success());
    shop.until("it goes out again", |stats| stats.ready == 1);
    site.open(1);
    assert!(first.wait_blocking().unwrap().success());
}

/// TASK-22: who writes tokens that it was not given makes no slots.
fn forged_tokens_are_nobodys() {
    let site = Site::new("forged");
    let shop = Shop::new(3, Some(Style::Fifo));
    let (mut jobs, says) = Watchline::new();
    let script =
        "exec 3<>\"${MAKEFLAGS##*fifo:}\"; printf ++++++++++ >&3; echo $$ >&2; read x < gate";
    let mut forger = shop.submit(shell(script).current_dir(&site.folder).stderr(says));
    jobs.pids(1);
    shop.until("the rest is gone", |stats| {
        stats.held + stats.ready <= 2 && stats.ready <= 1
    });
    site.open(1);
    assert!(forger.wait_blocking().unwrap().success());
    let stats = shop.jobserver.stats();
    assert_eq!((stats.held, stats.ready), (0, 0));
}

/// TASK-22: a class's concurrency bounds the jobs inside its commands.
fn a_class_has_its_bound() {
    let site = Site::new("class");
    let shop = Shop::new(6, Some(Style::Fifo));
    let narrow = ClassSpec::new("narrow").with_concurrency(2);
    let narrow = shop.slots.insert(narrow).unwrap();
    let (mut jobs, says) = Watchline::new();
    let again = says.try_clone().unwrap();
    let one = holder(&site, 1, "printf + >&3", says);
    let mut one = shop.slots.submit(narrow, one).unwrap();
    jobs.pids(1);
    // Its token is out, and none lies ready although three slots are free.
    let mut other = shop.submit(holder(&site, 3, "printf +++ >&3", again));
    jobs.pids(1);
    let stats = shop.until("one more for the wide class", |stats| stats.ready == 0);
    assert_eq!((stats.running, stats.held), (2, 4));
    site.open(2);
    assert!(one.wait_blocking().unwrap().success());
    assert!(other.wait_blocking().unwrap().success());
}

/// TASK-22: cargo compiles as many crates at once as there are slots.
fn cargo_shares() {
    if !is_there("cargo") {
        return;
    }
    let site = Site::new("cargo");
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        let about =
            format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
        site.write(&format!("{name}/Cargo.toml"), &about);
        site.write(&format!("{name}/src/lib.rs"), "");
    }
    site.write(
        "Cargo.toml",
        &format!("[workspace]\nresolver = \"2\"\nmembers = {names:?}\n"),
    );
    let wrapper = format!(
        "#!/bin/sh\ncase \"$*\" in *src/lib.rs*) echo $$ >&9; read x < {}/gate;; esac\nexec \"$@\"\n",
        site.folder.display()
    );
    site.write("wrapper", &wrapper);
    let path = site.folder.join("wrapper");
    executable(&path);
    let shop = Shop::new(3, None);
    let (mut jobs, says) = Watchline::new();
    let build = shell("exec 9>&2 2>/dev/null; cargo build --offline --quiet")
        .current_dir(&site.folder)
        .stderr(says)
        .env("RUSTC_WRAPPER", path)
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("CARGO_TARGET_DIR", site.folder.join("target"))
        .env("CARGO_BUILD_JOBS", "8")
        .env("MAKEFLAGS", "");
    let mut build = shop.submit(build);
    jobs.pids(3);
    let stats = shop.jobserver.stats();
    assert_eq!((stats.running, stats.held), (1, 2));
    site.open(5);
    assert!(build.wait_blocking().unwrap().success());
    assert_eq!(shop.jobserver.stats().restored, 0);
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A command that names a jobserver itself keeps it; others see theirs beside the flags they had.
fn a_jobserver_of_its_own_is_kept() {
    let shop = Shop::new(3, Some(Style::Fifo));
    let show = |flags: &str| {
        let command = shell("printf %s \"$MAKEFLAGS\"")
            .env("MAKEFLAGS", flags)
            .capture_stdout(1_000);
        let exit = shop.submit(command).wait_blocking().unwrap();
        String::from_utf8(exit.stdout.unwrap().to_bytes().unwrap()).unwrap()
    };
    assert_eq!(show("k --jobserver-auth=5,6"), "k --jobserver-auth=5,6");
    let ours = show("k -j2");
    assert!(ours.starts_with("k -j3 --jobserver-auth=fifo:/"), "{ours}");
}
