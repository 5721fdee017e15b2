//! Reads the sections of a policy.
//!
//! The wording of faults is the hosted control plane's wherever a conformance case has it, so that what people find about an error
//! message holds here too.

use std::sync::Arc;

use wayleave_model::{Prefix, Tag};

use crate::decode::{Fields, Findings, to_json};
use crate::file::{AutoApprovers, Destination, Grant, NodeAttributes, PolicyError, PolicyFile, SshTest, Test};
use crate::people::Surroundings;
use crate::ports::{Traffic, check_ports_of, parse_ports, parse_protocol, parse_traffic};
use crate::read_ssh;
use crate::selector::{Names, Selector, parse_addresses};
use crate::source::{self, Span, Text, Value};

const SECTIONS: &[&str] = &[
    "acls",
    "grants",
    "groups",
    "hosts",
    "tagOwners",
    "autoApprovers",
    "nodeAttrs",
    "ssh",
    "tests",
    "sshTests",
    "postures",
    "defaultSrcPosture",
    "ipsets",
    "derpMap",
    "disableIPv4",
    "OneCGNATRoute",
    "randomizeClientPort",
];

pub(crate) fn read(text: &str, around: &Surroundings) -> Result<PolicyFile, PolicyError> {
    let refused = |faults| PolicyError { text: Arc::from(text), faults };
    let root = source::parse(text).map_err(|fault| refused(vec![fault]))?;
    let mut findings = Findings::default();
    let fields = findings.fields(&root, SECTIONS);
    let names = names(&fields, &mut findings, around);
    let mut reader =
        Reader { names: &names, around, findings, default_posture: fields.get("defaultSrcPosture").is_some() };
    let acls = fields.get("acls").map(|value| reader.each(value, Reader::acl));
    let grants = fields.get("grants").map(|value| reader.each(value, Reader::grant));
    let allowed = match (acls, grants) {
        (None, None) => None,
        (acls, grants) => Some(acls.into_iter().flatten().chain(grants.into_iter().flatten()).collect()),
    };
    let auto_approvers = fields.get("autoApprovers").map(|value| reader.auto_approvers(value)).unwrap_or_default();
    let mut node_attributes =
        fields.get("nodeAttrs").map(|value| reader.each(value, Reader::node_attributes)).unwrap_or_default();
    for (field, attribute) in [("randomizeClientPort", "randomize-client-port"), ("disableIPv4", "disable-ipv4")] {
        if fields.get(field).and_then(|value| reader.findings.bool(value)) == Some(true) {
            node_attributes.push(NodeAttributes {
                target: vec![Selector::Any],
                attributes: vec![(attribute.to_owned(), Arc::new(serde_json::Value::Null))],
                pool: Vec::new(),
            });
        }
    }
    let ssh = fields.get("ssh").map(|value| reader.each(value, read_ssh::rule)).unwrap_or_default();
    let tests = fields.get("tests").map(|value| reader.each(value, Reader::test)).unwrap_or_default();
    let ssh_tests = fields.get("sshTests").map(|value| reader.each(value, Reader::ssh_test)).unwrap_or_default();
    let mut findings = reader.findings;
    for (section, why) in [
        ("ipsets", "sets of addresses are not supported; list the addresses where they are used"),
        ("derpMap", "relays are not part of the policy here; see the section `derp` of the configuration"),
    ] {
        if let Some(value) = fields.get(section) {
            findings.fault(why, &value.span);
        }
    }
    if let Some(value) = fields.get("OneCGNATRoute") {
        findings.warn(
            "OneCGNATRoute has no effect; set the attribute `one-cgnat?v=true` or `...=false` in nodeAttrs",
            &value.span,
        );
    }
    if let Some(value) = fields.get("postures") {
        findings.warn("conditions on devices are not checked: rules with `srcPosture` let nobody through", &value.span);
    }
    if !findings.faults.is_empty() {
        return Err(refused(findings.faults));
    }
    let warnings = findings.warnings;
    let text = Arc::from(text);
    Ok(PolicyFile { text, names, grants: allowed, auto_approvers, node_attributes, ssh, tests, ssh_tests, warnings })
}

/// Groups, hosts and the owners of tags, which everything else names.
fn names(fields: &Fields<'_>, findings: &mut Findings, around: &Surroundings) -> Names {
    let mut names = Names::default();
    for (group, members) in fields.get("groups").map(|value| findings.object(value)).unwrap_or_default() {
        if !group.text.starts_with("group:") || group.text.len() == "group:".len() {
            findings.fault(format!("groups[{:?}]: group names must start with 'group:'", group.text), &group.span);
        }
        let mut logins = Vec::new();
        for member in findings.texts(members) {
            let text = member.text.trim();
            let place = format!("groups[{:?}]: {text:?}", group.text);
            if text.starts_with("group:") {
                findings.fault(format!("{place}: group members cannot be recursive"), &member.span);
            } else if text.starts_with("tag:") || text.starts_with("autogroup:") || text.is_empty() || text == "*" {
                findings.fault(format!("{place}: group members are users"), &member.span);
            } else {
                logins.push(text.to_lowercase());
            }
        }
        names.groups.insert(group.text.clone(), logins);
    }
    for (host, value) in fields.get("hosts").map(|value| findings.object(value)).unwrap_or_default() {
        let place = format!("hosts[{:?}]", host.text);
        if host.text.is_empty() || host.text.contains(['@', '*', '/']) || host.text.contains(':') {
            findings.fault(format!("{place}: a host's name can't hold `@`, `*`, `/` or `:`"), &host.span);
        }
        if let Some(address) = findings.text(value) {
            let prefix = parse_addresses(&address.text, around).map_err(|why| format!("{place}: {why}"));
            if let Some(prefix) = findings.keep(prefix, &address.span) {
                warn_host_bits(findings, &address);
                names.hosts.insert(host.text.clone(), prefix);
            }
        }
    }
    let tag_owners = fields.get("tagOwners").map(|value| findings.object(value)).unwrap_or_default();
    let mut owned = Vec::new();
    for (tag, owners) in tag_owners {
        match check_tag(&tag.text) {
            Err(why) => findings.fault(format!("tagOwners[{:?}]: {why}", tag.text), &tag.span),
            Ok(tag) => {
                names.tag_owners.insert(tag.clone(), Vec::new());
                owned.push((tag, owners));
            }
        }
    }
    for (tag, owners) in owned {
        let mut selectors = Vec::new();
        for owner in findings.texts(owners) {
            let place = format!("tagOwners[\"{tag}\"]");
            let selector = match names.selector(&owner.text, around) {
                Ok(
                    Selector::SameUser
                    | Selector::Internet
                    | Selector::Everywhere
                    | Selector::Shared
                    | Selector::Addresses(_),
                ) => Err(format!("{place}: {:?} can't own: name users, groups, autogroups or tags", owner.text)),
                read => read.map_err(|why| format!("{place}: {why}")),
            };
            selectors.extend(findings.keep(selector, &owner.span));
        }
        names.tag_owners.insert(tag, selectors);
    }
    names
}

/// The rules and the wording are those of Go's `tailcfg.CheckTag`.
fn check_tag(text: &str) -> Result<Tag, String> {
    let name = text.strip_prefix("tag:").ok_or("tags must start with 'tag:'")?;
    let why = if name.is_empty() {
        "tag names must not be empty"
    } else if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        "tag names must start with a letter, after 'tag:'"
    } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        "tag names can only contain numbers, letters, or dashes"
    } else {
        return text.parse().map_err(|_| "tag names have at most 63 letters".to_owned());
    };
    Err(why.to_owned())
}

fn warn_host_bits(findings: &mut Findings, written: &Text) {
    if let Ok(net) = written.text.trim().parse::<ipnet::IpNet>()
        && net.addr() != net.network()
    {
        findings.warn(format!("{} has host bits set; it is read as {}", written.text, net.trunc()), &written.span);
    }
}

pub(crate) struct Reader<'a> {
    pub(crate) names: &'a Names,
    pub(crate) around: &'a Surroundings,
    pub(crate) findings: Findings,
    default_posture: bool,
}

impl Reader<'_> {
    fn each<T>(&mut self, value: &Value, read: fn(&mut Self, &Value) -> Option<T>) -> Vec<T> {
        let list = self.findings.list(value);
        list.iter().filter_map(|value| read(self, value)).collect()
    }

    pub(crate) fn selector(&self, text: &str) -> Result<Selector, String> {
        self.names.selector(text, self.around)
    }

    /// The sources of a rule.
    pub(crate) fn sources(&mut self, value: Option<&Value>) -> Vec<Selector> {
        let mut all = Vec::new();
        for source in value.map(|value| self.findings.texts(value)).unwrap_or_default() {
            let selector = match self.selector(&source.text) {
                Ok(Selector::SameUser | Selector::Internet) => {
                    Err(format!("{:?} not valid on the src side of a rule", source.text.trim()))
                }
                other => other.map_err(|why| format!("src={why}")),
            };
            warn_host_bits(&mut self.findings, &source);
            all.extend(self.findings.keep(selector, &source.span));
        }
        all
    }

    fn acl(&mut self, value: &Value) -> Option<Grant> {
        // `users` and `ports` are what `src` and `dst` were called at first.
        let known = ["action", "src", "dst", "proto", "srcPosture", "users", "ports"];
        let fields = self.findings.fields(value, &known);
        match fields.get("action").and_then(|value| self.findings.text(value)) {
            Some(action) if action.text == "accept" => {}
            Some(action) if !action.text.is_empty() => {
                self.findings.fault(format!("{:?} is not a valid action", action.text), &action.span)
            }
            Some(_) | None => self.findings.fault("action must be specified", &value.span),
        }
        let src = self.sources(fields.get("src").or_else(|| fields.get("users")));
        let protocol = fields.get("proto").and_then(|value| self.findings.text(value));
        let protocol = match protocol {
            Some(text) => self.findings.keep(parse_protocol(&text.text), &text.span)?,
            None => None,
        };
        let mut dst = Vec::new();
        let written = fields.get("dst").or_else(|| fields.get("ports"));
        for text in written.map(|value| self.findings.texts(value)).unwrap_or_default() {
            let destination = self.acl_destination(&text.text, protocol);
            dst.extend(self.findings.keep(destination, &text.span));
        }
        self.check_same_user(&src, &dst, true, &value.span);
        let conditional = self.conditional(&fields);
        Some(Grant { src, dst, app: Vec::new(), via: Vec::new(), conditional, at: value.span.clone() })
    }

    fn acl_destination(&self, text: &str, protocol: Option<u16>) -> Result<Destination, String> {
        let text = text.trim();
        let (target, ports) = split_ports(text)?;
        let place = format!("dst={target:?}");
        let ports = parse_ports(ports).map_err(|why| format!("dst={text:?}: {why}"))?;
        let target = self.selector(target).map_err(|why| format!("{place}: {why}"))?;
        check_destination(&target, &place)?;
        if let Some(protocol) = protocol {
            check_ports_of(protocol, &ports).map_err(|why| format!("{place}: {why}"))?;
        }
        Ok(Destination { target, traffic: Arc::from([Traffic { protocol, ports }]) })
    }

    fn grant(&mut self, value: &Value) -> Option<Grant> {
        let fields = self.findings.fields(value, &["src", "dst", "ip", "app", "via", "srcPosture"]);
        let src = self.sources(fields.get("src"));
        let mut traffic: Vec<Traffic> = Vec::new();
        for text in fields.get("ip").map(|value| self.findings.texts(value)).unwrap_or_default() {
            let Some(more) = self.findings.keep(parse_traffic(&text.text), &text.span) else { continue };
            match traffic.iter_mut().find(|traffic| traffic.protocol == more.protocol) {
                Some(traffic) => traffic.ports.extend(more.ports),
                None => traffic.push(more),
            }
        }
        let mut app = Vec::new();
        for (capability, values) in fields.get("app").map(|value| self.findings.object(value)).unwrap_or_default() {
            if self.findings.keep(check_capability(&capability.text), &capability.span).is_some() {
                self.findings.list(values);
                app.push((capability.text.clone(), Arc::new(to_json(values))));
            }
        }
        let is_empty = |name| {
            fields.get(name).is_none_or(|value: &Value| match &value.kind {
                source::Kind::List(list) => list.is_empty(),
                source::Kind::Object(object) => object.is_empty(),
                source::Kind::Null | source::Kind::Bool(_) | source::Kind::Number(_) | source::Kind::Text(_) => false,
            })
        };
        if is_empty("ip") && is_empty("app") {
            self.findings.fault("ip and app can not both be empty", &value.span);
        }
        let traffic: Arc<[Traffic]> = traffic.into();
        let mut dst = Vec::new();
        for text in fields.get("dst").map(|value| self.findings.texts(value)).unwrap_or_default() {
            let place = format!("dst {:?}", text.text.trim());
            let target = self.selector(&text.text).map_err(|why| format!("dst={:?}: {why}", text.text.trim()));
            let target = target.and_then(|target| check_destination(&target, &place).map(|()| target));
            let Some(target) = self.findings.keep(target, &text.span) else { continue };
            if target == Selector::Internet && !app.is_empty() {
                self.findings.fault("cannot use app grants with autogroup:internet", &text.span);
            }
            warn_host_bits(&mut self.findings, &text);
            dst.push(Destination { target, traffic: Arc::clone(&traffic) });
        }
        self.check_same_user(&src, &dst, false, &value.span);
        let mut via = Vec::new();
        for text in fields.get("via").map(|value| self.findings.texts(value)).unwrap_or_default() {
            let tag = match self.selector(&text.text) {
                Ok(Selector::Tag(tag)) => Ok(tag),
                Ok(_) => Err(format!("via={:?}: only tags can be named here", text.text)),
                Err(why) => Err(format!("via={why}")),
            };
            via.extend(self.findings.keep(tag, &text.span));
        }
        let conditional = self.conditional(&fields);
        Some(Grant { src, dst, app, via, conditional, at: value.span.clone() })
    }

    /// Conditions on devices can't be checked, and a rule that can't be checked lets nobody through.
    pub(crate) fn conditional(&mut self, fields: &Fields<'_>) -> bool {
        let Some(value) = fields.get("srcPosture") else { return self.default_posture };
        let conditions = self.findings.texts(value);
        if !conditions.is_empty() {
            self.findings.warn("conditions on devices are not checked: this rule lets nobody through", &value.span);
        }
        !conditions.is_empty()
    }

    /// `autogroup:self` is each source's own devices, so every source has to be people. An entry of `acls` may also say `*`, which
    /// then means everybody's own.
    fn check_same_user(&mut self, src: &[Selector], dst: &[Destination], star_is_people: bool, at: &Span) {
        if !dst.iter().any(|dst| dst.target == Selector::SameUser) {
            return;
        }
        let people = |selector: &Selector| match selector {
            Selector::Any => star_is_people,
            Selector::User(_) | Selector::Domain(_) | Selector::Group(_) | Selector::Member | Selector::Role(_) => true,
            Selector::Everywhere
            | Selector::Tag(_)
            | Selector::Tagged
            | Selector::Shared
            | Selector::SameUser
            | Selector::Internet
            | Selector::Addresses(_) => false,
        };
        if !src.iter().all(people) {
            self.findings.fault("autogroup:self can only be used with users, groups, or supported autogroups", at);
        }
    }

    fn auto_approvers(&mut self, value: &Value) -> AutoApprovers {
        let fields = self.findings.fields(value, &["routes", "exitNode"]);
        let mut approvers = AutoApprovers::default();
        for (text, who) in fields.get("routes").map(|value| self.findings.object(value)).unwrap_or_default() {
            let place = format!("autoApprovers.routes[{:?}]", text.text);
            let prefix = parse_addresses(&text.text, self.around).map_err(|why| format!("{place}: {why}"));
            let Some(prefix) = self.findings.keep(prefix, &text.span) else { continue };
            if prefix.is_exit() {
                self.findings.warn(
                    format!("{place} approves prefixes inside it, and no exit; exits have their own list, `exitNode`"),
                    &text.span,
                );
            }
            let who = self.approvers(&place, who);
            approvers.routes.entry(prefix).or_default().extend(who);
        }
        if let Some(value) = fields.get("exitNode") {
            approvers.exit_node = self.approvers("autoApprovers.exitNode", value);
        }
        approvers
    }

    fn approvers(&mut self, place: &str, value: &Value) -> Vec<Selector> {
        let mut all = Vec::new();
        for text in self.findings.texts(value) {
            let selector = self.selector(&text.text).map_err(|why| format!("{place}: {why}"));
            let names_nobody = |selector: &Selector| {
                use Selector::{Addresses, Everywhere, Internet, SameUser, Shared};
                matches!(selector, SameUser | Internet | Everywhere | Shared | Addresses(_))
            };
            let selector = match selector {
                Ok(selector) if names_nobody(&selector) => {
                    Err(format!("{place}: {:?} can't approve: name tags, users, groups or autogroups", text.text))
                }
                read => read,
            };
            all.extend(self.findings.keep(selector, &text.span));
        }
        all
    }

    fn node_attributes(&mut self, value: &Value) -> Option<NodeAttributes> {
        let fields = self.findings.fields(value, &["target", "attr", "app", "ipPool"]);
        let mut target = Vec::new();
        for text in fields.get("target").map(|value| self.findings.texts(value)).unwrap_or_default() {
            let selector = self.selector(&text.text);
            let selector = match selector {
                Ok(Selector::SameUser | Selector::Internet | Selector::Everywhere | Selector::Shared) => {
                    Err(format!("{:?} is not valid as a target of nodeAttrs", text.text))
                }
                read => read,
            };
            target.extend(self.findings.keep(selector, &text.span));
        }
        let mut attributes = Vec::new();
        for text in fields.get("attr").map(|value| self.findings.texts(value)).unwrap_or_default() {
            attributes.push((text.text, Arc::new(serde_json::Value::Null)));
        }
        for (name, values) in fields.get("app").map(|value| self.findings.object(value)).unwrap_or_default() {
            self.findings.list(values);
            attributes.push((name.text.clone(), Arc::new(to_json(values))));
        }
        let mut pool = Vec::new();
        for text in fields.get("ipPool").map(|value| self.findings.texts(value)).unwrap_or_default() {
            let prefix = parse_addresses(&text.text, self.around).and_then(|prefix| in_tailnet(prefix, &text.text));
            pool.extend(self.findings.keep(prefix.map_err(|why| format!("ipPool: {why}")), &text.span));
        }
        Some(NodeAttributes { target, attributes, pool })
    }

    fn test(&mut self, value: &Value) -> Option<Test> {
        // `user` and `allow` are what `src` and `accept` were called at first.
        let known = ["src", "proto", "accept", "deny", "user", "allow", "srcPostureAttrs"];
        let fields = self.findings.fields(value, &known);
        let mut texts = |name| fields.get(name).map(|value| self.findings.texts(value)).unwrap_or_default();
        let accept = texts("accept").into_iter().chain(texts("allow")).collect();
        let deny = texts("deny");
        let mut text = |name| fields.get(name).and_then(|value| self.findings.text(value));
        let src = text("src").or_else(|| text("user"));
        Some(Test { src, protocol: text("proto"), accept, deny, at: value.span.clone() })
    }

    fn ssh_test(&mut self, value: &Value) -> Option<SshTest> {
        let fields = self.findings.fields(value, &["src", "dst", "accept", "check", "deny", "srcPostureAttrs"]);
        let mut texts = |name| fields.get(name).map(|value| self.findings.texts(value)).unwrap_or_default();
        let (dst, accept, check, deny) = (texts("dst"), texts("accept"), texts("check"), texts("deny"));
        for text in &dst {
            if text.text.starts_with("tag:") && self.selector(&text.text).is_err() {
                self.findings.fault(format!("SSH tests dst contains unknown tag {:?}", text.text), &text.span);
            }
        }
        let src = fields.get("src").and_then(|value| self.findings.text(value));
        Some(SshTest { src, dst, accept, check, deny, at: value.span.clone() })
    }
}

/// `host:ports`, where the host may be an IPv6 address or prefix.
pub(crate) fn split_ports(text: &str) -> Result<(&str, &str), String> {
    // The wording is that of Go's `tailcfg.ParseHostPortRange`.
    let missing = || format!("dst={text:?}: hostport must contain a colon (\":\"); `{text}:*` is all of its ports");
    let (target, ports) = text.rsplit_once(':').ok_or_else(missing)?;
    if target.contains(',') {
        return Err(format!("dst={text:?}: host cannot contain a comma (\",\")"));
    }
    Ok((target.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(target), ports))
}

fn check_destination(target: &Selector, place: &str) -> Result<(), String> {
    match target {
        Selector::Addresses(prefix) if prefix.is_exit() => {
            Err(format!("{place}: to allow all IP addresses, use \"*\" or \"autogroup:internet\""))
        }
        Selector::Everywhere => Err(format!("{place}: autogroup:danger-all is a source only; use \"*\"")),
        Selector::Shared => Err(format!("{place}: autogroup:shared is a source only")),
        Selector::Any
        | Selector::User(_)
        | Selector::Domain(_)
        | Selector::Group(_)
        | Selector::Tag(_)
        | Selector::Member
        | Selector::Tagged
        | Selector::Role(_)
        | Selector::SameUser
        | Selector::Internet
        | Selector::Addresses(_) => Ok(()),
    }
}

/// Capabilities in the domain tailscale.com that a grant may give (Tailscale's documentation of application capabilities).
const GRANTABLE: [&str; 11] = [
    "tailscale.com/cap/aperture",
    "tailscale.com/cap/drive",
    "tailscale.com/cap/golink",
    "tailscale.com/cap/kubernetes",
    "tailscale.com/cap/proxy-to-grafana",
    "tailscale.com/cap/relay",
    "tailscale.com/cap/secrets",
    "tailscale.com/cap/tsidp",
    "tailscale.com/cap/webui",
    "tailscale.com/cap/peer-relay",
    "tailscale.com/cap/conn25",
];

fn check_capability(name: &str) -> Result<(), String> {
    let (domain, path) = name.split_once('/').unwrap_or((name, ""));
    if path.is_empty() || !domain.contains('.') || domain.contains(':') || path.starts_with('/') {
        return Err("capability name must have the form {domain}/{path}".to_owned());
    }
    let reserved = domain == "tailscale.com" || domain.ends_with(".tailscale.com");
    if reserved && !GRANTABLE.contains(&name) {
        return Err("capability name must not be in the tailscale.com domain".to_owned());
    }
    Ok(())
}

fn in_tailnet(prefix: Prefix, text: &str) -> Result<Prefix, String> {
    let range = Prefix::containing(ipnet::IpNet::V4(wayleave_model::TAILNET_V4));
    if range.covers(&prefix) { Ok(prefix) } else { Err(format!("{text:?} is not inside 100.64.0.0/10")) }
}
