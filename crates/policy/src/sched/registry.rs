//! Adding, changing and removing classes, and what follows from their parameters.
//!
//! A call either succeeds or changes nothing.

use flyball_core::id::{ClassId, ClassSet};
use flyball_core::time::Timestamp;

use super::bucket::{Bucket, fixed_rate};
use super::class::ClassState;
use super::params::ClassParams;
use super::scheduler::Scheduler;
use super::weights::{self, Demand};
use crate::Error;

/// How long a full ceiling lasts: a class may use its part of a tenth of a second at once.
const CEILING_DEPTH_NS: u64 = 100_000_000;

impl Scheduler {
    /// Adds a class.
    ///
    /// # Errors
    /// The id is taken, a parameter is out of its range, or the guarantees would exceed the whole. Nothing changes then.
    pub fn insert(
        &mut self,
        now: Timestamp,
        class: ClassId,
        params: ClassParams,
    ) -> Result<(), Error> {
        if self.known.contains(class) {
            return Err(Error::DuplicateClass { class });
        }
        self.admit(class, &params)?;
        self.advance(now);
        self.generation = self.generation.wrapping_add(1);
        self.classes[class.index()] = ClassState::new(self.now, params, self.generation);
        self.classes[class.index()].expect(self.longest_ns);
        self.known.insert(class);
        self.bound(class);
        self.update_gate();
        Ok(())
    }

    /// Changes a class; its service, lag and grants stay.
    ///
    /// # Errors
    /// The class does not exist, a parameter is out of its range, or the guarantees would exceed the whole. Nothing
    /// changes then.
    pub fn update(
        &mut self,
        now: Timestamp,
        class: ClassId,
        params: ClassParams,
    ) -> Result<(), Error> {
        if !self.known.contains(class) {
            return Err(Error::UnknownClass { class });
        }
        self.admit(class, &params)?;
        self.advance(now);
        let state = &mut self.classes[class.index()];
        state.priority = params.priority;
        state.params = params;
        state.shorten_request();
        self.bound(class);
        self.reweigh();
        self.update_gate();
        Ok(())
    }

    /// Takes a class out. Grants of it that are still out may be settled; that has no effect.
    ///
    /// # Errors
    /// The class does not exist.
    pub fn remove(&mut self, now: Timestamp, class: ClassId) -> Result<(), Error> {
        if !self.known.contains(class) {
            return Err(Error::UnknownClass { class });
        }
        self.advance(now);
        for set in [
            &mut self.known,
            &mut self.fronts,
            &mut self.bounded,
            &mut self.restricted,
            &mut self.awake,
            &mut self.in_flight,
        ] {
            set.remove(class);
        }
        self.leave_joints(class);
        self.classes[class.index()].generation = 0;
        self.max_slice_ns = self.slices().max().unwrap_or(1);
        self.reweigh();
        self.update_gate();
        Ok(())
    }

    /// Checks the parameters that a class is to have.
    fn admit(&self, class: ClassId, params: &ClassParams) -> Result<(), Error> {
        params.check(class)?;
        let others = self.known - ClassSet::only(class);
        let total = params.guarantee
            + others
                .iter()
                .map(|c| self.classes[c.index()].params.guarantee)
                .sum::<f64>();
        // Sums of decimal fractions such as ten times 0.1 may exceed one by rounding.
        if total > 1.0 + 1e-9 {
            return Err(Error::GuaranteesOverWhole {
                class,
                given: params.guarantee,
                total,
            });
        }
        Ok(())
    }

    fn slices(&self) -> impl Iterator<Item = u64> + '_ {
        self.known
            .iter()
            .map(|c| self.classes[c.index()].params.slice_ns)
    }

    /// Brings what follows from the parameters of a class up to date.
    pub(crate) fn bound(&mut self, class: ClassId) {
        let parallelism = f64::from(self.parallelism);
        let state = &mut self.classes[class.index()];
        let params = &state.params;
        let fraction = f64::from(params.concurrency) / parallelism;
        let cap = if fraction < params.ceiling {
            fraction
        } else {
            params.ceiling
        };
        let floor = if params.guarantee < cap {
            params.guarantee
        } else {
            cap
        };
        self.demands[class.index()] = Demand {
            shares: u64::from(params.shares),
            floor: weights::part(floor),
            cap: weights::part(cap).max(1),
        };
        let flag = |set: &mut ClassSet, on: bool| {
            if on {
                set.insert(class)
            } else {
                set.remove(class)
            }
        };
        flag(&mut self.fronts, state.is_front());
        flag(&mut self.bounded, floor > 0.0 || cap < 1.0);
        flag(
            &mut self.restricted,
            params.ceiling < 1.0 || params.concurrency != u32::MAX,
        );
        let rate = params.ceiling * parallelism;
        if params.ceiling < 1.0 {
            match &mut state.ceiling {
                Some(bucket) => bucket.reshape(self.now, fixed_rate(rate), CEILING_DEPTH_NS),
                none => *none = Some(Bucket::full(self.now, rate, CEILING_DEPTH_NS)),
            }
        } else {
            state.ceiling = None;
        }
        if !self.bounded.contains(class) && !self.awake.contains(class) {
            state.weight = weights::of_shares(state.params.shares);
        }
        self.max_slice_ns = self.slices().max().unwrap_or(1);
    }
}
