//! One value of a row, as it is stored, and what it may mean.
//!
//! Declared types say little: booleans may be texts, JSON may be bytes, and times are texts in a dozen spellings. So a value is read as
//! what it is, and what it stands for is told from that.

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// An integer.
    Int(i64),
    /// A number with a fraction.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes that are no text, or were not stored as one.
    Bytes(Vec<u8>),
}

/// A value means nothing of the kind that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl Cell {
    /// The text, whatever it was stored as; `None` for nothing, and for bytes that are no text.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Int(number) => Some(number.to_string()),
            Self::Real(number) => Some(number.to_string()),
            Self::Text(text) => Some(text.clone()),
            Self::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        }
    }

    /// The text, empty for nothing.
    pub fn text_or_empty(&self) -> String {
        self.text().unwrap_or_default()
    }

    /// The text, `None` where it is empty or blank.
    pub fn filled(&self) -> Option<String> {
        self.text().filter(|text| !text.trim().is_empty())
    }

    /// A number that is not negative.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Int(number) => u64::try_from(*number).ok(),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Null | Self::Real(_) | Self::Bytes(_) => None,
        }
    }

    /// A number that names a row. Zero names none: Headscale wrote it for "no key" up to 0.22.
    pub fn reference(&self) -> Option<u64> {
        self.number().filter(|id| *id != 0)
    }

    /// A yes or a no.
    ///
    /// # Errors
    ///
    /// It is neither; it counts as no.
    pub fn flag(&self) -> Result<bool, Unreadable> {
        match self {
            Self::Null => Ok(false),
            Self::Int(number) => Ok(*number != 0),
            Self::Real(number) => Ok(*number != 0.0),
            Self::Text(_) | Self::Bytes(_) => {
                let text = self.text().ok_or(Unreadable)?.trim().to_lowercase();
                match text.as_str() {
                    "t" | "true" | "1" | "y" | "yes" => Ok(true),
                    "f" | "false" | "0" | "n" | "no" | "" => Ok(false),
                    _ => Err(Unreadable),
                }
            }
        }
    }

    /// A time; `None` if it is unset, as any before the year 1900 is.
    ///
    /// # Errors
    ///
    /// It is no time; it counts as unset.
    pub fn time(&self) -> Result<Option<jiff::Timestamp>, Unreadable> {
        match self {
            Self::Null => Ok(None),
            // Only what is clearly seconds since 1970: years 1973 to 2286.
            Self::Int(seconds @ 100_000_000..=9_999_999_999) => {
                jiff::Timestamp::from_second(*seconds).map(Some).map_err(|_| Unreadable)
            }
            Self::Int(0) => Ok(None),
            Self::Int(_) | Self::Real(_) => Err(Unreadable),
            Self::Text(_) | Self::Bytes(_) => parse_time(&self.text().ok_or(Unreadable)?),
        }
    }
}

/// Reads `YYYY-MM-DD HH:MM:SS[.fraction]` with an offset, a `Z`, or nothing (UTC) behind it; `T` for the space, the name of a zone and the
/// tail of Go's monotonic clock are passed over.
fn parse_time(text: &str) -> Result<Option<jiff::Timestamp>, Unreadable> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let number = |range: std::ops::Range<usize>| -> Result<i64, Unreadable> {
        let digits = text.get(range).ok_or(Unreadable)?;
        if digits.bytes().all(|b| b.is_ascii_digit()) {
            digits.parse().map_err(|_| Unreadable)
        } else {
            Err(Unreadable)
        }
    };
    let at = |index: usize, wanted: &[u8]| text.as_bytes().get(index).is_some_and(|byte| wanted.contains(byte));
    if !(at(4, b"-") && at(7, b"-") && at(10, b" T") && at(13, b":")) {
        return Err(Unreadable);
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    if year < 1900 {
        return Ok(None);
    }
    let (hour, minute) = (number(11..13)?, number(14..16)?);
    let mut rest = text.get(16..).ok_or(Unreadable)?;
    let mut second = 0;
    let mut nanos = 0_i64;
    if rest.starts_with(':') {
        second = number(17..19)?;
        rest = text.get(19..).ok_or(Unreadable)?;
    }
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        for place in 0..9 {
            let digit = fraction.as_bytes().get(place).filter(|_| place < digits).map_or(0, |b| i64::from(b - b'0'));
            nanos = nanos * 10 + digit;
        }
        rest = &fraction[digits..];
    }
    let small = |number: i64| i8::try_from(number).map_err(|_| Unreadable);
    let year = i16::try_from(year).map_err(|_| Unreadable)?;
    let nanos = i32::try_from(nanos).map_err(|_| Unreadable)?;
    let civil = DateTime::new(year, small(month)?, small(day)?, small(hour)?, small(minute)?, small(second)?, nanos)
        .map_err(|_| Unreadable)?;
    let utc = civil.to_zoned(TimeZone::UTC).map_err(|_| Unreadable)?.timestamp();
    let offset = SignedDuration::from_secs(offset_seconds(rest)?);
    utc.checked_sub(offset).map(Some).map_err(|_| Unreadable)
}

/// The offset at the start of what stands behind a time.
fn offset_seconds(rest: &str) -> Result<i64, Unreadable> {
    let rest = rest.trim_start();
    let sign = match rest.bytes().next() {
        None | Some(b'Z' | b'z') => return Ok(0),
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) => return Err(Unreadable),
    };
    let digits: String =
        rest[1..].chars().take_while(|c| c.is_ascii_digit() || *c == ':').filter(|c| *c != ':').collect();
    let part = |at: usize| digits.get(at..at + 2).and_then(|two| two.parse::<i64>().ok());
    let hours = part(0).ok_or(Unreadable)?;
    Ok(sign * (hours * 3600 + part(2).unwrap_or(0) * 60 + part(4).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_spelling_that_was_seen() {
        let read = |text: &str| Cell::Text(text.to_owned()).time().unwrap().map(|time| time.to_string());
        for (text, time) in [
            ("2022-08-14 09:31:07.512348611+02:00", Some("2022-08-14T07:31:07.512348611Z")),
            ("2025-01-10 08:00:00.25+00:00", Some("2025-01-10T08:00:00.25Z")),
            ("2030-01-01T00:00:00Z", Some("2030-01-01T00:00:00Z")),
            ("2030-01-01 00:00:00", Some("2030-01-01T00:00:00Z")),
            ("2030-01-01 00:00", Some("2030-01-01T00:00:00Z")),
            ("2318-04-18 11:47:16.854775807+00:00", Some("2318-04-18T11:47:16.854775807Z")),
            ("2021-05-01 10:00:00.5 +0200 CEST m=+1.2", Some("2021-05-01T08:00:00.5Z")),
            ("2021-05-01 10:00:00 -0730 XXX", Some("2021-05-01T17:30:00Z")),
            ("0001-01-01 00:00:00+00:00", None),
            ("1899-12-31 00:00:00+00:00", None),
            ("", None),
        ] {
            assert_eq!(read(text), time.map(str::to_owned), "{text}");
        }
        for bad in
            ["soon", "2022-13-01 00:00:00", "2022-01-01", "2022-01-01 00:00:00 nowhere", "２０２２-01-01 00:00:00"]
        {
            assert_eq!(Cell::Text(bad.to_owned()).time(), Err(Unreadable), "{bad}");
        }
        assert_eq!(Cell::Int(1_700_000_000).time().unwrap().unwrap().to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(Cell::Int(7).time(), Err(Unreadable));
    }

    #[test]
    fn flags_may_be_texts_and_what_is_neither_says_so() {
        for (cell, flag) in [
            (Cell::Null, Ok(false)),
            (Cell::Int(1), Ok(true)),
            (Cell::Text("t".to_owned()), Ok(true)),
            (Cell::Text("false".to_owned()), Ok(false)),
            (Cell::Bytes(b"1".to_vec()), Ok(true)),
            (Cell::Text("maybe".to_owned()), Err(Unreadable)),
        ] {
            assert_eq!(cell.flag(), flag, "{cell:?}");
        }
    }

    #[test]
    fn references_of_zero_name_nothing() {
        assert_eq!(Cell::Int(0).reference(), None);
        assert_eq!(Cell::Text("5".to_owned()).reference(), Some(5));
        assert_eq!(Cell::Int(-1).reference(), None);
    }
}
