//! Commands that ask a daemon: a real one, none, and ones that answer strangely.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use serde_json::Value;

use crate::daemon::{Daemon, isolated};
use crate::{Folder, Ran, finish, flyball};

/// Exit status 3 says what was tried, why it failed, and how to get a daemon.
#[test]
fn without_a_daemon_it_says_what_was_tried() {
    let folder = Folder::new("none");
    let ran = finish(
        isolated(&folder)
            .arg("status")
            .arg("--state-dir")
            .arg(folder.path("state")),
    );
    assert_eq!((ran.code, ran.text()), (3, ""));
    assert_eq!(
        ran.err,
        format!(
            "flyball: no daemon can be reached; tried\n  {}: not there\n  `flyball serve` starts one, --server URL|SOCKET names one\n",
            folder.path("state/flyball.sock").display()
        )
    );
    let ran = finish(
        isolated(&folder)
            .arg("workers")
            .env("XDG_STATE_HOME", folder.path("xdg")),
    );
    assert_eq!(ran.code, 3);
    for tried in [
        "xdg/flyball/flyball.sock",
        "home/.local/state/flyball/flyball.sock",
        "/run/flyball/flyball.sock",
    ] {
        assert!(ran.err.contains(tried), "{tried}\n{}", ran.err);
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let ran = finish(
        isolated(&folder)
            .args(["limits", "--server"])
            .arg(format!("127.0.0.1:{port}")),
    );
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("nobody listens there"), "{}", ran.err);
}

/// Exit status 2: what cannot be a server, an action or a value.
#[test]
fn wrong_usage_is_told() {
    let folder = Folder::new("usage");
    for (arguments, why) in [
        (
            &["status", "--server", "https://box:7070"][..],
            "https is not in this build",
        ),
        (&["status", "--server", "box"], "the port is missing"),
        (
            &[
                "status",
                "--server",
                "box:1",
                "--token-file",
                "/nonexistent",
            ],
            "cannot read the token in /nonexistent",
        ),
        (&["workers", "scale"], "required"),
        (&["workers", "scale", "3", "--auto"], "cannot be used with"),
        (&["workers", "set", "128"], "required"),
        (
            &["workers", "set", "128", "--cores", "0,x"],
            "numbers with commas",
        ),
        (
            &["workers", "set", "128", "--weight", "nan"],
            "expected a number",
        ),
        (&["workers", "--limit", "3"], "--limit"),
        (
            &["workers", "list", "--limit", "3"],
            "--limit and --cursor are for --json",
        ),
        (&["classes", "change", "batch"], "required"),
        (
            &["classes", "create", "x", "name=y"],
            "given once, before its settings",
        ),
        (
            &["classes", "change", "batch", "shares"],
            "expected KEY=VALUE",
        ),
        (&["knobs", "pin", "parallelism", "inf"], "expected a number"),
        (&["config", "set", "a=1", "a.b=2"], "inside of what is set"),
        (
            &["config", "schema", "--json", "--markdown"],
            "cannot be used with",
        ),
    ] {
        let ran = finish(isolated(&folder).args(arguments));
        assert_eq!(
            (ran.code, ran.text()),
            (2, ""),
            "{arguments:?}: {}",
            ran.err
        );
        assert!(ran.err.contains(why), "{arguments:?}: {}", ran.err);
    }
}

/// Answers one request of the command with these bytes; answers what was asked, too.
fn answered(arguments: &[&str], answer: &[u8]) -> (String, Ran) {
    let folder = Folder::new(&format!("fake-{:x}", answer.len()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = answer.to_vec();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let asked = head_of(&mut stream);
        let _ = stream.write_all(&answer);
        asked
    });
    let mut command = isolated(&folder);
    let ran = finish(command.args(arguments).args(["--server", &address]));
    (server.join().unwrap(), ran)
}

fn head_of(stream: &mut TcpStream) -> String {
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => asked.extend_from_slice(&buffer[..length]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&asked).into_owned()
}

/// Answers requests of the command by their path: with the document that is said for it, else with an empty page.
fn answered_by_path(arguments: &[&str], documents: &[(&str, &str)]) -> Ran {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = Folder::new(&format!("paths-{}", address.replace(':', "-")));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let asked = head_of(&mut stream);
                let Some(path) = asked.split([' ', '?']).nth(1) else {
                    return;
                };
                let found = documents.iter().find(|(known, _)| *known == path);
                let body = found.map_or(r#"{"items":[],"next_cursor":null}"#, |(_, body)| body);
                let _ = stream.write_all(&document("200 OK", "application/json", body));
            }
        });
        let mut command = isolated(&folder);
        let ran = finish(command.args(arguments).args(["--server", &address]));
        // A request of nothing ends the server.
        drop(TcpStream::connect(&address));
        ran
    })
}

fn document(status: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

fn answered_json(arguments: &[&str], body: &str) -> Ran {
    answered(arguments, &document("200 OK", "application/json", body)).1
}

/// API-1: a refusal is a sentence with its fields, and exit status 4.
#[test]
fn refusals_are_sentences() {
    let problem = r#"{"type":"x","title":"Conflict","status":409,"detail":"class batch has 3 tasks","errors":[{"pointer":"/shares","detail":"found -1"}]}"#;
    let (asked, ran) = answered(
        &["classes", "delete", "a/b"],
        &document("409 Conflict", "application/problem+json", problem),
    );
    assert_eq!((ran.code, ran.text()), (4, ""));
    assert_eq!(
        ran.err,
        "flyball: class batch has 3 tasks (409)\n  shares: found -1\n"
    );
    assert!(
        asked.starts_with("DELETE /v1/classes/a%2Fb HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(!asked.to_lowercase().contains("authorization"), "{asked}");
}

/// Daemons that answer strangely, or are none, are told apart from ones that refuse.
#[test]
fn strange_answers_are_bounded_and_told() {
    let long = [
        &b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..],
        &vec![b' '; 17 << 20],
    ]
    .concat();
    for (answer, code, why) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], 3, "is no flyball daemon"),
        (b"", 3, "is no flyball daemon, or broke off"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
            3,
            "broke off its answer",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            1,
            "none that this version understands",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            1,
            "none that this version understands",
        ),
        (
            b"HTTP/1.1 502 Bad\r\nContent-Length: 6\r\n\r\n\x1b[2J\n<",
            4,
            "did not say why (502)",
        ),
        (&long, 1, "more than 16 MiB"),
    ] {
        let (_, ran) = answered(&["status"], answer);
        assert_eq!((ran.code, ran.text()), (code, ""), "{}", ran.err);
        assert!(
            ran.err.contains(why) && !ran.err.contains('\x1b'),
            "{}",
            ran.err
        );
    }
}

/// `--json` is the daemon's document, byte for byte.
#[test]
fn json_is_passed_on_untouched() {
    let body = "{ \"items\" : [ {\"odd\": 1e3} ],\n\"next_cursor\":null}";
    let (asked, ran) = answered(
        &["workers", "--json"],
        &document("200 OK", "application/json", body),
    );
    assert_eq!(
        (ran.code, ran.text()),
        (0, format!("{body}\n").as_str()),
        "{}",
        ran.err
    );
    assert!(
        asked.starts_with("GET /v1/workers?limit=1000 HTTP/1.1\r\n"),
        "{asked}"
    );
}

/// Tables: aligned, with units, `-` for what is not known, inert whatever things are called.
#[test]
fn tables_are_golden() {
    let limits = r#"{"next_cursor":null,"items":[
        {"name":"parallelism","kind":"workers","unit":"workers","limit":2,"used":0.25,"refused":null,"setting":"knob parallelism"},
        {"name":"class/x\u001b[2J/queue","kind":"queue","unit":"tasks","limit":100,"used":100,"refused":7,"setting":"classes[x].queue_limit"},
        {"name":"class/x/cpu","kind":"cpu","unit":"CPUs","limit":null,"used":null,"refused":null,"setting":"classes[x].ceiling"}]}"#;
    assert_eq!(
        answered_json(&["limits"], limits).text(),
        "\
LIMIT                   USED         OF  REFUSED  SETTING
parallelism             0.25  2 workers        -  knob parallelism
class/x\\u{1b}[2J/queue   100  100 tasks        7  classes[x].queue_limit
class/x/cpu                -       none        -  classes[x].ceiling
"
    );
    let knobs = r#"{"next_cursor":null,"items":[
        {"name":"worker_pool.back","about":"threads of the back group","unit":"workers","min":2,"max":4,"value":3,
         "pinned":{"by":"uid 0","value":3,"since":"2026-11-21T16:21:01.250Z"}},
        {"name":"parallelism","about":"workers allowed to run at once","unit":"workers","min":1,"max":128,"value":2,"pinned":null}]}"#;
    assert_eq!(
        answered_json(&["knobs"], knobs).text(),
        "\
KNOB              VALUE  MIN  MAX  UNIT     PINNED BY   ABOUT
worker_pool.back      3    2    4  workers  uid 0 at 3  threads of the back group
parallelism           2    1  128  workers  -           workers allowed to run at once
"
    );
    let decisions = r#"{"next_cursor":null,"items":[
        {"number":0,"timestamp":"2026-11-21T16:21:01.250Z","part":"pool","knob":"worker_pool.back","unit":"workers","from":2,"to":3,
         "applied":true,"refusal":null,"reason":"load above target for 5s","evidence":[{"name":"load","value":0.931,"unit":""},{"name":"backlog","value":12,"unit":"tasks"},{"name":"idle","value":null,"unit":"s"}]},
        {"number":1,"timestamp":"2026-11-21T16:21:02.250Z","part":"pool","knob":"worker_pool.back","unit":"workers","from":3,"to":4,
         "applied":false,"refusal":"pinned by uid 0","reason":"load above target\nfor 5s","evidence":[]}]}"#;
    assert_eq!(
        answered_json(&["decisions"], decisions).text(),
        "\
2026-11-21T16:21:01.250Z  pool: worker_pool.back 2 → 3 workers: load above target for 5s (load 0.931, backlog 12 tasks, idle -)
2026-11-21T16:21:02.250Z  pool: worker_pool.back 3 → 4 workers, refused: pinned by uid 0: load above target\\nfor 5s
"
    );
}

/// An adaptive limit of a class, which observes, and one of a program, which has too much to do.
const BATCH: &str = r#"{"name":"batch","scope":"class:batch","mode":"observe","algorithm":"vegas","limit":4,"min":1,"max":40,"in_flight":4,"waiting":7,
    "level":"conserve","overloaded":false,"calls_per_second":12.5,"shed_percent":3.5,"calls":100,"shed":3,"blocked":2,"cancelled":0,"latency_ms":2.5,
    "run_delay_percent":null,"deadline_ms":250,"queue_max":1024,"changed":0,"changes":[],"classes":[]}"#;
const DB: &str = r#"{"name":"db","scope":"program","mode":"enforce","algorithm":"run_delay","limit":8,"min":1,"max":512,"in_flight":2,"waiting":1,
    "level":"survive","overloaded":true,"calls_per_second":40,"shed_percent":25,"calls":400,"shed":100,"blocked":120,"cancelled":3,"latency_ms":2.5,
    "run_delay_percent":12.5,"deadline_ms":250,"queue_max":1024,"changed":70,
    "changes":[{"timestamp":"2026-11-21T16:21:01.250Z","from":4,"to":8,"cause":"room","reason":"calls were held up"},
               {"timestamp":"2026-11-21T16:21:02.250Z","from":8,"to":6,"cause":"run_delay","reason":""}],
    "classes":[{"class":"interactive","priority":6,"entered":250,"waited":20,"cancelled":1,"shed":10,"shed_percent":4,"shed_overload":4,"shed_waited":3,
                "shed_deadline":2,"shed_queue_full":1},
               {"class":"idle","priority":1,"entered":0,"waited":0,"cancelled":0,"shed":0,"shed_percent":null,"shed_overload":0,"shed_waited":0,
                "shed_deadline":0,"shed_queue_full":0}]}"#;
const LIMITS: &str = "\
LIMIT  BOUNDS       ALGORITHM  IN  OF  WAITING   CALLS    SHED  LEVEL     MODE
batch  class:batch  vegas       4   4        7  12.5/s  (3.5%)  conserve  observe
db     program      run_delay   2   8        1  40.0/s   25.0%  survive   enforce
In brackets: what would have been shed; a limit that observes refuses nobody.
";

/// CPU-22, CPU-30: adaptive limits, each in a line: alone, and below the bounds.
#[test]
fn adaptive_limits_are_golden() {
    let page = format!(r#"{{"next_cursor":null,"items":[{BATCH},{DB}]}}"#);
    let adaptive = ("/v1/limits/adaptive", page.as_str());
    let ran = answered_by_path(&["limits", "list"], &[adaptive]);
    assert_eq!((ran.text(), ran.err.as_str()), (LIMITS, ""));
    let bounds = r#"{"next_cursor":null,"items":[
        {"name":"parallelism","kind":"workers","unit":"workers","limit":2,"used":0.25,"refused":null,"setting":"knob parallelism"},
        {"name":"adaptive/db","kind":"adaptive","unit":"calls","limit":8,"used":2,"refused":100,"setting":"limits.adaptive"}]}"#;
    let ran = answered_by_path(&["limits"], &[("/v1/limits", bounds), adaptive]);
    let expected = format!(
        "\
LIMIT        USED         OF  REFUSED  SETTING
parallelism  0.25  2 workers        -  knob parallelism

{LIMITS}"
    );
    assert_eq!((ran.text(), ran.err.as_str()), (expected.as_str(), ""));
}

/// CPU-22, CPU-30: one adaptive limit with all its figures; one of durable tasks without those that they do not have, as none of them is shed.
#[test]
fn an_adaptive_limit_is_golden() {
    assert_eq!(
        answered_json(&["limits", "show", "db"], DB).text(),
        "\
db
  bounds           program
  limit            8 by run_delay, 1 to 512
  mode             enforce
  in flight        2
  waiting          1 (at most 1024, for at most three tenths of 250 ms; overloaded: much shorter, the last first)
  level            survive
  calls            400 (40.0/s)
  shed             100 (25.0% of the last calls)
  gave up waiting  3
  held up          120 times
  latency          2.50 ms
  run delay        12.5%

CLASS         IN  WAITED  SHED  PART  OVERLOAD  WAITED TOO LONG  DEADLINE  LINE FULL
interactive  250      20    10  4.0%         4                3         2          1

last 2 of 70 changes
  2026-11-21T16:21:01.250Z  4 → 8: calls were held up
  2026-11-21T16:21:02.250Z  8 → 6: -
"
    );
    assert_eq!(
        answered_json(&["limits", "show", "batch"], BATCH).text(),
        "\
batch
  bounds           class:batch
  limit            4 by vegas, 1 to 40
  mode             observe
  in flight        4
  waiting          7 durable tasks, in their queue
  calls            100 (12.5/s)
  would have held  2 times
  latency          2.50 ms
"
    );
}

/// CPU-16, CPU-17: how the number of workers is found, in words: each way of sizing shows what it measures, and the last decision.
#[test]
fn sizing_is_golden() {
    let none = r#""load":null,"offered_workers":null,"foreseen_workers":null,"forecast":null,"stage":null,"best":null,"trying":null,"trials":null,
        "last_trial":null,"next_trial":null,"patience":1,"last_decision":null"#;
    let decision = r#"{"number":4,"timestamp":"2026-11-21T16:21:01.250Z","part":"pool","knob":"worker_pool.back","unit":"workers","from":8,"to":16,
        "applied":true,"refusal":null,"reason":"work waits","evidence":[]}"#;
    let offered = format!(
        r#"{{"sizing":"offered","groups":[
        {{"group":"front","workers":2,"min":2,"max":4,"pinned":{{"by":"uid 0","value":2,"since":"2026-11-21T16:21:01.250Z"}},{none}}},
        {{"group":"back","workers":3,"min":2,"max":8,"pinned":null,"load":null,"offered_workers":2.0625,"foreseen_workers":null,
         "forecast":{{"horizon_ms":500,"followed":false,"judged":12,"mistake":0.5,"mistake_of_last_value":0.25}},"stage":null,"best":null,
         "trying":null,"trials":null,"last_trial":null,"next_trial":null,"patience":4,"last_decision":null}}]}}"#
    );
    assert_eq!(
        answered_json(&["workers", "sizing"], &offered).text(),
        "\
sizing offered

front
  workers        2, 2 to 4
  pinned         at 2 by uid 0 since 2026-11-21T16:21:01.250Z
  last decision  none yet

back
  workers        3, 2 to 8
  offered        2.062 workers' worth of work
  forecast       not followed: 500 ms ahead it errs by 0.5 workers, the last value by 0.25 (12 compared); foreseen: -
  patience       reductions wait 4 times longer, as earlier ones were wrong
  last decision  none yet
"
    );
    let adaptive = format!(
        r#"{{"sizing":"adaptive","groups":[{{"group":"back","workers":16,"min":2,"max":64,"pinned":null,"load":null,"offered_workers":null,
        "foreseen_workers":null,"forecast":null,"stage":"searching","best":8,"trying":16,"trials":3,"last_trial":"6 workers did -20.0% against 8",
        "next_trial":null,"patience":1,"last_decision":{decision}}}]}}"#
    );
    assert_eq!(
        answered_json(&["workers", "sizing"], &adaptive).text(),
        "\
sizing adaptive

back
  workers        16, 2 to 64
  stage          searching, tries 16
  best           8
  trials         3
  last trial     6 workers did -20.0% against 8
  last decision  2026-11-21T16:21:01.250Z worker_pool.back 8 → 16 workers: work waits
"
    );
    let off = r#"{"sizing":null,"groups":[]}"#;
    assert_eq!(
        answered_json(&["workers", "sizing"], off).text(),
        "nothing sizes the pool (performance.enabled is false)\n"
    );
}

/// CPU-18: workers are scaled, restarted, drained and changed by hand, and that is in events and decisions.
#[test]
fn workers_are_sized_and_changed() {
    let daemon = Daemon::start_with("workers", |command, _| {
        command
            .args(["--listen", "127.0.0.1:0"])
            .env("FLYBALL_WORKER_POOL_MAX_WORKERS", "8");
    });
    let back = || {
        let shown = daemon.tell(&["workers", "--json"]);
        let page: Value = serde_json::from_str(&shown).unwrap();
        let workers = page["items"].as_array().unwrap().clone();
        workers
            .into_iter()
            .filter(|worker| worker["group"] == "back" && worker["state"] != "draining")
            .count()
    };
    let scaled = daemon.tell(&["workers", "scale", "5"]);
    assert!(
        scaled.starts_with("worker_pool.back 2 → 5 workers: pinned to 5 by uid "),
        "{scaled}"
    );
    // Threads start in stages.
    let started = (0..1_000).any(|_| back() == 5);
    assert!(started, "{} workers of 5 are there", back());
    let knobs = daemon.tell(&["knobs"]);
    assert!(knobs.contains(" at 5  "), "{knobs}");
    let sizing = daemon.tell(&["workers", "sizing"]);
    assert!(
        sizing.starts_with("sizing classic\n") && sizing.contains("  pinned         at 5 by uid "),
        "{sizing}"
    );
    daemon.tell(&["config", "set", "worker_pool.sizing=offered"]);
    let sizing = daemon.tell(&["workers", "sizing"]);
    assert!(sizing.starts_with("sizing offered\n"), "{sizing}");
    let wrong = daemon.ask(&["config", "set", "worker_pool.sizing=clever"]);
    assert!(
        wrong.code != 0 && wrong.err.contains("classic, offered, adaptive"),
        "{}",
        wrong.err
    );
    let refused = daemon.ask(&["workers", "scale", "99"]);
    assert!(
        refused.code == 4 && refused.err.contains("found 99"),
        "{}",
        refused.err
    );
    let shown = daemon.tell(&["workers", "set", "128", "--weight", "2.5", "--keys", "7,9"]);
    assert!(
        shown.contains("weight       2.5\n") && shown.contains("keys         7,9\n"),
        "{shown}"
    );
    let wrong = daemon.ask(&["workers", "set", "128", "--weight", "-1"]);
    assert_eq!(wrong.code, 4, "{}", wrong.err);
    assert!(
        daemon
            .tell(&["workers", "show", "128"])
            .contains("weight       2.5\n")
    );
    daemon.tell(&["workers", "restart", "129"]);
    let drained = daemon.tell(&["workers", "drain", "130"]);
    assert!(
        drained.starts_with("worker_pool.back 5 → 4 workers"),
        "{drained}"
    );
    let given_back = daemon.tell(&["workers", "scale", "--auto"]);
    assert!(given_back.contains("gave control back"), "{given_back}");
    let bounds = daemon.tell(&["workers", "scale", "--min", "3", "--max", "6"]);
    assert_eq!(bounds, "the bounds are set\n");
    let events = daemon.tell(&["workers", "events"]);
    for what in ["scaled", "restarted", "changed"] {
        assert!(events.contains(&format!("  {what}")), "{what}\n{events}");
    }
    let decisions = daemon.tell(&["decisions", "--part", "pin"]);
    assert!(
        decisions.contains("pin: worker_pool.back 2 → 5 workers"),
        "{decisions}"
    );
    for unknown in [
        &["workers", "show", "7777"][..],
        &["workers", "restart", "x"],
        &["knobs", "pin", "x", "1"],
        &["classes", "show", "../status"],
    ] {
        let ran = daemon.ask(unknown);
        assert!(
            ran.code == 4 && ran.err.contains("(404)"),
            "{unknown:?}: {}",
            ran.err
        );
    }
}

/// Classes are created, changed, paused, resumed and deleted while the daemon runs.
#[test]
fn classes_come_and_go() {
    let daemon = Daemon::start("classes");
    let created = daemon.tell(&[
        "classes",
        "create",
        "reports",
        "shares=128",
        "ceiling=0.5",
        "latency_target=10s",
    ]);
    for line in [
        "class reports\n",
        "shares          128\n",
        "ceiling         50.0%\n",
        "latency target  10.0 s\n",
    ] {
        assert!(created.contains(line), "{line}\n{created}");
    }
    let twice = daemon.ask(&["classes", "create", "reports"]);
    assert!(
        twice.code == 4 && twice.err.contains("exists already (409)"),
        "{}",
        twice.err
    );
    let wrong = daemon.ask(&["classes", "change", "reports", "shares=-1", "colour=red"]);
    assert_eq!(wrong.code, 4);
    assert!(
        wrong.err.contains("shares: found -1") && wrong.err.contains("colour: unknown key"),
        "{}",
        wrong.err
    );
    let changed = daemon.tell(&["classes", "change", "reports", "shares=256"]);
    assert!(
        changed.contains("shares          256\n") && changed.contains("ceiling         50.0%\n"),
        "{changed}"
    );
    assert_eq!(
        daemon.tell(&["classes", "pause", "reports"]),
        "class reports is paused; 0 tasks wait in it\n"
    );
    let row = |name: &str| {
        let table = daemon.tell(&["classes"]);
        table
            .lines()
            .find(|line| line.starts_with(name))
            .map(str::to_owned)
    };
    assert!(row("reports").unwrap().ends_with("  paused"));
    assert_eq!(
        daemon.tell(&["classes", "resume", "reports"]),
        "class reports runs again\n"
    );
    assert!(row("reports").unwrap().ends_with("  open"));
    daemon.tell(&["classes", "delete", "reports"]);
    assert_eq!(row("reports"), None);
    let built_in = daemon.ask(&["classes", "delete", "batch"]);
    assert!(
        built_in.code == 4 && built_in.err.contains("built in"),
        "{}",
        built_in.err
    );
}

/// CPU-22, CPU-30: an adaptive limit is added, listed, shown, fixed, left to itself again, begun anew and removed while the daemon runs.
#[test]
fn adaptive_limits_come_and_go() {
    let daemon = Daemon::start("adaptive");
    let empty = daemon.tell(&["limits", "list"]);
    assert!(empty.starts_with("there is no adaptive limit"), "{empty}");
    let set = |settings: &[&str]| daemon.tell(&[&["limits", "set", "batch"], settings].concat());
    let has = |shown: &str, lines: &[&str]| {
        for line in lines {
            let is_there = shown.lines().any(|shown| shown.trim_start() == *line);
            assert!(is_there, "{line}\n{shown}");
        }
    };
    let added = set(&["scope=class:batch", "mode=observe", "max=40"]);
    has(
        &added,
        &[
            "batch",
            "bounds           class:batch",
            "mode             observe",
        ],
    );
    assert!(added.contains(" by vegas, 1 to 40\n"), "{added}");
    let listed = daemon.tell(&["limits", "list"]);
    assert!(listed.contains("\nbatch  class:batch  vegas "), "{listed}");
    let beside = daemon.tell(&["limits"]);
    assert!(beside.contains("\nbatch  class:batch  vegas "), "{beside}");
    has(
        &set(&["mode=enforce", "limit=4"]),
        &[
            "mode             enforce",
            "limit            4 by fixed, 1 to 40",
        ],
    );
    let shown = daemon.tell(&["limits", "show", "batch"]);
    has(&shown, &["limit            4 by fixed, 1 to 40"]);
    let found = set(&["limit=null", "algorithm=null"]);
    assert!(found.contains(" by vegas, 1 to 40\n"), "{found}");
    let reset = daemon.tell(&["limits", "reset", "batch"]);
    assert!(reset.contains(" by vegas, 1 to 40\n"), "{reset}");
    for (arguments, why) in [
        (&["set", "batch", "max=0"][..], "max: found 0"),
        (&["set", "nobody", "max=3"], "nobody"),
        (&["set", "x", "scope=class:nobody"], "nobody"),
    ] {
        let ran = daemon.ask(&[&["limits"], arguments].concat());
        assert_eq!((ran.code, ran.text()), (4, ""), "{}", ran.err);
        assert!(ran.err.contains(why), "{why}\n{}", ran.err);
    }
    // What is said of it waits while all are switched off.
    daemon.tell(&["config", "set", "limits.enabled=false"]);
    let off = daemon.tell(&["limits", "list"]);
    assert_eq!(
        off,
        "adaptive limits are switched off; `flyball config set limits.enabled=true` switches them on\n\
         batch bounds nothing: limits are switched off; limits.enabled switches them on\n"
    );
    let ran = daemon.ask(&["limits", "set", "x", "scope=class:batch"]);
    assert!(
        ran.code == 4 && ran.err.contains("limits.enabled switches it on"),
        "{}",
        ran.err
    );
    daemon.tell(&["config", "set", "limits.enabled=true"]);
    let removed = daemon.tell(&["limits", "remove", "batch"]);
    assert_eq!(removed, "limit batch is gone, or as its program made it\n");
    for action in ["show", "reset", "remove"] {
        let ran = daemon.ask(&["limits", action, "batch"]);
        assert_eq!((ran.code, ran.text()), (4, ""), "{}", ran.err);
        assert!(
            ran.err.contains("there is no adaptive limit \"batch\""),
            "{}",
            ran.err
        );
    }
}

/// API-6: over TCP a change needs the token, which is found in the state folder; over the socket none is needed; a wrong one is refused.
#[test]
fn the_token_is_found_for_this_machine() {
    let daemon = Daemon::start("token");
    let address = daemon.address();
    let over_tcp = |more: &[&str], state: &str| {
        let mut command = isolated(&daemon.folder);
        command
            .args(["knobs", "pin", "parallelism", "1", "--server", &address])
            .args(more);
        finish(command.env("FLYBALL_STATE_DIR", daemon.folder.path(state)))
    };
    let without = over_tcp(&[], "elsewhere");
    assert_eq!(without.code, 4);
    assert!(
        without.err.contains("(401)") && without.err.contains("no token was sent"),
        "{}",
        without.err
    );
    assert_eq!(over_tcp(&[], "state").code, 0);
    let other = daemon.folder.path("other.token");
    std::fs::write(&other, "0".repeat(64)).unwrap();
    let wrong = over_tcp(&["--token-file", other.to_str().unwrap()], "state");
    assert_eq!(wrong.code, 4);
    assert!(
        wrong
            .err
            .contains(&format!("the token sent is that in {}", other.display())),
        "{}",
        wrong.err
    );
    daemon.tell(&["knobs", "unpin", "parallelism"]);
    let by_variable = finish(
        isolated(&daemon.folder)
            .arg("status")
            .env("FLYBALL_SERVER", format!("http://{address}")),
    );
    assert_eq!(by_variable.code, 0, "{}", by_variable.err);
}

/// Decisions are followed as they are made, and the end of the daemon is the end of that.
#[test]
fn decisions_are_followed() {
    // What a busy machine has throttles decide would come between.
    let daemon = Daemon::start_with("follow", |command, _| {
        command
            .args(["--listen", "127.0.0.1:0"])
            .env("FLYBALL_THROTTLING_ENABLED", "false");
    });
    daemon.tell(&["knobs", "pin", "worker_pool.back", "3"]);
    let mut child = daemon
        .command(&["decisions", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        lines
            .next()
            .expect("there is one more")
            .expect("it is text")
    };
    // The first is printed after the stream was opened, so that the second cannot be missed.
    assert!(next().contains("pin: worker_pool.back 2 → 3 workers"));
    daemon.tell(&["knobs", "unpin", "worker_pool.back"]);
    assert!(next().contains("unpin: worker_pool.back"));
    daemon.signal("TERM");
    let status = child.wait().unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the daemon ended the stream"), "{said}");
    assert_eq!(daemon.end().0, Some(0));
}

/// The commands are those of the contract, and each shows examples.
#[test]
fn help_shows_commands_and_examples() {
    let help = finish(flyball().arg("--help"));
    assert_eq!(help.code, 0);
    let listed: Vec<&str> = help
        .lines()
        .into_iter()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        listed,
        [
            "run",
            "serve",
            "submit",
            "tasks",
            "status",
            "workers",
            "classes",
            "limits",
            "decisions",
            "knobs",
            "config",
            "backup",
            "restore",
            "completions",
            "man"
        ]
    );
    for command in listed
        .iter()
        .filter(|name| !["completions", "man"].contains(name))
    {
        let help = finish(flyball().args([command, "--help"]));
        assert!(help.text().contains("Examples:\n  flyball "), "{command}");
        assert!(help.text().contains("Exit status:"), "{command}");
    }
    for (command, actions) in [
        (
            "workers",
            &["show", "scale", "restart", "drain", "set", "events"][..],
        ),
        (
            "classes",
            &["show", "create", "change", "delete", "pause", "resume"],
        ),
        ("knobs", &["pin", "unpin"]),
        (
            "limits",
            &[
                "list",
                "show",
                "set",
                "remove",
                "throttles",
                "throttle",
                "breakers",
                "force",
                "reset",
            ],
        ),
        (
            "tasks",
            &[
                "list", "show", "why", "cancel", "retry", "output", "wait", "follow", "pause",
                "resume", "stats",
            ],
        ),
        ("config", &["check", "schema", "show", "set"]),
    ] {
        for action in actions {
            let help = finish(flyball().args([command, action, "--help"]));
            let begin = format!("  flyball {command} {action}");
            assert!(
                help.text().contains("Example") && help.text().contains(&begin),
                "{}",
                help.text()
            );
        }
    }
}

/// Completions and manual follow the commands by themselves.
#[test]
fn completions_and_manual_know_every_command() {
    let manual = finish(flyball().arg("man"));
    let completions = finish(flyball().args(["completions", "bash"]));
    for words in [
        "flyball-serve",
        "flyball-workers-scale",
        "flyball-config-set",
    ] {
        let escaped = words.replace('-', "\\-");
        assert!(
            manual.text().contains(words) || manual.text().contains(&escaped),
            "{words}"
        );
    }
    for option in ["--state-dir", "--dry-run", "--follow"] {
        assert!(completions.text().contains(option), "{option}");
    }
}
