//! What people know from GNU parallel: standard input in blocks.

use crate::{run, run_with};

fn piped(arguments: &[&str], input: &[u8]) -> String {
    let ran = run_with([&["-q", "-k", "--pipe"], arguments].concat(), input);
    assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
    ran.text().to_owned()
}

/// TASK-12: blocks hold whole records, of a size or a number.
#[test]
fn standard_input_is_cut_between_records() {
    let count = "wc -l | tr -d ' '";
    let numbers: String = (1..=9).map(|number| format!("{number}\n")).collect();
    assert_eq!(piped(&["-N4", count], numbers.as_bytes()), "4\n4\n1\n");
    assert_eq!(
        piped(&["--block", "6", count], numbers.as_bytes()),
        "3\n3\n3\n"
    );
    assert_eq!(piped(&["-N1", "echo {#}: $(cat)"], b"a\nb"), "1: a\n2: b\n");
    assert_eq!(
        piped(&["-N1", "--recend", ";", "cat; echo"], b"a;b;c"),
        "a;\nb;\nc\n"
    );
    assert_eq!(
        piped(
            &["-N1", "--recstart", ">", "tr '\n' ' '; echo"],
            b">x\n1\n>y\n2\n"
        ),
        ">x 1 \n>y 2 \n"
    );
    assert_eq!(
        piped(&["-N1", "--header", ":", "cat"], b"head\n1\n2\n"),
        "head\n1\nhead\n2\n"
    );
    assert_eq!(piped(&["cat"], b""), "");
}

/// TASK-12: nothing is lost or put in between, also where commands read little, twice or nothing.
#[test]
fn blocks_together_are_the_input() {
    let mut rng = 1_u32;
    let input: Vec<u8> = (0..3_000_000)
        .map(|_| {
            rng = rng.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (rng >> 24) as u8
        })
        .collect();
    let ran = run_with(
        ["-q", "-k", "-j3", "--pipe", "--block", "100k", "cat"],
        &input,
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out == input);
    assert_eq!(piped(&["-N1", "true"], b"1\n2\n"), "");
    assert_eq!(piped(&["-N2", "head -n 1"], b"1\n2\n3\n"), "1\n3\n");
}

/// TASK-12: another attempt reads its block from the start.
#[test]
fn an_attempt_reads_its_block_anew() {
    let folder = crate::Folder::new("pipe-retry");
    let mark = folder.path("mark");
    let script = format!(
        "cat; test -e {0}{{#}} || {{ touch {0}{{#}}; exit 1; }}",
        mark.display()
    );
    let ran = run_with(
        ["-q", "-k", "--pipe", "-N1", "--retries", "2", &script],
        b"a\nb\n",
    );
    assert_eq!((ran.text(), ran.code), ("a\nb\n", 0), "{}", ran.err);
}

/// TASK-12: what cannot be piped is refused.
#[test]
fn a_pipe_has_no_inputs_to_put_in() {
    for wrong in [
        &["--pipe", "echo", "{}"][..],
        &["--pipe"],
        &["--pipe", "cat", ":::", "a"],
        &["--pipe", "--colsep", ",", "cat"],
        &["--block", "1M", "cat"],
        &["--pipe", "--block", "0", "cat"],
    ] {
        let ran = run(wrong);
        assert_eq!((ran.code, ran.text()), (2, ""), "{wrong:?}: {}", ran.err);
    }
}
