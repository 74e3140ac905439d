//! On the machine that runs the test.

use flyball_core::time::{Clock, OsClock};
use flyball_sense::{Root, Sample, Sensors};

/// MON-1: CPU, cores, memory, load and process are told on any Linux.
#[test]
fn the_common_readings_are_there() {
    let mut sensors = Sensors::open(&Root::default());
    let mut sample = Sample::default();
    sensors.sample(OsClock.now(), &mut sample);
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
