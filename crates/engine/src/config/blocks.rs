//! The typed configuration, and beside each field its row of the schema.
//!
//! `block!` declares a struct and its rows at once, so that neither can lack what the other has. A row reads
//! `field: Type = "default as written", kind, modifiers…;` and its comment is both the documentation of the field and the line on the
//! reference page.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flyball_policy::sched::Algorithm;
use flyball_policy::sched::place::Strategy;
use flyball_policy::sched::pool::Sizing;

use super::choices::*;
use super::classes::Classes;
use super::field::{Counts, Field, MapList, Secret};
use super::schema::{Key, integer, number, percent, rate, size, time};
use super::value::{Kind, Value};

/// Values by key.
pub(super) type Values = BTreeMap<&'static str, Value>;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
/// The most workers of one group that the executor has places for.
pub(super) const MAX_WORKERS: u32 = 128;

const ALGORITHMS: [&str; 4] = {
    let mut names = [""; 4];
    let mut i = 0;
    while i < names.len() {
        names[i] = Algorithm::ALL[i].name();
        i += 1;
    }
    names
};

const STRATEGIES: [&str; 12] = {
    let mut names = [""; 12];
    let mut i = 0;
    while i < names.len() {
        names[i] = Strategy::ALL[i].name();
        i += 1;
    }
    names
};

const SIZINGS: [&str; 3] = {
    let mut names = [""; 3];
    let mut i = 0;
    while i < names.len() {
        names[i] = Sizing::ALL[i].name();
        i += 1;
    }
    names
};

/// Declares a block: the struct with its fields, and a row a field.
macro_rules! block {
    (
        $(#[doc = $about:literal])+
        $Block:ident at $path:literal {
            $(
                $(#[doc = $line:literal])+
                $field:ident: $Type:ty = $default:literal, $kind:expr $(, $modifier:ident($($argument:expr)?))*;
            )*
            $(+ $sub:ident: $Sub:ident, $sub_line:literal;)*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct $Block {
            $($(#[doc = $line])+ pub $field: $Type,)*
            $(#[doc = $sub_line] pub $sub: $Sub,)*
        }

        impl $Block {
            const KEYS: &'static [Key] = &[
                $(Key::new(
                    concat!($path, ".", stringify!($field)),
                    concat!($($line),+),
                    $default,
                    $kind,
                )$(.$modifier($($argument)?))*,)*
            ];

            fn keys(_into: &mut Vec<&'static Key>) {
                _into.extend(Self::KEYS);
                $($Sub::keys(_into);)*
            }

            fn read(values: &Values) -> Self {
                $Block {
                    $($field: Field::take(
                        &values[concat!($path, ".", stringify!($field))],
                        concat!($path, ".", stringify!($field)),
                    ),)*
                    $($sub: $Sub::read(values),)*
                }
            }

            fn write(&self, into: &mut Values) {
                let mut keys = Self::KEYS.iter();
                $(
                    let key = keys.next().expect("a row a field");
                    into.insert(key.path, self.$field.give(key));
                )*
                $(self.$sub.write(into);)*
            }
        }
    };
}

/// Declares the whole configuration: its blocks, and the keys that stand outside of blocks.
macro_rules! whole {
    (
        $(#[$meta:meta])*
        $Config:ident {
            blocks { $($(#[$about:meta])* $block:ident: $Block:ident,)* }
            keys { $($(#[doc = $line:literal])+ $field:ident: $Type:ty = $default:literal, $kind:expr;)* }
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct $Config {
            $($(#[$about])* pub $block: $Block,)*
            $($(#[doc = $line])+ pub $field: $Type,)*
        }

        const OUTSIDE: &[Key] = &[
            $(Key::new(stringify!($field), concat!($($line),+), $default, $kind),)*
        ];

        /// All rows, block by block.
        pub(super) fn keys() -> Vec<&'static Key> {
            let mut keys = Vec::new();
            $($Block::keys(&mut keys);)*
            keys.extend(OUTSIDE);
            keys
        }

        impl $Config {
            /// Fills the fields from values that have been read by their kinds; every key must be there.
            pub(super) fn read(values: &Values) -> Self {
                $Config {
                    $($block: $Block::read(values),)*
                    $($field: Field::take(&values[stringify!($field)], stringify!($field)),)*
                }
            }

            /// Gives all values back.
            pub(super) fn write(&self) -> Values {
                let mut values = Values::new();
                $(self.$block.write(&mut values);)*
                let mut keys = OUTSIDE.iter();
                $(
                    let key = keys.next().expect("a row a field");
                    values.insert(key.path, self.$field.give(key));
                )*
                values
            }
        }
    };
}

block! {
    /// Self-regulation as a whole.
    Performance at "performance" {
        /// Whether anything regulates itself; `false` leaves a plain pool of workers.
        enabled: bool = "true", Kind::Bool;
        /// The bounds and the pace of the optimizer: `conservative` only recommends, `balanced` acts inside guard bands, `aggressive` acts faster and further.
        optimization_level: OptimizationLevel = "balanced", Kind::Choice(OptimizationLevel::NAMES);
    }
}

block! {
    /// Memory: the budget and the pools in it.
    MemoryPool at "memory_pool" {
        /// Whether memory is budgeted and pooled.
        enabled: bool = "true", Kind::Bool;
        /// The pools' share of the budget from the start.
        initial_size: u64 = "256MB", size(0, 1024 * TIB);
        /// The budget; `auto` takes 80% of what the machine or its cgroup has, and a size is an upper bound on that.
        max_size: Option<u64> = "2GB", size(MIB, 1024 * TIB), or("auto");
        /// What only the class `critical` may draw on.
        emergency_pool_size: u64 = "64MB", size(0, 1024 * TIB);
        /// How often idle objects are trimmed and dead consumers swept.
        cleanup_interval: Duration = "30s", time(SECOND, DAY);
        /// The part of active memory that is not allocated above which the allocator is purged.
        fragmentation_threshold: f64 = "0.3", number(0.01, 1.0);
    }
}

block! {
    /// Which class runs next. `max_workers` and `load_balancing` are other names of `worker_pool.max_workers` and `load_balancer.enabled`.
    CpuScheduler at "cpu_scheduler" {
        /// Whether classes share the CPU by the algorithm; without it they take turns.
        enabled: bool = "true", Kind::Bool;
        /// How classes share the CPU.
        algorithm: Algorithm = "cfs", Kind::Choice(&ALGORITHMS);
        /// How long a durable task may run that names no time itself (commands: `commands.timeout`); closures and futures of a program have no timeout unless they name one.
        task_timeout: Duration = "30s", time(1, 30 * DAY);
        /// How often the control loop's fast tick runs while there is work.
        control_interval: Duration = "10ms", time(1, SECOND), restart();
    }
}

block! {
    /// How many workers there are.
    WorkerPool at "worker_pool" {
        /// Workers that are kept in any case.
        min_workers: u32 = "2", integer(1, MAX_WORKERS as i64), unit("workers");
        /// The most workers; 0 stands for 2×CPUs. Other name: `cpu_scheduler.max_workers`.
        max_workers: u32 = "0", integer(0, MAX_WORKERS as i64), unit("workers");
        /// Workers at the start; 0 stands for `min_workers`.
        initial_workers: u32 = "0", integer(0, MAX_WORKERS as i64), unit("workers"), restart();
        /// How their number is found: `classic` by load with delays, `offered` by the work that comes, refused work included, at once up and later down, `adaptive` by trying out which number does most, for tasks that block.
        sizing: Sizing = "classic", Kind::Choice(&SIZINGS);
        /// The load (busy and backlogged work over worker time) that the pool's size aims at.
        target_load: f64 = "0.7", number(0.05, 1.0);
        /// How long load stays above target, or the queue grows, before workers are added.
        scale_up_delay: Duration = "5s", time(10, HOUR);
        /// How long load stays under half of target before workers are let go.
        scale_down_delay: Duration = "30s", time(10, DAY);
        /// How often the health of workers is judged.
        health_check_interval: Duration = "10s", time(100, HOUR);
        /// A worker that is idle for longer is let go, down to `min_workers`.
        max_idle_time: Duration = "60s", time(100, DAY);
        /// Tasks of a batch that are handed over with one wake-up.
        task_batch_size: u32 = "10", integer(1, 10_000), unit("tasks");
        /// Tasks that placement tags for one worker; the rest waits untagged.
        max_tasks_per_worker: u32 = "100", integer(1, 1_000_000), unit("tasks");
        /// How long a shutdown lets accepted tasks run before it cancels them.
        shutdown_timeout: Duration = "30s", time(0, DAY);
        /// How long cancelled tasks may still run before they are reported as not ended.
        force_after: Duration = "5s", time(0, HOUR);
        /// Workers that are started at once.
        start_batch: u32 = "4", integer(1, MAX_WORKERS as i64), unit("workers");
        /// Time between batches of starting workers.
        start_delay: Duration = "50ms", time(0, MINUTE);
        /// A worker that runs one task for longer counts as stuck.
        stuck_after: Duration = "60s", time(10, 365 * DAY);
        /// How the kernel ranks the threads of the classes in the back group: `idle` leaves the CPU to every other program, `nice` shares it by `back_nice`, `normal` shares it evenly.
        back_priority: BackPriority = "idle", Kind::Choice(BackPriority::NAMES), restart();
        /// The nice value of the back group's threads under `back_priority: nice`.
        back_nice: i8 = "10", integer(0, 19), restart();
        /// The nice value of the front group's threads; below 0 it needs a privilege.
        front_nice: i8 = "0", integer(-20, 0), restart();
    }
}

block! {
    /// Which worker a task is meant for.
    LoadBalancer at "load_balancer" {
        /// Whether queued work is evened out over workers. Other name: `cpu_scheduler.load_balancing`.
        enabled: bool = "true", Kind::Bool;
        /// How a worker is chosen; `pull` leaves it to whoever is free.
        strategy: Strategy = "pull", Kind::Choice(&STRATEGIES);
        /// How often the balance is looked at.
        interval: Duration = "10s", time(100, HOUR);
    }
}

block! {
    /// Holding usage at a threshold.
    Throttling at "throttling" {
        /// Whether throttles act.
        enabled: bool = "true", Kind::Bool;
        /// The CPU usage of the machine that the daemon's own throttle, `machine`, holds; it holds back classes below `normal` only. A library has none of its own.
        threshold_percent: f64 = "80", Kind::Percent { min: 1.0, max: 100.0 };
        /// Whether the daemon's own throttles hold anything back (`enforce`), or only decide and count (`observe`).
        mode: Mode = "enforce", Kind::Choice(Mode::NAMES);
        /// Whether the daemon's own throttles do anything.
        own: bool = "true", Kind::Bool;
        /// Throttles beside those, at most 14, each a map: `name`, `scope` (`machine`, `process`, `quota` or `class:NAME`), `threshold_percent`; and at will `hysteresis_percent` (5, or half of a threshold under 10), `below` (`critical`: it holds classes of a lower priority back), `mode`, `enabled`.
        throttles: MapList = "[]", Kind::Maps;
    }
}

block! {
    /// As many at once as are good, found by measuring.
    Limits at "limits" {
        /// Whether the limits of the list below act.
        enabled: bool = "true", Kind::Bool;
        /// Adaptive limits, at most 128, each a map: `name`; and at will `scope` (`program`: a program's gate of that name; `class:NAME`: durable tasks of a class at once; `dependency:NAME`: calls of a URL's host by durable tasks), `mode`, `algorithm` (`run_delay`, `vegas`, `gradient`, `aimd`, `fixed`), `limit` (of `fixed`), `min`, `max`, `initial`, `probe_every` (`vegas`), `tolerance` (`gradient`), `backoff` and `latency_max` (`aimd`), `deadline`, `queue_max`.
        adaptive: MapList = "[]", Kind::Maps;
    }
}

block! {
    /// Reading and writing within bounds.
    IoThrottler at "io_throttler" {
        /// Whether I/O goes through the throttler.
        enabled: bool = "true", Kind::Bool;
        /// What all classes may read and write together.
        max_bandwidth: u64 = "1GB/s", rate(KIB, 1024 * TIB);
        /// Whether the bandwidth is limited at all.
        rate_limiting: bool = "true", Kind::Bool;
        /// How the rate is limited.
        limiter: Limiter = "token_bucket", Kind::Choice(Limiter::NAMES);
        /// Whether classes share the bandwidth by their I/O fields.
        qos_enabled: bool = "true", Kind::Bool;
        /// The order of reads and writes.
        scheduler: IoScheduler = "cfq", Kind::Choice(IoScheduler::NAMES);
    }
}

block! {
    /// Caches of the daemon.
    Cache at "cache" {
        /// Whether anything is cached.
        enabled: bool = "true", Kind::Bool;
        /// What goes first when the cache is full.
        eviction_policy: EvictionPolicy = "adaptive", Kind::Choice(EvictionPolicy::NAMES);
        /// The most that is kept.
        max_size: u64 = "512MB", size(0, 1024 * TIB);
        /// How old an entry may get.
        ttl: Duration = "1h", time(1, 365 * DAY);
        /// How long an expired entry may stay untouched.
        cleanup_interval: Duration = "5m", time(SECOND, DAY);
    }
}

block! {
    /// When a breaker opens, and when it closes again.
    TaskBreaker at "scheduler.breaker" {
        /// How far back calls count.
        window: Duration = "10s", time(10, HOUR);
        /// Calls that the window must hold before they prove anything.
        min_calls: u32 = "20", integer(1, 1_000_000), unit("calls");
        /// A breaker opens when more than this part of the calls fail.
        failure_percent: f64 = "50", Kind::Percent { min: 0.1, max: 99.9 };
        /// A breaker opens when more than this part of the calls are slow.
        slow_percent: f64 = "50", Kind::Percent { min: 0.1, max: 99.9 };
        /// A call that takes this long is slow.
        slow_after: Option<Duration> = "never", time(1, DAY), or("never");
        /// The shortest wait before the dependency is tried again; it grows while that fails.
        open_min: Duration = "1s", time(1, DAY);
        /// The longest wait.
        open_max: Duration = "60s", time(1, DAY);
        /// Rounds of 1, 2, 4, … calls that must go well before a breaker closes.
        probe_rounds: u32 = "4", integer(1, 16), unit("rounds");
        /// Whether an open breaker refuses calls (`enforce`), or only decides and counts (`observe`).
        mode: Mode = "enforce", Kind::Choice(Mode::NAMES);
    }
}

block! {
    /// What is kept of the outputs of commands.
    TaskOutputs at "scheduler.outputs" {
        /// Of each of the two outputs of a command: the first bytes; the rest is counted.
        stream_size: u64 = "1MiB", size(0, 1024 * MIB);
        /// Of all tasks together; the oldest go first.
        total_size: u64 = "1GiB", size(0, 1024 * TIB);
        /// Tasks whose outputs are kept; the oldest go first.
        tasks: u32 = "10000", integer(1, 1_000_000), unit("tasks");
    }
}

block! {
    /// Running durable tasks.
    TaskScheduler at "scheduler" {
        /// Whether durable tasks are taken and run; when it is off the queue is closed, and what is in it stays on disk.
        enabled: bool = "true", Kind::Bool;
        /// Durable tasks that run here at once.
        max_concurrency: u32 = "100", integer(1, 10_000), unit("tasks");
        /// How long a task that runs here stays leased without a sign of life of its runner, which gives one after a third of it.
        lease: Duration = "30s", time(3 * SECOND, DAY);
        /// Whether breakers open on failing dependencies.
        circuit_breaker: bool = "true", Kind::Bool;
        /// Attempts of a task that names no number itself, the first included.
        retry_attempts: u32 = "3", integer(1, 1_000), unit("attempts");
        /// The wait before the second attempt is at most this, by chance, and at most twice as long before each further one.
        retry_delay: Duration = "1s", time(0, DAY);
        /// The most that the wait between attempts grows to.
        retry_delay_max: Duration = "5m", time(0, 30 * DAY);
        /// The most that retries may be of the attempts of a kind; those beyond wait.
        retry_budget_percent: f64 = "20", percent();
        /// Whether they wait (`enforce`), or are made and counted (`observe`).
        retry_budget_mode: Mode = "enforce", Kind::Choice(Mode::NAMES);
        /// Whether workers and dependencies are checked.
        health_checks: bool = "true", Kind::Bool;
        /// Named resources that running tasks share, and how many there are of each: `{gpu: 2}`.
        resources: Counts = "{}", Kind::Counts { max: 1_000 };
        /// The CPUs that running tasks may need together, as they say themselves; `auto` is the pool's parallelism.
        max_cpus: Option<f64> = "auto", number(0.001, 10_000.0), or("auto");
        /// The memory that running tasks may need together, as they say themselves; `auto` is 80% of what the machine or its cgroup has.
        max_memory: Option<u64> = "auto", size(MIB, 1024 * TIB), or("auto");
        /// How to ask dependencies whether they are well again, each a map: `{dependency: "api:443", url: "https://api/health"}` or `{dependency: thumbnail, command: [/usr/bin/test, -e, /srv/ok]}`.
        checks: MapList = "[]", Kind::Maps;
        + breaker: TaskBreaker, "When a breaker opens, and when it closes again.";
        + outputs: TaskOutputs, "What is kept of the outputs of commands.";
    }
}

block! {
    /// Leases of CPU, memory, network and disk capacity.
    Allocator at "allocator" {
        /// Whether capacity is leased.
        enabled: bool = "true", Kind::Bool;
        /// How capacity is divided.
        strategy: AllocationStrategy = "fair", Kind::Choice(AllocationStrategy::NAMES);
        /// How long a lease holds that is not renewed.
        timeout: Duration = "10m", time(SECOND, 365 * DAY);
        /// How often leases are divided anew and expired ones reclaimed.
        check_interval: Duration = "1m", time(100, DAY);
    }
}

block! {
    /// Watching the CPU.
    CpuMonitor at "monitor.cpu" {
        /// Whether CPU figures are sampled.
        enabled: bool = "true", Kind::Bool;
        /// How often thresholds are judged.
        interval: Duration = "5s", time(100, HOUR);
        /// Usage above which an alert is critical.
        max_percent: f64 = "80", percent();
        /// Usage above which an alert warns.
        warn_percent: f64 = "70", percent();
    }
}

block! {
    /// Watching memory.
    MemoryMonitor at "monitor.memory" {
        /// Whether memory figures are sampled.
        enabled: bool = "true", Kind::Bool;
        /// How often thresholds are judged.
        interval: Duration = "5s", time(100, HOUR);
        /// Usage above which an alert is critical.
        max_percent: f64 = "80", percent();
        /// Usage above which an alert warns.
        warn_percent: f64 = "70", percent();
        /// What the process itself may use before an alert.
        max_bytes: u64 = "500MB", size(MIB, 1024 * TIB);
    }
}

block! {
    /// Watching the network.
    NetworkMonitor at "monitor.network" {
        /// Whether network figures are sampled.
        enabled: bool = "true", Kind::Bool;
        /// How often thresholds are judged.
        interval: Duration = "10s", time(100, HOUR);
        /// Usage of the line above which an alert is critical.
        max_percent: f64 = "80", percent();
        /// Usage of the line above which an alert warns.
        warn_percent: f64 = "70", percent();
        /// What the line carries; `auto` asks the interfaces.
        line_rate: Option<u64> = "auto", rate(KIB, 1024 * TIB), or("auto");
    }
}

block! {
    /// Watching disks.
    DiskMonitor at "monitor.disk" {
        /// Whether disk figures are sampled.
        enabled: bool = "true", Kind::Bool;
        /// How often thresholds are judged.
        interval: Duration = "30s", time(100, HOUR);
        /// Space in use above which an alert is critical.
        max_percent: f64 = "80", percent();
        /// Space in use above which an alert warns.
        warn_percent: f64 = "70", percent();
    }
}

block! {
    /// Sampling, history, verdicts and alerts.
    Monitor at "monitor" {
        /// Whether figures are sampled.
        enabled: bool = "true", Kind::Bool;
        /// How often figures are sampled.
        collection_interval: Duration = "1s", time(100, HOUR);
        /// Whether bottlenecks are named.
        bottleneck_detection: bool = "true", Kind::Bool;
        /// Whether changes are recommended.
        recommendations: bool = "true", Kind::Bool;
        /// Whether alert rules are judged.
        alerting: bool = "true", Kind::Bool;
        /// The threshold of a rule that names none.
        alert_threshold_percent: f64 = "80", percent();
        /// How long a rule stays silent after it has fired.
        alert_cooldown: Duration = "5m", time(0, 30 * DAY);
        /// When reports are made: a cron expression, or `never`.
        report_schedule: Option<String> = "never", Kind::Text, or("never");
        + cpu: CpuMonitor, "Watching the CPU.";
        + memory: MemoryMonitor, "Watching memory.";
        + network: NetworkMonitor, "Watching the network.";
        + disk: DiskMonitor, "Watching disks.";
    }
}

block! {
    /// Profile sessions.
    Profiler at "profiler" {
        /// Whether sessions run by themselves.
        enabled: bool = "false", Kind::Bool;
        /// What they record.
        profile_types: Vec<ProfileType> = "[cpu, memory]", Kind::Choices(ProfileType::NAMES);
        /// How long a session lasts.
        session_duration: Duration = "30s", time(SECOND, HOUR);
        /// How much the analysis says.
        analysis_depth: AnalysisDepth = "detailed", Kind::Choice(AnalysisDepth::NAMES);
    }
}

block! {
    /// Tuning by experiment.
    Optimizer at "optimizer" {
        /// Whether the optimizer runs.
        enabled: bool = "true", Kind::Bool;
        /// How often it looks for something to improve.
        interval: Duration = "2m", time(SECOND, DAY);
        /// What it strives for, in this order.
        strategies: Vec<Objective> = "[workload]", Kind::Choices(Objective::NAMES);
        /// Which of its own strategies run.
        built_in: Vec<BuiltIn> = "[parallelism, allocator, tasks]", Kind::Choices(BuiltIn::NAMES);
        /// CPU usage above which it changes parallelism.
        max_cpu_percent: f64 = "80", percent();
        /// CPU usage below which it changes parallelism.
        min_cpu_percent: f64 = "20", percent();
    }
}

block! {
    /// Durable tasks and the folder of all state.
    Queue at "queue" {
        /// Where tasks are kept.
        backend: QueueBackend = "embedded", Kind::Choice(QueueBackend::NAMES), restart();
        /// The folder of all state: socket, admin token, queue. `auto` is what systemd gives (`$STATE_DIRECTORY`), else `$XDG_STATE_HOME/flyball`, else `~/.local/state/flyball`.
        state_dir: Option<PathBuf> = "auto", Kind::Path, or("auto"), restart();
        /// Address of the PostgreSQL or NATS server, with its password.
        url: Option<Secret> = "none", Kind::Text, or("none"), restart(), secret();
        /// Tasks that are kept; more are refused.
        max_tasks: u32 = "1000000", integer(1, 1_000_000_000), unit("tasks");
        /// The most that the store may take on disk; more is refused.
        max_size: u64 = "4GB", size(MIB, 1024 * TIB);
        /// Tasks that have ended and are kept, and of failed ones and dead letters as many again; the oldest go first.
        max_ended: u32 = "100000", integer(0, 1_000_000_000), unit("tasks");
        /// How long tasks that have ended are kept.
        retention: Duration = "7d", time(0, 3650 * DAY);
        /// How long failed tasks and dead letters are kept.
        retention_dead: Duration = "30d", time(0, 3650 * DAY);
    }
}

block! {
    /// What clients may take.
    ServerLimits at "server.limits" {
        /// All header fields of a request.
        header_bytes: u64 = "16KiB", size(8 * KIB, MIB), restart();
        /// How many header fields a request has.
        header_fields: u32 = "32", integer(4, 1_000), unit("fields"), restart();
        /// How long header fields may take to arrive.
        header_timeout: Duration = "5s", time(10, 10 * MINUTE), restart();
        /// The body of a request.
        body_bytes: u64 = "1MiB", size(KIB, 1024 * MIB), restart();
        /// How long a body may take to arrive.
        body_timeout: Duration = "10s", time(10, HOUR), restart();
        /// The least rate at which a body arrives.
        body_min_rate: u64 = "1KiB/s", rate(0, 1024 * MIB), restart();
        /// Connections that are open at once.
        max_connections: u32 = "512", integer(4, 1_000_000), unit("connections"), restart();
        /// Event streams that are open at once.
        event_streams: u32 = "32", integer(1, 100_000), unit("streams"), restart();
        /// The most items of a page.
        page: u32 = "1000", integer(1, 100_000), unit("items"), restart();
        /// How deep JSON may be nested.
        json_depth: u32 = "128", integer(8, 128), unit("levels"), restart();
    }
}

block! {
    /// The daemon's log.
    ServerLog at "server.log" {
        /// How lines look.
        format: LogFormat = "human", Kind::Choice(LogFormat::NAMES), restart();
        /// Which lines are written.
        level: LogLevel = "info", Kind::Choice(LogLevel::NAMES), restart();
    }
}

block! {
    /// TLS of the daemon itself.
    ServerTls at "server.tls" {
        /// The file of the certificate chain, PEM.
        certificate: Option<PathBuf> = "none", Kind::Path, or("none"), restart();
        /// The file of the private key, PEM.
        private_key: Option<PathBuf> = "none", Kind::Path, or("none"), restart();
    }
}

block! {
    /// The HTTP API and the local socket.
    Server at "server" {
        /// Where the API listens. Anything but a loopback address needs tokens, and TLS or a proxy in front.
        listen: SocketAddr = "127.0.0.1:7070", Kind::Address, restart();
        /// The local socket; `auto` is `flyball.sock` in the state folder.
        socket: Option<PathBuf> = "auto", Kind::Path, or("auto"), restart();
        /// Says that a proxy in front does TLS.
        behind_tls_proxy: bool = "false", Kind::Bool, restart();
        /// Host names, with port, that requests may be addressed to, beside the address that is listened on.
        allowed_hosts: Vec<String> = "[]", Kind::Texts, restart();
        /// How long the daemon goes on answering after it was asked to end, with `/readyz` at 503, so that who balances over several daemons looks elsewhere first.
        drain_delay: Duration = "0s", time(0, 10 * MINUTE);
        + limits: ServerLimits, "What clients may take.";
        + log: ServerLog, "The daemon's log.";
        + tls: ServerTls, "TLS of the daemon itself.";
    }
}

block! {
    /// Command tasks: their timeout, and what those that come over the network may do.
    Commands at "commands" {
        /// How long a command may run that names no time itself.
        timeout: Duration = "1d", time(1, 30 * DAY);
        /// Whether they are accepted over the network.
        enabled: bool = "false", Kind::Bool;
        /// Programs that may be run, by absolute path without `.` and `..`.
        programs: Vec<PathBuf> = "[]", Kind::Paths;
        /// Folders that they may work in, or below; one that names none works in the first.
        folders: Vec<PathBuf> = "[]", Kind::Paths;
        /// Environment variables that they may be given; a `*` at the end stands for any rest.
        environment: Vec<String> = "[]", Kind::Texts;
    }
}

block! {
    /// Calls of URLs that come over the network.
    Calls at "calls" {
        /// Hosts that they may reach: names, `*.domain`, addresses, networks such as `10.0.0.0/8`, each with `:port` if it is that port only. Empty: all but loopback, link-local and metadata addresses, which are reached only where an exact name or an address stands here.
        hosts: Vec<String> = "[]", Kind::Texts;
    }
}

whole! {
    /// The whole configuration, every value set. `Config::default()` is what an empty file gives.
    Config {
        blocks {
        /// Self-regulation as a whole.
        performance: Performance,
        /// Memory: the budget and the pools in it.
        memory_pool: MemoryPool,
        /// Which class runs next.
        cpu_scheduler: CpuScheduler,
        /// How many workers there are.
        worker_pool: WorkerPool,
        /// Which worker a task is meant for.
        load_balancer: LoadBalancer,
        /// Holding usage at a threshold.
        throttling: Throttling,
        /// As many at once as are good, found by measuring.
        limits: Limits,
        /// Reading and writing within bounds.
        io_throttler: IoThrottler,
        /// Caches of the daemon.
        cache: Cache,
        /// Running durable tasks.
        scheduler: TaskScheduler,
        /// Leases of CPU, memory, network and disk capacity.
        allocator: Allocator,
        /// Sampling, history, verdicts and alerts.
        monitor: Monitor,
        /// Profile sessions.
        profiler: Profiler,
        /// Tuning by experiment.
        optimizer: Optimizer,
        /// Durable tasks and the folder of all state.
        queue: Queue,
        /// The HTTP API and the local socket.
        server: Server,
        /// What command tasks that come over the network may do.
        commands: Commands,
        /// Calls of URLs that come over the network.
        calls: Calls,
        }
        keys {
        /// Classes that are added to the built-in ones or change them, each a map.
        classes: Classes = "[]", Kind::Classes;
        /// Alert rules beside the built-in ones, each a map.
        alerts: MapList = "[]", Kind::Maps;
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config::read(super::layers::defaults())
    }
}

impl Config {
    /// Puts in what zero stands for on a machine with so many CPUs: `worker_pool.max_workers` 2×CPUs (at least `min_workers`, at most
    /// 128), `initial_workers` the minimum.
    #[must_use]
    pub fn resolve(&self, cpus: usize) -> Config {
        let mut config = self.clone();
        let pool = &mut config.worker_pool;
        if pool.max_workers == 0 {
            let twice = u32::try_from(cpus.saturating_mul(2)).unwrap_or(MAX_WORKERS);
            pool.max_workers = twice.clamp(pool.min_workers.max(1), MAX_WORKERS);
        }
        if pool.initial_workers == 0 {
            pool.initial_workers = pool.min_workers;
        }
        pool.initial_workers = pool.initial_workers.min(pool.max_workers);
        config
    }

    /// Returns the state folder: `queue.state_dir`, or what `auto` stands for in this environment. `None` if the environment does not
    /// say where the user's home is.
    pub fn state_dir(
        &self,
        environment: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Option<PathBuf> {
        if let Some(folder) = &self.queue.state_dir {
            return Some(folder.clone());
        }
        let absolute = |name| {
            environment(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        // systemd separates several folders by colons; ours is the first.
        let given = environment("STATE_DIRECTORY").and_then(|folders| {
            let first = folders.to_str()?.split(':').next()?.to_owned();
            Some(PathBuf::from(first)).filter(|path| path.is_absolute())
        });
        given
            .or_else(|| absolute("XDG_STATE_HOME").map(|home| home.join("flyball")))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state/flyball")))
    }
}
