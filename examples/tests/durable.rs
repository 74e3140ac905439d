//! The example `durable`, as somebody who tries it sees it.

use std::process::Command;

/// TASK-1, TASK-2: what was accepted is done although the program dies in the middle of it; submitted again, it is the same task; and nothing
/// that was acknowledged is done a second time.
#[test]
fn what_was_accepted_is_done() {
    let run = Command::new(env!("CARGO_BIN_EXE_durable"))
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
    assert_eq!(count("is accepted as task"), 4, "{text}");
    assert_eq!(count("is known as task"), 4, "{text}");
    assert_eq!(count("the service died"), 1, "{text}");
    assert_eq!(count("resized the cat (attempt 2)"), 1, "{text}");
    let last = text.lines().last();
    let done = r#"  done: "ant-640.jpg" "bee-640.jpg" "cat-640.jpg" "dog-640.jpg""#;
    assert_eq!(last, Some(done), "{text}");
}
