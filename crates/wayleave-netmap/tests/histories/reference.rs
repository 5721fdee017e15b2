//! A second election, as simple as it can be: what design.md 3 and 4 say of sessions, silence, flapping and candidates, with everything
//! worked out anew each time. It knows nothing of the code; facts that are not its business (who advertises what, what is approved) it is
//! given.

use std::collections::{BTreeMap, BTreeSet};

pub type Node = u64;
pub type Prefix = usize;
/// Milliseconds.
pub type Time = i64;

/// How many prefixes there may be.
const PREFIXES: Prefix = 5;
const LOST: Time = 500;
const GRACE: Time = 30_000;
const FLAP_HOLD: Time = 600_000;
const DOWN_WINDOW: Time = 600_000;
const LOSS_WINDOW: Time = 60_000;
/// So many lost within so long, and more than half of all, are the server's side; the next of them is waited for so long.
pub const COMMON: usize = 4;
const COMMON_WINDOW: Time = 1000;
const COMMON_GAP: Time = 200;

/// How long silence lasts before it is told, and how long an answer to a witness holds then.
const SILENT: Time = 2000;
const HOLD: Time = 1000;
const HOLD_MOST: Time = 30_000;
const SETTLES: Time = 10_000;
const FORGETS: Time = 30_000;
/// The server is late by more than this.
const LATE: Time = 250;
/// How often one that is doubted is looked at.
const LOOK: Time = 100;

/// What one kind of evidence says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Word {
    #[default]
    Nothing,
    /// It speaks against the router since the first time, and convicts it at the second; at the third it is looked at, and at the fourth
    /// the server was found to have stood still.
    Doubts(Time, Time, Time, Option<Time>),
    Convicts,
}

impl Word {
    /// When it convicts, or is looked at.
    fn next(self) -> Option<Time> {
        match self {
            Self::Doubts(_, until, look, _) => Some(look.min(until)),
            Self::Nothing | Self::Convicts => None,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Router {
    session: Option<u64>,
    /// Counts as up until then.
    grace: Option<Time>,
    stream: Word,
    ping: Word,
    /// It answered an echo, and how many it has not answered since.
    echoes: Option<u32>,
    echo: bool,
    /// Rounds of witnesses that it has not answered, and what they come to.
    missed: u32,
    probe: bool,
    settling: Option<Time>,
    alive_at: Option<Time>,
    unwitnessed_since: Option<Time>,
    downs: Vec<Time>,
    losses: Vec<Time>,
    flapping_until: Option<Time>,
    /// What it was before each of the latest losses, in case that turns out to be the server's own fault.
    before: Vec<(Time, Option<Time>, Option<Time>)>,
    steady_since: Option<Time>,
}

/// What is known against one route of a router.
#[derive(Clone, Debug, Default)]
struct Path {
    /// It had an address of its own inside the prefix; that it has none any more convicts it.
    had: bool,
    gone: bool,
    /// What came of each check that counts, the latest last, and what that comes to.
    asked: Vec<Asked>,
    dead: bool,
    /// Before a restart: that it passed, and that it was dead, of which nothing has passed since.
    passed_before: bool,
    dead_before: bool,
    /// When it was last not suspect any more.
    cleared_at: Option<Time>,
}

/// A check through a router.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Time,
    outcome: Check,
    /// It stood by, while the primary had passed since then without a miss, if it had.
    aside: Option<Option<Time>>,
}

impl Path {
    /// The latest checks that came to the same.
    fn latest(&self, outcome: Check) -> &[Asked] {
        let before = self.asked.iter().rposition(|asked| asked.outcome != outcome).map_or(0, |at| at + 1);
        &self.asked[before..]
    }

    fn fails(&self) -> bool {
        self.dead_before || self.latest(Check::Missed).len() >= 2
    }

    fn passed(&self) -> bool {
        self.passed_before || self.asked.iter().any(|asked| asked.outcome == Check::Passed)
    }

    /// Since when it passes, and when it last did.
    fn passes(&self) -> Option<(Time, Time)> {
        let latest = self.latest(Check::Passed);
        Some((latest.first()?.at, latest.last()?.at))
    }

    /// Whether it is its own leg that misses the check: as a primary it is asked nothing more; as one that stands by it has to have missed
    /// it twice while the primary passed all the while.
    fn is_at_fault(&self, primary: &Self) -> bool {
        let misses = self.latest(Check::Missed);
        let begin = misses.iter().rposition(|miss| miss.aside.is_none()).map_or(0, |at| at + 1);
        let Some(last) = misses[begin..].last() else { return true };
        let (mut first, mut count) = (last.at, 0);
        for miss in &misses[begin..] {
            let goes_on = count > 0 && miss.aside.flatten().is_some_and(|since| since < first);
            (first, count) = if goes_on { (first, count + 1) } else { (miss.at, 1) };
        }
        count >= 2 && primary.passes().is_some_and(|(since, until)| since < first && last.at <= until)
    }

    /// Whether it stood by and missed the check when the primary may have missed it too.
    fn is_doubted(&self, primary: &Self) -> bool {
        let last = self.latest(Check::Missed).last().filter(|miss| miss.aside.is_some());
        last.zip(primary.latest(Check::Missed).first()).is_some_and(|(own, first)| first.at <= own.at)
    }

    /// Changes what stands against it. When nothing does any more, it is as if it had just come.
    fn lifts(&mut self, now: Time, what: impl FnOnce(&mut Self)) {
        let was = self.gone || self.dead;
        what(self);
        if was && !self.gone && !self.dead {
            self.cleared_at = Some(now);
        }
    }
}

/// What came of a path check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Check {
    Passed,
    Spared,
    Missed,
    /// It was not looked behind for some time, before it failed.
    Forgotten,
}

/// What it is given of a node.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub drained: bool,
    pub expired: bool,
    /// It advertises something, so its silence is known at once.
    pub advertises: bool,
    /// Its rows, and whether it advertises them now.
    pub rows: BTreeMap<Prefix, bool>,
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
    paths: BTreeMap<(Node, Prefix), Path>,
    /// Inside which prefixes each node has an address, as it last said; nothing where it has said nothing.
    addresses: BTreeMap<Node, BTreeSet<Prefix>>,
    /// The last report had no address at all.
    mute: BTreeSet<Node>,
    /// What is checked behind the routers of a prefix.
    checks: BTreeMap<Prefix, u8>,
    /// Sessions lost of late, and whether the last of them was the server's side.
    lost: Vec<(Time, Node)>,
    common: bool,
    /// Sessions that are not heard: since when that is known, and whether they were part of a common loss.
    unheard: BTreeMap<Node, (Time, bool)>,
    /// Until then what happens is the server's own doing: it has just started, or most have just lost it.
    starting_until: Option<Time>,
    /// What each advertised before, and whether its key had expired.
    before: BTreeMap<Node, (BTreeMap<Prefix, bool>, bool)>,
    /// Who was up when it last decided.
    up: BTreeSet<Node>,
    now: Time,
}

impl Reference {
    fn router(&mut self, node: Node) -> &mut Router {
        self.routers.entry(node).or_insert(Router { stream: Word::Convicts, ..Router::default() })
    }

    pub fn opens(&mut self, node: Node, session: u64, now: Time) {
        self.unheard.remove(&node);
        let router = self.router(node);
        if router.session.is_none_or(|newest| newest < session) {
            router.session = Some(session);
            router.settling = Some(now);
            router.missed = 0;
            router.forgets();
        }
    }

    pub fn loses(&mut self, node: Node, session: u64, now: Time) {
        let excused = self.excused(node, now);
        let router = self.router(node);
        if router.session != Some(session) {
            return;
        }
        router.session = None;
        router.echoes = router.echoes.map(|_| 0);
        if router.grace.is_none() {
            router.stream = Word::Doubts(now, now + LOST, now + LOOK, None);
        }
        if !excused {
            router.before.push((now, router.flapping_until, router.steady_since));
            router.losses.push(now);
            router.losses.retain(|at| now - at <= LOSS_WINDOW);
            router.judge(now);
        }
        self.unheard.remove(&node);
        self.gather(node, now);
    }

    /// Whether it is the server's side that so many were lost; while it may be, nobody is convicted of it.
    fn gather(&mut self, node: Node, now: Time) {
        self.lost.push((now, node));
        self.lost.retain(|(at, _)| now - at <= COMMON_WINDOW);
        let lost: BTreeSet<Node> = self.lost.iter().map(|(_, node)| *node).collect();
        let others =
            self.routers.iter().filter(|(node, router)| router.session.is_some() && !lost.contains(node)).count();
        let was = std::mem::replace(&mut self.common, lost.len() >= COMMON && lost.len() > others);
        if self.common {
            let nodes = if was { vec![node] } else { lost.into_iter().collect() };
            self.common_loss(&nodes, now - COMMON_WINDOW, now);
        } else if lost.len() >= COMMON {
            let first = self.lost[0].0;
            for router in self.routers.values_mut() {
                if let Word::Doubts(at, until, ..) = &mut router.stream
                    && *at >= first
                {
                    *until = (*until).max((now + COMMON_GAP).min(first + COMMON_WINDOW));
                }
            }
        }
    }

    /// It has not been heard for half of the time that convicts.
    pub fn is_unheard(&mut self, node: Node, session: u64, now: Time) {
        if self.router(node).session == Some(session) {
            self.unheard.entry(node).or_insert((now, false));
        }
    }

    /// Whether it is the server's side that so many are not heard.
    fn counts_unheard(&mut self, node: Node, now: Time) {
        let Some((own, common)) = self.unheard.get(&node).copied() else { return };
        let asked = self.facts.iter().filter(|(node, facts)| {
            facts.advertises && self.routers.get(node).is_some_and(|router| router.session.is_some())
        });
        let asked: Vec<Node> = asked.map(|(node, _)| *node).collect();
        let is_near = |node: &&Node| self.unheard.get(node).is_some_and(|(at, _)| (at - own).abs() <= COMMON_WINDOW);
        let lost: Vec<Node> = asked.iter().filter(is_near).copied().collect();
        if common || lost.len() < COMMON || lost.len() * 2 <= asked.len() {
            return;
        }
        self.starting_until = Some(now + GRACE);
        for node in lost {
            let known = self.unheard.get_mut(&node).is_some_and(|(_, common)| std::mem::replace(common, true));
            if let Some(router) = self.routers.get_mut(&node).filter(|_| !known) {
                router.forgives(now - COMMON_WINDOW);
                router.ping = Word::Nothing;
                router.echoes = router.echoes.map(|_| 0);
                router.grace = Some(now + GRACE);
            }
        }
    }

    pub fn falls_silent(&mut self, node: Node, session: u64, now: Time) {
        self.is_unheard(node, session, now);
        self.counts_unheard(node, now);
        let excused = self.excused(node, now);
        let router = self.router(node);
        if router.session != Some(session) || router.ping != Word::Nothing || router.grace.is_some() {
            return;
        }
        let since = now - SILENT;
        let alive_at = router.alive_at.filter(|alive_at| *alive_at > since);
        match alive_at.map(|alive_at| (alive_at + HOLD).min(since + HOLD_MOST)).filter(|until| *until > now) {
            Some(until) => router.ping = Word::Doubts(since, until, now + LOOK, None),
            None => router.convicts(excused, now, |router| router.ping = Word::Convicts),
        }
    }

    pub fn answers(&mut self, node: Node, session: u64) {
        let router = self.router(node);
        if router.session == Some(session) {
            (router.ping, router.grace) = (Word::Nothing, None);
            self.unheard.remove(&node);
        }
    }

    /// A witness that was asked now reached it.
    pub fn alive(&mut self, node: Node, now: Time) {
        let router = self.router(node);
        router.alive_at = Some(now);
        for word in [&mut router.stream, &mut router.ping] {
            if let Word::Doubts(at, until, _, late) = word
                && now > *at
            {
                *until = (*until).max((now + HOLD.min(LOST + now - *at)).min(*at + HOLD_MOST));
                *until = late.map_or(*until, |late| (*until).max((late + HOLD).min(*at + HOLD_MOST)));
            }
        }
    }

    pub fn echo(&mut self, node: Node, session: u64, answered: bool, late: bool, now: Time) {
        let excused = self.excused(node, now);
        let router = self.router(node);
        if router.session != Some(session) {
            return;
        }
        if answered {
            router.echoes = Some(0);
            router.echo = false;
        } else if let Some(missed) = &mut router.echoes {
            *missed += u32::from(!late && router.grace.is_none());
            if *missed >= 2 {
                router.convicts(excused, now, |router| router.echo = true);
            }
        }
    }

    /// A round of witnesses: most reached it, most did not, or nobody could say.
    pub fn probe(&mut self, node: Node, reached: Option<bool>, late: bool, now: Time) {
        let excused = self.excused(node, now);
        let router = self.router(node);
        let Some(reached) = reached else {
            let since = *router.unwitnessed_since.get_or_insert(now);
            router.probe &= now - since < FORGETS;
            return;
        };
        router.unwitnessed_since = None;
        if reached {
            router.settling = None;
            router.missed = 0;
            router.probe = false;
            return;
        }
        let there = router.session.is_some() || router.grace.is_some();
        if there && !late && router.settling.is_none_or(|since| now - since >= SETTLES) {
            router.missed += 1;
            if router.missed >= 2 {
                router.convicts(excused, now, |router| router.probe = true);
            }
        }
    }

    fn common_loss(&mut self, nodes: &[Node], since: Time, now: Time) {
        self.starting_until = Some(now + GRACE);
        for node in nodes {
            let Some(router) = self.routers.get_mut(node) else { continue };
            router.forgives(since);
            if router.session.is_none() {
                router.forgets();
                router.grace = Some(now + GRACE);
            }
        }
    }

    /// A report of addresses; one without any says nothing.
    pub fn reports(&mut self, node: Node, inside: Option<BTreeSet<Prefix>>) {
        match inside {
            Some(inside) => {
                self.mute.remove(&node);
                self.addresses.insert(node, inside);
            }
            None => drop(self.mute.insert(node)),
        }
    }

    /// A path check is set, or set anew, or taken back.
    pub fn sets_check(&mut self, prefix: Prefix, target: Option<u8>, now: Time) {
        let before = self.checks.remove(&prefix);
        self.checks.extend(target.map(|target| (prefix, target)));
        if before.is_some() && before != target {
            for (_, path) in self.paths.iter_mut().filter(|((_, of), _)| *of == prefix) {
                path.asked.clear();
                (path.passed_before, path.dead_before) = (false, false);
                path.lifts(now, |path| path.dead = false);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one event, as it is told")]
    pub fn checked(
        &mut self,
        node: Node,
        prefix: Prefix,
        target: u8,
        outcome: Check,
        carries: bool,
        late: bool,
        now: Time,
    ) {
        let has_row = self.facts.get(&node).is_some_and(|facts| facts.rows.contains_key(&prefix));
        if self.checks.get(&prefix) != Some(&target) || !has_row {
            return;
        }
        let is_down = self.routers.get(&node).is_none_or(Router::is_down);
        if outcome == Check::Missed && (late || is_down) {
            return;
        }
        let primary = self.primary.get(&prefix);
        let since = primary.and_then(|primary| self.paths.get(&(*primary, prefix))?.passes()).map(|(since, _)| since);
        let aside = (!carries).then_some(since);
        let path = self.paths.entry((node, prefix)).or_default();
        path.asked.push(Asked { at: now, outcome, aside });
        if outcome != Check::Missed {
            path.dead_before = false;
            path.lifts(now, |path| path.dead = false);
        }
    }

    /// A person approved a route that was not approved.
    pub fn trusts_again(&mut self, node: Node, prefix: Prefix, now: Time) {
        let path = self.paths.entry((node, prefix)).or_default();
        (path.had, path.passed_before, path.dead_before) = (false, path.passed(), false);
        path.asked.clear();
        path.lifts(now, |path| (path.gone, path.dead) = (false, false));
    }

    /// A person said who is preferred.
    pub fn prefers(&mut self, prefix: Prefix) {
        self.moved.remove(&prefix);
    }

    /// It carries the prefix no more, or went down: what it misses next is the first.
    pub fn forgets_misses(&mut self, node: Node, prefix: Prefix, now: Time) {
        if let Some(path) = self.paths.get_mut(&(node, prefix))
            && !path.fails()
            && !path.latest(Check::Missed).is_empty()
        {
            path.asked.push(Asked { at: now, outcome: Check::Forgotten, aside: None });
        }
    }

    /// Judges each route by itself (design.md 4): the address of its own, and what is behind it.
    fn suspects(&mut self, prefix: Prefix, now: Time) {
        self.paths
            .retain(|(node, prefix), _| self.facts.get(node).is_some_and(|facts| facts.rows.contains_key(prefix)));
        for (node, facts) in &self.facts {
            let Some(advertised) = facts.rows.get(&prefix) else { continue };
            if self.addresses.get(node).is_some_and(|inside| inside.contains(&prefix)) {
                let path = self.paths.entry((*node, prefix)).or_default();
                path.had |= advertised;
                path.lifts(now, |path| path.gone = false);
            }
        }
        let offers = self.facts.iter().filter(|(_, facts)| facts.offers.contains_key(&prefix));
        let offers: Vec<Node> = offers.map(|(node, _)| *node).collect();
        let path = |own: &Self, node: Node| own.paths.get(&(node, prefix)).cloned().unwrap_or_default();
        let lost = |own: &Self, node: Node| {
            own.addresses.get(&node).is_some_and(|inside| !inside.contains(&prefix)) && path(own, node).had
        };
        if offers.iter().any(|node| self.rank(*node, prefix) <= 1 && self.absence(*node) < 2 && !lost(self, *node)) {
            for node in offers.iter().filter(|node| lost(self, **node)).copied().collect::<Vec<_>>() {
                self.paths.entry((node, prefix)).or_default().gone = true;
            }
        }
        let primary = self.primary.get(&prefix).map(|node| path(self, *node)).unwrap_or_default();
        let better = |node: &Node| {
            let path = path(self, *node);
            self.rank(*node, prefix) <= 2 && self.absence(*node) < 2 && !path.fails() && !path.is_doubted(&primary)
        };
        let others: Vec<Path> = offers.iter().filter(|node| better(node)).map(|node| path(self, *node)).collect();
        if self.checks.contains_key(&prefix) {
            for node in offers {
                let path = self.paths.entry((node, prefix)).or_default();
                let passed = path.passed();
                // Two that carry the prefix and miss at the same time: it may be the target.
                let since = path.latest(Check::Missed).first().map(|asked| asked.at);
                let is_better = |other: &Path| {
                    let last = other.latest(Check::Missed).last().filter(|asked| asked.aside.is_none());
                    last.zip(since).is_none_or(|(last, since)| last.at < since)
                };
                path.dead |= passed && path.fails() && path.is_at_fault(&primary) && others.iter().any(is_better);
            }
        }
    }

    /// Since when it has been steady for this prefix.
    fn steady_since(&self, node: Node, prefix: Prefix) -> Option<Time> {
        let since = self.routers.get(&node)?.steady_since?;
        Some(self.paths.get(&(node, prefix)).and_then(|path| path.cleared_at).map_or(since, |at| at.max(since)))
    }

    pub fn restarts(&mut self, primaries: &BTreeSet<Node>, now: Time) {
        for path in self.paths.values_mut() {
            let (passed_before, dead) = (path.passed(), path.dead);
            *path = Path { had: path.had, passed_before, dead, dead_before: dead, ..Path::default() };
        }
        self.addresses.retain(|node, _| !self.mute.contains(node));
        (self.lost, self.common) = (Vec::new(), false);
        self.unheard.clear();
        self.starting_until = Some(now + GRACE);
        for node in primaries {
            self.router(*node);
        }
        for (node, router) in &mut self.routers {
            let Router { downs, losses, flapping_until, .. } = std::mem::take(router);
            *router = Router { downs, losses, flapping_until, ..Router::default() };
            if primaries.contains(node) {
                router.grace = Some(now + GRACE);
            } else {
                router.stream = Word::Convicts;
            }
        }
    }

    pub fn deleted(&mut self, node: Node) {
        self.routers.remove(&node);
        self.facts.remove(&node);
        self.before.remove(&node);
        self.unheard.remove(&node);
        self.addresses.remove(&node);
        self.paths.retain(|(of, _), _| *of != node);
    }

    /// One that can't have it any more when it is stored does not get it.
    pub fn moves(&mut self, prefix: Prefix, to: Node) {
        if !self.facts.get(&to).is_some_and(|facts| facts.offers.contains_key(&prefix)) {
            return;
        }
        self.primary.insert(prefix, to);
        self.moved.insert(prefix);
    }

    fn drained(&self, node: Node) -> bool {
        self.facts.get(&node).is_some_and(|facts| facts.drained)
    }

    /// Whether what happens to it is not held against it.
    fn excused(&self, node: Node, now: Time) -> bool {
        self.drained(node) || self.starting_until.is_some_and(|until| now < until)
    }

    /// Whoever could not carry a prefix, and can again, is as if it had just come.
    fn comes_back(&mut self, now: Time) {
        for (node, facts) in &self.facts {
            let was = self.before.insert(*node, (facts.rows.clone(), facts.expired));
            let Some((rows, expired)) = was else { continue };
            for (prefix, advertised) in &facts.rows {
                let again = *advertised && rows.get(prefix) == Some(&false);
                if again || (expired && !facts.expired) {
                    self.paths.entry((*node, *prefix)).or_default().cleared_at = Some(now);
                }
            }
        }
    }

    /// The next moment at which something changes by itself; the caller stops there.
    pub fn next(&self) -> Option<Time> {
        let routers = self.routers.values().flat_map(|router| {
            let doubts = [router.stream, router.ping].into_iter().filter_map(Word::next);
            doubts.chain(router.grace).chain(router.flapping_until)
        });
        let waits = self.rules.values().filter_map(|rules| rules.failback);
        let cleared = self.paths.values().filter_map(|path| path.cleared_at);
        let steady = self.routers.values().filter_map(|router| router.steady_since).chain(cleared);
        let failbacks = steady.flat_map(|since| waits.clone().map(move |wait| since + wait));
        routers.chain(failbacks).filter(|at| *at > self.now).min()
    }

    /// It is now: what is due happens, and everything is decided again.
    pub fn decide(&mut self, now: Time) {
        self.now = now;
        self.comes_back(now);
        let starting = self.starting_until.is_some_and(|until| now < until);
        let drained: BTreeSet<Node> = self.routers.keys().copied().filter(|node| self.drained(*node)).collect();
        for (node, router) in &mut self.routers {
            if router.grace.is_some_and(|until| until <= now) {
                router.grace = None;
                *(if router.session.is_some() { &mut router.ping } else { &mut router.stream }) = Word::Convicts;
            }
            let first = [router.stream, router.ping].into_iter().filter_map(Word::next).filter(|at| *at <= now).min();
            if router.flapping_until.is_some_and(|until| until <= now && first.is_none_or(|first| until < first)) {
                router.calms();
            }
            // Witnesses that reached it may answer once more where the server looks late.
            let alive_at = router.alive_at;
            for word in [&mut router.stream, &mut router.ping] {
                let next = word.next().filter(|next| *next <= now);
                if let (Word::Doubts(at, until, look, late), Some(next)) = (word, next) {
                    *look = now + LOOK;
                    if now - next > LATE {
                        *late = Some(now);
                    }
                    if let Some(late) = late.filter(|_| alive_at.is_some_and(|alive_at| alive_at > *at)) {
                        *until = (*until).max((late + HOLD).min(*at + HOLD_MOST));
                    }
                }
            }
            let due = |word: Word| matches!(word, Word::Doubts(_, until, ..) if until <= now);
            let over = [due(router.stream), due(router.ping)];
            if over.contains(&true) {
                router.convicts(starting || drained.contains(node), now, |router| {
                    for (word, over) in [&mut router.stream, &mut router.ping].into_iter().zip(over) {
                        *word = if over { Word::Convicts } else { *word };
                    }
                });
            }
            if router.flapping_until.is_some_and(|until| until <= now) {
                router.calms();
            }
            let steady = !router.is_down() && router.flapping_until.is_none() && !drained.contains(node);
            router.steady_since = if steady { router.steady_since.or(Some(now)) } else { None };
        }
        let up = self.all_up();
        let was_up = std::mem::replace(&mut self.up, up.clone());
        for node in was_up.difference(&up) {
            (0..PREFIXES).for_each(|prefix| self.forgets_misses(*node, prefix, now));
        }
        for prefix in self.rules.keys().copied().collect::<Vec<_>>() {
            self.suspects(prefix, now);
            self.elect(prefix, now);
        }
    }

    fn all_up(&self) -> BTreeSet<Node> {
        self.routers.iter().filter(|(_, router)| !router.is_down()).map(|(node, _)| *node).collect()
    }

    /// 0: it is there; 1: it is doubted; 2: it is waited for.
    fn absence(&self, node: Node) -> u8 {
        let Some(router) = self.routers.get(&node).filter(|router| !router.is_down()) else { return 0 };
        let doubted = [router.stream, router.ping].iter().any(|word| matches!(word, Word::Doubts(..)));
        if router.grace.is_some() { 2 } else { u8::from(doubted) }
    }

    /// 0 steady, 1 flapping, 2 drained, 3 suspect, 4 down.
    fn rank(&self, node: Node, prefix: Prefix) -> u8 {
        let Some(router) = self.routers.get(&node) else { return 4 };
        if router.is_down() {
            4
        } else if self.paths.get(&(node, prefix)).is_some_and(|path| path.gone || path.dead) {
            3
        } else if self.drained(node) {
            2
        } else if router.flapping_until.is_some() {
            1
        } else {
            0
        }
    }

    fn elect(&mut self, prefix: Prefix, now: Time) {
        let rules = self.rules[&prefix];
        let current = self.primary.get(&prefix).copied();
        // Best first: by rank (twice that of above, so that one that is waited for is between drained and suspect), whether it is there,
        // then priority, then who joined first.
        let offers = self.facts.iter().filter_map(|(node, facts)| Some((*node, *facts.offers.get(&prefix)?)));
        let mut all: Vec<(u8, u8, i64, Node)> = offers
            .map(|(node, priority)| {
                let (rank, absence) = (self.rank(node, prefix) * 2, self.absence(node));
                let waited_for = absence == 2 && rank < 6 && current != Some(node);
                (if waited_for { 5 } else { rank }, absence, -priority, node)
            })
            .collect();
        all.sort_unstable();
        let had = current.and_then(|current| all.iter().find(|c| c.3 == current).copied());
        let next = match (had, all.first()) {
            (_, None) => None,
            (None, Some(best)) => Some(best.3),
            (Some(had), Some(_)) if rules.frozen => Some(had.3),
            (Some(had), Some(_)) if had.0 <= 2 => {
                let waited = |node: Node| {
                    let since = self.steady_since(node, prefix);
                    rules.failback.zip(since).is_some_and(|(wait, since)| since + wait <= now)
                };
                let better = |c: &&(u8, u8, i64, Node)| {
                    let preferred = c.2 < had.2 && !self.moved.contains(&prefix);
                    c.3 != had.3 && (c.0, c.1) == (0, 0) && (had.0 == 2 || preferred)
                };
                Some(all.iter().filter(better).find(|c| waited(c.3)).map_or(had.3, |c| c.3))
            }
            (Some(had), Some(best)) if best.0 < had.0 => Some(best.3),
            (Some(had), Some(_)) => Some(had.3),
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
    fn is_down(&self) -> bool {
        self.stream == Word::Convicts || self.ping == Word::Convicts || self.echo || self.probe
    }

    /// It was quiet for so long that it does not flap any more.
    fn calms(&mut self) {
        self.flapping_until = None;
        self.downs.clear();
        self.losses.clear();
    }

    /// What was since then is not held against it.
    fn forgives(&mut self, since: Time) {
        self.losses.retain(|at| *at < since);
        self.downs.retain(|at| *at < since);
        if let Some((_, flapping_until, steady_since)) = self.before.iter().find(|(at, ..)| *at >= since) {
            self.flapping_until = *flapping_until;
            self.steady_since = *steady_since;
        }
        self.before.retain(|(at, ..)| *at < since);
    }

    /// What is known of an older session is known no more.
    fn forgets(&mut self) {
        (self.grace, self.stream, self.ping) = (None, Word::Nothing, Word::Nothing);
        (self.echoes, self.echo) = (None, false);
    }

    /// It is convicted of something. That it was up until then counts, but not while it is drained or in a grace.
    fn convicts(&mut self, drained: bool, now: Time, what: impl FnOnce(&mut Self)) {
        let was_up = !self.is_down();
        what(self);
        if was_up && !drained && self.grace.is_none() {
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
