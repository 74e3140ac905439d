use super::*;
use crate::sample::{Process, Quota, Stall};
use flyball_core::time::Timestamp;
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;

fn times(values: [u64; 8]) -> CpuTimes {
    let [
        user_ns,
        nice_ns,
        system_ns,
        idle_ns,
        iowait_ns,
        irq_ns,
        softirq_ns,
        steal_ns,
    ] = values;
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

fn sample(second: u64) -> Sample {
    Sample {
        at: Timestamp::from_nanos(second * SECOND_NS),
        ..Sample::default()
    }
}

fn of_cpu(values: [u64; 8]) -> Sample {
    Sample {
        cpu: Some(times(values)),
        ..sample(1)
    }
}

#[test]
fn every_kind_of_time_has_its_place() {
    let usage = usage(
        &of_cpu([100; 8]),
        &of_cpu([130, 110, 105, 120, 110, 102, 103, 120]),
    );
    let wanted = CpuShares {
        overall_percent: 70.0,
        user_percent: 40.0,
        system_percent: 10.0,
        idle_percent: 20.0,
        iowait_percent: 10.0,
        steal_percent: 20.0,
        nice_percent: 10.0,
        interrupt_percent: 5.0,
    };
    assert_eq!(usage.cpu, Some(wanted));
}

/// Documented for `/proc/stat`: the time that was waited for disks may decrease.
#[test]
fn time_that_the_kernel_moved_from_iowait_to_idle() {
    let shares = |before, after| {
        let shares = usage(&of_cpu(before), &of_cpu(after)).cpu?;
        Some((
            shares.overall_percent,
            shares.idle_percent,
            shares.iowait_percent,
        ))
    };
    let before = [0, 0, 0, 100, 50, 0, 0, 0];
    assert_eq!(
        shares(before, [50, 0, 0, 170, 30, 0, 0, 0]),
        Some((50.0, 50.0, 0.0))
    );
    assert_eq!(
        shares(before, [50, 0, 0, 80, 120, 0, 0, 0]),
        Some((50.0, 0.0, 50.0))
    );
    assert_eq!(
        shares(before, [50, 0, 0, 80, 60, 0, 0, 0]),
        None,
        "both together fell"
    );
}

#[test]
fn what_went_backwards_has_no_figure() {
    for kind in [0, 1, 2, 5, 6, 7] {
        let mut after = [200; 8];
        after[kind] = 99;
        assert_eq!(usage(&of_cpu([100; 8]), &of_cpu(after)).cpu, None);
    }
    let process = |cpu_ns, voluntary_switches| Sample {
        process: Some(Process {
            cpu_ns,
            voluntary_switches,
            ..Process::default()
        }),
        context_switches: Some(cpu_ns),
        ..sample(cpu_ns)
    };
    let backwards = usage(&process(10, 100), &process(11, 99));
    assert_eq!(backwards.voluntary_switches_per_second, None);
    assert_eq!(backwards.involuntary_switches_per_second, Some(0.0));
    assert_eq!(backwards.context_switches_per_second, Some(1.0));
    let no_time = usage(&process(10, 100), &process(10, 100));
    assert_eq!(no_time.voluntary_switches_per_second, None);
    assert_eq!(no_time.process_cpus, None);
}

#[test]
fn the_process_is_a_part_of_the_machine() {
    let of = |second, cpu_ns| Sample {
        process: Some(Process {
            cpu_ns,
            ..Process::default()
        }),
        cores: (0..4)
            .map(|cpu| CoreTimes {
                cpu,
                times: CpuTimes::default(),
            })
            .collect(),
        ..sample(second)
    };
    let (before, mut after) = (of(10, 0), of(12, 3 * SECOND_NS));
    let told = usage(&before, &after);
    assert_eq!(
        (told.process_cpus, told.process_percent),
        (Some(1.5), Some(37.5))
    );
    after.cores.clear();
    let told = usage(&before, &after);
    assert_eq!((told.process_cpus, told.process_percent), (Some(1.5), None));
}

fn any_times() -> impl Strategy<Value = CpuTimes> {
    let ns = prop_oneof![0..10_u64, 0..SECOND_NS, any::<u64>()];
    prop::array::uniform8(ns).prop_map(times)
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let cores = prop::collection::vec((0..6_u32, any_times()), 0..6);
    let stall = prop_oneof![0..SECOND_NS, any::<u64>()];
    (
        prop::option::of(any_times()),
        cores,
        prop::option::of(prop::array::uniform5(any::<u64>())),
        prop::option::of((0..2_u32, prop::array::uniform4(any::<u64>()))),
        prop::option::of(stall),
        prop_oneof![0..3_u64, 0..SECOND_NS, any::<u64>()],
    )
        .prop_map(|(cpu, cores, process, quota, stall, at)| Sample {
            at: Timestamp::from_nanos(at),
            cpu,
            // Also in no order and with repetitions, as nothing keeps a caller from it.
            cores: cores
                .into_iter()
                .map(|(cpu, times)| CoreTimes { cpu, times })
                .collect(),
            context_switches: process.map(|values| values[0]),
            process: process.map(|[cpu_ns, voluntary, involuntary, minor, major]| Process {
                cpu_ns,
                voluntary_switches: voluntary,
                involuntary_switches: involuntary,
                minor_faults: minor,
                major_faults: major,
                ..Process::default()
            }),
            quota: quota.map(|(level, [periods, throttled_periods, own, other])| Quota {
                cpus: 1.0,
                level,
                periods,
                throttled_periods,
                throttled_ns: own,
                other_throttled_ns: other,
            }),
            cpu_pressure: stall.map(|total_ns| Pressure {
                some: Stall {
                    total_ns,
                    ..Stall::default()
                },
                full: None,
            }),
            ..Sample::default()
        })
}

proptest! {
    /// MON-1: whatever the counters are, percentages lie between 0 and 100, rates are finite and not negative, the kinds of
    /// time add up to the whole, and every CPU of the later sample has its line.
    #[test]
    fn figures_stay_in_their_bounds(before in any_sample(), after in any_sample()) {
        let usage = usage(&before, &after);
        if let Some(cpu) = usage.cpu {
            let parts = [
                cpu.user_percent,
                cpu.system_percent,
                cpu.idle_percent,
                cpu.iowait_percent,
                cpu.steal_percent,
            ];
            let sum: f64 = parts.iter().sum();
            prop_assert!((sum - 100.0).abs() < 1e-6, "{cpu:?}");
            let idle = cpu.idle_percent + cpu.iowait_percent;
            prop_assert!((cpu.overall_percent + idle - 100.0).abs() < 1e-6, "{cpu:?}");
            prop_assert!(cpu.nice_percent <= cpu.user_percent + 1e-6);
            prop_assert!(cpu.interrupt_percent <= cpu.system_percent + 1e-6);
            for part in parts.into_iter().chain([cpu.overall_percent]) {
                prop_assert!((0.0..=100.0).contains(&part), "{cpu:?}");
            }
        }
        prop_assert_eq!(usage.per_core.len(), after.cores.len());
        let percentages = usage.per_core.iter().map(|core| core.busy_percent).chain([
            usage.process_percent,
            usage.cpu_stalled_percent,
            usage.throttled_ratio.map(|ratio| ratio * 100.0),
        ]);
        for percent in percentages.flatten() {
            prop_assert!((0.0..=100.0).contains(&percent), "{usage:?}");
        }
        let rates = [
            usage.process_cpus,
            usage.context_switches_per_second,
            usage.voluntary_switches_per_second,
            usage.involuntary_switches_per_second,
            usage.minor_faults_per_second,
            usage.major_faults_per_second,
            usage.throttled_cpus,
        ];
        for rate in rates.into_iter().flatten() {
            prop_assert!(rate.is_finite() && rate >= 0.0, "{usage:?}");
        }
    }

    /// Counters that only grow have all their figures, and those are the naive ones.
    #[test]
    fn growing_counters_have_figures(
        base in prop::array::uniform8(0..1_u64 << 50),
        gain in prop::array::uniform8(0..1_u64 << 40),
    ) {
        let mut later = base;
        for (value, gain) in later.iter_mut().zip(gain) {
            *value += gain;
        }
        let total: u64 = gain.iter().sum();
        prop_assume!(total > 0);
        let cpu = usage(&of_cpu(base), &of_cpu(later)).cpu.unwrap();
        let [user, nice, system, idle, iowait, irq, softirq, steal] =
            gain.map(|gain| 100.0 * gain as f64 / total as f64);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        prop_assert!(close(cpu.user_percent, user + nice));
        prop_assert!(close(cpu.system_percent, system + irq + softirq));
        prop_assert!(close(cpu.idle_percent, idle));
        prop_assert!(close(cpu.iowait_percent, iowait));
        prop_assert!(close(cpu.steal_percent, steal));
    }
}
