//! Shell quoting, both ways: what a shell must read as one word, and where in a script a word may be put.

/// Quotes for any POSIX shell. Bytes stay as they are.
pub(crate) fn posix(bytes: &[u8]) -> Vec<u8> {
    if plain(bytes) {
        return bytes.to_vec();
    }
    let mut out = Vec::with_capacity(bytes.len() + 2);
    out.push(b'\'');
    for &byte in bytes {
        if byte == b'\'' {
            out.extend_from_slice(b"'\\''")
        } else {
            out.push(byte)
        }
    }
    out.push(b'\'');
    out
}

/// Quotes for reading and pasting: control characters and what is not UTF-8 become `$'…'` (bash, zsh, ksh, and sh since POSIX
/// 2024), so that a name cannot play with the terminal.
pub(crate) fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => {
            String::from_utf8_lossy(&posix(bytes)).into_owned()
        }
        _ => {
            let mut out = String::from("$'");
            for &byte in bytes {
                match byte {
                    b'\n' => out.push_str("\\n"),
                    b'\t' => out.push_str("\\t"),
                    b'\\' => out.push_str("\\\\"),
                    b'\'' => out.push_str("\\'"),
                    b' '..=b'~' => out.push(byte as char),
                    // Octal ends after three digits, whatever follows.
                    _ => out.push_str(&format!("\\{byte:03o}")),
                }
            }
            out.push('\'');
            out
        }
    }
}

/// A whole command line for reading and pasting.
pub(crate) fn line<B: AsRef<[u8]>>(words: impl IntoIterator<Item = B>) -> String {
    words
        .into_iter()
        .map(|word| readable(word.as_ref()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn plain(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-./,:@%+=".contains(byte))
        && bytes[0] != b'='
}

/// Whether a shell would read more in a word than its bytes.
pub(crate) fn has_syntax(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .any(|byte| byte.is_ascii_whitespace() || b"|&;<>()$`\\\"'*?[]#~!{}".contains(byte))
}

/// What a shell reads where it stands in a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Outside of quotes.
    Bare,
    /// Between double quotes.
    Double,
    /// Between single quotes.
    Single,
    /// Where no quoting keeps an input whole; says what place it is.
    Unsafe(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// Commands: the script itself, or inside `$(`…`)` with so many parentheses open.
    Commands(u32),
    Double,
    Single,
    Dollar,
    Brace,
    Backtick,
    Comment,
}

/// Follows a script from left to right and knows how a word put at the end of what it has read would be taken.
pub(crate) struct Reader {
    frames: Vec<Frame>,
    previous: u8,
    escaped: bool,
    document: bool,
}

impl Reader {
    pub(crate) fn new() -> Reader {
        Reader {
            frames: vec![Frame::Commands(0)],
            previous: b' ',
            escaped: false,
            document: false,
        }
    }

    /// How a word would be taken here.
    pub(crate) fn place(&self) -> Place {
        if self.document {
            return Place::Unsafe("a here-document");
        }
        if self.escaped {
            return Place::Unsafe("a backslash");
        }
        if self.frames.contains(&Frame::Backtick) {
            return Place::Unsafe("backticks; write $(…)");
        }
        match self.frames.last() {
            Some(Frame::Double) => Place::Double,
            Some(Frame::Single) => Place::Single,
            Some(Frame::Dollar) => Place::Unsafe("$'…'"),
            Some(Frame::Brace) => Place::Unsafe("${…}"),
            Some(Frame::Comment) => Place::Unsafe("a comment"),
            _ if self.previous == b'$' => Place::Unsafe("a dollar sign"),
            _ => Place::Bare,
        }
    }

    /// Reads on. `bytes` are script, not an input.
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.byte(byte);
        }
    }

    /// After an input was put here.
    pub(crate) fn word(&mut self) {
        self.previous = b'x';
    }

    fn byte(&mut self, byte: u8) {
        let frame = *self.frames.last().unwrap_or(&Frame::Commands(0));
        let previous = std::mem::replace(&mut self.previous, byte);
        if std::mem::take(&mut self.escaped) {
            self.previous = b'x';
            return;
        }
        match (frame, byte) {
            (Frame::Single, b'\'') | (Frame::Dollar, b'\'') | (Frame::Brace, b'}') => self.pop(),
            (Frame::Comment, b'\n') => self.pop(),
            (Frame::Single | Frame::Comment, _) => {}
            (_, b'\\') => self.escaped = true,
            (Frame::Dollar, _) => {}
            (Frame::Double, b'"') => self.pop(),
            (_, b'(') if previous == b'$' => self.frames.push(Frame::Commands(0)),
            (_, b'{') if previous == b'$' => self.frames.push(Frame::Brace),
            (_, b'`') if self.frames.contains(&Frame::Backtick) => {
                while self
                    .frames
                    .last()
                    .is_some_and(|frame| *frame != Frame::Backtick)
                {
                    self.frames.pop();
                }
                self.pop();
            }
            (_, b'`') => self.frames.push(Frame::Backtick),
            (Frame::Double, _) => {}
            (_, b'"') => self.frames.push(Frame::Double),
            (_, b'\'') if previous == b'$' => self.frames.push(Frame::Dollar),
            (_, b'\'') => self.frames.push(Frame::Single),
            (Frame::Commands(depth), b'(') => self.replace(Frame::Commands(depth + 1)),
            (Frame::Commands(0), b')') if self.frames.len() > 1 => self.pop(),
            (Frame::Commands(depth), b')') => {
                self.replace(Frame::Commands(depth.saturating_sub(1)))
            }
            (Frame::Commands(_), b'#') if b" \t\n;&|()".contains(&previous) => {
                self.frames.push(Frame::Comment)
            }
            (Frame::Commands(_), b'<') if previous == b'<' => self.document = true,
            _ => {}
        }
    }

    fn pop(&mut self) {
        if self.frames.len() > 1 {
            self.frames.pop();
        }
        self.previous = b'x';
    }

    fn replace(&mut self, frame: Frame) {
        if let Some(last) = self.frames.last_mut() {
            *last = frame;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(script: &str) -> Place {
        let mut reader = Reader::new();
        reader.read(script.as_bytes());
        reader.place()
    }

    #[test]
    fn places_are_told_apart() {
        for bare in [
            "cat ",
            "echo 'a' \"b\" ",
            "echo \"$(cat ",
            "x=$((1+2)); ",
            "echo a#b ",
            "(a; b) ",
            "# c\n",
            "echo \\' ",
        ] {
            assert_eq!(place(bare), Place::Bare, "{bare}");
        }
        for double in ["echo \"a ", "echo \"$(b) ", "echo \"'"] {
            assert_eq!(place(double), Place::Double, "{double}");
        }
        assert_eq!(place("echo 'a \""), Place::Single);
        for bad in [
            "echo `cat ",
            "cat <<E\n",
            "echo ${a:-",
            "echo $'",
            "true # ",
            "echo \\",
            "echo $",
            "echo \"`a ",
        ] {
            assert!(matches!(place(bad), Place::Unsafe(_)), "{bad}");
        }
    }

    #[test]
    fn quoted_words_are_read_back_by_a_shell() {
        let hostile: [&[u8]; 8] = [
            b"",
            b"a b",
            b"it's",
            b"$(x)`y`",
            b"-n",
            b"a\nb",
            b"\xff\xfe",
            b"\\'\"",
        ];
        for word in hostile {
            let script = [b"printf %s ".as_slice(), &posix(word)].concat();
            let script = std::os::unix::ffi::OsStringExt::from_vec(script);
            let script: std::ffi::OsString = script;
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(script)
                .output()
                .unwrap();
            assert_eq!(output.stdout, word);
        }
    }

    #[test]
    fn readable_words_are_printable() {
        assert_eq!(readable(b"a\xff\n'\\"), "$'a\\377\\n\\'\\\\'");
        assert_eq!(readable("größe 1".as_bytes()), "'größe 1'");
        assert_eq!(line(["a", "b c", ""]), "a 'b c' ''");
    }
}
