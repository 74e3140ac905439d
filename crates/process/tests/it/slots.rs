//! Classes share process slots.

use std::sync::mpsc;

use flyball_core::class::ClassSpec;
use flyball_policy::sched::Algorithm;
use flyball_process::{Command, Error, Slots, Status};

use crate::{Test, helper, server, shell};

pub(crate) const TESTS: &[Test] = &[
    (
        "slots::a_higher_priority_goes_first",
        a_higher_priority_goes_first,
    ),
    (
        "slots::cpu_time_is_settled_to_its_class",
        cpu_time_is_settled_to_its_class,
    ),
    (
        "slots::queues_are_bounded_and_classes_checked",
        queues_are_bounded_and_classes_checked,
    ),
    (
        "slots::a_queued_command_can_be_withdrawn",
        a_queued_command_can_be_withdrawn,
    ),
    (
        "slots::commands_that_cannot_run_give_their_slot_back",
        commands_that_cannot_run_give_their_slot_back,
    ),
    (
        "slots::no_more_run_than_there_are_slots",
        no_more_run_than_there_are_slots,
    ),
];

/// CPU-2, TASK-11: the free slot goes to the class that the policy picks, not to the command that came first.
fn a_higher_priority_goes_first() {
    let server = server();
    let slots = Slots::new(&server, 1, Algorithm::Priority);
    let [batch, interactive] = ["batch", "interactive"].map(|name| {
        ClassSpec::built_in()
            .into_iter()
            .find(|spec| spec.name == name)
            .unwrap()
    });
    let (batch, interactive) = (
        slots.insert(batch).unwrap(),
        slots.insert(interactive).unwrap(),
    );
    let (stdin, hold) = std::io::pipe().unwrap();
    let first = slots
        .submit(batch, shell("read -r line").stdin(stdin))
        .unwrap();
    let (ended, order) = mpsc::channel();
    let mut children = Vec::new();
    for (class, name) in [
        (batch, "batch"),
        (batch, "batch"),
        (interactive, "interactive"),
        (interactive, "interactive"),
    ] {
        let ended = ended.clone();
        let child = slots.submit_with(class, Command::new("true"), move |exit| {
            assert!(exit.unwrap().success());
            ended.send(name).unwrap();
        });
        children.push(child.unwrap());
    }
    drop(hold);
    let order: Vec<&str> = order.iter().take(4).collect();
    assert_eq!(order, ["interactive", "interactive", "batch", "batch"]);
    drop(first);
}

/// TASK-11: the child's CPU time is charged to its class.
fn cpu_time_is_settled_to_its_class() {
    let server = server();
    let slots = Slots::new(&server, 2, Algorithm::Cfs);
    let burner = slots.insert(ClassSpec::new("burner")).unwrap();
    let sleeper = slots.insert(ClassSpec::new("sleeper")).unwrap();
    assert_eq!(slots.class("sleeper"), Some(sleeper));
    let mut children = [
        slots.submit(burner, helper(&["burn", "80"])).unwrap(),
        slots.submit(sleeper, Command::new("true")).unwrap(),
    ];
    children
        .iter_mut()
        .for_each(|child| assert!(child.wait_blocking().unwrap().success()));
    let usage = slots.usage();
    assert!(
        usage[0].cpu_ns >= 75_000_000 && usage[1].cpu_ns < 40_000_000,
        "{usage:?}"
    );
    assert_eq!(
        (usage[0].ended, usage[0].running, usage[0].waiting),
        (1, 0, 0)
    );
}

fn queues_are_bounded_and_classes_checked() {
    let server = server();
    let slots = Slots::new(&server, 1, Algorithm::Cfs);
    let class = slots
        .insert(ClassSpec::new("small").with_queue_limit(1))
        .unwrap();
    assert!(matches!(
        slots.insert(ClassSpec::new("small")).unwrap_err(),
        Error::Class { .. }
    ));
    assert!(matches!(
        slots.insert(ClassSpec::new("Not A Name")).unwrap_err(),
        Error::Class { .. }
    ));
    let running = slots
        .submit(class, Command::new("sleep").arg("600"))
        .unwrap();
    let waiting = slots.submit(class, Command::new("true")).unwrap();
    let error = slots.submit(class, Command::new("true")).unwrap_err();
    assert!(matches!(error, Error::QueueFull { limit: 1 }));
    // What was said first of the class does not bind for ever.
    slots
        .update(ClassSpec::new("small").with_queue_limit(2))
        .unwrap();
    slots.submit(class, Command::new("true")).unwrap().detach();
    let full = slots.submit(class, Command::new("true")).unwrap_err();
    assert!(matches!(full, Error::QueueFull { limit: 2 }));
    for wrong in ["other", "Not A Name"] {
        let refused = slots.update(ClassSpec::new(wrong)).unwrap_err();
        assert!(matches!(refused, Error::Class { .. }));
    }
    let nobody = flyball_core::id::ClassId::try_new(9).unwrap();
    assert!(matches!(
        slots.submit(nobody, Command::new("true")).unwrap_err(),
        Error::UnknownClass { id: 9 }
    ));
    assert_eq!(
        (running.status() == Status::Queued, waiting.status()),
        (false, Status::Queued)
    );
}

fn a_queued_command_can_be_withdrawn() {
    let server = server();
    let slots = Slots::new(&server, 1, Algorithm::RoundRobin);
    let class = slots.insert(ClassSpec::new("one")).unwrap();
    let mut running = slots
        .submit(class, Command::new("sleep").arg("600"))
        .unwrap();
    let mut waiting = slots.submit(class, Command::new("true")).unwrap();
    waiting.kill();
    assert!(matches!(
        waiting.wait_blocking().unwrap_err(),
        Error::Withdrawn
    ));
    let mut last = slots.submit(class, Command::new("true")).unwrap();
    running.kill();
    assert!(running.wait_blocking().unwrap().killed);
    assert!(last.wait_blocking().unwrap().success());
}

fn commands_that_cannot_run_give_their_slot_back() {
    let server = server();
    let slots = Slots::new(&server, 1, Algorithm::ProportionalShare);
    let class = slots.insert(ClassSpec::new("one")).unwrap();
    let mut bad: Vec<_> = (0..20)
        .map(|number| {
            let program = if number % 2 == 0 {
                "flyball-no-such-program"
            } else {
                ""
            };
            slots.submit(class, Command::new(program)).unwrap()
        })
        .collect();
    assert!(bad.iter_mut().all(|child| child.wait_blocking().is_err()));
    assert!(
        slots
            .submit(class, Command::new("true"))
            .unwrap()
            .wait_blocking()
            .unwrap()
            .success()
    );
    assert_eq!(slots.usage()[0].running, 0);
}

fn no_more_run_than_there_are_slots() {
    let server = server();
    let slots = Slots::new(&server, 3, Algorithm::Cfs);
    let class = slots.insert(ClassSpec::new("three")).unwrap();
    let mut children: Vec<_> = (0..40)
        .map(|_| slots.submit(class, Command::new("true")).unwrap())
        .collect();
    for child in &mut children {
        assert!(slots.usage()[0].running <= 3 && server.running() <= 3);
        assert!(child.wait_blocking().unwrap().success());
    }
    assert_eq!(slots.usage()[0].ended, 40);
}
