//! What is known of tasks from answers alone, and whether a daemon agrees with it.

use crate::client::Client;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};

/// A task that was accepted.
#[derive(Debug, Default)]
struct Known {
    number: u64,
    /// Tokens with which its completion was asked for: one of them may have been heard.
    asked: BTreeSet<String>,
    /// The token whose completion was acknowledged.
    done: Option<String>,
}

/// A request that can be repeated.
#[derive(Debug, Clone)]
pub(crate) struct Keyed {
    pub(crate) body: String,
    /// What was answered.
    pub(crate) ids: Option<Vec<u64>>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    tasks: BTreeMap<u64, Known>,
    /// Those of this life, and some of before, which the next look must find.
    touched: BTreeSet<u64>,
    pub(crate) keyed: BTreeMap<String, Keyed>,
    /// Leases that were not ended.
    held: Vec<(u64, String)>,
    /// Commands of which nothing is asked but that they are there.
    commands: BTreeSet<u64>,
    next: u64,
    /// Acknowledgements since the life began, and of all time.
    acknowledged: u64,
    pub(crate) accepted: u64,
    pub(crate) completed: u64,
    pub(crate) refused_tokens: u64,
    /// What is wrong.
    pub(crate) wrong: Vec<String>,
}

/// The model that all share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    model: Mutex<Model>,
    news: Condvar,
}

impl Shared {
    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }

    pub(crate) fn tell(&self, what: impl FnOnce(&mut Model)) {
        what(&mut self.model());
        self.news.notify_all();
    }

    /// Waits until so much was acknowledged in this life, or until `otherwise`, asked at each acknowledgement.
    pub(crate) fn wait_for(&self, acknowledged: u64, mut otherwise: impl FnMut() -> bool) {
        let mut model = self.model();
        let mut patience = 0;
        while model.acknowledged < acknowledged && model.wrong.is_empty() && !otherwise() {
            let before = model.acknowledged;
            let tick = std::time::Duration::from_millis(5);
            let waited = self.news.wait_timeout(model, tick);
            model = waited.unwrap_or_else(|broken| broken.into_inner()).0;
            patience = if model.acknowledged == before {
                patience + 1
            } else {
                0
            };
            assert!(patience < 20_000, "nothing is acknowledged any more");
        }
    }
}

fn id_of(value: &Value) -> u64 {
    let text = value["id"].as_str().unwrap_or_default();
    text.parse().unwrap_or_else(|_| panic!("no id: {value}"))
}

impl Model {
    /// A number that no other task has.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn live(&self) -> u64 {
        self.accepted.saturating_sub(self.completed)
    }

    pub(crate) fn fault(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// Tasks were accepted; `numbers` in their order.
    pub(crate) fn accepted(&mut self, key: Option<&str>, numbers: &[u64], answer: &Value) {
        let tasks = match answer["tasks"].as_array() {
            Some(tasks) => tasks.iter().map(id_of).collect(),
            None => vec![id_of(answer)],
        };
        if tasks.len() != numbers.len() {
            self.fault(format!(
                "{} tasks asked for, answered {answer}",
                numbers.len()
            ));
            return;
        }
        self.acknowledged += 1;
        if let Some(key) = key {
            let keyed = self.keyed.get_mut(key).expect("a key that was used");
            match &keyed.ids {
                Some(before) if *before != tasks => {
                    let what = format!("key {key} was answered {before:?}, now {tasks:?}");
                    self.fault(what);
                    return;
                }
                Some(_) => return,
                None => keyed.ids = Some(tasks.clone()),
            }
        }
        for (id, number) in tasks.into_iter().zip(numbers) {
            match self.tasks.get(&id) {
                Some(known) if known.number != 0 && known.number != *number => {
                    let what = format!("id {id} was given to {} and {number}", known.number);
                    self.fault(what);
                }
                Some(_) => {}
                None => self.accepted += 1,
            }
            self.tasks.entry(id).or_default().number = *number;
            self.touched.insert(id);
        }
    }

    pub(crate) fn command_accepted(&mut self, answer: &Value) {
        self.acknowledged += 1;
        self.commands.insert(id_of(answer));
    }

    /// A lease was handed out.
    pub(crate) fn leased(&mut self, lease: &Value) -> Option<(u64, String, u64)> {
        let id = id_of(lease);
        let token = lease["token"].as_str().unwrap_or_default().to_owned();
        let number = lease["payload"]["n"].as_u64().unwrap_or(0);
        if number == 0 || number > self.next {
            self.fault(format!("leased with a payload that nobody sent: {lease}"));
            return None;
        }
        // A submission whose answer was lost is heard of here first.
        let known = self.tasks.entry(id).or_insert_with(|| {
            self.accepted += 1;
            Known::default()
        });
        if known.number == 0 {
            known.number = number;
        }
        let (expected, done) = (known.number, known.done.clone());
        if expected != number {
            self.fault(format!(
                "task {id} is number {expected}, leased as {number}"
            ));
        }
        if let Some(done) = done {
            self.fault(format!(
                "task {id} was acknowledged with {done} and leased again: {lease}"
            ));
        }
        Some((id, token, number))
    }

    pub(crate) fn keep_lease(&mut self, id: u64, token: String) {
        self.held.push((id, token));
    }

    pub(crate) fn asks(&mut self, id: u64, token: &str) {
        if let Some(known) = self.tasks.get_mut(&id) {
            known.asked.insert(token.to_owned());
            self.touched.insert(id);
        }
    }

    /// The completion was acknowledged, or refused.
    pub(crate) fn finished(&mut self, id: u64, token: &str, answer: &Value) {
        if answer["state"] != "completed" {
            self.fault(format!(
                "task {id} with {token} of this life was refused: {answer}"
            ));
            return;
        }
        self.acknowledged += 1;
        let known = self.tasks.get_mut(&id).expect("a task that was leased");
        match known.done.replace(token.to_owned()) {
            None => self.completed += 1,
            Some(before) => {
                let what = format!("task {id} was acknowledged with {before} and with {token}");
                self.fault(what);
            }
        }
    }

    fn look_at(&mut self, id: u64, found: &Value) {
        let Some(known) = self.tasks.get_mut(&id) else {
            return;
        };
        let number = found["payload"]["n"].as_u64().unwrap_or(0);
        let state = found["state"].as_str().unwrap_or_default();
        let by = found["result"]["by"].as_str();
        let mut wrong = None;
        if number != known.number {
            wrong = Some("has another payload");
        } else if let Some(done) = &known.done {
            if state != "completed" {
                wrong = Some("is back though it was acknowledged");
            } else if by != Some(done) {
                wrong = Some("has the result of another attempt");
            }
        } else if state == "completed" {
            // Heard, though the answer was lost.
            match by {
                Some(by) if known.asked.contains(by) => {
                    known.done = Some(by.to_owned());
                    self.completed += 1;
                }
                _ => wrong = Some("is completed by nobody who asked for it"),
            }
        } else if !matches!(state, "pending" | "blocked" | "scheduled" | "running") {
            wrong = Some("ended otherwise");
        }
        if let Some(wrong) = wrong {
            let known = format!("{known:?}");
            self.fault(format!("task {id} {wrong}: {known}, found {found}"));
        }
    }

    /// Forgets which tokens are held: the daemon ended, so that all of them are void.
    fn void(&mut self) -> Vec<(u64, String)> {
        let mut tokens = std::mem::take(&mut self.held);
        for id in &self.touched {
            let known = &self.tasks[id];
            tokens.extend(known.asked.iter().map(|token| (*id, token.clone())));
        }
        tokens.truncate(40);
        tokens
    }
}

/// Compares a daemon that just came up with what was acknowledged before: all of it, or what was touched in the last life. Faults are kept in the model.
pub(crate) fn compare(shared: &Shared, client: &mut Client, all: bool) -> io::Result<()> {
    let void = shared.model().void();
    for (id, token) in void {
        let body = json!({"token": token, "result": {"by": "nobody"}});
        let (status, answer) = client.post(&format!("/v1/tasks/{id}/complete"), &body)?;
        let mut model = shared.model();
        match status {
            409 => model.refused_tokens += 1,
            _ => model.fault(format!(
                "stale token {token} of task {id}: {status} {answer}"
            )),
        }
    }
    let repeated: Vec<(String, Keyed)> = {
        let model = shared.model();
        let newest = model.keyed.iter().rev().take(8);
        let lost = model.keyed.iter().filter(|(_, keyed)| keyed.ids.is_none());
        lost.chain(newest)
            .map(|(key, keyed)| (key.clone(), keyed.clone()))
            .collect()
    };
    for (key, keyed) in repeated {
        let numbers = numbers_of(&keyed.body);
        let (status, answer) = client.send("POST", "/v1/tasks", Some(&key), &keyed.body)?;
        let mut model = shared.model();
        match status {
            201 => model.accepted(Some(&key), &numbers, &answer),
            _ => model.fault(format!("repeating {key}: {status} {answer}")),
        }
    }
    let mut missing: BTreeSet<u64> = {
        let model = shared.model();
        if all {
            let keys = model.tasks.keys().chain(&model.commands);
            keys.copied().collect()
        } else {
            model
                .touched
                .iter()
                .chain(&model.commands)
                .copied()
                .collect()
        }
    };
    let oldest = missing.first().copied();
    let mut cursor = String::new();
    while !missing.is_empty() {
        let (status, page) = client.get(&format!("/v1/tasks?limit=1000{cursor}"))?;
        let mut model = shared.model();
        if status != 200 || page["damaged"].is_array() {
            model.fault(format!("the list cannot be read: {status} {page}"));
            break;
        }
        let items = page["items"].as_array().cloned().unwrap_or_default();
        for item in &items {
            let id = id_of(item);
            missing.remove(&id);
            model.look_at(id, item);
        }
        let passed = items.last().map(id_of) < oldest;
        match page["next_cursor"].as_str() {
            Some(next) if !passed => cursor = format!("&cursor={next}"),
            _ => break,
        }
    }
    let mut model = shared.model();
    if !missing.is_empty() {
        let count = missing.len();
        let some: Vec<u64> = missing.into_iter().take(10).collect();
        model.fault(format!("{count} accepted tasks are lost: {some:?}, …"));
    }
    model.touched.clear();
    model.commands.clear();
    model.acknowledged = 0;
    Ok(())
}

/// The numbers of the tasks of a body.
pub(crate) fn numbers_of(body: &str) -> Vec<u64> {
    let body: Value = serde_json::from_str(body).expect("a body of ours");
    let number = |task: &Value| task["payload"]["n"].as_u64().expect("a number");
    match &body {
        Value::Array(tasks) => tasks.iter().map(number).collect(),
        Value::Object(fields) => match fields.get("tasks").and_then(Value::as_array) {
            Some(tasks) => tasks.iter().map(number).collect(),
            None => vec![number(&body)],
        },
        _ => Vec::new(),
    }
}

/// Completes all that is left, and says whether each task was completed. What a crash interrupted starts again within half a minute.
pub(crate) fn drain(shared: &Shared, client: &mut Client) -> io::Result<()> {
    let mut patience = 40;
    loop {
        let ask = json!({"worker": "last", "kinds": ["pull"], "max": 500, "lease_ms": 600_000, "wait_ms": 0});
        let (status, answer) = client.post("/v1/tasks/lease", &ask)?;
        assert_eq!(status, 200, "{answer}");
        let leases = answer["tasks"].as_array().cloned().unwrap_or_default();
        if leases.is_empty() {
            let (status, page) = client.get("/v1/tasks?kind=pull&state=scheduled&limit=1")?;
            assert_eq!(status, 200, "{page}");
            if patience == 0 || page["items"].as_array().is_some_and(Vec::is_empty) {
                break;
            }
            patience -= 1;
            crate::let_pass(std::time::Duration::from_secs(1));
            continue;
        }
        crate::load::finish(shared, client, &leases)?;
        if !shared.model().wrong.is_empty() {
            return Ok(());
        }
    }
    let mut model = shared.model();
    let open: Vec<u64> = model
        .tasks
        .iter()
        .filter(|(_, known)| known.done.is_none())
        .map(|(id, _)| *id)
        .collect();
    if !open.is_empty() {
        let count = open.len();
        model.fault(format!(
            "{count} tasks never ran: {:?}",
            &open[..count.min(10)]
        ));
    }
    Ok(())
}
