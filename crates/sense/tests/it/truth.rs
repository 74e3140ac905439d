//! Percentages against an independent reader of `/proc` over the same window, with the machine under load.
//!
//! The reader below shares no code with the crate. Both look at the same instant: a look counts when the reader saw the
//! same counters before and after the sensors did, so that neither a tick nor a preemption lies between.

use flyball_core::time::{Clock, OsClock};
use flyball_sense::{Root, Sample, Sensors, usage};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How far two readers may lie apart, percentage points.
const POINTS: f64 = 2.0;

/// One at a time, so that each load is what it says.
static ALONE: Mutex<()> = Mutex::new(());

/// Foreign processes that keep CPUs busy. They end with this value, and by themselves when this process is gone.
struct Foreign(Vec<Child>);

impl Foreign {
    fn start(count: usize) -> Self {
        const LOOP: &str =
            "while kill -0 $PPID; do i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done; done";
        let start = |_| {
            let mut command = Command::new("sh");
            command.args(["-c", LOOP]);
            command.stdin(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        Self((0..count).map(start).collect())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended already only has a status left.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the independent reader sees: ticks of all CPUs, of each, and of this process.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    lines: Vec<(String, Vec<u64>)>,
    own: u64,
}

fn read() -> Seen {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let lines = text.lines().filter(|line| line.starts_with("cpu"));
    let lines = lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap().to_owned();
            (name, words.map(|word| word.parse().unwrap()).collect())
        })
        .collect();
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after_name) = text.rsplit_once(')').unwrap();
    let words: Vec<&str> = after_name.split_whitespace().collect();
    // Fields 14 and 15, user and system time; the name was field 2.
    let ticks = |index: usize| words[index].parse::<u64>().unwrap();
    Seen {
        lines,
        own: ticks(11) + ticks(12),
    }
}

/// How many ticks passed on all CPUs.
fn ticks_between(before: &Seen, after: &Seen) -> u64 {
    let lines = before.lines.iter().zip(&after.lines);
    let ticks = lines.flat_map(|(before, after)| before.1.iter().zip(&after.1));
    ticks.map(|(before, after)| after.abs_diff(*before)).sum()
}

/// The sensors and the reader at one instant. On a machine with so many CPUs that ticks never cease, the try with the
/// fewest; a tick of one CPU is less than a point of it.
fn both(sensors: &mut Sensors) -> (Sample, Seen) {
    let mut sample = Sample::default();
    let mut best: Option<(u64, Sample, Seen)> = None;
    for _ in 0..1000 {
        let before = read();
        sensors.sample(OsClock.now(), &mut sample);
        let after = read();
        let ticks = ticks_between(&before, &after) + (after.own - before.own);
        if best.as_ref().is_none_or(|best| ticks < best.0) {
            best = Some((ticks, sample.clone(), after));
        }
        if ticks == 0 {
            break;
        }
    }
    let (_, sample, seen) = best.unwrap();
    (sample, seen)
}

/// Ticks that were not idle and all ticks, guest time left out because it is inside user time.
fn busy_and_all(before: &[u64], after: &[u64]) -> (f64, f64) {
    let gain: Vec<f64> = (0..8)
        .map(|kind| after[kind] as f64 - before[kind] as f64)
        .collect();
    let all: f64 = gain.iter().sum();
    (all - gain[3] - gain[4], all)
}

fn assert_close(what: &str, told: f64, seen: f64) {
    assert!(
        (told - seen).abs() <= POINTS,
        "{what}: told {told}, seen {seen}"
    );
}

fn assert_about(told: f64, seen: f64, apart: f64) {
    assert!(
        (told - seen).abs() <= apart,
        "told {told} ticks, seen {seen}"
    );
}

/// Compares the two over about a second, while `own_threads` and `foreign` processes are busy.
fn compare(own_threads: usize, foreign: usize) {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let _foreign = Foreign::start(foreign);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..own_threads {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        // The threads must end whatever comes of the comparison.
        let outcome = std::panic::catch_unwind(|| {
            let mut sensors = Sensors::open(&Root::default());
            let (before, seen_before) = both(&mut sensors);
            assert!(Command::new("sleep").arg("1.2").status().unwrap().success());
            let (after, seen_after) = both(&mut sensors);
            (before, seen_before, after, seen_after)
        });
        stop.store(true, Relaxed);
        let (before, seen_before, after, seen_after) = outcome.unwrap();
        let usage = usage(&before, &after);

        let cpu = usage.cpu.unwrap();
        let (busy, all) = busy_and_all(&seen_before.lines[0].1, &seen_after.lines[0].1);
        assert_close("overall", cpu.overall_percent, 100.0 * busy / all);
        let kind = |kind: usize| {
            100.0 * (seen_after.lines[0].1[kind] as f64 - seen_before.lines[0].1[kind] as f64) / all
        };
        assert_close("user", cpu.user_percent, kind(0) + kind(1));
        assert_close("system", cpu.system_percent, kind(2) + kind(5) + kind(6));
        assert_close("steal", cpu.steal_percent, kind(7));

        assert_eq!(usage.per_core.len(), seen_after.lines.len() - 1);
        for (core, (name, ticks)) in usage.per_core.iter().zip(&seen_after.lines[1..]) {
            assert_eq!(*name, format!("cpu{}", core.cpu));
            let (_, earlier) = seen_before
                .lines
                .iter()
                .find(|line| line.0 == *name)
                .unwrap();
            let (busy, all) = busy_and_all(earlier, ticks);
            assert_close(name, core.busy_percent.unwrap(), 100.0 * busy / all);
        }

        let own = (seen_after.own - seen_before.own) as f64;
        assert_close("process", usage.process_percent.unwrap(), 100.0 * own / all);
        let told_ticks =
            (after.process.unwrap().cpu_ns - before.process.unwrap().cpu_ns) as f64 / 1e7;
        // User and system time are whole ticks each.
        assert_about(told_ticks, own, 2.0 + own / 100.0);
        if own_threads > 0 {
            assert!(own > 0.0, "there was something to compare");
        }
    });
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// API-2: overall, each core and the process agree with an independent reader within 2 points while foreign processes
/// load the machine.
#[test]
fn under_foreign_load() {
    compare(0, cpus());
}

/// API-2: the same while the load is this process's own.
#[test]
fn under_own_load() {
    compare(cpus(), 0);
}

/// API-2: the same while both compete.
#[test]
fn under_both() {
    compare(cpus(), cpus());
}
