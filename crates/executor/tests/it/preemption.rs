//! Work that takes long, and what runs all the same.

use crate::*;
use flyball_executor::{Algorithm, checkpoint, yield_now};

/// CPU-6: while every back worker is inside a closure that never yields, whatever comes for the front group runs, under each
/// priority of the back threads.
#[test]
fn front_work_runs_beside_closures_that_never_yield() {
    for back_priority in [
        BackPriority::Normal,
        BackPriority::Nice(10),
        BackPriority::Idle,
    ] {
        let executor = start(Config {
            back_priority,
            ..small()
        });
        let (batch, interactive, critical) = (
            executor.class("batch").unwrap(),
            executor.class("interactive").unwrap(),
            executor.class("critical").unwrap(),
        );
        let gates = hold_many(&batch, 2);
        let queued: Vec<_> = (0..10).map(|_| batch.run(|| ())).collect();
        for n in 0..50 {
            assert_eq!(interactive.run(move || n).join().unwrap(), n);
            let inner = critical.clone();
            let mut future = interactive.spawn(async move {
                tokio::time::sleep(Duration::from_micros(50)).await;
                inner.run(move || n).await.unwrap()
            });
            assert_eq!(future.join().unwrap(), n);
        }
        assert!(queued.iter().all(|handle| !handle.is_finished()));
        for gate in gates {
            gate.open();
        }
        for mut handle in queued {
            handle.join().unwrap();
        }
        end(executor);
    }
}

/// Scheduling policy and nice value of the calling thread, as the kernel shows them; see proc(5).
fn policy_and_nice() -> (u32, i32) {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The second field may hold anything but ends with the last parenthesis; the next is the third.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..]
        .split_ascii_whitespace()
        .collect();
    (
        fields[41 - 3].parse().unwrap(),
        fields[19 - 3].parse().unwrap(),
    )
}

/// CPU-6: the kernel knows the back threads: `SCHED_IDLE` by default, else the nice value, else as they were. The front threads
/// are left alone.
#[test]
fn the_kernel_knows_the_back_threads() {
    const SCHED_OTHER: u32 = 0;
    const SCHED_IDLE: u32 = 5;
    let (own, nice) = policy_and_nice();
    for (back_priority, expected) in [
        (BackPriority::Idle, (SCHED_IDLE, nice)),
        (BackPriority::Nice(19), (SCHED_OTHER, 19)),
        (BackPriority::Normal, (own, nice)),
    ] {
        let executor = start(Config {
            back_priority,
            ..single()
        });
        let back = executor.class("normal").unwrap();
        let front = executor.class("critical").unwrap();
        assert_eq!(back.run(policy_and_nice).join().unwrap(), expected);
        assert_eq!(front.run(policy_and_nice).join().unwrap(), (own, nice));
        end(executor);
    }
    assert_eq!(Config::default().back_priority, BackPriority::Idle);
}

/// CPU-6: in the front group, too: a long closure that looks at its checkpoints gives way, though the back group is full.
#[test]
fn a_front_closure_gives_way_beside_a_full_back_group() {
    let executor = start(small());
    let (batch, interactive, critical) = (
        executor.class("batch").unwrap(),
        executor.class("interactive").unwrap(),
        executor.class("critical").unwrap(),
    );
    let gates = hold_many(&batch, 2);
    let stop = flag();
    let (inside, is_inside) = channel();
    let longs: Vec<_> = (0..2)
        .map(|_| {
            let (stop, inside) = (stop.clone(), inside.clone());
            interactive.run(move || {
                inside.send(()).unwrap();
                while !stop.load(SeqCst) && checkpoint().is_ok() {}
            })
        })
        .collect();
    receive(&is_inside);
    receive(&is_inside);
    executor.scale(flyball_executor::Group::Front, 3).unwrap();
    critical
        .run(move || stop.store(true, SeqCst))
        .join()
        .unwrap();
    for mut long in longs {
        long.join().unwrap();
    }
    for gate in gates {
        gate.open();
    }
    eventually("all tokens are back", || executor.stats().running == 0);
    end(executor);
}

/// CPU-6: a checkpoint hands the place of a long closure to a parked thread when a higher rank waits, under every algorithm;
/// the closure ends only when that has run.
#[test]
fn a_checkpoint_hands_over_to_a_higher_rank() {
    for algorithm in Algorithm::ALL {
        let executor = start(Config {
            algorithm,
            parallelism: 1,
            back_workers: 2,
            ..small()
        });
        let (batch, normal) = (
            executor.class("batch").unwrap(),
            executor.class("normal").unwrap(),
        );
        for _ in 0..3 {
            let (inside, is_inside) = channel();
            let stop = flag();
            let seen = stop.clone();
            let mut long = batch.run(move || {
                inside.send(()).unwrap();
                while !seen.load(SeqCst) && checkpoint().is_ok() {}
            });
            receive(&is_inside);
            let (done, is_done) = channel();
            normal
                .execute(move || {
                    stop.store(true, SeqCst);
                    done.send(()).unwrap();
                })
                .unwrap();
            receive(&is_done);
            long.join().unwrap();
        }
        eventually("all tokens are back", || executor.stats().running == 0);
        end(executor);
    }
}

/// CPU-6: a checkpoint never runs other work on its own stack, and gives nothing to lower ranks.
#[test]
fn a_checkpoint_runs_nothing_itself() {
    let executor = start(single());
    let (batch, normal) = (
        executor.class("batch").unwrap(),
        executor.class("normal").unwrap(),
    );
    let (inside, is_inside) = channel();
    let (go_on, goes_on) = channel::<()>();
    let ran = flag();
    let seen = ran.clone();
    let mut long = batch.run(move || {
        inside.send(()).unwrap();
        goes_on.recv().unwrap();
        for _ in 0..3 {
            checkpoint().unwrap();
        }
        seen.load(SeqCst)
    });
    receive(&is_inside);
    let mut higher = normal.run(move || ran.store(true, SeqCst));
    go_on.send(()).unwrap();
    assert!(!long.join().unwrap(), "the only thread was the closure's");
    higher.join().unwrap();
    end(executor);
}

/// CPU-6, CPU-16: `blocking` lets another worker run meanwhile, as a wait for another task of the only token shows.
#[test]
fn blocking_gives_the_token_to_another() {
    let executor = start(Config {
        parallelism: 1,
        back_workers: 2,
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    for _ in 0..20 {
        let inner = normal.clone();
        let mut waiting = normal.run(move || {
            let (send, wait) = channel();
            inner.execute(move || send.send(5).unwrap()).unwrap();
            flyball_executor::blocking(|| receive(&wait))
        });
        assert_eq!(waiting.join().unwrap(), 5);
    }
    eventually("all tokens are back", || executor.stats().running == 0);
    end(executor);
}

/// CPU-16: no more back workers run at once than `parallelism` says; more may when it is raised.
#[test]
fn parallelism_bounds_what_runs() {
    let executor = start(Config {
        parallelism: 2,
        back_workers: 4,
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    let mut gates = hold_many(&normal, 2);
    assert_eq!(executor.stats().parallelism, 2);
    let third = normal.run(|| ());
    let most = Arc::new(AtomicUsize::new(0));
    let running = Arc::new(AtomicUsize::new(0));
    executor.set_parallelism(4).unwrap();
    gates.push(hold(&normal));
    gates.push(hold(&normal));
    eventually("the third has run", || third.is_finished());
    executor.set_parallelism(1).unwrap();
    for gate in gates {
        gate.open();
    }
    let counted: Vec<_> = (0..200)
        .map(|_| {
            let (most, running) = (most.clone(), running.clone());
            normal.run(move || {
                let now = running.fetch_add(1, SeqCst) + 1;
                most.fetch_max(now, SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, SeqCst);
            })
        })
        .collect();
    for mut handle in counted {
        handle.join().unwrap();
    }
    assert!(executor.set_parallelism(0).is_err());
    assert!(executor.set_parallelism(129).is_err());
    assert!(most.load(SeqCst) <= 4);
    end(executor);
}

/// CPU-6: a future that becomes ready inside a poll that then blocks its thread is run by somebody else.
#[test]
fn a_deferred_future_does_not_wait_for_a_long_poll() {
    for name in ["interactive", "normal"] {
        let executor = start(small());
        let class = executor.class(name).unwrap();
        let inner = class.clone();
        let mut outer = class.spawn(async move {
            yield_now().await;
            let (send, wait) = channel();
            inner.spawn(async move { send.send(3).unwrap() }).detach();
            receive(&wait)
        });
        assert_eq!(outer.join().unwrap(), 3);
        end(executor);
    }
}

/// CPU-6: front tasks that block use no CPU and hold up no other: with all but one front worker blocked and the back group saturated,
/// front tasks are run one after the other.
#[test]
fn blocked_front_tasks_hold_up_no_others() {
    let executor = start(Config {
        front_workers: 3,
        stuck_after: Duration::from_secs(3600),
        ..small()
    });
    let class = |name: &str| executor.class(name).unwrap();
    let gates = hold_many(&class("batch"), 2);
    let fronts = hold_many(&class("interactive"), 2);
    // Long enough for the blocked tasks to pass for much CPU time, were they taken for busy: 100 ms are what is forgiven.
    let begun = executor.stats().at;
    let mut count = 0;
    while executor.stats().at.duration_since(begun) < Duration::from_secs(1) {
        let (done, ended) = std::sync::mpsc::channel();
        class("critical")
            .execute(move || done.send(()).unwrap())
            .unwrap();
        ended
            .recv_timeout(Duration::from_secs(20))
            .expect("a front task waits for blocked ones");
        count += 1;
    }
    assert!(count > 0);
    drop(gates);
    drop(fronts);
    end(executor);
}
