//! How a dependency of tasks is asked whether it is well again: one map of `scheduler.checks`.

use serde_json::{Map, Value as Json};

use super::value::clip;

/// One of `scheduler.checks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// A kind of commands or handlers, or host and port of a URL, or the name that tasks give.
    pub dependency: String,
    /// What asks it.
    pub by: CheckBy,
}

/// What asks a dependency.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckBy {
    /// A GET of this URL.
    Url(String),
    /// This command, program first, by its exit status.
    Command(Vec<String>),
}

impl Check {
    pub(super) const EXPECTED: &'static str = "dependency, and either url (http:// or https://) or command (a list of words, the program by absolute path)";

    /// Reads a map.
    ///
    /// # Errors
    /// What is wrong with it, as what was found.
    pub(crate) fn of(map: &Map<String, Json>) -> Result<Check, String> {
        if let Some(other) = map
            .keys()
            .find(|key| !["dependency", "url", "command"].contains(&key.as_str()))
        {
            return Err(format!("the field {:?}", clip(other, 64)));
        }
        let dependency = match map.get("dependency") {
            Some(Json::String(name)) if (1..=255).contains(&name.len()) => name.clone(),
            Some(_) => return Err("a dependency that is no text of 1 to 255 bytes".into()),
            None => return Err("no dependency".into()),
        };
        let by = match (map.get("url"), map.get("command")) {
            (Some(Json::String(url)), None)
                if url.starts_with("http://") || url.starts_with("https://") =>
            {
                CheckBy::Url(url.clone())
            }
            (None, Some(Json::Array(words))) => {
                let words: Option<Vec<String>> = words
                    .iter()
                    .map(|word| word.as_str().map(str::to_owned))
                    .collect();
                match words {
                    Some(words) if words.first().is_some_and(|word| word.starts_with('/')) => {
                        CheckBy::Command(words)
                    }
                    _ => return Err("a command of another form".into()),
                }
            }
            (Some(_), Some(_)) => return Err("both a url and a command".into()),
            (Some(_), None) => return Err("a url of another form".into()),
            (None, Some(_)) => return Err("a command of another form".into()),
            (None, None) => return Err("neither a url nor a command".into()),
        };
        Ok(Check { dependency, by })
    }
}
