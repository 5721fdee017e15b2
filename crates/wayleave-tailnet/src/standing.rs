//! How prefixes stand, and what is told when that changes: a prefix is down, is up again, has lost its last spare router, or is used by
//! several sites.
//!
//! The route table says who carries a prefix; this says what that means to people. It is looked at after everything that was applied, for
//! those prefixes and nodes that it concerned. What is so when a server starts is no news: what was told to be down before it stopped is down
//! until a router comes back, and is not told again. Whoever was told that a prefix is down is told when it is up again, however that comes
//! about: also where it was down for those who go through a group, and nobody does any more.

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::{NodeId, Prefix, Timestamp};
use wayleave_routes::{Candidate, Group, Liveness, Rank};

use crate::collisions::{Collision, Party};
use crate::history::{HistoryEntry, HistoryEvent, cause_in};
use crate::tailnet::{Effect, Tailnet};

/// How a prefix stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    up: bool,
    /// That it is down was told, and not yet that it is up again.
    is_told: bool,
    /// The routers that could take over.
    spares: BTreeSet<NodeId>,
}

/// How all prefixes stand that have had a router.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standings {
    /// For the tailnet as a whole, and for each group.
    known: BTreeMap<(Prefix, Option<Group>), Standing>,
    /// Spare routers that were there when the server stopped, and have not come back since it started: not lost yet.
    awaited: BTreeSet<NodeId>,
    /// The prefixes that collide, with the nodes of which that was told.
    collisions: BTreeMap<Prefix, BTreeSet<NodeId>>,
    /// To be looked at; cleared when they were.
    prefixes: BTreeSet<Prefix>,
    /// The same, of nodes whose prefixes may collide.
    nodes: BTreeSet<NodeId>,
}

impl Standings {
    pub(crate) fn prefix_touched(&mut self, prefix: Prefix) {
        if !prefix.is_exit() {
            self.prefixes.insert(prefix);
        }
    }

    pub(crate) fn network_touched(&mut self, node: NodeId) {
        self.nodes.insert(node);
    }

    /// A node opened a session.
    pub(crate) fn is_back(&mut self, node: NodeId) {
        self.awaited.remove(&node);
    }
}

impl Tailnet {
    /// All prefixes of a node are to be looked at.
    pub(crate) fn touch_prefixes_of(&mut self, node: NodeId) {
        let prefixes: Vec<Prefix> = self.routes.rows_of(node).map(|row| row.prefix).collect();
        prefixes.into_iter().for_each(|prefix| self.standings.prefix_touched(prefix));
    }

    /// Takes what is so as known: the collisions, who stood by, and what was last told to be down.
    pub(crate) fn load_standings(&mut self, down: Vec<(Prefix, Option<Group>)>) {
        let collisions = self.collisions();
        self.standings.collisions =
            collisions.iter().map(|collision| (collision.prefix, nodes_of(collision).collect())).collect();
        self.standings.nodes.clear();
        let was_there = |node: NodeId| self.registry.node(node).is_some_and(|node| node.last_seen.is_none());
        for (prefix, seat) in self.routes.seats() {
            let others = self.routes.candidates(prefix).into_iter().map(|candidate| candidate.node);
            let spares: BTreeSet<NodeId> = others.filter(|node| *node != seat.node && was_there(*node)).collect();
            self.standings.awaited.extend(&spares);
            self.standings.known.insert((*prefix, None), Standing { up: true, is_told: false, spares });
        }
        let nobody = || Standing { up: false, is_told: true, spares: BTreeSet::new() };
        self.standings.known.extend(down.into_iter().map(|key| (key, nobody())));
    }

    /// The start is over: whoever has not come back by now is lost.
    pub(crate) fn start_is_over(&mut self) {
        let awaited = std::mem::take(&mut self.standings.awaited);
        awaited.into_iter().for_each(|node| self.touch_prefixes_of(node));
    }

    pub(crate) fn look_at_standings(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        for prefix in std::mem::take(&mut self.standings.prefixes) {
            self.look_at(prefix, now, out);
        }
        for node in std::mem::take(&mut self.standings.nodes) {
            self.look_for_collisions(node, now, out);
        }
    }

    /// Looks at the election of the tailnet, and at those of groups. What is so for all is told once.
    fn look_at(&mut self, prefix: Prefix, now: Timestamp, out: &mut Vec<Effect>) {
        let groups: BTreeSet<Group> = self.routes.groups_of(&prefix).cloned().collect();
        let is_over = |(of, group): &(Prefix, Option<Group>)| {
            *of == prefix && group.as_ref().is_some_and(|group| !groups.contains(group))
        };
        self.standings.known.retain(|key, standing| standing.is_told || !is_over(key));
        let over: Vec<(Prefix, Option<Group>)> =
            self.standings.known.keys().filter(|key| is_over(key)).cloned().collect();
        let before = out.len();
        let is_up = self.look_at_election(prefix, None, now, out);
        let redundancy = |effect: &Effect| {
            matches!(effect, Effect::History(HistoryEntry { event: HistoryEvent::RedundancyLost(_), .. }))
        };
        let is_told = out[before..].iter().any(redundancy);
        // Where nobody carries it for the tailnet, nobody does for a group.
        for key in over.into_iter().filter(|_| is_up) {
            self.standings.known.remove(&key);
            let node = self.routes.seat(&prefix).map(|seat| seat.node);
            let what = cause_in(key.1.as_ref(), "nobody goes through it any more".to_owned());
            let entry = HistoryEntry::new(now, Some(prefix), node, HistoryEvent::PrefixRestored(what));
            out.push(Effect::History(entry));
        }
        for group in groups.into_iter().filter(|_| is_up) {
            let mut own = Vec::new();
            self.look_at_election(prefix, Some(group), now, &mut own);
            out.extend(own.into_iter().filter(|effect| !is_told || !redundancy(effect)));
        }
    }

    /// Looks at one election, and says whether anybody carries the prefix in it.
    fn look_at_election(
        &mut self,
        prefix: Prefix,
        group: Option<Group>,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) -> bool {
        let candidates = self.routes.candidates_in(&prefix, group.as_ref());
        let seat = self.routes.seat_in(&prefix, group.as_ref()).map(|seat| seat.node);
        let carrier = candidates.iter().find(|candidate| Some(candidate.node) == seat);
        let key = (prefix, group.clone());
        // One that was lost before a start has not come back because the server waits for it.
        let is_waited_for = |node| matches!(self.routes.liveness(node), Some(Liveness::Grace { .. }));
        let before = self.standings.known.get(&key);
        let was_down = before.is_some_and(|before| !before.up);
        let up = carrier.is_some_and(|carrier| serves(carrier) && !(was_down && is_waited_for(carrier.node)));
        let is_awaited = |node: NodeId| {
            self.standings.awaited.contains(&node) && before.is_some_and(|before| before.spares.contains(&node))
        };
        let spares = candidates
            .iter()
            .filter(|other| Some(other.node) != seat && (serves(other) || is_awaited(other.node)))
            .map(|other| other.node);
        let is_told = !up && before.is_some_and(|before| before.up || before.is_told);
        let next = Standing { up, is_told, spares: spares.collect() };
        let had_router = up || !candidates.is_empty();
        let of = |what: String| cause_in(group.as_ref(), what);
        let Some(before) = before else {
            // What has no router yet neither is down nor comes back.
            if had_router {
                self.standings.known.insert(key, next);
            }
            return up;
        };
        let routes = &self.routes;
        let mut tell = |node: Option<NodeId>, event: HistoryEvent| {
            let evidence = match (&event, node) {
                (HistoryEvent::PrefixRestored(_), _) | (_, None) => Vec::new(),
                (_, Some(node)) => routes.convictions(node, &prefix),
            };
            out.push(Effect::History(HistoryEntry { at: now, prefix: Some(prefix), node, event, evidence }));
        };
        if before.up && !next.up {
            let cause = carrier.map_or_else(|| "no candidate".to_owned(), |carrier| word(carrier.rank));
            tell(seat, HistoryEvent::PrefixDown(of(cause)));
        } else if !before.up && next.up {
            tell(seat, HistoryEvent::PrefixRestored(of(String::new())));
        }
        if next.up && next.spares.is_empty() && !before.spares.is_empty() {
            // The one that was lost: a spare, or the carrier whose place a spare took.
            let lost = before.spares.iter().copied().find(|spare| Some(*spare) != seat);
            let lost = lost.or_else(|| candidates.iter().map(|other| other.node).find(|other| Some(*other) != seat));
            let rank = candidates.iter().find(|other| Some(other.node) == lost).map(|other| other.rank);
            let cause = rank.map_or_else(|| "no candidate".to_owned(), word);
            tell(lost, HistoryEvent::RedundancyLost(of(cause)));
        }
        self.standings.known.insert(key, next);
        up
    }

    fn look_for_collisions(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let own: BTreeSet<Prefix> =
            self.routes.rows_of(node).filter(|row| row.advertised).map(|row| row.prefix).collect();
        // A wide prefix is news for the narrower ones of others.
        let narrower = self.routes.rows().filter(|row| row.advertised && own.iter().any(|own| own.covers(&row.prefix)));
        let narrower = narrower.map(|row| row.prefix);
        // It may have ended one that it had a part in.
        let had_part = self.standings.collisions.iter().filter(|(_, nodes)| nodes.contains(&node));
        let concerned: BTreeSet<Prefix> = narrower.chain(had_part.map(|(prefix, _)| *prefix)).collect();
        for prefix in concerned {
            match self.collision_about(prefix) {
                None => drop(self.standings.collisions.remove(&prefix)),
                Some(collision) => {
                    let before = self.standings.collisions.insert(prefix, nodes_of(&collision).collect());
                    let before = before.unwrap_or_default();
                    let is_new = |party: &Party| !party.nodes.iter().any(|(node, _)| before.contains(node));
                    if collision.parties.iter().any(is_new) {
                        let event = HistoryEvent::CollisionFound(self.sides(&collision));
                        let entry = HistoryEntry::new(now, Some(prefix), Some(node), event);
                        out.push(Effect::History(entry));
                    }
                }
            }
        }
    }

    /// `r1, r2 and r3 do not look like one site`, a side each.
    pub(crate) fn sides(&self, collision: &Collision) -> String {
        let side = |nodes: &[(NodeId, Prefix)]| {
            nodes.iter().map(|(node, _)| self.name_of(*node)).collect::<Vec<_>>().join("+")
        };
        let sides: Vec<String> = collision.parties.iter().map(|party| side(&party.nodes)).collect();
        format!("{} do not look like one site", sides.join(", "))
    }
}

fn nodes_of(collision: &Collision) -> impl Iterator<Item = NodeId> {
    collision.parties.iter().flat_map(|party| party.nodes.iter().map(|(node, _)| *node))
}

/// Whether a candidate carries, or could carry, a prefix.
const fn serves(candidate: &Candidate) -> bool {
    can_serve(candidate.rank)
}

/// Whether one of this rank carries a prefix where nobody is better.
pub(crate) const fn can_serve(rank: Rank) -> bool {
    !matches!(rank, Rank::Suspect(_) | Rank::Down(_))
}

fn word(rank: Rank) -> String {
    match rank {
        Rank::Down(cause) | Rank::Suspect(cause) => cause.to_string(),
        Rank::Drained => "drained".to_owned(),
        Rank::Steady | Rank::Flapping => "up".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::what_if::tests::{P, now, prefix, steered, tailnet};
    use crate::{ApproveMode, Command, Ending, Event, Loaded, Settings};
    use std::time::Duration;
    use wayleave_model::{Approver, SessionId};
    use wayleave_routes::Cause;

    /// Loses a node, and tells what was told within a second, moves and verdicts apart.
    fn lose(tailnet: &mut Tailnet, node: u64) -> Vec<String> {
        let ending = Ending::Lost(Cause::ConnectionClosed);
        let mut effects = tailnet.apply(Event::SessionEnded(NodeId::new(node), SessionId::new(node), ending), now());
        effects.extend(tailnet.handle_deadline(now() + Duration::from_secs(1)));
        told(effects)
    }

    fn told(effects: Vec<Effect>) -> Vec<String> {
        let entries = effects
            .into_iter()
            .filter_map(|effect| if let Effect::History(entry) = effect { Some(entry) } else { None })
            .filter(|entry| {
                let event = &entry.event;
                let moves = event.ends() != (None, None);
                !moves && !matches!(event, HistoryEvent::Judged(_))
            });
        let text = |entry: HistoryEntry| {
            let node = entry.node.map_or_else(|| "nobody".to_owned(), |node| format!("n{node}"));
            format!("{} {node}: {}", entry.event, entry.event.cause())
        };
        entries.map(text).collect()
    }

    #[test]
    fn losing_a_standby_is_losing_redundancy_and_losing_both_is_down() {
        let mut tailnet = tailnet(4);
        assert_eq!(lose(&mut tailnet, 2), ["redundancy lost n2: connection closed"]);
        assert_eq!(lose(&mut tailnet, 1), ["prefix down n1: connection closed"]);
        let back =
            tailnet.apply(Event::SessionOpened(NodeId::new(2), SessionId::new(12)), now() + Duration::from_secs(5));
        assert_eq!(told(back), ["prefix restored n2: "]);
        assert!(tailnet.routes().seat(&prefix(P)).is_some());
    }

    #[test]
    fn a_group_whose_routers_are_all_down_is_told_although_others_are_up() {
        let mut tailnet = steered();
        assert_eq!(lose(&mut tailnet, 3), ["redundancy lost n3: via tag:two: connection closed"]);
        let down = ["redundancy lost n2: connection closed", "prefix down n2: via tag:two: connection closed"];
        assert_eq!(lose(&mut tailnet, 2), down);
        assert_eq!(lose(&mut tailnet, 1), ["prefix down n1: connection closed"]);
        let mut back = |node: u64| {
            let at = now() + Duration::from_secs(5);
            told(tailnet.apply(Event::SessionOpened(NodeId::new(node), SessionId::new(10 + node)), at))
        };
        assert_eq!(back(1), ["prefix restored n1: "], "the group's are down still, as was told");
        assert_eq!(back(3), ["prefix restored n3: via tag:two"]);
    }

    #[test]
    fn a_move_has_what_stood_against_the_router_that_had_the_prefix() {
        let mut tailnet = tailnet(4);
        let ending = Ending::Lost(Cause::ConnectionClosed);
        tailnet.apply(Event::SessionEnded(NodeId::new(1), SessionId::new(1), ending), now());
        let effects = tailnet.handle_deadline(now() + Duration::from_secs(1));
        let mut entries = effects
            .into_iter()
            .filter_map(|effect| if let Effect::History(entry) = effect { Some(entry) } else { None });
        let moved = entries.find(|entry| matches!(entry.event, HistoryEvent::PrimaryChanged { .. })).unwrap();
        let convicted_at = now() + Duration::from_secs(1);
        assert_eq!(moved.evidence_text(), format!("connection closed since {convicted_at}"));
    }

    #[test]
    fn a_prefix_that_nobody_may_carry_any_more_is_restored_when_somebody_does() {
        let mut tailnet = tailnet(2);
        let mut ask = |command| {
            let plan = tailnet.plan(command, now()).unwrap();
            let effects = tailnet.apply(Event::Committed(Box::new(plan.into_committed())), now());
            let mut told = told(effects);
            told.retain(|told| told.starts_with("prefix"));
            told
        };
        let (prefixes, by) = (BTreeSet::from([prefix(P)]), Approver::Cli);
        let disable = |n| Command::DisableRoutes { node: NodeId::new(n), prefixes: prefixes.clone(), by: by.clone() };
        assert_eq!(ask(disable(1)), [] as [&str; 0]);
        assert_eq!(ask(disable(2)), ["prefix down nobody: no candidate"]);
        let (mode, node) = (ApproveMode::Add, NodeId::new(1));
        let approve = Command::ApproveRoutes { node, prefixes: prefixes.clone(), mode, by: by.clone() };
        assert_eq!(ask(approve), ["prefix restored n1: "]);
        assert_eq!(ask(disable(1)), ["prefix down nobody: no candidate"]);
        assert_eq!(ask(Command::DeleteNode { node }), [] as [&str; 0]);
    }

    #[test]
    fn what_was_down_when_the_server_stopped_is_not_told_again_after_its_start() {
        let mut tailnet = tailnet(4);
        lose(&mut tailnet, 2);
        lose(&mut tailnet, 1);
        let loaded = Loaded {
            nodes: tailnet.registry().nodes().cloned().collect(),
            routes: tailnet.routes().rows().cloned().collect(),
            down: vec![(prefix(P), None)],
            ..Loaded::default()
        };
        let mut again = Tailnet::new(Settings::default(), loaded, now()).unwrap();
        assert_eq!(told(again.apply(Event::Started, now())), [] as [&str; 0]);
        assert_eq!(told(again.handle_deadline(now() + Duration::from_secs(31))), [] as [&str; 0]);
        let opened = Event::SessionOpened(NodeId::new(2), SessionId::new(12));
        assert_eq!(told(again.apply(opened, now() + Duration::from_secs(40))), ["prefix restored n2: "]);
    }

    #[test]
    fn a_primary_that_was_lost_when_the_server_stopped_and_was_not_told_to_be_down_is_not_restored() {
        let mut tailnet = tailnet(1);
        let ending = Ending::Lost(Cause::ConnectionClosed);
        tailnet.apply(Event::SessionEnded(NodeId::new(1), SessionId::new(1), ending), now());
        let loaded = Loaded {
            nodes: tailnet.registry().nodes().cloned().collect(),
            routes: tailnet.routes().rows().cloned().collect(),
            ..Loaded::default()
        };
        let mut again = Tailnet::new(Settings::default(), loaded.clone(), now()).unwrap();
        assert_eq!(told(again.apply(Event::Started, now())), [] as [&str; 0]);
        let opened = Event::SessionOpened(NodeId::new(1), SessionId::new(12));
        assert_eq!(told(again.apply(opened, now() + Duration::from_secs(1))), [] as [&str; 0]);
        let mut again = Tailnet::new(Settings::default(), loaded, now()).unwrap();
        again.apply(Event::Started, now());
        let down = told(again.handle_deadline(now() + Duration::from_secs(31)));
        assert_eq!(down, ["prefix down n1: not back in time"], "one that does not come back is told, once");
    }

    #[test]
    fn a_group_that_ends_while_its_routers_are_down_is_told_to_be_so_no_more() {
        let down = || {
            let mut tailnet = steered();
            lose(&mut tailnet, 3);
            lose(&mut tailnet, 2);
            tailnet
        };
        let ask = |tailnet: &mut Tailnet, command| {
            let plan = tailnet.plan(command, now() + Duration::from_secs(2)).unwrap();
            let committed = Event::Committed(Box::new(plan.into_committed()));
            told(tailnet.apply(committed, now() + Duration::from_secs(2)))
        };
        let restored = ["prefix restored n1: via tag:two: nobody goes through it any more"];
        let mut by_policy = down();
        let set = Command::SetPolicy { text: "{}".to_owned(), replaces: None, by: "cli".to_owned() };
        assert_eq!(ask(&mut by_policy, set), restored);
        let mut by_tag = down();
        // The one who was steered through it.
        let tag = Command::TagNode { node: NodeId::new(4), tags: ["tag:one".parse().unwrap()].into() };
        assert_eq!(ask(&mut by_tag, tag.clone()), restored);

        // While nobody carries the prefix for anybody, that is what is said.
        let mut all = down();
        assert_eq!(lose(&mut all, 1), ["prefix down n1: connection closed"]);
        assert_eq!(ask(&mut all, tag), [] as [&str; 0]);
        let opened = Event::SessionOpened(NodeId::new(1), SessionId::new(12));
        let both = ["prefix restored n1: ", restored[0]];
        assert_eq!(told(all.apply(opened, now() + Duration::from_secs(3))), both);
    }

    #[test]
    fn a_spare_that_does_not_come_back_after_a_start_is_told_when_the_start_is_over() {
        let tailnet = tailnet(2);
        let loaded = Loaded {
            nodes: tailnet.registry().nodes().cloned().collect(),
            routes: tailnet.routes().rows().cloned().collect(),
            ..Loaded::default()
        };
        let start = |back: u64| {
            let mut again = Tailnet::new(Settings::default(), loaded.clone(), now()).unwrap();
            let mut effects = again.apply(Event::Started, now());
            let opened = Event::SessionOpened(NodeId::new(back), SessionId::new(12));
            effects.extend(again.apply(opened, now() + Duration::from_secs(1)));
            effects.extend(again.handle_deadline(now() + Duration::from_secs(29)));
            assert_eq!(told(effects), [] as [&str; 0]);
            told(again.handle_deadline(now() + Duration::from_secs(30)))
        };
        assert_eq!(start(1), ["redundancy lost n2: not seen since start"]);
        assert_eq!(start(2), ["redundancy lost n1: not back in time"], "the spare is the primary by then");
    }

    #[test]
    fn a_primary_that_is_replaced_by_the_last_spare_loses_redundancy_too() {
        let mut tailnet = tailnet(4);
        assert_eq!(lose(&mut tailnet, 1), ["redundancy lost n1: connection closed"]);
    }
}
