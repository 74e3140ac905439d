use alloc::string::ToString;
use alloc::vec::Vec;

use proptest::prelude::{
    ProptestConfig, Strategy as Generator, any, prop_assert, prop_assert_eq, proptest,
};

use super::*;

fn worker() -> impl Generator<Value = WorkerView> {
    let figures = (0.0f64..4.0, 0u32..20, 0u32..4, 0u32..110, 0.0f64..1.0);
    let more = (0.0f64..1e6, 0.0f64..1e4, 0.0f64..1.0, 0.0f64..1.0, 0u16..4);
    let rest = (0.0f64..4.0, 0u64..1_000, any::<bool>(), any::<bool>());
    (figures, more, rest).prop_map(|(a, b, c)| WorkerView {
        id: WorkerId::new(0),
        weight: a.0,
        queued: a.1,
        running: a.2,
        tagged: a.3,
        cpu: a.4,
        mean_run_ns: b.0,
        throughput: b.1,
        error_rate: b.2,
        health: b.3,
        core: Some(b.4),
        cpu_free: c.0,
        memory_free: c.1,
        accepting: c.2 || c.3,
        max_tagged: MAX_TASKS_PER_WORKER,
    })
}

fn workers() -> impl Generator<Value = Vec<WorkerView>> {
    proptest::collection::vec(worker(), 0..8).prop_map(|mut workers| {
        for (i, worker) in workers.iter_mut().enumerate() {
            worker.id = WorkerId::new(i as u16);
        }
        workers
    })
}

fn place(strategy: Strategy, task: &TaskView, workers: &[WorkerView]) -> Option<WorkerId> {
    Placer::new(strategy, 1).place(task, workers)
}

/// The open worker for which nobody else is better, found by comparing all pairs.
fn naive(
    workers: &[WorkerView],
    better: impl Fn(&WorkerView, &WorkerView) -> bool,
) -> Option<WorkerId> {
    let open: Vec<_> = workers
        .iter()
        .filter(|w| w.accepting && w.tagged < 100)
        .collect();
    open.iter()
        .find(|w| open.iter().all(|other| !better(other, w)))
        .map(|w| w.id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// CPU-12: the strategies that choose the best by one figure, each against a comparison of all pairs.
    #[test]
    fn strategies_choose_the_best(workers in workers()) {
        let task = TaskView::default();
        let tasks = |w: &WorkerView| w.queued + w.running;
        let tie = |by: fn(&WorkerView) -> f64| move |a: &WorkerView, b: &WorkerView| {
            (by(a), tasks(a)).partial_cmp(&(by(b), tasks(b))) == Some(Ordering::Less)
        };
        prop_assert_eq!(place(Strategy::Pull, &task, &workers), None);
        prop_assert_eq!(place(Strategy::LeastConnections, &task, &workers), naive(&workers, |a, b| tasks(a) < tasks(b)));
        prop_assert_eq!(place(Strategy::LeastLoaded, &task, &workers), naive(&workers, tie(|w| w.cpu)));
        prop_assert_eq!(place(Strategy::Health, &task, &workers), naive(&workers, tie(|w| 1.0 - w.health)));
        prop_assert_eq!(place(Strategy::Weighted, &task, &workers),
            naive(&workers, tie(|w| f64::from(w.queued + w.running + 1) / w.weight)));
        prop_assert_eq!(place(Strategy::Adaptive, &task, &workers), naive(&workers, tie(|w| {
            let each = w.mean_run_ns.max(w.cpu.min(1.0) * 1e9 / w.throughput);
            f64::from(w.queued + w.running + 1) * each / (1.0 - w.error_rate)
        })));
    }

    /// CPU-12: no strategy answers a worker that is closed or full; all but `pull` and `resource_aware` answer one
    /// whenever there is one.
    #[test]
    fn only_open_workers_are_chosen(workers in workers(), key: Option<u64>, last_core in 0u16..5, seed: u64) {
        let task = TaskView { key, cpu: 1.0, memory: 300, last_core: Some(last_core) };
        let open: Vec<_> = workers.iter().filter(|w| w.accepting && w.tagged < 100).map(|w| w.id).collect();
        for strategy in Strategy::ALL {
            match Placer::new(strategy, seed).place(&task, &workers) {
                Some(id) => prop_assert!(open.contains(&id), "{strategy}"),
                None if matches!(strategy, Strategy::Pull | Strategy::ResourceAware) => {}
                None => prop_assert!(open.is_empty(), "{strategy}"),
            }
        }
    }

    /// CPU-12: `round_robin` against a list of ids that is walked around.
    #[test]
    fn round_robin_goes_around(workers in workers()) {
        let open: Vec<_> = workers.iter().filter(|w| w.is_open()).map(|w| w.id).collect();
        let mut placer = Placer::new(Strategy::RoundRobin, 1);
        for turn in 0..20 {
            let expected = (!open.is_empty()).then(|| open[turn % open.len()]);
            prop_assert_eq!(placer.place(&TaskView::default(), &workers), expected);
        }
    }

    /// CPU-12: `weighted_round_robin` gives every worker its part within one turn a worker, at any moment.
    #[test]
    fn weighted_turns_follow_the_weights(weights in proptest::collection::vec(0u32..10, 1..8)) {
        let workers: Vec<_> = weights.iter().enumerate().map(|(i, w)| {
            WorkerView { weight: f64::from(*w), ..WorkerView::new(WorkerId::new(i as u16)) }
        }).collect();
        let total: u32 = weights.iter().sum();
        let mut placer = Placer::new(Strategy::WeightedRoundRobin, 1);
        let mut turns = alloc::vec![0u32; weights.len()];
        for round in 1..=200u32 {
            let id = placer.place(&TaskView::default(), &workers).unwrap();
            turns[id.index()] += 1;
            for (turns, weight) in turns.iter().zip(&weights).filter(|_| total > 0) {
                let ideal = f64::from(round) * f64::from(*weight) / f64::from(total);
                prop_assert!((f64::from(*turns) - ideal).abs() < weights.len() as f64);
                prop_assert!(*weight > 0 || *turns == 0);
            }
        }
    }

    /// CPU-12: `affinity` sends a key to the same worker while loads are even; when a worker goes, only its keys move.
    #[test]
    fn keys_stay_where_they_are(count in 2u16..20, keys in proptest::collection::vec(any::<u64>(), 1..40), gone in any::<u16>()) {
        let mut workers: Vec<_> = (0..count).map(|i| WorkerView::new(WorkerId::new(i))).collect();
        let owner = |key: u64, workers: &[WorkerView]| {
            place(Strategy::Affinity, &TaskView { key: Some(key), ..TaskView::default() }, workers).unwrap()
        };
        let before: Vec<_> = keys.iter().map(|key| owner(*key, &workers)).collect();
        let gone = gone % count;
        workers[usize::from(gone)].accepting = false;
        for (key, before) in keys.iter().zip(&before) {
            let after = owner(*key, &workers);
            prop_assert!(after == *before || before.get() == gone);
            prop_assert!(after.get() != gone);
        }
    }

    /// CPU-12: `affinity` spills: a worker with more than 125 % of the average gets no more for the sake of a key.
    #[test]
    fn overloaded_owners_spill(loads in proptest::collection::vec(0u32..50, 2..10), key: u64) {
        let workers: Vec<_> = loads.iter().enumerate().map(|(i, load)| {
            WorkerView { queued: *load, ..WorkerView::new(WorkerId::new(i as u16)) }
        }).collect();
        let task = TaskView { key: Some(key), ..TaskView::default() };
        let id = place(Strategy::Affinity, &task, &workers).unwrap();
        let average = f64::from(loads.iter().sum::<u32>() + 1) / loads.len() as f64;
        prop_assert!(f64::from(loads[id.index()]) < (1.25 * average).ceil());
    }

    /// CPU-12: `resource_aware` answers a worker where the task fits, whenever there is one, and of those the one that has
    /// most left of the scarcer resource.
    #[test]
    fn resources_are_heeded(workers in workers(), cpu in 0.0f64..4.0, memory in 0u64..1_000) {
        let task = TaskView { cpu, memory, ..TaskView::default() };
        let open = || workers.iter().filter(|w| w.is_open());
        let most_cpu = open().map(|w| w.cpu_free).fold(0.0, f64::max);
        let most_memory = open().map(|w| w.memory_free).max().unwrap_or(0) as f64;
        let left = |w: &WorkerView| {
            let memory_left = if most_memory > 0.0 { (w.memory_free - memory) as f64 / most_memory } else { 0.0 };
            ((w.cpu_free - cpu) / most_cpu).min(memory_left)
        };
        let fitting: Vec<_> = open().filter(|w| w.cpu_free >= cpu && w.memory_free >= memory).collect();
        match place(Strategy::ResourceAware, &task, &workers) {
            None => prop_assert!(fitting.is_empty()),
            Some(id) => {
                let chosen = fitting.iter().find(|w| w.id == id).expect("it fits");
                prop_assert!(fitting.iter().all(|w| left(w) <= left(chosen)));
            }
        }
    }

    /// CPU-12: `power_of_two` never answers the one with the most tasks when there are others, and reaches all others.
    #[test]
    fn the_better_of_two_is_taken(count in 2u16..8, seed: u64) {
        let workers: Vec<_> = (0..count).map(|i| {
            WorkerView { queued: u32::from(i), ..WorkerView::new(WorkerId::new(i)) }
        }).collect();
        let mut placer = Placer::new(Strategy::PowerOfTwo, seed);
        let mut seen = alloc::vec![0u32; usize::from(count)];
        for _ in 0..500 {
            seen[placer.place(&TaskView::default(), &workers).unwrap().index()] += 1;
        }
        prop_assert_eq!(seen[usize::from(count) - 1], 0);
        prop_assert!(seen[..usize::from(count) - 1].iter().all(|n| *n > 0), "{seen:?}");
        prop_assert!(seen.is_sorted_by(|a, b| a + 60 >= *b), "{seen:?}");
    }

    /// CPU-13: after the moves the queues of accepting workers differ by at most one, the others are empty, no task is
    /// lost, no worker both gives and gets, and no fewer tasks could have moved.
    #[test]
    fn rebalancing_evens_out(lengths in proptest::collection::vec((0u32..200, any::<bool>()), 0..20)) {
        let (queues, accepting): (Vec<u32>, Vec<bool>) = lengths.into_iter().unzip();
        let moves = rebalance(&queues, &accepting);
        let mut after: Vec<i64> = queues.iter().map(|q| i64::from(*q)).collect();
        for step in &moves {
            prop_assert!(step.count > 0 && accepting[step.to]);
            prop_assert!(moves.iter().all(|other| other.to != step.from));
            after[step.from] -= i64::from(step.count);
            after[step.to] += i64::from(step.count);
        }
        prop_assert!(after.iter().all(|q| *q >= 0));
        prop_assert_eq!(after.iter().sum::<i64>(), queues.iter().map(|q| i64::from(*q)).sum::<i64>());
        if !accepting.contains(&true) {
            prop_assert!(moves.is_empty());
            return Ok(());
        }
        let open = |i: &usize| accepting[*i];
        let even: Vec<i64> = (0..after.len()).filter(open).map(|i| after[i]).collect();
        let (least, most) = (even.iter().min().unwrap(), even.iter().max().unwrap());
        prop_assert!(most - least <= 1);
        prop_assert!((0..after.len()).filter(|i| !open(i)).all(|i| after[i] == 0));
        prop_assert!(moves.len() <= queues.len());
        // The fewest: everything beyond the longest possible keepings, the larger part to the longest queues.
        let mut sorted: Vec<i64> = (0..queues.len()).filter(open).map(|i| i64::from(queues[i])).collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let extra = even.iter().filter(|q| **q > *least).count();
        let kept: i64 = sorted.iter().enumerate().map(|(rank, q)| (*q).min(least + i64::from(rank < extra))).sum();
        let moved: i64 = moves.iter().map(|m| i64::from(m.count)).sum();
        prop_assert_eq!(moved, queues.iter().map(|q| i64::from(*q)).sum::<i64>() - kept);
        let left: Vec<u32> = after.iter().map(|q| *q as u32).collect();
        prop_assert!(!needs_rebalance(&left, &accepting, 0.0));
    }

    /// CPU-11: Jain's index lies between 1/n and 1 and does not depend on the unit.
    #[test]
    fn the_fairness_index_is_bounded(values in proptest::collection::vec(0.0f64..1e6, 1..20), unit in 0.001f64..1e3) {
        let index = jain(&values);
        prop_assert!(index <= 1.0 + 1e-9 && index >= 1.0 / values.len() as f64 - 1e-9);
        let scaled: Vec<f64> = values.iter().map(|v| v * unit).collect();
        prop_assert!((jain(&scaled) - index).abs() < 1e-9);
        prop_assert!((normalized_variance(&scaled) - normalized_variance(&values)).abs() < 1e-6);
    }
}

/// CPU-12: `locality` goes to the core that last ran the key, the less loaded worker there, unless it is overloaded.
#[test]
fn locality_prefers_the_core() {
    let on = |id, core, queued| WorkerView {
        core: Some(core),
        queued,
        ..WorkerView::new(WorkerId::new(id))
    };
    let task = TaskView {
        last_core: Some(3),
        ..TaskView::default()
    };
    let even = [on(0, 1, 4), on(1, 3, 5), on(2, 3, 4), on(3, 2, 4)];
    assert_eq!(
        place(Strategy::Locality, &task, &even),
        Some(WorkerId::new(2))
    );
    let busy = [on(0, 1, 4), on(1, 3, 50), on(2, 3, 40), on(3, 2, 3)];
    assert_eq!(
        place(Strategy::Locality, &task, &busy),
        Some(WorkerId::new(3))
    );
    assert_eq!(
        place(Strategy::Locality, &TaskView::default(), &even),
        Some(WorkerId::new(0))
    );
}

/// CPU-13: work is moved when variance passes the threshold or work is stranded, not for a single task.
#[test]
fn rebalancing_is_needed_for_variance() {
    let all = [true; 4];
    assert!(!needs_rebalance(&[0, 1, 0, 0], &all, REBALANCE_VARIANCE));
    assert!(!needs_rebalance(&[10, 12, 9, 11], &all, REBALANCE_VARIANCE));
    assert!(needs_rebalance(&[40, 0, 0, 0], &all, REBALANCE_VARIANCE));
    assert!(needs_rebalance(
        &[1, 1, 1, 2],
        &[true, true, true, false],
        REBALANCE_VARIANCE
    ));
    assert!(!needs_rebalance(
        &[9, 9],
        &[false, false],
        REBALANCE_VARIANCE
    ));
    assert_eq!(
        (variance(&[]), normalized_variance(&[0.0]), jain(&[])),
        (0.0, 0.0, 1.0)
    );
    assert_eq!(variance(&[1.0, 3.0]), 1.0);
}

#[test]
fn names_read_as_they_print() {
    for strategy in Strategy::ALL {
        assert_eq!(strategy.to_string().parse(), Ok(strategy));
    }
    let error = "sticky".parse::<Strategy>().unwrap_err().to_string();
    assert!(
        Strategy::ALL
            .iter()
            .all(|known| error.contains(known.name())),
        "{error}"
    );
}

/// Figures that are no number lose against every number, and turns survive workers that go.
#[test]
fn odd_figures_and_departures_are_harmless() {
    let mut workers: Vec<_> = (0..3).map(|i| WorkerView::new(WorkerId::new(i))).collect();
    workers[0].cpu = f64::NAN;
    workers[0].weight = f64::NAN;
    workers[0].health = f64::NAN;
    for strategy in [
        Strategy::LeastLoaded,
        Strategy::Weighted,
        Strategy::Health,
        Strategy::WeightedRoundRobin,
    ] {
        assert_eq!(
            place(strategy, &TaskView::default(), &workers),
            Some(WorkerId::new(1)),
            "{strategy}"
        );
    }
    let mut placer = Placer::new(Strategy::RoundRobin, 1);
    let next = |placer: &mut Placer, workers: &[WorkerView]| {
        placer.place(&TaskView::default(), workers).unwrap().get()
    };
    assert_eq!(
        (next(&mut placer, &workers), next(&mut placer, &workers)),
        (0, 1)
    );
    workers.truncate(2);
    assert_eq!(
        (next(&mut placer, &workers), next(&mut placer, &workers)),
        (0, 1)
    );
}
