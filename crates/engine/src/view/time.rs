//! An instant as people read it.

use flyball_core::time::{Clock, OsClock, Timestamp, unix_nanos};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An instant of the calendar, written as RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// Makes an instant from nanoseconds since 1970.
    pub fn from_unix_nanos(nanos: u64) -> Self {
        Time(nanos)
    }

    /// The nanoseconds since 1970.
    pub fn unix_nanos(self) -> u64 {
        self.0
    }

    /// The present.
    pub fn now() -> Self {
        Time(unix_nanos())
    }

    /// Tells when `at` was, by the calendar as it is set now.
    pub fn of(at: Timestamp) -> Self {
        let ago = OsClock.now().saturating_nanos_since(at);
        let ahead = at.saturating_nanos_since(OsClock.now());
        Time(unix_nanos().saturating_sub(ago).saturating_add(ahead))
    }

    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        u64::try_from(time.unix_timestamp_nanos()).ok().map(Time)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0 / 1_000_000;
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
            .map_err(|_| fmt::Error)?;
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond()
        )
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Time::parse(&text).ok_or_else(|| {
            de::Error::custom(
                "expected an RFC 3339 time such as 2030-01-31T18:00:00Z, from 1970 to 2554",
            )
        })
    }
}

#[cfg(feature = "openapi")]
mod schema {
    use super::Time;
    use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
    use utoipa::openapi::{RefOr, Schema};

    impl utoipa::PartialSchema for Time {
        fn schema() -> RefOr<Schema> {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
                .description(Some("RFC 3339, UTC"))
                .into()
        }
    }

    impl utoipa::ToSchema for Time {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-1: timestamps are RFC 3339 in UTC, and read back.
    #[test]
    fn times_are_rfc_3339() {
        let time = Time::from_unix_nanos(1_795_278_061_250_000_000);
        assert_eq!(time.to_string(), "2026-11-21T16:21:01.250Z");
        assert_eq!(Time::parse(&time.to_string()), Some(time));
        assert_eq!(Time::parse("yesterday"), None);
        assert_eq!(
            serde_json::to_string(&time).ok().as_deref(),
            Some("\"2026-11-21T16:21:01.250Z\"")
        );
    }

    #[test]
    fn instants_keep_their_distance() {
        let now = OsClock.now();
        let earlier = Time::of(now.saturating_sub_nanos(5_000_000_000));
        let later = Time::of(now);
        let apart = later.unix_nanos() - earlier.unix_nanos();
        assert!(apart.abs_diff(5_000_000_000) < 1_000_000_000, "{apart}");
    }
}
