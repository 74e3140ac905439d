//! A command with places for inputs, and what becomes of it for one set of inputs.
//!
//! Several words are a program and its arguments; an input put into a word stays in that word, whatever it holds. One word with
//! shell syntax is a script; inputs are quoted for the place where they stand, and places where no quoting holds are refused.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::quote::{self, Place, Reader};

/// Inputs of one command. With several sources one of each, else as many as `-n` or `-X` allow.
pub(crate) type Values = Vec<OsString>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Whole,
    NoExtension,
    Base,
    Folder,
    BaseNoExtension,
}

/// Which inputs of a command are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    All,
    /// From 0.
    Nth(usize),
    /// From the end: 1 is the last.
    Last(usize),
}

impl Which {
    /// The positions it means among so many inputs, as a range.
    fn of(self, count: usize) -> std::ops::Range<usize> {
        let one = |index: Option<usize>| match index {
            Some(index) if index < count => index..index + 1,
            _ => 0..0,
        };
        match self {
            Which::All => 0..count,
            Which::Nth(index) => one(Some(index)),
            Which::Last(back) => one(count.checked_sub(back)),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    Literal(Vec<u8>),
    Input(Which, Part),
    /// The number of the command, from 1.
    Number,
    /// The slot in which it runs, from 1.
    Slot,
}

/// What the placeholders of a run are.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Syntax<'a> {
    /// Names of inputs, in their order: `{name}`.
    pub(crate) names: &'a [OsString],
    /// What stands for `{}`, if not that.
    pub(crate) replace: Option<&'a OsStr>,
    /// The command reads its input from standard input; nothing is put in or appended.
    pub(crate) pipe: bool,
}

/// What is put into a template.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filling<'a> {
    pub(crate) values: &'a [OsString],
    /// The number of the command, from 1.
    pub(crate) number: u64,
    /// The slot in which it runs, from 1.
    pub(crate) slot: u32,
}

/// A command with places for inputs.
#[derive(Debug)]
pub(crate) enum Template {
    /// A program and its arguments, each in pieces.
    Words(Vec<Vec<Piece>>),
    /// A script with the places of its inputs.
    Script {
        shell: OsString,
        pieces: Vec<(Piece, Place)>,
    },
    /// The input is the script.
    Lines { shell: OsString },
}

/// A command that is ready to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ready {
    pub(crate) argv: Vec<OsString>,
    /// The script, where a shell runs it: what a person wants to see.
    script: Option<Vec<u8>>,
}

impl Ready {
    /// For reading and pasting.
    pub(crate) fn display(&self) -> String {
        match &self.script {
            Some(script) => match std::str::from_utf8(script) {
                Ok(text)
                    if !text
                        .chars()
                        .any(|c| c.is_control() && c != '\n' && c != '\t') =>
                {
                    text.to_owned()
                }
                _ => quote::line(self.argv.iter().map(|word| word.as_bytes())),
            },
            None => quote::line(self.argv.iter().map(|word| word.as_bytes())),
        }
    }
}

impl Ready {
    /// For the joblog: a line that a shell reads as this command. A newline stands as a NUL, which no command can hold.
    pub(crate) fn logged(&self) -> Vec<u8> {
        let mut line = match &self.script {
            Some(script) => script.clone(),
            None => self
                .argv
                .iter()
                .map(|word| quote::posix(word.as_bytes()))
                .collect::<Vec<_>>()
                .join(&b' '),
        };
        line.iter_mut()
            .filter(|byte| **byte == b'\n')
            .for_each(|byte| *byte = 0);
        line
    }
}

impl Template {
    /// From the words of the command line; none means that each input is a script.
    ///
    /// # Errors
    /// A script with an input where no quoting keeps it whole (says where), and placeholders that are not offered.
    pub(crate) fn parse(
        words: &[OsString],
        shell: Option<OsString>,
        syntax: &Syntax<'_>,
    ) -> Result<Template, String> {
        let shell = usable_shell(shell);
        if let Some(word) = words.iter().find(|word| is_expression(word.as_bytes())) {
            return Err(format!(
                "{:?}: expressions in Perl, {{= … =}}, are not offered; a word of shell can compute, or the input can bring it, with --colsep",
                word.to_string_lossy()
            ));
        }
        let pieces = |word: &OsString| pieces(word.as_bytes(), syntax);
        let template = Template::of_words(words, shell, syntax, pieces)?;
        if syntax.pipe && template.any(|piece| matches!(piece, Piece::Input(..))) {
            return Err(
                "under --pipe the input comes on standard input; there is nothing to put in place of {}"
                    .to_owned(),
            );
        }
        Ok(template)
    }

    fn of_words(
        words: &[OsString],
        shell: OsString,
        syntax: &Syntax<'_>,
        pieces: impl Fn(&OsString) -> Vec<Piece>,
    ) -> Result<Template, String> {
        let append = !syntax.pipe;
        match words {
            [] => Ok(Template::Lines { shell }),
            [word] => {
                let mut pieces = pieces(word);
                let syntax = pieces.iter().any(
                    |piece| matches!(piece, Piece::Literal(bytes) if quote::has_syntax(bytes)),
                );
                if !syntax {
                    return Ok(Template::words(vec![pieces], append));
                }
                if append && !pieces.iter().any(|piece| matches!(piece, Piece::Input(..))) {
                    pieces.push(Piece::Literal(b" ".to_vec()));
                    pieces.push(Piece::Input(Which::All, Part::Whole));
                }
                let mut reader = Reader::new();
                let mut placed = Vec::new();
                for piece in pieces {
                    let place = reader.place();
                    match (&piece, place) {
                        (Piece::Literal(bytes), _) => reader.read(bytes),
                        (Piece::Number | Piece::Slot, _) => reader.word(),
                        (Piece::Input(..), Place::Unsafe(what)) => {
                            return Err(format!(
                                "an input cannot be quoted safely in {what}: put the placeholder outside of it, in {:?}",
                                word.to_string_lossy()
                            ));
                        }
                        (Piece::Input(..), _) => reader.word(),
                    }
                    placed.push((piece, place));
                }
                Ok(Template::Script {
                    shell,
                    pieces: placed,
                })
            }
            words => Ok(Template::words(words.iter().map(pieces).collect(), append)),
        }
    }

    fn words(mut words: Vec<Vec<Piece>>, append: bool) -> Template {
        if append
            && !words
                .iter()
                .flatten()
                .any(|piece| matches!(piece, Piece::Input(..)))
        {
            words.push(vec![Piece::Input(Which::All, Part::Whole)]);
        }
        Template::Words(words)
    }

    fn any(&self, is: impl Fn(&Piece) -> bool) -> bool {
        match self {
            Template::Words(words) => words.iter().flatten().any(is),
            Template::Script { pieces, .. } => pieces.iter().any(|(piece, _)| is(piece)),
            Template::Lines { .. } => false,
        }
    }

    /// Whether commands are told their slot.
    pub(crate) fn uses_slot(&self) -> bool {
        self.any(|piece| *piece == Piece::Slot)
    }

    /// Bytes of a command without its inputs.
    pub(crate) fn fixed_bytes(&self) -> usize {
        let literal = |piece: &Piece| match piece {
            Piece::Literal(bytes) => bytes.len(),
            _ => 0,
        };
        match self {
            Template::Words(words) => words
                .iter()
                .map(|word| match word.iter().map(literal).sum::<usize>() {
                    // An input brings what ends its word.
                    0 => 0,
                    bytes => bytes + 1,
                })
                .sum(),
            Template::Script { pieces, .. } => pieces.iter().map(|(piece, _)| literal(piece)).sum(),
            Template::Lines { .. } => 0,
        }
    }

    /// The program, if it is the same for all inputs.
    pub(crate) fn fixed_program(&self) -> bool {
        match self {
            Template::Words(words) => words
                .first()
                .is_some_and(|word| word.iter().all(|piece| matches!(piece, Piece::Literal(_)))),
            Template::Script { .. } | Template::Lines { .. } => true,
        }
    }

    /// The highest number in a placeholder such as `{2}`, from 1; `None` if there is none.
    pub(crate) fn highest_input(&self) -> Option<usize> {
        let number = |piece: &Piece| match piece {
            Piece::Input(Which::Nth(index), _) => Some(index + 1),
            Piece::Input(Which::Last(back), _) => Some(*back),
            _ => None,
        };
        match self {
            Template::Words(words) => words.iter().flatten().filter_map(number).max(),
            Template::Script { pieces, .. } => {
                pieces.iter().filter_map(|(piece, _)| number(piece)).max()
            }
            Template::Lines { .. } => None,
        }
    }

    /// Puts the inputs of a command in.
    pub(crate) fn fill(&self, filling: &Filling<'_>) -> Ready {
        let values = filling.values;
        match self {
            Template::Words(words) => {
                let argv = words
                    .iter()
                    .flat_map(|word| fill_word(word, filling))
                    .collect();
                Ready { argv, script: None }
            }
            Template::Script { shell, pieces } => {
                let mut script = Vec::new();
                for (piece, place) in pieces {
                    match piece {
                        Piece::Literal(bytes) => script.extend_from_slice(bytes),
                        Piece::Number => script.extend(filling.number.to_string().bytes()),
                        Piece::Slot => script.extend(filling.slot.to_string().bytes()),
                        Piece::Input(which, part) => {
                            let chosen: Vec<Vec<u8>> = values[which.of(values.len())]
                                .iter()
                                .map(|value| quote::posix(&take(value, *part)))
                                .collect();
                            let text = chosen.join(&b' ');
                            match place {
                                Place::Double => {
                                    script.extend([b"\"", text.as_slice(), b"\""].concat())
                                }
                                Place::Single => {
                                    script.extend([b"'", text.as_slice(), b"'"].concat())
                                }
                                Place::Bare | Place::Unsafe(_) => script.extend(text),
                            }
                        }
                    }
                }
                Template::shell(shell, script)
            }
            Template::Lines { shell } => {
                let script = values
                    .iter()
                    .map(|value| value.as_bytes())
                    .collect::<Vec<_>>()
                    .join(&b' ');
                Template::shell(shell, script)
            }
        }
    }

    fn shell(shell: &OsString, script: Vec<u8>) -> Ready {
        let argv = vec![
            shell.clone(),
            "-c".into(),
            OsString::from_vec(script.clone()),
        ];
        Ready {
            argv,
            script: Some(script),
        }
    }
}

/// A text with places for inputs, outside of commands: a tag, the name of a result.
#[derive(Debug)]
pub(crate) struct Text(Vec<Piece>);

impl Text {
    pub(crate) fn parse(text: &OsStr, syntax: &Syntax<'_>) -> Text {
        Text(pieces(text.as_bytes(), syntax))
    }

    /// Whether it differs from command to command.
    pub(crate) fn has_places(&self) -> bool {
        self.0
            .iter()
            .any(|piece| !matches!(piece, Piece::Literal(_)))
    }

    /// Puts the inputs in; several in one place stand beside each other. `made` may change what an input becomes.
    pub(crate) fn fill(&self, filling: &Filling<'_>, made: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
        let mut text = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(bytes) => text.extend_from_slice(bytes),
                Piece::Number => text.extend(filling.number.to_string().bytes()),
                Piece::Slot => text.extend(filling.slot.to_string().bytes()),
                Piece::Input(which, part) => {
                    let values = &filling.values[which.of(filling.values.len())];
                    let taken: Vec<Vec<u8>> = values
                        .iter()
                        .map(|value| made(take(value, *part)))
                        .collect();
                    text.extend(taken.join(&b' '));
                }
            }
        }
        text
    }
}

/// A word with `{}` of several inputs becomes as many words; other placeholders of several inputs do the same.
fn fill_word(word: &[Piece], filling: &Filling<'_>) -> Vec<OsString> {
    let values = filling.values;
    let spreads = word
        .iter()
        .any(|piece| matches!(piece, Piece::Input(Which::All, _)));
    let rounds = if spreads { values.len() } else { 1 };
    (0..rounds)
        .map(|round| {
            let mut bytes = Vec::new();
            for piece in word {
                match piece {
                    Piece::Literal(literal) => bytes.extend_from_slice(literal),
                    Piece::Number => bytes.extend(filling.number.to_string().bytes()),
                    Piece::Slot => bytes.extend(filling.slot.to_string().bytes()),
                    Piece::Input(Which::All, part) => bytes.extend(take(&values[round], *part)),
                    Piece::Input(which, part) => {
                        for value in &values[which.of(values.len())] {
                            bytes.extend(take(value, *part));
                        }
                    }
                }
            }
            OsString::from_vec(bytes)
        })
        .collect()
}

fn take(value: &OsStr, part: Part) -> Vec<u8> {
    let bytes = value.as_bytes();
    let base_at = bytes
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    let stem =
        |bytes: &[u8], from: usize| match bytes[from..].iter().rposition(|byte| *byte == b'.') {
            // A name that is all extension (`.bashrc`) has none.
            Some(dot) if dot > 0 => from + dot,
            _ => bytes.len(),
        };
    match part {
        Part::Whole => bytes.to_vec(),
        Part::NoExtension => bytes[..stem(bytes, base_at)].to_vec(),
        Part::Base => bytes[base_at..].to_vec(),
        Part::BaseNoExtension => bytes[base_at..stem(bytes, base_at)].to_vec(),
        Part::Folder => match base_at {
            0 => b".".to_vec(),
            _ => folder(bytes),
        },
    }
}

/// The folder of a path with a slash, as `dirname` tells it: slashes at its end are no part of it.
fn folder(path: &[u8]) -> Vec<u8> {
    let without_slashes = |path: &[u8]| {
        let end = path.iter().rposition(|byte| *byte != b'/');
        end.map_or(0, |last| last + 1)
    };
    let entry = &path[..without_slashes(path)];
    match entry.iter().rposition(|byte| *byte == b'/') {
        None if entry.is_empty() => b"/".to_vec(),
        None => b".".to_vec(),
        Some(slash) => match without_slashes(&entry[..slash]) {
            0 => b"/".to_vec(),
            end => entry[..end].to_vec(),
        },
    }
}

/// `{= … =}`: Perl in other tools.
fn is_expression(word: &[u8]) -> bool {
    word.windows(2)
        .position(|pair| pair == b"{=")
        .is_some_and(|at| word[at + 2..].windows(2).any(|pair| pair == b"=}"))
}

/// Cuts a word at its placeholders. What looks like one but is not stays as it is.
fn pieces(word: &[u8], syntax: &Syntax<'_>) -> Vec<Piece> {
    let mut found: Vec<Piece> = Vec::new();
    let mut literal = Vec::new();
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        match place(rest, syntax) {
            Some((piece, length)) => {
                if !literal.is_empty() {
                    found.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                found.push(piece);
                rest = &rest[length..];
            }
            None => {
                literal.push(first);
                rest = after;
            }
        }
    }
    if !literal.is_empty() || found.is_empty() {
        found.push(Piece::Literal(literal));
    }
    found
}

/// The placeholder at the start of the text, and its length.
fn place(text: &[u8], syntax: &Syntax<'_>) -> Option<(Piece, usize)> {
    if let Some(replace) = syntax.replace
        && text.starts_with(replace.as_bytes())
    {
        let piece = Piece::Input(Which::All, Part::Whole);
        return Some((piece, replace.len()));
    }
    if text[0] != b'{' {
        return None;
    }
    let end = text.iter().position(|byte| *byte == b'}')?;
    let inner = &text[1..end];
    // Another placeholder was chosen, so this one is text.
    if inner.is_empty() && syntax.replace.is_some() {
        return None;
    }
    let piece = placeholder(inner).or_else(|| named(inner, syntax.names))?;
    Some((piece, end + 1))
}

fn placeholder(inner: &[u8]) -> Option<Piece> {
    match inner {
        b"#" => return Some(Piece::Number),
        b"%" => return Some(Piece::Slot),
        _ => {}
    }
    let (back, rest) = match inner.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, inner),
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&rest[..digits]).ok()?;
    let which = match (number, back) {
        ("", false) => Which::All,
        ("", true) => return None,
        (number, _) => {
            let number = number.parse().ok().filter(|number| *number > 0_usize)?;
            if back {
                Which::Last(number)
            } else {
                Which::Nth(number - 1)
            }
        }
    };
    Some(Piece::Input(which, part(&rest[digits..])?))
}

/// `{name}`, `{name.}` and the like.
fn named(inner: &[u8], names: &[OsString]) -> Option<Piece> {
    names.iter().enumerate().find_map(|(index, name)| {
        let rest = inner.strip_prefix(name.as_bytes())?;
        Some(Piece::Input(Which::Nth(index), part(rest)?))
    })
}

fn part(text: &[u8]) -> Option<Part> {
    Some(match text {
        b"" => Part::Whole,
        b"." => Part::NoExtension,
        b"/" => Part::Base,
        b"//" => Part::Folder,
        b"/." => Part::BaseNoExtension,
        _ => return None,
    })
}

/// The user's shell, if it reads quotes as POSIX says; else `sh`.
pub(crate) fn usable_shell(shell: Option<OsString>) -> OsString {
    const POSIX: [&str; 8] = ["sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "yash"];
    shell
        .filter(|shell| {
            std::path::Path::new(shell)
                .file_name()
                .is_some_and(|name| POSIX.iter().any(|known| name == *known))
        })
        .unwrap_or_else(|| "/bin/sh".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(words: &[&str], values: &[&str]) -> Vec<String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let values: Vec<OsString> = values.iter().map(OsString::from).collect();
        let filling = Filling {
            values: &values,
            number: 7,
            slot: 2,
        };
        let ready = Template::parse(&words, None, &Syntax::default())
            .unwrap()
            .fill(&filling);
        ready
            .argv
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    /// TASK-12: the placeholders people know.
    #[test]
    fn placeholders_take_parts_of_the_input() {
        let words = [
            "p", "{}", "{.}", "{/}", "{//}", "{/.}", "{#}", "a{}b", "{x}",
        ];
        assert_eq!(
            fill(&words, &["d.d/f.tar.gz"]),
            [
                "p",
                "d.d/f.tar.gz",
                "d.d/f.tar",
                "f.tar.gz",
                "d.d",
                "f.tar",
                "7",
                "ad.d/f.tar.gzb",
                "{x}"
            ]
        );
        assert_eq!(
            fill(&["p", "{.}", "{/.}", "{//}"], &["/.bashrc"]),
            ["p", "/.bashrc", ".bashrc", "/"]
        );
        for (path, folder) in [
            ("plain", "."),
            ("", "."),
            ("/", "/"),
            ("//", "/"),
            ("/a", "/"),
            ("//a", "/"),
            ("a/", "."),
            ("a/b//", "a"),
            ("a//b", "a"),
            ("/a/b", "/a"),
        ] {
            assert_eq!(fill(&["p", "{//}"], &[path]), ["p", folder], "{path:?}");
        }
        assert_eq!(fill(&["p", "{2}-{1/}"], &["a/b", "c"]), ["p", "c-b"]);
        assert_eq!(fill(&["p", "{-1}{-2}{%}"], &["a", "b"]), ["p", "ba2"]);
        assert_eq!(
            fill(&["p", "<{3}>", "<{-3}>"], &["a", "b"]),
            ["p", "<>", "<>"]
        );
    }

    #[test]
    fn inputs_are_appended_without_a_placeholder_and_spread_over_words() {
        assert_eq!(fill(&["p", "x"], &["a", "b"]), ["p", "x", "a", "b"]);
        assert_eq!(fill(&["p", "-f{}"], &["a", "b"]), ["p", "-fa", "-fb"]);
        assert_eq!(fill(&["p", "{#}"], &["a"]), ["p", "7", "a"]);
    }

    /// TASK-12: inputs are quoted for where they stand.
    #[test]
    fn scripts_get_quoted_inputs() {
        assert_eq!(
            fill(&["wc {} > {/}.n"], &["a b;c"])[2],
            "wc 'a b;c' > 'a b;c'.n"
        );
        assert_eq!(
            fill(&["echo \"<{}>\""], &["$(x)"])[2],
            "echo \"<\"'$(x)'\">\""
        );
        assert_eq!(fill(&["echo '{}'"], &["it's"])[2], "echo '''it'\\''s'''");
        assert_eq!(fill(&["wc -l"], &["a", "b c"])[2], "wc -l a 'b c'");
        for bad in [
            "echo `cat {}`",
            "cat <<E\n{}\nE",
            "true # {}",
            "echo ${x:-{}}",
        ] {
            assert!(
                Template::parse(&[bad.into()], None, &Syntax::default()).is_err(),
                "{bad}"
            );
        }
    }

    /// TASK-12: names of inputs, a placeholder of the user's choice, and none that is not offered.
    #[test]
    fn placeholders_can_be_named_and_chosen() {
        let pieces_of = |word: &str, syntax: &Syntax<'_>| pieces(word.as_bytes(), syntax);
        let names = ["size".into(), "file".into()];
        let named = Syntax {
            names: &names,
            ..Syntax::default()
        };
        assert_eq!(
            pieces_of("{file/.}{other}", &named),
            [
                Piece::Input(Which::Nth(1), Part::BaseNoExtension),
                Piece::Literal(b"{other}".to_vec())
            ]
        );
        let chosen = Syntax {
            replace: Some(OsStr::new("%%")),
            ..Syntax::default()
        };
        assert_eq!(
            pieces_of("%%{}", &chosen),
            [
                Piece::Input(Which::All, Part::Whole),
                Piece::Literal(b"{}".to_vec())
            ]
        );
        let words = ["p".into(), "{= s/a/b/ =}".into()];
        assert!(Template::parse(&words, None, &Syntax::default()).is_err());
        let pipe = Syntax {
            pipe: true,
            ..Syntax::default()
        };
        assert!(Template::parse(&["p".into(), "{}".into()], None, &pipe).is_err());
    }

    /// TASK-12: what stands in a joblog is one line that a shell reads back.
    #[test]
    fn logged_commands_are_one_line() {
        let words = ["p".into(), "a b\nc".into()];
        let filling = Filling {
            values: &[],
            number: 1,
            slot: 1,
        };
        let ready = Template::parse(&words, None, &Syntax::default())
            .unwrap()
            .fill(&filling);
        assert_eq!(ready.logged(), b"p 'a b\0c'");
    }
}
