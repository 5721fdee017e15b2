//! Tags: `tag:` and a name.

use crate::text::{display_as_inner, serde_as_text};
use std::str::FromStr;

/// A tag with its prefix, such as `tag:router`. It names what a node is for; a tagged node belongs to no user.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// Why a text is not a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a tag: a tag is `tag:`, a letter, then letters, digits and hyphens, such as tag:router")]
pub struct TagError {
    text: String,
}

impl Tag {
    /// The tag as text, with its `tag:`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let ok = text.strip_prefix("tag:").is_some_and(|name| {
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.len() <= 63
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        });
        if ok { Ok(Self(text.to_owned())) } else { Err(TagError { text: text.to_owned() }) }
    }
}

display_as_inner!(Tag);
serde_as_text!(Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_its_prefix_a_letter_and_letters_digits_hyphens() {
        assert_eq!("tag:router-1".parse::<Tag>().unwrap().to_string(), "tag:router-1");
        for bad in ["router", "tag:", "tag:1a", "tag:a b", "tag:-a", "Tag:a", "tag:ä", "tag:a_b"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }
}
