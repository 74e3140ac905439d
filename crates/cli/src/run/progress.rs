//! How far the run is: a line at the bottom of a terminal, or now and then a plain line elsewhere.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flyball_core::time::Timestamp;
use flyball_core::units::format_duration;
use std::time::Duration;

use crate::signals;

/// The line is drawn ten times a second at most: more is not read and costs the commands their CPU.
const REDRAW_NS: u64 = 100_000_000;

/// Without a terminal: first after this time, so that a short run says nothing.
const FIRST_LINE_NS: u64 = 5_000_000_000;

/// Without a terminal: then so often.
const NEXT_LINE_NS: u64 = 10_000_000_000;

/// Takes the line away.
pub(crate) const CLEAR: &str = "\r\x1b[2K";

/// Where progress is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nowhere,
    Terminal { color: bool },
    Lines,
}

/// Figures to show.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) running: usize,
    pub(crate) total: Option<u64>,
    /// What the next start waits for, where a bound holds it.
    pub(crate) held_by: Option<&'static str>,
}

/// Draws and clears.
pub(crate) struct Progress {
    mode: Mode,
    started: Timestamp,
    due: Timestamp,
    shown: Arc<AtomicBool>,
}

impl Progress {
    pub(crate) fn new(mode: Mode, now: Timestamp) -> Progress {
        let first = if mode == Mode::Lines {
            FIRST_LINE_NS
        } else {
            REDRAW_NS
        };
        Progress {
            mode,
            started: now,
            due: now.saturating_add_nanos(first),
            shown: Arc::default(),
        }
    }

    /// Whether a line stands on the terminal; for others that print, under the lock of standard error.
    pub(crate) fn shown(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shown)
    }

    /// When to be asked again; `None` if there is nothing to show.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        (self.mode != Mode::Nowhere).then_some(self.due)
    }

    /// Shows the figures if it is time.
    pub(crate) fn show(&mut self, now: Timestamp, figures: Figures) {
        if self.mode == Mode::Nowhere || now < self.due {
            return;
        }
        let mut err = std::io::stderr().lock();
        match self.mode {
            Mode::Terminal { color } => {
                self.due = now.saturating_add_nanos(REDRAW_NS);
                let line = self.line(now, figures);
                let width = signals::terminal_width().unwrap_or(80);
                let bar = bar(figures, width.saturating_sub(line.chars().count() + 1));
                let cut = bar + whole_parts(&line, width.saturating_sub(1));
                let (on, off) = match (color, figures.failed) {
                    (false, _) => ("", ""),
                    (true, 0) => ("\x1b[36m", "\x1b[0m"),
                    (true, _) => ("\x1b[31m", "\x1b[0m"),
                };
                let _ = write!(err, "\r\x1b[2K{on}{cut}{off}");
                self.shown.store(true, Ordering::Relaxed);
            }
            Mode::Lines => {
                self.due = now.saturating_add_nanos(NEXT_LINE_NS);
                let _ = writeln!(err, "flyball: {}", self.line(now, figures));
            }
            Mode::Nowhere => {}
        }
        let _ = err.flush();
    }

    /// Takes the line away, before anything else is written.
    pub(crate) fn clear(&mut self) {
        if self.shown.swap(false, Ordering::Relaxed) {
            let _ = write!(std::io::stderr(), "{CLEAR}");
        }
    }

    fn line(&self, now: Timestamp, figures: Figures) -> String {
        let seconds = now.saturating_nanos_since(self.started) as f64 / 1e9;
        let rate = figures.done as f64 / seconds.max(1e-9);
        let mut line = match figures.total {
            Some(total) => format!("{}/{total}", figures.done),
            None => format!("{} done", figures.done),
        };
        if figures.failed > 0 {
            line += &format!(", {} failed", figures.failed);
        }
        line += &format!(", {} running, {rate:.1}/s", figures.running);
        if let Some(bound) = figures.held_by {
            line += &format!(", waiting for {bound}");
        }
        if let Some(total) = figures.total
            && figures.done > 0
        {
            let left = Duration::from_secs(
                (total.saturating_sub(figures.done) as f64 / rate).round() as u64,
            );
            line += &format!(", {} left", format_duration(left));
        }
        line
    }
}

/// As many parts of a line as fit so many columns: a figure that is cut would be another figure.
fn whole_parts(line: &str, columns: usize) -> &str {
    if line.chars().count() <= columns {
        return line;
    }
    let ends = line.match_indices(", ").map(|(at, _)| at);
    let fits = |at: &usize| line[..*at].chars().count() <= columns;
    &line[..ends.take_while(fits).last().unwrap_or(0)]
}

/// A bar of `room` columns, where there is room and an end in sight.
fn bar(figures: Figures, room: usize) -> String {
    const WIDEST: usize = 30;
    const NARROWEST: usize = 8;
    let inner = room.saturating_sub(3).min(WIDEST);
    match figures.total {
        Some(total) if inner >= NARROWEST && total > 0 => {
            let filled =
                (figures.done.min(total) as u128 * inner as u128 / u128::from(total)) as usize;
            format!("[{}{}] ", "#".repeat(filled), "-".repeat(inner - filled))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_rate_and_time_left() {
        let progress = Progress::new(Mode::Lines, Timestamp::ZERO);
        let figures = Figures {
            done: 20,
            failed: 1,
            running: 2,
            total: Some(60),
            held_by: None,
        };
        let line = progress.line(Timestamp::from_nanos(10_000_000_000), figures);
        assert_eq!(line, "20/60, 1 failed, 2 running, 2.0/s, 20s left");
        let held = Figures {
            done: 0,
            held_by: Some("--load"),
            ..figures
        };
        let line = progress.line(Timestamp::from_nanos(10_000_000_000), held);
        assert_eq!(line, "0/60, 1 failed, 2 running, 0.0/s, waiting for --load");
        assert_eq!(bar(figures, 13), "[###-------] ");
        assert_eq!(bar(figures, 5), "");
        assert_eq!(
            whole_parts("20/60, 12.0/s, 5s left", 22),
            "20/60, 12.0/s, 5s left"
        );
        assert_eq!(whole_parts("20/60, 12.0/s, 5s left", 21), "20/60, 12.0/s");
        assert_eq!(whole_parts("20/60, 12.0/s, 5s left", 12), "20/60");
        assert_eq!(whole_parts("20/60, 12.0/s, 5s left", 3), "");
    }
}
