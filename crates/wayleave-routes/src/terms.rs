//! What is set for a prefix, and what follows from it.
//!
//! The first of these that says anything holds: what a person set for the prefix, what the configuration says of the prefix, what a person
//! set for all prefixes, what the configuration says of all.

use std::collections::BTreeSet;

use wayleave_model::{
    Freeze, NodeId, OnWithdraw, Prefix, PrefixOverrides, PrefixRow, PrefixSettings, Route, Spread, Timestamp, WhenDown,
};

use crate::approval;
use crate::election::Terms;
use crate::seats::Seat;
use crate::table::{Effect, RouteTable, Timer};

impl RouteTable {
    /// What holds for a prefix.
    pub fn prefix_settings(&self, prefix: &Prefix) -> PrefixSettings {
        if self.overrides.is_empty() && self.settings.prefixes.is_empty() {
            return self.settings.defaults;
        }
        let layers = [self.overrides.get(&Some(*prefix)), self.configured(prefix)];
        layers.into_iter().flatten().rev().fold(self.default_settings(), |base, layer| layer.over(base))
    }

    /// What the configuration says of a prefix itself.
    pub fn configured(&self, prefix: &Prefix) -> Option<&PrefixOverrides> {
        self.settings.prefixes.get(prefix)
    }

    /// The prefixes of which the configuration says something.
    pub fn all_configured(&self) -> impl Iterator<Item = &Prefix> {
        self.settings.prefixes.keys()
    }

    /// What holds for prefixes of which nobody says anything else.
    pub fn default_settings(&self) -> PrefixSettings {
        let base = self.settings.defaults;
        self.overrides.get(&None).map_or(base, |default| default.over(base))
    }

    /// What a person set for a prefix, or (`None`) for all.
    pub fn overrides(&self, prefix: Option<&Prefix>) -> Option<&PrefixOverrides> {
        self.overrides.get(&prefix.copied())
    }

    /// All that a person set: the default first, then by prefix.
    pub fn all_overrides(&self) -> impl Iterator<Item = (Option<&Prefix>, &PrefixOverrides)> {
        self.overrides.iter().map(|(prefix, overrides)| (prefix.as_ref(), overrides))
    }

    /// The freeze that holds a prefix at this time, with whether it is one of all prefixes. Of two the longer.
    pub fn frozen(&self, prefix: &Prefix, now: Timestamp) -> Option<(&Freeze, bool)> {
        let of = |key: Option<Prefix>| self.overrides.get(&key).and_then(|overrides| overrides.frozen.as_ref());
        let both = [of(Some(*prefix)).map(|freeze| (freeze, false)), of(None).map(|freeze| (freeze, true))];
        both.into_iter().flatten().filter(|(freeze, _)| freeze.until > now).max_by_key(|(freeze, _)| freeze.until)
    }

    pub(crate) fn terms(&self, prefix: &Prefix, seat: Option<&Seat>, now: Timestamp) -> Terms {
        Terms {
            failback: self.prefix_settings(prefix).failback,
            frozen: !self.overrides.is_empty() && self.frozen(prefix, now).is_some(),
            moved: seat.is_some_and(|seat| seat.moved_by.is_some()),
        }
    }

    /// Whether the approval of a row ends when its node stops advertising it.
    pub fn ends_with_withdrawal(&self, row: &Route) -> bool {
        self.prefix_settings(&row.prefix).on_withdraw == OnWithdraw::Disable && !approval::outlives_withdrawal(row)
    }

    pub(crate) fn put_overrides(&mut self, row: PrefixRow, now: Timestamp, out: &mut Vec<Effect>) {
        let PrefixRow { prefix, overrides } = row;
        match overrides.frozen.as_ref().map(|freeze| freeze.until).filter(|until| *until > now) {
            Some(until) => self.timers.set(Timer::Thaw(prefix), until),
            None => self.timers.stop(&Timer::Thaw(prefix)),
        }
        if overrides.is_empty() {
            self.overrides.remove(&prefix);
        } else {
            self.overrides.insert(prefix, overrides);
        }
        self.mark_under(prefix);
        let concerned = |row: &&Route| prefix.is_none_or(|prefix| row.prefix == prefix);
        // The grace of what was withdrawn before begins when it is first to count.
        let withdrawn: Vec<Route> =
            self.rows.values().filter(concerned).filter(|row| row.enabled && !row.advertised).cloned().collect();
        for row in withdrawn {
            let ends = self.ends_with_withdrawal(&row);
            self.await_withdrawal(row.id, ends.then_some(now));
        }
        let nodes: Vec<NodeId> = self.rows.values().filter(concerned).map(|row| row.node).collect();
        out.extend(nodes.into_iter().map(Effect::RoutesOf));
    }

    /// Whether anybody may choose routers by region.
    pub fn uses_region(&self) -> bool {
        self.uses(|settings| settings.spread == Spread::Region)
    }

    /// Whether any prefix may be spread over several routers.
    pub fn uses_spread(&self) -> bool {
        self.uses(|settings| settings.spread != Spread::Single)
    }

    /// Whether any prefix may fall back.
    pub fn uses_fall_back(&self) -> bool {
        self.uses(|settings| settings.when_down == WhenDown::FallBack)
    }

    fn uses(&self, fits: impl Fn(PrefixSettings) -> bool) -> bool {
        let base = self.settings.defaults;
        fits(base) || self.overrides.values().chain(self.settings.prefixes.values()).any(|own| fits(own.over(base)))
    }

    /// Prefixes that have fallen back, for somebody.
    pub fn fallen_back(&self) -> BTreeSet<Prefix> {
        if !self.uses_fall_back() {
            return BTreeSet::new();
        }
        self.seats.iter().filter(|(_, seat)| seat.fallen_back).map(|((prefix, _), _)| *prefix).collect()
    }

    /// Marks a prefix, or all.
    pub(crate) fn mark_under(&mut self, prefix: Option<Prefix>) {
        match prefix {
            Some(prefix) => self.mark(prefix),
            None => self.dirty.extend(self.holders.keys().copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use wayleave_model::{Failback, PrefixOverrides};

    use super::*;
    use crate::table::{Input, Settings};

    const NOW: Timestamp = Timestamp::from_millis(1);

    fn spread(spread: Spread) -> PrefixOverrides {
        PrefixOverrides { spread: Some(spread), ..PrefixOverrides::default() }
    }

    #[test]
    fn the_configuration_of_a_prefix_stands_between_a_persons_word_on_it_and_every_default() {
        let (named, other): (Prefix, Prefix) = ("10.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap());
        let configured = PrefixOverrides { failback: Some(Failback::Never), ..spread(Spread::Region) };
        let prefixes = [(named, configured)].into();
        let mut table = RouteTable::new(Settings { prefixes, ..Settings::default() });
        let put = |table: &mut RouteTable, prefix, overrides| {
            table.handle(Input::Overrides(PrefixRow { prefix, overrides }), NOW);
        };
        let of = |table: &RouteTable, prefix| table.prefix_settings(prefix).spread;
        assert_eq!((of(&table, &named), of(&table, &other)), (Spread::Region, Spread::Single));
        assert!(table.uses_region() && table.uses_spread() && !table.uses_fall_back());

        put(&mut table, None, spread(Spread::Balance));
        assert_eq!((of(&table, &named), of(&table, &other)), (Spread::Region, Spread::Balance));
        put(&mut table, Some(named), spread(Spread::Single));
        assert_eq!(of(&table, &named), Spread::Single);
        assert_eq!(
            table.prefix_settings(&named).failback,
            Failback::Never,
            "what a person leaves open is still configured"
        );
        put(&mut table, Some(named), PrefixOverrides::default());
        assert_eq!(of(&table, &named), Spread::Region, "taken back");
    }

    #[test]
    fn what_is_configured_for_one_prefix_is_looked_for() {
        let prefix: Prefix = "10.0.0.0/8".parse().unwrap();
        let falls = PrefixOverrides { when_down: Some(WhenDown::FallBack), ..PrefixOverrides::default() };
        let table = RouteTable::new(Settings { prefixes: [(prefix, falls)].into(), ..Settings::default() });
        assert!(table.uses_fall_back() && !table.uses_spread());
    }
}
