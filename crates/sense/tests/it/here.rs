//! On the machine that runs the test.

use crate::allocations;
use flyball_core::time::{Clock, OsClock, Timestamp, process_cpu_nanos};
use flyball_sense::{Readings, Root, Sample, Sensors};
use std::sync::mpsc::channel;

fn look(sensors: &mut Sensors) -> Sample {
    let mut sample = Sample::default();
    sensors.sample(OsClock.now(), &mut sample);
    sample
}

/// MON-1: CPU, cores, memory, load and process are told on any Linux.
#[test]
fn the_common_readings_are_there() {
    let mut sensors = Sensors::open(&Root::default());
    let sample = look(&mut sensors);
    let missing = sensors.unavailable();
    assert!(sample.cpu.is_some(), "{missing:?}");
    assert!(!sample.cores.is_empty(), "{missing:?}");
    assert!(sample.context_switches.is_some(), "{missing:?}");
    assert!(sample.load.is_some(), "{missing:?}");
    let memory = sample.memory.expect("every Linux tells its memory");
    assert!(memory.free_bytes <= memory.total_bytes);
    assert!(memory.available_bytes <= memory.total_bytes);
    let process = sample
        .process
        .expect("a process can always ask about itself");
    assert!(
        process.resident_bytes.is_some_and(|bytes| bytes > 0),
        "{missing:?}"
    );
    assert!(process.virtual_bytes >= process.resident_bytes);
    assert!(
        process.threads.is_some_and(|threads| threads >= 1),
        "{missing:?}"
    );
}

/// MON-1: a sample allocates nothing once one has been taken, a tick nothing at all.
#[test]
fn samples_allocate_nothing() {
    let mut sensors = Sensors::open(&Root::default());
    let mut sample = Sample::default();
    // The first makes room for the cores.
    sensors.sample(Timestamp::from_nanos(1), &mut sample);
    let during = allocations(|| {
        for second in 1..200 {
            sensors.sample(Timestamp::from_nanos(second * 1_000_000_000), &mut sample);
            std::hint::black_box(sensors.tick(Timestamp::from_nanos(second)));
        }
    });
    assert_eq!(during, 0);
    assert!(sample.cpu.is_some(), "it was a whole sample");
    assert!(
        allocations(|| drop(std::hint::black_box(vec![1]))) > 0,
        "the counter counts"
    );
}

/// MON-1: what was not asked for is unknown, what was is not.
#[test]
fn some_readings_only() {
    let mut sensors = Sensors::open(&Root::default());
    let whole = look(&mut sensors);
    let mut some = whole.clone();
    sensors.sample_only(
        Readings::LOAD | Readings::PROCESS,
        Timestamp::from_nanos(5),
        &mut some,
    );
    assert_eq!(some.at, Timestamp::from_nanos(5));
    assert!(some.load.is_some() && some.process.is_some());
    assert!(some.cpu.is_none() && some.cores.is_empty() && some.memory.is_none());
    assert!(some.cpu_pressure.is_none() && some.cgroup_memory.is_none());
    assert!(Readings::ALL.contains(Readings::CGROUP | Readings::PRESSURE));
    assert!(!Readings::CPU.contains(Readings::ALL));
}

fn of_status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// MON-1: threads and open files are counted as the kernel lists them. Other tests start and end both meanwhile, so the
/// truth is what was the same before and after.
#[test]
fn threads_and_open_files() {
    let mut sensors = Sensors::open(&Root::default());
    let (hold, held) = channel::<()>();
    let thread = std::thread::spawn(move || held.recv());
    let mut compared = false;
    for _ in 0..10_000 {
        let before = of_status("Threads:");
        let told = look(&mut sensors).process.unwrap().threads.unwrap();
        if before == of_status("Threads:") {
            assert_eq!(told, before);
            assert!(told >= 2, "this one and the one that waits");
            compared = true;
            break;
        }
    }
    assert!(compared, "threads never stood still");
    drop(hold);
    assert!(thread.join().unwrap().is_err(), "nothing was ever sent");

    // Each reading of the folder opens one more.
    let listed = || std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
    let standing_still = |sensors: &mut Sensors| {
        (0..10_000).any(|_| {
            let before = listed();
            let Some(told) = look(sensors).process.unwrap().open_files else {
                // Not before Linux 6.2, and then with the reason.
                return sensors
                    .unavailable()
                    .iter()
                    .any(|entry| entry.what == "open files");
            };
            let after = listed();
            before == after && told == before
        })
    };
    assert!(standing_still(&mut sensors), "the counts never agreed");
}

/// MON-1: the CPU time of the process lies between two readings of its clock, and so does a tick's.
#[test]
fn process_time_is_that_of_the_clock() {
    let mut sensors = Sensors::open(&Root::default());
    let before = process_cpu_nanos();
    let sample = look(&mut sensors).process.unwrap().cpu_ns;
    let first = sensors.tick(Timestamp::from_nanos(1_000));
    let after = process_cpu_nanos();
    assert!(before <= sample && sample <= first.cpu_ns && first.cpu_ns <= after);
    let mut later = first;
    later.at = Timestamp::from_nanos(3_000);
    later.cpu_ns += 1_000;
    assert_eq!(later.process_cpus_since(&first), Some(0.5));
    assert_eq!(first.process_cpus_since(&later), None);
    assert_eq!(first.process_cpus_since(&first), None);
}
