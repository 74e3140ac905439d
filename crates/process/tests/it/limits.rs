//! Priorities and limits reach the program.

use flyball_process::{Ended, Error, IoPriority, Resource, SpawnReason, Stage};

use crate::{Test, helper, server, shell};

pub(crate) const TESTS: &[Test] = &[
    (
        "limits::scheduling_affinity_and_limits_are_set",
        scheduling_affinity_and_limits_are_set,
    ),
    ("limits::a_limit_is_felt", a_limit_is_felt),
    (
        "limits::a_refused_setting_is_named",
        a_refused_setting_is_named,
    ),
];

/// TASK-11: niceness, SCHED_IDLE, ionice, affinity, rlimits.
fn scheduling_affinity_and_limits_are_set() {
    let script = "cut -d' ' -f41 /proc/self/stat; grep Cpus_allowed_list /proc/self/status; ulimit -n; ulimit -Hc";
    let command = shell(script)
        .sched_idle(true)
        .affinity([0])
        .io_priority(IoPriority::Idle)
        .limit(Resource::OpenFiles, 64, 128)
        .limit(Resource::Core, 0, 0);
    let exit = server()
        .spawn(command.capture_stdout(1 << 16))
        .unwrap()
        .wait_blocking()
        .unwrap();
    let text = String::from_utf8(exit.stdout.unwrap().to_bytes().unwrap()).unwrap();
    const SCHED_IDLE: &str = "5";
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [SCHED_IDLE, "Cpus_allowed_list:\t0", "64", "0"]
    );
}

fn a_limit_is_felt() {
    let command = helper(&["burn", "60000"])
        .limit(Resource::CpuSeconds, 1, 2)
        .limit(Resource::Core, 0, 0);
    let exit = server().spawn(command).unwrap().wait_blocking().unwrap();
    assert_eq!(
        exit.ended,
        Ended::Signalled {
            signal: 24,
            core: false
        }
    );
    assert_eq!(exit.ended.to_string(), "SIGXCPU");
}

fn a_refused_setting_is_named() {
    let server = server();
    let soft_above_hard = shell("exit 0").limit(Resource::OpenFiles, 10, 5);
    let error = server
        .spawn(soft_above_hard)
        .unwrap()
        .wait_blocking()
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Spawn {
                reason: SpawnReason::Setting(Stage::Limit),
                ..
            }
        ),
        "{error}"
    );
    let nowhere = shell("exit 0").affinity([1000]);
    let error = server.spawn(nowhere).unwrap().wait_blocking().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Spawn {
                reason: SpawnReason::Setting(Stage::Affinity),
                ..
            }
        ),
        "{error}"
    );
}
