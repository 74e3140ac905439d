//! What is accepted, what it means, and how it is printed.

use std::time::Duration;

use flyball_core::class::Group;
use flyball_policy::sched::Algorithm;
use flyball_policy::sched::place::Strategy;
use serde_json::json;

use super::*;

/// The file that people are shown first; its keys are a promise.
const SAMPLE: &str = "\
performance: { enabled: true, optimization_level: balanced }   # conservative | balanced | aggressive
memory_pool: { enabled: true, initial_size: 256MB, max_size: 2GB, emergency_pool_size: 64MB, cleanup_interval: 30s, fragmentation_threshold: 0.3 }
cpu_scheduler: { enabled: true, algorithm: cfs, max_workers: 0, task_timeout: 30s, load_balancing: true }
worker_pool: { min_workers: 2, max_workers: 0, target_load: 0.7, scale_up_delay: 5s, scale_down_delay: 30s, health_check_interval: 10s, max_idle_time: 60s, task_batch_size: 10 }  # 0: 2×CPUs
load_balancer: { enabled: true, strategy: pull, interval: 10s }
throttling: { enabled: true, threshold_percent: 80 }
io_throttler: { enabled: true, max_bandwidth: 1GB/s, rate_limiting: true, limiter: token_bucket, qos_enabled: true, scheduler: cfq }
cache: { enabled: true, eviction_policy: adaptive, max_size: 512MB, ttl: 1h, cleanup_interval: 5m }
scheduler: { enabled: true, max_concurrency: 100, circuit_breaker: true, retry_attempts: 3, health_checks: true }
allocator: { strategy: fair, timeout: 10m, check_interval: 1m }
monitor: { enabled: true, collection_interval: 1s, bottleneck_detection: true, recommendations: true, alerting: true, alert_cooldown: 5m }
profiler: { enabled: false, profile_types: [cpu, memory], session_duration: 30s, analysis_depth: detailed }
optimizer: { enabled: true, interval: 2m, strategies: [workload] }
";

/// CFG-1: every key of the sample exists, and every value in it is the default.
#[test]
fn the_sample_is_the_default() {
    assert_eq!(loaded(SAMPLE).config, Config::default());
    for empty in [
        "",
        "# nothing\n",
        "---\n",
        "{}",
        "cache:\n",
        "\u{feff}",
        "~",
        "...\n",
    ] {
        let loaded = loaded(empty);
        assert_eq!(loaded.config, Config::default(), "{empty:?}");
        assert!(loaded.notices.is_empty());
    }
}

/// CFG-7: every setting of the list of settings has its key and default.
#[test]
fn every_setting_has_its_key() {
    let expected = [
        ("monitor.cpu.enabled", "true"),
        ("monitor.cpu.interval", "5s"),
        ("load_balancer.interval", "10s"),
        ("cpu_scheduler.control_interval", "10ms"),
        ("throttling.threshold_percent", "80"),
        ("optimizer.interval", "2m"),
        ("optimizer.max_cpu_percent", "80"),
        ("optimizer.min_cpu_percent", "20"),
        ("monitor.cpu.max_percent", "80"),
        ("monitor.cpu.warn_percent", "70"),
        ("monitor.memory.max_percent", "80"),
        ("monitor.memory.warn_percent", "70"),
        ("monitor.memory.interval", "5s"),
        ("monitor.network.max_percent", "80"),
        ("monitor.network.warn_percent", "70"),
        ("monitor.network.interval", "10s"),
        ("monitor.disk.max_percent", "80"),
        ("monitor.disk.warn_percent", "70"),
        ("monitor.disk.interval", "30s"),
        ("monitor.collection_interval", "1s"),
        ("monitor.alert_threshold_percent", "80"),
        ("monitor.alert_cooldown", "5m"),
        ("monitor.memory.max_bytes", "500MB"),
        ("worker_pool.max_tasks_per_worker", "100"),
        ("worker_pool.shutdown_timeout", "30s"),
        ("worker_pool.force_after", "5s"),
        ("worker_pool.start_batch", "4"),
        ("worker_pool.start_delay", "50ms"),
        ("worker_pool.stuck_after", "60s"),
        ("optimizer.built_in", "[parallelism, allocator, tasks]"),
        ("allocator.strategy", "fair"),
        ("allocator.timeout", "10m"),
        ("allocator.check_interval", "1m"),
        ("throttling.throttles", "[]"),
        ("classes", "[]"),
        ("alerts", "[]"),
        ("server.listen", "127.0.0.1:7070"),
        ("server.limits.header_bytes", "16KiB"),
        ("server.limits.header_fields", "32"),
        ("server.limits.header_timeout", "5s"),
        ("server.limits.body_bytes", "1MiB"),
        ("server.limits.body_timeout", "10s"),
        ("server.limits.event_streams", "32"),
        ("server.limits.page", "1000"),
        ("server.limits.json_depth", "128"),
        ("queue.state_dir", "auto"),
        ("commands.programs", "[]"),
    ];
    for (path, default) in expected {
        let key = key(path).unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!(key.default, default, "{path}");
    }
}

/// CFG-5: every part has a flag that can be changed while running.
#[test]
fn every_part_has_a_flag() {
    let parts = [
        "performance",
        "memory_pool",
        "cpu_scheduler",
        "load_balancer",
        "throttling",
        "io_throttler",
        "cache",
        "scheduler",
        "allocator",
        "monitor",
        "monitor.cpu",
        "monitor.memory",
        "monitor.network",
        "monitor.disk",
        "profiler",
        "optimizer",
        "commands",
    ];
    for part in parts {
        let flag = key(&format!("{part}.enabled")).unwrap_or_else(|| panic!("{part} has no flag"));
        assert!(flag.kind == Kind::Bool && !flag.restart, "{part}");
    }
}

/// CFG-1: values mean what they say, in every block.
#[test]
fn typed_values() {
    let config = loaded(
        "cpu_scheduler: {algorithm: priority, max_workers: 12}\nload_balancer: {strategy: power_of_two, interval: 90s}\n\
         worker_pool: {min_workers: 0x3, target_load: 8e-1}\nmemory_pool: {max_size: auto}\n\
         io_throttler: {max_bandwidth: 10MiB/s}\nthrottling: {threshold_percent: 72.5%}\n\
         profiler: {profile_types: [mutex]}\nqueue: {state_dir: /var/lib/flyball, url: 'nats://a'}\n\
         server: {listen: '[::1]:80', allowed_hosts: [a.example:7070, !!str 5]}\nmonitor: {cpu: {interval: 1m}, report_schedule: 0 3 * * *}\n",
    )
    .config;
    assert_eq!(config.cpu_scheduler.algorithm, Algorithm::Priority);
    assert_eq!(config.worker_pool.max_workers, 12);
    assert_eq!(config.worker_pool.min_workers, 3);
    assert_eq!(config.worker_pool.target_load, 0.8);
    assert_eq!(config.load_balancer.strategy, Strategy::PowerOfTwo);
    assert_eq!(config.load_balancer.interval, Duration::from_secs(90));
    assert_eq!(config.memory_pool.max_size, None);
    assert_eq!(config.io_throttler.max_bandwidth, 10 << 20);
    assert_eq!(config.throttling.threshold_percent, 72.5);
    assert_eq!(config.profiler.profile_types, [ProfileType::Mutex]);
    assert_eq!(config.server.listen.to_string(), "[::1]:80");
    assert_eq!(config.server.allowed_hosts, ["a.example:7070", "5"]);
    assert_eq!(config.monitor.cpu.interval, Duration::from_secs(60));
    assert_eq!(config.monitor.report_schedule.as_deref(), Some("0 3 * * *"));
    assert_eq!(
        config.state_dir(|_| None),
        Some("/var/lib/flyball".into()),
        "no need to ask the environment"
    );
}

/// CFG-1: Windows line ends and a byte order mark change nothing; anchors and aliases work.
#[test]
fn ways_of_writing() {
    let config = loaded("\u{feff}cache:\r\n  ttl: 2h\r\n  max_size: 1MiB\r\n").config;
    assert_eq!(config.cache.ttl, Duration::from_secs(7200));
    assert_eq!(config.cache.max_size, 1 << 20);
    let config = loaded("cache: {ttl: &long 3h}\nallocator: {timeout: *long}\n").config;
    assert_eq!(config.allocator.timeout, Duration::from_secs(10_800));
}

/// CFG-7: classes start from the built-in class of their name, or from `normal`; their I/O fields are checked and kept.
#[test]
fn classes_are_read() {
    let loaded = loaded(
        "classes:\n- {name: reports, shares: 128, guarantee: 0.1, ceiling: 0.5, latency_target: 10s, time_slice: 1ms, queue_limit: 50,\n   \
         sheddable: true, preemptible: true, concurrency: 4, group: front, niceness: 5, priority: 1, io_weight: 3}\n\
         - {name: batch, concurrency: unlimited, ceiling: 0.9}\n",
    );
    let [reports, batch] = &loaded.config.classes[..] else {
        panic!("two classes")
    };
    assert_eq!(
        (reports.shares, reports.priority, reports.queue_limit),
        (128, 1, 50)
    );
    assert_eq!((reports.guarantee, reports.ceiling), (0.1, 0.5));
    assert_eq!(
        (reports.concurrency, reports.group),
        (Some(4), Group::Front)
    );
    assert_eq!(reports.latency_target, Duration::from_secs(10));
    assert_eq!(reports.time_slice, Duration::from_millis(1));
    assert!(reports.sheddable && reports.preemptible && reports.niceness == 5);
    assert_eq!(
        (batch.shares, batch.ceiling, batch.niceness),
        (256, 0.9, 10)
    );
    let again = super::loaded(loaded.to_yaml());
    assert_eq!(again.config, loaded.config);
    let notices: Vec<_> = loaded.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        ["flyball.yaml:2:3: classes[].io_weight is set, but this build has no I/O throttler"]
    );
}

/// CFG-1: what this build cannot do is said, not ignored.
#[test]
fn absent_parts_are_noticed() {
    let text = "cache:\n  max_size: 1GB\nworker_pool: {min_workers: 3}\nmonitor: {cpu: {max_percent: 90}, disk: {interval: 1m}}\n\
                alerts: [{name: hot}]\n";
    let notices: Vec<_> = loaded(text)
        .notices
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        "flyball.yaml:2:13: cache.max_size is set, but this build has no cache",
        "flyball.yaml:4:30: monitor.cpu.max_percent is set, but this build has no alerting",
        "flyball.yaml:4:52: monitor.disk.interval is set, but this build has no disk monitor",
        "flyball.yaml:5:9: alerts is set, but this build has no alerting",
    ];
    assert_eq!(notices, expected);
}

/// CFG-2: later sources prevail, and each value says where it came from.
#[test]
fn sources_prevail_in_order() {
    let sources = Sources::new()
        .with_text(
            "flyball.yaml",
            "worker_pool:\n  min_workers: 3\n  max_workers: 9\n  start_batch: 5\nserver: {listen: '127.0.0.1:1'}\n",
        )
        .with_environment([
            ("FLYBALL_CPU_SCHEDULER_MAX_WORKERS", "10"),
            ("FLYBALL_WORKER_POOL_START_BATCH", " 6 "),
            ("FLYBALL_SERVER_LISTEN", "127.0.0.1:2"),
            ("FLYBALL_CACHE_TTL", ""),
            ("FLYBALL_PROFILER_PROFILE_TYPES", "mutex, block"),
            ("FLYBALL_OPTIMIZER_STRATEGIES", "[power]"),
            ("FLYBALL_CLASSES", "[{name: web}]"),
            ("FLYBALL_CONFIG", "flyball.yaml"),
            ("FLYBALL_PORT_7070_TCP_ADDR", "10.0.0.1"),
            ("FLYBALL_SERVICE_HOST", "10.0.0.1"),
        ])
        .with_flag("--listen", "server.listen", "127.0.0.1:3");
    let loaded = load(&sources).unwrap_or_else(|errors| panic!("{errors}"));
    let origin = |path| {
        let (text, origin) = loaded.origin(path).expect("a key");
        format!("{text} from {origin}")
    };
    assert_eq!(
        origin("worker_pool.min_workers"),
        "3 from flyball.yaml:2:16"
    );
    assert_eq!(
        origin("worker_pool.max_workers"),
        "10 from FLYBALL_CPU_SCHEDULER_MAX_WORKERS"
    );
    assert_eq!(
        origin("worker_pool.start_batch"),
        "6 from FLYBALL_WORKER_POOL_START_BATCH"
    );
    assert_eq!(origin("server.listen"), "127.0.0.1:3 from --listen");
    assert_eq!(origin("cache.ttl"), "1h from default");
    assert_eq!(
        loaded.config.profiler.profile_types,
        [ProfileType::Mutex, ProfileType::Block]
    );
    assert_eq!(loaded.config.optimizer.strategies, [Objective::Power]);
    assert_eq!(loaded.config.classes[0].name, "web");
    let origins = loaded.origins();
    assert_eq!(origins.len(), schema().len());
}

/// CFG-6: the shapes that people write are exact and print back as they were written.
#[test]
fn quantities_print_as_written() {
    let shapes = [
        ("cache.max_size", "512MB", "512000000B"),
        ("cache.max_size", "512MiB", "536870912B"),
        ("cache.max_size", "0.5GB", "500MB"),
        ("cache.ttl", "1h30m", "90m"),
        ("cache.ttl", "90m", "5400s"),
        ("cache.ttl", "500ms", "0.5s"),
        ("io_throttler.max_bandwidth", "1GB/s", "1000MB/s"),
        ("io_throttler.max_bandwidth", "1024KiB/s", "1MiB/s"),
    ];
    for (path, text, same) in shapes {
        let (block, name) = path.split_once('.').expect("a block");
        let one = loaded(format!("{block}: {{{name}: {text}}}"));
        let other = loaded(format!("{block}: {{{name}: {same}}}"));
        assert_eq!(one.config, other.config, "{text} is {same}");
        assert!(
            one.to_yaml().contains(&format!("\n  {name}: {text}\n")),
            "{text}"
        );
        assert_eq!(one.to_json()[block][name], json!(text));
        assert_eq!(other.origin(path).expect("a key").0, same);
        assert!(one.changes_to(&other).is_empty());
    }
}

/// CFG-2: JSON has the keys and texts of the file; secrets are in nothing that is printed.
#[test]
fn json_and_secrets() {
    let loaded = loaded(
        "queue: {url: 'postgres://me:hunter2@db'}\nalerts: [{name: a, webhook: {token: hunter2, url: x}}]\n",
    );
    assert_eq!(
        loaded.config.queue.url.as_ref().map(|url| url.as_str()),
        Some("postgres://me:hunter2@db")
    );
    let sources = Sources::new()
        .with_text("x", "queue: {url: hunter2}")
        .with_environment([("FLYBALL_QUEUE_URL", "hunter2")])
        .with_flag("--url", "queue.url", "hunter2");
    for debug in [
        format!("{loaded:?}"),
        format!("{:#?}", loaded.config),
        format!("{sources:?}"),
        format!("{:?}", load(&sources)),
    ] {
        assert!(!debug.contains("hunter2"), "{debug}");
    }
    let json = loaded.to_json();
    assert_eq!(json["worker_pool"]["min_workers"], json!(2));
    assert_eq!(json["worker_pool"]["target_load"], json!(0.7));
    assert_eq!(json["monitor"]["cpu"]["max_percent"], json!(80));
    assert_eq!(json["queue"]["url"], json!("(secret)"));
    let cpu = loaded.blocks_to_json(|block| block == "cpu_scheduler");
    assert_eq!(
        cpu,
        json!({"cpu_scheduler": {"enabled": true, "algorithm": "cfs", "task_timeout": "30s", "control_interval": "10ms"}})
    );
    let printed = [
        json.to_string(),
        loaded.to_yaml(),
        format!("{:?}", loaded.origins()),
    ];
    for text in printed {
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("(secret)"), "{text}");
    }
}

/// CFG-1: a program's own configuration is held to the same rules.
#[test]
fn programs_fill_it_in() {
    let mut config = Config::default();
    config.worker_pool.min_workers = 5;
    config.cache.ttl = Duration::from_millis(1500);
    config.classes = vec![flyball_core::class::ClassSpec::new("web").with_concurrency(2)].into();
    let loaded = Loaded::from_config(&config).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(*loaded.config.classes, *config.classes);
    assert_eq!(loaded.config.worker_pool, config.worker_pool);
    assert_eq!(super::loaded(loaded.to_yaml()).config, loaded.config);
    let (text, origin) = loaded.origin("cache.ttl").expect("a key");
    assert_eq!((text.as_str(), origin), ("1s500ms", Origin::Program));

    config.worker_pool.target_load = f64::NAN;
    config.worker_pool.max_workers = 3;
    let errors = Loaded::from_config(&config)
        .expect_err("mistakes")
        .to_string();
    let expected = "\
program: worker_pool.target_load: found \"NaN\", expected a number from 0.05 to 1
program: worker_pool.max_workers: min_workers 5 is above max_workers 3 (worker_pool.min_workers is set by program)";
    assert_eq!(errors, expected);
}

/// CFG-1: zero workers stand for what the machine has.
#[test]
fn zeros_are_resolved() {
    let pool = |text: &str, cpus| loaded(text).config.resolve(cpus).worker_pool;
    assert_eq!(pool("", 8).max_workers, 16);
    assert_eq!(pool("", 8).initial_workers, 2);
    assert_eq!(pool("", 0).max_workers, 2, "never under the minimum");
    assert_eq!(pool("worker_pool: {min_workers: 20}", 4).max_workers, 20);
    assert_eq!(
        pool("", 500).max_workers,
        128,
        "what the executor has places for"
    );
    assert_eq!(
        pool("worker_pool: {initial_workers: 50}", 2).initial_workers,
        4
    );
    assert_eq!(pool("worker_pool: {max_workers: 6}", 2).max_workers, 6);
}

/// CFG-7: the state folder is where systemd, the desktop standard or the home say.
#[test]
fn the_state_folder() {
    let folder = |variables: &[(&str, &str)]| {
        let found = Config::default().state_dir(|name| {
            let variable = variables.iter().find(|(known, _)| *known == name);
            variable.map(|(_, value)| (*value).into())
        });
        found.map(|path| path.display().to_string())
    };
    assert_eq!(folder(&[]), None);
    let home = ("HOME", "/home/me");
    assert_eq!(
        folder(&[home]).as_deref(),
        Some("/home/me/.local/state/flyball")
    );
    let state = ("XDG_STATE_HOME", "/s");
    assert_eq!(folder(&[home, state]).as_deref(), Some("/s/flyball"));
    let systemd = ("STATE_DIRECTORY", "/var/lib/flyball:/var/lib/other");
    assert_eq!(
        folder(&[home, state, systemd]).as_deref(),
        Some("/var/lib/flyball")
    );
    assert_eq!(folder(&[("XDG_STATE_HOME", "relative")]), None);
}

/// CFG-1: the reference page is what the schema says. `WRITE_DOCS=1` in the environment of the test writes it anew.
#[test]
fn the_page_is_in_step() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let expected = schema_markdown();
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(page, &expected).expect("docs/configuration.md can be written");
    }
    let found = std::fs::read_to_string(page).expect("docs/configuration.md");
    assert!(
        found == expected,
        "docs/configuration.md is not what the schema says: run this test with WRITE_DOCS=1"
    );
    let yaml = expected
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    loaded(yaml.expect("an example"));
}

/// CFG-1: the schema prints every key, for people and for machines.
#[test]
fn the_schema_prints() {
    let (text, json) = (schema_text(), schema_json());
    for key in schema().iter().chain(class_keys()) {
        assert!(text.contains(&format!("{} ", key.path)), "{}", key.path);
        assert!(text.contains(key.about()), "{}", key.path);
    }
    let rows = json.as_array().expect("a list");
    assert_eq!(rows.len(), schema().len() + class_keys().len());
    let row = rows
        .iter()
        .find(|row| row["key"] == "worker_pool.max_workers");
    let expected = json!({
        "key": "worker_pool.max_workers", "type": "integer", "unit": "workers", "range": "0 to 128", "or": null, "default": "0",
        "restart": false, "secret": false, "environment": "FLYBALL_WORKER_POOL_MAX_WORKERS",
        "aliases": ["cpu_scheduler.max_workers"], "absent_part": null,
        "about": "The most workers; 0 stands for 2×CPUs. Other name: `cpu_scheduler.max_workers`.",
    });
    assert_eq!(row, Some(&expected));
}

/// CFG-6, CFG-7: what durable tasks share and what commands may do reads back as it was written; a variable can say it, too.
#[test]
fn settings_of_tasks_are_read() {
    let loaded = loaded(
        "scheduler: {resources: {gpu: 2, licence: 1}, max_cpus: 3.5, max_memory: 4GB, breaker: {slow_after: 2s},\n  \
         checks: [{dependency: 'api:443', url: 'https://api/ok'}, {dependency: resize, command: [/bin/test, -e, /srv]}]}\n\
         commands: {enabled: true, programs: [/usr/bin/gzip], folders: [/srv], environment: [LANG, APP_*]}\n\
         queue: {max_tasks: 5, retention: 1h}\n",
    );
    assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
    let scheduler = &loaded.config.scheduler;
    let resources: Vec<_> = scheduler.resources.iter().collect();
    assert_eq!(
        resources,
        [(&"gpu".to_owned(), &2), (&"licence".to_owned(), &1)]
    );
    assert_eq!(scheduler.breaker.slow_after, Some(Duration::from_secs(2)));
    assert_eq!(super::loaded(loaded.to_yaml()).config, loaded.config);
    let sources = Sources::new().with_environment([("FLYBALL_SCHEDULER_RESOURCES", "{gpu: 3}")]);
    let by_variable = load(&sources).expect("right");
    assert_eq!(by_variable.config.scheduler.resources["gpu"], 3);
    let (changed, changes) = loaded
        .with_changes(
            &json!({"scheduler": {"resources": {"gpu": 4}}}),
            Origin::Api,
        )
        .expect("right");
    assert_eq!(changed.config.scheduler.resources.len(), 1);
    assert_eq!(changes[0].old, json!({"gpu": 2, "licence": 1}));
}
