//! Small tests of the schema; what people see is tested from outside, in `tests/it`.

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
