//! Tests of the schema itself; the modules below test what people write and see.

use std::collections::BTreeSet;

use super::*;

/// CFG-1: every default is valid by its own row, every key has a line, and the typed configuration reads them all.
#[test]
fn the_schema_is_sound() {
    let config = Config::default();
    assert_eq!(config.worker_pool.min_workers, 2);
    for key in schema().iter().chain(class_keys()) {
        let about = key.about();
        assert!(
            about.ends_with('.') && about.len() > 10,
            "{}: {about:?}",
            key.path
        );
        assert!(!about.contains('|'), "{}: would break the table", key.path);
    }
    let paths: BTreeSet<_> = schema().iter().map(|key| key.path).collect();
    assert_eq!(paths.len(), schema().len(), "a key is there twice");
    assert_eq!(
        Config::read(layers::defaults()).write(),
        *layers::defaults()
    );
}

/// CFG-2: no two keys, under none of their names, share an environment variable, and none is reserved.
#[test]
fn environment_names_are_unambiguous() {
    let names = schema().iter().map(|key| key.path);
    let mut seen = BTreeSet::from(RESERVED.map(String::from));
    for path in names.chain(ALIASES.iter().map(|alias| alias.path)) {
        assert!(seen.insert(schema::environment(path)), "{path}");
    }
    let key = key("worker_pool.min_workers").expect("a key");
    assert_eq!(key.environment(), "FLYBALL_WORKER_POOL_MIN_WORKERS");
}

/// What is wrong with this file, as people see it.
fn refused(text: impl Into<Vec<u8>>) -> String {
    let loaded = load(&Sources::new().with_text("flyball.yaml", text));
    loaded.expect_err("a mistake").to_string()
}

/// This file, which is right.
fn loaded(text: impl Into<Vec<u8>>) -> Loaded {
    let sources = Sources::new().with_text("flyball.yaml", text);
    load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
}

mod bad;
mod change;
mod good;
mod hostile;
