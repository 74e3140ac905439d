//! A parser of the kernel's texts: numbers, decimals and lines out of bytes.
//!
//! The kernel ends every line with a newline, so [`lines`] leaves out a last line without one: it was cut off, and half a
//! number would look like a number. Nothing here allocates or panics.

/// Where the first newline is. Eight bytes at a step, as most of what the kernel prints is passed over.
fn newline(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    const NEWLINES: u64 = u64::from_ne_bytes([b'\n'; 8]);
    let (chunks, tail) = text.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        // A newline becomes a zero byte, and only the lowest zero byte is certain to be found (Warren, "Hacker's Delight",
        // 6-1), which is the first one when bytes are taken in this order.
        let zeros = u64::from_le_bytes(*chunk) ^ NEWLINES;
        let found = zeros.wrapping_sub(ONES) & !zeros & HIGHS;
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let position = tail.iter().position(|&byte| byte == b'\n')?;
    Some(text.len() - tail.len() + position)
}

/// Takes the next line that is whole, without its newline.
pub(crate) fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = newline(rest)?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Some(line)
}

/// The lines of `text` that are whole, without their newlines.
pub(crate) fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || take_line(&mut text))
}

/// The same from the last to the first.
pub(crate) fn lines_from_the_end(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut parts = text.rsplit(|&byte| byte == b'\n');
    // What follows the last newline is no line.
    parts.next();
    parts
}

/// The only line of `text`.
pub(crate) fn line(text: &[u8]) -> Option<&[u8]> {
    let (b'\n', line) = text.split_last()? else {
        return None;
    };
    (!line.contains(&b'\n')).then_some(line)
}

fn skip_blanks(rest: &mut &[u8]) {
    while let [b' ' | b'\t', tail @ ..] = *rest {
        *rest = tail;
    }
}

/// Takes a run of digits; `None` if there is none or the number needs more than 64 bits.
fn take_digits(rest: &mut &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    let mut length = 0;
    for &byte in *rest {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.checked_mul(10)?.checked_add(digit.into())?;
        length += 1;
    }
    *rest = &rest[length..];
    (length > 0).then_some(value)
}

fn at_end_of_word(rest: &[u8]) -> bool {
    matches!(rest.first(), None | Some(b' ' | b'\t'))
}

/// Takes the next word of a line if it is an unsigned whole number.
pub(crate) fn take_number(rest: &mut &[u8]) -> Option<u64> {
    skip_blanks(rest);
    let value = take_digits(rest)?;
    at_end_of_word(rest).then_some(value)
}

const POWERS_OF_TEN: [u64; 10] = {
    let mut powers = [1; 10];
    let mut index = 1;
    while index < powers.len() {
        powers[index] = powers[index - 1] * 10;
        index += 1;
    }
    powers
};

/// Takes the next word of a line if it is an unsigned decimal such as `12.34`, with up to nine digits after the
/// point and fifteen in all.
pub(crate) fn take_decimal(rest: &mut &[u8]) -> Option<f64> {
    skip_blanks(rest);
    let whole = take_digits(rest)?;
    let [b'.', tail @ ..] = *rest else {
        return at_end_of_word(rest).then_some(whole as f64);
    };
    let mut after = tail;
    let fraction = take_digits(&mut after)?;
    let scale = *POWERS_OF_TEN.get(tail.len() - after.len())?;
    // Below 2^53 both are exact in a double, so the quotient is rounded once.
    let digits = whole
        .checked_mul(scale)?
        .checked_add(fraction)
        .filter(|digits| *digits < 1 << 53)?;
    let value = digits as f64 / scale as f64;
    *rest = after;
    at_end_of_word(rest).then_some(value)
}

/// Takes `word`, which blanks may precede.
pub(crate) fn take_word(rest: &mut &[u8], word: &[u8]) -> Option<()> {
    skip_blanks(rest);
    *rest = rest.strip_prefix(word)?;
    Some(())
}

/// A line that is one whole number.
pub(crate) fn number(line: &[u8]) -> Option<u64> {
    let mut rest = line;
    let value = take_number(&mut rest)?;
    rest.is_empty().then_some(value)
}

/// The number that follows `key` and a blank on a line of its own.
pub(crate) fn keyed(text: &[u8], key: &[u8]) -> Option<u64> {
    lines(text).find_map(|line| {
        let rest = line.strip_prefix(key)?;
        matches!(rest.first(), Some(b' '))
            .then(|| number(rest))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_words() {
        for (text, wanted) in [
            (&b"12"[..], Some(12)),
            (b"  12", Some(12)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"", None),
            (b" ", None),
            (b"-1", None),
            (b"+1", None),
            (b"1x", None),
            (b"0x1", None),
            (b"1 2", None),
            (b"\xff1", None),
        ] {
            assert_eq!(number(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn decimals_are_rounded_once() {
        for (text, wanted) in [
            (&b"0.00"[..], Some(0.0)),
            (b"12.34", Some(12.34)),
            (b"7", Some(7.0)),
            (b"123.456789012", Some(123.456_789_012)),
            (b"1.", None),
            (b".5", None),
            (b"1.5.5", None),
            (b"nan", None),
            (b"inf", None),
            (b"1e3", None),
            (b"1.12345678901234567", None),
            (b"99999999999999999999.0", None),
        ] {
            let mut rest = text;
            assert_eq!(take_decimal(&mut rest), wanted, "{text:?}");
        }
    }

    #[test]
    fn newlines_are_found_wherever_they_stand() {
        for length in 0..40 {
            let mut text = vec![b'\x0b'; length];
            assert_eq!(newline(&text), None);
            for place in (0..length).rev() {
                text[place] = b'\n';
                assert_eq!(newline(&text), Some(place), "{text:?}");
            }
        }
        let text = b"one\n\nthree\nfour";
        let forth: Vec<&[u8]> = lines(text).collect();
        let mut back: Vec<&[u8]> = lines_from_the_end(text).collect();
        back.reverse();
        assert_eq!(forth, [&b"one"[..], b"", b"three"]);
        assert_eq!(forth, back);
        assert_eq!(lines_from_the_end(b"cut off").count(), 0);
    }

    #[test]
    fn lines_that_were_cut_off_are_left_out() {
        let of = |text: &'static [u8]| lines(text).filter(|line| !line.is_empty()).count();
        assert_eq!(of(b"a\nb\n"), 2);
        assert_eq!(of(b"a\nb"), 1);
        assert_eq!(of(b"a"), 0);
        assert_eq!(of(b""), 0);
        assert_eq!(line(b"a\n"), Some(&b"a"[..]));
        assert_eq!(line(b"a"), None);
        assert_eq!(line(b"a\nb\n"), None);
        assert_eq!(keyed(b"nr 1\nnr_x 2\n", b"nr_x"), Some(2));
        assert_eq!(keyed(b"nr 1\nnr_x 2", b"nr_x"), None);
        assert_eq!(keyed(b"nr_xy 2\n", b"nr_x"), None);
    }
}
