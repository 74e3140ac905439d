//! Properties: nothing makes the reader fall, and what is printed reads back as the same.

use flyball_core::units;
use proptest::prelude::*;

use super::*;

/// A file that uses most of the syntax, to be damaged.
const FILE: &str = "\
# comment
worker_pool: &pool {min_workers: 2, max_workers: 0x8, target_load: 0.7}
cache:
  ttl: 1h30m
  max_size: \"512MiB\"
alerts:
- {name: 'a', rules: [1, 2.5, true, ~, *pool]}
classes:
  - name: web
    shares: 7
server:
  allowed_hosts: [a, \"b\\u00e9\"]
  log:
    level: >-
      debug
";

/// A valid value of a kind, as it would be written in a file.
fn written(kind: Kind) -> BoxedStrategy<String> {
    match kind {
        Kind::Bool => any::<bool>().prop_map(|value| value.to_string()).boxed(),
        Kind::Integer { min, max } => (min..=max).prop_map(|value| value.to_string()).boxed(),
        Kind::Number { min, max } | Kind::Percent { min, max } => {
            (min..=max).prop_map(|value| value.to_string()).boxed()
        }
        Kind::Size { min, max } => (min..=max, 0u32..50)
            .prop_map(move |(bytes, shift)| units::format_size((bytes >> shift).max(min)))
            .boxed(),
        Kind::Rate { min, max } => (min..=max, 0u32..50)
            .prop_map(move |(bytes, shift)| units::format_rate((bytes >> shift).max(min)))
            .boxed(),
        Kind::Duration { min, max } => (0.0..=1.0f64)
            .prop_map(move |part| {
                let time = min + (max - min).mul_f64(part * part * part);
                units::format_duration(time.min(max))
            })
            .boxed(),
        Kind::Choice(words) => proptest::sample::select(words).prop_map(Into::into).boxed(),
        Kind::Choices(words) => proptest::sample::subsequence(words, 0..=words.len())
            .prop_map(|words| format!("[{}]", words.join(", ")))
            .boxed(),
        Kind::Address => any::<(u8, u16)>()
            .prop_map(|(host, port)| format!("10.0.0.{host}:{port}"))
            .boxed(),
        Kind::Text | Kind::Path => quoted().boxed(),
        Kind::Texts | Kind::Paths => proptest::collection::vec(quoted(), 0..5)
            .prop_map(|items| format!("[{}]", items.join(", ")))
            .boxed(),
        Kind::Classes => proptest::collection::btree_set("[a-z0-9_-]{1,9}", 0..4)
            .prop_map(|names| {
                let classes: Vec<_> = names
                    .into_iter()
                    .map(|name| {
                        format!(
                            "{{name: \"{name}\", shares: 3, latency_target: 90m, guarantee: 0.125}}"
                        )
                    })
                    .collect();
                format!("[{}]", classes.join(", "))
            })
            .boxed(),
        Kind::Counts { max } => proptest::collection::btree_map("[a-z0-9_-]{1,9}", 1..=max, 0..4)
            .prop_map(|counts| serde_json::to_string(&counts).expect("JSON"))
            .boxed(),
        Kind::Maps => (quoted(), quoted(), any::<f64>())
            .prop_map(|(key, text, number)| {
                let map = serde_json::json!([{"n": number, "list": [null, 1, [true]]}]).to_string();
                map.replacen("\"n\"", &format!("{key}: {text}, \"n\""), 1)
            })
            .boxed(),
    }
}

/// Text as a JSON string: any characters but those that are refused.
fn quoted() -> impl Strategy<Value = String> {
    let text = "[^\\p{C}\\u{2028}\\u{2029}]{1,12}";
    text.prop_map(|text| serde_json::Value::from(text).to_string())
}

/// A file with some keys set to valid values.
fn files() -> impl Strategy<Value = String> {
    let one = proptest::sample::select(schema())
        .prop_flat_map(|key| written(key.kind).prop_map(move |text| (key.path, text)));
    proptest::collection::btree_map(0u32..1000, one, 0..12).prop_map(|lines| {
        let mut values = std::collections::BTreeMap::new();
        for (path, text) in lines.into_values() {
            values.insert(path, text);
        }
        // In the order of the keys, the keys of a block stand together.
        let mut root = String::new();
        let mut open = Vec::new();
        for (path, text) in values {
            let mut blocks: Vec<&str> = path.split('.').collect();
            let name = blocks.pop().unwrap_or(path);
            let shared = open.iter().zip(&blocks).take_while(|(a, b)| a == b).count();
            for (depth, block) in blocks.iter().enumerate().skip(shared) {
                root.push_str(&format!("{:1$}{block}:\n", "", depth * 2));
            }
            root.push_str(&format!("{:1$}{name}: {text}\n", "", blocks.len() * 2));
            open = blocks;
        }
        root
    })
}

/// The mistakes of a file must point into it.
fn check_places(text: &[u8], errors: &Errors) -> Result<(), TestCaseError> {
    let lines = String::from_utf8_lossy(text).split(['\n', '\r']).count() as u32;
    prop_assert!(!errors.faults().is_empty());
    for fault in errors.faults() {
        if let Origin::File { line, .. } = fault.origin {
            prop_assert!(line <= lines + 1, "{fault} in {lines} lines");
        }
    }
    let printed = errors.to_string();
    prop_assert!(
        printed.chars().all(|c| c == '\n' || !c.is_control()),
        "{printed:?}"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// CFG-6: what is printed reads back as the same, quantities as they were written.
    #[test]
    fn what_is_printed_reads_back(file in files()) {
        let sources = Sources::new().with_text("flyball.yaml", file.clone());
        let first = load(&sources);
        if let Err(errors) = &first {
            // Each value is right; some do not go together, and commands, checks, throttles and limits have a form of their own.
            let conflicts = errors.faults().iter().all(|fault| {
                matches!(fault.problem, Problem::Conflict { .. }) || ["commands.", "calls.", "scheduler.checks[", "throttling.throttles[", "limits.adaptive["].iter().any(|start| fault.key.starts_with(start))
            });
            prop_assert!(conflicts, "{errors}\n{file}");
        }
        if let Ok(one) = first {
            let yaml = one.to_yaml();
            let two = load(&Sources::new().with_text("shown.yaml", yaml.clone()));
            let two = two.map_err(|errors| TestCaseError::fail(format!("{errors}\n{yaml}")))?;
            let secret = one.config.queue.url.is_some()
                || one.to_json().to_string().contains(layers::SECRET);
            if !secret {
                prop_assert_eq!(&one.config, &two.config);
                prop_assert_eq!(&yaml, &two.to_yaml());
                prop_assert_eq!(one.to_json(), two.to_json());
                let three = Loaded::from_config(&one.config);
                let three = three.map_err(|errors| TestCaseError::fail(errors.to_string()))?;
                prop_assert!(three.changes_to(&one).is_empty());
            }
            let (_, changes) = one.with_changes(&one.to_json(), Origin::Api)
                .unwrap_or_else(|_| (one.clone(), Vec::new()));
            prop_assert!(secret || changes.is_empty(), "{changes:?}");
        }
    }

    /// CFG-1: any bytes are read or refused; nothing falls.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(errors) = load(&Sources::new().with_text("f", bytes.clone())) {
            check_places(&bytes, &errors)?;
        }
    }

    /// CFG-1: the same for texts of the characters that mean something in YAML.
    #[test]
    fn any_syntax(text in "([a-c ]|[-?:,{}&*!|>'\"%@`#~<\\[\\]\\\\]|\n|\r|\t|worker_pool|classes|\n  ){0,60}") {
        if let Err(errors) = load(&Sources::new().with_text("f", text.clone())) {
            check_places(text.as_bytes(), &errors)?;
        }
    }

    /// CFG-1: a damaged file is read or refused, with a place inside it.
    #[test]
    fn damaged_files(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6)) {
        let mut bytes = FILE.as_bytes().to_vec();
        for (index, byte, edit) in edits {
            let at = index.index(bytes.len().max(1));
            if bytes.is_empty() {
                break;
            }
            match edit {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                2 => bytes.insert(at, byte & 0x7f),
                _ => bytes.truncate(at.max(1)),
            }
        }
        if let Err(errors) = load(&Sources::new().with_text("f", bytes.clone())) {
            check_places(&bytes, &errors)?;
        }
    }

    /// CFG-3: any JSON is a change or refused.
    #[test]
    fn any_change(key in proptest::sample::select(schema()), text in "[-0-9a-zA-Z\\[\\]{},:.\" /%]{0,12}") {
        let start = load(&Sources::new()).expect("defaults");
        let value = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
        let mut change = value;
        for name in key.path.rsplit('.') {
            change = serde_json::json!({ name: change });
        }
        if let Ok((next, changes)) = start.with_changes(&change, Origin::Api) {
            prop_assert!(changes.len() <= 1);
            prop_assert_eq!(next.config == start.config, changes.is_empty());
        }
    }
}

/// CFG-1: the file that is damaged above is right.
#[test]
fn the_file_is_right() {
    loaded(FILE);
}
