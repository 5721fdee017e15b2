//! What would change: a copy of the tailnet is brought into the case that is asked about, and both it and the tailnet as it is are played
//! forward, in virtual time, until nothing of the case is open any more. Nothing of it is ever in force.
//!
//! Both are played forward because time alone changes things: a challenger whose wait ends, a key that expires. What either way comes
//! to pass is no difference.

use std::collections::BTreeSet;
use std::time::Duration;

use wayleave_model::{Approver, Failback, NodeId, Prefix, Route, Timestamp};
use wayleave_routes::{Because, Cause, Group, Rank};

use crate::command::{ApproveMode, Command, Refusal};
use crate::liveness::Ending;
use crate::snapshot::Snapshot;
use crate::standing::can_serve;
use crate::tailnet::{Effect, Event, Tailnet};

/// Something that is taken to be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assumption {
    /// These nodes are lost.
    Down(BTreeSet<NodeId>),
    /// Somebody asks for this, and it is not refused.
    Asked(Command),
}

impl Assumption {
    /// A route of a node is approved.
    pub fn approved(node: NodeId, prefix: Prefix) -> Self {
        let prefixes = BTreeSet::from([prefix]);
        Self::Asked(Command::ApproveRoutes { node, prefixes, mode: ApproveMode::Add, by: Approver::Cli })
    }

    /// A route of a node is disabled.
    pub fn disabled(node: NodeId, prefix: Prefix) -> Self {
        Self::Asked(Command::DisableRoutes { node, prefixes: BTreeSet::from([prefix]), by: Approver::Cli })
    }

    /// A node is preferred this much for a prefix.
    pub fn preferred(node: NodeId, prefix: Prefix, priority: i32) -> Self {
        Self::Asked(Command::Prefer { node, prefix, priority, by: Approver::Cli })
    }

    /// This policy is in force.
    pub fn policy(text: String) -> Self {
        Self::Asked(Command::SetPolicy { text, replaces: None, by: "what-if".to_owned() })
    }
}

/// What would come of it.
#[derive(Clone, Debug)]
pub struct WhatIf {
    /// The tailnet, without it, at the end of the time that was played forward.
    pub before: Snapshot,
    /// The tailnet, with it, at the same time.
    pub after: Snapshot,
    /// The routes that are broken in either: their routers are down, or suspect, and so nobody gets through.
    pub broken: [BTreeSet<(NodeId, Prefix)>; 2],
    /// The prefixes that another node, or nobody, would be primary for.
    pub moves: Vec<Moved>,
    /// The nodes that are taken to be lost.
    pub down: BTreeSet<NodeId>,
}

/// A prefix that would have another primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which.
    pub prefix: Prefix,
    /// For which group; `None`: for the tailnet as a whole.
    pub group: Option<Group>,
    /// Who has it without.
    pub from: Option<NodeId>,
    /// Who has it with.
    pub to: Option<NodeId>,
    /// Why.
    pub because: Because,
    /// How good the one is that has it with; `None`: nobody has.
    pub rank: Option<Rank>,
}

/// Steps of virtual time at most; a tailnet of ten thousand nodes has about so many deadlines in a minute.
const MOST_STEPS: usize = 200_000;

impl Tailnet {
    /// Works out what would come of these, all at once. Changes nothing.
    ///
    /// # Errors
    ///
    /// What is asked for would be refused.
    pub fn what_if(&self, assumptions: Vec<Assumption>, now: Timestamp) -> Result<WhatIf, Refusal> {
        let mut without = self.clone();
        let mut with = self.clone();
        let mut down = BTreeSet::new();
        for assumption in assumptions {
            match assumption {
                Assumption::Down(nodes) => down.extend(nodes),
                Assumption::Asked(command) => with.ask(command, now)?,
            }
        }
        for node in &down {
            if self.registry.node(*node).is_none() {
                return Err(Refusal::NoNode(*node));
            }
            with.lose(*node, now);
        }
        // Longer than any wait that begins with the case itself: for a lost stream, after a common loss, before a failback.
        let routes = &self.settings.routes;
        let longest = [
            routes.lost_after,
            routes.starting,
            routes.withdraw_grace,
            routes.back_after,
            self.longest_failback(),
            self.settings.offline_after,
        ];
        let horizon = now + longest.into_iter().max().unwrap_or_default() + Duration::from_secs(2);
        for tailnet in [&mut without, &mut with] {
            tailnet.play(horizon);
        }
        let elections: BTreeSet<(Prefix, Option<Group>)> = [&without, &with]
            .into_iter()
            .flat_map(|tailnet| {
                let of = |prefix: &Prefix| {
                    tailnet.routes.seats_of(prefix).map(|(group, _)| group.cloned()).collect::<Vec<_>>()
                };
                tailnet.routes.prefixes().flat_map(move |prefix| of(prefix).into_iter().map(|group| (*prefix, group)))
            })
            .collect();
        let moves = elections.into_iter().filter_map(|(prefix, group)| {
            let [from, to] = [&without, &with].map(|tailnet| tailnet.routes.seat_in(&prefix, group.as_ref()));
            let (was, is) = (from.map(|seat| seat.node), to.map(|seat| seat.node));
            let because = to.map_or(Because::NoCandidate, |seat| seat.because.clone());
            let rank = is.and_then(|node| with.routes.rank_for(node, &prefix));
            (was != is).then_some(Moved { prefix, group, from: was, to: is, because, rank })
        });
        let moves = moves.collect();
        let broken = [&without, &with].map(Self::broken_routes);
        Ok(WhatIf { moves, before: without.snapshot().clone(), after: with.snapshot().clone(), broken, down })
    }

    fn broken_routes(&self) -> BTreeSet<(NodeId, Prefix)> {
        let broken = |row: &&Route| self.routes.rank_for(row.node, &row.prefix).is_none_or(|rank| !can_serve(rank));
        self.routes.rows().filter(broken).map(|row| (row.node, row.prefix)).collect()
    }

    /// How long a better router waits at most, over all prefixes.
    fn longest_failback(&self) -> Duration {
        let own = self.routes.seats().map(|(prefix, _)| self.routes.prefix_settings(prefix));
        let all = own.chain([self.routes.default_settings()]).filter_map(|settings| match settings.failback {
            Failback::After(wait) => Some(wait),
            Failback::Never => None,
        });
        all.max().unwrap_or_default()
    }

    fn ask(&mut self, command: Command, now: Timestamp) -> Result<(), Refusal> {
        let plan = self.plan(command, now)?;
        let effects = self.apply(Event::Committed(Box::new(plan.into_committed())), now);
        self.propose(effects, now);
        Ok(())
    }

    /// Does what the tailnet itself asks for; what is refused came too late.
    fn propose(&mut self, effects: Vec<Effect>, now: Timestamp) {
        for effect in effects {
            if let Effect::Propose(command) = effect {
                self.ask(command, now).ok();
            }
        }
    }

    fn lose(&mut self, node: NodeId, now: Timestamp) {
        let Some(session) = self.liveness.session(node) else { return };
        let effects = self.apply(Event::SessionEnded(node, session, Ending::Lost(Cause::ConnectionClosed)), now);
        self.propose(effects, now);
    }

    fn play(&mut self, horizon: Timestamp) {
        for _ in 0..MOST_STEPS {
            let Some(due) = self.next_deadline().filter(|due| *due <= horizon) else { return };
            let effects = self.handle_deadline(due);
            self.propose(effects, due);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
