//! What attempts leave behind: signs of life, checkpoints, errors and results.

use super::head::{duration, take_duration};
use super::wire::{Column, Damage, Put, Take};
use crate::task::Usage;
use bytes::Bytes;
use flyball_policy::queue::TaskId;

/// The last progress and the last line of text of an attempt.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Progress {
    /// Of which attempt.
    pub(crate) attempt: u32,
    pub(crate) percent: Option<f32>,
    pub(crate) message: Option<Box<str>>,
}

/// What the last attempt used and, if it is done, answered.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Outcome {
    pub(crate) usage: Usage,
    pub(crate) result: Option<Bytes>,
}

pub(crate) fn encode_progress(into: &mut Vec<u8>, progress: &Progress, id: TaskId) {
    let mut put = Put::new(into);
    put.u32(progress.attempt);
    put.option(progress.percent, Put::f32);
    put.option(progress.message.as_deref(), Put::str);
    put.seal(Column::Beat, id);
}

pub(crate) fn decode_progress(sealed: &[u8], id: TaskId) -> Result<Progress, Damage> {
    let take = &mut Take::open(sealed, Column::Beat, id)?;
    let progress = Progress {
        attempt: take.u32()?,
        percent: take.option(Take::f32)?,
        message: take.option(Take::text)?,
    };
    take.end()?;
    Ok(progress)
}

pub(crate) fn encode_checkpoint(into: &mut Vec<u8>, checkpoint: &[u8], id: TaskId) {
    let mut put = Put::new(into);
    put.rest(checkpoint);
    put.seal(Column::Checkpoint, id);
}

pub(crate) fn decode_checkpoint(sealed: &Bytes, id: TaskId) -> Result<Bytes, Damage> {
    let mut take = Take::open(sealed, Column::Checkpoint, id)?;
    Ok(sealed.slice(take.rest()))
}

pub(crate) fn encode_failure(into: &mut Vec<u8>, error: &str, id: TaskId) {
    let mut put = Put::new(into);
    put.rest(error.as_bytes());
    put.seal(Column::Failure, id);
}

pub(crate) fn decode_failure(sealed: &[u8], id: TaskId) -> Result<Box<str>, Damage> {
    let mut take = Take::open(sealed, Column::Failure, id)?;
    std::str::from_utf8(&sealed[take.rest()])
        .map(Box::from)
        .map_err(|_| Damage("a text is not UTF-8"))
}

pub(crate) fn encode_outcome(into: &mut Vec<u8>, usage: &Usage, result: Option<&[u8]>, id: TaskId) {
    let mut put = Put::new(into);
    put.option(usage.cpu, duration);
    put.option(usage.peak_memory_bytes, Put::u64);
    put.option(usage.read_bytes, Put::u64);
    put.option(usage.written_bytes, Put::u64);
    put.option(usage.exit_status, Put::i32);
    put.option(usage.signal, Put::i32);
    put.option(result, Put::rest);
    put.seal(Column::Outcome, id);
}

pub(crate) fn decode_outcome(sealed: &Bytes, id: TaskId) -> Result<Outcome, Damage> {
    let take = &mut Take::open(sealed, Column::Outcome, id)?;
    let usage = Usage {
        cpu: take.option(take_duration)?,
        peak_memory_bytes: take.option(Take::u64)?,
        read_bytes: take.option(Take::u64)?,
        written_bytes: take.option(Take::u64)?,
        exit_status: take.option(Take::i32)?,
        signal: take.option(Take::i32)?,
    };
    let result = take.option(|take| Ok(sealed.slice(take.rest())))?;
    take.end()?;
    Ok(Outcome { usage, result })
}
