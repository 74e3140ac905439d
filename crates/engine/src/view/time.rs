//! An instant as people read it.

use flyball_core::time::{Clock, OsClock, Timestamp, unix_nanos};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
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

/// `2026-11-21T16:21:01.250Z`.
const LENGTH: usize = 24;

impl Time {
    /// The text, put together digit by digit: answers name many instants, and the general way through formatting costs five times as much.
    fn text(self) -> Option<[u8; LENGTH]> {
        let millis = self.0 / 1_000_000;
        let time =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()?;
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |from: usize, digits: usize, mut number: u16| {
            for place in (from..from + digits).rev() {
                text[place] = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        // No count of nanoseconds reaches the year 2600.
        put(0, 4, u16::try_from(time.year()).ok()?);
        put(5, 2, u8::from(time.month()).into());
        put(8, 2, time.day().into());
        put(11, 2, time.hour().into());
        put(14, 2, time.minute().into());
        put(17, 2, time.second().into());
        put(20, 3, time.millisecond());
        Some(text)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text().ok_or(fmt::Error)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.text();
        let text = text
            .as_ref()
            .and_then(|text| std::str::from_utf8(text).ok());
        serializer.serialize_str(text.ok_or_else(|| ser::Error::custom("an instant out of range"))?)
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
        for nanos in [
            0,
            951_782_399_999_000_000,
            4_102_444_800_001_000_000,
            u64::MAX,
        ] {
            let time = Time::from_unix_nanos(nanos / 1_000_000 * 1_000_000);
            assert_eq!(Time::parse(&time.to_string()), Some(time));
        }
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
