//! `time`: the time of day.

use serde_json::{Value, json};
use watertight_provider::ToolSpec;

use super::{Tool, ToolContext, ToolFuture};

pub(super) struct Time;

impl Tool for Time {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "time".into(),
            description: "Tells the present time in UTC, as ISO 8601 and as milliseconds since the Unix epoch.".into(),
            parameters: json!({"type": "object", "properties": {}, "additionalProperties": false}),
        }
    }

    fn is_idempotent(&self) -> bool {
        true
    }

    fn run(&self, context: ToolContext, _arguments: Value) -> ToolFuture {
        let text = json!({"utc": iso_8601(context.now.0), "unixMillis": context.now.0}).to_string();
        Box::pin(std::future::ready(Ok(text)))
    }
}

/// `1970-01-01T00:00:00.000Z` for 0. Civil date from day count, valid for every year an `i64` of milliseconds reaches.
fn iso_8601(unix_millis: i64) -> String {
    let (days, millis) = (unix_millis.div_euclid(86_400_000), unix_millis.rem_euclid(86_400_000));
    // Years are counted from 1 March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(iso_8601(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso_8601(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso_8601(1_800_000_000_123), "2027-01-15T08:00:00.123Z");
        assert_eq!(iso_8601(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso_8601(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
