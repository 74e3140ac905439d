//! Control groups of every kind, as captured from hosts and containers.

use crate::tree::{Tree, missing, sample_at};
use flyball_sense::{MAX_LEVELS, usage};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

/// A machine without control groups.
fn bare() -> Tree {
    let tree = Tree::whole();
    tree.remove("sys")
        .remove("proc/self/cgroup")
        .remove("proc/self/mountinfo");
    tree
}

const STAT_V2: &str = "usage_usec 1\nnr_periods 10\nnr_throttled 4\nthrottled_usec 7\n";
const STAT_V1: &str = "nr_periods 10\nnr_throttled 4\nthrottled_time 7000\n";

/// CPU-31: the tightest quota of all levels is the one that counts, with its own throttled time; that of other levels
/// stands beside it.
#[test]
fn version_2_nested() {
    let sample = Tree::whole().sample();
    let quota = sample.quota.unwrap();
    assert_eq!((quota.cpus, quota.level), (1.5, 0));
    assert_eq!((quota.periods, quota.throttled_periods), (100, 20));
    assert_eq!(
        (quota.throttled_ns, quota.other_throttled_ns),
        (3_000_000, 70_000)
    );
    let memory = sample.cgroup_memory.unwrap();
    assert_eq!(memory.version, 2);
    assert_eq!(memory.current_bytes, 1_048_576);
    assert_eq!(
        memory.limit_bytes,
        Some(8_000_000),
        "that of the group around"
    );
    assert_eq!(
        memory.headroom_bytes,
        Some(500_000),
        "siblings use the rest"
    );
    assert_eq!(
        (memory.peak_bytes, memory.oom_kills),
        (Some(2_097_152), Some(2))
    );
}

/// CPU-31: what the quota cost between two samples is a figure; of groups that are not the same there is none.
#[test]
fn throttled_time_of_a_window() {
    let tree = Tree::whole();
    let mut sensors = tree.sensors();
    let before = sample_at(&mut sensors, 1);
    tree.write(
        "sys/fs/cgroup/app.slice/job.service/cpu.stat",
        "nr_periods 120\nnr_throttled 25\nthrottled_usec 1003000\n",
    );
    tree.write(
        "sys/fs/cgroup/app.slice/cpu.stat",
        "nr_periods 1020\nnr_throttled 5\nthrottled_usec 500070\n",
    );
    let after = sample_at(&mut sensors, 3);
    let window = usage(&before, &after);
    assert_eq!(window.throttled_ratio, Some(0.25));
    assert_eq!(
        window.throttled_cpus,
        Some(0.75),
        "1.5 s of it in two seconds"
    );

    tree.write("sys/fs/cgroup/app.slice/cpu.max", "100000 100000\n");
    let other = sample_at(&mut sensors, 4);
    assert_eq!(other.quota.unwrap().level, 1);
    let window = usage(&after, &other);
    assert_eq!(
        (window.throttled_ratio, window.throttled_cpus),
        (None, None)
    );

    // No period passed: nothing ran, and nothing was kept from running.
    let same = sample_at(&mut sensors, 5);
    assert_eq!(usage(&other, &same).throttled_ratio, Some(0.0));
}

/// MON-2: no quota is no fault.
#[test]
fn unlimited() {
    let tree = Tree::whole();
    for group in ["app.slice", "app.slice/job.service"] {
        tree.write(&format!("sys/fs/cgroup/{group}/cpu.max"), "max 100000\n");
        tree.write(&format!("sys/fs/cgroup/{group}/memory.max"), "max\n");
    }
    let (sample, missing) = tree.look();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(sample.quota, None);
    let memory = sample.cgroup_memory.unwrap();
    assert_eq!((memory.limit_bytes, memory.headroom_bytes), (None, None));
    assert_eq!(memory.current_bytes, 1_048_576);
}

/// MON-2: version 1, where the controllers have hierarchies of their own and the top says "no limit" as a number.
#[test]
fn version_1() {
    let tree = bare();
    tree.write(
        "proc/self/cgroup",
        "9:name=systemd:/\n4:memory:/batch/one\n2:cpu,cpuacct:/batch\n",
    );
    tree.write(
        "proc/self/mountinfo",
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
         33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
         35 31 0:32 / /sys/fs/cgroup/memory rw shared:4 master:1 - cgroup cgroup rw,memory\n",
    );
    let cpu = "sys/fs/cgroup/cpu,cpuacct/batch";
    tree.write(&format!("{cpu}/cpu.cfs_quota_us"), "250000\n");
    tree.write(&format!("{cpu}/cpu.cfs_period_us"), "100000\n");
    tree.write(&format!("{cpu}/cpu.stat"), STAT_V1);
    let memory = "sys/fs/cgroup/memory";
    tree.write(
        &format!("{memory}/memory.limit_in_bytes"),
        "9223372036854771712\n",
    );
    tree.write(&format!("{memory}/memory.usage_in_bytes"), "5000\n");
    tree.write(&format!("{memory}/batch/memory.limit_in_bytes"), "4096\n");
    tree.write(&format!("{memory}/batch/memory.usage_in_bytes"), "4097\n");
    let own = format!("{memory}/batch/one");
    tree.write(&format!("{own}/memory.limit_in_bytes"), "8192\n");
    tree.write(&format!("{own}/memory.usage_in_bytes"), "1000\n");
    tree.write(&format!("{own}/memory.max_usage_in_bytes"), "2000\n");
    tree.write(
        &format!("{own}/memory.oom_control"),
        "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n",
    );
    let (sample, missing) = tree.look();
    assert!(missing.is_empty(), "{missing:?}");
    let quota = sample.quota.unwrap();
    assert_eq!(
        (quota.cpus, quota.periods, quota.throttled_ns),
        (2.5, 10, 7000)
    );
    let memory = sample.cgroup_memory.unwrap();
    assert_eq!((memory.version, memory.current_bytes), (1, 1000));
    assert_eq!(memory.limit_bytes, Some(4096));
    assert_eq!(
        memory.headroom_bytes,
        Some(0),
        "more than the limit is used"
    );
    assert_eq!((memory.peak_bytes, memory.oom_kills), (Some(2000), Some(6)));

    tree.write(&format!("{cpu}/cpu.cfs_quota_us"), "-1\n");
    let (sample, missing) = tree.look();
    assert_eq!((sample.quota, missing.len()), (None, 0));
}

/// MON-2: both at once: memory under version 1, CPU under version 2.
#[test]
fn hybrid() {
    let tree = bare();
    tree.write("proc/self/cgroup", "4:memory:/\n1:name=systemd:/a\n0::/a\n");
    tree.write(
        "proc/self/mountinfo",
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
         41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
    );
    tree.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "6000\n");
    tree.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n");
    tree.write("sys/fs/cgroup/unified/a/cpu.max", "50000 100000\n");
    tree.write("sys/fs/cgroup/unified/a/cpu.stat", STAT_V2);
    let (sample, missing) = tree.look();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(sample.quota.unwrap().cpus, 0.5);
    let memory = sample.cgroup_memory.unwrap();
    assert_eq!((memory.version, memory.headroom_bytes), (1, Some(1000)));
    assert_eq!(
        (memory.peak_bytes, memory.oom_kills),
        (None, None),
        "an old kernel"
    );
}

/// MON-2: in a container the path is the host's while the mount shows the container's part only; with a namespace both
/// begin at the container; blanks in mount points are escaped.
#[test]
fn containers() {
    for (group, subtree, directory) in [
        ("/docker/abc", "/docker/abc", "."),
        ("/docker/abc/inner", "/docker/abc", "inner"),
        ("/", "/", "."),
        (
            "/kubepods/burstable/pod7/c1",
            "/kubepods",
            "burstable/pod7/c1",
        ),
    ] {
        let tree = bare();
        tree.write("proc/self/cgroup", format!("0::{group}\n"));
        tree.write(
            "proc/self/mountinfo",
            format!("31 23 0:28 {subtree} /my\\040groups rw - cgroup2 cgroup2 rw\n"),
        );
        let own = format!("my groups/{directory}");
        tree.write(&format!("{own}/cpu.max"), "20000 100000\n");
        tree.write(&format!("{own}/cpu.stat"), STAT_V2);
        tree.write(&format!("{own}/memory.current"), "77\n");
        let (sample, missing) = tree.look();
        assert!(missing.is_empty(), "{group}: {missing:?}");
        assert_eq!(sample.quota.unwrap().cpus, 0.2, "{group}");
        assert_eq!(sample.cgroup_memory.unwrap().current_bytes, 77, "{group}");
    }
}

/// MON-2: where the process's group cannot be seen, no other group's limits are taken for its own.
#[test]
fn groups_out_of_sight() {
    for (group, subtree) in [
        ("/elsewhere", "/docker/abc"),
        ("/docker/abcdef", "/docker/abc"),
        ("/../other", "/"),
        ("/", "/../.."),
        ("/gone (deleted)", "/"),
    ] {
        let tree = bare();
        tree.write("proc/self/cgroup", format!("0::{group}\n"));
        tree.write(
            "proc/self/mountinfo",
            format!("31 23 0:28 {subtree} /groups rw - cgroup2 cgroup2 rw\n"),
        );
        for directory in ["groups", "other"] {
            tree.write(&format!("{directory}/cpu.max"), "20000 100000\n");
            tree.write(&format!("{directory}/cpu.stat"), STAT_V2);
            tree.write(&format!("{directory}/memory.current"), "77\n");
        }
        let (sample, missing) = tree.look();
        // What is above a group that was deleted still limits what ran in it, so there the quota is right.
        if !group.contains("deleted") {
            assert_eq!(sample.quota, None, "{group}");
            assert_eq!(missing, ["cgroup memory", "cpu quota"], "{group}");
        }
        assert_eq!(sample.cgroup_memory, None, "{group}");
    }
}

/// MON-2: of a chain of groups that is deeper than the bound nothing is told, as a limit might stand beyond it.
#[test]
fn very_deep() {
    // The top of the mount is a level, too.
    for (levels, told) in [(MAX_LEVELS - 1, true), (MAX_LEVELS, false)] {
        let tree = bare();
        let path: String = (0..levels).map(|level| format!("/{level}")).collect();
        tree.write("proc/self/cgroup", format!("0::{path}\n"));
        tree.write(
            "proc/self/mountinfo",
            "31 23 0:28 / /groups rw - cgroup2 cgroup2 rw\n",
        );
        tree.write(&format!("groups{path}/memory.current"), "77\n");
        tree.write("groups/0/memory.max", "80\n");
        tree.write("groups/0/memory.current", "78\n");
        let limit = tree.sample().cgroup_memory.map(|memory| memory.limit_bytes);
        assert_eq!(limit, told.then_some(Some(80)));
    }
}

/// MON-2: a process that is moved to another group is followed.
#[test]
fn moved() {
    let tree = Tree::whole();
    let mut sensors = tree.sensors();
    assert_eq!(sample_at(&mut sensors, 100).quota.unwrap().cpus, 1.5);
    tree.write("sys/fs/cgroup/new.slice/cpu.max", "700000 100000\n");
    tree.write("sys/fs/cgroup/new.slice/cpu.stat", STAT_V2);
    tree.write("sys/fs/cgroup/new.slice/memory.current", "5\n");
    tree.write("proc/self/cgroup", "0::/new.slice\n");
    assert_eq!(
        sample_at(&mut sensors, 101).quota.unwrap().cpus,
        1.5,
        "not yet"
    );
    let sample = sample_at(&mut sensors, 111);
    assert_eq!(sample.quota.unwrap().cpus, 7.0);
    assert_eq!(sample.cgroup_memory.unwrap().current_bytes, 5);
}

/// MON-2: an open file whose owner went away fails from then on, as those of a removed control group do (here it is a
/// process that ends); nothing else suffers, and a file that comes back is read again.
#[test]
fn vanished_and_back() {
    let tree = Tree::whole();
    let current = "sys/fs/cgroup/app.slice/job.service/memory.current";
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // A file of one number, which anybody may raise.
    let number = format!("/proc/{}/oom_score_adj", child.id());
    std::fs::write(&number, "7").unwrap();
    tree.remove(current);
    symlink(number, tree.path(current)).unwrap();
    let mut sensors = tree.sensors();
    let before = sample_at(&mut sensors, 100);
    assert_eq!(before.cgroup_memory.unwrap().current_bytes, 7);

    drop(child.stdin.take());
    child.wait().unwrap();
    let gone = sample_at(&mut sensors, 101);
    assert_eq!(gone.cgroup_memory, None);
    assert_eq!(missing(&sensors), ["cgroup memory"]);
    assert_eq!((gone.quota, gone.memory), (before.quota, before.memory));

    tree.remove(current).write(current, "9\n");
    assert_eq!(
        sample_at(&mut sensors, 102).cgroup_memory,
        None,
        "it is left alone"
    );
    let back = sample_at(&mut sensors, 120);
    assert_eq!(back.cgroup_memory.unwrap().current_bytes, 9);
    assert!(missing(&sensors).is_empty());
}
