//! What stands in an entry: numbers, little-endian, with a checksum over them.

use super::Want;

/// Bytes of an entry.
pub(super) const BYTES: usize = 64;

/// Says that this is one, and in which form.
const MAGIC: [u8; 8] = *b"flyball1";

/// The most slots that an entry may want: what `flyball run -j` takes.
const SLOTS_MAX: u32 = 10_000;

/// The most shares of a class.
const SHARES_MAX: u32 = flyball_core::class::MAX_SHARES;

/// What the others learn of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) shares: u32,
    pub(super) slots: u32,
    pub(super) outstanding: u64,
}

impl Entry {
    pub(super) fn new(want: Want) -> Entry {
        Entry {
            shares: want.shares.clamp(1, SHARES_MAX),
            slots: want.slots.min(SLOTS_MAX),
            outstanding: want.outstanding,
        }
    }

    pub(super) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.shares.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.slots.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.outstanding.to_le_bytes());
        let sum = checksum(&bytes[..BYTES - 8]);
        bytes[BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` for what is not an entry.
    pub(super) fn decode(bytes: &[u8]) -> Option<Entry> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes[..8] != MAGIC || u64_at(BYTES - 8)? != checksum(&bytes[..BYTES - 8]) {
            return None;
        }
        let entry = Entry {
            shares: u32_at(8)?,
            slots: u32_at(12)?,
            outstanding: u64_at(16)?,
        };
        let fine = (1..=SHARES_MAX).contains(&entry.shares) && entry.slots <= SLOTS_MAX;
        fine.then_some(entry)
    }
}

/// FNV-1a: a half written entry is to be noticed, not an attack; the file is the user's own.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_garbage_is_not() {
        let entry = Entry::new(Want::slots(300, 4));
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes), Some(entry));
        for at in 0..BYTES {
            let mut broken = bytes;
            broken[at] ^= 4;
            assert_eq!(Entry::decode(&broken), None, "byte {at}");
        }
        assert_eq!(Entry::decode(&[0; BYTES]), None);
        assert_eq!(Entry::decode(&bytes[1..]), None);
        let mut mad = Entry::new(Want::slots(1, 1));
        mad.slots = u32::MAX;
        assert_eq!(Entry::decode(&mad.encode()), None);
    }
}
