//! What people know from GNU parallel: where inputs come from, and how they stand in commands.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::{Folder, finish, flyball, run, run_with};

/// `flyball run -k echo …` and what it printed.
fn echoed(arguments: &[&str]) -> Vec<String> {
    printed(&[&["-k", "echo"], arguments].concat(), b"")
}

fn printed(arguments: &[&str], input: &[u8]) -> Vec<String> {
    let ran = run_with(arguments, input);
    assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
    ran.lines().into_iter().map(str::to_owned).collect()
}

fn refused(arguments: &[&str], why: &str) {
    let ran = run_with(arguments, b"");
    assert_eq!(
        (ran.code, ran.text()),
        (2, ""),
        "{arguments:?}: {}",
        ran.err
    );
    assert!(ran.err.contains(why), "{arguments:?}: {}", ran.err);
}

/// A folder with the files `letters` (a, b) and `digits` (1, 2, 3).
fn files(name: &str) -> Folder {
    let folder = Folder::new(name);
    std::fs::write(folder.path("letters"), "a\nb\n").unwrap();
    std::fs::write(folder.path("digits"), "1\n2\n3\n").unwrap();
    folder
}

/// TASK-12: words, files and standard input are sources alike, and sources combine.
#[test]
fn sources_of_every_kind_combine() {
    let folder = files("combine");
    let (letters, digits) = (folder.path("letters"), folder.path("digits"));
    let (letters, digits) = (letters.to_str().unwrap(), digits.to_str().unwrap());
    let all = ["a 1", "a 2", "a 3", "b 1", "b 2", "b 3"];
    assert_eq!(echoed(&[":::", "a", "b", ":::", "1", "2", "3"]), all);
    assert_eq!(echoed(&["::::", letters, digits]), all);
    assert_eq!(echoed(&["::::", letters, ":::", "1", "2", "3"]), all);
    assert_eq!(
        printed(&["-k", "-a", letters, "-a", digits, "echo"], b""),
        all
    );
    assert_eq!(
        printed(&["-k", "-a", letters, "echo", ":::", "1", "2", "3"], b""),
        all
    );
    assert_eq!(
        printed(&["-k", "echo", ":::", "a", "b", "::::", "-"], b"1\n2\n3\n"),
        all
    );
    assert_eq!(printed(&["-k", "echo", "::::", "-"], b"x y\n"), ["x y"]);
    assert!(echoed(&["::::", letters, "/dev/null"]).is_empty());
}

/// TASK-12: `:::+`, `::::+` and --link put inputs side by side.
#[test]
fn linked_sources_go_side_by_side() {
    let folder = files("linked");
    let digits = folder.path("digits");
    let digits = digits.to_str().unwrap();
    // The shorter one ends it.
    assert_eq!(
        echoed(&[":::", "a", "b", "c", ":::+", "1", "2"]),
        ["a 1", "b 2"]
    );
    assert_eq!(echoed(&[":::", "a", "b", "::::+", digits]), ["a 1", "b 2"]);
    assert_eq!(
        echoed(&[":::", "x", "y", ":::", "a", "b", ":::+", "1", "2"]),
        ["x a 1", "x b 2", "y a 1", "y b 2"]
    );
    // Under --link the shorter one begins anew.
    for link in ["--link", "--xapply"] {
        assert_eq!(
            printed(
                &[
                    "-k", link, "echo", "{2}{1}", ":::", "a", "b", "c", ":::", "1", "2"
                ],
                b""
            ),
            ["1a", "2b", "1c"]
        );
    }
    refused(&["echo", ":::+", "a"], "there are none");
    refused(&["echo", "::::"], "needs a file");
    refused(&["echo", "::::", "/nonexistent"], "/nonexistent");
    refused(&["echo", "::::", "-", "-"], "only once");
    refused(&["-n2", "echo", ":::", "a", ":::+", "b"], "one source");
}

/// TASK-12: --colsep makes several inputs of one, by a regular expression.
#[test]
fn inputs_have_columns() {
    let table: &[u8] = b"ada, 36\ngrace , 85\n";
    assert_eq!(
        printed(&["-k", "--colsep", ",", "echo", "{2}:{1}"], table),
        ["36:ada", "85:grace"]
    );
    assert_eq!(
        printed(&["-k", "-C", ",", "--trim", "n", "echo", "<{2}>"], table),
        ["< 36>", "< 85>"]
    );
    assert_eq!(
        printed(
            &["-k", "--colsep", r"\s*[,;]\s*", "echo", "{-1} {1/.}"],
            b"d/x.c ; y , z\n"
        ),
        ["z x"]
    );
    // Rows need not be alike; what is not there is nothing.
    assert_eq!(
        printed(
            &["-k", "--colsep", "\t", "echo", "<{1}{3}>"],
            b"a\tb\tc\nd\n"
        ),
        ["<ac>", "<d>"]
    );
    assert_eq!(printed(&["-k", "--colsep", ",", "echo"], b"a,b\n"), ["a b"]);
    refused(&["--colsep", "(", "echo", ":::", "a"], "regular expression");
}

/// TASK-12: with --header the first input names the others.
#[test]
fn inputs_have_names() {
    assert_eq!(
        printed(
            &[
                "-k",
                "--header",
                ":",
                "--colsep",
                ",",
                "echo",
                "{age} {name.} {2}"
            ],
            b"name,age\nada.l,36\n"
        ),
        ["36 ada 36"]
    );
    assert_eq!(
        printed(
            &[
                "-k",
                "--header",
                ":",
                "echo {size}-{/color}{color/}",
                ":::",
                "size",
                "S",
                "M",
                ":::",
                "color",
                "d/red"
            ],
            b""
        ),
        ["S-{/color}red", "M-{/color}red"]
    );
    refused(
        &["--header", ":", "echo", ":::", "", "a"],
        "name of an input",
    );
}

/// TASK-12: several inputs for a command, by position or one after the other.
#[test]
fn commands_take_several_inputs() {
    for option in ["-n2", "-N2", "-L2", "--max-args=2"] {
        assert_eq!(
            printed(&["-k", option, "echo", ":::", "a", "b", "c"], b""),
            ["a b", "c"]
        );
    }
    assert_eq!(
        printed(
            &["-k", "-N3", "echo", "{3}{1}|{2}", ":::", "a", "b", "c", "d"],
            b""
        ),
        ["ca|b", "d|"]
    );
    assert_eq!(
        printed(&["-k", "-X", "echo", "p{}.x", ":::", "a", "b"], b""),
        ["pa.x pb.x"]
    );
    assert_eq!(
        printed(
            &["-k", "-X", "-s", "11", "echo", ":::", "aa", "bb", "cc"],
            b""
        ),
        ["aa bb", "cc"]
    );
}

/// TASK-12: what separates inputs can be chosen, and what stands for them.
#[test]
fn delimiters_and_placeholders_can_be_chosen() {
    assert_eq!(
        printed(&["-k", "-d", ",", "echo"], b"a,b c,d"),
        ["a", "b c", "d"]
    );
    assert_eq!(printed(&["-k", "-d", r"\t", "echo"], b"a\tb"), ["a", "b"]);
    assert_eq!(
        printed(&["-k", "-I", "%", "echo", "<%> {}"], b"a\n"),
        ["<a> {}"]
    );
    assert_eq!(printed(&["-k", "-I%", "echo % | cat"], b"a\n"), ["a"]);
    refused(&["-d", "ab", "echo"], "one byte");
}

/// TASK-12: numbers from the end, and the number of the slot.
#[test]
fn places_count_from_the_end_and_name_slots() {
    assert_eq!(
        echoed(&["{-1}{-2}{#}", ":::", "a", "b", ":::", "1"]),
        ["1a1", "1b2"]
    );
    assert_eq!(
        printed(&["-k", "-j1", "echo", "{}{%}", ":::", "a", "b"], b""),
        ["a1", "b1"]
    );
    refused(&["echo", "{-3}", ":::", "a", ":::", "b"], "asks for input");
    refused(&["echo", "{= $_++ =}", ":::", "1"], "not offered");
}

/// TASK-12: no two commands have one slot at the same time, and no slot is beyond --jobs.
#[test]
fn slots_are_held_by_one_command_at_a_time() {
    let folder = Folder::new("slots");
    let ran = finish(
        flyball()
            .current_dir(folder.path(""))
            .args([
                "run",
                "-q",
                "-j3",
                "mkdir s{%} && echo {%} && rmdir s{%}; : {}",
                ":::",
            ])
            .args((0..60).map(|number| number.to_string())),
    );
    assert_eq!((ran.code, ran.lines().len()), (0, 60), "{}", ran.err);
    assert!(
        ran.lines()
            .iter()
            .all(|slot| ["1", "2", "3"].contains(slot))
    );
}

/// TASK-12: --shuf runs everything, in an order that a seed repeats.
#[test]
fn shuffled_runs_lose_nothing() {
    let shuffled = |seed: &str| {
        printed(
            &[
                "-k", "--shuf", "--seed", seed, "echo", ":::", "a", "b", "c", "d", "e", ":::", "1",
                "2", "3",
            ],
            b"",
        )
    };
    let (one, again, other) = (shuffled("1"), shuffled("1"), shuffled("2"));
    assert_eq!(one, again);
    assert_ne!(one, other);
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(one).len(), 15);
    assert_eq!(
        sorted(printed(&["--shuf", "echo"], b"1\n2\n3\n")),
        ["1", "2", "3"]
    );
}

/// TASK-12: one word with shell syntax meets the shell, several words never do, however inputs are given.
#[test]
fn quoting_follows_the_form_of_the_command() {
    let hostile = [
        OsStr::new("two  words"),
        OsStr::new("$HOME;`id`"),
        OsStr::new("it's \"x\""),
        OsStr::from_bytes(b"\xff\n*"),
    ];
    let expected: Vec<u8> = hostile
        .iter()
        .flat_map(|word| [b"<", word.as_bytes(), b"|x>"].concat())
        .collect();
    for command in [
        &["printf", "<%s|%s>", "{1}", "{2}"][..],
        &["printf '<%s|%s>' {1} {2}"],
    ] {
        let ran = run(["-k"]
            .iter()
            .chain(command)
            .map(OsStr::new)
            .chain([OsStr::new(":::")])
            .chain(hostile)
            .chain([":::+", "x", "x", "x", "x"].map(OsStr::new)));
        assert_eq!(ran.out, expected, "{}", ran.err);
    }
    assert_eq!(
        echoed(&["$HOME", "|", "cat", ":::", "a"]),
        ["$HOME | cat a"]
    );
    assert_eq!(printed(&["echo {} | tr a-z A-Z", ":::", "up"], b""), ["UP"]);
}

/// TASK-12: a dry run prints commands that can be pasted, of linked, named and left out inputs, too.
#[test]
fn dry_runs_show_every_kind_of_input() {
    assert_eq!(
        printed(
            &[
                "--dry-run",
                "mv",
                "{1}",
                "{2/}",
                ":::",
                "a b",
                ":::+",
                "c/d"
            ],
            b""
        ),
        ["mv 'a b' d"]
    );
    assert_eq!(
        printed(
            &[
                "--dry-run",
                "--header",
                ":",
                "wc {f} > {f.}.n",
                ":::",
                "f",
                "x.txt"
            ],
            b""
        ),
        ["wc x.txt > x.n"]
    );
}
