//! Inputs, one after the other, without holding more of them than needed.
//!
//! Lists of the command line and files that are combined are held; a single file, or standard input, is read by a thread a batch at
//! a time, as commands want more (`reading`). Under `--pipe` the thread cuts the stream into blocks, each a file without a name
//! that a command gets as its standard input (`blocks`).
//!
//! Invariant: what is read ahead has a bound, and so has what is held ([`reading::HELD_BYTES_MAX`]).

mod blocks;
mod columns;
mod lists;
mod reading;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::sync::Arc;

pub(crate) use blocks::{BLOCK_BYTES_MAX, Cutter};
pub(crate) use columns::{Columns, Trim};
pub(crate) use lists::Lists;
pub(crate) use reading::Records;

use crate::template::Values;
use reading::{BATCH, Thread};

/// What a reading thread has found.
pub(crate) enum Read {
    /// Some inputs, in order.
    Some(Vec<OsString>),
    /// A block of standard input.
    Block(Arc<File>),
    /// No more, or an error.
    End(io::Result<()>),
}

/// The inputs of one command.
#[derive(Clone, Default, Debug)]
pub(crate) struct Input {
    pub(crate) values: Values,
    /// What it reads on standard input.
    pub(crate) block: Option<Arc<File>>,
    /// Its number, where that is not the next one.
    pub(crate) number: Option<u64>,
}

impl From<Values> for Input {
    fn from(values: Values) -> Input {
        Input {
            values,
            ..Input::default()
        }
    }
}

/// What asking for inputs finds.
pub(crate) enum Next {
    /// The inputs of one command.
    Input(Input),
    /// More may come.
    Later,
    /// No more.
    End,
}

enum Kind {
    Lists(Lists),
    Records(Thread<OsString>),
    Blocks(Thread<Arc<File>>),
    /// Commands with the numbers that they had before.
    Numbered {
        rest: VecDeque<(u64, OsString)>,
        total: u64,
    },
    /// One command without inputs.
    Once {
        done: bool,
    },
}

/// Where inputs come from.
pub(crate) struct Source {
    kind: Kind,
    columns: Option<Columns>,
}

impl Source {
    fn of(kind: Kind) -> Source {
        Source {
            kind,
            columns: None,
        }
    }

    /// Inputs that are all there.
    pub(crate) fn lists(lists: Lists) -> Source {
        Source::of(Kind::Lists(lists))
    }

    /// Records that a thread reads, which tells `found`; a false answer ends it.
    pub(crate) fn records(
        records: Records,
        found: impl Fn(Read) -> bool + Send + 'static,
    ) -> Source {
        Source::of(Kind::Records(reading::records(records, found)))
    }

    /// Blocks that a thread cuts, which tells `found`; a false answer ends it.
    pub(crate) fn blocks(cutter: Cutter, found: impl Fn(Read) -> bool + Send + 'static) -> Source {
        Source::of(Kind::Blocks(blocks::thread(cutter, found)))
    }

    /// Whole commands with their numbers.
    pub(crate) fn numbered(commands: Vec<(u64, OsString)>) -> Source {
        Source::of(Kind::Numbered {
            total: commands.len() as u64,
            rest: commands.into(),
        })
    }

    /// One command without inputs.
    pub(crate) fn once() -> Source {
        Source::of(Kind::Once { done: false })
    }

    /// Splits each input into several.
    pub(crate) fn with_columns(mut self, columns: Option<Columns>) -> Source {
        self.columns = columns;
        self
    }

    pub(crate) fn is_once(&self) -> bool {
        matches!(self.kind, Kind::Once { .. })
    }

    /// How many commands there will be with so many inputs each, where that is known.
    pub(crate) fn total(&self, each: usize) -> Option<u64> {
        match &self.kind {
            Kind::Lists(lists) => Some(lists.total(each)),
            Kind::Records(_) | Kind::Blocks(_) => None,
            Kind::Numbered { total, .. } => Some(*total),
            Kind::Once { .. } => Some(1),
        }
    }

    /// Takes in what the thread has read.
    pub(crate) fn arrived(&mut self, read: Read) -> io::Result<()> {
        match (&mut self.kind, read) {
            (Kind::Records(thread), Read::Some(batch)) => thread.arrived(batch),
            (Kind::Blocks(thread), Read::Block(block)) => thread.arrived([block]),
            (Kind::Records(thread), Read::End(result)) => {
                thread.end();
                return result;
            }
            (Kind::Blocks(thread), Read::End(result)) => {
                thread.end();
                return result;
            }
            _ => {}
        }
        Ok(())
    }

    /// The inputs of the next command: up to `count`, within `bytes`.
    pub(crate) fn next(&mut self, count: usize, bytes: usize) -> Next {
        let values = match &mut self.kind {
            Kind::Once { done } => match std::mem::replace(done, true) {
                true => return Next::End,
                false => Values::new(),
            },
            Kind::Lists(lists) => match lists.next(count, bytes) {
                Some(values) => values,
                None => return Next::End,
            },
            Kind::Numbered { rest, .. } => {
                return match rest.pop_front() {
                    Some((number, command)) => Next::Input(Input {
                        values: vec![command],
                        block: None,
                        number: Some(number),
                    }),
                    None => Next::End,
                };
            }
            Kind::Blocks(thread) => {
                // One ahead of what is taken: a block is large.
                if thread.ready.len() < 2 {
                    thread.ask();
                }
                return match thread.ready.pop_front() {
                    Some(block) => Next::Input(Input {
                        block: Some(block),
                        ..Input::default()
                    }),
                    None if thread.ended => Next::End,
                    None => Next::Later,
                };
            }
            Kind::Records(thread) => {
                let taken = fitting(thread.ready.iter(), count, bytes);
                let enough = taken == count || taken < thread.ready.len() || thread.ended;
                if thread.ready.len() < BATCH || !enough {
                    thread.ask();
                }
                match (taken, enough) {
                    (0, _) if thread.ended => return Next::End,
                    (_, true) if taken > 0 => thread.ready.drain(..taken).collect(),
                    _ => return Next::Later,
                }
            }
        };
        let values = match &self.columns {
            Some(columns) => values
                .iter()
                .flat_map(|value| columns.split(value))
                .collect(),
            None => values,
        };
        Next::Input(values.into())
    }
}

/// How many of the next inputs make one command: at least one.
fn fitting<'a>(inputs: impl Iterator<Item = &'a OsString>, count: usize, bytes: usize) -> usize {
    let mut sum = 0_usize;
    inputs
        .take(count)
        .enumerate()
        .take_while(|(index, input)| {
            sum = sum.saturating_add(input.len() + 1);
            *index == 0 || sum <= bytes
        })
        .count()
}
