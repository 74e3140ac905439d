//! `flyball backup`: a copy of the daemon's queue of tasks, taken while it is in use.
//!
//! The daemon sends the copy and this program writes it: so it belongs to who asked, over the socket and over TCP alike. It is whole and on disk under
//! its name, or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::json;

use super::{STATUS, Session, with_session};
use crate::client::{Failure, Reach};
use crate::show::{bytes, inert};

const EXAMPLES: &str = "\
Examples:
  flyball backup tasks-$(date +%F).db
  flyball backup /backup/tasks.db --server http://127.0.0.1:7070

The copy is that of one instant, and the daemon goes on meanwhile. It holds the
tasks with their payloads, results and states; what commands wrote to their
outputs is not in it, and neither are configuration and token.
`flyball restore` puts it back.";

/// For the daemon to make the copy, which it does before it sends it.
const BEGINS: Duration = Duration::from_secs(3600);

#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{STATUS}"))]
pub(crate) struct Backup {
    /// A new file
    file: PathBuf,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(options: &Backup) -> ExitCode {
    with_session(&options.reach, |session| copy(session, &options.file))
}

fn copy(session: &Session, to: &Path) -> Result<Vec<u8>, Failure> {
    let name = inert(&to.to_string_lossy());
    if to.symlink_metadata().is_ok() {
        return Err(Failure::Usage(format!(
            "{name} is there already; choose a new name"
        )));
    }
    let part = beside(to);
    let cannot = |error: io::Error| Failure::Broken(format!("cannot write {name}: {error}"));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .map_err(cannot)?;
    let written = receive(session, &mut file).and_then(|length| {
        // Unlike a rename, a link takes no file's place that came meanwhile; some filesystems have none.
        let whole = file.sync_all().and_then(|()| {
            fs::hard_link(&part, to).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Err(error),
                _ => fs::rename(&part, to),
            })
        });
        whole.map(|()| length).map_err(cannot)
    });
    // After a rename it is not there any more.
    let _ = fs::remove_file(&part);
    let length = written?;
    sync_folder(to).map_err(cannot)?;
    if session.json {
        let line = json!({ "path": to.to_string_lossy(), "bytes": length });
        return Ok(format!("{line}\n").into_bytes());
    }
    Ok(format!("{name}: {}\n", bytes(length)).into_bytes())
}

fn receive(session: &Session, file: &mut File) -> Result<u64, Failure> {
    let mut length = 0;
    let poured = session.client.pour(
        Method::POST,
        "/v1/backup",
        Some(&json!({})),
        BEGINS,
        &mut |bytes| {
            length += bytes.len() as u64;
            file.write_all(bytes)
        },
    )?;
    poured.map_err(|error| Failure::Broken(format!("cannot write the copy: {error}")))?;
    Ok(length)
}

fn beside(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".part-{}", std::process::id()));
    PathBuf::from(name)
}

/// The name must survive a power cut as well as what it names.
fn sync_folder(of: &Path) -> io::Result<()> {
    let folder = of.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
