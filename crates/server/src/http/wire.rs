//! The bytes of one connection on their way to the HTTP library.
//!
//! A head is kept back until it is complete and judged ([`super::head`]); then exactly it and its body are let through, so the next
//! head is judged just as well. A refused head is replaced by a harmless request with `Connection: close`, and the verdict waits for
//! it in the [`Link`]: so refusals are answered in order, as problem documents, by the same code as everything else.
//!
//! Invariants
//! - The library never sees a byte of a head that was refused.
//! - Every wait for the peer is timed: for a head since its first byte (since the connection, for the first), between requests,
//!   and for a peer that does not read. (Bodies: [`super::body`].)
//! - While a request is answered without the library (`express`), the library has nothing to read and nothing left to write.
//! - Memory: a head's bound and one read more.
//!
//! Timers of the HTTP library are not used: its header timeout starts with the end of the last request, so it cannot tell an idle
//! connection from a slow head.

use super::chunks::Chunks;
use super::connections::{Link, Phase};
use super::express::{Lane, Pending};
use super::head::{self, Bounds, Framing, Refusal};
use crate::access::Peer;
use axum::http::StatusCode;
use hyper::rt::ReadBufCursor;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// One read of the socket, bytes.
const READ: usize = 8 * 1024;
/// A refused client may still be sending; closing at once would reset the connection and lose the answer (RFC 9112 §9.6). So much of
/// what it sends is read and thrown away, for so long.
const LINGER_BYTES: usize = 4 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// The waits that a connection may cause.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// For a whole head.
    pub(crate) head: Duration,
    /// Between requests.
    pub(crate) idle: Duration,
    /// For a peer that does not read its answer.
    pub(crate) write: Duration,
}

/// A request that is answered from here.
enum Express {
    Asked(Pending),
    /// The answer, and how much of it was written.
    Answered(Vec<u8>, usize),
}

enum Reading {
    /// Before or in a head, searched up to here.
    Head {
        searched: usize,
    },
    /// In a body of so many more bytes.
    Length(u64),
    Chunked(Chunks),
    /// A request is answered from here, without the library.
    Express(Express),
    /// A head was refused: nothing more is read until the end.
    Refused,
    /// The peer will send nothing more.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Armed {
    Not,
    Head,
    Idle,
}

/// A socket, as the HTTP library reads and writes it.
pub(crate) struct Wire<S> {
    stream: S,
    link: Arc<Link>,
    bounds: Bounds,
    waits: Waits,
    reading: Reading,
    bytes: Vec<u8>,
    /// So many of `bytes` may go to the library.
    cleared: usize,
    read_timer: Pin<Box<Sleep>>,
    armed: Armed,
    write_timer: Option<Pin<Box<Sleep>>>,
    linger: Option<(Pin<Box<Sleep>>, usize)>,
    lane: (Arc<Lane>, Peer),
    /// What the library wrote has not all gone to the socket.
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(
        stream: S,
        link: Arc<Link>,
        bounds: Bounds,
        waits: Waits,
        lane: (Arc<Lane>, Peer),
    ) -> Self {
        Wire {
            stream,
            link,
            bounds,
            waits,
            reading: Reading::Head { searched: 0 },
            bytes: Vec::new(),
            cleared: 0,
            read_timer: Box::pin(tokio::time::sleep(waits.head)),
            armed: Armed::Not,
            write_timer: None,
            linger: None,
            lane,
            unflushed: false,
        }
    }

    /// Reads once; returns how many bytes came, zero at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.bytes.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    fn refuse(&mut self, refusal: Refusal) {
        let method: &[u8] = if self.bytes.starts_with(b"HEAD ") {
            b"HEAD"
        } else {
            b"GET"
        };
        self.bytes.clear();
        self.bytes.extend_from_slice(method);
        self.bytes
            .extend_from_slice(b" / HTTP/1.1\r\nconnection: close\r\n\r\n");
        self.cleared = self.bytes.len();
        self.reading = Reading::Refused;
        self.link.head(Some(refusal), false);
    }

    /// Takes the request that is there onto the short way, if it may go there.
    fn take_express(&mut self) -> bool {
        if self.unflushed || !self.link.is_free() {
            return false;
        }
        let (lane, peer) = &self.lane;
        let Some(taken) = lane.take(&self.bytes, &self.bounds, *peer) else {
            return false;
        };
        if !self.link.begin() {
            return false;
        }
        self.bytes.drain(..taken.bytes);
        self.reading = Reading::Express(Express::Asked(taken.answer));
        true
    }

    /// Goes on with the request on the short way until it is answered; an error where the peer went away or does not read.
    fn poll_express(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Reading::Express(express) = &mut self.reading else {
                return Poll::Ready(Ok(()));
            };
            match express {
                Express::Asked(answer) => {
                    if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                        *express = Express::Answered(answer, 0);
                        continue;
                    }
                    // Who went away waits for nothing. What has come meanwhile is kept, up to a bound.
                    if self.bytes.len() >= self.bounds.bytes {
                        return Poll::Pending;
                    }
                    if ready!(self.poll_fill(cx))? == 0 {
                        self.link.answered();
                        self.reading = Reading::Ended;
                    }
                }
                Express::Answered(answer, sent) => {
                    let written = Pin::new(&mut self.stream).poll_write(cx, &answer[*sent..]);
                    if let Poll::Ready(Ok(count)) = &written {
                        *sent += count;
                    }
                    let all = *sent == answer.len();
                    if ready!(self.poll_written(cx, written))? == 0 && !all {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    if all {
                        self.link.answered();
                        self.reading = Reading::Head { searched: 0 };
                    }
                }
            }
        }
    }

    /// Looks whether what is there makes a head; true if bytes were cleared.
    fn judge(&mut self, searched: usize) -> bool {
        let end = head::end_of(&self.bytes, searched);
        let verdict = match end {
            Ok(end) if end > self.bounds.bytes => Err(head::too_long(&self.bytes, &self.bounds)),
            Ok(end) => head::judge(&self.bytes[..end], &self.bounds).map(|framing| (end, framing)),
            Err(_) if self.bytes.len() >= self.bounds.bytes => {
                Err(head::too_long(&self.bytes, &self.bounds))
            }
            Err(searched) => {
                self.reading = Reading::Head { searched };
                return false;
            }
        };
        match verdict {
            Ok((end, framing)) => {
                self.cleared = end;
                self.reading = match framing {
                    Framing::Length(0) => Reading::Head { searched: 0 },
                    Framing::Length(length) => Reading::Length(length),
                    Framing::Chunked => Reading::Chunked(Chunks::start()),
                };
                self.link.head(None, framing != Framing::Length(0));
            }
            Err(refusal) => self.refuse(refusal),
        }
        true
    }

    /// Clears bytes of the body that are there.
    fn clear_body(&mut self) {
        let ended = match &mut self.reading {
            Reading::Length(left) => {
                let taken = (*left).min(self.bytes.len() as u64);
                self.cleared = taken as usize;
                *left -= taken;
                *left == 0
            }
            Reading::Chunked(chunks) => {
                self.cleared = chunks.advance(&self.bytes);
                if *chunks == Chunks::Broken {
                    // The library finds it broken as well, and closes.
                    self.cleared = self.bytes.len();
                }
                *chunks == Chunks::Done
            }
            _ => false,
        };
        if ended {
            self.reading = Reading::Head { searched: 0 };
            self.link.body_done();
        }
    }

    /// Arms the timer for what is waited for; true if the time is over.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        let (phase, fresh) = self.link.phase();
        let wanted = if !self.bytes.is_empty() || fresh {
            Armed::Head
        } else if phase == Phase::Idle {
            Armed::Idle
        } else {
            Armed::Not
        };
        if wanted != self.armed {
            self.armed = wanted;
            let wait = match wanted {
                Armed::Head => self.waits.head,
                Armed::Idle => self.waits.idle,
                Armed::Not => return false,
            };
            self.read_timer.as_mut().reset(Instant::now() + wait);
        }
        self.armed != Armed::Not && self.read_timer.as_mut().poll(cx).is_ready()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.cleared > 0 {
                return Poll::Ready(Ok(()));
            }
            match self.reading {
                Reading::Refused => return Poll::Pending,
                Reading::Express(_) => ready!(self.poll_express(cx))?,
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Length(_) | Reading::Chunked(_) => {
                    if !self.bytes.is_empty() {
                        self.clear_body();
                    } else if ready!(self.poll_fill(cx))? == 0 {
                        self.reading = Reading::Ended;
                    }
                }
                Reading::Head { searched } => {
                    if self.bytes.len() > searched
                        && (searched == 0 && self.take_express() || self.judge(searched))
                    {
                        self.armed = Armed::Not;
                        continue;
                    }
                    if self.poll_late(cx) {
                        if self.bytes.is_empty() {
                            self.reading = Reading::Ended;
                        } else {
                            self.refuse(Refusal::new(
                                StatusCode::REQUEST_TIMEOUT,
                                format!(
                                    "the head of a request must arrive within {} ms",
                                    self.waits.head.as_millis()
                                ),
                            ));
                        }
                        continue;
                    }
                    let was_empty = self.bytes.is_empty();
                    match ready!(self.poll_fill(cx))? {
                        0 => self.reading = Reading::Ended,
                        _ if was_empty => self.link.partial(),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Ends a wait for the peer to read that has become too long.
    fn poll_written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.write_timer.take().is_some() {
                self.link.unread(false);
            }
            return written;
        }
        let wait = self.waits.write;
        let timer = self.write_timer.get_or_insert_with(|| {
            self.link.unread(true);
            Box::pin(tokio::time::sleep(wait))
        });
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Read for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_ready(cx))?;
        let count = this.cleared.min(buf.remaining());
        buf.put_slice(&this.bytes[..count]);
        this.bytes.drain(..count);
        this.cleared -= count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Write for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unflushed = true;
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.poll_written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unflushed = true;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.poll_written(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        // The library flushes after it has written all that it has.
        this.unflushed &= !flushed.is_ready();
        this.poll_written(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The library does not know of a request on the short way; it is answered first.
        ready!(this.poll_express(cx))?;
        if this.linger.is_none() {
            let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.poll_written(cx, shut))?;
            this.link.closing();
            let unread = !this.bytes.is_empty()
                || !matches!(this.reading, Reading::Head { .. } | Reading::Ended);
            if !unread {
                return Poll::Ready(Ok(()));
            }
        }
        let (timer, left) = this
            .linger
            .get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES));
        let mut space = [0; READ];
        loop {
            if timer.as_mut().poll(cx).is_ready() || *left == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            *left = left.saturating_sub(read.filled().len());
        }
    }
}
