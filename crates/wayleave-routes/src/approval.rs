//! The life of a row: advertised, approved, refused, withdrawn.
//!
//! | what happens | what it does |
//! |---|---|
//! | a node advertises a new prefix | a row appears; auto-approvers are asked |
//! | it stops | not advertised at once; not enabled either after the grace, unless it was imported or approved in advance |
//! | somebody approves | enabled, also before it is advertised; a person's word clears a person's refusal |
//! | a person disables | not enabled, and no auto-approver brings it back |
//!
//! These are plain functions from a row to the next row. They hold the rules; who asks, and what is committed when, is not
//! theirs.

use wayleave_model::{Approval, Approver, InvalidReason, NodeId, Prefix, Route, RouteId, Timestamp};

/// The row of a prefix that a node advertises for the first time.
pub fn appeared(id: RouteId, node: NodeId, prefix: Prefix, now: Timestamp) -> Route {
    Route { advertised: true, was_advertised: true, ..planned(id, node, prefix, now) }
}

/// The row of a prefix that somebody has a word on before it is advertised.
pub const fn planned(id: RouteId, node: NodeId, prefix: Prefix, now: Timestamp) -> Route {
    Route {
        id,
        node,
        prefix,
        advertised: false,
        enabled: false,
        is_primary: false,
        created_at: now,
        updated_at: now,
        deleted_at: None,
        approval: None,
        priority: 0,
        had_endpoint: false,
        was_advertised: false,
        path_passed: false,
        path_failed_at: None,
    }
}

/// The row once `by` has said yes.
///
/// # Errors
///
/// The prefix can't be a route, with the reason.
pub fn approve(row: &Route, by: Approver, now: Timestamp) -> Result<Route, InvalidReason> {
    if let Some(reason) = row.prefix.invalid() {
        return Err(reason);
    }
    let approval = Approval { by, at: now, refused: false, in_advance: !row.advertised };
    Ok(Route { enabled: true, approval: Some(approval), updated_at: now, ..row.clone() })
}

/// The row once `by` has said no. A person's no is remembered.
pub fn refuse(row: &Route, by: Approver, now: Timestamp) -> Route {
    let approval = Approval { by, at: now, refused: true, in_advance: false };
    Route { enabled: false, is_primary: false, approval: Some(approval), updated_at: now, ..row.clone() }
}

/// The row once the grace after its withdrawal is over; `None` if its approval outlives that.
pub fn disable_withdrawn(row: &Route, now: Timestamp) -> Option<Route> {
    if row.advertised || !row.enabled || outlives_withdrawal(row) {
        return None;
    }
    Some(refuse(row, Approver::Withdrawn, now))
}

/// Whether its approval stays when its node stops advertising it: one that was imported, or given in advance.
pub fn outlives_withdrawal(row: &Route) -> bool {
    row.approval.as_ref().is_some_and(|a| !a.refused && (a.in_advance || a.by == Approver::Import))
}

/// Whether a person disabled it, so that only a person brings it back.
pub fn refused_by_person(row: &Route) -> bool {
    row.approval.as_ref().is_some_and(|a| a.refused && a.by.is_person())
}

/// Whether an import brought it without an approval. It waits for a person, and auto-approvers are asked about it only once another
/// policy is set: a move from another system approves nothing that was not approved there.
pub fn left_by_import(row: &Route) -> bool {
    row.approval.as_ref().is_some_and(|a| a.refused && a.by == Approver::Import)
}

/// The row as if its import had said nothing.
pub fn without_import(row: &Route) -> Route {
    let approval = row.approval.clone().filter(|_| !left_by_import(row));
    Route { approval, ..row.clone() }
}

/// Whether auto-approvers are to be asked about it.
pub fn wants_auto_approval(row: &Route) -> bool {
    let answered = refused_by_person(row) || left_by_import(row);
    row.advertised && !row.enabled && !answered && row.prefix.invalid().is_none()
}

/// The row once its node was deleted: kept, and out of every election.
pub fn deleted(row: &Route, now: Timestamp) -> Route {
    Route { is_primary: false, advertised: false, deleted_at: Some(now), updated_at: now, ..row.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1);

    fn row() -> Route {
        appeared(RouteId::new(1), NodeId::new(1), "10.0.0.0/8".parse().unwrap(), Timestamp::from_millis(0))
    }

    #[test]
    fn a_persons_refusal_is_remembered_and_only_a_person_undoes_it() {
        let refused = refuse(&row(), Approver::Cli, NOW);
        assert!(refused_by_person(&refused) && !wants_auto_approval(&refused));
        let again = approve(&refused, Approver::Cli, NOW).unwrap();
        assert!(again.enabled && !refused_by_person(&again));
    }

    #[test]
    fn a_withdrawn_route_is_disabled_and_may_be_auto_approved_again() {
        let enabled = approve(&row(), Approver::Cli, NOW).unwrap();
        let withdrawn = Route { advertised: false, ..enabled };
        let disabled = disable_withdrawn(&withdrawn, NOW).unwrap();
        assert!(!disabled.enabled);
        assert!(wants_auto_approval(&Route { advertised: true, ..disabled }));
    }

    #[test]
    fn an_approval_that_was_imported_or_given_in_advance_outlives_a_withdrawal() {
        let early = approve(&Route { advertised: false, ..row() }, Approver::Cli, NOW).unwrap();
        let imported = approve(&row(), Approver::Import, NOW).unwrap();
        for row in [early, imported] {
            assert_eq!(disable_withdrawn(&Route { advertised: false, ..row }, NOW), None);
        }
    }

    #[test]
    fn what_an_import_left_unapproved_waits_and_is_asked_about_once_its_word_is_passed_over() {
        let left = refuse(&row(), Approver::Import, NOW);
        assert!(left_by_import(&left) && !refused_by_person(&left) && !wants_auto_approval(&left));
        assert!(wants_auto_approval(&without_import(&left)));
        let refused = refuse(&row(), Approver::Cli, NOW);
        assert_eq!(without_import(&refused), refused, "a person's word is not passed over");
        let approved = approve(&left, Approver::Cli, NOW).unwrap();
        assert!(approved.enabled && !left_by_import(&approved));
    }

    #[test]
    fn an_invalid_prefix_is_never_enabled() {
        let row = Route { prefix: "100.64.0.0/10".parse().unwrap(), ..row() };
        assert_eq!(approve(&row, Approver::Cli, NOW), Err(InvalidReason::Tailnet));
        assert!(!wants_auto_approval(&row));
    }
}
