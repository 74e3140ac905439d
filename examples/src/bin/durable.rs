//! Durable tasks in a program: what was accepted is done, also when the program dies in the middle of it.
//!
//! `cargo run --release -p flyball-examples --bin durable [FOLDER]`
//!
//! Without a folder it plays both parts: it starts itself as a service, sees it die, and starts it again until everything is done. With one
//! it is the service.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::{Command, abort};

use anyhow::{Context, Result, bail};
use flyball::engine::config::{self, Sources};
use flyball::engine::{Engine, Options};
use flyball::tasks::run::{TaskContext, TaskError};
use flyball::tasks::{Accepted, Filter, Query, State};
use serde::{Deserialize, Serialize};

const PHOTOS: [&str; 4] = ["ant", "bee", "cat", "dog"];
/// More starts than that would mean that it never ends.
const LIVES: usize = 10;

#[derive(Serialize, Deserialize)]
struct Photo {
    name: String,
    width: u32,
}

/// What the service does for a living. The power fails at the cat, the first time.
async fn resize(task: TaskContext, photo: Photo) -> Result<String, TaskError> {
    let attempt = task.attempts().started;
    if photo.name == "cat" && attempt == 1 {
        println!("  resizing the cat, and the power fails");
        abort();
    }
    println!("  resized the {} (attempt {attempt})", photo.name);
    Ok(format!("{}-{}.jpg", photo.name, photo.width))
}

/// One life of the service: it takes orders, and works until none is left.
#[tokio::main]
async fn service(folder: &Path) -> Result<()> {
    let loaded = config::load(&Sources::new())?;
    let options = Options {
        state_dir: Some(folder.to_owned()),
        ..Options::default()
    };
    let engine = Engine::start_with(loaded, options)?;
    let mut orders = Vec::new();
    for name in PHOTOS {
        let photo = Photo {
            name: name.to_owned(),
            width: 640,
        };
        // The key makes asking again harmless: the order that is there already is answered.
        let order = engine
            .new_task("resize")
            .payload(&photo)
            .idempotency_key(name);
        let order = order.submit().await?;
        let known = if order.existing {
            "known as"
        } else {
            "accepted as"
        };
        println!("  the {name} is {known} task {}", order.id);
        orders.push(order);
    }
    // From here on tasks that were left over from an earlier life are taken, too.
    engine.register("resize", resize)?;
    wait_for(&engine, &orders).await?;
    engine.shutdown().map_err(|refused| refused.1)?;
    Ok(())
}

/// Waits until all have ended, and says how.
async fn wait_for(engine: &Engine, orders: &[Accepted]) -> Result<()> {
    let queue = engine.tasks()?;
    let mut news = queue.watch();
    let done = Query {
        filter: Filter {
            states: vec![State::Completed],
            kind: Some("resize".into()),
            ..Filter::default()
        },
        before: None,
        limit: 100,
    };
    loop {
        news.mark_unchanged();
        let page = queue.list(done.clone()).await?;
        if page.tasks.len() == orders.len() {
            let results = page
                .tasks
                .iter()
                .rev()
                .filter_map(|task| task.result.as_deref());
            let results: Vec<_> = results.map(String::from_utf8_lossy).collect();
            println!("  done: {}", results.join(" "));
            return Ok(());
        }
        news.changed().await?;
    }
}

fn main() -> Result<()> {
    if let Some(folder) = std::env::args_os().nth(1) {
        return service(Path::new(&folder));
    }
    let folder = Temporary::new()?;
    for life in 1..=LIVES {
        println!("life {life} of the service:");
        let status = Command::new(std::env::current_exe()?)
            .arg(&folder.0)
            .status()
            .context("starting the service")?;
        if status.success() {
            return Ok(());
        }
        println!("the service died: {status}");
    }
    bail!("the service did not get its work done in {LIVES} lives")
}

/// A folder that is gone when it is dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("flyball-durable-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Temporary(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
