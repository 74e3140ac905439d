//! Whether classes receive the CPU time that their shares promise, over consecutive seconds.
//!
//! The bodies themselves read their thread's CPU clock around their work; nothing that flyball reports is used.

#[cfg(not(feature = "flyball"))]
use super::{Sample, ShareLoad};
#[cfg(not(feature = "flyball"))]
use crate::{subjects::Subject, work::Work};

#[cfg(feature = "flyball")]
pub use with_flyball::run;

/// See the variant with flyball.
#[cfg(not(feature = "flyball"))]
pub fn run(_: Subject, _: &ShareLoad, _: Work) -> anyhow::Result<Sample> {
    anyhow::bail!("this build lacks flyball")
}

#[cfg(feature = "flyball")]
mod with_flyball {
    use crate::cases::{Sample, ShareLoad};
    use crate::machine::{Company, Window};
    use crate::stats::{Random, jain, median};
    use crate::subjects::Subject;
    use crate::subjects::flyball::classes_with;
    use crate::sys;
    use crate::work::{Work, churn};
    use anyhow::{Result, ensure};
    use flyball_executor::Class;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Tasks of each class that exist at any time; each puts its successor in the queue when it ends, so that no class
    /// is ever without queued work.
    const OUTSTANDING: usize = 8;
    const SECOND_NS: u64 = 1_000_000_000;

    /// CPU nanoseconds by class and second since the start.
    struct Ledger {
        start_ns: u64,
        seconds: usize,
        received: Vec<AtomicU64>,
    }

    impl Ledger {
        /// Books CPU time spent between two moments, split where a second ends.
        fn book(&self, class: usize, from_ns: u64, until_ns: u64, cpu_ns: u64) {
            let wall = (until_ns - from_ns).max(1);
            let mut at = from_ns;
            while at < until_ns {
                let second = at.saturating_sub(self.start_ns) / SECOND_NS;
                let end = (self.start_ns + (second + 1) * SECOND_NS).min(until_ns);
                if (second as usize) < self.seconds && at >= self.start_ns {
                    let part = (cpu_ns as u128 * (end - at) as u128 / wall as u128) as u64;
                    self.received[class * self.seconds + second as usize]
                        .fetch_add(part, Ordering::Relaxed);
                }
                at = end;
            }
        }
    }

    fn go_on(class: Class, index: usize, iterations: u64, ledger: Arc<Ledger>) {
        let next = class.clone();
        class
            .execute(move || {
                let (from, cpu) = (sys::now_ns(), sys::thread_cpu_ns());
                churn(iterations);
                ledger.book(index, from, sys::now_ns(), sys::thread_cpu_ns() - cpu);
                go_on(next, index, iterations, ledger);
            })
            .expect("the queue has room");
    }

    /// Worst deviation from the promise and Jain's index, over every second after the first.
    pub fn run(subject: Subject, load: &ShareLoad, work: Work) -> Result<Sample> {
        ensure!(
            subject == Subject::Flyball,
            "only flyball has classes with shares"
        );
        let shares: Vec<u32> = (0..load.classes)
            .map(|class| {
                if load.weighted {
                    256 << (class % 4)
                } else {
                    1024
                }
            })
            .collect();
        let (executor, classes) = classes_with(&shares, load.normal_priority)?;
        // Leaked: the process ends with the sample, while the classes still have work.
        let _: &'static _ = Box::leak(Box::new(executor));
        // The first second, in which queues fill and virtual times meet, is not judged.
        let start_ns = sys::now_ns() + SECOND_NS;
        let ledger = Arc::new(Ledger {
            start_ns,
            seconds: load.seconds,
            received: (0..load.classes * load.seconds)
                .map(|_| AtomicU64::new(0))
                .collect(),
        });
        let company = Company::start(load.company)?;
        let mut random = Random::seeded(load.classes as u64);
        for (index, class) in classes.iter().enumerate() {
            // Lengths from 100 us to 1 ms, evenly over the logarithm; a class keeps its length, so that who has longer
            // tasks would receive more if tasks were counted instead of time.
            let iterations = work.iterations(100.0 * 10f64.powf(random.unit()));
            for _ in 0..OUTSTANDING {
                go_on(class.clone(), index, iterations, ledger.clone());
            }
        }
        sys::sleep_until_ns(start_ns);
        let window = Window::open(&company);
        // A task that is running when the last second ends books when it ends: give it time to.
        sys::sleep_until_ns(start_ns + load.seconds as u64 * SECOND_NS);
        let seen = window.close();
        sys::sleep_until_ns(sys::now_ns() + 300_000_000);

        let promised_all: f64 = shares.iter().map(|&share| f64::from(share)).sum();
        let received = |class: usize, second: usize| {
            ledger.received[class * load.seconds + second].load(Ordering::Relaxed) as f64
        };
        let mut worst_of_received = 0f64;
        let mut worst_of_machine = 0f64;
        let mut totals = Vec::new();
        for second in 0..load.seconds {
            let total: f64 = (0..load.classes).map(|class| received(class, second)).sum();
            totals.push(total / 1e9);
            for (class, &share) in shares.iter().enumerate() {
                let error =
                    (received(class, second) - total * f64::from(share) / promised_all).abs();
                worst_of_received = worst_of_received.max(100.0 * error / total.max(1.0));
                worst_of_machine = worst_of_machine.max(100.0 * error / (sys::cpus() as f64 * 1e9));
            }
        }
        let by_class = |class: usize| {
            (0..load.seconds)
                .map(|second| received(class, second))
                .sum::<f64>()
        };
        // Jain's index judges each class by what it received for each share it holds.
        let for_its_share: Vec<f64> = shares
            .iter()
            .enumerate()
            .map(|(class, &share)| by_class(class) / f64::from(share))
            .collect();
        Ok(Sample::default()
            .with("worst_error_points", worst_of_received)
            .with("worst_error_points_of_machine", worst_of_machine)
            .with("jain", jain(&for_its_share))
            .with("received_cores", median(&totals))
            .foreign(seen.others_share))
    }
}
