//! What a policy names: nodes by owner, tag, group or address, and places behind them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use wayleave_model::{Prefix, Tag, UserRole, via6};

use crate::people::Surroundings;

/// A name in a policy, understood. Groups, hosts and tags that it names are known to exist.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// `*`: the tailnet and every approved prefix that is no exit, as a source; everything, as a destination.
    Any,
    /// `autogroup:danger-all`: every source, also outside the tailnet.
    Everywhere,
    /// A user's untagged nodes. In lower case.
    User(String),
    /// `user:*@domain`: untagged nodes of users with an e-mail address in the domain. In lower case.
    Domain(String),
    /// Untagged nodes of the users in a group.
    Group(String),
    /// Nodes with a tag.
    Tag(Tag),
    /// `autogroup:member`: nodes that belong to a user.
    Member,
    /// `autogroup:tagged`: nodes that have a tag.
    Tagged,
    /// `autogroup:admin` and its like: untagged nodes of users with a role.
    Role(UserRole),
    /// `autogroup:shared`: people with whom a node is shared. There are none here; policies that name them are read all the same. A source
    /// only.
    Shared,
    /// `autogroup:self`: the other untagged nodes of the same user. A destination only.
    SameUser,
    /// `autogroup:internet`: what an exit leads to. A destination only.
    Internet,
    /// Addresses, by themselves or by the name of a host.
    Addresses(Prefix),
}

/// The names that a policy defines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The members of each group, in lower case.
    pub groups: BTreeMap<String, Vec<String>>,
    /// What each host stands for.
    pub hosts: BTreeMap<String, Prefix>,
    /// Who may give each tag.
    pub tag_owners: BTreeMap<Tag, Vec<Selector>>,
}

impl Names {
    /// Understands a name. The wording of errors is the hosted control plane's where a conformance case has it.
    pub(crate) fn selector(&self, text: &str, around: &Surroundings) -> Result<Selector, String> {
        let text = text.trim();
        if text == "*" {
            Ok(Selector::Any)
        } else if text.starts_with("tag:") {
            let tag = text.parse::<Tag>().ok().filter(|tag| self.tag_owners.contains_key(tag));
            tag.map(Selector::Tag).ok_or_else(|| format!("tag not found: {text:?}"))
        } else if text.starts_with("group:") {
            let known = self.groups.contains_key(text);
            if known { Ok(Selector::Group(text.to_owned())) } else { Err(format!("group not found: {text:?}")) }
        } else if let Some(name) = text.strip_prefix("autogroup:") {
            autogroup(name).ok_or_else(|| format!("unknown autogroup: {text:?}"))
        } else if let Some(domain) = text.strip_prefix("user:*@") {
            let domain = domain.to_lowercase();
            around.domains.check(&domain)?;
            Ok(Selector::Domain(domain))
        } else if text.starts_with("ipset:") || text.starts_with("svc:") {
            Err(format!("{text:?} can't be used: sets of addresses and services are not supported; list the addresses"))
        } else if text.contains('@') {
            Ok(Selector::User(text.to_lowercase()))
        } else if let Some(prefix) = self.hosts.get(text) {
            Ok(Selector::Addresses(*prefix))
        } else {
            parse_addresses(text, around).map(Selector::Addresses)
        }
    }
}

/// An address, a prefix, or an IPv4 prefix at a 4via6 site: `192.168.1.0/24 via berlin`.
pub(crate) fn parse_addresses(text: &str, around: &Surroundings) -> Result<Prefix, String> {
    let text = text.trim();
    if let Some((prefix, site)) = text.split_once(" via ") {
        let (prefix, site) = (prefix.trim(), site.trim());
        let number = around.sites.get(site).copied().or_else(|| site.parse().ok());
        let number =
            number.ok_or_else(|| format!("there is no site {site:?}; `wayleave via6 sites add {site}` makes it"))?;
        return match parse_addresses(prefix, around)?.net() {
            IpNet::V4(part) => Ok(via6::encode(number, part)),
            IpNet::V6(_) => Err(format!("{prefix:?} is not IPv4: what is reached through a 4via6 site is")),
        };
    }
    let address = text.parse::<IpAddr>().map(Prefix::host);
    let prefix = || text.parse::<IpNet>().map(Prefix::containing);
    address.or_else(|_| prefix()).map_err(|_| format!("{text:?}: invalid address"))
}

fn autogroup(name: &str) -> Option<Selector> {
    Some(match name {
        "member" | "members" => Selector::Member,
        "tagged" => Selector::Tagged,
        "shared" => Selector::Shared,
        "self" => Selector::SameUser,
        "internet" => Selector::Internet,
        "danger-all" => Selector::Everywhere,
        "owner" => Selector::Role(UserRole::Owner),
        "admin" => Selector::Role(UserRole::Admin),
        "it-admin" => Selector::Role(UserRole::ItAdmin),
        "network-admin" => Selector::Role(UserRole::NetworkAdmin),
        "billing-admin" => Selector::Role(UserRole::BillingAdmin),
        "auditor" => Selector::Role(UserRole::Auditor),
        _ => return None,
    })
}

/// As a policy writes it.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Everywhere => f.write_str("autogroup:danger-all"),
            Self::User(name) | Self::Group(name) => f.write_str(name),
            Self::Domain(domain) => write!(f, "user:*@{domain}"),
            Self::Tag(tag) => write!(f, "{tag}"),
            Self::Member => f.write_str("autogroup:member"),
            Self::Tagged => f.write_str("autogroup:tagged"),
            Self::Role(role) => write!(f, "autogroup:{role}"),
            Self::Shared => f.write_str("autogroup:shared"),
            Self::SameUser => f.write_str("autogroup:self"),
            Self::Internet => f.write_str("autogroup:internet"),
            Self::Addresses(prefix) => f.write_str(&listed(prefix)),
        }
    }
}

/// A prefix as packet filters list it: one address without a length.
pub(crate) fn listed(prefix: &Prefix) -> String {
    let net = prefix.net();
    if net.prefix_len() == net.max_prefix_len() { net.network().to_string() } else { net.to_string() }
}
