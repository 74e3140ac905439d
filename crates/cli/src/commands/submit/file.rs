//! Tasks from a file: one, a list, an object with `tasks`, or one a line. Parted into batches that the API takes.
//!
//! Payloads stay the bytes they are. A command that names no folder runs in this one, over the socket; its environment is the daemon's with what it
//! names, as a thousand copies of this environment would not fit a request.

use std::path::Path;

use flyball_engine::view::tasks::{NewTaskBody, OsText, TaskBatchBody};

use super::build::{here, read_text, umask};
use crate::client::Failure;
use crate::show::inert;

/// Longest file that is read, bytes.
const FILE_MAX: u64 = 256 << 20;
/// Tasks and bytes of a batch, at most: the API takes 1,000 and, unless it is configured otherwise, 1 MiB.
const BATCH_TASKS: usize = 1000;
const BATCH_BYTES: usize = 1_000_000;

/// The bodies to send.
pub(super) fn bodies(path: &Path, local: bool) -> Result<Vec<Vec<u8>>, Failure> {
    let text = read_text(path, FILE_MAX)?;
    let mut tasks = parse(&text).map_err(|why| {
        let name = if path == Path::new("-") {
            "standard input".to_owned()
        } else {
            inert(&path.to_string_lossy())
        };
        Failure::Usage(format!("{name}: {}", inert(&why)))
    })?;
    if tasks.is_empty() {
        return Err(Failure::Usage("there is no task in it".to_owned()));
    }
    if local {
        let here = OsText(here()?.into_os_string());
        let mask = umask();
        for command in tasks.iter_mut().filter_map(|task| task.command.as_mut()) {
            command.cwd.get_or_insert_with(|| here.clone());
            if command.umask.is_none() {
                command.umask.clone_from(&mask);
            }
        }
    }
    Ok(batches(&tasks))
}

/// Whatever shape they have.
fn parse(text: &str) -> Result<Vec<NewTaskBody>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let place = |error: &serde_json::Error| error.to_string();
    match text.trim_start().as_bytes().first() {
        None => return Ok(Vec::new()),
        Some(b'[') => return serde_json::from_str(text).map_err(|error| place(&error)),
        Some(_) => {}
    }
    // One document over several lines, or a document a line?
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) {
        Ok(keys) if keys.contains_key("tasks") => {
            let batch: TaskBatchBody = serde_json::from_str(text).map_err(|error| place(&error))?;
            Ok(batch.tasks)
        }
        Ok(_) => {
            let task = serde_json::from_str(text).map_err(|error| place(&error))?;
            Ok(vec![task])
        }
        Err(_) => {
            let lines = text.lines().enumerate();
            lines
                .filter(|(_, line)| !line.trim().is_empty())
                .map(|(index, line)| {
                    serde_json::from_str(line)
                        .map_err(|error| format!("line {}: {error}", index + 1))
                })
                .collect()
        }
    }
}

/// Parts tasks into bodies that are not too long. One task alone that is too long is for the daemon to refuse.
fn batches(tasks: &[NewTaskBody]) -> Vec<Vec<u8>> {
    const OPEN: &[u8] = b"{\"tasks\":[";
    const CLOSE: &[u8] = b"]}";
    let mut bodies = Vec::new();
    let (mut body, mut count) = (OPEN.to_vec(), 0);
    for task in tasks {
        // Plain data: writing it cannot fail.
        let task = serde_json::to_vec(task).unwrap_or_default();
        if count > 0 && (count == BATCH_TASKS || body.len() + task.len() > BATCH_BYTES) {
            body.extend_from_slice(CLOSE);
            bodies.push(std::mem::replace(&mut body, OPEN.to_vec()));
            count = 0;
        }
        if count > 0 {
            body.push(b',');
        }
        body.extend(task);
        count += 1;
    }
    body.extend_from_slice(CLOSE);
    bodies.push(body);
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        let tasks = parse(text).unwrap();
        tasks.iter().map(|task| task.kind.to_string()).collect()
    }

    #[test]
    fn files_have_four_shapes() {
        for text in [
            r#"[{"kind":"a"},{"kind":"b"}]"#,
            "{\"kind\":\"a\"}\n\n{\"kind\":\"b\"}\n",
            "\u{feff}{\"tasks\": [{\"kind\":\"a\"},\n{\"kind\":\"b\"}]}\n",
        ] {
            assert_eq!(kinds(text), ["a", "b"], "{text}");
        }
        assert_eq!(kinds("{\n\"kind\": \"a\"\n}\n"), ["a"]);
        assert!(kinds(" \n").is_empty());
        let wrong = parse("{\"kind\":\"a\"}\n{\"kind\":\"b\",\"prio\":1}").unwrap_err();
        assert!(wrong.starts_with("line 2: unknown field `prio`"), "{wrong}");
        assert!(parse("[{\"kind\":\"a\"},").is_err());
        assert!(parse("7").is_err());
    }

    /// Numbers of payloads are the digits that they were.
    #[test]
    fn payloads_stay_as_they_are_and_batches_are_bounded() {
        let tasks = parse(r#"{"kind":"a","payload":{"n":12345678901234567890123.50}}"#).unwrap();
        let body = batches(&tasks).remove(0);
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains("12345678901234567890123.50"), "{text}");
        let many: String = "{\"kind\":\"a\"}\n".repeat(2500);
        let bodies = batches(&parse(&many).unwrap());
        let sizes: Vec<usize> = bodies
            .iter()
            .map(|body| {
                let batch: TaskBatchBody = serde_json::from_slice(body).unwrap();
                batch.tasks.len()
            })
            .collect();
        assert_eq!(sizes, [1000, 1000, 500]);
        let long = format!(
            "{{\"kind\":\"a\",\"payload\":\"{}\"}}\n",
            "x".repeat(400_000)
        );
        assert_eq!(batches(&parse(&long.repeat(5)).unwrap()).len(), 3);
    }
}
