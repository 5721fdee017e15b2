//! What people say of prefixes and of routers in service: settings, freezes, priorities, moves, drains.

use std::time::Duration;

use wayleave_model::{Approver, Freeze, Node, NodeId, Prefix, PrefixChange, PrefixOverrides, PrefixRow, Route, Spread};
use wayleave_routes::Rank;

use crate::command::{Outcome, Refusal};
use crate::history::HistoryEvent;
use crate::plan::{Draft, Plan, Write};
use crate::tailnet::Tailnet;

/// The longest freeze: whoever wants more than a year does not want a freeze.
const LONGEST_FREEZE: Duration = Duration::from_secs(366 * 86_400);

impl Tailnet {
    pub(crate) fn plan_set_prefix(
        &self,
        mut draft: Draft,
        prefix: Option<Prefix>,
        change: &PrefixChange,
        by: &Approver,
    ) -> Result<Plan, Refusal> {
        no_exit(prefix)?;
        // What was set can always be taken back.
        if !change.of(&PrefixOverrides::default()).is_empty() {
            prefix.map_or(Ok(()), no_route)?;
        }
        let before = self.routes.overrides(prefix.as_ref()).cloned().unwrap_or_default();
        let overrides = change.of(&before);
        if overrides != before {
            draft.write(Write::Prefix(PrefixRow { prefix, overrides }));
            draft.history(prefix, None, HistoryEvent::Set(change.words(), by.clone()));
        }
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_freeze(
        &self,
        mut draft: Draft,
        prefix: Option<Prefix>,
        lifetime: Duration,
        by: Approver,
    ) -> Result<Plan, Refusal> {
        no_exit(prefix)?;
        prefix.map_or(Ok(()), no_route)?;
        if lifetime < Duration::from_secs(1) || lifetime > LONGEST_FREEZE {
            return Err(Refusal::FreezeLength);
        }
        let until = draft.now + lifetime;
        let before = self.routes.overrides(prefix.as_ref()).cloned().unwrap_or_default();
        let frozen = Some(Freeze { until, by: by.clone() });
        draft.write(Write::Prefix(PrefixRow { prefix, overrides: PrefixOverrides { frozen, ..before } }));
        draft.history(prefix, None, HistoryEvent::Frozen(until, by));
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_unfreeze(
        &self,
        mut draft: Draft,
        prefix: Option<Prefix>,
        by: &Approver,
    ) -> Result<Plan, Refusal> {
        no_exit(prefix)?;
        if prefix.is_some()
            && let Some(all) = self.routes.overrides(None).and_then(|all| all.frozen.as_ref())
            && all.until > draft.now
        {
            return Err(Refusal::AllFrozen { until: all.until });
        }
        let now = draft.now;
        let meant = |of: Option<&Prefix>| prefix.is_none() || of == prefix.as_ref();
        let holds = |own: &PrefixOverrides| own.frozen.as_ref().is_some_and(|freeze| freeze.until > now);
        let frozen: Vec<_> = self.routes.all_overrides().filter(|(of, own)| meant(*of) && holds(own)).collect();
        if frozen.is_empty() {
            return Err(prefix.map_or(Refusal::NothingFrozen, Refusal::NotFrozen));
        }
        for (of, overrides) in frozen {
            let thawed = PrefixOverrides { frozen: None, ..overrides.clone() };
            draft.write(Write::Prefix(PrefixRow { prefix: of.copied(), overrides: thawed }));
            draft.history(of.copied(), None, HistoryEvent::Unfrozen(by.clone()));
        }
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_prefer(
        &self,
        mut draft: Draft,
        node: NodeId,
        prefix: Prefix,
        priority: i32,
        by: Approver,
    ) -> Result<Plan, Refusal> {
        no_exit(Some(prefix))?;
        no_route(prefix)?;
        let row = self.existing_route(node, prefix)?;
        let id = row.id;
        if row.priority != priority {
            let next = Route { priority, updated_at: draft.now, ..row.clone() };
            draft.route(next, Some(HistoryEvent::Set(format!("priority = {priority}"), by)));
        }
        Ok(draft.done(Outcome::Routes(vec![id])))
    }

    pub(crate) fn plan_move(
        &self,
        mut draft: Draft,
        prefix: Prefix,
        to: NodeId,
        by: Approver,
    ) -> Result<Plan, Refusal> {
        no_exit(Some(prefix))?;
        let row = self.existing_route(to, prefix)?;
        let not = |why: String| Refusal::NotMovable { prefix: self.sites.show(&prefix), node: self.name_of(to), why };
        if self.routes.prefix_settings(&prefix).spread == Spread::Balance {
            return Err(not(self.why_not_one(&prefix)));
        }
        if let Some(why) = self.routes.why_none(to, &prefix) {
            return Err(not(why.words(draft.now)));
        }
        match self.routes.rank_for(to, &prefix) {
            Some(Rank::Steady | Rank::Flapping) => {}
            // It would be taken back at once.
            Some(rank) => return Err(not(format!("it is {rank}"))),
            None => return Err(not("it is not known".to_owned())),
        }
        // What moves tells so itself. One that has the prefix already is held there from here on, which nothing else would tell.
        if self.routes.seat(&prefix).is_some_and(|seat| seat.node == to && seat.moved_by.as_ref() != Some(&by)) {
            draft.history(Some(prefix), Some(to), HistoryEvent::Held(by.clone()));
        }
        draft.write(Write::Moved { prefix, to, by, at: draft.now });
        Ok(draft.done(Outcome::Routes(vec![row.id])))
    }

    /// Why a prefix that is shared has no router to be moved to.
    fn why_not_one(&self, prefix: &Prefix) -> String {
        let routers: Vec<String> = self.routes.carriers(prefix).into_iter().map(|node| self.name_of(node)).collect();
        let over = if routers.is_empty() { "its routers".to_owned() } else { routers.join(", ") };
        format!(
            "clients are spread over {over} (`spread` is `balance`); `wayleave routes drain --node N` takes one of them out, and `wayleave routes set \"{}\" --spread single` has all use one",
            self.sites.show(prefix)
        )
    }

    pub(crate) fn plan_drain(&self, mut draft: Draft, id: NodeId, by: Approver) -> Result<Plan, Refusal> {
        let node = self.existing(id)?;
        if !node.drained {
            draft.node(Node { drained: true, ..node.clone() });
            draft.history(None, Some(id), HistoryEvent::Drained(by));
        }
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_undrain(&self, mut draft: Draft, id: NodeId, by: Approver) -> Result<Plan, Refusal> {
        let node = self.existing(id)?;
        if node.drained {
            draft.node(Node { drained: false, ..node.clone() });
            draft.history(None, Some(id), HistoryEvent::Undrained(by));
        }
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn existing_route(&self, node: NodeId, prefix: Prefix) -> Result<&Route, Refusal> {
        self.existing(node)?;
        let row = self.routes.row_of(node, &prefix);
        row.ok_or_else(|| self.no_route(node, &prefix))
    }
}

fn no_exit(prefix: Option<Prefix>) -> Result<(), Refusal> {
    match prefix {
        Some(prefix) if prefix.is_exit() => Err(Refusal::Exit(prefix)),
        Some(_) | None => Ok(()),
    }
}

/// Refuses what can never be a route, as approving it does.
pub(crate) fn no_route(prefix: Prefix) -> Result<(), Refusal> {
    prefix.invalid().map_or(Ok(()), |reason| Err(Refusal::NeverRoute { prefix, reason }))
}
