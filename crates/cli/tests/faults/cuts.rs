//! Power cuts: what the kernel had not written is gone.
//!
//! `kill -9` proves nothing about syncs, as what was written survives in the kernel's memory. Here the state folder is on a file system of its own, in an
//! image. A daemon under load is stopped (SIGSTOP), by chance or just before one of its syncs; once no thread of it is in the kernel, the image is copied
//! as it is, which leaves out what only memory holds, and the copy is mounted: the disk after a power cut. The next daemon starts there.
//!
//! The device is taken to keep what the file system sent it: caches of disks that lie about it are not simulated here.

use crate::daemon::{Folder, Setup};
use crate::disk::{Disk, alone, interpose};
use crate::kills::figures;
use crate::load::Load;
use crate::model::{Shared, compare, drain};
use crate::{let_pass, seeded, setting};
use flyball_core::rng::Rng;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MEBIBYTES: u32 = 256;

/// Cuts the power so often; what was lost, once something is.
fn cut_power(cuts: u64, rng: &mut Rng, shared: &Arc<Shared>, syncs: bool) -> Result<(), String> {
    let folder = Folder::new(if syncs { "cuts" } else { "cuts-unsynced" });
    let mut setup = Setup::new(&folder);
    let mut disk = Disk::new(&folder, "disk-0", MEBIBYTES);
    for round in 1..=cuts {
        setup.state = disk.mount.join("state");
        let at_a_sync = syncs && rng.chance(0.5);
        let faults = match (syncs, at_a_sync) {
            (false, _) => "none".to_owned(),
            (true, true) => format!("stop:{}", rng.between(1, 60)),
            (true, false) => "off".to_owned(),
        };
        let armed = interpose(&folder, &mut setup, "/queue", &faults);
        if !syncs {
            arm(&armed);
        }
        let mut daemon = setup
            .spawn()
            .ready()
            .map_err(|log| format!("cut {round}: {log}"))?;
        compare(shared, &mut daemon.client(), false).map_err(|error| error.to_string())?;
        arm(&armed);
        let load = Load::start(shared, &daemon.socket(), rng);
        shared.wait_for(rng.between(1, 300), || at_a_sync && daemon.is_stopped());
        let_pass(Duration::from_micros(rng.below(1_000)));
        daemon.stop();
        let after = disk.cut(&folder, &format!("disk-{round}"));
        daemon.kill();
        load.join();
        drop(daemon);
        disk = after;
        faults_of(shared, &setup, round)?;
    }
    setup.state = disk.mount.join("state");
    interpose(&folder, &mut setup, "/queue", "off");
    let daemon = setup.spawn().ready()?;
    let mut client = daemon.client();
    compare(shared, &mut client, true).map_err(|error| error.to_string())?;
    faults_of(shared, &setup, cuts)?;
    drain(shared, &mut client).map_err(|error| error.to_string())?;
    compare(shared, &mut client, true).map_err(|error| error.to_string())?;
    faults_of(shared, &setup, cuts)
}

fn arm(file: &Path) {
    fs::write(file, "").expect("a file can be made");
}

fn faults_of(shared: &Shared, setup: &Setup, round: u64) -> Result<(), String> {
    let model = shared.model();
    if model.wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "cut {round}:\n{}\n{}",
        model.wrong.join("\n"),
        setup.log_text()
    ))
}

/// TASK-1, TASK-4: a power cut at any moment loses no task that was accepted, brings none back that was acknowledged, and voids the tokens of before.
/// `FLYBALL_CUTS` says how often.
#[test]
fn a_power_cut_loses_nothing() {
    alone("cuts::a_power_cut_loses_nothing", || {
        let cuts = setting("FLYBALL_CUTS", 20);
        let mut rng = seeded("power cuts");
        let shared = Arc::new(Shared::default());
        if let Err(lost) = cut_power(cuts, &mut rng, &shared, true) {
            panic!("{lost}");
        }
        println!("{cuts} power cuts: {}", figures(&shared));
        let model = shared.model();
        assert!(model.completed > 0 && model.completed == model.accepted);
    });
}

/// TASK-1: the proof that the test above can fail: with the syncs taken out of the daemon (a library between it and the kernel does nothing in
/// their place), a power cut loses tasks, and the test says so.
#[test]
fn without_syncs_a_power_cut_loses_tasks() {
    alone("cuts::without_syncs_a_power_cut_loses_tasks", || {
        let mut rng = seeded("power cuts without syncs");
        let shared = Arc::new(Shared::default());
        let lost = cut_power(5, &mut rng, &shared, false).expect_err("tasks are lost");
        println!(
            "without syncs: {}",
            lost.lines().take(3).collect::<Vec<_>>().join("\n")
        );
        assert!(lost.contains("accepted tasks are lost"), "{lost}");
    });
}
