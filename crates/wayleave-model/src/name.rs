//! The names that nodes get in DNS.

use crate::text::{display_as_inner, serde_as_text};
use std::str::FromStr;

/// A node's name in DNS: one label of 1 to 63 lower-case letters, digits and inner hyphens (RFC 1035 2.3.1, with the leading
/// digits of RFC 1123 2.1). Unique in the tailnet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GivenName(String);

/// Why a text can't be a node's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters at all, or more than 63.
    #[error("`{text}` is not a name: a name has 1 to 63 characters")]
    Length {
        /// What was given.
        text: String,
    },
    /// A character that has no place in a DNS label, or a hyphen at an end.
    #[error("`{text}` is not a name: a name has lower-case letters, digits and hyphens, no hyphen first or last{}", hint(.text))]
    Character {
        /// What was given.
        text: String,
    },
}

fn hint(text: &str) -> String {
    match sanitize_label(text) {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::new(),
    }
}

impl GivenName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This name with `-number` behind it, shortened so that the whole stays a label.
    pub fn numbered(&self, number: u32) -> Self {
        let suffix = format!("-{number}");
        let stem = &self.0[..self.0.len().min(63 - suffix.len())];
        Self(format!("{}{suffix}", stem.trim_end_matches('-')))
    }
}

/// The nearest name to what a machine calls itself: lower case, other characters as hyphens, at most 63 long, the first
/// label only. `None` if nothing is left.
pub fn sanitize_label(text: &str) -> Option<GivenName> {
    let label = text.trim().split('.').next().unwrap_or_default().to_lowercase();
    let mut name = String::new();
    for c in label.chars() {
        match c {
            'a'..='z' | '0'..='9' => name.push(c),
            '\'' | '’' => {}
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    name.truncate(63);
    let name = name.trim_end_matches('-');
    if name.is_empty() { None } else { Some(GivenName(name.to_owned())) }
}

impl FromStr for GivenName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 63 {
            return Err(NameError::Length { text: text.to_owned() });
        }
        let ok = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if ok { Ok(Self(text.to_owned())) } else { Err(NameError::Character { text: text.to_owned() }) }
    }
}

display_as_inner!(GivenName);
serde_as_text!(GivenName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_calls_itself_becomes_a_label() {
        let name = |text| sanitize_label(text).map(|n| n.to_string());
        assert_eq!(name("Anna's MacBook Pro"), Some("annas-macbook-pro".into()));
        assert_eq!(name("R1.lan.example"), Some("r1".into()));
        assert_eq!(name("--x--"), Some("x".into()));
        assert_eq!(name("日本"), None);
        assert_eq!(name(""), None);
        assert_eq!(name(&"a".repeat(80)).map(|n| n.len()), Some(63));
    }

    #[test]
    fn a_refused_name_comes_with_the_nearest_right_one() {
        let error = "Router_1".parse::<GivenName>().unwrap_err();
        assert!(error.to_string().ends_with("did you mean `router-1`?"), "{error}");
    }

    #[test]
    fn a_numbered_name_stays_a_label() {
        let long: GivenName = "a".repeat(63).parse().unwrap();
        assert_eq!(long.numbered(12).as_str().len(), 63);
        assert!(long.numbered(12).as_str().parse::<GivenName>().is_ok());
        assert_eq!("r".parse::<GivenName>().unwrap().numbered(1).as_str(), "r-1");
    }
}
