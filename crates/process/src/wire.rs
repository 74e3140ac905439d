//! Messages between a program and its keepers: length, kind, number of descriptors, body.
//!
//! Both ends are the same binary, so the form is private and carries no version; numbers are little-endian. A body is bounded by
//! [`MESSAGE_BYTES_MAX`] on both sides. A message that does not decode is the end of the connection: the other side is not ours.
//!
//! Leaves out: what the messages mean (`keeper`, `reactor`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::sys::{self, Standing};

/// Most bytes in one message. Arguments and environment of a process may not pass a quarter of its stack limit (2 MiB as most
/// systems are set, 6 MiB at most), so whatever fits the kernel fits here.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

const HEADER_BYTES: usize = 6;

/// What a message is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Program → server, with the standard input that commands inherit.
    Hello = 1,
    /// Server or keeper → program: its process id.
    Ready,
    /// Program → server, with a socket, and what to enter its control group by if it has one: make a keeper on it.
    Keeper,
    /// Program → keeper: start a command.
    Spawn,
    /// Program → keeper: end the tree.
    Kill,
    /// Program → keeper: signal the tree.
    Signal,
    /// Program → keeper: stop the tree and its clock.
    Pause,
    /// Program → keeper: let it go on.
    Resume,
    /// Keeper → program: it runs, its process id.
    Started,
    /// Keeper → program: it could not start.
    Failed,
    /// Keeper → program: all of the tree has ended.
    Exited,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Kind> {
        use Kind::{
            Exited, Failed, Hello, Keeper, Kill, Pause, Ready, Resume, Signal, Spawn, Started,
        };
        [
            Hello, Ready, Keeper, Spawn, Kill, Signal, Pause, Resume, Started, Failed, Exited,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == value)
    }
}

/// A received message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Sends one message whole.
pub(crate) fn send(socket: &UnixStream, kind: Kind, body: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    frame(&mut bytes, kind, body, fds.len());
    send_framed(socket, &bytes, fds)
}

/// Appends a message to `bytes`.
pub(crate) fn frame(bytes: &mut Vec<u8>, kind: Kind, body: &[u8], fds: usize) {
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.push(kind as u8);
    bytes.push(fds as u8);
    bytes.extend_from_slice(body);
}

/// Sends messages that [`frame`] made; `fds` belong to the first.
pub(crate) fn send_framed(
    socket: &UnixStream,
    mut bytes: &[u8],
    mut fds: &[RawFd],
) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = sys::retry(|| sys::send(socket.as_fd(), bytes, fds))?;
        bytes = &bytes[sent..];
        fds = &[];
    }
    Ok(())
}

/// How much of what was sent has not been read yet, bytes as the kernel counts them; some 800 for a short message.
pub(crate) fn unread(socket: &UnixStream) -> usize {
    sys::unread(socket.as_fd())
}

/// The receiving side of a socket: puts messages together again.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    fds: VecDeque<OwnedFd>,
}

/// What reading found.
pub(crate) enum Received {
    /// A message.
    Message(Message),
    /// Nothing more for now.
    Later,
    /// The other end is gone.
    Closed,
}

impl Inbox {
    /// The next message. `wait` reads until there is one.
    ///
    /// # Errors
    /// From the socket, and `InvalidData` for what is not a message.
    pub(crate) fn next(&mut self, socket: BorrowedFd<'_>, wait: bool) -> io::Result<Received> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Received::Message(message));
            }
            const CHUNK_BYTES: usize = 16 * 1024;
            if self.start > 0 {
                self.bytes.drain(..self.start);
                self.start = 0;
            }
            let filled = self.bytes.len();
            self.bytes.resize(filled + CHUNK_BYTES, 0);
            let result =
                sys::retry(|| sys::receive(socket, &mut self.bytes[filled..], &mut self.fds, wait));
            self.bytes
                .truncate(filled + result.as_ref().copied().unwrap_or(0));
            match result {
                Ok(0) => return Ok(Received::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Received::Later);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Received::Closed);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Message>> {
        let bytes = &self.bytes[self.start..];
        let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let (kind, fds) = (Kind::from_u8(header[4]), usize::from(header[5]));
        let (Some(kind), true, true) = (kind, length <= MESSAGE_BYTES_MAX, fds <= sys::FDS_MAX)
        else {
            return Err(malformed());
        };
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        if self.fds.len() < fds {
            return Err(malformed());
        }
        let message = Message {
            kind,
            body: body.to_vec(),
            fds: self.fds.drain(..fds).collect(),
        };
        self.start += HEADER_BYTES + length;
        Ok(Some(message))
    }
}

pub(crate) fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a message between the program and its spawn server does not decode",
    )
}

/// Appends values.
pub(crate) trait Put {
    fn u8(&mut self, value: u8);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    fn bytes(&mut self, value: &[u8]);
    fn maybe(&mut self, value: Option<u64>);
}

impl Put for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }
    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.extend_from_slice(value);
    }
    fn maybe(&mut self, value: Option<u64>) {
        self.u8(value.is_some().into());
        if let Some(value) = value {
            self.u64(value);
        }
    }
}

/// Takes values off the front; every method fails on what is too short.
pub(crate) struct Take<'a>(pub(crate) &'a [u8]);

impl<'a> Take<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(head)
    }
    pub(crate) fn u8(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }
    pub(crate) fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(
            self.take(4)?.try_into().map_err(|_| malformed())?,
        ))
    }
    pub(crate) fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(
            self.take(8)?.try_into().map_err(|_| malformed())?,
        ))
    }
    pub(crate) fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let count = self.u32()? as usize;
        self.take(count)
    }
    pub(crate) fn maybe(&mut self) -> io::Result<Option<u64>> {
        Ok(if self.u8()? != 0 {
            Some(self.u64()?)
        } else {
            None
        })
    }
    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> io::Result<T>) -> io::Result<Vec<T>> {
        let count = self.u32()? as usize;
        // Not reserved up front: the count is not believed before the bytes are there.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(one(self)?);
        }
        Ok(items)
    }
}

/// Where one of a command's outputs goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sink {
    /// The server's own descriptor of that number.
    Inherit,
    /// The null device.
    Null,
    /// The next descriptor of the message, as it is.
    Direct,
    /// Kept up to so many bytes.
    Capture { limit: u64 },
    /// Written to the next descriptor of the message up to so many bytes.
    File { limit: u64 },
}

/// A command as a keeper receives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spec {
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) cwd: Option<Vec<u8>>,
    pub(crate) clear_env: bool,
    pub(crate) env: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) sinks: [Sink; 3],
    pub(crate) timeout_ns: Option<u64>,
    pub(crate) grace_ns: u64,
    pub(crate) standing: Standing,
    pub(crate) nice: i32,
    pub(crate) sched_idle: bool,
    pub(crate) io_priority: Option<u32>,
    pub(crate) affinity: Vec<u16>,
    pub(crate) limits: Vec<(u32, u64, u64)>,
    pub(crate) umask: Option<u32>,
    /// The numbers that the last descriptors of the message get.
    pub(crate) descriptors: Vec<u32>,
}

impl Spec {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.u32(self.argv.len() as u32);
        self.argv.iter().for_each(|argument| out.bytes(argument));
        out.u8(self.cwd.is_some().into());
        out.bytes(self.cwd.as_deref().unwrap_or_default());
        out.u8(self.clear_env.into());
        out.u32(self.env.len() as u32);
        for (name, value) in &self.env {
            out.bytes(name);
            out.u8(value.is_some().into());
            out.bytes(value.as_deref().unwrap_or_default());
        }
        for sink in self.sinks {
            let (tag, limit) = match sink {
                Sink::Inherit => (0, 0),
                Sink::Null => (1, 0),
                Sink::Direct => (2, 0),
                Sink::Capture { limit } => (3, limit),
                Sink::File { limit } => (4, limit),
            };
            out.u8(tag);
            out.u64(limit);
        }
        out.maybe(self.timeout_ns);
        out.u64(self.grace_ns);
        let (tag, group) = match self.standing {
            Standing::Session => (0, 0),
            Standing::Group => (1, 0),
            Standing::Join(group) => (2, group),
        };
        out.u8(tag);
        out.u32(group as u32);
        out.u32(self.nice as u32);
        out.u8(self.sched_idle.into());
        out.maybe(self.io_priority.map(u64::from));
        out.u32(self.affinity.len() as u32);
        self.affinity.iter().for_each(|cpu| out.u32((*cpu).into()));
        out.u32(self.limits.len() as u32);
        for (resource, soft, hard) in &self.limits {
            out.u32(*resource);
            out.u64(*soft);
            out.u64(*hard);
        }
        out.maybe(self.umask.map(u64::from));
        out.u32(self.descriptors.len() as u32);
        self.descriptors.iter().for_each(|number| out.u32(*number));
        out
    }

    pub(crate) fn decode(body: &[u8]) -> io::Result<Spec> {
        let mut take = Take(body);
        let argv = take.many(|take| Ok(take.bytes()?.to_vec()))?;
        let has_cwd = take.u8()? != 0;
        let cwd = take.bytes()?.to_vec();
        let clear_env = take.u8()? != 0;
        let env = take.many(|take| {
            let name = take.bytes()?.to_vec();
            let set = take.u8()? != 0;
            let value = take.bytes()?.to_vec();
            Ok((name, set.then_some(value)))
        })?;
        let mut sinks = [Sink::Null; 3];
        for sink in &mut sinks {
            let (tag, limit) = (take.u8()?, take.u64()?);
            *sink = match tag {
                0 => Sink::Inherit,
                1 => Sink::Null,
                2 => Sink::Direct,
                3 => Sink::Capture { limit },
                4 => Sink::File { limit },
                _ => return Err(malformed()),
            };
        }
        let timeout_ns = take.maybe()?;
        let grace_ns = take.u64()?;
        let (tag, group) = (take.u8()?, take.u32()? as i32);
        let standing = match tag {
            0 => Standing::Session,
            1 => Standing::Group,
            2 => Standing::Join(group),
            _ => return Err(malformed()),
        };
        Ok(Spec {
            argv,
            cwd: has_cwd.then_some(cwd),
            clear_env,
            env,
            sinks,
            timeout_ns,
            grace_ns,
            standing,
            nice: take.u32()? as i32,
            sched_idle: take.u8()? != 0,
            io_priority: take.maybe()?.map(|value| value as u32),
            affinity: take.many(|take| Ok(take.u32()? as u16))?,
            limits: take.many(|take| Ok((take.u32()?, take.u64()?, take.u64()?)))?,
            umask: take.maybe()?.map(|value| value as u32),
            descriptors: take.many(Take::u32)?,
        })
    }
}

/// What became of one captured output.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Caught {
    /// All bytes that the tree wrote.
    pub(crate) written: u64,
    /// Those that were kept.
    pub(crate) kept: u64,
    /// The kept bytes, when there is no file.
    pub(crate) inline: Vec<u8>,
    /// They are in a file, whose descriptor is the next of the message.
    pub(crate) spilled: bool,
    /// The errno that ended the keeping, else 0.
    pub(crate) errno: u32,
}

/// The end of a command as a keeper reports it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Report {
    pub(crate) status: i32,
    pub(crate) timed_out: bool,
    pub(crate) killed: bool,
    pub(crate) leftovers: u32,
    pub(crate) survivors: u32,
    pub(crate) wall_ns: u64,
    pub(crate) paused_ns: u64,
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) peak_rss_kib: u64,
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
    /// Bytes read and written by system calls, then from and to storage.
    pub(crate) io: Option<[u64; 4]>,
    pub(crate) outputs: [Option<Caught>; 2],
}

impl Report {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        out.u32(self.status as u32);
        out.u8(self.timed_out.into());
        out.u8(self.killed.into());
        out.u32(self.leftovers);
        out.u32(self.survivors);
        for value in [
            self.wall_ns,
            self.paused_ns,
            self.user_us,
            self.system_us,
            self.peak_rss_kib,
            self.voluntary,
            self.involuntary,
        ] {
            out.u64(value);
        }
        out.u8(self.io.is_some().into());
        self.io
            .unwrap_or_default()
            .into_iter()
            .for_each(|value| out.u64(value));
        for output in &self.outputs {
            out.u8(output.is_some().into());
            if let Some(output) = output {
                out.u64(output.written);
                out.u64(output.kept);
                out.u8(output.spilled.into());
                out.u32(output.errno);
                out.bytes(&output.inline);
            }
        }
        out
    }

    pub(crate) fn decode(body: &[u8]) -> io::Result<Report> {
        let mut take = Take(body);
        let mut report = Report {
            status: take.u32()? as i32,
            timed_out: take.u8()? != 0,
            killed: take.u8()? != 0,
            leftovers: take.u32()?,
            survivors: take.u32()?,
            wall_ns: take.u64()?,
            paused_ns: take.u64()?,
            user_us: take.u64()?,
            system_us: take.u64()?,
            peak_rss_kib: take.u64()?,
            voluntary: take.u64()?,
            involuntary: take.u64()?,
            ..Report::default()
        };
        let known = take.u8()? != 0;
        let io = [take.u64()?, take.u64()?, take.u64()?, take.u64()?];
        report.io = known.then_some(io);
        for output in &mut report.outputs {
            if take.u8()? != 0 {
                *output = Some(Caught {
                    written: take.u64()?,
                    kept: take.u64()?,
                    spilled: take.u8()? != 0,
                    errno: take.u32()?,
                    inline: take.bytes()?.to_vec(),
                });
            }
        }
        Ok(report)
    }
}

/// Descriptor numbers of owned descriptors, for sending.
pub(crate) fn raw(fds: &[OwnedFd]) -> Vec<RawFd> {
    fds.iter().map(AsRawFd::as_raw_fd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            argv: vec![b"a".to_vec(), vec![0xff, 0xfe], Vec::new()],
            cwd: Some(b"/".to_vec()),
            clear_env: true,
            env: vec![(b"X".to_vec(), Some(b"1".to_vec())), (b"Y".to_vec(), None)],
            sinks: [
                Sink::Null,
                Sink::Capture { limit: 7 },
                Sink::File { limit: u64::MAX },
            ],
            timeout_ns: Some(5),
            grace_ns: 9,
            standing: Standing::Join(42),
            nice: -3,
            sched_idle: true,
            io_priority: Some(3 << 13),
            affinity: vec![0, 5],
            limits: vec![(7, 1, 2)],
            umask: Some(0o27),
            descriptors: vec![98],
        }
    }

    #[test]
    fn a_spec_survives_the_wire_and_no_prefix_of_it_decodes() {
        let bytes = spec().encode();
        assert_eq!(Spec::decode(&bytes).unwrap(), spec());
        for length in 0..bytes.len() {
            assert!(
                Spec::decode(&bytes[..length]).is_err(),
                "{length} of {} bytes decoded",
                bytes.len()
            );
        }
    }

    #[test]
    fn a_report_survives_the_wire_and_no_prefix_of_it_decodes() {
        let report = Report {
            status: 256,
            timed_out: true,
            io: Some([1, 2, 3, 4]),
            outputs: [
                Some(Caught {
                    written: 9,
                    kept: 3,
                    inline: b"abc".to_vec(),
                    ..Caught::default()
                }),
                None,
            ],
            ..Report::default()
        };
        let bytes = report.encode();
        assert_eq!(Report::decode(&bytes).unwrap(), report);
        for length in 0..bytes.len() {
            assert!(Report::decode(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn messages_and_their_descriptors_arrive_in_order_and_whole() {
        let (here, there) = UnixStream::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let long = vec![7; 100_000];
        let sender = std::thread::spawn(move || {
            send(&here, Kind::Kill, b"one", &[null.as_raw_fd()]).unwrap();
            send(&here, Kind::Spawn, &long, &[]).unwrap();
            send(
                &here,
                Kind::Pause,
                b"",
                &[null.as_raw_fd(), null.as_raw_fd()],
            )
            .unwrap();
        });
        let mut inbox = Inbox::default();
        for (kind, length, fds) in [
            (Kind::Kill, 3, 1),
            (Kind::Spawn, 100_000, 0),
            (Kind::Pause, 0, 2),
        ] {
            let Received::Message(message) = inbox.next(there.as_fd(), true).unwrap() else {
                panic!("closed")
            };
            assert_eq!(
                (message.kind, message.body.len(), message.fds.len()),
                (kind, length, fds)
            );
        }
        sender.join().unwrap();
        assert!(matches!(
            inbox.next(there.as_fd(), true).unwrap(),
            Received::Closed
        ));
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_it_is_read() {
        let (here, there) = UnixStream::pair().unwrap();
        sys::send(
            here.as_fd(),
            &[0xff, 0xff, 0xff, 0xff, Kind::Spawn as u8, 0],
            &[],
        )
        .unwrap();
        assert!(Inbox::default().next(there.as_fd(), true).is_err());
    }
}
