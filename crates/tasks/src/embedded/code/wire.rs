//! Bytes of a row: numbers in as few as they need, and a seal that finds damage.
//!
//! A sealed row is `version, content, checksum`. The checksum (CRC-32, little endian) covers the version, the content, the row's key and the
//! column it belongs to, so a row that turns up under another key or in another column is found out, too. SQLite's pages carry none.
//!
//! Numbers are LEB128 (seven bits a byte, least significant first); signed ones zigzag before.

use bytes::Bytes;
use flyball_policy::queue::TaskId;
use std::fmt;

/// The layout that is written.
pub(crate) const VERSION: u8 = 1;

/// Which column a row's bytes belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Column {
    /// What decides about a task's life, as it was given.
    Head = 1,
    /// What changes.
    Record = 2,
    /// How it runs, labels and payload.
    Body = 3,
    /// Progress and message.
    Beat = 4,
    /// What an attempt leaves for the next.
    Checkpoint = 5,
    /// Text of the last failure.
    Failure = 6,
    /// What the last attempt used and answered.
    Outcome = 7,
    /// What belongs to no task.
    Meta = 8,
}

/// Says what does not fit in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage(pub(crate) &'static str);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Writes a row at the end of a buffer.
#[derive(Debug)]
pub(crate) struct Put<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Put<'a> {
    /// Begins a row behind what the buffer holds.
    pub(crate) fn new(bytes: &'a mut Vec<u8>) -> Put<'a> {
        let start = bytes.len();
        bytes.push(VERSION);
        Put { bytes, start }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }

    pub(crate) fn u64(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.u64(u64::from(value));
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.u64(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.i64(i64::from(value));
    }

    pub(crate) fn f32(&mut self, value: f32) {
        self.bytes.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    /// Eight bytes, for numbers that are seldom small.
    pub(crate) fn fixed(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.u64(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn str(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// The rest of the row, without its length.
    pub(crate) fn rest(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Put<'a>, T)) {
        match value {
            None => self.bool(false),
            Some(value) => {
                self.bool(true);
                put(self, value);
            }
        }
    }

    pub(crate) fn list<T>(&mut self, values: &[T], mut put: impl FnMut(&mut Put<'a>, &T)) {
        self.u64(values.len() as u64);
        for value in values {
            put(self, value);
        }
    }

    /// Ends the row of a task.
    pub(crate) fn seal(self, column: Column, id: TaskId) {
        self.seal_under(column, &id.0.to_le_bytes());
    }

    /// Ends the row of a key.
    pub(crate) fn seal_under(self, column: Column, key: &[u8]) {
        let sum = Sum::of(&self.bytes[self.start..]).under(column, key);
        self.bytes.extend_from_slice(&sum.to_le_bytes());
    }
}

/// The checksum of content whose key is not known yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sum {
    crc: u32,
    bytes: u64,
}

impl Sum {
    fn of(content: &[u8]) -> Sum {
        Sum {
            crc: crc32fast::hash(content),
            bytes: content.len() as u64,
        }
    }

    fn under(self, column: Column, key: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial_len(self.crc, self.bytes);
        hasher.update(&[column as u8]);
        hasher.update(key);
        hasher.finalize()
    }
}

/// Bytes of a checksum.
const SUM_BYTES: usize = 4;

/// Head and body of a task whose id is not known yet, in one buffer: whoever asks for the task to be taken encodes them, and the one writer, who
/// gives the id, need not look at them again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unsealed {
    bytes: Vec<u8>,
    head_bytes: usize,
    head: Sum,
    body: Sum,
}

impl Unsealed {
    /// Writes both rows, of about that many bytes together.
    pub(crate) fn new(
        about: usize,
        head: impl FnOnce(&mut Put<'_>),
        body: impl FnOnce(&mut Put<'_>),
    ) -> Unsealed {
        let mut bytes = Vec::with_capacity(about);
        head(&mut Put::new(&mut bytes));
        let head = Sum::of(&bytes);
        bytes.extend_from_slice(&[0; SUM_BYTES]);
        let head_bytes = bytes.len();
        body(&mut Put::new(&mut bytes));
        let body = Sum::of(&bytes[head_bytes..]);
        bytes.extend_from_slice(&[0; SUM_BYTES]);
        Unsealed {
            bytes,
            head_bytes,
            head,
            body,
        }
    }

    /// How long both rows are, bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Ends both rows, with another head than was written.
    pub(crate) fn seal_with(self, id: TaskId, head: impl FnOnce(&mut Put<'_>)) -> Sealed {
        let body = &self.bytes[self.head_bytes..self.bytes.len() - SUM_BYTES];
        let anew = Unsealed::new(self.bytes.len() + 64, head, |put| put.rest(&body[1..]));
        anew.seal(id)
    }

    /// Ends both rows.
    pub(crate) fn seal(mut self, id: TaskId) -> Sealed {
        let key = id.0.to_le_bytes();
        for (end, sum) in [
            (self.head_bytes, self.head.under(Column::Head, &key)),
            (self.bytes.len(), self.body.under(Column::Body, &key)),
        ] {
            self.bytes[end - SUM_BYTES..end].copy_from_slice(&sum.to_le_bytes());
        }
        Sealed {
            head_bytes: self.head_bytes,
            bytes: Bytes::from(self.bytes),
        }
    }
}

/// Head and body of a task, as they are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sealed {
    bytes: Bytes,
    head_bytes: usize,
}

impl Sealed {
    /// Puts together what was read apart.
    pub(crate) fn of(head: &[u8], body: &[u8]) -> Sealed {
        let mut bytes = Vec::with_capacity(head.len() + body.len());
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(body);
        Sealed {
            bytes: Bytes::from(bytes),
            head_bytes: head.len(),
        }
    }

    /// How long both are, bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The head's row.
    pub(crate) fn head(&self) -> &[u8] {
        &self.bytes[..self.head_bytes]
    }

    /// The body's row.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.head_bytes..]
    }

    /// The body's row, to keep.
    pub(crate) fn body_bytes(&self) -> Bytes {
        self.bytes.slice(self.head_bytes..)
    }
}

/// Reads a row.
#[derive(Debug)]
pub(crate) struct Take<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Take<'a> {
    /// Checks the seal of a task's row.
    pub(crate) fn open(sealed: &'a [u8], column: Column, id: TaskId) -> Result<Take<'a>, Damage> {
        Take::open_under(sealed, column, &id.0.to_le_bytes())
    }

    /// Checks the seal of a key's row.
    pub(crate) fn open_under(
        sealed: &'a [u8],
        column: Column,
        key: &[u8],
    ) -> Result<Take<'a>, Damage> {
        let Some((content, sum)) = sealed.split_last_chunk::<4>() else {
            return Err(Damage("the row is too short"));
        };
        if Sum::of(content).under(column, key) != u32::from_le_bytes(*sum) {
            return Err(Damage("the checksum does not fit"));
        }
        match content.first() {
            Some(&VERSION) => Ok(Take {
                all: content,
                at: 1,
            }),
            _ => Err(Damage(
                "the row is of a layout that this version does not know",
            )),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        let value = *self.all.get(self.at).ok_or(Damage("the row ends early"))?;
        self.at += 1;
        Ok(value)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Damage> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damage("neither yes nor no")),
        }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damage("a number is too large"))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        u32::try_from(self.u64()?).map_err(|_| Damage("a number is too large"))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Damage> {
        let value = self.u64()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Damage> {
        i32::try_from(self.i64()?).map_err(|_| Damage("a number is too large"))
    }

    pub(crate) fn f32(&mut self) -> Result<f32, Damage> {
        Ok(f32::from_bits(u32::from_le_bytes(self.array()?)))
    }

    pub(crate) fn fixed(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let chunk = *self.all[self.at..]
            .first_chunk::<N>()
            .ok_or(Damage("the row ends early"))?;
        self.at += N;
        Ok(chunk)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let length = usize::try_from(self.u64()?).map_err(|_| Damage("a length is too large"))?;
        let rest = &self.all[self.at..];
        let value = rest.get(..length).ok_or(Damage("the row ends early"))?;
        self.at += length;
        Ok(value)
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damage("a text is not UTF-8"))
    }

    pub(crate) fn text(&mut self) -> Result<Box<str>, Damage> {
        self.str().map(Box::from)
    }

    /// Where the reader stands in the row, version included, and where the content ends.
    pub(crate) fn rest(&mut self) -> std::ops::Range<usize> {
        let rest = self.at..self.all.len();
        self.at = self.all.len();
        rest
    }

    pub(crate) fn option<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, Damage>,
    ) -> Result<Option<T>, Damage> {
        if self.bool()? {
            take(self).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(crate) fn list<T>(
        &mut self,
        mut take: impl FnMut(&mut Self) -> Result<T, Damage>,
    ) -> Result<Vec<T>, Damage> {
        let length = usize::try_from(self.u64()?).map_err(|_| Damage("a length is too large"))?;
        // Each member takes a byte at least, so a length that lies cannot ask for more memory than the row has bytes.
        if length > self.all.len() - self.at {
            return Err(Damage("the row ends early"));
        }
        let mut list = Vec::with_capacity(length);
        for _ in 0..length {
            list.push(take(self)?);
        }
        Ok(list)
    }

    /// Checks that nothing is left.
    pub(crate) fn end(&self) -> Result<(), Damage> {
        if self.at == self.all.len() {
            Ok(())
        } else {
            Err(Damage("the row goes on after its end"))
        }
    }
}
