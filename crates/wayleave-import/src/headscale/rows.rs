//! Reads the tables that all generations have in common, column by name.

use std::collections::BTreeMap;

use serde_json::Value;
use wayleave_model::{DiscoKey, MachineKey, NodeKey};
use zeroize::Zeroizing;

use super::generation::Generation;
use super::installation::{ApiKey, AuthKey, Highest, Host, Installation, LeftOut, Node, Policy, Route, Secret, User};
use crate::report::{Code, Warning};
use crate::source::cell::Cell;
use crate::source::{Row, Source, SourceError};

/// Which columns of a node hold what; of several the first that exists.
pub(super) struct NodeColumns {
    pub(super) owner: &'static [&'static str],
    pub(super) hostname: &'static [&'static str],
    pub(super) tags: &'static [&'static str],
    /// Where the addresses are in one column; `ipv4` and `ipv6` come before it.
    pub(super) addresses: &'static [&'static str],
    /// The list of approved prefixes, where the node has one.
    pub(super) enabled: Option<&'static str>,
}

/// Reads all of a database. `route_owner` is the column by which a row of routes names its node, where there is such a table.
pub(super) async fn installation(
    source: &mut Source,
    generation: Generation,
    columns: &NodeColumns,
    route_owner: Option<&str>,
) -> Result<Installation, SourceError> {
    let mut reader = Reader::default();
    let users = source.table(generation.user_table).await?;
    let users: Vec<User> = users.rows().map(|row| reader.user(row)).collect();
    let auth_keys = auth_keys(source, &mut reader).await?;
    let api_keys = source.table("api_keys").await?;
    let api_keys: Vec<ApiKey> = api_keys.rows().filter_map(|row| reader.api_key(row)).collect();
    let nodes = source.table(generation.node_table).await?;
    let nodes: Vec<Node> = nodes.rows().map(|row| reader.node(row, columns)).collect();
    let routes = match route_owner {
        None => None,
        Some(owner) => {
            let table = source.table("routes").await?;
            Some(table.rows().map(|row| reader.route(row, owner)).collect::<Vec<Route>>())
        }
    };
    let policies = source.table("policies").await?;
    let policies = policies.rows().filter(|row| !reader.is_set(*row, "deleted_at")).collect::<Vec<_>>();
    let policies = policies.into_iter().map(|row| Policy {
        id: row.id(),
        text: row.cell("data").text_or_empty(),
        created_at: row.cell("created_at").time().unwrap_or(None),
    });
    let policies = policies.collect();
    let left_out = left_out(source, &mut reader).await?;
    let highest = Highest {
        node: highest(source, generation.node_table, nodes.iter().map(|node| node.id)).await?,
        user: highest(source, generation.user_table, users.iter().map(|user| user.id)).await?,
        route: match &routes {
            Some(routes) => highest(source, "routes", routes.iter().map(|route| route.id)).await?,
            None => 0,
        },
        auth_key: highest(source, "pre_auth_keys", auth_keys.iter().map(|key| key.id)).await?,
        api_key: highest(source, "api_keys", api_keys.iter().map(|key| key.id)).await?,
    };
    let warnings = reader.warnings;
    Ok(Installation { generation, users, auth_keys, api_keys, nodes, routes, policies, left_out, highest, warnings })
}

async fn highest(source: &mut Source, table: &str, ids: impl Iterator<Item = u64>) -> Result<u64, SourceError> {
    Ok(ids.max().unwrap_or(0).max(source.counter(table).await?))
}

/// Pre-auth keys; their tags are in the row, or in a table of their own, or in both.
async fn auth_keys(source: &mut Source, reader: &mut Reader) -> Result<Vec<AuthKey>, SourceError> {
    let mut tags: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for row in source.table("pre_auth_key_acl_tags").await?.rows() {
        if let (Some(key), Some(tag)) = (row.cell("pre_auth_key_id").reference(), row.cell("tag").filled()) {
            tags.entry(key).or_default().push(tag);
        }
    }
    let keys = source.table("pre_auth_keys").await?;
    Ok(keys.rows().filter_map(|row| reader.auth_key(row, tags.remove(&row.id()).unwrap_or_default())).collect())
}

async fn left_out(source: &mut Source, reader: &mut Reader) -> Result<LeftOut, SourceError> {
    let mut left_out = LeftOut::default();
    for row in source.table("shared_machines").await?.rows().filter(|row| !reader.is_set(*row, "deleted_at")) {
        let machine = row.cell("machine_id").number().unwrap_or(0);
        left_out.shared_machines.push((machine, row.first(&["user_id", "namespace_id"]).reference()));
    }
    left_out.oauth_clients = source.table("oauth_clients").await?.rows().map(|row| row.id()).collect();
    left_out.oauth_access_tokens = source.table("oauth_access_tokens").await?.rows().map(|row| row.id()).collect();
    Ok(left_out)
}

/// Reads values, and keeps what could not be read.
#[derive(Default)]
struct Reader {
    warnings: Vec<Warning>,
}

impl Reader {
    fn warn(&mut self, code: Code, row: Row<'_>, column: &str) {
        self.warnings.push(Warning::row(code, row.table(), row.id()).old(column));
    }

    fn time(&mut self, row: Row<'_>, column: &str) -> Option<jiff::Timestamp> {
        row.cell(column).time().unwrap_or_else(|_| {
            self.warn(Code::TimeInvalid, row, column);
            None
        })
    }

    fn is_set(&mut self, row: Row<'_>, column: &str) -> bool {
        self.time(row, column).is_some()
    }

    fn flag(&mut self, row: Row<'_>, column: &str) -> bool {
        row.cell(column).flag().unwrap_or_else(|_| {
            self.warn(Code::FlagInvalid, row, column);
            false
        })
    }

    /// A list of texts in JSON, which may be stored as bytes. NULL, nothing, `null` and `{}` are empty lists.
    fn list(&mut self, row: Row<'_>, columns: &[&str]) -> Vec<String> {
        let cell = row.first(columns);
        let texts = |value: Value| match value {
            Value::Null => Some(Vec::new()),
            Value::Object(fields) if fields.is_empty() => Some(Vec::new()),
            // A prefix that was invalid there is an empty text; whoever asks has a word for it.
            Value::Array(items) => Some(
                items.into_iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect(),
            ),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => None,
        };
        let read = match cell.filled() {
            None if matches!(cell, Cell::Bytes(bytes) if !bytes.is_empty()) => None,
            None => Some(Vec::new()),
            Some(text) => serde_json::from_str(&text).ok().and_then(texts),
        };
        read.unwrap_or_else(|| {
            self.warn(Code::ListInvalid, row, columns.first().copied().unwrap_or_default());
            Vec::new()
        })
    }

    fn tags(&mut self, row: Row<'_>, columns: &[&str]) -> Vec<String> {
        sorted(self.list(row, columns))
    }

    /// A key with or without the prefix of its kind. All zeros, nothing, and a prefix with nothing behind it are unset.
    fn key<K>(&mut self, row: Row<'_>, column: &str, prefix: &str, parse: impl Fn(&str) -> Option<K>) -> Option<K> {
        let text = row.cell(column).filled()?.trim().to_lowercase();
        let digits = text.strip_prefix(prefix).unwrap_or(&text);
        if digits.bytes().all(|digit| digit == b'0') && (digits.is_empty() || digits.len() == 64) {
            return None;
        }
        let key = parse(&format!("{prefix}{digits}"));
        if key.is_none() {
            self.warn(Code::KeyInvalid, row, column);
        }
        key
    }

    fn user(&mut self, row: Row<'_>) -> User {
        User {
            id: row.id(),
            name: row.cell("name").text_or_empty(),
            display_name: row.cell("display_name").text_or_empty(),
            email: row.cell("email").text_or_empty(),
            provider_identifier: row.cell("provider_identifier").filled().and_then(|text| clean_identifier(&text)),
            provider: row.cell("provider").text_or_empty(),
            profile_pic_url: row.cell("profile_pic_url").text_or_empty(),
            created_at: self.time(row, "created_at"),
            deleted: self.is_set(row, "deleted_at"),
        }
    }

    fn auth_key(&mut self, row: Row<'_>, mut tags: Vec<String>) -> Option<AuthKey> {
        tags.extend(self.list(row, &["tags"]));
        let secret = self.secret(row, Some("key"))?;
        Some(AuthKey {
            id: row.id(),
            user: row.first(&["user_id", "namespace_id"]).reference(),
            secret,
            reusable: self.flag(row, "reusable"),
            ephemeral: self.flag(row, "ephemeral"),
            used: row.has("used").then(|| self.flag(row, "used")),
            tags: sorted(tags),
            created_at: self.time(row, "created_at"),
            expires_at: self.time(row, "expiration"),
            description: row.cell("description").text_or_empty(),
            revoked_at: self.time(row, "revoked"),
        })
    }

    fn api_key(&mut self, row: Row<'_>) -> Option<ApiKey> {
        let secret = self.secret(row, None)?;
        Some(ApiKey {
            id: row.id(),
            secret,
            user: row.cell("user_id").reference(),
            created_at: self.time(row, "created_at"),
            expires_at: self.time(row, "expiration"),
            last_seen: self.time(row, "last_seen"),
        })
    }

    /// A secret is hashed where it has a prefix, and in clear where it has none.
    fn secret(&mut self, row: Row<'_>, clear: Option<&str>) -> Option<Secret> {
        let secret = match (row.cell("prefix").filled(), clear) {
            (Some(prefix), _) => {
                let hash = row.cell("hash").filled().filter(|hash| hash.starts_with("$2"));
                hash.map(|hash| Secret::Bcrypt { prefix, hash: hash.trim().to_owned() })
            }
            (None, Some(column)) => row.cell(column).filled().map(|text| Secret::Clear(Zeroizing::new(text))),
            (None, None) => None,
        };
        if secret.is_none() {
            self.warnings.push(Warning::row(Code::SecretUnusable, row.table(), row.id()));
        }
        secret
    }

    fn node(&mut self, row: Row<'_>, columns: &NodeColumns) -> Node {
        let addresses = if row.has("ipv4") || row.has("ipv6") {
            [row.cell("ipv4").filled(), row.cell("ipv6").filled()].into_iter().flatten().collect()
        } else {
            let list = row.first(columns.addresses).text_or_empty();
            list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        };
        Node {
            id: row.id(),
            registered: !row.has("registered") || self.flag(row, "registered"),
            machine_key: self.key(row, "machine_key", MachineKey::PREFIX, |text| text.parse().ok()),
            node_key: self.key(row, "node_key", NodeKey::PREFIX, |text| text.parse().ok()),
            disco_key: self.key(row, "disco_key", DiscoKey::PREFIX, |text| text.parse().ok()),
            hostname: row.first(columns.hostname).text_or_empty(),
            given_name: row.has("given_name").then(|| row.cell("given_name").text_or_empty()),
            user: row.first(columns.owner).reference(),
            register_method: row.cell("register_method").text_or_empty().to_lowercase(),
            tags: self.tags(row, columns.tags),
            auth_key: row.cell("auth_key_id").reference(),
            addresses,
            last_seen: self.time(row, "last_seen"),
            expires_at: self.time(row, "expiry"),
            created_at: self.time(row, "created_at"),
            deleted: self.is_set(row, "deleted_at"),
            host: self.host(row),
            enabled: columns.enabled.map(|column| self.list(row, &[column])),
        }
    }

    /// A column `hostinfo` also occurs, left over from a pre-release; it is another one.
    fn host(&mut self, row: Row<'_>) -> Host {
        let cell = row.cell("host_info");
        let Some(text) = cell.filled() else {
            if matches!(cell, Cell::Bytes(bytes) if !bytes.is_empty()) {
                self.warnings.push(Warning::row(Code::HostInfoInvalid, row.table(), row.id()));
            }
            return Host::default();
        };
        let value = match serde_json::from_str(&text) {
            Ok(value @ Value::Object(_)) => value,
            Ok(Value::Null) => return Host::default(),
            Ok(Value::Array(items)) if items.is_empty() => return Host::default(),
            Ok(_) | Err(_) => {
                self.warnings.push(Warning::row(Code::HostInfoInvalid, row.table(), row.id()));
                return Host::default();
            }
        };
        let texts = |name: &str| -> Vec<String> {
            let items = value[name].as_array().map(Vec::as_slice).unwrap_or_default();
            items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let (advertised, request_tags) = (texts("RoutableIPs"), sorted(texts("RequestTags")));
        // One field of another type than today's must not lose what the others say.
        let info = wayleave_wire::control::read_hostinfo(text.as_bytes()).unwrap_or_default();
        Host { advertised, request_tags, info }
    }

    fn route(&mut self, row: Row<'_>, owner: &str) -> Route {
        Route {
            id: row.id(),
            node: row.cell(owner).reference(),
            prefix: row.cell("prefix").text_or_empty(),
            advertised: self.flag(row, "advertised"),
            enabled: self.flag(row, "enabled"),
            is_primary: self.flag(row, "is_primary"),
            created_at: self.time(row, "created_at"),
            updated_at: self.time(row, "updated_at"),
            deleted: self.is_set(row, "deleted_at"),
        }
    }
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts.dedup();
    texts
}

/// An identifier as 0.26 cleans it: no blanks around its parts, no empty parts, the scheme in lower case.
fn clean_identifier(text: &str) -> Option<String> {
    let text = text.trim();
    let scheme = text.split_once("://").filter(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-'))
    });
    let (scheme, rest) = scheme.map_or((String::new(), text), |(s, rest)| (format!("{}://", s.to_lowercase()), rest));
    let parts: Vec<&str> = rest.split('/').map(str::trim).filter(|part| !part.is_empty()).collect();
    let clean = format!("{scheme}{}", parts.join("/"));
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_cleaned() {
        for (text, clean) in [
            ("https://idp//x", "https://idp/x"),
            ("HTTPS://idp.example.com/ a /b/", "https://idp.example.com/a/b"),
            (" issuer/subject ", "issuer/subject"),
        ] {
            assert_eq!(clean_identifier(text).as_deref(), Some(clean));
        }
        assert_eq!(clean_identifier(" / "), None);
    }
}
