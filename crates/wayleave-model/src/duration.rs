//! Durations as people write them: `500ms`, `24h`, `90d`, `2h 30m`.

use std::time::Duration;

const UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// A text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no duration: write numbers with ms, s, m, h, d or w, such as 500ms, 24h, 90d or 2h 30m")]
pub struct DurationError(String);

/// Reads a duration.
///
/// # Errors
///
/// The text is none, or longer than any clock runs.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let wrong = || DurationError(text.to_owned());
    let mut millis: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).ok_or_else(wrong)?;
        millis = millis.checked_add(part).filter(|millis| *millis < 1 << 52).ok_or_else(wrong)?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(millis))
}

/// A duration in the largest unit that it is a whole number of: `90s`, `1h`, `1500ms`.
pub fn words(time: Duration) -> String {
    let millis = time.as_millis();
    let (unit, factor) = UNITS
        .iter()
        .filter(|(unit, _)| *unit != "w")
        .rfind(|(_, factor)| millis > 0 && millis.is_multiple_of(u128::from(*factor)))
        .unwrap_or(&("s", 1000));
    format!("{}{unit}", millis / u128::from(*factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, millis) in [
            ("500ms", 500),
            ("24h", 86_400_000),
            ("2h 30m", 9_000_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
            ("90d", 7_776_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "h", "5 h", "-5s", "5x", "1.5h", "99999999999999999999s", "9999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
