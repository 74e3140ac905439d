//! The daemon's log: a line an event on standard error, for people or as JSON.
//!
//! Written here rather than taken from a formatter so that whatever a value holds is inert in every field, bounded, and on one line.
//! Lines of several threads do not mix.
//!
//! Whoever reads the log may stop to: a pager that waits, a stopped terminal. Every thread of the daemon writes to it, so none waits for
//! the reader longer than [`PATIENCE`], once; from then on lines are lost until it reads again, and the next line says how many.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flyball_engine::config::{LogFormat, LogLevel, ServerLog};
use flyball_engine::view::Time;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::show::inert;
use crate::signals::{self, STDERR_TAKES};

/// Characters of one value.
const VALUE_MAX: usize = 1024;
/// How long the reader of the log may take to make room: a busy one needs moments, one that has stopped needs forever.
const PATIENCE: Duration = Duration::from_millis(10);

/// Starts to write what this process logs, and what panics in it say. Does nothing if that was done before.
pub(crate) fn start(settings: &ServerLog) {
    let level = match settings.level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        // Whatever else there may be one day is more than that.
        _ => LevelFilter::TRACE,
    };
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
    let lines = Lines {
        form: match settings.format {
            LogFormat::Json => Form::Json,
            _ if std::io::stderr().is_terminal() && !dumb && !set("NO_COLOR") => Form::Colored,
            _ => Form::Plain,
        },
        behind: Mutex::default(),
    };
    let _ = tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(level).with(lines),
    );
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let words = text.or_else(|| payload.downcast_ref::<&str>().copied());
        tracing::error!(
            place,
            thread = thread.name(),
            "panic: {}",
            words.unwrap_or("no words")
        );
    }));
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Plain,
    Colored,
    Json,
}

#[derive(Debug)]
struct Lines {
    form: Form,
    behind: Mutex<Behind>,
}

/// How far the reader is behind.
#[derive(Debug, Default)]
struct Behind {
    /// Lines that were lost since the last one that was written.
    lost: u64,
    /// The last one was written in part.
    torn: bool,
}

impl Behind {
    /// Writes a line to standard error as far as that is read.
    fn put(&mut self, form: Form, line: &str) {
        if self.lost > 0 {
            let note = lost(form, self.lost, std::mem::take(&mut self.torn));
            if !self.write(&note, Duration::ZERO) {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        if !self.write(line, PATIENCE) {
            self.lost += 1;
        }
    }

    /// Answers whether all of it was taken. A log that nobody can read any more takes everything: that is no reason to end.
    fn write(&mut self, text: &str, patience: Duration) -> bool {
        let mut out = std::io::stderr().lock();
        for (number, piece) in text.as_bytes().chunks(STDERR_TAKES).enumerate() {
            if !signals::stderr_takes_more(patience) {
                self.torn |= number > 0;
                return false;
            }
            let _ = out.write_all(piece);
        }
        true
    }
}

/// The line that says how many are missing here; on a line of its own, although the last one may be torn.
fn lost(form: Form, lines: u64, torn: bool) -> String {
    let fields = Fields {
        message: "lines of the log are lost: nobody read them".to_owned(),
        others: vec![("lines", lines.into())],
    };
    let start = if torn { "\n" } else { "" };
    start.to_owned() + &line(form, Time::now(), Level::WARN, module_path!(), &fields)
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let about = event.metadata();
        let line = line(
            self.form,
            Time::now(),
            *about.level(),
            about.target(),
            &fields,
        );
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.put(self.form, &line);
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, clip(value.to_owned()).into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.put(field, clip(text).into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, clip(format!("{value:?}")).into());
    }
}

fn clip(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(VALUE_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn line(form: Form, time: Time, level: Level, target: &str, fields: &Fields) -> String {
    if form == Form::Json {
        let others: Map<String, Value> = fields
            .others
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let line = json!({
            "timestamp": time,
            "level": level.as_str(),
            "target": target,
            "message": fields.message,
            "fields": others,
        });
        return line.to_string() + "\n";
    }
    let level = match (form, level) {
        (Form::Colored, Level::ERROR) => "\x1b[31mERROR\x1b[0m".to_owned(),
        (Form::Colored, Level::WARN) => "\x1b[33mWARN \x1b[0m".to_owned(),
        _ => format!("{:<5}", level.as_str()),
    };
    let mut line = format!("{time} {level} {}", inert(&fields.message));
    for (name, value) in &fields.others {
        let value = match value {
            Value::String(text) => quoted(text),
            other => other.to_string(),
        };
        let _ = write!(line, " {name}={value}");
    }
    line.push('\n');
    line
}

/// A value that ends where it seems to end.
fn quoted(text: &str) -> String {
    let text = inert(text);
    if text.is_empty() || text.contains([' ', '"', '=']) {
        format!("\"{}\"", text.replace('"', "\\\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields {
            message: "class paused".to_owned(),
            others: vec![
                ("who", json!("uid 0")),
                ("class", json!("x\n\u{1b}[2J\"y\"")),
                ("tasks", json!(3)),
            ],
        }
    }

    /// API-6: whatever a thing is called, it is one line and inert in the log.
    #[test]
    fn values_are_inert_in_every_form() {
        let time = Time::from_unix_nanos(1_000_000_000);
        assert_eq!(
            line(Form::Plain, time, Level::INFO, "t", &fields()),
            "1970-01-01T00:00:01.000Z INFO  class paused who=\"uid 0\" class=\"x\\n\\u{1b}[2J\\\"y\\\"\" tasks=3\n"
        );
        let json_line = line(Form::Json, time, Level::WARN, "t", &fields());
        assert!(
            !json_line.trim_end().chars().any(char::is_control),
            "{json_line}"
        );
        let read: Value = serde_json::from_str(&json_line).unwrap();
        assert_eq!(read["fields"]["class"], "x\n\u{1b}[2J\"y\"");
        assert_eq!(
            (&read["level"], &read["message"]),
            (&json!("WARN"), &json!("class paused"))
        );
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(clip("é".repeat(5000)).chars().count(), VALUE_MAX + 1);
    }
}
