//! A second election, as simple as it can be: what design.md 3 and 4 say of sessions, silence, flapping and candidates, with everything
//! worked out anew each time. It knows nothing of the code; facts that are not its business (who advertises what, what is approved) it is
//! given.

use std::collections::{BTreeMap, BTreeSet};

pub type Node = u64;
pub type Prefix = usize;
/// Milliseconds.
pub type Time = i64;

const LOST: Time = 500;
const GRACE: Time = 30_000;
const FLAP_HOLD: Time = 600_000;
const DOWN_WINDOW: Time = 600_000;
const LOSS_WINDOW: Time = 60_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Up,
    /// Since then without a session.
    Lost(Time),
    /// Counts as up until then.
    Grace(Time),
    Down,
}

#[derive(Clone, Debug)]
struct Router {
    session: Option<u64>,
    state: State,
    downs: Vec<Time>,
    losses: Vec<Time>,
    flapping_until: Option<Time>,
    /// What it was before each of the latest losses, in case that turns out to be the server's own fault.
    before: Vec<(Time, Option<Time>, Option<Time>)>,
    steady_since: Option<Time>,
}

/// What it is given of a node.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub drained: bool,
    /// Prefixes that it is a candidate for as far as rows and keys go, with the priority.
    pub offers: BTreeMap<Prefix, i64>,
}

/// What it is given of a prefix.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// `None`: never.
    pub failback: Option<Time>,
    pub frozen: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Reference {
    routers: BTreeMap<Node, Router>,
    pub facts: BTreeMap<Node, Facts>,
    pub rules: BTreeMap<Prefix, Rules>,
    pub primary: BTreeMap<Prefix, Node>,
    moved: BTreeSet<Prefix>,
    now: Time,
}

impl Reference {
    fn router(&mut self, node: Node) -> &mut Router {
        self.routers.entry(node).or_insert(Router {
            session: None,
            state: State::Down,
            downs: Vec::new(),
            losses: Vec::new(),
            flapping_until: None,
            before: Vec::new(),
            steady_since: None,
        })
    }

    pub fn opens(&mut self, node: Node, session: u64) {
        let router = self.router(node);
        if router.session.is_none_or(|newest| newest < session) {
            router.session = Some(session);
            router.state = State::Up;
        }
    }

    pub fn loses(&mut self, node: Node, session: u64, now: Time) {
        let drained = self.drained(node);
        let router = self.router(node);
        if router.session != Some(session) {
            return;
        }
        router.session = None;
        if router.state != State::Down {
            router.state = State::Lost(now);
        }
        if !drained {
            router.before.push((now, router.flapping_until, router.steady_since));
            router.losses.push(now);
            router.losses.retain(|at| now - at <= LOSS_WINDOW);
            router.judge(now);
        }
    }

    pub fn falls_silent(&mut self, node: Node, session: u64, now: Time) {
        let drained = self.drained(node);
        let router = self.router(node);
        if router.session == Some(session) && router.state != State::Down {
            router.convict(drained, now);
        }
    }

    pub fn answers(&mut self, node: Node, session: u64) {
        let router = self.router(node);
        if router.session == Some(session) {
            router.state = State::Up;
        }
    }

    pub fn common_loss(&mut self, nodes: &[Node], since: Time, now: Time) {
        for node in nodes {
            let router = self.router(*node);
            router.losses.retain(|at| *at < since);
            router.downs.retain(|at| *at < since);
            if let Some((_, flapping_until, steady_since)) = router.before.iter().find(|(at, ..)| *at >= since) {
                router.flapping_until = *flapping_until;
                router.steady_since = *steady_since;
            }
            router.before.retain(|(at, ..)| *at < since);
            if router.session.is_none() {
                router.state = State::Grace(now + GRACE);
            }
        }
    }

    pub fn restarts(&mut self, primaries: &BTreeSet<Node>, now: Time) {
        for node in primaries {
            self.router(*node);
        }
        for (node, router) in &mut self.routers {
            router.session = None;
            router.state = if primaries.contains(node) { State::Grace(now + GRACE) } else { State::Down };
            router.steady_since = None;
            router.before.clear();
        }
    }

    pub fn deleted(&mut self, node: Node) {
        self.routers.remove(&node);
        self.facts.remove(&node);
    }

    pub fn moves(&mut self, prefix: Prefix, to: Node) {
        self.primary.insert(prefix, to);
        self.moved.insert(prefix);
    }

    fn drained(&self, node: Node) -> bool {
        self.facts.get(&node).is_some_and(|facts| facts.drained)
    }

    /// The next moment at which something changes by itself; the caller stops there.
    pub fn next(&self) -> Option<Time> {
        let routers = self.routers.values().flat_map(|router| {
            let state = match router.state {
                State::Lost(at) => Some(at + LOST),
                State::Grace(until) => Some(until),
                State::Up | State::Down => None,
            };
            state.into_iter().chain(router.flapping_until)
        });
        let waits = self.rules.values().filter_map(|rules| rules.failback);
        let steady = self.routers.values().filter_map(|router| router.steady_since);
        let failbacks = steady.flat_map(|since| waits.clone().map(move |wait| since + wait));
        routers.chain(failbacks).filter(|at| *at > self.now).min()
    }

    /// It is now: what is due happens, and everything is decided again.
    pub fn decide(&mut self, now: Time) {
        self.now = now;
        let drained: BTreeSet<Node> = self.routers.keys().copied().filter(|node| self.drained(*node)).collect();
        for (node, router) in &mut self.routers {
            match router.state {
                State::Lost(at) if at + LOST <= now => router.convict(drained.contains(node), now),
                State::Grace(until) if until <= now => router.state = State::Down,
                State::Up | State::Lost(_) | State::Grace(_) | State::Down => {}
            }
            if router.flapping_until.is_some_and(|until| until <= now) {
                router.flapping_until = None;
                router.downs.clear();
                router.losses.clear();
            }
            let steady = router.state != State::Down && router.flapping_until.is_none() && !drained.contains(node);
            router.steady_since = if steady { router.steady_since.or(Some(now)) } else { None };
        }
        for prefix in self.rules.keys().copied().collect::<Vec<_>>() {
            self.elect(prefix, now);
        }
    }

    /// 0 steady, 1 flapping, 2 drained, 4 down.
    fn rank(&self, node: Node) -> u8 {
        let Some(router) = self.routers.get(&node) else { return 4 };
        if router.state == State::Down {
            4
        } else if self.drained(node) {
            2
        } else if router.flapping_until.is_some() {
            1
        } else {
            0
        }
    }

    fn elect(&mut self, prefix: Prefix, now: Time) {
        // Best first: by rank, then priority, then who joined first.
        let offers = self.facts.iter().filter_map(|(node, facts)| Some((*node, *facts.offers.get(&prefix)?)));
        let mut all: Vec<(u8, i64, Node)> = offers.map(|(node, priority)| (self.rank(node), -priority, node)).collect();
        all.sort_unstable();
        let rules = self.rules[&prefix];
        let current = self.primary.get(&prefix).copied();
        let had = current.and_then(|current| all.iter().find(|c| c.2 == current).copied());
        let next = match (had, all.first()) {
            (_, None) => None,
            (None, Some(best)) => Some(best.2),
            (Some(had), Some(_)) if rules.frozen => Some(had.2),
            (Some(had), Some(_)) if had.0 <= 1 => {
                let waited = |node: Node| {
                    let since = self.routers.get(&node).and_then(|router| router.steady_since);
                    rules.failback.zip(since).is_some_and(|(wait, since)| since + wait <= now)
                };
                let better = |c: &&(u8, i64, Node)| {
                    c.2 != had.2 && c.0 == 0 && (had.0 == 1 || (c.1 < had.1 && !self.moved.contains(&prefix)))
                };
                Some(all.iter().filter(better).find(|c| waited(c.2)).map_or(had.2, |c| c.2))
            }
            (Some(had), Some(best)) if best.0 < had.0 => Some(best.2),
            (Some(had), Some(_)) => Some(had.2),
        };
        if next != current {
            self.moved.remove(&prefix);
        }
        match next {
            Some(next) => drop(self.primary.insert(prefix, next)),
            None => drop(self.primary.remove(&prefix)),
        }
    }
}

impl Router {
    fn convict(&mut self, drained: bool, now: Time) {
        self.state = State::Down;
        if !drained {
            self.before.push((now, self.flapping_until, self.steady_since));
            self.downs.push(now);
            self.downs.retain(|at| now - at <= DOWN_WINDOW);
            self.judge(now);
        }
    }

    fn judge(&mut self, now: Time) {
        if self.flapping_until.is_some() || self.downs.len() >= 3 || self.losses.len() >= 5 {
            self.flapping_until = Some(now + FLAP_HOLD);
        }
    }
}
