//! How rows are written: compact, with a version and a checksum each.
//!
//! A task's row has two columns, so that opening a queue of a million tasks reads little: the *head* (what decides about its life, written
//! once) and the *record* (what changes with every step of it). The *body* (command or URL, labels, payload) is in a table of its own and
//! read when the task is leased; so are the notes its attempts leave.

pub(crate) mod body;
pub(crate) mod head;
pub(crate) mod meta;
pub(crate) mod note;
pub(crate) mod record;
pub(crate) mod wire;

use flyball_policy::queue::State;
use wire::Damage;

/// The number of a state in the store. Numbers are never given again. Those that every task goes through come first, so that the index of the
/// others is by one comparison: a list of states would be built anew for each row that is written.
pub(crate) const fn state_code(state: State) -> u8 {
    match state {
        State::Pending => 0,
        State::Running => 1,
        State::Completed => 2,
        State::Scheduled => 3,
        State::Blocked => 4,
        State::Paused => 5,
        State::Failed => 6,
        State::Cancelled => 7,
        State::Skipped => 8,
        State::Dead => 9,
    }
}

/// The state of a number.
pub(crate) fn state_of(code: u8) -> Result<State, Damage> {
    State::ALL
        .into_iter()
        .find(|state| state_code(*state) == code)
        .ok_or(Damage("the state is unknown"))
}
