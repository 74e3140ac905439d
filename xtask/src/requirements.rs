//! `cargo xtask requirements`: docs/requirements.md says what is proved and by what; this checks that it is true.
//!
//! The page holds one table: id, what it asks, proofs, status. A proof is `path/to/file.rs::name_of_test` or
//! `bench area case`, in backticks. A test must exist and name the id, in its doc comment as `CPU-11` or in its name as
//! `cpu_11`. The status is `done`, `partly: what is missing`, which both need a proof, or `not yet`, which must have none.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PAGE: &str = "docs/requirements.md";
/// The subjects of requirements; other words with a number (`UTF-8`) are none.
const PREFIXES: [&str; 5] = ["API", "CFG", "CPU", "MON", "TASK"];
/// Folders with tests.
const SOURCES: [&str; 3] = ["crates", "examples", "xtask"];

/// A test in the sources.
#[derive(Clone, Debug, PartialEq)]
struct Test {
    /// `path/to/file.rs::name_of_test`.
    place: String,
    /// Requirements that its doc comment or its name names.
    ids: BTreeSet<String>,
}

/// A line of the table.
#[derive(Debug, PartialEq)]
struct Entry {
    id: String,
    proofs: Vec<String>,
    status: String,
}

/// Ids in a text: `CPU-11` anywhere, and, as in names of functions, `cpu_11`.
fn ids_in(text: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for prefix in PREFIXES {
        let lower = prefix.to_lowercase();
        for mark in [format!("{prefix}-"), format!("{lower}_")] {
            for (at, _) in text.match_indices(&mark) {
                let starts_word = !text[..at].ends_with(|before: char| before.is_alphanumeric());
                let digits: String = text[at + mark.len()..]
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect();
                if starts_word && !digits.is_empty() {
                    ids.insert(format!("{prefix}-{digits}"));
                }
            }
        }
    }
    ids
}

/// The name in a line such as `    pub(crate) fn name<T>(…`.
fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let modifier = |word: &str| word.starts_with("pub") || word == "async" || word == "unsafe";
    let rest = loop {
        match words.next()? {
            "fn" => break words.next()?,
            word if modifier(word) => {}
            _ => return None,
        }
    };
    let end = rest
        .find(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
        .unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Tests of a file: functions whose attributes, directly above them, contain one that ends in `test]` or `test(…)]`, and, where a
/// program has a harness of its own, those that its list `TESTS` names as `"module::name"`.
fn tests_in(path: &str, text: &str) -> Vec<Test> {
    let own_harness = text.contains("const TESTS: &[Test]");
    let is_listed = |name: &str| own_harness && text.contains(&format!("::{name}\""));
    let mut tests = Vec::new();
    let mut is_test = false;
    let mut above = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            let attribute = line
                .trim_start_matches("#[")
                .split(['(', ']'])
                .next()
                .unwrap_or_default();
            is_test |= attribute == "test" || attribute.ends_with("::test");
        } else if let Some(comment) = line.strip_prefix("//") {
            above.push_str(comment);
            above.push('\n');
        } else {
            if let Some(name) = function_name(line).filter(|name| is_test || is_listed(name)) {
                above.push_str(name);
                tests.push(Test {
                    place: format!("{path}::{name}"),
                    ids: ids_in(&above),
                });
            }
            is_test = false;
            above.clear();
        }
    }
    tests
}

fn gather(root: &Path, folder: &Path, tests: &mut Vec<Test>) -> Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            gather(root, &path, tests)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("reading {}", path.display()))?;
            let short = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            tests.extend(tests_in(&short, &text));
        }
    }
    Ok(())
}

fn all_tests() -> Result<Vec<Test>> {
    let root = workspace::root();
    let mut tests = Vec::new();
    for folder in SOURCES {
        gather(&root, &root.join(folder), &mut tests)?;
    }
    Ok(tests)
}

/// The lines of the table.
fn entries_in(page: &str) -> Vec<Entry> {
    let cells = |line: &str| -> Option<Vec<String>> {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(
            inner
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect(),
        )
    };
    let entry = |cells: Vec<String>| match cells.as_slice() {
        [id, _, proofs, status] if ids_in(id).contains(id) => Some(Entry {
            id: id.clone(),
            proofs: proofs
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect(),
            status: status.clone(),
        }),
        _ => None,
    };
    page.lines().filter_map(cells).filter_map(entry).collect()
}

/// What is wrong with a line, given the tests and the text of the benchmark's sources.
fn faults(entry: &Entry, tests: &[Test], bench: &str) -> Vec<String> {
    let id = &entry.id;
    let mut faults = Vec::new();
    for proof in &entry.proofs {
        if let Some(case) = proof.strip_prefix("bench ") {
            let group = case
                .split_whitespace()
                .nth(1)
                .and_then(|case| case.split('/').next());
            if !group.is_some_and(|group| bench.contains(&format!("\"{group}/"))) {
                faults.push(format!("{id}: the benchmark has no case like `{proof}`"));
            }
            continue;
        }
        match tests.iter().find(|test| test.place == *proof) {
            None => faults.push(format!("{id}: there is no test `{proof}`")),
            Some(test) if !test.ids.contains(id) => {
                faults.push(format!(
                    "{id}: `{proof}` does not name it in its doc comment"
                ));
            }
            Some(_) => {}
        }
    }
    let status = match entry.status.split_once(": ") {
        Some(("partly", missing)) if !missing.is_empty() => "partly",
        _ => entry.status.as_str(),
    };
    if entry.status == "partly" {
        faults.push(format!("{id}: partly, but what is missing? `partly: …`"));
    }
    match (status, entry.proofs.is_empty()) {
        ("done" | "partly", false) | ("not yet", true) => {}
        ("done" | "partly", true) => faults.push(format!("{id}: {status} without a proof")),
        ("not yet", false) => faults.push(format!("{id}: not yet, but with a proof")),
        _ => faults.push(format!(
            "{id}: the status is done, partly: … or not yet, not {:?}",
            entry.status
        )),
    }
    faults
}

fn bench_sources() -> Result<String> {
    let folder = workspace::root().join("bench/src");
    let mut text = String::new();
    for file in ["goals.rs", "cases/mod.rs", "programs.rs"] {
        let path = folder.join(file);
        text += &std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(text)
}

fn page_entries() -> Result<Vec<Entry>> {
    let path = workspace::root().join(PAGE);
    let entries = entries_in(
        &std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?,
    );
    if entries.is_empty() {
        bail!("{PAGE} has no table of requirements");
    }
    Ok(entries)
}

/// Checks the page.
pub(crate) fn run() -> Result<()> {
    let entries = page_entries()?;
    let (tests, bench) = (all_tests()?, bench_sources()?);
    let mut all: Vec<String> = entries
        .iter()
        .flat_map(|entry| faults(entry, &tests, &bench))
        .collect();
    let mut seen = BTreeSet::new();
    all.extend(
        entries
            .iter()
            .filter(|entry| !seen.insert(&entry.id))
            .map(|entry| format!("{}: twice", entry.id)),
    );
    let without: Vec<&str> = entries
        .iter()
        .filter(|entry| {
            !entry
                .proofs
                .iter()
                .any(|proof| !proof.starts_with("bench "))
        })
        .map(|entry| entry.id.as_str())
        .collect();
    if !without.is_empty() {
        println!("    without a test: {}", without.join(", "));
    }
    let known: BTreeSet<&String> = entries.iter().map(|entry| &entry.id).collect();
    for test in tests
        .iter()
        .filter(|test| !test.place.starts_with("xtask/"))
    {
        for id in test.ids.iter().filter(|id| !known.contains(id)) {
            all.push(format!(
                "{id}: named by `{}`, but not in {PAGE}",
                test.place
            ));
        }
    }
    if !all.is_empty() {
        bail!("{}", all.join("\n"));
    }
    let proofs: usize = entries.iter().map(|entry| entry.proofs.len()).sum();
    println!(
        "    {} requirements, {proofs} proofs, each found",
        entries.len()
    );
    Ok(())
}

/// Places of the tests that name each requirement; the examples in this program's own tests do not count.
fn tests_by_id() -> Result<BTreeMap<String, Vec<String>>> {
    let mut by_id: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for test in all_tests()?
        .into_iter()
        .filter(|test| !test.place.starts_with("xtask/"))
    {
        for id in test.ids {
            by_id.entry(id).or_default().push(test.place.clone());
        }
    }
    Ok(by_id)
}

/// Prints the tests found for each requirement of the page, then those of requirements that it lacks.
pub(crate) fn list() -> Result<()> {
    let mut by_id = tests_by_id()?;
    let page = page_entries()?;
    let ids: Vec<String> = page.into_iter().map(|entry| entry.id).collect();
    let more: Vec<String> = by_id
        .keys()
        .filter(|id| !ids.contains(id))
        .cloned()
        .collect();
    for id in ids.into_iter().chain(more) {
        let tests = by_id.remove(&id).unwrap_or_default();
        println!(
            "{id}: {}",
            if tests.is_empty() {
                "–".to_owned()
            } else {
                tests.join(", ")
            }
        );
    }
    Ok(())
}

/// A line of the table with the tests that were found, its rows of the benchmark kept. What was `not yet` and has a proof
/// now is `partly`; whether it is `done`, and else what is missing, is for people to say.
fn renewed(line: &str, by_id: &BTreeMap<String, Vec<String>>) -> Option<String> {
    let entry = entries_in(line).pop()?;
    let asks = line.split('|').nth(2)?.trim();
    let tests = by_id.get(&entry.id).cloned().unwrap_or_default();
    let bench = entry
        .proofs
        .into_iter()
        .filter(|proof| proof.starts_with("bench "));
    let proofs: Vec<String> = tests
        .into_iter()
        .chain(bench)
        .map(|proof| format!("`{proof}`"))
        .collect();
    let status = match entry.status.as_str() {
        _ if proofs.is_empty() => "not yet",
        "not yet" => "partly",
        status => status,
    };
    Some(format!(
        "| {} | {asks} | {} | {status} |",
        entry.id,
        proofs.join(", ")
    ))
}

/// Puts the tests that were found into the page.
pub(crate) fn write() -> Result<()> {
    let by_id = tests_by_id()?;
    let path = workspace::root().join(PAGE);
    let page =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let lines: Vec<String> = page
        .lines()
        .map(|line| renewed(line, &by_id).unwrap_or_else(|| line.to_owned()))
        .collect();
    std::fs::write(&path, lines.join("\n") + "\n")?;
    println!("wrote {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
        /// CPU-11: shares hold.
        #[test]
        fn shares_hold() {}

        #[tokio::test(flavor = \"multi_thread\")]
        async fn cpu_3_handles_cancel() {}

        /// CPU-9 is mentioned by a helper.
        fn helper() {}

        // A comment that is about something else: CPU-2.
        const X: u32 = 1;
        #[test]
        fn nothing() {}
    ";

    const OWN_HARNESS: &str = "
        pub(crate) const TESTS: &[Test] = &[
            (\"trees::nothing_is_left\", nothing_is_left),
        ];

        /// TASK-11: a helper.
        fn left() {}

        /// TASK-11: all is gone.
        fn nothing_is_left() {}
    ";

    fn ids(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn entry(proofs: &[&str], status: &str) -> Entry {
        Entry {
            id: "CPU-11".to_owned(),
            proofs: proofs.iter().map(|proof| (*proof).to_owned()).collect(),
            status: status.to_owned(),
        }
    }

    #[test]
    fn tests_are_found_with_their_requirements() {
        let tests = tests_in("a.rs", SOURCE);
        let found: Vec<(&str, &BTreeSet<String>)> = tests
            .iter()
            .map(|test| (test.place.as_str(), &test.ids))
            .collect();
        assert_eq!(
            found,
            [
                ("a.rs::shares_hold", &ids(&["CPU-11"])),
                ("a.rs::cpu_3_handles_cancel", &ids(&["CPU-3"])),
                ("a.rs::nothing", &ids(&[])),
            ]
        );
    }

    #[test]
    fn tests_of_a_harness_of_its_own_are_those_it_lists() {
        let found = tests_in("trees.rs", OWN_HARNESS);
        assert_eq!(
            found,
            [Test {
                place: "trees.rs::nothing_is_left".to_owned(),
                ids: ids(&["TASK-11"]),
            }]
        );
    }

    #[test]
    fn ids_end_where_their_digits_end() {
        assert_eq!(
            ids_in("CPU-1 and CPU-12, TASK-11; not XCPU-3, not UTF-8"),
            ids(&["CPU-1", "CPU-12", "TASK-11"])
        );
        assert_eq!(
            ids_in("CFG-1: api_2, MON-2; API-6 (V3)"),
            ids(&["CFG-1", "API-2", "MON-2", "API-6"])
        );
        assert_eq!(
            ids_in("thread_cpu_nanos, cpu_7_round_robin"),
            ids(&["CPU-7"])
        );
    }

    #[test]
    fn the_table_is_read() {
        let page = "| id | asks | proof | status |\n|---|---|---|---|\n| CPU-11 | shares | `a.rs::x`, `bench executor shares/` | partly |\n";
        assert_eq!(
            entries_in(page),
            [entry(&["a.rs::x", "bench executor shares/"], "partly")]
        );
    }

    #[test]
    fn lines_are_renewed_from_the_tests() {
        let by_id = BTreeMap::from([("CPU-11".to_owned(), vec!["a.rs::x".to_owned()])]);
        assert_eq!(
            renewed(
                "| CPU-11 | shares | `gone.rs::y`, `bench executor shares/` | not yet |",
                &by_id
            )
            .unwrap(),
            "| CPU-11 | shares | `a.rs::x`, `bench executor shares/` | partly |"
        );
        assert_eq!(
            renewed("| CPU-12 | places | `gone.rs::y` | done |", &by_id).unwrap(),
            "| CPU-12 | places |  | not yet |"
        );
        assert_eq!(renewed("text", &by_id), None);
    }

    #[test]
    fn claims_without_ground_are_faults() {
        let tests = tests_in("a.rs", SOURCE);
        let count = |proofs: &[&str], status: &str| {
            faults(&entry(proofs, status), &tests, "\"shares/\"").len()
        };
        assert_eq!(
            count(&["a.rs::shares_hold", "bench executor shares/8"], "done"),
            0
        );
        assert_eq!(count(&[], "not yet"), 0);
        assert_eq!(count(&["a.rs::missing"], "done"), 1);
        assert_eq!(
            count(&["a.rs::nothing"], "done"),
            1,
            "it does not name the id"
        );
        assert_eq!(count(&["bench executor nonsense/8"], "done"), 1);
        assert_eq!(count(&[], "done"), 1);
        assert_eq!(count(&["a.rs::shares_hold"], "not yet"), 1);
        assert_eq!(count(&["a.rs::shares_hold"], "perfect"), 1);
        assert_eq!(
            count(&["a.rs::shares_hold"], "partly"),
            1,
            "what is missing is not said"
        );
        assert_eq!(count(&["a.rs::shares_hold"], "partly: no ceilings"), 0);
    }
}
