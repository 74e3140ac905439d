//! Rows come back as they were written, and damage is found.

use crate::embedded::code::wire::{Column, Put, Sealed, Take, Unsealed};
use crate::embedded::code::{body, head, meta, note, record, state_code, state_of};
use crate::{CommandSpec, HttpSpec, IoPriority, Limit, Run, Usage};
use bytes::Bytes;
use flyball_core::time::WallTime;
use flyball_policy::queue::{
    Attempts, Cron, Dependency, GroupEnd, Head, LeaseRecord, MetaChange, Missed, Needs,
    OnParentFailure, Overlap, Pause, Reason, Record, Remembered, RetryPolicy, Scope, State, TaskId,
    Token, Unique, UniqueConflict, Via, When,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

fn text() -> impl Strategy<Value = Box<str>> {
    ".{0,20}".prop_map(String::into_boxed_str)
}

fn wall() -> impl Strategy<Value = WallTime> {
    any::<u64>().prop_map(WallTime::from_unix_nanos)
}

fn nanos() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![Just(When::Success), Just(When::Failure), Just(When::Any)]
}

fn cron() -> impl Strategy<Value = Cron> {
    let overlap = prop_oneof![
        Just(Overlap::Skip),
        Just(Overlap::Queue),
        Just(Overlap::Replace)
    ];
    let missed = prop_oneof![Just(Missed::Skip), Just(Missed::Once), Just(Missed::All)];
    (text(), text(), overlap, missed, nanos()).prop_map(
        |(expression, time_zone, overlap, missed, grace)| Cron {
            expression,
            time_zone,
            overlap,
            missed,
            grace,
        },
    )
}

fn heads() -> impl Strategy<Value = Head> {
    let first = (
        text(),
        prop_oneof![Just(Via::Command), Just(Via::Http), Just(Via::Handler)],
        text(),
        any::<i32>(),
        of(wall()),
        of(wall()),
        of(cron()),
        of(nanos()),
    );
    let retry = (any::<u32>(), nanos(), nanos());
    let parents = vec((any::<u64>(), when()), 0..4);
    let needs = (
        any::<u32>(),
        any::<u64>(),
        vec((text(), any::<u32>()), 0..3),
    );
    let conflict = prop_oneof![
        Just(UniqueConflict::Keep),
        Just(UniqueConflict::Replace),
        Just(UniqueConflict::Extend)
    ];
    let rest = (
        any::<bool>(),
        of(text()),
        of(text()),
        of((text(), conflict)),
        of(text()),
        of((text(), when())),
    );
    (first, retry, parents, needs, rest).prop_map(|(first, retry, parents, needs, rest)| Head {
        kind: first.0,
        via: first.1,
        class: first.2,
        priority: first.3,
        deadline: first.4,
        not_before: first.5,
        cron: first.6.map(Box::new),
        timeout: first.7,
        retry: RetryPolicy {
            max_attempts: retry.0,
            base: retry.1,
            cap: retry.2,
        },
        after: parents
            .into_iter()
            .map(|(parent, when)| Dependency {
                parent: TaskId(parent),
                when,
            })
            .collect(),
        on_parent_failure: if rest.0 {
            OnParentFailure::Fail
        } else {
            OnParentFailure::Skip
        },
        needs: Needs {
            cpu_millis: needs.0,
            memory_bytes: needs.1,
            resources: needs.2,
        },
        affinity_key: rest.1,
        key: rest.2,
        unique: rest
            .3
            .map(|(key, on_conflict)| Box::new(Unique { key, on_conflict })),
        group: rest.4,
        after_group: rest
            .5
            .map(|(group, when)| Box::new(GroupEnd { group, when })),
    })
}

fn reasons() -> impl Strategy<Value = Reason> {
    prop_oneof![
        Just(Reason::Error),
        Just(Reason::TimedOut),
        Just(Reason::DeadlineMissed),
        Just(Reason::Panicked),
        Just(Reason::LeaseExpired),
        Just(Reason::Crashed),
        Just(Reason::Parent),
        Just(Reason::Replaced),
    ]
}

fn records() -> impl Strategy<Value = Record> {
    let lease = (any::<u32>(), any::<u64>(), text(), wall(), nanos()).prop_map(
        |(epoch, number, worker, expires_at, length)| LeaseRecord {
            token: Token { epoch, number },
            worker,
            expires_at,
            length,
        },
    );
    let first = (
        0..State::ALL.len(),
        of(reasons()),
        any::<u32>(),
        any::<u32>(),
        wall(),
        of(wall()),
        of(nanos()),
        of(wall()),
        of(wall()),
    );
    let flags = (any::<[bool; 5]>(), vec(any::<u64>(), 0..4));
    (first, of(lease), flags, of(any::<u64>()), of(wall())).prop_map(
        |(first, lease, flags, cron_of, ticked)| Record {
            state: State::ALL[first.0],
            reason: first.1,
            attempts: Attempts {
                started: first.2,
                counted: first.3,
            },
            created_at: first.4,
            ready_at: first.5,
            backoff: first.6,
            started_at: first.7,
            ended_at: first.8,
            lease,
            cancel_requested: flags.0[0],
            again: flags.0[1],
            retried: flags.0[2],
            holds_unique: flags.0[3],
            waits_for: flags.1.into_iter().map(TaskId).collect(),
            waits_for_group: flags.0[4],
            cron_of: cron_of.map(TaskId),
            ticked,
        },
    )
}

fn words() -> impl Strategy<Value = Vec<OsString>> {
    vec(vec(any::<u8>(), 0..10).prop_map(OsString::from_vec), 0..5)
}

fn runs() -> impl Strategy<Value = Run> {
    let command = (
        words(),
        of(vec(any::<u8>(), 0..10)),
        words(),
        any::<[bool; 3]>(),
        of(any::<u32>()),
        any::<i32>(),
        of(of(any::<u8>())),
        vec(any::<u16>(), 0..3),
        vec((0..Limit::ALL.len(), any::<u64>()), 0..3),
    )
        .prop_map(
            |(argv, cwd, env, flags, umask, nice, turn, affinity, limits)| {
                Run::Command(Box::new(CommandSpec {
                    argv,
                    cwd: cwd.map(|bytes| OsString::from_vec(bytes).into()),
                    env: env
                        .into_iter()
                        .map(|value| ("NAME".into(), value))
                        .collect(),
                    clear_env: flags[0],
                    umask,
                    nice,
                    io_priority: turn
                        .map(|level| level.map_or(IoPriority::Idle, IoPriority::BestEffort)),
                    affinity,
                    limits: limits
                        .into_iter()
                        .map(|(limit, value)| (Limit::ALL[limit], value))
                        .collect(),
                    retry_on_failure: flags[1],
                    local: flags[2],
                }))
            },
        );
    let call = (
        text(),
        text(),
        vec((text(), text()), 0..3),
        of(vec(any::<u8>(), 0..50)),
        of(text()),
        any::<(bool, bool)>(),
    )
        .prop_map(
            |(method, url, headers, body, dependency, (hedge, remote))| {
                Run::Http(Box::new(HttpSpec {
                    method: method.into(),
                    url: url.into(),
                    headers: headers
                        .into_iter()
                        .map(|(name, value)| (name.into(), value.into()))
                        .collect(),
                    body: body.map(Bytes::from),
                    dependency,
                    hedge,
                    remote,
                }))
            },
        );
    prop_oneof![Just(Run::Handler), command, call]
}

fn sealed(head: &Head, body: &body::Body, id: TaskId) -> Sealed {
    Unsealed::new(
        100,
        |put| head::write(put, head),
        |put| body::write(put, &body.run, &body.payload, &body.labels, &body.secrets),
    )
    .seal(id)
}

fn bodies() -> impl Strategy<Value = body::Body> {
    (
        runs(),
        vec(any::<u8>(), 0..300),
        vec((text(), text()), 0..4),
        vec(text(), 0..3),
    )
        .prop_map(|(run, payload, labels, secrets)| body::Body {
            run,
            payload: Bytes::from(payload),
            labels,
            secrets,
        })
}

proptest! {
    /// TASK-3: heads and bodies come back as they were given.
    #[test]
    fn heads_and_bodies_come_back(head in heads(), body in bodies(), id in any::<u64>()) {
        let id = TaskId(id);
        let rows = sealed(&head, &body, id);
        prop_assert_eq!(&head::decode(rows.head(), id).unwrap(), &head);
        prop_assert_eq!(&body::labels(rows.body(), id).unwrap(), &body.labels);
        prop_assert_eq!(body::decode(&rows.body_bytes(), id).unwrap(), body);
    }

    /// TASK-3: so do records.
    #[test]
    fn records_come_back(expected in records(), id in any::<u64>()) {
        let id = TaskId(id);
        let mut row = vec![1, 2, 3];
        record::encode(&mut row, &expected, id);
        prop_assert_eq!(record::decode(&row[3..], id).unwrap(), expected);
    }

    /// TASK-4: and what attempts leave.
    #[test]
    fn notes_come_back(
        attempt in any::<u32>(),
        percent in of(0.0f32..=100.0),
        message in of(text()),
        blob in vec(any::<u8>(), 0..100),
        error in text(),
        numbers in any::<[Option<u32>; 6]>(),
        result in of(vec(any::<u8>(), 0..100)),
    ) {
        let id = TaskId(7);
        let progress = note::Progress { attempt, percent, message };
        let mut row = Vec::new();
        note::encode_progress(&mut row, &progress, id);
        prop_assert_eq!(note::decode_progress(&row, id).unwrap(), progress);
        let mut row = Vec::new();
        note::encode_checkpoint(&mut row, &blob, id);
        prop_assert_eq!(note::decode_checkpoint(&Bytes::from(row), id).unwrap(), blob);
        let mut row = Vec::new();
        note::encode_failure(&mut row, &error, id);
        prop_assert_eq!(note::decode_failure(&row, id).unwrap(), error);
        let usage = Usage {
            cpu: numbers[0].map(|nanos| Duration::from_nanos(nanos.into())),
            peak_memory_bytes: numbers[1].map(u64::from),
            read_bytes: numbers[2].map(u64::from),
            written_bytes: numbers[3].map(u64::from),
            exit_status: numbers[4].map(|status| status as i32),
            signal: numbers[5].map(|signal| signal as i32),
        };
        let mut row = Vec::new();
        note::encode_outcome(&mut row, &usage, result.as_deref(), id);
        let outcome = note::decode_outcome(&Bytes::from(row), id).unwrap();
        prop_assert_eq!(outcome.usage, usage);
        prop_assert_eq!(outcome.result, result.map(Bytes::from));
    }

    /// TASK-1: any flipped bit, any cut, and a row under another id or in another column are found.
    #[test]
    fn damage_is_found(expected in records(), id in any::<u64>(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let id = TaskId(id);
        let mut row = Vec::new();
        record::encode(&mut row, &expected, id);
        let at = at.index(row.len());
        prop_assert!(record::decode(&row[..at], id).is_err());
        prop_assert!(record::decode(&row, TaskId(id.0 ^ 1)).is_err());
        prop_assert!(Take::open(&row, Column::Head, id).is_err());
        row[at] ^= 1 << bit;
        prop_assert!(record::decode(&row, id).is_err());
    }

    /// TASK-1: bytes that were never a row are refused, whatever they are, also with a checksum that fits.
    #[test]
    fn noise_is_refused_or_read_without_panic(noise in vec(any::<u8>(), 0..200)) {
        let id = TaskId(1);
        prop_assert!(head::decode(&noise, id).is_err());
        let seal = |column: Column| {
            let mut row = Vec::new();
            let mut put = Put::new(&mut row);
            put.rest(&noise);
            put.seal(column, id);
            Bytes::from(row)
        };
        let _ = head::decode(&seal(Column::Head), id);
        let _ = record::decode(&seal(Column::Record), id);
        let _ = body::decode(&seal(Column::Body), id);
        let _ = note::decode_progress(&seal(Column::Beat), id);
        let _ = note::decode_outcome(&seal(Column::Outcome), id);
    }
}

/// TASK-6: what is kept beside tasks comes back under its key.
#[test]
fn what_is_beside_tasks_comes_back() {
    let at = WallTime::from_unix_nanos(5);
    let pause = || {
        Some(Pause {
            by: "me".into(),
            since: at,
        })
    };
    for change in [
        MetaChange::Pause(Scope::All, pause()),
        MetaChange::Pause(Scope::Class("c".into()), pause()),
        MetaChange::Pause(Scope::Kind("".into()), pause()),
        MetaChange::Idempotency(
            "key".into(),
            Some(Remembered {
                fingerprint: [9; 32],
                tasks: vec![(TaskId(1), None), (TaskId(2), Some(State::Dead))],
                at,
            }),
        ),
        MetaChange::Group("g".into(), Some([1, 2, 3, 4, u64::MAX])),
        MetaChange::LastId(TaskId(u64::MAX)),
    ] {
        let key = meta::key(&change);
        let mut row = Vec::new();
        meta::encode(&mut row, &change, &key);
        assert_eq!(
            meta::decode(&key, &row).unwrap(),
            meta::Meta::Queue(change.clone())
        );
        assert!(meta::keeps(&change));
        assert!(meta::decode(b"\x03other", &row).is_err());
    }
    assert!(!meta::keeps(&MetaChange::Pause(Scope::All, None)));
}

#[test]
fn every_state_has_a_number_of_its_own() {
    for state in State::ALL {
        assert_eq!(state_of(state_code(state)).unwrap(), state);
    }
    assert!(state_of(10).is_err());
}
