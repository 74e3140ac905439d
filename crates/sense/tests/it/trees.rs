//! Captured trees: what is right is read to the last digit, what is odd costs the reading it concerns and no other.

use crate::tree::{Tree, WHOLE, missing, sample_at, stat_of};
use flyball_sense::{CoreTimes, CpuTimes, Load, MAX_FILE_BYTES, Pressure, Sample, Stall, usage};
use std::os::unix::fs::symlink;
use std::process::Command;

const TICK_NS: u64 = 10_000_000;

fn cpu_times(ticks: [u64; 8]) -> CpuTimes {
    let [
        user_ns,
        nice_ns,
        system_ns,
        idle_ns,
        iowait_ns,
        irq_ns,
        softirq_ns,
        steal_ns,
    ] = ticks.map(|ticks| ticks * TICK_NS);
    CpuTimes {
        user_ns,
        nice_ns,
        system_ns,
        idle_ns,
        iowait_ns,
        irq_ns,
        softirq_ns,
        steal_ns,
    }
}

/// MON-2: every figure of a captured machine is what its files say; guest time, which is inside user time, is not added.
#[test]
fn figures_are_those_of_the_files() {
    let (sample, missing) = Tree::whole().look();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(
        sample.cpu,
        Some(cpu_times([
            454330, 545615, 253176, 1122553, 3313, 1, 1160, 2115
        ]))
    );
    let core = |cpu, ticks| CoreTimes {
        cpu,
        times: cpu_times(ticks),
    };
    assert_eq!(
        sample.cores,
        [
            core(0, [223809, 262866, 123094, 578918, 850, 1, 424, 1016]),
            core(1, [230521, 282749, 130081, 543634, 2462, 0, 736, 1098]),
        ]
    );
    assert_eq!(sample.context_switches, Some(33922213));
    let load = Load {
        one: 2.16,
        five: 1.05,
        fifteen: 0.10,
        runnable: 3,
        threads: 122,
    };
    assert_eq!(sample.load, Some(load));

    let memory = sample.memory.unwrap();
    assert_eq!(memory.total_bytes, 24684096 << 10);
    assert_eq!(memory.free_bytes, 23190420 << 10);
    assert_eq!(memory.available_bytes, 24051960 << 10);
    assert_eq!(memory.buffers_bytes, 6908 << 10);
    assert_eq!(memory.cached_bytes, 883536 << 10);
    assert_eq!(memory.swap_total_bytes, 2097148 << 10);
    assert_eq!(memory.swap_free_bytes, 2097140 << 10);
    assert_eq!(memory.dirty_bytes, 110076 << 10);
    assert_eq!(memory.shared_bytes, 8788 << 10);

    let process = sample.process.unwrap();
    let (resident, mapped) = (
        process.resident_bytes.unwrap(),
        process.virtual_bytes.unwrap(),
    );
    assert_eq!(resident * 787, mapped * 549, "both are pages");
    assert!(process.cpu_ns > 0);
    assert_eq!(process.threads, None, "a copied folder counts nothing");
    assert_eq!(process.open_files, None);

    let stall = |avg10, avg60, avg300, total_us: u64| Stall {
        avg10,
        avg60,
        avg300,
        total_ns: total_us * 1000,
    };
    let pressure = |some, full| {
        Some(Pressure {
            some,
            full: Some(full),
        })
    };
    assert_eq!(
        sample.cpu_pressure,
        pressure(stall(2.16, 1.16, 1.12, 3258506048), stall(0.0, 0.0, 0.0, 0))
    );
    assert_eq!(
        sample.memory_pressure,
        pressure(stall(0.1, 0.2, 0.3, 40), stall(0.01, 0.02, 0.03, 4))
    );
    assert_eq!(
        sample.io_pressure,
        pressure(
            stall(1.19, 0.32, 0.12, 38082747),
            stall(100.0, 0.32, 0.11, 21976468)
        )
    );
}

/// MON-2: nothing at all is there; the process itself is still known by system calls, nothing else is made up.
#[test]
fn an_empty_root() {
    let tree = Tree::empty();
    let mut sensors = tree.sensors();
    let sample = sample_at(&mut sensors, 1);
    let process = sample.process.unwrap();
    assert_eq!((process.resident_bytes, process.threads), (None, None));
    let rest = Sample::default();
    assert_eq!(readings(&sample), readings(&rest));
    let mut names: Vec<&str> = sensors
        .unavailable()
        .iter()
        .map(|entry| entry.what)
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 13, "{names:?}");
    assert_eq!(sensors.unavailable().len(), 13, "each once");
    for entry in sensors.unavailable() {
        assert!(entry.reason.contains("No such file"), "{entry:?}");
    }
}

/// MON-2: 1,024 CPUs, of which each third is offline, and a line of interrupts that no first buffer holds.
#[test]
fn a_large_machine() {
    let tree = Tree::whole();
    let online: Vec<u32> = (0..1024).filter(|cpu| cpu % 3 != 2).collect();
    tree.write("proc/stat", stat_of(online.iter().copied(), 100_000));
    let (sample, missing) = tree.look();
    assert!(missing.is_empty(), "{missing:?}");
    let cpus: Vec<u32> = sample.cores.iter().map(|core| core.cpu).collect();
    assert_eq!(cpus, online);
    let last = sample.cores.last().unwrap();
    assert_eq!(last.times.steal_ns, (8 + u64::from(last.cpu)) * TICK_NS);
    assert_eq!(sample.context_switches, Some(33922213));
}

/// MON-2: a kernel without pressure information, one that has switched it off, and one that tells no `full` for CPUs.
#[test]
fn pressure_is_optional() {
    let tree = Tree::whole();
    tree.remove("proc/pressure");
    let (sample, missing) = tree.look();
    assert_eq!(missing, ["cpu pressure", "memory pressure", "io pressure"]);
    assert!(sample.cpu_pressure.is_none() && sample.io_pressure.is_none());

    let line = "some avg10=2.16 avg60=1.16 avg300=1.12 total=5\n";
    tree.write("proc/pressure/cpu", line)
        .write("proc/pressure/memory", "");
    let (sample, missing) = tree.look();
    assert_eq!(missing, ["memory pressure", "io pressure"]);
    let pressure = sample.cpu_pressure.unwrap();
    assert_eq!((pressure.some.total_ns, pressure.full), (5000, None));
}

/// Everything but when and the process, a name and a text each.
fn readings(sample: &Sample) -> Vec<(&'static str, String)> {
    vec![
        ("cpu", format!("{:?}", sample.cpu)),
        ("cores", format!("{:?}", sample.cores)),
        ("context switches", format!("{:?}", sample.context_switches)),
        ("load", format!("{:?}", sample.load)),
        ("memory", format!("{:?}", sample.memory)),
        (
            "process memory",
            format!(
                "{:?}",
                sample.process.and_then(|process| process.resident_bytes)
            ),
        ),
        ("cgroup memory", format!("{:?}", sample.cgroup_memory)),
        ("cpu quota", format!("{:?}", sample.quota)),
        ("cpu pressure", format!("{:?}", sample.cpu_pressure)),
        ("memory pressure", format!("{:?}", sample.memory_pressure)),
        ("io pressure", format!("{:?}", sample.io_pressure)),
    ]
}

fn unknown(reading: &(&'static str, String)) -> bool {
    ["None", "[]"].contains(&reading.1.as_str())
}

/// The readings that need a file.
fn depend_on(path: &str) -> &'static [&'static str] {
    match path {
        "proc/stat" => &["cpu", "cores", "context switches"],
        "proc/loadavg" => &["load"],
        "proc/meminfo" => &["memory"],
        "proc/self/statm" => &["process memory"],
        "proc/pressure/cpu" => &["cpu pressure"],
        "proc/pressure/memory" => &["memory pressure"],
        "proc/pressure/io" => &["io pressure"],
        "proc/self/cgroup" | "proc/self/mountinfo" => &["cgroup memory", "cpu quota"],
        path if path.ends_with("/memory.peak") || path.ends_with("/memory.events") => &[],
        path if path.contains("/memory.") => &["cgroup memory"],
        path if path.contains("/cpu.") => &["cpu quota"],
        path => panic!("{path}"),
    }
}

/// MON-2: garbage of every kind in each file makes what needs the file unknown, and listed once however often it is
/// looked at; everything else stays as it was.
#[test]
fn garbage_costs_one_reading() {
    let good = readings(&Tree::whole().sample());
    let huge = vec![b'7'; MAX_FILE_BYTES + 1];
    let binary: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let odd: [&[u8]; 11] = [
        b"",
        b"\n",
        b"\n\n\n",
        b"0",
        b"-7 -7 -7\n",
        b"cpu  1 2 3\ncpu0 1 2 3\nintr 1\nctxt x\n",
        b"cpu  99999999999999999999 1 1 1 1 1 1 1\ncpu0 99999999999999999999 1 1 1 1 1 1 1\nintr 1\nctxt 99999999999999999999\n",
        b"some avg10=nan avg60=inf avg300=1e9 total=-1\nMemTotal: lots kB\nnr_periods x\n",
        b"\xff\xfe\xfd 12 \x00\n",
        &binary,
        &huge,
    ];
    for (path, text) in WHOLE {
        let tree = Tree::whole();
        let mut sensors = tree.sensors();
        for text in odd {
            tree.write(path, text);
            // What is mounted is only looked at for a new membership.
            if path.ends_with("mountinfo") {
                sensors = tree.sensors();
            }
            // Long enough apart for the membership to be read again.
            let mut second = 20;
            let mut look = || {
                second += 20;
                let sample = sample_at(&mut sensors, second);
                (readings(&sample), missing(&sensors))
            };
            let (now, listed) = look();
            let concerned = depend_on(path);
            for (reading, before) in now.iter().zip(&good) {
                if concerned.contains(&reading.0) {
                    assert!(unknown(reading), "{path} {text:?}: {reading:?}");
                } else if !(concerned.is_empty() && reading.0 == "cgroup memory") {
                    assert_eq!(reading, before, "{path} {text:?}");
                }
            }
            let mut sorted = listed.clone();
            sorted.sort_unstable();
            let mut wanted = concerned.to_vec();
            wanted.sort_unstable();
            assert_eq!(sorted, wanted, "{path} {text:?}");
            assert_eq!(look().1, listed, "the second look lists nothing twice");
        }
        // And back again.
        tree.write(path, text);
        if path.ends_with("mountinfo") {
            sensors = tree.sensors();
        }
        let sample = sample_at(&mut sensors, 1000);
        assert_eq!(readings(&sample), good, "{path}");
        assert!(missing(&sensors).is_empty(), "{:?}", sensors.unavailable());
    }
}

/// MON-2: a file that was cut off anywhere gives what the whole one gives or nothing, never a figure in between.
#[test]
fn cut_off_anywhere() {
    let whole = Tree::whole().sample();
    let good = readings(&whole);
    for (path, text) in WHOLE {
        let tree = Tree::whole();
        let mut sensors = tree.sensors();
        for end in 0..text.len() {
            tree.write(path, &text[..end]);
            if path.ends_with("mountinfo") {
                sensors = tree.sensors();
            }
            let sample = sample_at(&mut sensors, 20 * end as u64);
            for (reading, before) in readings(&sample).iter().zip(&good) {
                let told = match reading.0 {
                    // These may lose their second line, their peak or their kills.
                    name if name.ends_with("pressure") => continue,
                    "cgroup memory" => continue,
                    _ => !unknown(reading),
                };
                assert!(
                    !told || reading == before,
                    "{path}, {end} bytes: {reading:?}"
                );
            }
            for (now, before) in [
                (sample.cpu_pressure, whole.cpu_pressure),
                (sample.memory_pressure, whole.memory_pressure),
                (sample.io_pressure, whole.io_pressure),
            ] {
                let before = before.unwrap();
                if let Some(now) = now {
                    assert_eq!(now.some, before.some, "{path}, {end} bytes");
                    assert!(now.full.is_none() || now.full == before.full);
                }
            }
            if let Some(now) = sample.cgroup_memory {
                let before = whole.cgroup_memory.unwrap();
                assert_eq!(now.current_bytes, before.current_bytes, "{path}, {end}");
                assert_eq!(now.limit_bytes, before.limit_bytes, "{path}, {end}");
                assert_eq!(now.headroom_bytes, before.headroom_bytes, "{path}, {end}");
                assert!(now.peak_bytes.is_none() || now.peak_bytes == before.peak_bytes);
                assert!(now.oom_kills.is_none() || now.oom_kills == before.oom_kills);
            }
        }
    }
}

/// MON-2: what stands in place of a file need not be one: a folder, a pipe that nobody writes, a link to itself.
#[test]
fn things_that_are_no_files() {
    let tree = Tree::whole();
    tree.remove("proc/stat")
        .remove("proc/loadavg")
        .remove("proc/meminfo");
    std::fs::create_dir(tree.path("proc/stat")).unwrap();
    let made = Command::new("mkfifo")
        .arg(tree.path("proc/loadavg"))
        .status();
    assert!(made.unwrap().success());
    symlink("meminfo", tree.path("proc/meminfo")).unwrap();
    let (sample, missing) = tree.look();
    assert_eq!(
        missing,
        ["cpu", "cores", "context switches", "load", "memory"]
    );
    assert!(sample.io_pressure.is_some() && sample.quota.is_some());
}

/// MON-2: a file that fills the bound is read, one byte more is refused with the bound as the reason.
#[test]
fn the_bound_on_files() {
    let tree = Tree::whole();
    let text = stat_of(0..2, 0);
    let padded = |length: usize| {
        let spare = length - text.len();
        text.replacen("\nctxt", &format!("{}\nctxt", " ".repeat(spare)), 1)
    };
    tree.write("proc/stat", padded(MAX_FILE_BYTES));
    assert_eq!(tree.sample().context_switches, Some(33922213));
    tree.write("proc/stat", padded(MAX_FILE_BYTES + 1));
    let sensors = tree.sensors();
    let reason = &sensors.unavailable()[0].reason;
    assert!(
        reason.contains(&format!("larger than {MAX_FILE_BYTES} bytes")),
        "{reason}"
    );
}

/// MON-2: CPUs that are unplugged and plugged in again, and counters that begin anew, have no percentage in that window;
/// the others have.
#[test]
fn cpus_come_and_go() {
    let tree = Tree::whole();
    let mut sensors = tree.sensors();
    let text = |cores: &[(u32, u64, u64)]| {
        let (user, idle) = (1000, 9000);
        let mut text = format!("cpu  {user} 0 0 {idle} 0 0 0 0 0 0\n");
        for (cpu, user, idle) in cores {
            text += &format!("cpu{cpu} {user} 0 0 {idle} 0 0 0 0 0 0\n");
        }
        text + "intr 1\nctxt 5\n"
    };
    let mut busy = Vec::new();
    let mut before: Option<Sample> = None;
    for (second, cores) in [
        &[(0, 100, 100), (1, 100, 100)][..],
        &[(0, 150, 150), (1, 175, 125), (3, 9000, 9000)],
        &[(0, 150, 250), (3, 9100, 9000)],
        &[(0, 10, 260), (1, 180, 130), (3, 9100, 9000)],
    ]
    .into_iter()
    .enumerate()
    {
        tree.write("proc/stat", text(cores));
        let after = sample_at(&mut sensors, second as u64 + 1);
        if let Some(before) = &before {
            let usage = usage(before, &after);
            busy.push(
                usage
                    .per_core
                    .iter()
                    .map(|core| (core.cpu, core.busy_percent))
                    .collect::<Vec<_>>(),
            );
            assert_eq!(usage.cpu, None, "no tick was counted");
        }
        before = Some(after);
    }
    assert_eq!(busy[0], [(0, Some(50.0)), (1, Some(75.0)), (3, None)]);
    assert_eq!(busy[1], [(0, Some(0.0)), (3, Some(100.0))]);
    assert_eq!(busy[2], [(0, None), (1, None), (3, None)]);
}
