//! The suite that every backend of the queue must pass, written once against [`TaskQueue`](crate::TaskQueue).
//!
//! A backend's tests give a function that makes a [`Fixture`] around a fresh, empty queue, and call
//! [`task_queue_conformance!`](crate::task_queue_conformance), which makes a test of each case:
//!
//! ```ignore
//! flyball_tasks::task_queue_conformance!(make_fixture);
//! ```
//!
//! Leaves out what only some backends do: limits on disk, damage, backups.

mod bounds;
mod durability;
mod fixture;
mod flow;
mod leases;
mod life;
mod reading;

pub use bounds::*;
pub use durability::*;
pub use fixture::{Fixture, Wanted, block_on};
pub use flow::*;
pub use leases::*;
pub use life::*;
pub use reading::*;

/// Makes a test of each case of the suite. The argument is a function from [`Wanted`](crate::conformance::Wanted) to a boxed
/// [`Fixture`](crate::conformance::Fixture).
#[macro_export]
macro_rules! task_queue_conformance {
    ($make:path) => {
        $crate::task_queue_conformance! { @cases $make;
            what_goes_in_comes_out
            higher_priority_and_older_tasks_go_first
            a_batch_is_taken_whole_or_not_at_all
            a_repeated_request_is_answered_as_before
            a_lease_is_one_lessees
            an_expired_lease_returns_the_task_and_voids_its_token
            a_completion_is_acknowledged_once
            a_heartbeat_extends_and_carries_progress_and_checkpoint
            a_paused_task_is_held
            a_task_that_stands_still_keeps_its_lease
            one_stale_end_does_not_spoil_the_others
            a_lease_waits_for_a_task
            a_lease_that_nobody_awaits_gives_its_tasks_back
            lessees_get_what_they_take
            lessees_get_what_fits
            accepted_tasks_survive_a_crash
            acknowledged_ends_survive_a_crash
            a_crash_voids_leases_and_counts
            a_clean_restart_honours_leases
            the_wall_clock_may_jump
            pauses_survive_restarts
            ids_are_never_given_twice
            failures_are_retried_and_then_dead
            what_may_not_be_retried_fails
            returned_attempts_cost_nothing
            waits_end_early
            the_dead_can_be_retried
            not_before_is_waited_for
            a_deadline_is_kept
            children_wait_for_parents
            children_of_failures_are_skipped
            one_running_and_one_waiting_of_a_unique_key
            waiting_tasks_are_cancelled_at_once
            running_tasks_are_asked_to_stop
            paused_scopes_are_not_handed_out
            a_full_queue_refuses_and_forgets_nothing
            bad_requests_change_nothing
            a_closed_queue_refuses
            pages_hold_every_task_once
            filters_select
            figures_count
            each_change_is_an_event
            followers_learn_what_they_missed
        }
    };
    (@cases $make:path; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::$case(&|wanted| $make(wanted));
            }
        )*
    };
}

/// What tests of the embedded queue have in common with the suite.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::fixture::{done, failed, request, task};
}
