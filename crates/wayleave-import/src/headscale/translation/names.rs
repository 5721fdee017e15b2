//! Names in DNS. Headscale never kept them unique, and up to 0.22 told them apart by the user's name behind them; here they are labels
//! of their own.

use std::collections::BTreeSet;

use wayleave_model::GivenName;

/// Names that are given out, in the order of the nodes' ids.
#[derive(Default)]
pub(super) struct Names {
    taken: BTreeSet<GivenName>,
}

impl Names {
    /// The label that a text comes to, with a number behind it where another node has it already.
    pub(super) fn give(&mut self, text: &str) -> GivenName {
        let wanted = label(text);
        let numbered = (1..=u32::MAX).map(|number| wanted.numbered(number));
        let free = std::iter::once(wanted.clone()).chain(numbered).find(|name| !self.taken.contains(name));
        let name = free.unwrap_or(wanted);
        self.taken.insert(name.clone());
        name
    }
}

/// Lower case; runs of all that has no place in a label as one hyphen; none at the ends; at most 63 long; `node` if nothing is left.
pub(super) fn label(text: &str) -> GivenName {
    let mut label = String::new();
    let mut run = false;
    for c in text.to_lowercase().chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' {
            label.push(c);
            run = false;
        } else if !run {
            label.push('-');
            run = true;
        }
    }
    let label: String = label.trim_matches('-').chars().take(63).collect();
    let label = label.trim_matches('-');
    let label = if label.is_empty() { "node" } else { label };
    label.parse().expect("what is left are lower-case letters, digits and inner hyphens, 1 to 63 of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_and_unique() {
        let mut names = Names::default();
        for (text, name) in [
            ("Kitchen PC", "kitchen-pc"),
            ("kitchen.pc", "kitchen-pc-1"),
            ("Office_GW-B", "office-gw-b"),
            ("日本", "node"),
            ("--", "node-1"),
            ("kitchen-pc-1", "kitchen-pc-1-1"),
        ] {
            assert_eq!(names.give(text).as_str(), name, "{text}");
        }
        assert_eq!(names.give(&"a".repeat(80)).as_str().len(), 63);
        assert_eq!(names.give(&"a".repeat(80)).as_str().len(), 63);
    }
}
