//! Inputs, placeholders, orders, exit status.

use crate::{Folder, finish, flyball, run, run_with};

/// TASK-12: golden dry runs.
#[test]
fn dry_runs_print_the_commands() {
    let cases: [(&[&str], &[&str]); 8] = [
        (
            &["echo", ":::", "a b", "c;d"],
            &["echo 'a b'", "echo 'c;d'"],
        ),
        (
            &["mv", "{}", "{.}.bak", ":::", "d/x.txt"],
            &["mv d/x.txt d/x.bak"],
        ),
        (
            &["p", "{/}", "{//}", "{/.}", "{#}", ":::", "d/x.txt"],
            &["p x.txt d x 1 d/x.txt"],
        ),
        (
            &["p", "{1}-{2}", ":::", "a", "b", ":::", "1", "2"],
            &["p a-1", "p a-2", "p b-1", "p b-2"],
        ),
        (
            &["p", "{}", ":::", "a", "b", ":::", "1"],
            &["p a 1", "p b 1"],
        ),
        (&["-n", "2", "p", ":::", "a", "b", "c"], &["p a b", "p c"]),
        (
            &["-X", "p", "-f{}", ":::", "a", "b", "c"],
            &["p -fa -fb -fc"],
        ),
        (
            &["gzip -kc {} > {/}.gz", ":::", "a b"],
            &["gzip -kc 'a b' > 'a b'.gz"],
        ),
    ];
    for (arguments, expected) in cases {
        let ran = run(["--dry-run"].iter().chain(arguments));
        // {/} and its kin are inputs too, so nothing is appended where one stands.
        let expected: Vec<String> = expected
            .iter()
            .map(|line| line.replace(" 1 d/x.txt", " 1"))
            .collect();
        assert_eq!(
            (ran.lines(), ran.code),
            (expected.iter().map(String::as_str).collect(), 0),
            "{arguments:?}"
        );
    }
}

/// TASK-12: inputs from standard input, by line and by NUL, and from a file.
#[test]
fn inputs_come_from_lines_nul_and_files() {
    assert_eq!(run_with(["-k", "echo"], b"a b\n\nc").lines(), ["a b", "c"]);
    assert_eq!(
        run_with(["-k", "-0", "printf", "<%s>"], b"a\nb\0c\0").text(),
        "<a\nb><c>"
    );
    let folder = Folder::new("file");
    std::fs::write(folder.path("list"), "x\ny\n").unwrap();
    let ran = run([
        "-k".as_ref(),
        "-a".as_ref(),
        folder.path("list").as_os_str(),
        "echo".as_ref(),
    ]);
    assert_eq!(ran.lines(), ["x", "y"]);
    let gone = run(["-a", "/nonexistent/list", "echo"]);
    assert_eq!(gone.code, 2);
    assert!(gone.err.contains("/nonexistent/list"), "{}", gone.err);
}

/// TASK-12: without a command each input is one.
#[test]
fn inputs_can_be_commands() {
    assert_eq!(
        run_with(["-k"], b"echo one; echo two\ntest -d / && echo three\n").lines(),
        ["one", "two", "three"]
    );
}

/// TASK-12: an empty input runs nothing and says so.
#[test]
fn an_empty_input_runs_nothing_and_says_so() {
    for ran in [
        run_with(["false"], b""),
        run_with(["false"], b"\n\n"),
        run(["false", ":::"]),
    ] {
        assert_eq!((ran.code, ran.text()), (0, ""));
        assert!(ran.err.contains("no inputs, nothing to run"), "{}", ran.err);
    }
}

/// TASK-12: 0 all done, 1 some failed, 2 wrong usage.
#[test]
fn exit_status_tells_how_it_went() {
    assert_eq!(run(["true", ":::", "1", "2"]).code, 0);
    assert_eq!(run(["test", "1", "=", ":::", "1", "2"]).code, 1);
    for wrong in [
        &["--jobs", "0", "true"][..],
        &["--halt", "perhaps", "true"],
        &["--timeout", "soon", "true"],
        &["--frobnicate", "true"],
        &["-a", "-", "-a", "-", "true"],
        &["-n", "2", "true", ":::", "a", ":::", "b"],
        &["", ":::", "a"],
        &["echo `cat {}`", ":::", "a"],
    ] {
        let ran = run(wrong);
        assert_eq!((ran.code, ran.text()), (2, ""), "{wrong:?}: {}", ran.err);
        assert!(!ran.err.is_empty());
    }
    let unknown = finish(flyball().arg("submit"));
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("submit"), "{}", unknown.err);
}

/// CPU-2, TASK-12: an unknown class names the known ones.
#[test]
fn an_unknown_class_is_refused() {
    let ran = run(["--class", "urgent", "true", ":::", "1"]);
    assert_eq!(ran.code, 2);
    for known in [
        "urgent",
        "critical",
        "interactive",
        "normal",
        "batch",
        "idle",
    ] {
        assert!(ran.err.contains(known), "{}", ran.err);
    }
}

/// TASK-12: a command that does not exist is named, once, and does not run a million times.
#[test]
fn commands_that_do_not_exist_are_named() {
    let many: Vec<String> = (0..5000).map(|number| number.to_string()).collect();
    let many = ["-j2", "flyball-no-such-command", ":::"]
        .into_iter()
        .chain(many.iter().map(String::as_str));
    let ran = run(many);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err
            .contains("cannot run \"flyball-no-such-command\": no such program"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("not run"), "{}", ran.err);
    let folder = run(["/tmp", ":::", "x"]);
    assert!(folder.err.contains("it is a directory"), "{}", folder.err);
}

/// TASK-12: --keep-order, with a first command that ends last.
#[test]
fn outputs_keep_the_order_of_inputs() {
    let folder = Folder::new("order");
    let fifo = folder.path("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    // The first waits for the last.
    let script = format!(
        "case {{}} in 1) cat {0};; 40) echo go > {0};; esac; echo {{}}",
        fifo.display()
    );
    let inputs: Vec<String> = (1..=40).map(|number| number.to_string()).collect();
    let ran = run(["-k", "-j2", &script, ":::"]
        .into_iter()
        .chain(inputs.iter().map(String::as_str)));
    let mut expected = vec!["go"];
    expected.extend(inputs.iter().map(String::as_str));
    assert_eq!(ran.lines(), expected);
    let unordered = run(["-j2", &script, ":::"]
        .into_iter()
        .chain(inputs.iter().map(String::as_str)));
    // The last two end at the same time.
    assert_eq!(unordered.lines()[..38], expected[2..40]);
}

/// TASK-12: outputs of two commands never mix.
#[test]
fn outputs_are_grouped_and_tagged() {
    let script = "printf {}; i=0; while [ $i -lt 200 ]; do printf -- -{}; i=$((i+1)); done; echo; printf 'no newline'";
    let ran = run(["-j4", "--tag", script, ":::", "a", "b", "c", "d"]);
    let lines = ran.lines();
    assert_eq!(lines.len(), 8);
    for pair in lines.chunks(2) {
        let (name, rest) = pair[0].split_once('\t').unwrap();
        assert_eq!(rest, format!("{name}{}", format!("-{name}").repeat(200)));
        assert_eq!(pair[1], format!("{name}\tno newline"));
    }
}

/// TASK-12: output that is not UTF-8, and long output, byte for byte.
#[test]
fn outputs_are_bytes() {
    let ran = run([
        "-k",
        "-j2",
        r"printf '\377\000\n'; printf '\200' >&2",
        ":::",
        "1",
        "2",
    ]);
    assert_eq!(ran.out, b"\xff\0\n\xff\0\n");
    let ran = run([
        "-k",
        "-j2",
        "head -c 3000000 /dev/zero | tr '\\0' {}",
        ":::",
        "a",
        "b",
        "c",
        "d",
    ]);
    assert_eq!(ran.out.len(), 12_000_000);
    assert!(
        ran.out
            .chunks(3_000_000)
            .zip(b"abcd")
            .all(|(chunk, letter)| chunk.iter().all(|byte| byte == letter))
    );
}

/// TASK-12: a summary for machines.
#[test]
fn the_summary_is_json_if_asked() {
    let ran = run(["--json", "exit {}", ":::", "0", "3", "0"]);
    let last = ran.err.lines().last().unwrap();
    let json: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(
        (&json["succeeded"], &json["failed"]),
        (&2.into(), &1.into())
    );
    assert_eq!(json["failures"][0]["reason"], "exit 3");
    assert!(json["peak_memory_bytes"].as_u64().unwrap() > 100_000);
    let quiet = run(["--quiet", "true", ":::", "1"]);
    assert_eq!(quiet.err, "");
}

/// TASK-12: colour only where asked, or on a terminal.
#[test]
fn colour_is_for_terminals() {
    assert!(!run(["false", ":::", "1"]).err.contains('\x1b'));
    assert!(
        run(["--color", "always", "false", ":::", "1"])
            .err
            .contains('\x1b')
    );
}

/// DESIGN.md: completions and the manual.
#[test]
fn completions_and_manual_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = finish(flyball().args(["completions", shell]));
        assert!(
            ran.code == 0 && ran.text().contains("keep-order"),
            "{shell}"
        );
    }
    let manual = finish(flyball().arg("man"));
    assert!(manual.code == 0 && manual.text().contains(".TH"));
    let help = finish(flyball().args(["run", "--help"]));
    assert!(help.code == 0 && help.text().contains("Examples:"));
    assert_eq!(finish(flyball().args(["completions", "cmd.exe"])).code, 2);
}

/// TASK-12: 100,000 lines, read as they are needed.
#[test]
fn many_inputs_are_read_lazily() {
    let lines: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    let ran = run_with(["-k", "-X", "-j2", "echo"], lines.as_bytes());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.text().split_whitespace().count(), 100_000);
    assert!(ran.lines().len() > 3);
    // A producer that never ends is not read to its end.
    let ran = run_with(
        ["--halt", "soon,fail=1", "false"],
        "x\n".repeat(500_000).as_bytes(),
    );
    assert_eq!(ran.code, 1);
}
