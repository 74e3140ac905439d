//! A parser of the kernel's texts: numbers, decimals and lines out of bytes.
//!
//! The kernel ends every line with a newline, so [`lines`] leaves out a last line without one: it was cut off, and half a
//! number would look like a number. Nothing here allocates or panics.

/// The lines of `text` that are whole, without their newlines.
pub(crate) fn lines(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let whole = text
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(&[][..], |end| &text[..end]);
    // Splitting nothing gives one empty line, which holds no figure.
    whole.split(|&byte| byte == b'\n')
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

/// Takes the next word of a line if it is an unsigned decimal such as `12.34`, of at most 15 digits.
pub(crate) fn take_decimal(rest: &mut &[u8]) -> Option<f64> {
    skip_blanks(rest);
    let start = *rest;
    let whole = take_digits(rest)?;
    let mut value = whole as f64;
    if let [b'.', tail @ ..] = *rest {
        let mut fraction = tail;
        let thousandths = take_digits(&mut fraction)?;
        let digits = tail.len() - fraction.len();
        *rest = fraction;
        // Up to 15 digits a double holds the quotient correctly rounded.
        if start.len() - rest.len() > 16 {
            return None;
        }
        value = (whole as f64 * 10f64.powi(digits as i32) + thousandths as f64)
            / 10f64.powi(digits as i32);
    }
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
