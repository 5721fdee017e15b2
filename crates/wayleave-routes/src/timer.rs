//! Timers as a table keyed by purpose: setting one again moves it, and each is seen once.

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::Timestamp;

/// At most one deadline for each purpose.
#[derive(Clone, Debug)]
pub(crate) struct Timers<P> {
    at: BTreeMap<P, Timestamp>,
    order: BTreeSet<(Timestamp, P)>,
}

impl<P: Ord + Clone> Timers<P> {
    pub(crate) const fn new() -> Self {
        Self { at: BTreeMap::new(), order: BTreeSet::new() }
    }

    pub(crate) fn set(&mut self, purpose: P, at: Timestamp) {
        self.stop(&purpose);
        self.at.insert(purpose.clone(), at);
        self.order.insert((at, purpose));
    }

    pub(crate) fn stop(&mut self, purpose: &P) {
        if let Some(at) = self.at.remove(purpose) {
            self.order.remove(&(at, purpose.clone()));
        }
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest one that is due.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<P> {
        let (at, _) = self.order.first()?;
        if *at > now {
            return None;
        }
        let (_, purpose) = self.order.pop_first()?;
        self.at.remove(&purpose);
        Some(purpose)
    }
}
