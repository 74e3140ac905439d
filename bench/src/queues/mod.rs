//! Queues of tasks that outlive crashes: flyball's beside those that people use, all syncing before they say yes, on one disk.
//!
//! A sample starts the queue on an empty folder, fills it where tasks are to be taken out, lets closed-loop clients ask for a while and counts what was
//! done. The generator is one thread that speaks all protocols itself; its CPU time stands beside the figure, as does the server's.
//!
//! Left out: failing disks and power cuts, which are the business of tests.

pub mod load;
mod servers;

use crate::cases::Sample;
use crate::machine::{Company, Window};
use crate::process::{self, Memory, Use};
use crate::stats::median;
use crate::subjects::Subject;
use crate::sys;
use anyhow::{Result, ensure};
use load::{Load, Span};
use serde::{Deserialize, Serialize};
use servers::flyball::{Door, Flyball};
pub use servers::{Op, Server, find_program, missing};
use std::path::{Path, PathBuf};

/// Clients that do the same again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueLoad {
    /// flyball's.
    pub program: PathBuf,
    pub op: Op,
    pub clients: usize,
    pub warm_up_s: f64,
    pub seconds: f64,
}

/// Most tasks a second that a queue is expected to give out, for those who are slow and for those who are not: what is put in beforehand for
/// cycles, so that the queue does not run empty before the time is over.
const SLOW_PER_S: f64 = 12_000.0;
const FAST_PER_S: f64 = 150_000.0;
/// A pair of daemons is asked in turns of this length.
const TURN: Span = Span {
    warm_up_s: 0.02,
    seconds: 0.25,
    most: None,
};

/// State belongs on a disk: in memory a sync costs nothing, and the figures would be of something else.
fn on_disk() -> Result<()> {
    let folder = std::env::temp_dir();
    ensure!(
        !sys::is_in_memory(&folder)?,
        "{} is in memory; name a folder on a disk in TMPDIR",
        folder.display()
    );
    Ok(())
}

fn clients_of(server: &dyn Server, op: Op, clients: usize) -> Result<Load> {
    let clients = (0..clients).map(|number| server.client(op, number));
    Load::new(clients.collect::<Result<_>>()?)
}

/// Tasks a second.
pub fn run(subject: Subject, case: &QueueLoad) -> Result<Sample> {
    on_disk()?;
    let mut server = servers::start(subject, &case.program)?;
    let (metric, cycles) = match case.op {
        Op::Enqueue { .. } => ("enqueues_per_s", false),
        Op::Cycle { .. } => ("cycles_per_s", true),
    };
    server.prepare(cycles)?;
    if cycles {
        let per_s = match subject {
            Subject::Beanstalkd | Subject::Nats => SLOW_PER_S,
            _ => FAST_PER_S,
        };
        server.fill((per_s * (case.warm_up_s + case.seconds)) as u64)?;
    }
    let mut load = clients_of(&*server, case.op, case.clients)?;
    let alone = Company::none();
    let window = Window::open(&alone);
    let pid = server.program().id();
    let (before, begun) = (process::tree_ticks(pid)?, sys::now_ns());
    let done = load.run(Span {
        warm_up_s: case.warm_up_s,
        seconds: case.seconds,
        most: None,
    })?;
    let passed_s = (sys::now_ns() - begun) as f64 / 1e9;
    let ticks = process::tree_ticks(pid)? - before;
    let server_cores = ticks as f64 / 100.0 / passed_s;
    let seen = window.close();
    let foreign = (seen.others_ns - ticks as f64 * 1e7) / (seen.wall_ns * sys::cpus() as f64);
    server.program().check()?;
    Ok(Sample::default()
        .with(metric, done.per_second())
        .with("generator_cores", done.generator_cores)
        .with("server_cores", server_cores)
        .foreign(foreign.max(0.0)))
}

/// What adding costs with tasks queued against an empty queue, by two daemons that are asked in turns: the median of the pairs.
pub fn grown(program: &Path, queued: u64, turns: usize) -> Result<Sample> {
    on_disk()?;
    let one = Op::Enqueue { batch: 1 };
    let mut empty = Flyball::start(program, Door::Tcp, 0)?;
    let mut full = Flyball::start(program, Door::Tcp, 1)?;
    full.fill(queued)?;
    let mut at_empty = clients_of(&empty, one, 1)?;
    let mut at_full = clients_of(&full, one, 1)?;
    let turn = |load: &mut Load, server: &mut Flyball| -> Result<(f64, f64)> {
        let pid = server.program().id();
        let before = Use::of(pid)?;
        let done = load.run(TURN)?;
        let used = Use::of(pid)?.since(&before);
        // Those of the warm-up are in the CPU time and not in the count, of both alike.
        Ok((
            1e6 / done.per_second(),
            used.cpu_ns as f64 / 1e3 / done.tasks.max(1) as f64,
        ))
    };
    let (mut ratios, mut cpu_ratios) = (Vec::new(), Vec::new());
    let (mut us_empty, mut us_full) = (Vec::new(), Vec::new());
    for number in 0..turns {
        let (of_empty, of_full) = if number % 2 == 0 {
            let of_empty = turn(&mut at_empty, &mut empty)?;
            (of_empty, turn(&mut at_full, &mut full)?)
        } else {
            let of_full = turn(&mut at_full, &mut full)?;
            (turn(&mut at_empty, &mut empty)?, of_full)
        };
        ratios.push(of_full.0 / of_empty.0);
        cpu_ratios.push(of_full.1 / of_empty.1);
        us_empty.push(of_empty.0);
        us_full.push(of_full.0);
    }
    Ok(Sample::default()
        .with("grown_ratio", median(&ratios))
        .with("grown_cpu_ratio", median(&cpu_ratios))
        .with("us_per_add_empty", median(&us_empty))
        .with("us_per_add_queued", median(&us_full)))
}

/// What pending tasks take, and how soon a daemon is there again over them: after an end in peace and after `kill -9`.
pub fn pending(program: &Path, tasks: u64) -> Result<Sample> {
    on_disk()?;
    let mut flyball = Flyball::start(program, Door::Tcp, 0)?;
    let before = Memory::of(flyball.program().id())?;
    let disk_before = process::disk_bytes(flyball.folder())?;
    flyball.fill(tasks)?;
    let after = Memory::of(flyball.program().id())?;
    let folder = flyball.end()?;
    let disk = process::disk_bytes(folder.path())? - disk_before;
    let (mut flyball, after_peace) = Flyball::start_in(program, Door::Tcp, folder)?;
    let again = Memory::of(flyball.program().id())?;
    flyball.program().child().kill()?;
    flyball.program().child().wait()?;
    let (_flyball, after_kill) = Flyball::start_in(program, Door::Tcp, flyball.leave())?;
    let each = |bytes: u64| bytes.saturating_sub(before.resident) as f64 / tasks as f64;
    Ok(Sample::default()
        .with("memory_bytes_per_task", each(after.resident))
        .with("memory_bytes_per_task_reopened", each(again.resident))
        .with("disk_bytes_per_task", disk as f64 / tasks as f64)
        .with("ready_ms", after_peace as f64 / 1e6)
        .with("ready_after_kill_ms", after_kill as f64 / 1e6))
}
