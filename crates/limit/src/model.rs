//! The word of a gate for `tests/loom.rs`, compiled against loom's primitives.

use crate::gate::slots::Slots;

/// The slots of a gate, as its module describes them.
#[derive(Debug)]
pub struct Model(Slots);

impl Model {
    /// All free.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self(Slots::new(limit))
    }

    /// Comes in if a slot is free and nobody need be asked.
    pub fn enter(&self) -> bool {
        self.0.enter().is_some()
    }

    /// Comes in if a slot is free, holding the lock.
    pub fn enter_asked(&self) -> bool {
        self.0.enter_asked().is_some()
    }

    /// Comes in as long as fewer than so many are, holding the lock.
    pub fn enter_beyond(&self, most: u32) -> bool {
        self.0.enter_beyond(most).is_some()
    }

    /// Leaves; whether somebody waits.
    pub fn leave(&self) -> bool {
        self.0.leave().ask()
    }

    /// Has newcomers ask; whether a slot is free.
    pub fn raise(&self) -> bool {
        self.0.raise().is_free()
    }

    /// Lets newcomers in.
    pub fn lower(&self) {
        self.0.lower();
    }

    /// Changes the limit.
    pub fn set_limit(&self, limit: u32) {
        self.0.set_limit(limit);
    }

    /// Whether a slot is free.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.0.view().is_free()
    }

    /// Calls that are in.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.0.view().in_flight()
    }
}
