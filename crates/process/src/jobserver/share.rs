//! Who gets a token: pure, one step at a time.

/// What is known of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct View {
    /// A command has it.
    pub(super) used: bool,
    /// Tokens that were put into it and not taken back: those that lie there and those that its command holds.
    pub(super) placed: u32,
    /// Tokens that lie there.
    pub(super) ready: u32,
    /// When it last changed, in a count of changes.
    pub(super) changed: u64,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Take a token that lies in this lane back to the pool.
    Take(usize),
    /// Put one into this lane.
    Put(usize),
    /// Put the one that lies there into a lane that has none.
    Move { from: usize, to: usize },
}

/// The next step towards: no more tokens than slots that commands do not have; none in lanes without a command; one lying ready in each lane with one, as far as they reach,
/// first where fewest are; and, if `patience_over`, another lane's turn to have one where they do not.
pub(super) fn next(slots: u32, lanes: &[View], patience_over: bool) -> Option<Action> {
    let running = lanes.iter().filter(|lane| lane.used).count() as u32;
    let budget = slots.saturating_sub(running);
    let placed: u32 = lanes.iter().map(|lane| lane.placed).sum();
    let surplus = lanes
        .iter()
        .position(|lane| lane.ready > u32::from(lane.used));
    if let Some(lane) = surplus {
        return Some(Action::Take(lane));
    }
    let ready = || lanes.iter().enumerate().filter(|(_, lane)| lane.ready > 0);
    if placed > budget {
        // From who has most; what is held cannot be taken.
        return ready()
            .max_by_key(|(_, lane)| lane.placed)
            .map(|(index, _)| Action::Take(index));
    }
    let bare = || {
        lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.used && lane.ready == 0)
    };
    if placed < budget {
        return bare()
            .min_by_key(|(_, lane)| (lane.placed, lane.changed))
            .map(|(index, _)| Action::Put(index));
    }
    if !patience_over {
        return None;
    }
    let (from, _) = ready().min_by_key(|(_, lane)| lane.changed)?;
    let (to, _) = bare().min_by_key(|(_, lane)| lane.changed)?;
    Some(Action::Move { from, to })
}
