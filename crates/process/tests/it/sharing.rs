//! Programs that share a machine: real processes, real locks, real kills.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use flyball_core::class::ClassSpec;
use flyball_policy::sched::Algorithm;
use flyball_process::bounds::sharing::{MEMBERS_MAX, Part, Sharing, Want};

use flyball_process::{Command, Slots};

use crate::{Test, this_program};

pub(crate) const TESTS: &[Test] = &[
    ("sharing::it_divides_by_shares", divides),
    ("sharing::it_gives_away_the_slots_of_who_was_killed", killed),
    ("sharing::it_never_bounds_who_says_its_number", fixed),
    ("sharing::it_refuses_what_is_not_its_own", hostile),
    ("sharing::it_ignores_garbage", garbage),
    ("sharing::it_is_bounded", bounded),
    ("sharing::it_tells_of_slots", slots),
];

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("flyball-sharing-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A place, and what it is told.
fn join(folder: &Folder, want: Want) -> (Sharing, Receiver<Part>) {
    let (told, hears) = channel();
    let sharing = Sharing::join(&folder.0, 8, want, move |part| {
        let _ = told.send(part);
    });
    (sharing.expect("the machine can be shared"), hears)
}

/// Waits until it is told that it has so many slots.
fn hears(sharing: &(Sharing, Receiver<Part>), slots: u32) {
    while sharing.0.part().slots != slots {
        sharing
            .1
            .recv_timeout(Duration::from_secs(20))
            .unwrap_or_else(|_| panic!("still {:?}, not {slots} slots", sharing.0.part()));
    }
}

/// TASK-21: slots follow shares and wishes as programs come, change their mind and go.
fn divides() {
    let folder = Folder::new("divides");
    let first = join(&folder, Want::slots(100, 8));
    assert_eq!((first.0.part().slots, first.0.part().others), (8, 0));
    let second = join(&folder, Want::slots(300, 8));
    hears(&first, 2);
    hears(&second, 6);
    second.0.set(Want::slots(300, 1));
    hears(&first, 7);
    let mut reserved = Want::slots(300, 0);
    reserved.outstanding = 5 << 30;
    second.0.set(reserved);
    hears(&first, 8);
    assert_eq!(
        (first.0.part().others, first.0.part().outstanding),
        (1, 5 << 30)
    );
    drop(second);
    while first.0.part().others > 0 {
        first
            .1
            .recv_timeout(Duration::from_secs(20))
            .expect("it has gone");
    }
}

/// TASK-21: what is killed lets go of its slots without being able to say so.
fn killed() {
    let folder = Folder::new("killed");
    let first = join(&folder, Want::slots(100, 8));
    let mut other = std::process::Command::new(this_program())
        .args(["--helper", "share"])
        .arg(&folder.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "4\n");
    hears(&first, 4);
    other.kill().unwrap();
    other.wait().unwrap();
    hears(&first, 8);
}

/// TASK-21: who names its number has it, and the others have what shares give them beside it, at least one.
fn fixed() {
    let folder = Folder::new("fixed");
    let mut want = Want::slots(100, 64);
    want.fixed = true;
    let fixed = join(&folder, want);
    let other = join(&folder, Want::slots(100, 8));
    hears(&other, 4);
    assert_eq!(fixed.0.part().slots, 64);
    want.slots = 2;
    fixed.0.set(want);
    hears(&other, 6);
    assert_eq!(fixed.0.part().slots, 2);
}

fn refused(folder: &Folder) -> String {
    Sharing::join(&folder.0, 8, Want::slots(1, 1), |_| {}).expect_err("it is refused")
}

/// TASK-21: links, files, folders of others or open to others are refused, and what they point to stays as it is.
fn hostile() {
    let folder = Folder::new("hostile");
    let precious = std::env::temp_dir().join(format!("flyball-precious-{}", std::process::id()));
    fs::write(&precious, "precious").unwrap();
    symlink(std::env::temp_dir(), &folder.0).unwrap();
    assert!(refused(&folder).contains("link"), "{}", refused(&folder));
    fs::remove_file(&folder.0).unwrap();
    fs::write(&folder.0, "").unwrap();
    assert!(refused(&folder).contains("not a folder"));
    fs::remove_file(&folder.0).unwrap();
    fs::create_dir(&folder.0).unwrap();
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused(&folder).contains("open to other users"));
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).unwrap();
    let file = folder.0.join("sharing");
    symlink(&precious, &file).unwrap();
    assert!(refused(&folder).contains("link"));
    fs::remove_file(&file).unwrap();
    fs::hard_link(&precious, &file).unwrap();
    assert!(refused(&folder).contains("plain file"));
    fs::remove_file(&file).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );
    assert!(refused(&folder).contains("plain file"));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let _ = refused(&folder);
    fs::remove_dir(&file).unwrap();
    // Only root can make a folder of another user.
    if std::os::unix::fs::chown(&folder.0, Some(65534), None).is_ok() {
        assert!(refused(&folder).contains("another user"));
        std::os::unix::fs::chown(&folder.0, Some(0), None).unwrap();
    }
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    fs::remove_file(&precious).unwrap();
    assert_eq!(join(&folder, Want::slots(1, 3)).0.part().slots, 3);
}

/// TASK-21: garbage in the file is nobody.
fn garbage() {
    let folder = Folder::new("garbage");
    fs::create_dir(&folder.0).unwrap();
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).unwrap();
    let bytes: Vec<u8> = (0..100_000_u32)
        .map(|number| ((number * 31) >> 3) as u8)
        .collect();
    fs::write(folder.0.join("sharing"), bytes).unwrap();
    let first = join(&folder, Want::slots(100, 8));
    assert_eq!((first.0.part().slots, first.0.part().others), (8, 0));
    let second = join(&folder, Want::slots(100, 8));
    hears(&first, 4);
    // Cut off under their hands.
    fs::OpenOptions::new()
        .write(true)
        .open(folder.0.join("sharing"))
        .unwrap()
        .set_len(10)
        .unwrap();
    drop(second);
    while first.0.part().others > 0 {
        first
            .1
            .recv_timeout(Duration::from_secs(20))
            .expect("it has gone");
    }
}

/// TASK-21: there are only so many places.
fn bounded() {
    let folder = Folder::new("bounded");
    let all: Vec<_> = (0..MEMBERS_MAX)
        .map(|_| join(&folder, Want::slots(1, 1)))
        .collect();
    assert!(refused(&folder).contains("share this machine already"));
    drop(all);
    join(&folder, Want::slots(1, 1));
}

/// TASK-21: slots of a daemon count by what runs and waits in them, with the shares of its classes, and are not bounded themselves.
fn slots() {
    let folder = Folder::new("slots");
    let server = crate::server();
    let slots = Slots::new(&server, 100, Algorithm::Cfs);
    let normal = ClassSpec::built_in()
        .into_iter()
        .find(|class| class.name == "normal")
        .unwrap();
    let shares = normal.shares;
    let class = slots.insert(normal).unwrap();
    slots.share(&folder.0, 8).unwrap();
    let run = join(&folder, Want::slots(shares, 8));
    hears(&run, 8);
    let mut children: Vec<_> = (0..20)
        .map(|_| {
            slots
                .submit(class, Command::new("sleep").arg("600"))
                .unwrap()
        })
        .collect();
    hears(&run, 4);
    assert_eq!(slots.usage()[0].running, 20);
    children.truncate(1);
    hears(&run, 7);
    children.clear();
    hears(&run, 8);
}
