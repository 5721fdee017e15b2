//! What is wrong with the routes of a tailnet, or will be once something else fails: what somebody wants to read first who is called at night.
//!
//! It says nothing that `routes list`, `routes explain` and others do not say as well, but says it in one place, with what to do about it.

use std::fmt;

use wayleave_model::{NodeId, Prefix, Timestamp, WitnessChoice};
use wayleave_routes::{Gone, Rank, RouteState, Standing, WhyNot, router_fault};

use crate::standing::can_serve;
use crate::tailnet::Tailnet;

/// How much a finding matters, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something will not work once something else fails, or is not as it seems.
    Warning,
    /// Something waits for a person, or is so because one wanted it.
    Note,
}

impl Severity {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Something that a person should know of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about: a prefix, a node, or a part of the server, as people call it.
    pub about: String,
    /// What is so.
    pub what: String,
    /// What to do.
    pub todo: String,
}

impl Finding {
    /// A finding.
    pub fn new(severity: Severity, about: impl Into<String>, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { severity, about: about.into(), what: what.into(), todo: todo.into() }
    }
}

impl Tailnet {
    /// All that is wrong with routes and their routers, or will be: the worst first, then by what it is about.
    pub fn findings(&self, now: Timestamp) -> Vec<Finding> {
        let mut all = Vec::new();
        let mut alone = Vec::new();
        for prefix in self.routes.prefixes() {
            self.find_prefix(prefix, now, &mut alone, &mut all);
        }
        self.find_exits(&mut all);
        if !alone.is_empty() {
            let what = format!("only one router each: {}", alone.join(", "));
            all.push(Finding::new(
                Severity::Note,
                "redundancy",
                what,
                "let another node advertise the prefix, and approve it",
            ));
        }
        self.find_rows(&mut all);
        self.find_routers(now, &mut all);
        self.find_checks(&mut all);
        for collision in self.collisions() {
            let what = format!("{}, and use the same addresses", self.sides(&collision));
            let todo = "`wayleave routes collisions` says which 4via6 prefix each could use instead";
            all.push(Finding::new(Severity::Warning, self.sites.show(&collision.prefix), what, todo));
        }
        all.sort();
        all
    }

    fn find_prefix(&self, prefix: &Prefix, now: Timestamp, alone: &mut Vec<String>, all: &mut Vec<Finding>) {
        let approved = |node: NodeId| self.routes.row_of(node, prefix).is_some_and(|row| row.enabled && row.advertised);
        let explained = self.routes.explain(prefix, None, now);
        let routers: Vec<&Standing> = explained.standings.iter().filter(|standing| approved(standing.node)).collect();
        if routers.is_empty() {
            return;
        }
        let shown = self.sites.show(prefix);
        let carrier = explained.seat.as_ref().map(|seat| seat.node);
        let rank = routers.iter().find(|standing| Some(standing.node) == carrier).and_then(|standing| standing.rank);
        let look = format!("`wayleave routes explain \"{shown}\"` says more");
        let name = carrier.map(|node| self.name_of(node)).unwrap_or_default();
        let found = match rank {
            None => Some((
                Severity::Error,
                format!("nobody carries it: {}", self.standings_of(&routers)),
                "log the node in again, or let another advertise the prefix".to_owned(),
            )),
            Some(Rank::Down(_)) => Some((
                Severity::Error,
                format!("no router is up: {}", self.standings_of(&routers)),
                "bring one of them back: it takes the prefix by itself".to_owned(),
            )),
            Some(Rank::Suspect(cause)) => Some((
                Severity::Error,
                format!("{name} carries it, what is behind it does not answer ({cause}), and nobody is better"),
                format!("look at what is behind {name}; {look}"),
            )),
            Some(Rank::Drained) => Some((
                Severity::Warning,
                format!("{name} carries it although it is drained: nobody is better"),
                format!("`wayleave routes undrain --node {name}`, or bring another router up"),
            )),
            Some(Rank::Flapping) => Some((
                Severity::Warning,
                format!("{name} carries it and is flapping: it is lost again and again"),
                look,
            )),
            Some(Rank::Steady) => None,
        };
        if let Some((severity, what, todo)) = found {
            all.push(Finding::new(severity, &shown, what, todo));
        }
        if !rank.is_some_and(can_serve) {
            return;
        }
        for (group, seat) in self.routes.seats_of(prefix) {
            let (Some(group), Some(Rank::Down(cause))) = (group, self.routes.rank_for(seat.node, prefix)) else {
                continue;
            };
            let via = group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            let what = format!(
                "no router of {via} is up, and grants steer clients there: {} (down: {cause}) keeps it",
                self.name_of(seat.node)
            );
            all.push(Finding::new(
                Severity::Error,
                &shown,
                what,
                "bring one of them back: it takes the prefix by itself",
            ));
        }
        let others: Vec<&Standing> = routers.into_iter().filter(|standing| Some(standing.node) != carrier).collect();
        if others.is_empty() {
            alone.push(shown);
            return;
        }
        let lame: Vec<&Standing> =
            others.iter().copied().filter(|standing| !standing.rank.is_some_and(can_serve)).collect();
        if lame.is_empty() {
            return;
        }
        let nobody = lame.len() == others.len();
        let what = if nobody { format!("if {name} fails nobody takes over") } else { "could not take over".to_owned() };
        let what = format!("{what}: {}", self.standings_of(&lame));
        all.push(Finding::new(
            Severity::Warning,
            &shown,
            what,
            format!("`wayleave routes explain \"{shown}\"` says more"),
        ));
    }

    /// `r1 (down: connection closed), r2 (expired)`.
    fn standings_of(&self, all: &[&Standing]) -> String {
        let one = |standing: &&Standing| {
            let why = match (standing.rank, standing.why_not) {
                (Some(rank), _) => rank.to_string(),
                (None, Some(WhyNot::NoCandidate(Gone::Expired))) => "its key has expired".to_owned(),
                (None, Some(WhyNot::NoCandidate(gone))) => gone.to_string(),
                (None, Some(WhyNot::NoRoute(state))) => state.to_string(),
                (None, _) => "no candidate".to_owned(),
            };
            format!("{} ({why})", self.name_of(standing.node))
        };
        all.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// One decision covers both families, so one finding does.
    fn find_exits(&self, all: &mut Vec<Finding>) {
        let rows = self.routes.rows().filter(|row| row.prefix == Prefix::EXIT_V4);
        for row in rows.filter(|row| self.routes.state(row) == RouteState::Offline) {
            let name = self.name_of(row.node);
            let what = "it is an exit node, and it is down: who has chosen it has no way out";
            all.push(Finding::new(Severity::Warning, name, what, "bring it back, or let clients choose another"));
        }
    }

    fn find_rows(&self, all: &mut Vec<Finding>) {
        let mut pending = 0_usize;
        for row in self.routes.rows() {
            match self.routes.state(row) {
                RouteState::Invalid(reason) if row.advertised => {
                    let what = format!("{} advertises it, and it can't be used: it {reason}", self.name_of(row.node));
                    let todo = "take it out of `--advertise-routes` there";
                    all.push(Finding::new(Severity::Warning, self.sites.show(&row.prefix), what, todo));
                }
                RouteState::Pending => pending += 1,
                RouteState::Invalid(_)
                | RouteState::PreApproved
                | RouteState::Withdrawn
                | RouteState::Refused
                | RouteState::Expired
                | RouteState::Offline
                | RouteState::Primary
                | RouteState::Serving
                | RouteState::Standby => {}
            }
        }
        if pending > 0 {
            let what = match pending {
                1 => "one waits for a yes: nobody is told of it until then".to_owned(),
                many => format!("{many} wait for a yes: nobody is told of them until then"),
            };
            let todo = "`wayleave routes list --state pending`, then `routes approve` or `routes disable`";
            all.push(Finding::new(Severity::Note, "routes", what, todo));
        }
    }

    fn find_routers(&self, now: Timestamp, all: &mut Vec<Finding>) {
        for node in self.registry.nodes() {
            let carries = self.routes.rows_of(node.id).any(|row| row.enabled && row.advertised);
            if !carries {
                continue;
            }
            let name = node.given_name.to_string();
            for fault in node.hostinfo.debug_flags.iter().filter_map(|flag| router_fault(flag)) {
                let what = format!("it says of itself: {fault}; its routes may carry nothing");
                all.push(Finding::new(
                    Severity::Error,
                    &name,
                    what,
                    "mend it on the node; `tailscale status` there says more",
                ));
            }
            let warned = self.settings.key_warnings.iter().max().copied().unwrap_or_default();
            if let Some(at) = node.expires_at.filter(|at| *at > now && *at <= now + warned) {
                let what = format!("its key ends at {at}, and its routes go with it");
                let todo = format!("log it in again, or `wayleave nodes expire --node {name} --never`");
                all.push(Finding::new(Severity::Warning, &name, what, todo));
            }
            if node.drained {
                let todo = format!("`wayleave routes undrain --node {name}` once it may serve again");
                all.push(Finding::new(Severity::Note, &name, "it is drained: none of its routes is chosen", todo));
            }
        }
        for (prefix, own) in self.routes.all_overrides() {
            let Some(freeze) = own.frozen.as_ref().filter(|freeze| freeze.until > now) else { continue };
            let (about, which) = match prefix {
                Some(prefix) => (self.sites.show(prefix), format!("\"{}\"", self.sites.show(prefix))),
                None => ("all prefixes".to_owned(), "--all".to_owned()),
            };
            let what = format!("frozen by {}: it stays on a router that dies until {}", freeze.by, freeze.until);
            all.push(Finding::new(
                Severity::Note,
                about,
                what,
                format!("`wayleave routes unfreeze {which}` ends that"),
            ));
        }
    }

    fn find_checks(&self, all: &mut Vec<Finding>) {
        for check in self.path_checks() {
            let shown = self.sites.show(&check.prefix);
            let target = self.sites.show_address(check.target);
            if let Some(fault) = self.target_fault(&check.prefix, check.target) {
                let what = format!("its path check proves nothing: {target}: {}", fault.words(self));
                let todo = format!("`wayleave routes check set \"{shown}\" --target` another address");
                all.push(Finding::new(Severity::Warning, shown, what, todo));
                continue;
            }
            // One that looks behind standbys too asks others about the primary where its witness is away.
            if let Some(away) = self.witness_away(check.witness.as_ref()).filter(|_| !check.standby) {
                let what = format!("its path check looks at nothing: {away}");
                let todo = format!(
                    "bring it back, or `wayleave routes check set \"{shown}\" --target {target}` without `--witness`"
                );
                all.push(Finding::new(Severity::Warning, shown, what, todo));
                continue;
            }
            let carriers = self.routes.carriers(&check.prefix);
            let records = carriers.iter().map(|node| (*node, self.routes.path_record(*node, &check.prefix)));
            let looked: Vec<_> = records.filter(|(_, record)| record.at.is_some()).collect();
            let never = looked.iter().filter(|(_, record)| !record.passed).map(|(node, _)| self.name_of(*node));
            let never: Vec<String> = never.collect();
            let run = format!("`wayleave routes check run \"{shown}\"` tries it");
            if !carriers.is_empty() && looked.is_empty() {
                let what = "its path check has not looked yet: it takes a connected client that accepts routes and may use the prefix";
                all.push(Finding::new(Severity::Warning, shown, what, run));
            } else if !never.is_empty() {
                let behind = never.join(", ");
                let what = format!(
                    "its path check has never passed behind {behind}, and convicts only who has: does {target} answer pings?"
                );
                all.push(Finding::new(Severity::Warning, shown, what, run));
            }
        }
    }
}

impl Tailnet {
    /// Which witness that a person named is not there. `None`: nobody was named, or somebody of those is connected.
    fn witness_away(&self, witness: Option<&WitnessChoice>) -> Option<String> {
        match witness? {
            WitnessChoice::Node(node) => {
                let away = !self.liveness.has_session(*node);
                away.then(|| format!("{}, its witness, is not connected", self.name_of(*node)))
            }
            WitnessChoice::Tag(tag) => {
                let mut tagged = self.registry.nodes().filter(|node| node.owner.has_tag(tag));
                let away = !tagged.any(|node| self.liveness.has_session(node.id));
                away.then(|| format!("nobody with {tag}, its witnesses, is connected"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wayleave_model::{Approver, Hostinfo, Node, NodeId};
    use wayleave_routes::Cause;

    use super::*;
    use crate::command::{ApproveMode, Command};
    use crate::liveness::Ending;
    use crate::path_checks::NewPathCheck;
    use crate::tailnet::{Event, Report};
    use crate::what_if::tests::{P, now, prefix, tailnet};

    fn found(tailnet: &Tailnet, at: Timestamp) -> Vec<(Severity, String, String)> {
        tailnet.findings(at).into_iter().map(|found| (found.severity, found.about, found.what)).collect()
    }

    fn ask(tailnet: &mut Tailnet, command: Command, at: Timestamp) {
        let plan = tailnet.plan(command, at).unwrap();
        tailnet.apply(Event::Committed(Box::new(plan.into_committed())), at);
    }

    fn lose(tailnet: &mut Tailnet, node: u64, at: Timestamp) {
        let id = NodeId::new(node);
        let session = tailnet.liveness.session(id).unwrap();
        tailnet.apply(Event::SessionEnded(id, session, Ending::Lost(Cause::ConnectionClosed)), at);
    }

    fn until(tailnet: &mut Tailnet, end: Timestamp) {
        while let Some(due) = tailnet.next_deadline().filter(|due| *due <= end) {
            tailnet.handle_deadline(due);
        }
    }

    #[test]
    fn routers_that_fail_one_after_the_other_are_told_with_what_to_do() {
        let mut tailnet = tailnet(4);
        let settled = now() + Duration::from_secs(40);
        until(&mut tailnet, settled);
        // The third advertises it, and nobody has approved that.
        let waits =
            (Severity::Note, "routes".to_owned(), "one waits for a yes: nobody is told of it until then".to_owned());
        assert_eq!(found(&tailnet, settled), std::slice::from_ref(&waits));

        lose(&mut tailnet, 2, settled);
        let at = settled + Duration::from_secs(2);
        until(&mut tailnet, at);
        let spare = "if n1 fails nobody takes over: n2 (down: connection closed)".to_owned();
        assert_eq!(found(&tailnet, at), [(Severity::Warning, P.to_owned(), spare), waits.clone()]);

        lose(&mut tailnet, 1, at);
        let at = at + Duration::from_secs(2);
        until(&mut tailnet, at);
        let down = "no router is up: n1 (down: connection closed), n2 (down: connection closed)".to_owned();
        assert_eq!(found(&tailnet, at), [(Severity::Error, P.to_owned(), down), waits]);
        assert!(tailnet.findings(at)[0].todo.contains("bring one of them back"));
    }

    #[test]
    fn what_persons_wanted_is_noted() {
        let mut tailnet = tailnet(2);
        let at = now() + Duration::from_secs(40);
        until(&mut tailnet, at);
        assert_eq!(found(&tailnet, at), []);
        ask(&mut tailnet, Command::DrainNode { node: NodeId::new(1), by: Approver::Cli }, at);
        let drained = (Severity::Note, "n1".to_owned(), "it is drained: none of its routes is chosen".to_owned());
        assert_eq!(found(&tailnet, at), [drained], "it takes over where it must");
        ask(&mut tailnet, Command::DrainNode { node: NodeId::new(2), by: Approver::Cli }, at);
        let carries = "n2 carries it although it is drained: nobody is better".to_owned();
        assert_eq!(found(&tailnet, at)[0], (Severity::Warning, P.to_owned(), carries));
    }

    #[test]
    fn a_check_whose_witness_is_away_is_told_and_one_whose_witness_is_deleted_asks_others() {
        let mut tailnet = tailnet(4);
        let at = now() + Duration::from_secs(40);
        until(&mut tailnet, at);
        let (target, every, by) = ("10.1.0.9".parse().unwrap(), Duration::from_secs(2), Approver::Cli);
        let witness = Some(WitnessChoice::Node(NodeId::new(4)));
        let check = NewPathCheck { prefix: prefix(P), target, every, witness, standby: false, by };
        ask(&mut tailnet, Command::SetPathCheck(Box::new(check)), at);
        let blind = |tailnet: &Tailnet, at| {
            found(tailnet, at).into_iter().any(|(_, about, what)| about == P && what.contains("n4, its witness,"))
        };
        assert!(!blind(&tailnet, at));
        lose(&mut tailnet, 4, at);
        let at = at + Duration::from_secs(2);
        until(&mut tailnet, at);
        assert!(blind(&tailnet, at));
        let plan = tailnet.plan(Command::DeleteNode { node: NodeId::new(4) }, at).unwrap().into_committed();
        let told: Vec<String> = plan.history().map(|entry| entry.event.cause()).collect();
        assert_eq!(told, ["cli: 10.1.0.9 every 2s (n4, its witness, was deleted)"]);
        tailnet.apply(Event::Committed(Box::new(plan)), at);
        assert_eq!(tailnet.path_check(&prefix(P)).unwrap().witness, None);
        assert!(!blind(&tailnet, at));
    }

    #[test]
    fn an_exit_that_is_down_is_told() {
        let mut tailnet = tailnet(4);
        let at = now() + Duration::from_secs(40);
        until(&mut tailnet, at);
        let (node, mode, by) = (NodeId::new(4), ApproveMode::Add, Approver::Cli);
        let hostinfo = Hostinfo { routable_ips: [Prefix::EXIT_V4, Prefix::EXIT_V6].into(), ..Hostinfo::default() };
        let report = Report { capability: 142, disco_key: None, endpoints: Vec::new(), hostinfo: Some(hostinfo) };
        tailnet.apply(Event::Reported(node, Box::new(report)), at);
        ask(&mut tailnet, Command::ApproveRoutes { node, prefixes: [Prefix::EXIT_V4].into(), mode, by }, at);
        let exits =
            |tailnet: &Tailnet, at| found(tailnet, at).into_iter().filter(|(_, about, _)| about == "n4").count();
        assert_eq!(exits(&tailnet, at), 0);
        lose(&mut tailnet, 4, at);
        let at = at + Duration::from_secs(2);
        until(&mut tailnet, at);
        assert_eq!(exits(&tailnet, at), 1);
    }

    #[test]
    fn one_router_is_a_note_and_a_key_that_ends_a_warning() {
        let mut tailnet = tailnet(2);
        let at = now() + Duration::from_secs(40);
        until(&mut tailnet, at);
        let disable =
            |node| Command::DisableRoutes { node: NodeId::new(node), prefixes: [prefix(P)].into(), by: Approver::Cli };
        ask(&mut tailnet, disable(2), at);
        let alone = (Severity::Note, "redundancy".to_owned(), format!("only one router each: {P}"));
        assert_eq!(found(&tailnet, at), std::slice::from_ref(&alone));
        let node: &Node = tailnet.registry().node(NodeId::new(1)).unwrap();
        let ends = at + Duration::from_secs(3600);
        let expire = Command::ExpireNode { node: node.id, at: Some(ends) };
        ask(&mut tailnet, expire, at);
        let soon = (Severity::Warning, "n1".to_owned(), format!("its key ends at {ends}, and its routes go with it"));
        assert_eq!(found(&tailnet, at), [soon, alone]);
        let gone = found(&tailnet, ends);
        until(&mut tailnet, ends);
        let expired = (Severity::Error, P.to_owned(), "nobody carries it: n1 (its key has expired)".to_owned());
        assert_eq!(found(&tailnet, ends), [expired], "{gone:?}");
    }
}
