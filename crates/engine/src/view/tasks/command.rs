//! Commands and calls of URLs as clients write them, and bytes that are no text.

use super::{At, Faults, MAX_KEY, check_name, is_inert};
use bytes::Bytes;
use flyball_tasks::run::{check_header, check_url};
use flyball_tasks::{CommandSpec, HttpSpec, IoPriority, Limit};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Most arguments, and most variables of an environment.
const MAX_ITEMS: usize = 10_000;
/// Most CPUs that are named.
const MAX_CPUS: usize = 1024;
/// Longest URL, bytes.
const MAX_URL: usize = 8192;
/// Most header fields of a call.
const MAX_HEADERS: usize = 64;
/// Methods that a call may have.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// A string of the system: text where it is text, else `{"base64": "…"}`, as file names and arguments may be any bytes but NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsText(pub OsString);

impl OsText {
    fn holds_nul(&self) -> bool {
        self.0.as_bytes().contains(&0)
    }
}

impl From<&OsStr> for OsText {
    fn from(text: &OsStr) -> Self {
        OsText(text.to_owned())
    }
}

impl Serialize for OsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &base64::encode(self.0.as_bytes()))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = OsText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or {\"base64\": \"…\"} for bytes that are none")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OsText, E> {
                Ok(OsText(text.into()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<OsText, E> {
                Ok(OsText(text.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OsText, A::Error> {
                let expected = || de::Error::custom("expected {\"base64\": \"…\"}");
                let key: Option<String> = map.next_key()?;
                if key.as_deref() != Some("base64") {
                    return Err(expected());
                }
                let text: String = map.next_value()?;
                if map.next_key::<String>()?.is_some() {
                    return Err(expected());
                }
                let bytes = base64::decode(&text)
                    .ok_or_else(|| de::Error::custom("this is no base64 (RFC 4648, padded)"))?;
                Ok(OsText(OsString::from_vec(bytes)))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// An environment: an object, or a list of pairs where a name is no text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnvBody(pub Vec<(OsText, OsText)>);

impl Serialize for EnvBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.iter().all(|(name, _)| name.0.to_str().is_some()) {
            serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
        } else {
            serializer.collect_seq(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for EnvBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = EnvBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names and values, or a list of pairs of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EnvBody, A::Error> {
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = map.next_value()?;
                    pairs.push((OsText(name.into()), value));
                }
                Ok(EnvBody(pairs))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<EnvBody, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = seq.next_element()? {
                    pairs.push(pair);
                }
                Ok(EnvBody(pairs))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// A child process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CommandBody {
    /// Program and arguments. What is no text is `{"base64": "…"}`.
    pub argv: Vec<OsText>,
    /// Working folder; the daemon's if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<OsText>,
    /// Added to the daemon's environment, or all of it under `clear_env`.
    #[serde(default)]
    pub env: EnvBody,
    /// Whether nothing of the daemon's environment is handed down.
    #[serde(default)]
    pub clear_env: bool,
    /// File mode creation mask, octal: `"022"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "022"))]
    pub umask: Option<String>,
    /// Niceness beyond the class's, 0 to 19.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 19))]
    pub nice: i32,
    /// Its turn at the disk: `idle`, or `best_effort` with a level of 0 (first) to 7 (last), as `best_effort:7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "idle"))]
    pub io_priority: Option<String>,
    /// CPUs it may run on; all if it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinity: Vec<u16>,
    /// Limits of the kernel for the command and each of its children: `address_space`, `core`, `cpu_seconds`, `data`, `file_size`, `open_files`,
    /// `processes`, `stack`; bytes where it is not a count or seconds.
    #[serde(
        default,
        deserialize_with = "super::strict::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub limits: BTreeMap<String, u64>,
    /// Whether an exit other than 0 may be retried.
    #[serde(default)]
    pub retry_on_failure: bool,
}

/// Reads the turn at the disk.
fn io_priority(text: &str) -> Option<IoPriority> {
    match text.split_once(':') {
        None if text == "idle" => Some(IoPriority::Idle),
        Some(("best_effort", level)) if level.len() == 1 => {
            let level = level.parse().ok().filter(|level| *level <= 7)?;
            Some(IoPriority::BestEffort(level))
        }
        _ => None,
    }
}

impl CommandBody {
    pub(crate) fn check(self, at: At<'_>, local: bool, faults: &mut Faults) -> CommandSpec {
        let argv = at.key("argv");
        match self.argv.first() {
            None => faults.add(argv.pointer(), "is empty, expected a program at least"),
            Some(program) if program.0.is_empty() => {
                faults.add(argv.index(0).pointer(), "is empty, expected a program");
            }
            Some(_) => {}
        }
        if self.argv.len() > MAX_ITEMS {
            faults.add(
                argv.pointer(),
                format!("found {}, expected at most {MAX_ITEMS}", self.argv.len()),
            );
        }
        if let Some(index) = self.argv.iter().position(OsText::holds_nul) {
            faults.add(argv.index(index).pointer(), "holds a NUL byte");
        }
        if let Some(cwd) = &self.cwd
            && (cwd.0.is_empty() || cwd.holds_nul())
        {
            faults.add(
                at.key("cwd").pointer(),
                "expected a folder: not empty, no NUL byte",
            );
        }
        let env = at.key("env");
        if self.env.0.len() > MAX_ITEMS {
            faults.add(
                env.pointer(),
                format!("found {}, expected at most {MAX_ITEMS}", self.env.0.len()),
            );
        }
        let mut names: Vec<&OsStr> = Vec::with_capacity(self.env.0.len());
        for (name, value) in &self.env.0 {
            let place = || env.key(name.0.to_str().unwrap_or("?")).pointer();
            if name.0.is_empty() || name.0.as_bytes().contains(&b'=') || name.holds_nul() {
                faults.add(
                    place(),
                    "expected a name: not empty, without `=` and NUL bytes",
                );
            } else if value.holds_nul() {
                faults.add(place(), "holds a NUL byte");
            }
            names.push(&name.0);
        }
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            faults.add(
                env.key(&twice[0].to_string_lossy()).pointer(),
                "is given twice",
            );
        }
        let umask = self.umask.as_deref().and_then(|text| {
            let mask = (1..=4)
                .contains(&text.len())
                .then(|| u32::from_str_radix(text, 8).ok())
                .flatten()
                .filter(|mask| *mask <= 0o777 && !text.starts_with('+'));
            if mask.is_none() {
                faults.add(
                    at.key("umask").pointer(),
                    "expected octal digits, 0 to 777, such as \"022\"",
                );
            }
            mask
        });
        if !(0..=19).contains(&self.nice) {
            faults.add(
                at.key("nice").pointer(),
                format!("found {}, expected 0 to 19", self.nice),
            );
        }
        let io = self.io_priority.as_deref().and_then(|text| {
            let io = io_priority(text);
            if io.is_none() {
                faults.add(
                    at.key("io_priority").pointer(),
                    "expected `idle` or `best_effort:0` to `best_effort:7`",
                );
            }
            io
        });
        let mut affinity = self.affinity;
        affinity.sort_unstable();
        affinity.dedup();
        if affinity.len() > MAX_CPUS {
            faults.add(
                at.key("affinity").pointer(),
                format!("found {}, expected at most {MAX_CPUS}", affinity.len()),
            );
        }
        let mut limits = Vec::with_capacity(self.limits.len());
        for (name, value) in &self.limits {
            match Limit::ALL.into_iter().find(|limit| limit.name() == name) {
                Some(limit) => limits.push((limit, *value)),
                None => faults.add(
                    at.key("limits").key(name).pointer(),
                    format!("expected one of {}", Limit::ALL.map(Limit::name).join(", ")),
                ),
            }
        }
        CommandSpec {
            argv: self.argv.into_iter().map(|text| text.0).collect(),
            cwd: self.cwd.map(|text| PathBuf::from(text.0)),
            env: self.env.0.into_iter().map(|(n, v)| (n.0, v.0)).collect(),
            clear_env: self.clear_env,
            umask,
            nice: self.nice,
            io_priority: io,
            affinity,
            limits,
            retry_on_failure: self.retry_on_failure,
            local,
        }
    }

    /// A command as it is shown.
    pub(crate) fn of(spec: &CommandSpec) -> Self {
        CommandBody {
            argv: spec.argv.iter().map(|text| OsText(text.clone())).collect(),
            cwd: spec.cwd.as_deref().map(|path| path.as_os_str().into()),
            env: EnvBody(
                spec.env
                    .iter()
                    .map(|(name, value)| (OsText(name.clone()), OsText(value.clone())))
                    .collect(),
            ),
            clear_env: spec.clear_env,
            umask: spec.umask.map(|mask| format!("{mask:03o}")),
            nice: spec.nice,
            io_priority: spec.io_priority.map(|io| match io {
                IoPriority::Idle => "idle".to_owned(),
                IoPriority::BestEffort(level) => format!("best_effort:{level}"),
            }),
            affinity: spec.affinity.clone(),
            limits: spec
                .limits
                .iter()
                .map(|(limit, value)| (limit.name().to_owned(), *value))
                .collect(),
            retry_on_failure: spec.retry_on_failure,
        }
    }
}

/// A call of a URL.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HttpBody {
    /// `GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` or `OPTIONS`.
    #[serde(default = "get")]
    pub method: String,
    /// `http://` or `https://`.
    pub url: String,
    /// Header fields.
    #[serde(default, deserialize_with = "super::strict::map")]
    pub headers: BTreeMap<String, String>,
    /// What is sent, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<serde_json::Value>))]
    pub body: Option<Box<RawValue>>,
    /// What is sent where it is not JSON: base64 of the bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// What the call depends on: calls that name the same share a breaker. Host and port of the URL unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependency: Option<String>,
    /// Whether a second, equal call may be made when the first is slow: only where the one who is called does nothing twice.
    #[serde(default)]
    pub hedge: bool,
}

fn get() -> String {
    "GET".to_owned()
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

impl HttpBody {
    pub(crate) fn check(self, at: At<'_>, local: bool, faults: &mut Faults) -> HttpSpec {
        if !METHODS.contains(&self.method.as_str()) {
            faults.add(
                at.key("method").pointer(),
                format!("expected one of {}", METHODS.join(", ")),
            );
        }
        let rest = self
            .url
            .strip_prefix("http://")
            .or_else(|| self.url.strip_prefix("https://"));
        let has_host =
            rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#', ':']));
        let plain = self.url.len() <= MAX_URL && self.url.bytes().all(|b| b.is_ascii_graphic());
        if !has_host || !plain {
            faults.add(
                at.key("url").pointer(),
                format!("expected http:// or https:// and a host, at most {MAX_URL} bytes, other characters escaped"),
            );
        } else if let Err(why) = check_url(&self.url) {
            faults.add(at.key("url").pointer(), why);
        }
        let headers = at.key("headers");
        if self.headers.len() > MAX_HEADERS {
            faults.add(
                headers.pointer(),
                format!(
                    "found {}, expected at most {MAX_HEADERS}",
                    self.headers.len()
                ),
            );
        }
        for (name, value) in &self.headers {
            if !is_token(name) || !is_inert(value) || value.len() > MAX_URL {
                faults.add(
                    headers.key(name).pointer(),
                    "expected the name of a header field, and a value without control characters",
                );
            } else if let Err(why) = check_header(name, value) {
                faults.add(headers.key(name).pointer(), why);
            }
        }
        let mut headers: Vec<(String, String)> = self.headers.into_iter().collect();
        let body = match (self.body, self.body_base64) {
            (Some(_), Some(_)) => {
                faults.add(at.key("body_base64").pointer(), "excludes `body`");
                None
            }
            (Some(json), None) => {
                let named =
                    |(name, _): &(String, String)| name.eq_ignore_ascii_case("content-type");
                if !headers.iter().any(named) {
                    headers.push(("content-type".to_owned(), "application/json".to_owned()));
                }
                Some(bytes_of(json))
            }
            (None, Some(text)) => match base64::decode(&text) {
                Some(bytes) => Some(bytes.into()),
                None => {
                    faults.add(
                        at.key("body_base64").pointer(),
                        "this is no base64 (RFC 4648, padded)",
                    );
                    None
                }
            },
            (None, None) => None,
        };
        if let Some(dependency) = &self.dependency {
            check_name(at.key("dependency"), dependency, MAX_KEY, faults);
        }
        HttpSpec {
            method: self.method,
            url: self.url,
            headers,
            body,
            dependency: self.dependency.map(String::into_boxed_str),
            hedge: self.hedge,
            remote: !local,
        }
    }

    /// A call as it is shown.
    pub(crate) fn of(spec: &HttpSpec) -> Self {
        let json = |body: &Bytes| serde_json::from_slice::<Box<RawValue>>(body).ok();
        let body = spec.body.as_ref().and_then(json);
        let body_base64 = match (&spec.body, &body) {
            (Some(bytes), None) => Some(base64::encode(bytes)),
            _ => None,
        };
        HttpBody {
            method: spec.method.clone(),
            url: spec.url.clone(),
            headers: spec.headers.iter().cloned().collect(),
            body,
            body_base64,
            dependency: spec.dependency.as_deref().map(str::to_owned),
            hedge: spec.hedge,
        }
    }
}

/// The bytes of a JSON text, without copying them.
pub(crate) fn bytes_of(json: Box<RawValue>) -> Bytes {
    let text: Box<str> = json.into();
    Bytes::from(String::from(text).into_bytes())
}

/// Base64 with padding (RFC 4648 §4).
pub(crate) mod base64 {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    pub(crate) fn encode(bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
        for chunk in bytes.chunks(3) {
            let group = chunk
                .iter()
                .fold(0u32, |group, byte| group << 8 | u32::from(*byte));
            let group = group << (8 * (3 - chunk.len()));
            for place in 0..4 {
                if place <= chunk.len() {
                    let digit = (group >> (18 - 6 * place)) & 63;
                    text.push(char::from(ALPHABET[digit as usize]));
                } else {
                    text.push('=');
                }
            }
        }
        text
    }

    pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
        let text = text.as_bytes();
        if !text.len().is_multiple_of(4) {
            return None;
        }
        let padding = text
            .iter()
            .rev()
            .take(2)
            .take_while(|b| **b == b'=')
            .count();
        let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
        let digits = &text[..text.len() - padding];
        for chunk in digits.chunks(4) {
            let mut group = 0u32;
            for byte in chunk {
                let digit = match byte {
                    b'A'..=b'Z' => byte - b'A',
                    b'a'..=b'z' => byte - b'a' + 26,
                    b'0'..=b'9' => byte - b'0' + 52,
                    b'+' => 62,
                    b'/' => 63,
                    _ => return None,
                };
                group = group << 6 | u32::from(digit);
            }
            let group = group << (6 * (4 - chunk.len()));
            let whole = chunk.len() * 6 / 8;
            // Bits beyond the last byte are zero in what an encoder writes; two texts for the same bytes are one too many.
            if group & ((1u32 << (24 - 8 * whole)) - 1) != 0 {
                return None;
            }
            bytes.extend_from_slice(&group.to_be_bytes()[1..=whole]);
        }
        Some(bytes)
    }
}

#[cfg(feature = "openapi")]
mod schema {
    use super::{EnvBody, OsText};
    use utoipa::openapi::schema::{
        AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Type,
    };
    use utoipa::openapi::{RefOr, Schema};
    use utoipa::{PartialSchema, ToSchema};

    impl PartialSchema for OsText {
        fn schema() -> RefOr<Schema> {
            OneOfBuilder::new()
                .item(ObjectBuilder::new().schema_type(Type::String))
                .item(
                    ObjectBuilder::new()
                        .property("base64", ObjectBuilder::new().schema_type(Type::String))
                        .required("base64"),
                )
                .description(Some("Text, or bytes that are none"))
                .into()
        }
    }

    impl ToSchema for OsText {}

    impl PartialSchema for EnvBody {
        fn schema() -> RefOr<Schema> {
            OneOfBuilder::new()
                .item(
                    ObjectBuilder::new()
                        .additional_properties(Some(AdditionalProperties::RefOr(OsText::schema()))),
                )
                .item(ArrayBuilder::new().items(ArrayBuilder::new().items(OsText::schema())))
                .description(Some(
                    "Names and values, or a list of pairs of them where a name is no text",
                ))
                .into()
        }
    }

    impl ToSchema for EnvBody {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64::encode(bytes.as_bytes()), text);
            assert_eq!(base64::decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        for bad in [
            "Zg", "Zg=", "Z===", "Zh==", "====", "Zm9v\n", "Z_9v", "Zg==Zg==",
        ] {
            assert_eq!(base64::decode(bad), None, "{bad}");
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(base64::decode(&base64::encode(&all)), Some(all));
    }

    /// TASK-23: arguments, folder and environment that are no text come and go unchanged.
    #[test]
    fn bytes_that_are_no_text_survive() {
        let body = r#"{"argv":["cat",{"base64":"/2E="}],"cwd":{"base64":"L//"},"env":[["A","b"],[{"base64":"/w=="},"c"]],"clear_env":true,"umask":"027",
            "io_priority":"best_effort:3","affinity":[0,1],"limits":{"open_files":64}}"#;
        let wrong: Result<CommandBody, _> = serde_json::from_str(body);
        assert!(wrong.is_err(), "base64 without padding");
        let body = body.replace("L//", "L/8=");
        let command: CommandBody = serde_json::from_str(&body).unwrap();
        let mut faults = Faults::default();
        let spec = command.clone().check(At::ROOT, true, &mut faults);
        assert_eq!(faults.list(), []);
        assert_eq!(spec.argv[1].as_bytes(), b"\xffa");
        assert_eq!(spec.env[1].0.as_bytes(), b"\xff");
        assert_eq!(
            (spec.umask, spec.local, spec.clear_env),
            (Some(0o27), true, true)
        );
        let shown = serde_json::to_string(&CommandBody::of(&spec)).unwrap();
        assert_eq!(
            serde_json::from_str::<CommandBody>(&shown).unwrap(),
            command
        );
    }

    /// TASK-11: what the system could not take is refused with a pointer to it.
    #[test]
    fn commands_are_checked() {
        for (body, pointer) in [
            (r#"{"argv":[]}"#, "/argv"),
            (r#"{"argv":[""]}"#, "/argv/0"),
            (r#"{"argv":["a","b\u0000"]}"#, "/argv/1"),
            (r#"{"argv":["a"],"cwd":""}"#, "/cwd"),
            (r#"{"argv":["a"],"env":{"A=B":"c"}}"#, "/env/A=B"),
            (r#"{"argv":["a"],"env":{"":"c"}}"#, "/env/"),
            (r#"{"argv":["a"],"env":[["A","1"],["A","2"]]}"#, "/env/A"),
            (r#"{"argv":["a"],"umask":"888"}"#, "/umask"),
            (r#"{"argv":["a"],"umask":"1000"}"#, "/umask"),
            (r#"{"argv":["a"],"umask":"+22"}"#, "/umask"),
            (r#"{"argv":["a"],"nice":-1}"#, "/nice"),
            (
                r#"{"argv":["a"],"io_priority":"best_effort:8"}"#,
                "/io_priority",
            ),
            (r#"{"argv":["a"],"limits":{"files":1}}"#, "/limits/files"),
        ] {
            let command: CommandBody = serde_json::from_str(body).unwrap();
            let mut faults = Faults::default();
            command.check(At::ROOT, false, &mut faults);
            assert_eq!(faults.list().len(), 1, "{body}");
            assert_eq!(faults.list()[0].pointer, pointer, "{body}");
        }
    }

    /// TASK-2: calls of URLs are checked; a JSON body says what it is.
    #[test]
    fn calls_are_checked() {
        for (body, pointer) in [
            (r#"{"url":"ftp://a"}"#, "/url"),
            (r#"{"url":"http://"}"#, "/url"),
            (r#"{"url":"http://a b"}"#, "/url"),
            (r#"{"url":"http://a","method":"get"}"#, "/method"),
            (
                r#"{"url":"http://a","headers":{"a b":"c"}}"#,
                "/headers/a b",
            ),
            (
                r#"{"url":"http://a","headers":{"a":"c\r\nd: e"}}"#,
                "/headers/a",
            ),
            (
                r#"{"url":"http://a","body":1,"body_base64":""}"#,
                "/body_base64",
            ),
            (r#"{"url":"http://a","body_base64":"*"}"#, "/body_base64"),
            (r#"{"url":"http://a:99999/"}"#, "/url"),
            (r#"{"url":"http://[::1/"}"#, "/url"),
            (r#"{"url":"http://user:pw@a/"}"#, "/url"),
            (
                r#"{"url":"http://a","headers":{"Content-Length":"5"}}"#,
                "/headers/Content-Length",
            ),
        ] {
            let call: HttpBody = serde_json::from_str(body).unwrap();
            let mut faults = Faults::default();
            call.check(At::ROOT, false, &mut faults);
            assert_eq!(faults.list().len(), 1, "{body}");
            assert_eq!(faults.list()[0].pointer, pointer, "{body}");
        }
        let call: HttpBody =
            serde_json::from_str(r#"{"method":"POST","url":"https://a/b?c","body":{"d": 1}}"#)
                .unwrap();
        let mut faults = Faults::default();
        let spec = call.check(At::ROOT, false, &mut faults);
        assert_eq!(faults.list(), []);
        assert_eq!(spec.body.as_deref(), Some(br#"{"d": 1}"#.as_slice()));
        assert_eq!(spec.headers[0].1, "application/json");
        assert_eq!(HttpBody::of(&spec).body.unwrap().get(), r#"{"d": 1}"#);
    }
}
