//! Finds where a chunked body ends (RFC 9112 §7.1), so that the next head can be judged.
//!
//! It does not decode: the HTTP library does. It only counts, byte by byte, with constant memory, and where the coding is broken it
//! says so; the library then refuses the body and the connection ends.

/// How far a chunked body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// In the hexadecimal size of a chunk; the digits so far.
    Size { size: u64, digits: u8 },
    /// After the size, up to the end of its line (extensions are skipped).
    Extension { size: u64 },
    /// In the bytes of a chunk.
    Data { left: u64 },
    /// In the line end that follows the bytes.
    AfterData,
    /// At the start of a line after the last chunk: a trailer, or the empty line that ends it all.
    Trailer,
    /// Within a trailer.
    TrailerLine,
    /// After the carriage return of what may be the last empty line.
    LastLine,
    /// Complete.
    Done,
    /// Not a chunked body.
    Broken,
}

/// Sizes have at most 16 digits, or the number would not fit.
const MAX_DIGITS: u8 = 16;

impl Chunks {
    pub(crate) fn start() -> Self {
        Chunks::Size { size: 0, digits: 0 }
    }

    /// Takes bytes of the body; returns how many of them belong to it.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !matches!(self, Chunks::Done | Chunks::Broken) {
            if let Chunks::Data { left } = self {
                let skipped = (*left).min((bytes.len() - at) as u64);
                at += skipped as usize;
                *left -= skipped;
                if *left == 0 {
                    *self = Chunks::AfterData;
                }
                continue;
            }
            *self = self.after(bytes[at]);
            at += 1;
        }
        at
    }

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Chunks::Size { size, digits }, digit) if digit.is_ascii_hexdigit() => {
                if digits == MAX_DIGITS {
                    return Chunks::Broken;
                }
                let value = u64::from((digit as char).to_digit(16).unwrap_or(0));
                Chunks::Size {
                    size: size << 4 | value,
                    digits: digits + 1,
                }
            }
            (Chunks::Size { digits: 0, .. }, _) => Chunks::Broken,
            (Chunks::Size { size, .. } | Chunks::Extension { size }, b'\n') => match size {
                0 => Chunks::Trailer,
                left => Chunks::Data { left },
            },
            (Chunks::Size { size, .. }, b'\r' | b';' | b' ' | b'\t') => Chunks::Extension { size },
            (Chunks::Size { .. }, _) => Chunks::Broken,
            (Chunks::Extension { size }, _) => Chunks::Extension { size },
            (Chunks::AfterData, b'\r') => Chunks::AfterData,
            (Chunks::AfterData, b'\n') => Chunks::start(),
            (Chunks::AfterData, _) => Chunks::Broken,
            (Chunks::Trailer, b'\r') => Chunks::LastLine,
            (Chunks::Trailer | Chunks::LastLine, b'\n') => Chunks::Done,
            (Chunks::LastLine, _) => Chunks::Broken,
            (Chunks::Trailer, _) => Chunks::TrailerLine,
            (Chunks::TrailerLine, b'\n') => Chunks::Trailer,
            (Chunks::TrailerLine, _) => Chunks::TrailerLine,
            (Chunks::Data { .. } | Chunks::Done | Chunks::Broken, _) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_whatever_the_pieces() {
        let body = b"4;name=value\r\nWiki\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /";
        let end = body.len() - 5;
        for piece in 1..body.len() {
            let mut chunks = Chunks::start();
            let mut taken = 0;
            for part in body.chunks(piece) {
                taken += chunks.advance(part);
                if chunks == Chunks::Done {
                    break;
                }
            }
            assert_eq!((chunks, taken), (Chunks::Done, end), "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_chunked_body_is_broken() {
        for body in [
            &b"\r\n"[..],
            b"x\r\n",
            b"4\r\nWikiX",
            b"11111111111111111\r\n",
            b"0\r\n\rX",
            b"-1\r\n",
        ] {
            let mut chunks = Chunks::start();
            chunks.advance(body);
            assert_eq!(chunks, Chunks::Broken, "{body:?}");
        }
    }
}
