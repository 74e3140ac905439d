//! File systems of one test, and what stands between a daemon and its disk.

use crate::daemon::{Folder, MEMORY, Setup, unique};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set in the process that has the mounts.
const INSIDE: &str = "FLYBALL_FAULTS_INSIDE";

/// Runs the body of a test where its mounts and processes are seen by nobody else, and end with it: in a mount and a process namespace of its own.
///
/// # Panics
/// When the body does, and when there can be no such place: it takes root, and `unshare` of util-linux.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        // What is put there goes with the namespace, too.
        must("mount", ["-t", "tmpfs", "tmpfs", MEMORY]);
        return body();
    }
    let own = std::env::current_exe().expect("the test knows its program");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(own)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) is needed to run this test");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let complaints = String::from_utf8_lossy(&output.stderr);
    eprint!("{complaints}");
    assert!(
        output.status.success(),
        "{test} ended with {}; it needs root, for mounts and loop devices",
        output.status
    );
    assert!(text.contains("1 passed"), "no test is called {test}");
}

/// Runs a program that must succeed.
pub(crate) fn must<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An ext4 file system in a file, mounted over a loop device, which goes with the mount.
pub(crate) struct Disk {
    image: PathBuf,
    pub(crate) mount: PathBuf,
}

impl Disk {
    pub(crate) fn new(folder: &Folder, name: &str, mebibytes: u32) -> Disk {
        let image = folder.path(&format!("{name}.img"));
        must(
            "truncate",
            [
                "-s".as_ref(),
                format!("{mebibytes}M").as_ref(),
                image.as_os_str(),
            ],
        );
        must(
            "mkfs.ext4",
            ["-q".as_ref(), "-m0".as_ref(), image.as_os_str()],
        );
        Disk::mounted(folder, name, image)
    }

    fn mounted(folder: &Folder, name: &str, image: PathBuf) -> Disk {
        let mount = folder.path(name);
        fs::create_dir_all(&mount).expect("a folder can be made");
        // What nobody syncs stays in memory for five minutes, so that what is on the disk was synced.
        let options: [&OsStr; 3] = ["-t".as_ref(), "ext4".as_ref(), "-oloop,commit=300".as_ref()];
        must(
            "mount",
            options
                .into_iter()
                .chain([image.as_os_str(), mount.as_os_str()]),
        );
        Disk { image, mount }
    }

    /// What a power cut at this moment leaves: the file system as its device holds it now, mounted anew. Nothing is synced for it, so that what
    /// only the kernel's memory holds is not in it. Nobody may write meanwhile.
    pub(crate) fn cut(&self, folder: &Folder, name: &str) -> Disk {
        let image = folder.path(&format!("{name}.img"));
        must(
            "cp",
            [
                "--sparse=always".as_ref(),
                self.image.as_os_str(),
                image.as_os_str(),
            ],
        );
        Disk::mounted(folder, name, image)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, as a process that is about to end may still hold a file; the namespace would take it along in any case.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.mount)
            .status();
        let _ = fs::remove_file(&self.image);
    }
}

/// Builds what `interpose.c` is, where libraries may be run from.
fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let part = folder.join(format!("interpose-{}.so", unique()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/interpose.c");
        let options: [&OsStr; 5] = ["-shared", "-fPIC", "-O1", "-Wall", "-o"].map(OsStr::new);
        let files = [part.as_os_str(), source.as_os_str(), "-ldl".as_ref()];
        must("cc", options.into_iter().chain(files));
        let library = folder.join("interpose.so");
        // At once, as a daemon of another test may be loading it.
        fs::rename(part, &library).expect("a library can be renamed");
        library
    };
    BUILT.get_or_init(build).clone()
}

/// Has a setup's daemons loaded with what `interpose.c` is; `faults` as it says there, on files whose path holds `path`. Faults that are
/// counted begin when the file that is returned is there.
pub(crate) fn interpose(folder: &Folder, setup: &mut Setup, path: &str, faults: &str) -> PathBuf {
    let library = library();
    setup
        .environment
        .retain(|(name, _)| !name.starts_with("FAULTS") && name != "LD_PRELOAD");
    setup.set("LD_PRELOAD", library);
    setup.set("FAULTS", faults);
    setup.set("FAULTS_PATH", path);
    let armed = folder.path("armed");
    let _ = fs::remove_file(&armed);
    setup.set("FAULTS_ARMED", &armed);
    armed
}
