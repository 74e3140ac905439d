//! What is refused, and in which words.

use super::*;

/// The whole text of the errors of a file.
macro_rules! golden {
    ($text:expr, $expected:expr) => {
        let found = refused($text);
        assert_eq!(found, $expected, "\n--- found\n{found}\n---");
    };
}

/// CFG-1: all errors at once, in the order of the file, each with its line, what was found, what is expected, and the nearest
/// word.
#[test]
fn everything_that_is_wrong_is_said_at_once() {
    golden!(
        "performance:\n  optimization_level: agressive\nworker_pool:\n  max_workers: two\n  min_worker: 2\n  target_load: .nan\n\
         cache: {ttl: 5min, enabled: no}\nworkerpool: {}\n",
        "\
flyball.yaml:2:23: performance.optimization_level: found \"agressive\", expected one of conservative, balanced, aggressive; did you mean aggressive?
  | optimization_level: agressive
  |                     ^
flyball.yaml:4:16: worker_pool.max_workers: found \"two\", expected an integer from 0 to 128
  | max_workers: two
  |              ^
flyball.yaml:5:3: worker_pool.min_worker: unknown key; did you mean min_workers?
  | min_worker: 2
  | ^
flyball.yaml:6:16: worker_pool.target_load: found .nan, expected a number from 0.05 to 1
  | target_load: .nan
  |              ^
flyball.yaml:7:14: cache.ttl: found \"5min\" (the unit \"min\" is none of d, h, m, s, ms, us, ns), expected a duration from 1ms to 365d, such as 30s
  | cache: {ttl: 5min, enabled: no}
  |              ^
flyball.yaml:7:29: cache.enabled: found \"no\", expected true or false; did you mean false?
  | cache: {ttl: 5min, enabled: no}
  |                             ^
flyball.yaml:8:1: workerpool: unknown key; did you mean worker_pool?
  | workerpool: {}
  | ^"
    );
}

/// CFG-1: a key that is there twice does not hide what else is wrong.
#[test]
fn a_duplicate_hides_nothing() {
    let found =
        refused("cache: {ttl: 5min}\ncolour: red\nworker_pool: {min_workers: 2, min_workers: 3}\n");
    for said in ["cache.ttl: found", "colour: unknown", "duplicate key"] {
        assert!(found.contains(said), "{said}: {found}");
    }
}

/// CFG-1: each wrong value is refused in words that help.
#[test]
fn wrong_values() {
    let cases = [
        (
            "min_workers: 2",
            "min_workers: unknown key; did you mean worker_pool.min_workers?",
        ),
        (
            "worker_pool.min_workers: 2",
            "unknown key; did you mean min_workers below worker_pool?",
        ),
        ("colour: red", "colour: unknown key"),
        (
            "worker_pool: 5",
            "worker_pool: found 5, expected a map of keys: min_workers, max_workers,",
        ),
        (
            "[1, 2]",
            "flyball.yaml:1:1: found a list, expected a map of blocks: performance,",
        ),
        (
            "worker_pool: {min_workers: }",
            "min_workers: found nothing, expected an integer from 1 to 128",
        ),
        (
            "worker_pool: {min_workers: 0}",
            "found 0, expected an integer from 1 to 128",
        ),
        ("worker_pool: {min_workers: -1}", "found -1, expected"),
        (
            "worker_pool: {min_workers: 2.5}",
            "found 2.5, expected an integer",
        ),
        (
            "worker_pool: {min_workers: \"2\"}",
            "found \"2\", expected an integer",
        ),
        (
            "worker_pool: {min_workers: 99999999999999999999}",
            "found 99999999999999999999, expected",
        ),
        (
            "worker_pool: {min_workers: [2]}",
            "found a list, expected an integer",
        ),
        (
            "worker_pool: {target_load: NaN}",
            "found \"NaN\", expected a number from 0.05 to 1",
        ),
        ("worker_pool: {target_load: .inf}", "found .inf, expected"),
        ("worker_pool: {target_load: 1e999}", "expected a number"),
        (
            "worker_pool: {scale_up_delay: 5}",
            "found 5 (it has no unit: one of d, h, m, s, ms, us, ns), expected a duration",
        ),
        (
            "worker_pool: {scale_up_delay: -5s}",
            "found \"-5s\", expected a duration from 10ms to 1h, such as 30s",
        ),
        (
            "worker_pool: {scale_up_delay: 30m1h}",
            "units must go from long to short",
        ),
        (
            "worker_pool: {scale_up_delay: 2h}",
            "found \"2h\", expected a duration from 10ms to 1h",
        ),
        (
            "cache: {max_size: 512XB}",
            "the unit \"XB\" is none of B, KB, MB",
        ),
        (
            "cache: {max_size: 0.5B}",
            "it is not a whole number of bytes",
        ),
        (
            "cache: {max_size: 99999EiB}",
            "the most is 18446744073709551615 bytes",
        ),
        (
            "io_throttler: {max_bandwidth: 1GB}",
            "found \"1GB\" (it has no unit: one of B/s,",
        ),
        (
            "memory_pool: {max_size: aut}",
            "expected auto or a size from 1MiB to 1PiB, such as 512MB",
        ),
        ("memory_pool: {max_size: aut}", "did you mean auto?"),
        (
            "throttling: {threshold_percent: 101}",
            "found 101, expected a percentage from 1 to 100",
        ),
        (
            "cpu_scheduler: {algorithm: fair}",
            "expected one of round_robin, priority, cfs, proportional_share",
        ),
        (
            "load_balancer: {strategy: least_load}",
            "did you mean least_loaded?",
        ),
        (
            "server: {listen: localhost}",
            "found \"localhost\", expected an IP address and a port, such as 127.0.0.1:7070",
        ),
        (
            "profiler: {profile_types: cpu}",
            "found \"cpu\", expected a list of cpu, memory,",
        ),
        (
            "profiler: {profile_types: [cpu, heap]}",
            "profiler.profile_types[1]: found \"heap\", expected one of cpu,",
        ),
        (
            "profiler: {profile_types: [cpu, cpu]}",
            "found \"cpu\" (it is there already), expected each word once",
        ),
        (
            "server: {allowed_hosts: [[a]]}",
            "server.allowed_hosts[0]: found a list, expected a text",
        ),
        ("server: {socket: \"\"}", "expected auto or a path"),
        (
            "server: {socket: \"a\\u001bb\"}",
            "it contains control characters",
        ),
        ("alerts: [cpu]", "alerts[0]: found \"cpu\", expected a map"),
        (
            "performance: {enabled: on}",
            "found \"on\", expected true or false; did you mean true?",
        ),
        (
            "performance: {enabled: \"true\"}",
            "found \"true\", expected true or false; did you mean true?",
        ),
    ];
    for (text, expected) in cases {
        let found = refused(text);
        assert!(
            found.contains(expected),
            "{text}\n  {found}\n  should say {expected}"
        );
        assert!(found.starts_with("flyball.yaml:1:"), "{found}");
    }
    let long = format!("server: {{socket: /{}}}", "x".repeat(5000));
    assert!(refused(long).contains("(5001 bytes), expected auto or a path"));
    let many = format!("server: {{allowed_hosts: [{}]}}", "a, ".repeat(1025));
    assert!(refused(many).contains("(1025 items), expected at most 1024 items"));
}

/// CFG-1: a file that is no YAML, or more than a configuration can be, is refused with the place where that shows.
#[test]
fn wrong_files() {
    golden!(
        "cache:\n  ttl: 1h\n  ttl: 2h\n",
        "\
flyball.yaml:3:3: cache.ttl: duplicate key, first given at flyball.yaml:2:3
  | ttl: 2h
  | ^"
    );
    let cases: [(&[u8], &str); 16] = [
        (
            b"a: [1",
            "flyball.yaml:2:1: is not YAML: while parsing a flow sequence, expected ',' or ']'",
        ),
        (b"cache: {ttl: 1h\n", "is not YAML: "),
        (b"cache:\n\tttl: 1h\n", "is not YAML: "),
        (
            b"cache: {}\n---\ncache: {}\n",
            "flyball.yaml:2:1: a second document starts here, expected one",
        ),
        (b"cache: !secret 1", "the tag !secret is not supported here"),
        (
            b"cache: !!binary aGk=",
            "the tag tag:yaml.org,2002:binary is not supported here",
        ),
        (b"? [a]\n: 1", "a key is a list or a map, expected a name"),
        (
            b"b: &b {ttl: 1h}\ncache: {<<: *b}",
            "merge keys (<<) are not supported: write the keys out",
        ),
        (b"cache: *x", "is not YAML: "),
        (
            b"a: &a [*a]",
            "flyball.yaml:1:8: an alias (*) stands inside its own anchor (&)",
        ),
        (
            b"cache:\n  \xff: 1",
            "flyball.yaml:2:3: is not UTF-8: byte 9 is 0xff, which no character has there",
        ),
        (
            b"\xef\xbb\xbfa\xff",
            "flyball.yaml:1:2: is not UTF-8: byte 4 is 0xff",
        ),
        (b"\xff\xfea\0", "flyball.yaml: is UTF-16, expected UTF-8"),
        (
            b"cache: {}\n\0more",
            "flyball.yaml:2:1: has the control character U+0000",
        ),
        (b"cache: \x1b[31m", "has the control character U+001B"),
        (b"{{a: b}: c}", "a key is a list or a map"),
    ];
    for (bytes, expected) in cases {
        let found = refused(bytes);
        assert!(found.contains(expected), "{found}\n  should say {expected}");
    }
    assert_eq!(
        refused(vec![b' '; MAX_FILE + 1]),
        "flyball.yaml: is larger than 1048576 bytes"
    );
}

/// CFG-1: what only looks like a file is refused, and nothing waits for it.
#[test]
fn no_files() {
    let said = |path: &str| {
        let errors = load(&Sources::new().with_file(path)).expect_err("no file");
        errors.to_string()
    };
    assert_eq!(said("/"), "/: is a folder, expected a file");
    assert_eq!(
        said("/dev/zero"),
        "/dev/zero: is a device, FIFO or socket, expected a file"
    );
    assert_eq!(
        said("/nowhere/flyball.yaml"),
        "/nowhere/flyball.yaml: does not exist"
    );
    assert!(said("/dev/null/flyball.yaml").starts_with("/dev/null/flyball.yaml: cannot be read: "));
    let absent = Sources::new().with_file_if_present("/nowhere/flyball.yaml");
    assert_eq!(load(&absent).expect("defaults").config, Config::default());
    let folder = Sources::new().with_file_if_present("/");
    assert!(load(&folder).is_err(), "a folder is a mistake in any case");
}

/// CFG-1: files that stand for far more than they hold are refused at the bound.
#[test]
fn bombs() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..40 {
        let inner = format!("*a{}, ", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{inner}]\n"));
    }
    assert!(refused(bomb).contains("has more than 100000 values, aliases replaced"));
    let aliases = format!("a: &a x\nb: [{}]", "*a,".repeat((MAX_FILE - 20) / 3));
    assert!(refused(aliases).contains("has more than 100000 values, aliases replaced"));
    let text = "y".repeat(MAX_FILE / 2);
    let large = format!("alerts:\n- &a {{x: {text}}}\n{}", "- *a\n".repeat(90_000));
    assert!(refused(large).contains("has more than 4194304 bytes of text, aliases replaced"));
    let deep = format!("a: {}", "[".repeat(MAX_FILE - 3));
    assert!(refused(deep).contains("is not YAML: recursion limit exceeded"));
    let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
    assert!(refused(deep).contains("is nested deeper than 64"));
    let deep = "- ".repeat(MAX_FILE / 2);
    assert!(refused(deep).contains("is nested deeper than 64"));
    let mut high = String::from("a0: &a0 [x]\n");
    for i in 1..100 {
        high.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
    }
    assert!(refused(high).contains("is nested deeper than 64"));
    let unknown: String = (0..40_000).map(|i| format!("k{i}: 1\n")).collect();
    let errors = load(&Sources::new().with_text("f", unknown)).expect_err("unknown keys");
    assert_eq!((errors.faults().len(), errors.more()), (MAX_FAULTS, 39_900));
    assert!(errors.to_string().ends_with("\nand 39900 more"));
}

/// CFG-1: values that do not go together name both places; another name of a key is held to the same value.
#[test]
fn conflicts() {
    golden!(
        "cpu_scheduler: {max_workers: 4}\nworker_pool: {max_workers: 8}\n",
        "\
flyball.yaml:2:28: worker_pool.max_workers: is the same setting as cpu_scheduler.max_workers, which is 4, not 8 (cpu_scheduler.max_workers is set by flyball.yaml:1:30)
  | worker_pool: {max_workers: 8}
  |                            ^"
    );
    golden!(
        "load_balancer: {enabled: true}\ncpu_scheduler: {load_balancing: false}\n",
        "\
flyball.yaml:2:33: cpu_scheduler.load_balancing: is the same setting as load_balancer.enabled, which is true, not false (load_balancer.enabled is set by flyball.yaml:1:26)
  | cpu_scheduler: {load_balancing: false}
  |                                 ^"
    );
    golden!(
        "worker_pool:\n  min_workers: 8\n  max_workers: 4\n",
        "\
flyball.yaml:3:16: worker_pool.max_workers: min_workers 8 is above max_workers 4 (worker_pool.min_workers is set by flyball.yaml:2:16)
  | max_workers: 4
  |              ^"
    );
    let cases = [
        (
            "monitor: {cpu: {warn_percent: 90}}",
            "warn_percent 90 is above max_percent 80 (monitor.cpu.max_percent is set by default)",
        ),
        (
            "worker_pool: {initial_workers: 9, max_workers: 8}",
            "initial_workers 9 is above max_workers 8",
        ),
        (
            "worker_pool: {initial_workers: 1}",
            "min_workers 2 is above initial_workers 1",
        ),
        (
            "memory_pool: {max_size: 100MB}",
            "initial_size 256MB is above max_size 100MB",
        ),
        (
            "optimizer: {min_cpu_percent: 90%}",
            "min_cpu_percent 90 is above max_cpu_percent 80",
        ),
        (
            "server: {tls: {certificate: /c.pem}}",
            "a certificate and its private key go together, and one is missing",
        ),
    ];
    for (text, expected) in cases {
        let found = refused(text);
        assert!(found.contains(expected), "{found}\n  should say {expected}");
    }
    // A wrong value accuses nobody else.
    let found = refused("worker_pool: {min_workers: 100, max_workers: many}");
    assert_eq!(found.matches("flyball.yaml:").count(), 1, "{found}");
}

/// CFG-7: classes are checked field by field and all together.
#[test]
fn wrong_classes() {
    let cases = [
        ("{}", "classes: found a map, expected a list of classes"),
        (
            "[web]",
            "classes[0]: found \"web\", expected a class as a map",
        ),
        (
            "[{shares: 5}]",
            "classes[0]: found a class without a name, expected the key name",
        ),
        (
            "[{name: Web}]",
            "classes[0]: class name \"Web\" must be 1 to 64 characters",
        ),
        (
            "[{name: web, share: 5}]",
            "classes[0].share: unknown key; did you mean shares?",
        ),
        (
            "[{name: web, shares: 0}]",
            "classes[0].shares: found 0, expected an integer from 1 to 1000000",
        ),
        (
            "[{name: web, guarantee: 0.5, ceiling: 0.25}]",
            "guarantee 0.5 of class web is above its ceiling 0.25",
        ),
        (
            "[{name: web, group: middle}]",
            "found \"middle\", expected one of front, back",
        ),
        (
            "[{name: web, concurrency: 0}]",
            "expected unlimited or an integer from 1 to 1000000",
        ),
        (
            "[{name: web, time_slice: 2s}]",
            "expected a duration from 10us to 1s",
        ),
        (
            "[{name: web}, {name: web}]",
            "classes[1].name: two classes have the name web (the other is set by flyball.yaml:1:18)",
        ),
        (
            "[{name: a, guarantee: 0.6}, {name: b, guarantee: 0.6}]",
            "classes: found guarantees of 1.200 together, expected at most 1",
        ),
    ];
    for (text, expected) in cases {
        let found = refused(format!("classes: {text}"));
        assert!(found.contains(expected), "{found}\n  should say {expected}");
    }
    let many: Vec<String> = (0..60).map(|i| format!("{{name: c{i}}}")).collect();
    let found = refused(format!("classes: [{}]", many.join(", ")));
    assert!(found.contains("found 65 classes, the built-in ones included, expected at most 64"));
}

/// CFG-2: variables and flags are held to the same rules, and unknown variables are mistakes.
#[test]
fn wrong_variables_and_flags() {
    let sources = Sources::new()
        .with_environment([
            ("FLYBALL_WORKER_POOL_MIN_WORKER", "3"),
            ("FLYBALL_CACHE_TTL", "soon"),
            ("FLYBALL_NONSENSE", "1"),
            ("FLYBALL_CPU_SCHEDULER_MAX_WORKERS", "3"),
            ("FLYBALL_WORKER_POOL_MAX_WORKERS", "4"),
            ("OTHER", "ignored"),
        ])
        .with_flag("--listen", "server.listen", "nowhere")
        .with_flag("--set", "server.lisen", "127.0.0.1:1");
    let found = load(&sources).expect_err("mistakes").to_string();
    let expected = "\
FLYBALL_CACHE_TTL: cache.ttl: found \"soon\", expected a duration from 1ms to 365d, such as 30s
FLYBALL_NONSENSE: is no setting
FLYBALL_WORKER_POOL_MAX_WORKERS: worker_pool.max_workers: is the same setting as cpu_scheduler.max_workers with another value (cpu_scheduler.max_workers is set by FLYBALL_CPU_SCHEDULER_MAX_WORKERS)
FLYBALL_WORKER_POOL_MIN_WORKER: is no setting; did you mean FLYBALL_WORKER_POOL_MIN_WORKERS?
--listen: server.listen: found \"nowhere\", expected an IP address and a port, such as 127.0.0.1:7070
--set: server.lisen: unknown key; did you mean listen?";
    assert_eq!(found, expected, "\n{found}");
}

/// CFG-1: nothing that is printed holds a secret.
#[test]
fn errors_keep_secrets() {
    let texts = [
        "queue: {ulr: \"postgres://me:hunter2@db/x\"}",
        "queue: {url: [\"postgres://me:hunter2@db/x\"]}",
        "queue: {url: \"postgres://me:hunter2@db/\\u0007\"}",
        "queue: {url: \"postgres://me:hunter2@db/x\", url: none}",
        "cache: {ttl: \"postgres://me:hunter2@db/x\"}",
        "alerts: [{webhook_secret: hunter2, x: [}]",
        "alerts: [{password: hunter2}, 5]",
    ];
    for text in texts {
        let found = refused(text);
        assert!(!found.contains("hunter2"), "{found}");
    }
}

/// CFG-1: errors show hostile text so that no terminal obeys it.
#[test]
fn errors_are_inert() {
    let found = refused("\"\\e[31m\u{202e}evil\": 1\ncache: {ttl: \"\\a\"}");
    assert!(found.contains(r"\u{1b}[31m"), "{found}");
    assert!(
        found
            .chars()
            .all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}'))
    );
}

/// CFG-1, CFG-7: what durable tasks and commands are given leaves no doubt, or says where the doubt is.
#[test]
fn wrong_settings_of_tasks() {
    let cases = [
        (
            "scheduler: {resources: 2}",
            "flyball.yaml:1:24: scheduler.resources: found 2, expected a map of up to 64 names, each with an integer from 1 to 1000",
        ),
        (
            "scheduler: {resources: {GPU: 1}}",
            "flyball.yaml:1:25: scheduler.resources.GPU: found the name \"GPU\", expected 1 to 64 characters of a-z, 0-9, _ and -",
        ),
        (
            "scheduler: {resources: {gpu: many}}",
            "flyball.yaml:1:30: scheduler.resources.gpu: found \"many\", expected an integer from 1 to 1000",
        ),
        (
            "scheduler: {resources: {gpu: -1}}",
            "flyball.yaml:1:30: scheduler.resources.gpu: found -1, expected an integer from 1 to 1000",
        ),
        (
            "scheduler: {resources: {cpu: 4}}",
            "flyball.yaml:1:24: scheduler.resources.cpu: found a resource called cpu, expected another name: scheduler.max_cpus and scheduler.max_memory bound these",
        ),
        (
            "scheduler: {retry_delay: 10m}",
            "flyball.yaml:1:26: scheduler.retry_delay: retry_delay 10m is above retry_delay_max 5m (scheduler.retry_delay_max is set by default)",
        ),
        (
            "scheduler: {breaker: {open_max: 500ms}}",
            "flyball.yaml:1:33: scheduler.breaker.open_max: open_min 1s is above open_max 500ms (scheduler.breaker.open_min is set by default)",
        ),
        (
            "scheduler: {checks: [{dependency: api}]}",
            "flyball.yaml:1:21: scheduler.checks[0]: found neither a url nor a command, expected dependency, and either url (http:// or https://) or command (a list of words, the program by absolute path)",
        ),
        (
            "scheduler: {max_concurrency: 0}",
            "flyball.yaml:1:30: scheduler.max_concurrency: found 0, expected an integer from 1 to 10000",
        ),
        (
            "commands: {programs: [/bin/true, ls]}",
            "flyball.yaml:1:22: commands.programs[1]: found \"ls\", expected an absolute path without . and ..",
        ),
        (
            "commands: {folders: [/srv/../etc]}",
            "flyball.yaml:1:21: commands.folders[0]: found \"/srv/../etc\", expected an absolute path without . and ..",
        ),
        (
            "commands: {environment: ['A=B']}",
            "flyball.yaml:1:25: commands.environment[0]: found \"A=B\", expected the name of a variable, with * at the end at most",
        ),
    ];
    for (text, expected) in cases {
        let said = refused(text);
        let line = said.lines().nth(1).unwrap_or(&said);
        assert!(said.contains(expected), "{text}\n{line}\n{expected}");
    }
    let said = refused("calls: {hosts: [api.example.com, 'http://a']}");
    assert!(
        said.contains("calls.hosts[1]: found \"http://a\", expected a host, *.domain"),
        "{said}"
    );
    let many: Vec<String> = (0..65).map(|n| format!("r{n}: 1")).collect();
    let said = refused(format!("scheduler: {{resources: {{{}}}}}", many.join(", ")));
    assert!(
        said.contains("(65 names), expected a map of up to 64 names"),
        "{said}"
    );
}
