//! What a test stands on: an executor, a queue in memory, and what runs its tasks.

use crate::fake::Fake;
use bytes::Bytes;
use flyball_executor::{BackPriority, Config, Executor};
use flyball_policy::sched::Algorithm;
use flyball_process::{Options, Slots, SpawnServer};
use flyball_tasks::run::{Handlers, Parts, RunSettings, Runners};
use flyball_tasks::{
    CommandSpec, Embedded, EmbeddedOptions, Head, HttpSpec, Needs, NewTask, OnParentFailure,
    RetryPolicy, Run, SystemClocks, Via,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static FOLDERS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Stage {
    /// First, so that it ends before what it stands on.
    pub(crate) runners: Runners,
    pub(crate) queue: Arc<Fake>,
    pub(crate) handlers: Arc<Handlers>,
    pub(crate) slots: Slots,
    pub(crate) folder: PathBuf,
    _server: SpawnServer,
    pub(crate) executor: Arc<Executor>,
}

impl Stage {
    /// Two process slots.
    pub(crate) fn new(settings: RunSettings) -> Stage {
        Stage::with_slots(settings, 2)
    }

    pub(crate) fn with_slots(settings: RunSettings, slots: u32) -> Stage {
        let executor = executor();
        let server = SpawnServer::start(Options::default()).unwrap();
        let slots = Slots::new(&server, slots, Algorithm::Cfs);
        for spec in flyball_core::class::ClassSpec::built_in() {
            slots.insert(spec).unwrap();
        }
        let folder = folder();
        let (queue, handlers) = (Arc::new(Fake::default()), Handlers::new());
        let classes = Arc::clone(&executor);
        let mut parts = Parts::new(
            Arc::new(move |name| {
                assert!(name != "cursed", "the test says so");
                classes.class(name).ok()
            }),
            Arc::clone(&handlers),
        );
        parts.slots = Ok(slots.clone());
        parts.outputs = folder.join("outputs");
        parts.settings = settings;
        let its = Arc::clone(&queue);
        Stage {
            runners: Runners::start(its, parts).unwrap(),
            queue,
            handlers,
            slots,
            folder,
            _server: server,
            executor,
        }
    }

    /// What standard output a task's last attempt wrote.
    pub(crate) fn stdout(&self, id: flyball_tasks::TaskId) -> Vec<u8> {
        let outputs = self.runners.outputs().unwrap();
        let mut reader = outputs
            .reader(id, flyball_tasks::run::Stream::Stdout, 0)
            .unwrap();
        let mut bytes = vec![0; 1 << 20];
        let count = reader.read(&mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    }

    /// Waits until nothing runs and nothing is reserved any more.
    pub(crate) fn wait_idle(&self) {
        // The end is written before what it held is given back; a drain ends with that.
        let drained = self.runners.drain_blocking(Duration::from_secs(60));
        assert_eq!(drained.stuck, 0);
        assert!(self.runners.running().is_empty());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The embedded queue of a folder, and runners over it with these handlers, nothing else.
pub(crate) fn embedded(
    folder: &std::path::Path,
    handlers: &Arc<Handlers>,
) -> (Runners, Arc<Embedded>, Arc<Executor>) {
    let options = EmbeddedOptions::new(folder.join("store"));
    let queue = Arc::new(Embedded::open(options, Arc::new(SystemClocks)).unwrap());
    let executor = executor();
    let classes = Arc::clone(&executor);
    let mut parts = Parts::new(
        Arc::new(move |name| classes.class(name).ok()),
        Arc::clone(handlers),
    );
    parts.settings = quiet();
    let its = Arc::clone(&queue);
    (Runners::start(its, parts).unwrap(), queue, executor)
}

pub(crate) fn executor() -> Arc<Executor> {
    let config = Config {
        parallelism: 2,
        back_priority: BackPriority::Normal,
        start_delay: Duration::ZERO,
        ..Config::default()
    };
    Arc::new(Executor::start(config).unwrap())
}

pub(crate) fn folder() -> PathBuf {
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("flyball-run-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// No sign of life for twenty minutes: whatever shows sooner does not come from one.
pub(crate) fn quiet() -> RunSettings {
    let mut settings = RunSettings::default();
    settings.lease = Duration::from_secs(3600);
    settings
}

pub(crate) fn head(kind: &str, via: Via, class: &str) -> Head {
    Head {
        kind: kind.into(),
        via,
        class: class.into(),
        priority: 0,
        deadline: None,
        not_before: None,
        cron: None,
        timeout: None,
        retry: RetryPolicy {
            max_attempts: 1,
            base: Duration::ZERO,
            cap: Duration::ZERO,
        },
        after: Vec::new(),
        on_parent_failure: OnParentFailure::Skip,
        needs: Needs::default(),
        affinity_key: None,
        key: None,
        unique: None,
        group: None,
        after_group: None,
    }
}

fn task(head: Head, run: Run, payload: &str) -> NewTask {
    NewTask {
        head,
        after: Vec::new(),
        reference: None,
        run,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        labels: Vec::new(),
        secrets: Vec::new(),
    }
}

pub(crate) fn handled(kind: &str, payload: &str) -> NewTask {
    task(head(kind, Via::Handler, "normal"), Run::Handler, payload)
}

pub(crate) fn command(spec: CommandSpec) -> NewTask {
    task(
        head("command", Via::Command, "normal"),
        Run::Command(Box::new(spec)),
        "null",
    )
}

/// For the local user.
pub(crate) fn shell(script: &str) -> NewTask {
    command(local(&["sh", "-c", script]))
}

pub(crate) fn local(argv: &[&str]) -> CommandSpec {
    CommandSpec {
        argv: argv.iter().map(Into::into).collect(),
        local: true,
        ..CommandSpec::default()
    }
}

pub(crate) fn call(url: &str) -> NewTask {
    let spec = HttpSpec {
        method: "GET".to_owned(),
        url: url.to_owned(),
        headers: Vec::new(),
        body: None,
        dependency: None,
        hedge: false,
        remote: false,
    };
    task(
        head("call", Via::Http, "normal"),
        Run::Http(Box::new(spec)),
        "null",
    )
}

pub(crate) fn spec_of(task: &mut NewTask) -> &mut HttpSpec {
    match &mut task.run {
        Run::Http(spec) => spec,
        _ => panic!("it is a call"),
    }
}
