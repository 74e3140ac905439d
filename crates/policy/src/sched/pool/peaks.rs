//! The greatest want of a sliding time, in bounded memory.

use alloc::collections::VecDeque;
use core::time::Duration;

use flyball_core::time::Timestamp;

/// Pieces that the longest time is kept in.
const PIECES: u32 = 256;

/// The greatest figure of a piece of time.
#[derive(Clone, Copy, Debug)]
struct Piece {
    from: Timestamp,
    to: Timestamp,
    greatest: f64,
}

/// The greatest figures of a sliding time.
#[derive(Clone, Debug)]
pub(super) struct Peaks {
    pieces: VecDeque<Piece>,
    /// When the first figure came.
    since: Option<Timestamp>,
}

impl Peaks {
    pub(super) fn new() -> Self {
        Self {
            pieces: VecDeque::new(),
            since: None,
        }
    }

    /// Takes in a figure; figures older than `kept` are forgotten.
    pub(super) fn push(&mut self, now: Timestamp, figure: f64, kept: Duration) {
        self.since.get_or_insert(now);
        let long = kept / PIECES;
        match self.pieces.back_mut() {
            Some(last) if now.duration_since(last.from) < long => {
                last.to = now;
                last.greatest = last.greatest.max(figure);
            }
            _ => {
                if self.pieces.len() > PIECES as usize {
                    self.pieces.pop_front();
                }
                self.pieces.push_back(Piece {
                    from: now,
                    to: now,
                    greatest: figure,
                });
            }
        }
    }

    /// Returns the greatest figure of the last `window`; `None` while fewer figures are known.
    pub(super) fn greatest(&self, now: Timestamp, window: Duration) -> Option<f64> {
        let since = self.since?;
        if now.duration_since(since) < window {
            return None;
        }
        let oldest = now.saturating_sub(window);
        self.pieces
            .iter()
            .rev()
            .take_while(|piece| piece.to >= oldest)
            .map(|piece| piece.greatest)
            .reduce(f64::max)
    }
}
