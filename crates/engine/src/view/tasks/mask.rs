//! What only administrators may read of a payload.

use serde_json::Value;
use serde_json::value::RawValue;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// Whether a pointer (RFC 6901) is well-formed: empty, or steps that begin with a slash.
pub(crate) fn is_pointer(pointer: &str) -> bool {
    let escapes_are_whole = || {
        pointer
            .split('~')
            .skip(1)
            .all(|rest| rest.starts_with(['0', '1']))
    };
    (pointer.is_empty() || pointer.starts_with('/')) && escapes_are_whole()
}

/// The payload with every secret in it replaced. One that cannot be read is replaced as a whole: better too much is hidden than too little.
pub(crate) fn masked(payload: &[u8], secrets: &[Box<str>]) -> Box<RawValue> {
    let hidden = || Value::String(MASK.to_owned());
    let mut tree: Value = serde_json::from_slice(payload).unwrap_or_else(|_| hidden());
    for pointer in secrets {
        if let Some(place) = tree.pointer_mut(pointer)
            && !place.is_null()
        {
            *place = hidden();
        }
    }
    // A tree of text, numbers and lists can be written.
    serde_json::value::to_raw_value(&tree).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TASK-18: secret fields are masked, whatever they hold; a payload that cannot be read is hidden whole.
    #[test]
    fn secrets_are_masked() {
        let mask = |payload: &str, secrets: &[&str]| {
            let secrets: Vec<Box<str>> = secrets.iter().map(|&s| s.into()).collect();
            masked(payload.as_bytes(), &secrets).get().to_owned()
        };
        assert_eq!(
            mask(r#"{"a":{"b":"s"},"c":[1,2]}"#, &["/a/b", "/c/1", "/x"]),
            r#"{"a":{"b":"***"},"c":[1,"***"]}"#
        );
        assert_eq!(mask(r#"{"a":{"b":1}}"#, &["/a"]), r#"{"a":"***"}"#);
        assert_eq!(mask(r#"{"a":1}"#, &[""]), r#""***""#);
        // Named twice: neither value shows.
        assert_eq!(mask(r#"{"a":"s1","a":"s2"}"#, &["/a"]), r#"{"a":"***"}"#);
        assert_eq!(mask("{broken", &["/a"]), r#""***""#);
    }

    #[test]
    fn pointers_are_checked() {
        for good in ["", "/", "/a", "/a~1b/0", "/~0"] {
            assert!(is_pointer(good), "{good}");
        }
        for bad in ["a", "/~", "/~2", "a/b"] {
            assert!(!is_pointer(bad), "{bad}");
        }
    }
}
