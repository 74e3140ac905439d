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
    /// Commands of a group have so many slots and tokens together at most.
    pub(super) group: usize,
    /// How many.
    pub(super) most: u32,
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

/// The next step towards: no more tokens than slots that commands do not have, over all and within each group; none in lanes without a command; one lying ready in each lane
/// with one, as far as they reach, first where fewest are; and, if `patience_over`, another lane's turn to have one where they do not.
pub(super) fn next(slots: u32, lanes: &[View], patience_over: bool) -> Option<Action> {
    let surplus = lanes
        .iter()
        .position(|lane| lane.ready > u32::from(lane.used));
    if let Some(lane) = surplus {
        return Some(Action::Take(lane));
    }
    let taken = |lane: &View| lane.placed + u32::from(lane.used);
    let all: u32 = lanes.iter().map(taken).sum();
    let groups = lanes.iter().map(|lane| lane.group + 1).max()?;
    let mut by_group = vec![0; groups];
    for lane in lanes {
        by_group[lane.group] += taken(lane);
    }
    let ready = || lanes.iter().enumerate().filter(|(_, lane)| lane.ready > 0);
    // From who has most; what is held cannot be taken.
    let over = ready()
        .filter(|(_, lane)| all > slots || by_group[lane.group] > lane.most)
        .max_by_key(|(_, lane)| lane.placed);
    if let Some((lane, _)) = over {
        return Some(Action::Take(lane));
    }
    let bare = || {
        let lanes = lanes.iter().enumerate();
        lanes.filter(|(_, lane)| lane.used && lane.ready == 0)
    };
    let has_room = |lane: &View| by_group[lane.group] < lane.most;
    if all < slots {
        let hungriest = bare()
            .filter(|(_, lane)| has_room(lane))
            .min_by_key(|(_, lane)| (lane.placed, lane.changed));
        if let Some((lane, _)) = hungriest {
            return Some(Action::Put(lane));
        }
    }
    if !patience_over || all > slots {
        return None;
    }
    let mut lying: Vec<(usize, &View)> = ready().collect();
    lying.sort_unstable_by_key(|(_, lane)| lane.changed);
    lying.into_iter().find_map(|(from, lane)| {
        let (to, _) = bare()
            .filter(|(_, other)| other.group == lane.group || has_room(other))
            .min_by_key(|(_, lane)| lane.changed)?;
        Some(Action::Move { from, to })
    })
}
