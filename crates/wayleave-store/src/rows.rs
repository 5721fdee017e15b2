//! Rows to values and back; the only file that knows the columns.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use wayleave_model::{
    Addresses, ApiKey, ApiKeyId, Approval, Approver, AuthKey, AuthKeyId, Failback, FlapRow, Freeze, KeyHash, Node,
    NodeId, Owner, PathCheck, Prefix, PrefixOverrides, PrefixRow, RegisterMethod, Route, RouteId, SeatHolder, SeatRow,
    Timestamp, User, UserId,
};

use wayleave_tailnet::{Group, Imported, PolicyRow, Site, SiteHost, group_in};

use crate::error::StoreError;
use crate::json::{EndpointJson, HostinfoJson, VantageJson};
use crate::sqlite::{QueuedCall, Webhook};

/// A stored line of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// Grows with time.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// Of which prefix.
    pub prefix: Option<Prefix>,
    /// Of which node.
    pub node: Option<NodeId>,
    /// What: the word of `HistoryEvent`.
    pub event: String,
    /// Who had the prefix, where it moved.
    pub from: Option<NodeId>,
    /// Who has it now, where it moved.
    pub to: Option<NodeId>,
    /// Who or what caused it.
    pub cause: String,
    /// What stood against the router that it is about, in words.
    pub evidence: String,
}

/// One row of one table, read with errors that name both.
struct Columns<'a> {
    table: &'static str,
    id: i64,
    row: &'a SqliteRow,
}

impl<'a> Columns<'a> {
    fn new(table: &'static str, row: &'a SqliteRow) -> Result<Self, StoreError> {
        let mut columns = Self { table, id: 0, row };
        columns.id = columns.int("id")?;
        Ok(columns)
    }

    fn invalid(&self, column: &'static str, detail: impl Display) -> StoreError {
        StoreError::Value { table: self.table, row: self.id, column, detail: detail.to_string() }
    }

    fn value<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: for<'d> sqlx::Decode<'d, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.row.try_get(column).map_err(|error| self.invalid(column, error))
    }

    fn int(&self, column: &'static str) -> Result<i64, StoreError> {
        self.value(column)
    }

    fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, StoreError> {
        let number = self.int(column)?;
        T::try_from(number).map_err(|_| self.invalid(column, format!("{number} is out of range")))
    }

    fn optional_number(&self, column: &'static str) -> Result<Option<u64>, StoreError> {
        let number: Option<i64> = self.value(column)?;
        number.map(|n| u64::try_from(n).map_err(|_| self.invalid(column, format!("{n} is out of range")))).transpose()
    }

    fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        Ok(self.int(column)? != 0)
    }

    fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        self.int(column).map(Timestamp::from_millis)
    }

    fn optional_time(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        let time: Option<i64> = self.value(column)?;
        Ok(time.map(Timestamp::from_millis))
    }

    fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.value(column)
    }

    fn parsed<T: FromStr<Err: Display>>(&self, column: &'static str) -> Result<T, StoreError> {
        self.text(column)?.parse().map_err(|error| self.invalid(column, error))
    }

    fn optional_parsed<T: FromStr<Err: Display>>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        let text: Option<String> = self.value(column)?;
        text.map(|text| text.parse().map_err(|error| self.invalid(column, error))).transpose()
    }

    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|error| self.invalid(column, error))
    }

    /// The columns `hash`, `hash_kind` and `prefix` of a key.
    fn key_hash(&self) -> Result<KeyHash, StoreError> {
        let bytes: Vec<u8> = self.value("hash")?;
        match self.text("hash_kind")?.as_str() {
            "sha256" => <[u8; 32]>::try_from(bytes)
                .map(KeyHash::Sha256)
                .map_err(|bytes| self.invalid("hash", format!("{} bytes instead of 32", bytes.len()))),
            "bcrypt" => {
                let hash = String::from_utf8(bytes).map_err(|_| self.invalid("hash", "is no text"))?;
                Ok(KeyHash::Bcrypt { prefix: self.text("prefix")?, hash })
            }
            "unknown" => Ok(KeyHash::Unknown),
            other => Err(self.invalid("hash_kind", format!("`{other}`"))),
        }
    }
}

pub(crate) fn user_from_row(row: &SqliteRow) -> Result<User, StoreError> {
    let c = Columns::new("users", row)?;
    Ok(User {
        id: UserId::new(c.number("id")?),
        name: c.text("name")?,
        display_name: c.text("display_name")?,
        email: c.value("email")?,
        identity: c.value("identity")?,
        picture: c.text("picture")?,
        role: c.parsed("role")?,
        created_at: c.time("created_at")?,
    })
}

pub(crate) fn import_from_row(row: &SqliteRow) -> Result<Imported, StoreError> {
    let c = Columns::new("imports", row)?;
    Ok(Imported { at: c.time("at")?, source: c.text("source")? })
}

pub(crate) fn site_from_row(row: &SqliteRow) -> Result<Site, StoreError> {
    let c = Columns::new("sites", row)?;
    Ok(Site { id: c.number("id")?, name: c.parsed("name")?, created_at: c.time("created_at")? })
}

pub(crate) fn site_host_from_row(row: &SqliteRow) -> Result<SiteHost, StoreError> {
    let c = Columns::new("site_hosts", row)?;
    Ok(SiteHost {
        site: c.number("site")?,
        name: c.parsed("name")?,
        address: c.parsed("address")?,
        created_at: c.time("created_at")?,
    })
}

pub(crate) fn policy_from_row(row: &SqliteRow) -> Result<PolicyRow, StoreError> {
    let c = Columns::new("policies", row)?;
    Ok(PolicyRow {
        revision: c.number("revision")?,
        text: c.text("text")?.into(),
        set_at: c.time("set_at")?,
        set_by: c.text("set_by")?,
    })
}

pub(crate) fn node_from_row(row: &SqliteRow) -> Result<Node, StoreError> {
    let c = Columns::new("nodes", row)?;
    let user = c.optional_number("user_id")?.map(UserId::new);
    let owner = match (c.text("owner")?.as_str(), user) {
        ("user", Some(user)) => Owner::User(user),
        ("tags", created_by) => Owner::Tags { tags: c.json("tags")?, created_by },
        ("nobody", _) => Owner::Nobody,
        (other, _) => return Err(c.invalid("owner", format!("`{other}`"))),
    };
    let register_method = match c.text("register_method")?.as_str() {
        "auth_key" => RegisterMethod::AuthKey,
        "interactive" => RegisterMethod::Interactive,
        "oidc" => RegisterMethod::Oidc,
        "import" => RegisterMethod::Import,
        other => return Err(c.invalid("register_method", format!("`{other}`"))),
    };
    let hostinfo: HostinfoJson = c.json("hostinfo")?;
    let endpoints: Vec<EndpointJson> = c.json("endpoints")?;
    Ok(Node {
        id: NodeId::new(c.number("id")?),
        machine_key: c.optional_parsed("machine_key")?,
        node_key: c.parsed("node_key")?,
        disco_key: c.optional_parsed("disco_key")?,
        owner,
        given_name: c.parsed("given_name")?,
        renamed: c.flag("renamed")?,
        addresses: Addresses { v4: c.optional_parsed("ipv4")?, v6: c.optional_parsed("ipv6")? },
        register_method,
        auth_key: c.optional_number("auth_key_id")?.map(AuthKeyId::new),
        ephemeral: c.flag("ephemeral")?,
        expires_at: c.optional_time("expires_at")?,
        created_at: c.time("created_at")?,
        last_seen: c.optional_time("last_seen")?,
        drained: c.flag("drained")?,
        capability: c.number("capability")?,
        hostinfo: hostinfo.into_model(),
        endpoints: endpoints.into_iter().map(EndpointJson::into_model).collect(),
        home_derp: c.number("home_derp")?,
        vantage: c.json::<VantageJson>("vantage")?.into_model(),
    })
}

pub(crate) fn route_from_row(row: &SqliteRow) -> Result<Route, StoreError> {
    let c = Columns::new("routes", row)?;
    let approval = match (c.optional_parsed::<Approver>("approval_by")?, c.optional_time("approval_at")?) {
        (Some(by), Some(at)) => {
            Some(Approval { by, at, refused: c.flag("refused")?, in_advance: c.flag("in_advance")? })
        }
        (None, _) => None,
        (Some(_), None) => return Err(c.invalid("approval_at", "missing")),
    };
    Ok(Route {
        id: RouteId::new(c.number("id")?),
        node: NodeId::new(c.number("node_id")?),
        prefix: c.parsed("prefix")?,
        advertised: c.flag("advertised")?,
        enabled: c.flag("enabled")?,
        is_primary: c.flag("is_primary")?,
        created_at: c.time("created_at")?,
        updated_at: c.time("updated_at")?,
        deleted_at: c.optional_time("deleted_at")?,
        approval,
        priority: c.number("priority")?,
        had_endpoint: c.flag("had_endpoint")?,
        was_advertised: c.flag("was_advertised")?,
        path_passed: c.flag("path_ok")?,
        path_failed_at: c.optional_time("path_failed_at")?,
    })
}

pub(crate) fn prefix_from_row(row: &SqliteRow) -> Result<PrefixRow, StoreError> {
    let c = Columns::new("prefixes", row)?;
    let prefix = c.text("prefix")?;
    let failback: Option<i64> = c.value("failback_after")?;
    let failback = failback.map(|millis| {
        u64::try_from(millis).map_or(Failback::Never, |millis| Failback::After(Duration::from_millis(millis)))
    });
    let frozen = match (c.optional_time("frozen_until")?, c.optional_parsed("frozen_by")?) {
        (Some(until), Some(by)) => Some(Freeze { until, by }),
        (None, _) => None,
        (Some(_), None) => return Err(c.invalid("frozen_by", "missing")),
    };
    Ok(PrefixRow {
        prefix: if prefix.is_empty() { None } else { Some(c.parsed("prefix")?) },
        overrides: PrefixOverrides {
            when_down: c.optional_parsed("when_down")?,
            on_withdraw: c.optional_parsed("on_withdraw")?,
            spread: c.optional_parsed("spread")?,
            failback,
            frozen,
        },
    })
}

pub(crate) fn flaps_from_row(row: &SqliteRow) -> Result<FlapRow, StoreError> {
    let c = Columns::new("flaps", row)?;
    let times = |column| {
        let times: Vec<i64> = c.json(column)?;
        Ok::<_, StoreError>(times.into_iter().map(Timestamp::from_millis).collect())
    };
    Ok(FlapRow {
        node: NodeId::new(c.number("id")?),
        downs: times("downs")?,
        losses: times("losses")?,
        until: c.optional_time("until")?,
    })
}

pub(crate) fn seat_from_row(row: &SqliteRow) -> Result<SeatRow, StoreError> {
    let c = Columns::new("seats", row)?;
    Ok(SeatRow {
        prefix: c.parsed("prefix")?,
        group: c.json("tags")?,
        holder: SeatHolder {
            node: NodeId::new(c.number("node_id")?),
            since: c.time("since")?,
            moved_by: c.optional_parsed("moved_by")?,
            fallen_back: c.flag("fallen_back")?,
            carriers: c.json("carriers")?,
        },
    })
}

/// What a line of history told to be down.
pub(crate) fn gone_from_row(row: &SqliteRow) -> Result<(NodeId, String), StoreError> {
    let c = Columns::new("gone_nodes", row)?;
    Ok((NodeId::new(c.number("id")?), c.text("name")?))
}

pub(crate) fn down_from_row(row: &SqliteRow) -> Result<(Prefix, Option<Group>), StoreError> {
    let c = Columns::new("history", row)?;
    Ok((c.parsed("prefix")?, group_in(&c.text("cause")?)))
}

pub(crate) fn path_check_from_row(row: &SqliteRow) -> Result<PathCheck, StoreError> {
    let c = Columns::new("path_checks", row)?;
    Ok(PathCheck {
        prefix: c.parsed("prefix")?,
        target: c.parsed("target")?,
        every: Duration::from_millis(c.number("every_millis")?),
        witness: c.optional_parsed("witness")?,
        standby: c.flag("standby")?,
        set_at: c.time("set_at")?,
        set_by: c.parsed("set_by")?,
    })
}

pub(crate) fn auth_key_from_row(row: &SqliteRow) -> Result<AuthKey, StoreError> {
    let c = Columns::new("auth_keys", row)?;
    Ok(AuthKey {
        id: AuthKeyId::new(c.number("id")?),
        user: c.optional_number("user_id")?.map(UserId::new),
        hint: c.text("hint")?,
        hash: c.key_hash()?,
        reusable: c.flag("reusable")?,
        ephemeral: c.flag("ephemeral")?,
        tags: c.json("tags")?,
        description: c.text("description")?,
        created_at: c.time("created_at")?,
        expires_at: c.optional_time("expires_at")?,
        used_at: c.optional_time("used_at")?,
        revoked_at: c.optional_time("revoked_at")?,
    })
}

pub(crate) fn api_key_from_row(row: &SqliteRow) -> Result<ApiKey, StoreError> {
    let c = Columns::new("api_keys", row)?;
    Ok(ApiKey {
        id: ApiKeyId::new(c.number("id")?),
        name: c.text("name")?,
        hash: c.key_hash()?,
        user: c.optional_number("user_id")?.map(UserId::new),
        description: c.text("description")?,
        created_at: c.time("created_at")?,
        expires_at: c.optional_time("expires_at")?,
        last_used_at: c.optional_time("last_used_at")?,
    })
}

pub(crate) fn webhook_from_row(row: &SqliteRow) -> Result<Webhook, StoreError> {
    let c = Columns::new("webhooks", row)?;
    Ok(Webhook {
        id: c.number("id")?,
        url: c.text("url")?,
        secret: c.text("secret")?,
        events: c.json("events")?,
        created_at: c.time("created_at")?,
    })
}

pub(crate) fn call_from_row(row: &SqliteRow) -> Result<QueuedCall, StoreError> {
    let c = Columns::new("webhook_queue", row)?;
    Ok(QueuedCall {
        id: c.number("id")?,
        webhook: c.number("webhook")?,
        at: c.time("at")?,
        prefix: c.optional_parsed("prefix")?,
        node: c.optional_number("node_id")?.map(NodeId::new),
        event: c.text("event")?,
        from: c.optional_number("from_node")?.map(NodeId::new),
        to: c.optional_number("to_node")?.map(NodeId::new),
        cause: c.text("cause")?,
        evidence: c.text("evidence")?,
        attempts: c.number("attempts")?,
    })
}

pub(crate) fn history_from_row(row: &SqliteRow) -> Result<HistoryRow, StoreError> {
    let c = Columns::new("history", row)?;
    Ok(HistoryRow {
        id: c.number("id")?,
        at: c.time("at")?,
        prefix: c.optional_parsed("prefix")?,
        node: c.optional_number("node_id")?.map(NodeId::new),
        event: c.text("event")?,
        from: c.optional_number("from_node")?.map(NodeId::new),
        to: c.optional_number("to_node")?.map(NodeId::new),
        cause: c.text("cause")?,
        evidence: c.text("evidence")?,
    })
}
