//! What a task is run with: read when it is leased or looked at, and by nobody else.

use super::wire::{Column, Damage, Put, Take};
use crate::{CommandSpec, HttpSpec, IoPriority, Label, Limit, Run};
use bytes::Bytes;
use flyball_policy::queue::TaskId;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Flags of a call in the store. Bits are never given again.
const HEDGE: u8 = 1;
const REMOTE: u8 = 2;

/// How a task runs, with what, and how it is found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Body {
    pub(crate) run: Run,
    pub(crate) payload: Bytes,
    pub(crate) labels: Vec<Label>,
    pub(crate) secrets: Vec<Box<str>>,
}

/// Writes a body. Labels come first, as lists look for them, the payload last, as it is the largest.
pub(crate) fn write(
    put: &mut Put<'_>,
    run: &Run,
    payload: &[u8],
    labels: &[Label],
    secrets: &[Box<str>],
) {
    put.list(labels, |put, (name, value)| {
        put.str(name);
        put.str(value);
    });
    put.list(secrets, |put, secret| put.str(secret));
    match run {
        Run::Handler => put.u8(0),
        Run::Command(command) => {
            put.u8(1);
            put_command(put, command);
        }
        Run::Http(call) => {
            put.u8(2);
            put.str(&call.method);
            put.str(&call.url);
            put.list(&call.headers, |put, (name, value)| {
                put.str(name);
                put.str(value);
            });
            put.option(call.body.as_deref(), |put, body| put.bytes(body));
            put.option(call.dependency.as_deref(), |put, name| put.str(name));
            put.u8((u8::from(call.hedge) * HEDGE) | (u8::from(call.remote) * REMOTE));
        }
    }
    put.rest(payload);
}

fn put_command(put: &mut Put<'_>, command: &CommandSpec) {
    put.list(&command.argv, |put, word| put.bytes(word.as_bytes()));
    put.option(command.cwd.as_ref(), |put, folder| {
        put.bytes(folder.as_os_str().as_bytes());
    });
    put.list(&command.env, |put, (name, value)| {
        put.bytes(name.as_bytes());
        put.bytes(value.as_bytes());
    });
    put.bool(command.clear_env);
    put.option(command.umask, Put::u32);
    put.i32(command.nice);
    put.option(command.io_priority, |put, turn| match turn {
        IoPriority::BestEffort(level) => {
            put.u8(0);
            put.u8(level);
        }
        IoPriority::Idle => put.u8(1),
    });
    put.list(&command.affinity, |put, cpu| put.u32(u32::from(*cpu)));
    put.list(&command.limits, |put, (limit, value)| {
        put.u8(limit_code(*limit));
        put.u64(*value);
    });
    put.bool(command.retry_on_failure);
    put.bool(command.local);
}

/// Reads a body; the payload stays where it is.
pub(crate) fn decode(sealed: &Bytes, id: TaskId) -> Result<Body, Damage> {
    let take = &mut Take::open(sealed, Column::Body, id)?;
    let labels = take.list(|take| Ok((take.text()?, take.text()?)))?;
    let secrets = take.list(Take::text)?;
    let run = match take.u8()? {
        0 => Run::Handler,
        1 => Run::Command(Box::new(take_command(take)?)),
        2 => {
            let mut call = HttpSpec {
                method: take.str()?.to_owned(),
                url: take.str()?.to_owned(),
                headers: take.list(|take| Ok((take.str()?.to_owned(), take.str()?.to_owned())))?,
                body: take.option(|take| take.bytes().map(Bytes::copy_from_slice))?,
                dependency: take.option(Take::text)?,
                hedge: false,
                remote: false,
            };
            let flags = take.u8()?;
            if flags & !(HEDGE | REMOTE) != 0 {
                return Err(Damage("a flag of the call is unknown"));
            }
            (call.hedge, call.remote) = (flags & HEDGE != 0, flags & REMOTE != 0);
            Run::Http(Box::new(call))
        }
        _ => return Err(Damage("how the task runs is unknown")),
    };
    let payload = sealed.slice(take.rest());
    Ok(Body {
        run,
        payload,
        labels,
        secrets,
    })
}

/// Reads the labels only.
pub(crate) fn labels(sealed: &[u8], id: TaskId) -> Result<Vec<Label>, Damage> {
    Take::open(sealed, Column::Body, id)?.list(|take| Ok((take.text()?, take.text()?)))
}

fn take_command(take: &mut Take<'_>) -> Result<CommandSpec, Damage> {
    let word = |take: &mut Take<'_>| Ok(OsStr::from_bytes(take.bytes()?).to_owned());
    Ok(CommandSpec {
        argv: take.list(word)?,
        cwd: take.option(|take| Ok(PathBuf::from(OsString::from_vec(take.bytes()?.to_vec()))))?,
        env: take.list(|take| Ok((word(take)?, word(take)?)))?,
        clear_env: take.bool()?,
        umask: take.option(Take::u32)?,
        nice: take.i32()?,
        io_priority: take.option(|take| match take.u8()? {
            0 => take.u8().map(IoPriority::BestEffort),
            1 => Ok(IoPriority::Idle),
            _ => Err(Damage("the turn at the disk is unknown")),
        })?,
        affinity: take
            .list(|take| u16::try_from(take.u32()?).map_err(|_| Damage("a number is too large")))?,
        limits: take.list(|take| Ok((limit_of(take.u8()?)?, take.u64()?)))?,
        retry_on_failure: take.bool()?,
        local: take.bool()?,
    })
}

/// The number of a limit in the store. Numbers are never given again.
const fn limit_code(limit: Limit) -> u8 {
    match limit {
        Limit::AddressSpace => 0,
        Limit::Core => 1,
        Limit::CpuSeconds => 2,
        Limit::Data => 3,
        Limit::FileSize => 4,
        Limit::OpenFiles => 5,
        Limit::Processes => 6,
        Limit::Stack => 7,
    }
}

fn limit_of(code: u8) -> Result<Limit, Damage> {
    Limit::ALL
        .into_iter()
        .find(|limit| limit_code(*limit) == code)
        .ok_or(Damage("the limit is unknown"))
}
