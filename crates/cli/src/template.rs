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

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    Literal(Vec<u8>),
    /// `None`: all inputs. Else the input of that number, from 0.
    Input(Option<usize>, Part),
    Number,
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

impl Template {
    /// From the words of the command line; none means that each input is a script.
    ///
    /// # Errors
    /// A script with an input where no quoting keeps it whole; says where.
    pub(crate) fn parse(words: &[OsString], shell: Option<OsString>) -> Result<Template, String> {
        let shell = usable_shell(shell);
        match words {
            [] => Ok(Template::Lines { shell }),
            [word] => {
                let mut pieces = pieces(word.as_bytes());
                let syntax = pieces.iter().any(
                    |piece| matches!(piece, Piece::Literal(bytes) if quote::has_syntax(bytes)),
                );
                if !syntax {
                    return Ok(Template::words(vec![pieces]));
                }
                if !pieces.iter().any(|piece| matches!(piece, Piece::Input(..))) {
                    pieces.push(Piece::Literal(b" ".to_vec()));
                    pieces.push(Piece::Input(None, Part::Whole));
                }
                let mut reader = Reader::new();
                let mut placed = Vec::new();
                for piece in pieces {
                    let place = reader.place();
                    match (&piece, place) {
                        (Piece::Literal(bytes), _) => reader.read(bytes),
                        (Piece::Number, _) => reader.word(),
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
            words => Ok(Template::words(
                words.iter().map(|word| pieces(word.as_bytes())).collect(),
            )),
        }
    }

    fn words(mut words: Vec<Vec<Piece>>) -> Template {
        if !words
            .iter()
            .flatten()
            .any(|piece| matches!(piece, Piece::Input(..)))
        {
            words.push(vec![Piece::Input(None, Part::Whole)]);
        }
        Template::Words(words)
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
            Piece::Input(Some(index), _) => Some(index + 1),
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

    /// Puts the inputs of command `number` (from 1) in.
    pub(crate) fn fill(&self, values: &[OsString], number: u64) -> Ready {
        match self {
            Template::Words(words) => {
                let argv = words
                    .iter()
                    .flat_map(|word| fill_word(word, values, number))
                    .collect();
                Ready { argv, script: None }
            }
            Template::Script { shell, pieces } => {
                let mut script = Vec::new();
                for (piece, place) in pieces {
                    match piece {
                        Piece::Literal(bytes) => script.extend_from_slice(bytes),
                        Piece::Number => script.extend_from_slice(number.to_string().as_bytes()),
                        Piece::Input(which, part) => {
                            let chosen: Vec<Vec<u8>> = choose(values, *which)
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

fn choose(values: &[OsString], which: Option<usize>) -> impl Iterator<Item = &OsString> {
    let (from, count) = which.map_or((0, values.len()), |index| (index, 1));
    values.iter().skip(from).take(count)
}

/// A word with `{}` of several inputs becomes as many words; other placeholders of several inputs do the same.
fn fill_word(word: &[Piece], values: &[OsString], number: u64) -> Vec<OsString> {
    let spreads = word
        .iter()
        .any(|piece| matches!(piece, Piece::Input(None, _)));
    let rounds = if spreads { values.len() } else { 1 };
    (0..rounds)
        .map(|round| {
            let mut bytes = Vec::new();
            for piece in word {
                match piece {
                    Piece::Literal(literal) => bytes.extend_from_slice(literal),
                    Piece::Number => bytes.extend_from_slice(number.to_string().as_bytes()),
                    Piece::Input(which, part) => {
                        if let Some(value) = values.get(which.unwrap_or(round)) {
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
            1 => b"/".to_vec(),
            _ => bytes[..base_at - 1].to_vec(),
        },
    }
}

/// Cuts a word at its placeholders. What looks like one but is not stays as it is.
fn pieces(word: &[u8]) -> Vec<Piece> {
    let mut found: Vec<Piece> = Vec::new();
    let mut literal = Vec::new();
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        let end = if first == b'{' {
            rest.iter().position(|byte| *byte == b'}')
        } else {
            None
        };
        match end.and_then(|end| Some((placeholder(&rest[1..end])?, end))) {
            Some((piece, end)) => {
                if !literal.is_empty() {
                    found.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                found.push(piece);
                rest = &rest[end + 1..];
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

fn placeholder(inner: &[u8]) -> Option<Piece> {
    if inner == b"#" {
        return Some(Piece::Number);
    }
    let digits = inner
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let which = match &inner[..digits] {
        [] => None,
        number => Some(
            std::str::from_utf8(number)
                .ok()?
                .parse::<usize>()
                .ok()?
                .checked_sub(1)?,
        ),
    };
    let part = match &inner[digits..] {
        b"" => Part::Whole,
        b"." => Part::NoExtension,
        b"/" => Part::Base,
        b"//" => Part::Folder,
        b"/." => Part::BaseNoExtension,
        _ => return None,
    };
    Some(Piece::Input(which, part))
}

/// The user's shell, if it reads quotes as POSIX says; else `sh`.
fn usable_shell(shell: Option<OsString>) -> OsString {
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
        let ready = Template::parse(&words, None).unwrap().fill(&values, 7);
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
        assert_eq!(fill(&["p", "{//}"], &["plain"]), ["p", "."]);
        assert_eq!(fill(&["p", "{2}-{1/}"], &["a/b", "c"]), ["p", "c-b"]);
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
            assert!(Template::parse(&[bad.into()], None).is_err(), "{bad}");
        }
    }
}
