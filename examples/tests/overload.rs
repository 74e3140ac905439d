//! The examples of overload, as somebody who tries them sees them, but for less time. How much a machine does within it is not looked at.

use std::process::Command;

fn output(program: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).output();
    let run = run.expect("it runs");
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{text}{said}");
    text
}

/// Lines that begin with this, as words.
fn lines<'a>(text: &'a str, begin: &str) -> Vec<Vec<&'a str>> {
    let lines = text
        .lines()
        .filter(|line| line.trim_start().starts_with(begin));
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

/// CPU-23: an axum service without flyball and behind the gate, with handlers that have classes compute; each path is known as its class.
#[test]
fn axum_is_guarded() {
    let text = output(env!("CARGO_BIN_EXE_overload_axum"), &["--seconds", "0.5"]);
    assert_eq!(lines(&text, "bare").len(), 2, "{text}");
    assert_eq!(lines(&text, "with gate").len(), 2, "{text}");
    let entered: Vec<_> = lines(&text, "class")
        .iter()
        .map(|words| (words[1].to_owned(), words[2] != "0"))
        .collect();
    let both = [("interactive".to_owned(), true), ("batch".to_owned(), true)];
    assert_eq!(entered, both, "{text}");
}

/// CPU-23: calls of a tonic service behind the gate all come to an end that gRPC knows.
#[test]
fn tonic_is_guarded() {
    let text = output(env!("CARGO_BIN_EXE_overload_tonic"), &["--seconds", "0.5"]);
    for kind in ["interactive", "import"] {
        let found = lines(&text, kind);
        let words = found.first().unwrap_or_else(|| panic!("{text}"));
        let figures: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(figures.len(), 4, "{text}");
        assert!(figures.iter().sum::<u64>() > 0 && figures[3] == 0, "{text}");
    }
    assert_eq!(lines(&text, "limit").len(), 1, "{text}");
}

/// CPU-22: an engine shows how a class that sheds and a gate by name are.
#[test]
fn an_engine_shows_its_limits() {
    let text = output(env!("CARGO_BIN_EXE_limits"), &["1"]);
    assert_eq!(lines(&text, "batch: ").len(), 1, "{text}");
    assert!(text.contains("; db: "), "{text}");
}
