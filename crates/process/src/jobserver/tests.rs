use flyball_core::rng::Rng;

use super::share::{View, next};
use super::*;

fn flags(theirs: &str) -> String {
    let flags = make_flags(Some(OsStr::new(theirs)), 4, OsStr::new("98,99"));
    flags.into_string().unwrap()
}

/// TASK-22: other flags of make stay as they are, another jobserver does not.
#[test]
fn flags_of_make_are_kept() {
    for (theirs, expected) in [
        ("", " -j4 --jobserver-auth=98,99"),
        ("ks", "ks -j4 --jobserver-auth=98,99"),
        (" -j8 --jobserver-auth=3,4", " -j4 --jobserver-auth=98,99"),
        (
            "k -j --jobserver-fds=3,4 --no-print-directory",
            "k --no-print-directory -j4 --jobserver-auth=98,99",
        ),
        (
            "k -j2 --jobserver-auth=fifo:/x -- A=1 B=2",
            "k -j4 --jobserver-auth=98,99 -- A=1 B=2",
        ),
        ("A=1", " -j4 --jobserver-auth=98,99 A=1"),
        (" --jobs=3", " --jobs=3 -j4 --jobserver-auth=98,99"),
    ] {
        assert_eq!(flags(theirs), expected, "{theirs:?}");
    }
    assert!(names_jobserver(OsStr::new("k --jobserver-auth=fifo:/x")));
    assert!(!names_jobserver(OsStr::new("k -j")));
}

/// TASK-22: commands that take, return and die in any order: never more tokens out than slots that are free, but for starts, and each step leads to rest.
#[test]
fn tokens_follow_a_naive_model() {
    for seed in 0..200 {
        let mut rng = Rng::seeded(seed);
        let mut slots = rng.between(1, 6) as u32;
        let most = [rng.between(1, 8) as u32, rng.between(1, 8) as u32];
        let idle = |lane: usize| View {
            group: lane % 2,
            most: most[lane % 2],
            ..View::default()
        };
        let mut lanes: Vec<View> = (0..6).map(idle).collect();
        let mut clock = 0;
        for _ in 0..300 {
            let lane = rng.below(6) as usize;
            let running = lanes.iter().filter(|lane| lane.used).count() as u32;
            let placed = |lanes: &[View]| lanes.iter().map(|lane| lane.placed).sum::<u32>();
            let held = |lane: &View| lane.placed - lane.ready;
            let before: u32 = lanes.iter().map(held).sum();
            match rng.below(5) {
                0 if !lanes[lane].used => lanes[lane].used = true,
                1 if lanes[lane].used => lanes[lane] = idle(lane),
                2 if lanes[lane].ready > 0 => lanes[lane].ready -= 1,
                3 if held(&lanes[lane]) > 0 => lanes[lane].ready += 1,
                4 if rng.chance(0.1) => slots = rng.between(1, 6) as u32,
                _ => {}
            }
            let mut patience_over = rng.chance(0.3);
            let mut steps = 0;
            while let Some(action) = next(slots, &lanes, patience_over) {
                steps += 1;
                clock += 1;
                assert!(steps < 50, "seed {seed}: no rest");
                match action {
                    Action::Take(lane) => {
                        lanes[lane].placed -= 1;
                        lanes[lane].ready -= 1;
                        lanes[lane].changed = clock;
                    }
                    Action::Put(lane) => {
                        assert!(placed(&lanes) + running <= slots.max(running));
                        lanes[lane].placed += 1;
                        lanes[lane].ready += 1;
                        lanes[lane].changed = clock;
                    }
                    Action::Move { from, to } => {
                        patience_over = false;
                        lanes[from].placed -= 1;
                        lanes[from].ready -= 1;
                        lanes[to].placed += 1;
                        lanes[to].ready += 1;
                        lanes[from].changed = clock;
                        lanes[to].changed = clock;
                    }
                }
            }
            let running = lanes.iter().filter(|lane| lane.used).count() as u32;
            let budget = slots.saturating_sub(running);
            let out: u32 = lanes.iter().map(held).sum();
            assert!(placed(&lanes) <= budget.max(out), "seed {seed}");
            assert!(out <= before.max(budget), "seed {seed}");
            let of_group = |group: usize| {
                let lanes = lanes.iter().filter(|lane| lane.group == group);
                lanes.fold((0, 0), |(taken, out), lane| {
                    (
                        taken + lane.placed + u32::from(lane.used),
                        out + held(lane) + u32::from(lane.used),
                    )
                })
            };
            for group in [0, 1] {
                let (taken, out) = of_group(group);
                assert!(taken <= most[group].max(out), "seed {seed}");
            }
            let bare = lanes
                .iter()
                .any(|lane| lane.used && lane.ready == 0 && of_group(lane.group).0 < lane.most);
            assert!(
                placed(&lanes) >= budget || !bare,
                "seed {seed}: a token is kept back"
            );
        }
    }
}

/// TASK-22: a make that knows fifos is told of one; one that does not, or is no program of make's own, of descriptors.
#[test]
fn the_style_is_that_of_the_make_there_is() {
    let folder = std::env::temp_dir().join(format!("flyball-style-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    assert_eq!(Style::detect(folder.as_os_str()), Style::Fifo, "no make");
    for (text, style) in [
        ("…\0--jobserver-auth=\0fifo:\0…", Style::Fifo),
        ("…\0--jobserver-auth=\0…", Style::Pipe),
        ("#!/bin/sh\nexec gmake \"$@\"\n", Style::Pipe),
    ] {
        std::fs::write(folder.join("make"), text).unwrap();
        assert_eq!(Style::detect(folder.as_os_str()), style, "{text:?}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// What a killed program left is removed by the next; what is in use is not.
#[test]
fn abandoned_folders_are_removed() {
    let folder = std::env::temp_dir().join(format!("flyball-left-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("flyball-jobs-1-0")).unwrap();
    std::fs::write(folder.join("flyball-jobs-1-0/lock"), "").unwrap();
    std::fs::create_dir_all(folder.join("other")).unwrap();
    let options = || JobserverOptions {
        folder: folder.clone(),
        ..JobserverOptions::default()
    };
    let count = || std::fs::read_dir(&folder).unwrap().count();
    let first = Jobserver::start(2, options()).unwrap();
    assert_eq!(count(), 2, "one was removed, one made");
    let second = Jobserver::start(2, options()).unwrap();
    assert_eq!(count(), 3);
    drop((first, second));
    assert_eq!(count(), 1);
    std::fs::remove_dir_all(folder).unwrap();
}
