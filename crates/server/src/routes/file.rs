//! Bodies that come out of files.
//!
//! Reading a file blocks, and the server has one thread for everybody: so each read has a thread of the runtime's own for it, one read at a time a body.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes that are read at once.
pub(super) const CHUNK: usize = 64 * 1024;

/// What comes of a read, with what it was read from.
type Reading<R> = JoinHandle<(R, io::Result<Vec<u8>>)>;

/// Reads once, at most so many bytes, by a function that blocks.
fn read<R>(mut reader: R, most: usize) -> Reading<R>
where
    R: FnMut(&mut [u8]) -> io::Result<usize> + Send + 'static,
{
    spawn_blocking(move || {
        let mut bytes = vec![0; most];
        let read = reader(&mut bytes).map(|count| {
            bytes.truncate(count);
            bytes
        });
        (reader, read)
    })
}

/// A body of a length that is known, read by a function that blocks. One that ends before is an error: the length was promised.
pub(super) struct FileBody<R> {
    reading: Option<Reading<R>>,
    left: u64,
    _held: Option<OwnedSemaphorePermit>,
}

impl<R> FileBody<R>
where
    R: FnMut(&mut [u8]) -> io::Result<usize> + Send + 'static,
{
    /// Begins to read; what is held is let go when the body has been sent or given up.
    pub(super) fn new(reader: R, length: u64, held: Option<OwnedSemaphorePermit>) -> Self {
        FileBody {
            reading: (length > 0).then(|| read(reader, most(length))),
            left: length,
            _held: held,
        }
    }
}

fn most(left: u64) -> usize {
    left.min(CHUNK as u64) as usize
}

impl<R> Body for FileBody<R>
where
    R: FnMut(&mut [u8]) -> io::Result<usize> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(reading) = self.reading.as_mut() else {
            return Poll::Ready(None);
        };
        let ended = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(Some(match ended {
            Ok((reader, Ok(bytes))) if !bytes.is_empty() => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                if self.left > 0 {
                    self.reading = Some(read(reader, most(self.left)));
                }
                Ok(Frame::data(bytes.into()))
            }
            Ok((_, Ok(_))) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, Err(error))) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    /// API-4: a body is exactly as long as was promised, however its file is read; one that ends before is an error.
    #[test]
    fn a_body_has_the_length_that_was_promised() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let source = |mut there: usize| {
            move |into: &mut [u8]| {
                let count = into.len().min(there).min(1000);
                into[..count].fill(7);
                there -= count;
                Ok(count)
            }
        };
        runtime.block_on(async {
            for length in [0, 1, 999, 2500] {
                let body = FileBody::new(source(3000), length, None);
                assert_eq!(body.size_hint().exact(), Some(length));
                let bytes = body.collect().await.unwrap().to_bytes();
                assert_eq!(bytes.len() as u64, length);
            }
            let short = FileBody::new(source(3000), 3001, None);
            let error = short.collect().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        });
    }
}
