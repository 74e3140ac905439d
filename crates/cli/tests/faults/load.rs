//! Clients that submit and workers that complete, until the daemon is gone.

use crate::client::Client;
use crate::model::{Keyed, Shared, numbers_of};
use flyball_core::rng::Rng;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// So many tasks may wait; with more, clients only look.
const LIVE: u64 = 400;

/// What a client or worker does once, under its name.
type Role = fn(&Shared, &mut Client, &mut Rng, &str) -> io::Result<()>;

pub(crate) struct Load(Vec<JoinHandle<()>>);

impl Load {
    /// Starts clients and workers of a daemon; they end when it does.
    pub(crate) fn start(shared: &Arc<Shared>, socket: &Path, rng: &mut Rng) -> Load {
        let roles: [Role; 5] = [submit, submit, submit, work, work];
        let threads = roles.into_iter().enumerate().map(|(index, role)| {
            let (shared, socket, rng) = (shared.clone(), PathBuf::from(socket), rng.fork());
            std::thread::spawn(move || run(&shared, &socket, rng, &format!("w{index}"), role))
        });
        Load(threads.collect())
    }

    /// Waits for their end; the daemon is gone.
    pub(crate) fn join(self) {
        for thread in self.0 {
            thread.join().expect("the load does not panic");
        }
    }
}

fn run(shared: &Shared, socket: &Path, mut rng: Rng, name: &str, role: Role) {
    let mut ended = Client::connect(socket);
    while let Ok(client) = &mut ended
        && shared.model().wrong.is_empty()
    {
        if let Err(error) = role(shared, client, &mut rng, name) {
            ended = Err(error);
        }
    }
    // A daemon that is killed closes its connections, or has not taken them yet.
    if let Err(error) = ended
        && !matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
        )
    {
        shared.tell(|model| model.fault(format!("{name}: {error}")));
    }
}

fn new_task(shared: &Shared, rng: &mut Rng) -> Value {
    let number = shared.model().number();
    let pad = "x".repeat(if rng.chance(0.05) {
        20_000
    } else {
        rng.below(300) as usize
    });
    json!({
        "kind": "pull",
        "payload": {"n": number, "pad": pad},
        "timeout_ms": 3_600_000,
        "retry": {"max_attempts": 1000, "base_ms": 1, "cap_ms": 1},
    })
}

/// One request of a client.
fn submit(shared: &Shared, client: &mut Client, rng: &mut Rng, _: &str) -> io::Result<()> {
    if shared.model().live() > LIVE {
        client.get("/v1/tasks?limit=20")?;
        return Ok(());
    }
    let body = if rng.chance(0.3) {
        let mut tasks: Vec<Value> = (0..rng.between(2, 12))
            .map(|_| new_task(shared, rng))
            .collect();
        tasks[0]["ref"] = json!("first");
        if rng.chance(0.5) {
            tasks[1]["after"] = json!(["first"]);
        }
        json!({ "tasks": tasks })
    } else {
        new_task(shared, rng)
    };
    let body = body.to_string();
    let numbers = numbers_of(&body);
    let key = rng.chance(0.4).then(|| format!("key-{:08}", numbers[0]));
    if let Some(key) = &key {
        let keyed = Keyed {
            body: body.clone(),
            ids: None,
        };
        shared.model().keyed.insert(key.clone(), keyed);
    }
    // Sometimes at once again, as a client does that did not hear the answer.
    for _ in 0..if key.is_some() && rng.chance(0.2) {
        2
    } else {
        1
    } {
        let (status, answer) = client.send("POST", "/v1/tasks", key.as_deref(), &body)?;
        shared.tell(|model| match status {
            201 => model.accepted(key.as_deref(), &numbers, &answer),
            _ => model.fault(format!("submitting: {status} {answer}")),
        });
    }
    Ok(())
}

/// One lease of a worker, and what becomes of it.
fn work(shared: &Shared, client: &mut Client, rng: &mut Rng, name: &str) -> io::Result<()> {
    let ask = json!({"worker": name, "kinds": ["pull"], "max": rng.between(1, 20), "lease_ms": 600_000, "wait_ms": 20});
    let (status, answer) = client.post("/v1/tasks/lease", &ask)?;
    if status != 200 {
        shared.tell(|model| model.fault(format!("leasing: {status} {answer}")));
        return Ok(());
    }
    let mut leases = answer["tasks"].as_array().cloned().unwrap_or_default();
    if let Some(last) = leases.pop() {
        // One is kept, given back, or shows a sign of life before its end.
        let (id, token) = (last["id"].as_str().unwrap_or_default(), &last["token"]);
        match rng.below(4) {
            0 => shared.tell(|model| {
                if let Some((id, token, _)) = model.leased(&last) {
                    model.keep_lease(id, token);
                }
            }),
            1 => {
                client.post(&format!("/v1/tasks/{id}/release"), &json!({"token": token}))?;
            }
            2 => {
                let beat =
                    json!({"token": token, "progress_percent": 50, "checkpoint": {"at": id}});
                client.post(&format!("/v1/tasks/{id}/heartbeat"), &beat)?;
                leases.push(last);
            }
            _ => leases.push(last),
        }
    }
    if leases.is_empty() {
        return Ok(());
    }
    finish(shared, client, &leases)
}

/// Completes what was leased, in one request, and tries the tokens once more where they must be void.
pub(crate) fn finish(shared: &Shared, client: &mut Client, leases: &[Value]) -> io::Result<()> {
    let mut ends = Vec::new();
    shared.tell(|model| {
        for lease in leases {
            if let Some((id, token, number)) = model.leased(lease) {
                model.asks(id, &token);
                ends.push((id, token, number));
            }
        }
    });
    let items: Vec<Value> = ends
        .iter()
        .map(|(id, token, number)| {
            json!({"id": id.to_string(), "token": token, "result": {"by": token, "n": number}})
        })
        .collect();
    let (status, answer) = client.post("/v1/tasks/finish", &json!({ "tasks": items }))?;
    let answers = answer["tasks"].as_array().cloned().unwrap_or_default();
    shared.tell(|model| {
        if status != 200 || answers.len() != ends.len() {
            model.fault(format!("finishing: {status} {answer}"));
            return;
        }
        for ((id, token, _), answer) in ends.iter().zip(&answers) {
            model.finished(*id, token, answer);
        }
    });
    if let Some((id, token, _)) = ends.first() {
        let again = json!({"token": token, "result": {"by": "nobody"}});
        let (status, answer) = client.post(&format!("/v1/tasks/{id}/complete"), &again)?;
        if status != 409 {
            shared.tell(|model| model.fault(format!("completed twice: {status} {answer}")));
        }
    }
    Ok(())
}
