//! Where the inputs of a run come from: words, files, standard input, a joblog.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use flyball_core::time::unix_nanos;

use super::joblog_path;
use crate::input::{Columns, Cutter, Lists, Read, Records, Source, Trim};
use crate::run::batch::Event;
use crate::run::joblog::Past;
use crate::run::options::Run;

/// Words that separate sources of inputs.
pub(crate) const SEPARATORS: [&str; 4] = [":::", ":::+", "::::", "::::+"];

/// Where standard input is named as a file.
const STDIN: &str = "-";

/// A source of inputs as it was given.
pub(super) enum From {
    Words(Vec<OsString>),
    File(PathBuf),
}

/// The command, and the sources that follow it: groups whose sources are linked.
pub(super) fn split(options: &Run) -> Result<(Vec<OsString>, Vec<Vec<From>>), String> {
    let is_separator = |word: &OsString| SEPARATORS.iter().any(|separator| word == separator);
    let mut words = options.words.iter().peekable();
    let mut command = Vec::new();
    while let Some(word) = words.next_if(|word| !is_separator(word)) {
        command.push(word.clone());
    }
    let mut groups: Vec<Vec<From>> = options
        .arg_file
        .iter()
        .map(|path| vec![From::File(path.clone())])
        .collect();
    while let Some(separator) = words.next() {
        let mut given = Vec::new();
        while let Some(word) = words.next_if(|word| !is_separator(word)) {
            given.push(word.clone());
        }
        let separator = separator.to_string_lossy();
        let files = separator.starts_with("::::");
        let sources: Vec<From> = if files {
            if given.is_empty() {
                return Err(format!("`{separator}` needs a file after it"));
            }
            given
                .into_iter()
                .map(|path| From::File(path.into()))
                .collect()
        } else {
            vec![From::Words(given)]
        };
        for source in sources {
            match (separator.ends_with('+'), groups.last_mut()) {
                (true, Some(last)) => last.push(source),
                (true, None) => {
                    return Err(format!(
                        "`{separator}` links inputs to those before it, and there are none"
                    ));
                }
                (false, _) => groups.push(vec![source]),
            }
        }
    }
    Ok((command, groups))
}

fn open(path: &Path) -> Result<File, String> {
    let failed = |why: String| format!("cannot read inputs from {}: {why}", path.display());
    if path == Path::new(STDIN) {
        let stdin = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned();
        return stdin
            .map(File::from)
            .map_err(|error| failed(error.to_string()));
    }
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(failed("it is a directory".to_owned()));
    }
    Ok(file)
}

/// Inputs, their names, and how many sources they come from.
pub(super) struct Inputs {
    pub(super) source: Source,
    pub(super) names: Vec<OsString>,
    pub(super) sources: usize,
}

impl Inputs {
    pub(super) fn of(source: Source) -> Inputs {
        Inputs {
            source,
            names: Vec::new(),
            sources: 1,
        }
    }
}

/// What a joblog says has failed.
pub(super) fn retried(options: &Run, command: &[OsString]) -> Result<Inputs, String> {
    let path = joblog_path(options.joblog.as_deref().unwrap_or(Path::new("")));
    if !path.exists() {
        return Err(format!("there is no joblog {}", path.display()));
    }
    if options.results.is_some() {
        return Err(
            "--retry-failed knows commands but not their inputs, by which --results names folders; use --resume-failed"
                .to_owned(),
        );
    }
    if !command.is_empty() && !options.quiet {
        let _ = writeln!(
            io::stderr(),
            "flyball: --retry-failed runs what stands in the joblog, not this command; --resume-failed runs this one"
        );
    }
    let failed = Past::read(path, true)?.failed();
    Ok(Inputs::of(Source::numbered(failed)))
}

/// Standard input, or a file, in blocks.
pub(super) fn in_blocks(
    options: &Run,
    groups: &[Vec<From>],
    events: &Sender<Event>,
) -> Result<Inputs, String> {
    let path = match groups {
        [] => Path::new(STDIN),
        [group] if matches!(group.as_slice(), [From::File(_)]) => match &group[0] {
            From::File(path) => path.as_path(),
            From::Words(_) => Path::new(STDIN),
        },
        _ => return Err("--pipe takes its input from standard input or one --arg-file".to_owned()),
    };
    if options.colsep.is_some() || options.link || options.shuf || options.xargs {
        return Err(
            "--pipe hands on bytes; --colsep, --link, --shuf and -X are for inputs that are words"
                .to_owned(),
        );
    }
    let end = [options.end()];
    let (end, start): (&[u8], &[u8]) = match (&options.recend, &options.recstart) {
        (None, None) => (&end, b""),
        (None, Some(start)) => (b"", &start.0),
        (Some(end), None) => (&end.0, b""),
        (Some(end), Some(start)) => (&end.0, &start.0),
    };
    let mut cutter = Cutter::new(open(path)?, end, start)
        .records(options.max_args.map(u64::from))
        .header(u64::from(options.header.is_some()));
    if let Some(bytes) = options.block {
        cutter = cutter.block(bytes);
    }
    Ok(Inputs::of(Source::blocks(cutter, tell(events))))
}

fn tell(events: &Sender<Event>) -> impl Fn(Read) -> bool + Send + 'static {
    let events = events.clone();
    move |read| events.send(Event::Input(read)).is_ok()
}

/// Words and files.
pub(super) fn inputs(
    options: &Run,
    mut groups: Vec<Vec<From>>,
    resumes: bool,
    events: &Sender<Event>,
) -> Result<Inputs, String> {
    if groups.is_empty() {
        groups.push(vec![From::File(STDIN.into())]);
    }
    if options.link {
        groups = vec![groups.into_iter().flatten().collect()];
    }
    let of_stdin = |from: &&From| matches!(from, From::File(path) if path == Path::new(STDIN));
    if groups.iter().flatten().filter(of_stdin).count() > 1 {
        return Err("standard input can be a source of inputs only once".to_owned());
    }
    let sources = groups.iter().flatten().count();
    if (options.max_args.is_some() || options.xargs) && sources > 1 {
        return Err("-n and -X take inputs of one source, not combinations of several".to_owned());
    }
    let columns = match (&options.colsep, options.trim) {
        (None, None | Some(Trim::No)) => None,
        (None, Some(trim)) => Some(Columns::new(None, trim)?),
        (Some(separator), trim) => Some(Columns::new(Some(separator), trim.unwrap_or(Trim::Both))?),
    };
    let name = |first: OsString| match &columns {
        Some(columns) => columns.split(&first),
        None => vec![first],
    };
    let mut names = Vec::new();
    let one_file = sources == 1 && matches!(groups[0][0], From::File(_));
    let held = options.shuf || options.halt.needs_total();
    let source = if let (true, false, From::File(path)) = (one_file, held, &groups[0][0]) {
        let mut records = Records::new(open(path)?, options.end());
        if options.header.is_some() {
            let first = records
                .next()
                .map_err(|error| format!("cannot read inputs: {error}"))?;
            names = first.map(name).unwrap_or_default();
        }
        Source::records(records, tell(events))
    } else {
        let mut lists = Vec::new();
        for group in groups {
            let mut columns_of = Vec::new();
            for from in group {
                let mut list =
                    match from {
                        From::Words(words) => words,
                        From::File(path) => Records::new(open(&path)?, options.end())
                            .all()
                            .map_err(|error| {
                                format!("cannot read inputs from {}: {error}", path.display())
                            })?,
                    };
                if options.header.is_some() && !list.is_empty() {
                    names.extend(name(list.remove(0)));
                }
                columns_of.push(list);
            }
            lists.push(columns_of);
        }
        let mut lists = Lists::new(lists, options.link);
        if options.shuf {
            lists.shuffle(options.seed.unwrap_or_else(unix_nanos))?;
        }
        Source::lists(lists)
    };
    if let Some(bad) = names
        .iter()
        .find(|name| name.is_empty() || name.as_bytes().contains(&b'}'))
    {
        return Err(format!("--header: {bad:?} cannot be the name of an input"));
    }
    if resumes && options.halt.seeks_success() {
        return Err(
            "--halt with success= and --resume contradict each other: one stops at what the other leaves out"
                .to_owned(),
        );
    }
    Ok(Inputs {
        source: source.with_columns(columns),
        names,
        sources,
    })
}
