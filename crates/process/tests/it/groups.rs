//! Control groups and what trees use. The groups are real where this process may make them, which root may; elsewhere those tests
//! say that they cannot and leave it at that.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flyball_process::bounds::cgroup::CgroupPool;
use flyball_process::bounds::memory::Count;
use flyball_process::bounds::scope::Scope;
use flyball_process::{Command, Containment, Ended, Error, Options, SpawnServer};

use crate::{Test, helper, server};

pub(crate) const TESTS: &[Test] = &[
    ("groups::they_bound_all_commands", bound_all),
    ("groups::they_bound_each_command", bound_each),
    ("groups::they_are_removed", removed),
    ("groups::they_left_by_a_killed_program_are_swept", swept),
    ("groups::they_are_refused_with_a_reason", refused),
    ("groups::without_groups_a_bound_is_refused", unbounded),
    ("groups::what_a_tree_uses_is_measured", measured),
    ("groups::a_scope_is_asked_for_and_entered", scope),
    ("groups::a_scope_is_refused_with_a_reason", no_scope),
];

/// A pool, or nothing where there can be none.
fn pool() -> Option<CgroupPool> {
    match CgroupPool::make() {
        Ok(pool) => Some(pool),
        Err(why) => {
            let _ = write!(std::io::stdout(), "(not here: {why}) ");
            None
        }
    }
}

fn server_in(pool: &CgroupPool) -> SpawnServer {
    let mut options = Options::default();
    options.groups = Some(pool.clone());
    SpawnServer::start(options).expect("the spawn server starts")
}

/// TASK-11, TASK-12: the kernel keeps the bound on all commands together, and says which it killed.
fn bound_all() {
    let Some(pool) = pool() else { return };
    pool.set_memory(Some(96 << 20)).unwrap();
    let server = server_in(&pool);
    assert!(matches!(server.containment(), Containment::Groups { .. }));
    let exit = server
        .spawn(helper(&["fill", "300"]))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(exit.out_of_memory, "{exit:?}");
    assert!(
        matches!(exit.ended, Ended::Signalled { signal: 9, .. }),
        "{exit:?}"
    );
    assert!(
        pool.peak().is_none_or(|peak| peak <= 96 << 20),
        "{:?}",
        pool.peak()
    );
    let exit = server
        .spawn(helper(&["fill", "30"]))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(exit.success() && !exit.out_of_memory, "{exit:?}");
    // A bound that is raised, and taken away.
    pool.set_memory(Some(512 << 20)).unwrap();
    pool.set_memory(None).unwrap();
    let exit = server
        .spawn(helper(&["fill", "150"]))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(exit.success(), "{exit:?}");
}

/// TASK-11: a command's own bound is its own, and not that of the next one.
fn bound_each() {
    let Some(pool) = pool() else { return };
    let server = server_in(&pool);
    let exit = server
        .spawn(helper(&["fill", "200"]).memory(48 << 20))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(exit.out_of_memory && !exit.success(), "{exit:?}");
    let exit = server
        .spawn(helper(&["fill", "200"]))
        .unwrap()
        .wait_blocking()
        .unwrap();
    assert!(exit.success() && !exit.out_of_memory, "{exit:?}");
}

/// TASK-11: nothing is left of the groups.
fn removed() {
    let Some(pool) = pool() else { return };
    let directory = pool.directory().to_owned();
    let server = server_in(&pool);
    let mut children: Vec<_> = (0..5)
        .map(|_| server.spawn(Command::new("true")).unwrap())
        .collect();
    children
        .iter_mut()
        .for_each(|child| assert!(child.wait_blocking().unwrap().success()));
    assert!(directory.join("0").is_dir());
    drop(children);
    drop(server);
    drop(pool);
    assert!(!directory.exists(), "{}", directory.display());
}

/// TASK-11: groups whose program was killed go with the next pool; those of living programs stay.
fn swept() {
    let Some(first) = pool() else { return };
    let parent = first.directory().parent().unwrap();
    let left = parent.join("flyball-1-999");
    std::fs::create_dir_all(left.join("0")).unwrap();
    let second = pool().unwrap();
    assert!(!left.exists() && first.directory().exists() && second.directory().exists());
    assert_ne!(first.directory(), second.directory());
}

/// A folder that stands for the root of another system.
struct Other(PathBuf);

impl Other {
    fn new(name: &str) -> Other {
        let path =
            std::env::temp_dir().join(format!("flyball-groups-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Other(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// TASK-20: where there can be no group, the reason is told.
fn refused() {
    let other = Other::new("v2");
    let root = flyball_sense::Root::at(&other.0);
    assert!(
        CgroupPool::make_below(&root)
            .unwrap_err()
            .contains("proc/self/cgroup")
    );
    other.write("proc/self/cgroup", "0::/user.slice/app.slice/shell.scope\n");
    other.write(
        "proc/self/mountinfo",
        "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n",
    );
    other.write(
        "sys/fs/cgroup/user.slice/app.slice/shell.scope/cgroup.procs",
        "",
    );
    let why = CgroupPool::make_below(&root).unwrap_err();
    assert!(why.contains("hands the memory controller on"), "{why}");
    other.write(
        "sys/fs/cgroup/user.slice/app.slice/cgroup.subtree_control",
        "cpu memory pids\n",
    );
    let why = CgroupPool::make_below(&root).unwrap_err();
    assert!(why.contains("app.slice/cgroup.procs"), "{why}");
    // A folder is no control group: nothing appears in what is made there.
    other.write("sys/fs/cgroup/user.slice/app.slice/cgroup.procs", "");
    assert!(CgroupPool::make_below(&root).is_err());
    let left = std::fs::read_dir(other.0.join("sys/fs/cgroup/user.slice/app.slice")).unwrap();
    assert!(
        left.flatten()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with("flyball"))
    );
}

/// TASK-11: a bound that cannot be kept is refused, not forgotten.
fn unbounded() {
    let server = server();
    let error = server
        .spawn(Command::new("true").memory(1 << 30))
        .unwrap_err();
    assert!(matches!(error, Error::MemoryBound { .. }), "{error}");
    assert_eq!(server.running(), 0);
}

/// TASK-20: what a tree uses is seen from outside, with and without groups, its forks included.
fn measured() {
    for groups in [None, pool()] {
        let grouped = groups.is_some();
        let mut options = Options::default();
        options.groups = groups;
        let server = SpawnServer::start(options).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let (stay, go) = std::io::pipe().unwrap();
        let program = crate::this_program();
        let mut child = server
            .spawn(
                Command::new("sh")
                    .arg("-c")
                    .arg("\"$0\" --helper hold 40 & \"$0\" --helper hold 20; wait")
                    .arg(program)
                    .stdin(stay)
                    .stdout(writer),
            )
            .unwrap();
        let mut lines = BufReader::new(reader).lines();
        // Background commands of a shell have no standard input, so the first ends at once and only the second holds.
        assert_eq!(lines.next().unwrap().unwrap(), "held");
        assert_eq!(lines.next().unwrap().unwrap(), "held");
        let control = child.control();
        let used =
            [Count::Resident, Count::Proportional].map(|count| control.memory(count).unwrap());
        assert!(
            used.iter().all(|used| (20 << 20..100 << 20).contains(used)),
            "{grouped} {used:?}"
        );
        assert!(used[1] <= used[0] + (1 << 20), "{grouped} {used:?}");
        drop(go);
        assert!(child.wait_blocking().unwrap().success());
        assert_eq!(control.memory(Count::Resident), None);
    }
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// What makes a user's service manager appear to be there.
fn manager(other: &Other, program: &str) -> Result<Scope, String> {
    other.write("groups/cgroup.controllers", "cpu memory pids\n");
    std::fs::create_dir_all(other.0.join("run/systemd")).unwrap();
    let socket = other.0.join("run/systemd/private");
    let _ = std::fs::remove_file(&socket);
    let _socket = std::os::unix::net::UnixListener::bind(socket).unwrap();
    script(&other.0.join("systemd-run"), program);
    Scope::find(
        256 << 20,
        Some(&other.0.join("run")),
        other.0.as_os_str(),
        &other.0.join("groups"),
    )
}

/// TASK-20: the server is started through the service manager's program, which becomes it.
fn scope() {
    let other = Other::new("scope");
    let told = other.0.join("told");
    let program = format!(
        "#!/bin/sh\nfor word; do echo \"$word\" >> {}; shift; test \"$word\" = -- && break; done\nexec \"$@\"\n",
        told.display()
    );
    let mut options = Options::default();
    options.scope = Some(manager(&other, &program).unwrap());
    let server = SpawnServer::start(options).unwrap();
    assert_eq!(server.containment(), Containment::Scope);
    assert!(
        server
            .spawn(Command::new("true"))
            .unwrap()
            .wait_blocking()
            .unwrap()
            .success()
    );
    let told = std::fs::read_to_string(told).unwrap();
    for word in [
        "--user",
        "--scope",
        "--property=MemoryMax=268435456",
        "--property=MemorySwapMax=0",
    ] {
        assert!(told.lines().any(|line| line == word), "{told}");
    }
}

/// TASK-20: where the manager is not there or refuses, that is said, and nothing is left running.
fn no_scope() {
    let other = Other::new("no-scope");
    let find = |runtime: Option<&Path>| {
        Scope::find(
            1 << 20,
            runtime,
            other.0.as_os_str(),
            &other.0.join("groups"),
        )
        .unwrap_err()
    };
    assert!(find(None).contains("version 2"));
    other.write("groups/cgroup.controllers", "cpu memory pids\n");
    assert!(find(None).contains("XDG_RUNTIME_DIR"));
    assert!(find(Some(&other.0)).contains("no service manager"));
    let mut options = Options::default();
    options.scope = Some(manager(&other, "#!/bin/sh\nexit 1\n").unwrap());
    assert!(matches!(
        SpawnServer::start(options),
        Err(Error::Handshake { .. })
    ));
}
