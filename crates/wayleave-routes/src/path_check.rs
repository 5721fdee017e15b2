//! Judges path checks: a witness pings an address behind a router, through it.
//!
//! A check convicts a router that it has seen pass before, after two misses in a row, and only while another candidate could do better: one
//! that passes the check, or has not failed it. So where the target itself is down, or nothing behind any router answers, nobody is
//! convicted and nothing moves between routers that are no better than each other. A conviction stands until the router passes the check.
//!
//! A target that is down and a router whose leg is dead look the same from outside. Where another candidate has an address of its own inside
//! the prefix, the witness is asked for that address too, through the same router: if it answers, the router's leg is alive, and the miss
//! is the target's ([`PathOutcome::Spared`]).
//!
//! What is missed through a router that is down is no news of its leg, and what it missed before it went down, or before others carried the prefix,
//! does not add up with what it misses when it is back.
//!
//! Whoever carries the prefix is checked: the primary, those of groups, those that viewers are spread over. Where two of them miss at the same
//! time it may be the target's fault, so neither of them is what the other could be replaced by until it has passed again.
//!
//! Through a router that stands by, the target alone is asked for. Misses of it are its own only if the target answered through the primary all
//! the while, before the first and after the last of them; else they say no more than that it would do no better.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wayleave_model::{NodeId, Prefix, Route, Timestamp};

use crate::evidence::Kind;
use crate::reason::Cause;
use crate::table::{Effect, RouteTable};

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathOutcome {
    /// The target answered.
    Passed,
    /// The target did not answer, but something else behind the router did.
    Spared,
    /// Nothing answered.
    Missed,
}

/// As what a router was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It carried the prefix: for all, for a group, or for some viewers.
    Carrier,
    /// It stood by, and one witness alone was led through it.
    Standby,
}

/// One check, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathRound {
    /// The prefix that is checked.
    pub prefix: Prefix,
    /// The address that was asked for.
    pub target: IpAddr,
    /// As what the router was checked.
    pub role: Role,
    /// When the witness was asked.
    pub asked_at: Timestamp,
    /// When the look was due.
    pub due: Timestamp,
    /// What came of it.
    pub outcome: PathOutcome,
}

/// What checks have said of one route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathRecord {
    /// It passed once; only then can it fail.
    pub passed: bool,
    /// Misses in a row.
    pub misses: u32,
    /// When it was last found out about.
    pub at: Option<Timestamp>,
    /// It passes: when it was asked for the first time without a miss since, and for the last.
    passes: Option<(Timestamp, Timestamp)>,
    /// When it was asked for the first of its misses in a row.
    missing_since: Option<Timestamp>,
    /// When it was asked for the last that it missed while it carried the prefix.
    missed_at: Option<Timestamp>,
    /// Its misses in a row as one that stands by, while the primary passed. `None`: it carried the prefix at the last, or it passed.
    aside: Option<Aside>,
}

/// Misses in a row of a router that stands by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Aside {
    count: u32,
    /// When it was asked for the first.
    first: Timestamp,
    /// When it was asked for the last.
    last: Timestamp,
}

impl PathRecord {
    fn passed(&mut self, asked_at: Timestamp) {
        self.passed = true;
        self.passes = Some((self.passes.map_or(asked_at, |(first, _)| first), asked_at));
    }

    /// Nothing but that it passed once.
    pub(crate) fn anew(self) -> Self {
        Self { passed: self.passed, ..Self::default() }
    }

    /// It missed too few to fail, and was not looked behind for some time: what it misses next is the first.
    fn forget_misses(&mut self, misses: u32) {
        if (1..misses).contains(&self.misses) {
            (self.misses, self.missing_since, self.aside) = (0, None, None);
        }
    }

    fn missed_aside(&mut self, asked_at: Timestamp, primary: Option<Self>) {
        let since = primary.and_then(|primary| primary.passes).map(|(first, _)| first);
        let goes_on = self.aside.filter(|aside| since.is_some_and(|since| since < aside.first));
        self.aside = Some(match goes_on {
            Some(aside) => Aside { count: aside.count.saturating_add(1), last: asked_at, ..aside },
            None => Aside { count: 1, first: asked_at, last: asked_at },
        });
    }

    /// Whether the last that was asked for through it, as one that stands by, was a miss that the primary may have had as well. It is asked for
    /// again before it counts as better.
    fn is_doubted(&self, primary: Option<Self>) -> bool {
        let since = primary.and_then(|primary| primary.missing_since);
        self.misses > 0 && self.aside.zip(since).is_some_and(|(aside, since)| since <= aside.last)
    }

    /// Whether its last was a miss while it carried the prefix, and no earlier than this: when another that carries it began to miss.
    fn missed_too(&self, since: Option<Timestamp>) -> bool {
        self.misses > 0 && self.aside.is_none() && self.missed_at.zip(since).is_some_and(|(at, since)| at >= since)
    }

    /// Whether its misses are its own, given what is known of the primary.
    fn is_at_fault(&self, primary: Option<Self>, misses: u32) -> bool {
        let Some(aside) = self.aside else { return true };
        let there = primary.and_then(|primary| primary.passes);
        aside.count >= misses && there.is_some_and(|(first, last)| first < aside.first && aside.last <= last)
    }
}

impl RouteTable {
    /// Path checks changed. One that has another target, or is gone, has convicted nobody.
    pub(crate) fn put_path_checks(&mut self, checks: BTreeMap<Prefix, IpAddr>, now: Timestamp, out: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.path_checks, checks);
        let changed = before.into_iter().filter(|(prefix, target)| self.path_checks.get(prefix) != Some(target));
        for prefix in changed.map(|(prefix, _)| prefix).collect::<Vec<_>>() {
            for node in self.holders(&prefix).collect::<Vec<_>>() {
                if let Some(suspicion) =
                    self.routers.get_mut(&node).and_then(|router| router.suspicions.get_mut(&prefix))
                {
                    suspicion.path = PathRecord::default();
                }
                self.note_passed(node, &prefix, false, out);
                self.clear(node, prefix, Kind::Path, now, out);
            }
        }
    }

    /// What checks have said of a node's route to a prefix.
    pub fn path_record(&self, node: NodeId, prefix: &Prefix) -> PathRecord {
        let suspicion = self.routers.get(&node).and_then(|router| router.suspicions.get(prefix));
        suspicion.map(|suspicion| suspicion.path).unwrap_or_default()
    }

    /// What the row of a route has of its checks: what a restart must not forget.
    fn note_passed(&mut self, node: NodeId, prefix: &Prefix, passed: bool, out: &mut Vec<Effect>) {
        if let Some(row) = self.row_mut(node, prefix).filter(|row| row.path_passed != passed) {
            row.path_passed = passed;
            out.push(Effect::RowChanged(row.id));
        }
    }

    /// Takes what was stored of the checks of a route. It stays convicted until it passes.
    pub(crate) fn restore_path(&mut self, row: &Route) {
        if !row.path_passed || !self.path_checks.contains_key(&row.prefix) {
            return;
        }
        let (misses, mode) = (self.settings.judging.path_misses, self.settings.judging.mode(Kind::Path));
        let Some(router) = self.routers.get_mut(&row.node) else { return };
        let suspicion = router.suspicions.entry(row.prefix).or_default();
        suspicion.path.passed = true;
        if let Some(at) = row.path_failed_at {
            suspicion.path.misses = misses;
            suspicion.convictions.convict(Cause::PathCheckMissed, mode, at);
        }
    }

    /// A check is over. One of another target, or of a router that was something else when it began, is stale.
    pub(crate) fn path_checked(&mut self, node: NodeId, round: PathRound, now: Timestamp, out: &mut Vec<Effect>) {
        let PathRound { prefix, target, role, asked_at, due, outcome } = round;
        let seat = self.seat(&prefix);
        let stale = match role {
            Role::Carrier => !self.carried(node, &prefix, asked_at),
            Role::Standby => self.carries(node, &prefix),
        };
        if self.path_checks.get(&prefix) != Some(&target) || self.row_of(node, &prefix).is_none() || stale {
            return;
        }
        let late = self.settings.judging.is_late(due, now);
        let misses = self.settings.judging.path_misses;
        let primary = seat.map(|seat| self.path_record(seat.node, &prefix));
        let Some(router) = self.routers.get_mut(&node) else { return };
        let router_is_up = router.health.is_up();
        let record = &mut router.suspicions.entry(prefix).or_default().path;
        record.at = Some(now);
        match outcome {
            PathOutcome::Passed | PathOutcome::Spared => {
                let failed = record.misses >= misses;
                let passed = outcome == PathOutcome::Passed;
                if passed {
                    record.passed(asked_at);
                } else {
                    record.passes = None;
                }
                record.misses = 0;
                record.missing_since = None;
                record.aside = None;
                if passed {
                    self.note_passed(node, &prefix, true, out);
                }
                self.clear(node, prefix, Kind::Path, now, out);
                // Others may be convicted once somebody passes.
                if failed || self.holders(&prefix).any(|other| self.fails(other, &prefix)) {
                    self.mark(prefix);
                }
            }
            PathOutcome::Missed if late || !router_is_up => {}
            PathOutcome::Missed => {
                record.misses = record.misses.saturating_add(1);
                record.passes = None;
                record.missing_since.get_or_insert(asked_at);
                match role {
                    Role::Carrier => (record.aside, record.missed_at) = (None, Some(asked_at)),
                    Role::Standby => record.missed_aside(asked_at, primary),
                }
                if record.misses >= misses {
                    self.mark(prefix);
                }
            }
        }
    }

    /// A router is down: what it missed is no news of what is behind it.
    pub(crate) fn forget_misses_of(&mut self, node: NodeId) {
        let misses = self.settings.judging.path_misses;
        let suspicions = self.routers.get_mut(&node).into_iter().flat_map(|router| router.suspicions.values_mut());
        suspicions.for_each(|suspicion| suspicion.path.forget_misses(misses));
    }

    /// Those of these that carry a prefix no more are not looked behind from now on.
    pub(crate) fn forget_misses_for(&mut self, prefix: &Prefix, carried: impl IntoIterator<Item = NodeId>) {
        let misses = self.settings.judging.path_misses;
        for node in carried {
            if self.carries(node, prefix) {
                continue;
            }
            if let Some(suspicion) = self.routers.get_mut(&node).and_then(|router| router.suspicions.get_mut(prefix)) {
                suspicion.path.forget_misses(misses);
            }
        }
    }

    fn fails(&self, node: NodeId, prefix: &Prefix) -> bool {
        self.path_record(node, prefix).misses >= self.settings.judging.path_misses
    }

    /// Convicts those that fail the check, if somebody else could do better.
    pub(crate) fn judge_paths(&mut self, prefix: Prefix, now: Timestamp, out: &mut Vec<Effect>) {
        if !self.path_checks.contains_key(&prefix) {
            return;
        }
        let candidates = self.candidates(&prefix);
        let primary = self.seat(&prefix).map(|seat| self.path_record(seat.node, &prefix));
        let others = candidates.iter().filter(|other| {
            let doubted = self.path_record(other.node, &prefix).is_doubted(primary);
            other.is_up() && !doubted && !self.fails(other.node, &prefix)
        });
        let others: Vec<PathRecord> = others.map(|other| self.path_record(other.node, &prefix)).collect();
        let misses = self.settings.judging.path_misses;
        for candidate in candidates {
            let record = self.path_record(candidate.node, &prefix);
            let is_at_fault = record.misses >= misses && record.passed && record.is_at_fault(primary, misses);
            if is_at_fault && others.iter().any(|other| !other.missed_too(record.missing_since)) {
                self.suspect(candidate.node, prefix, Cause::PathCheckMissed, now, out);
            }
        }
    }
}
