//! Timers as a table keyed by purpose: setting one again moves it, and each is seen once.

use std::collections::{BTreeMap, BTreeSet};

use crate::Timestamp;

/// At most one deadline for each purpose.
#[derive(Clone, Debug)]
pub struct Timers<P> {
    at: BTreeMap<P, Timestamp>,
    order: BTreeSet<(Timestamp, P)>,
}

impl<P: Ord + Clone> Default for Timers<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Ord + Clone> Timers<P> {
    /// No deadlines.
    pub const fn new() -> Self {
        Self { at: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// Sets the deadline of this purpose; one that it had is forgotten.
    pub fn set(&mut self, purpose: P, at: Timestamp) {
        self.stop(&purpose);
        self.at.insert(purpose.clone(), at);
        self.order.insert((at, purpose));
    }

    /// Forgets the deadline of this purpose.
    pub fn stop(&mut self, purpose: &P) {
        if let Some(at) = self.at.remove(purpose) {
            self.order.remove(&(at, purpose.clone()));
        }
    }

    /// Whether this purpose has a deadline.
    pub fn is_set(&self, purpose: &P) -> bool {
        self.at.contains_key(purpose)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest one that is due.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<P> {
        let (at, _) = self.order.first()?;
        if *at > now {
            return None;
        }
        let (_, purpose) = self.order.pop_first()?;
        self.at.remove(&purpose);
        Some(purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_is_set_again_is_seen_once_and_later() {
        let at = Timestamp::from_millis;
        let mut timers = Timers::new();
        timers.set('a', at(1));
        timers.set('b', at(2));
        timers.set('a', at(3));
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!(timers.pop_due(at(2)), Some('b'));
        assert_eq!(timers.pop_due(at(2)), None);
        timers.stop(&'a');
        assert_eq!(timers.next(), None);
    }
}
