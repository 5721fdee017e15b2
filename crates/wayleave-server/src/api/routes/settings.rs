//! What is set for prefixes.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wayleave_model::{Change, Prefix, PrefixChange, PrefixOverrides, PrefixSettings, Spread, Timestamp};
use wayleave_tailnet::{Command, Tailnet};

use super::super::error::{ApiError, Body, ErrorBody};
use super::super::{ApiState, Caller};

/// What is set for one prefix, or for all that say nothing of their own, and what follows.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SettingsBody {
    /// Absent: the default.
    prefix: Option<String>,
    /// The prefix as people read it.
    shown: Option<String>,
    /// What holds: `keep` or `fall_back`.
    when_down: &'static str,
    /// What holds: `disable` or `keep`.
    on_withdraw: &'static str,
    /// What holds: `single`, `region` or `balance`.
    spread: &'static str,
    /// What holds: a duration, or `never`.
    failback_after: String,
    /// Which of these were set here, and do not come from the default or the configuration.
    set_here: Vec<&'static str>,
    /// Where each of these comes from.
    from: FromBody,
    /// It stays where it is until then.
    frozen_until: Option<String>,
    /// Who froze it.
    frozen_by: Option<String>,
    /// What has to be known of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// Where what holds comes from, the strongest first: `set` (a person set it here), `configuration` (for this prefix; for the default: for
/// all), `default` (a person set it for all), `configured default`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FromBody {
    when_down: &'static str,
    on_withdraw: &'static str,
    spread: &'static str,
    failback_after: &'static str,
}

fn from(tailnet: &Tailnet, prefix: Option<&Prefix>) -> FromBody {
    let table = tailnet.routes();
    let source = |says: fn(&PrefixOverrides) -> bool| {
        let set = |of: Option<&PrefixOverrides>| of.is_some_and(says);
        match prefix {
            _ if set(table.overrides(prefix)) => "set",
            None => "configuration",
            Some(prefix) if set(table.configured(prefix)) => "configuration",
            Some(_) if set(table.overrides(None)) => "default",
            Some(_) => "configured default",
        }
    };
    FromBody {
        when_down: source(|own| own.when_down.is_some()),
        on_withdraw: source(|own| own.on_withdraw.is_some()),
        spread: source(|own| own.spread.is_some()),
        failback_after: source(|own| own.failback.is_some()),
    }
}

fn body(tailnet: &Tailnet, prefix: Option<&Prefix>, now: Timestamp) -> SettingsBody {
    let table = tailnet.routes();
    let PrefixSettings { when_down, on_withdraw, spread, failback } = match prefix {
        Some(prefix) => table.prefix_settings(prefix),
        None => table.default_settings(),
    };
    let frozen = table.overrides(prefix).and_then(|own| own.frozen.as_ref()).filter(|freeze| freeze.until > now);
    let from = from(tailnet, prefix);
    let set = [
        ("when_down", from.when_down),
        ("on_withdraw", from.on_withdraw),
        ("spread", from.spread),
        ("failback_after", from.failback_after),
    ];
    SettingsBody {
        prefix: prefix.map(Prefix::to_string),
        shown: prefix.map(|prefix| tailnet.sites().show(prefix)),
        when_down: when_down.word(),
        on_withdraw: on_withdraw.word(),
        spread: spread.word(),
        failback_after: failback.to_string(),
        set_here: set.into_iter().filter(|(_, from)| *from == "set").map(|(name, _)| name).collect(),
        from,
        frozen_until: frozen.map(|freeze| freeze.until.to_string()),
        frozen_by: frozen.map(|freeze| freeze.by.to_string()),
        notes: Vec::new(),
    }
}

/// What is set: the default first, then each prefix of which a person or the configuration says something.
#[utoipa::path(get, path = "/api/v2/routes/settings", tag = "routes", responses((status = 200, body = Vec<SettingsBody>)))]
pub(super) async fn list_settings(State(state): State<ApiState>) -> Result<Json<Vec<SettingsBody>>, ApiError> {
    let control = &state.app.control;
    let now = control.clock().now();
    let all = control.read(move |tailnet| {
        let table = tailnet.routes();
        // A freeze that has ended is nothing that is set.
        let holds = |own: &PrefixOverrides| {
            let frozen = own.frozen.clone().filter(|freeze| freeze.until > now);
            !PrefixOverrides { frozen, ..own.clone() }.is_empty()
        };
        let own = table.all_overrides().filter(|(_, own)| holds(own)).filter_map(|(prefix, _)| prefix);
        let own: BTreeSet<&Prefix> = own.chain(table.all_configured()).collect();
        std::iter::once(None).chain(own.into_iter().map(Some)).map(|prefix| body(tailnet, prefix, now)).collect()
    });
    Ok(Json(all.await?))
}

/// What to set. A setting that is not named stays; `default` takes it back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Set {
    /// Absent: the default, for all prefixes that say nothing of their own.
    prefix: Option<String>,
    /// `keep`, `fall_back` or `default`.
    when_down: Option<String>,
    /// `disable`, `keep` or `default`.
    on_withdraw: Option<String>,
    /// `single`, `region`, `balance` or `default`.
    spread: Option<String>,
    /// A duration such as `60s`, `never` or `default`.
    failback_after: Option<String>,
}

fn change<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: Option<String>,
) -> Result<Change<T>, ApiError> {
    match text.as_deref() {
        None => Ok(Change::Leave),
        Some("default") => Ok(Change::Reset),
        Some(text) => match text.parse() {
            Ok(value) => Ok(Change::Set(value)),
            Err(error) => Err(ApiError::bad(format!("{name}: {error}, or `default`"))),
        },
    }
}

/// What a server can't see, and a person has to know when a prefix is spread.
const SPREAD_NOTE: &str = "several routers of a prefix carry traffic at once now: each has to masquerade, or answers go astray; \
                           the server can't see whether they do (clients do by default: --snat-subnet-routes)";

/// Sets what holds for a prefix, or for all.
#[utoipa::path(post, path = "/api/v2/routes/settings", tag = "routes", request_body = Set,
    responses((status = 200, body = SettingsBody), (status = 400, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn set(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(ask): Body<Set>,
) -> Result<Json<SettingsBody>, ApiError> {
    let Set { prefix: of, when_down, on_withdraw, spread, failback_after } = ask;
    let of = of.as_deref().map(|text| state.prefix(text)).transpose()?;
    let change = PrefixChange {
        when_down: change("when_down", when_down)?,
        on_withdraw: change("on_withdraw", on_withdraw)?,
        spread: change("spread", spread)?,
        failback: change("failback_after", failback_after)?,
    };
    if change == PrefixChange::default() {
        return Err(ApiError::bad("say what: `when_down`, `on_withdraw`, `spread` or `failback_after`"));
    }
    let control = &state.app.control;
    control.command(Command::SetPrefix { prefix: of, change, by: caller.0 }).await?;
    let now = control.clock().now();
    let mut body = control.read(move |tailnet| body(tailnet, of.as_ref(), now)).await?;
    if matches!(change.spread, Change::Set(Spread::Region | Spread::Balance)) {
        tracing::warn!(route.prefix = body.prefix, spread = body.spread, "{SPREAD_NOTE}");
        body.notes.push(SPREAD_NOTE.to_owned());
    }
    Ok(Json(body))
}
