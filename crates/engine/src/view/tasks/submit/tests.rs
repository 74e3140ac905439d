use super::*;

const NOW: WallTime = WallTime::from_unix_nanos(1_795_278_061_000_000_000);

fn defaults() -> Defaults {
    Defaults {
        retry: RetryPolicy {
            max_attempts: 3,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(300),
        },
        timeout: Some(Duration::from_secs(30)),
        command_timeout: Some(Duration::from_secs(86_400)),
    }
}

fn one(body: &str) -> Result<NewTask, Faults> {
    let body: NewTaskBody =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let is_class = |name: &str| ["normal", "batch"].contains(&name);
    Submission::one(body, NOW, false, &defaults(), &is_class).map(|mut all| all.tasks.remove(0))
}

fn batch(body: &str) -> Result<Vec<NewTask>, Faults> {
    let body: TaskBatchBody = serde_json::from_str(body).unwrap();
    Submission::batch(body, NOW, true, &defaults(), &|_| true).map(|all| all.tasks)
}

#[track_caller]
fn places<T: std::fmt::Debug>(result: Result<T, Faults>) -> Vec<String> {
    let faults = result.expect_err("something is wrong");
    faults.list().iter().map(|f| f.pointer.clone()).collect()
}

/// TASK-3, API-5: every field of a task arrives in the queue as it was said.
#[test]
fn fields_arrive() {
    let task = one(r#"{
        "kind": "thumbnail", "payload": {"a": [1, 2.50]}, "class": "batch", "priority": -3,
        "after": ["7", {"id": "8", "on": "failure"}], "on_parent_failure": "fail",
        "deadline": "2026-11-22T00:00:00Z", "not_before": "2026-11-21T20:00:00.5Z", "timeout_ms": 30000,
        "retry": {"max_attempts": 5, "base_ms": 10, "cap_ms": 100}, "labels": {"b": "2", "a": ""},
        "key": "tenant-7", "cpu": 1.0001, "memory_bytes": 4096, "resources": {"gpu": 1, "a": 2},
        "affinity_key": "x", "cron": {"expression": "*/5 * * * *", "time_zone": "Europe/Berlin", "overlap": "queue", "missed": "all", "grace_ms": 1},
        "unique": {"key": "u", "on_conflict": "extend"}, "group": "g", "after_group": {"group": "h"}, "ref": "r", "secrets": ["/a/0"]
    }"#)
    .unwrap();
    let head = &task.head;
    assert_eq!(
        (&*head.kind, head.via, &*head.class, head.priority),
        ("thumbnail", Via::Handler, "batch", -3)
    );
    let parents: Vec<_> = head.after.iter().map(|d| (d.parent, d.when)).collect();
    assert_eq!(
        parents,
        [(TaskId(7), When::Success), (TaskId(8), When::Failure)]
    );
    assert_eq!(head.on_parent_failure, OnParentFailure::Fail);
    assert_eq!(
        head.not_before.unwrap().unix_nanos() % 1_000_000_000,
        500_000_000
    );
    assert_eq!(head.timeout, Some(Duration::from_secs(30)));
    assert_eq!(
        (head.retry.max_attempts, head.retry.cap),
        (5, Duration::from_millis(100))
    );
    assert_eq!(
        (head.needs.cpu_millis, head.needs.memory_bytes),
        (1001, 4096)
    );
    assert_eq!(head.needs.resources, [("a".into(), 2), ("gpu".into(), 1)]);
    let cron = head.cron.as_deref().unwrap();
    assert_eq!(
        (cron.overlap, cron.missed, cron.grace),
        (Overlap::Queue, Missed::All, Duration::from_millis(1))
    );
    assert_eq!(
        head.unique.as_deref().unwrap().on_conflict,
        UniqueConflict::Extend
    );
    let after_group = head.after_group.as_deref().unwrap();
    assert_eq!((&*after_group.group, after_group.when), ("h", When::Any));
    assert_eq!(task.payload.as_ref(), br#"{"a": [1, 2.50]}"#, "as it came");
    assert_eq!(
        task.labels,
        [("a".into(), "".into()), ("b".into(), "2".into())]
    );
    assert_eq!(task.secrets, ["/a/0".into()]);
}

/// TASK-3: what is left out is as configured.
#[test]
fn defaults_hold() {
    let task = one(r#"{"kind":"a"}"#).unwrap();
    assert_eq!(
        (&*task.head.class, task.head.retry),
        ("normal", defaults().retry)
    );
    assert_eq!(task.head.timeout, defaults().timeout);
    assert_eq!(task.payload.as_ref(), b"null");
    assert_eq!(task.run, Run::Handler);
    let cron = one(r#"{"kind":"a","cron":"@daily"}"#)
        .unwrap()
        .head
        .cron
        .unwrap();
    assert_eq!(
        (&*cron.expression, &*cron.time_zone, cron.overlap),
        ("@daily", "UTC", Overlap::Skip)
    );
    let command = one(r#"{"kind":"a","command":{"argv":["x"]}}"#).unwrap();
    assert_eq!(command.head.via, Via::Command);
    assert!(matches!(command.run, Run::Command(spec) if !spec.local));
    assert_eq!(
        one(r#"{"kind":"a","http":{"url":"http://b"}}"#)
            .unwrap()
            .head
            .via,
        Via::Http
    );
}

/// API-1: what is well-formed and yet wrong is pointed to, all of it at once.
#[test]
fn faults_are_pointed_to() {
    let many: String = (0..65).map(|n| format!(r#""l{n}":"","#)).collect();
    let many = format!(r#""labels":{{{}"x":""}}"#, many);
    for (fields, pointer) in [
        (r#""class":"nope""#, "/class"),
        (r#""key":"""#, "/key"),
        (r#""key":"a\u0000b""#, "/key"),
        (r#""group":"\u001b[0m""#, "/group"),
        (r#""deadline":"2020-01-01T00:00:00Z""#, "/deadline"),
        (
            r#""deadline":"2027-01-01T00:00:00Z","not_before":"2028-01-01T00:00:00Z""#,
            "/deadline",
        ),
        (r#""timeout_ms":0"#, "/timeout_ms"),
        (r#""timeout_ms":18446744073709551615"#, "/timeout_ms"),
        (r#""retry":{"max_attempts":0}"#, "/retry/max_attempts"),
        (r#""retry":{"max_attempts":1001}"#, "/retry/max_attempts"),
        (r#""retry":{"base_ms":999999999999}"#, "/retry/base_ms"),
        (r#""retry":{"base_ms":10,"cap_ms":9}"#, "/retry/cap_ms"),
        (r#""after":["nonsense"]"#, "/after/0"),
        (r#""after":["1","-2"]"#, "/after/1"),
        (r#""cpu":-0.5"#, "/cpu"),
        (r#""cpu":1e300"#, "/cpu"),
        (r#""memory_bytes":18446744073709551615"#, "/memory_bytes"),
        (r#""resources":{"gpu":0}"#, "/resources/gpu"),
        (r#""labels":{"":"x"}"#, "/labels/"),
        (r#""labels":{"a":"b\nc"}"#, "/labels/a"),
        (&many, "/labels"),
        (r#""cron":"""#, "/cron/expression"),
        (
            r#""cron":{"expression":"* * * * *","time_zone":""}"#,
            "/cron/time_zone",
        ),
        (r#""unique":{"key":""}"#, "/unique/key"),
        (r#""secrets":["password"]"#, "/secrets/0"),
        (r#""payload":{"a":1e999},"secrets":["/a"]"#, "/payload"),
        (
            r#""command":{"argv":["a"]},"http":{"url":"http://a"}"#,
            "/http",
        ),
    ] {
        assert_eq!(
            places(one(&format!(r#"{{"kind":"a",{fields}}}"#))),
            [pointer],
            "{fields}"
        );
    }
    let all = places(one(r#"{"kind":"","timeout_ms":0,"cpu":-1}"#));
    assert_eq!(all, ["/kind", "/timeout_ms", "/cpu"]);
}

/// TASK-5: a batch names its own members; whatever is wrong is pointed to in the member.
#[test]
fn batches_refer_to_themselves() {
    let tasks = batch(
        r#"{"tasks":[{"kind":"a","ref":"x"},{"kind":"b","after":["x",{"id":"5","on":"any"}]}]}"#,
    )
    .unwrap();
    assert_eq!(&*tasks[1].after[0].reference, "x");
    assert_eq!(tasks[1].head.after[0].when, When::Any);
    // A reference that looks like an id is a reference.
    let tasks = batch(r#"{"tasks":[{"kind":"a","ref":"5"},{"kind":"b","after":["5"]}]}"#).unwrap();
    assert_eq!((tasks[1].after.len(), tasks[1].head.after.len()), (1, 0));
    for (body, pointer) in [
        (r#"{"tasks":[]}"#, "/tasks"),
        (
            r#"{"tasks":[{"kind":"a","ref":"x"},{"kind":"b","ref":"x"}]}"#,
            "/tasks/1/ref",
        ),
        (
            r#"{"tasks":[{"kind":"a"},{"kind":"b","after":["y"]}]}"#,
            "/tasks/1/after/0",
        ),
        (r#"{"tasks":[{"kind":"a"},{"kind":"\n"}]}"#, "/tasks/1/kind"),
    ] {
        assert_eq!(places(batch(body)), [pointer], "{body}");
    }
    let many = format!(
        r#"{{"tasks":[{}]}}"#,
        vec![r#"{"kind":"a"}"#; MAX_BATCH + 1].join(",")
    );
    assert_eq!(places(batch(&many)), ["/tasks"]);
}

/// API-1: what has the wrong type, is negative where it cannot be, or is unknown is no body at all.
#[test]
fn unknown_fields_and_wrong_types_are_refused() {
    for fields in [
        r#""knid":1"#,
        r#""timeout_ms":-1"#,
        r#""timeout_ms":1.5"#,
        r#""timeout_ms":18446744073709551616"#,
        r#""memory_bytes":-1"#,
        r#""priority":2147483648"#,
        r#""deadline":"tomorrow""#,
        r#""deadline":1795278061"#,
        r#""after":[{"id":"1","when":"any"}]"#,
        r#""retry":{"attempts":3}"#,
        r#""cron":{"time_zone":"UTC"}"#,
        r#""unique":{"key":"a","on_conflict":"drop"}"#,
        r#""kind":"b""#,
    ] {
        let body = format!(r#"{{"kind":"a",{fields}}}"#);
        assert!(
            serde_json::from_str::<NewTaskBody>(&body).is_err(),
            "{fields}"
        );
    }
}

#[test]
fn batches_are_told_from_tasks() {
    for (body, is_batch) in [
        (r#"{"tasks":[]}"#, true),
        (" \n{ \t\"tasks\" : []}", true),
        (r#"{"kind":"tasks"}"#, false),
        ("[]", false),
        ("", false),
    ] {
        assert_eq!(SubmitBody::is_batch(body.as_bytes()), is_batch, "{body}");
    }
}

/// TASK-9: every task has a timeout; commands, which people submit to run for hours, one of their own.
#[test]
fn timeouts_are_never_absent() {
    let of = |body: &str| one(body).unwrap().head.timeout.unwrap().as_secs();
    assert_eq!(of(r#"{"kind": "a"}"#), 30);
    let command = r#"{"kind": "a", "command": {"argv": ["true"]}}"#;
    assert_eq!(of(command), 86_400);
    assert_eq!(
        of(&command
            .replace('}', "")
            .replace("]", "]}, \"timeout_ms\": 5000}")),
        5
    );
}
