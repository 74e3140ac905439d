//! This run's place among the others on this machine.

use std::sync::mpsc::Sender;

use flyball_process::bounds::sharing::{self, Sharing, Want};

use crate::run::batch::Event;
use crate::run::options::Jobs;
use crate::run::plan::Plan;

/// The place, if there is one.
pub(super) struct Share {
    sharing: Option<Sharing>,
    /// Why there is none, where one was wanted.
    why_not: Option<String>,
    want: Option<Want>,
    /// The least that it had beside others when it could have used more, and how many others there were.
    least: Option<(u32, usize)>,
}

impl Share {
    pub(super) fn new(plan: &Plan, cpus: u32, events: &Sender<Event>) -> Share {
        let mut share = Share {
            sharing: None,
            why_not: None,
            want: None,
            least: None,
        };
        // A single command at a terminal is the user's own doing.
        if plan.options.bounds.alone || plan.once {
            return share;
        }
        let mut want = Want::slots(plan.class.shares, plan.jobs);
        want.fixed = plan.options.jobs != Jobs::Auto;
        let events = events.clone();
        let joined = Sharing::join(&sharing::user_folder(), cpus, want, move |_| {
            // The loop has gone when nobody receives.
            let _ = events.send(Event::Shared);
        });
        match joined {
            Ok(sharing) => share.sharing = Some(sharing),
            Err(why) => share.why_not = Some(why),
        }
        share.want = Some(want);
        share
    }

    pub(super) fn warning(&self) -> Option<String> {
        let why = self.why_not.as_ref()?;
        Some(format!(
            "this machine is not shared with other runs: {why} (--alone asks for that)"
        ))
    }

    /// Slots for this run. More than it has commands where nobody wants them: a make among its commands may.
    pub(super) fn slots(&self, jobs: u32) -> u32 {
        let fixed = self.want.is_some_and(|want| want.fixed);
        match &self.sharing {
            Some(sharing) if !fixed => {
                let part = sharing.part();
                part.slots.max(1).saturating_add(part.spare)
            }
            _ => jobs,
        }
    }

    /// Bytes that other runs have reserved and do not use yet.
    pub(super) fn outstanding(&self) -> u64 {
        self.sharing
            .as_ref()
            .map_or(0, |sharing| sharing.part().outstanding)
    }

    /// Wants no more slots than there are commands left.
    pub(super) fn left(&mut self, commands: Option<usize>, jobs: u32) {
        let slots = commands.map_or(jobs, |left| jobs.min(u32::try_from(left).unwrap_or(jobs)));
        self.change(|want| want.slots = slots);
        if let Some(part) = self.sharing.as_ref().map(Sharing::part)
            && part.others > 0
        {
            // The part may be that of an earlier wish, so it may be less than a slot, or more than is wanted now.
            let has = part.slots.max(1);
            if has < slots && self.least.is_none_or(|(least, _)| has < least) {
                self.least = Some((has, part.others));
            }
        }
    }

    pub(super) fn reserved(&mut self, outstanding: u64) {
        self.change(|want| want.outstanding = outstanding);
    }

    fn change(&mut self, change: impl FnOnce(&mut Want)) {
        if let (Some(want), Some(sharing)) = (&mut self.want, &self.sharing) {
            let before = *want;
            change(want);
            if *want != before {
                sharing.set(*want);
            }
        }
    }

    pub(super) fn line(&self) -> Option<String> {
        let (least, others) = self.least?;
        let fixed = self.want.is_some_and(|want| want.fixed);
        (!fixed).then(|| {
            let runs = if others == 1 { "run" } else { "runs" };
            let at_once = if least == 1 {
                "1 command"
            } else {
                &format!("{least} commands")
            };
            format!("shared with {others} other {runs}: {at_once} at once at times")
        })
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "shared": self.sharing.is_some(),
            "why_not": self.why_not,
            "least_slots": self.least.map(|(least, _)| least),
        })
    }
}
