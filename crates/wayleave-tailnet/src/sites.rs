//! 4via6 sites: their numbers have names, and hosts at them too.
//!
//! A site is made by a person, keeps its number for life, and may be renamed. Prefixes at a site are written
//! `192.168.1.0/24 via berlin` wherever people read or type them, policies among them; what goes to clients is the encoded prefix. So a
//! site that the policy names can neither be removed nor renamed, and a policy is read anew when sites change.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use wayleave_model::{GivenName, Prefix, PrefixError, Timestamp, via6};
use wayleave_policy::{PolicyFile, Surroundings};

use crate::command::{Outcome, Refusal};
use crate::plan::{Draft, Plan, Write};
use crate::tailnet::Tailnet;

/// The highest number of a site that clients take (`netutil.validateViaPrefix`, client 1.102.5), though the format has room for more.
pub const MAX_SITE: u32 = 0xffff;

/// A site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its number, 0 to 65535.
    pub id: u32,
    /// Its name: a DNS label that is no number, unique.
    pub name: GivenName,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A host at a site: a name for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteHost {
    /// The site's number.
    pub site: u32,
    /// Its name, unique at the site.
    pub name: GivenName,
    /// Its address there.
    pub address: Ipv4Addr,
    /// When it was named.
    pub created_at: Timestamp,
}

impl SiteHost {
    /// The address by which it is reached from elsewhere.
    pub fn via6(&self) -> Prefix {
        via6::encode(self.site, Ipv4Net::from(self.address))
    }
}

/// All sites, with the hosts that are named at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    by_id: BTreeMap<u32, Site>,
    hosts: BTreeMap<(u32, GivenName), SiteHost>,
}

/// What becomes of a site or a host: one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteChange {
    /// Makes or replaces a site.
    Put(Site),
    /// Removes a site.
    Remove(u32),
    /// Makes or replaces a host.
    PutHost(SiteHost),
    /// Removes a host.
    RemoveHost(u32, GivenName),
}

/// What may be asked about sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteCommand {
    /// Makes a site.
    Add {
        /// Its name.
        name: GivenName,
        /// Its number; `None`: the lowest from 1 that is free.
        id: Option<u32>,
    },
    /// Gives it another name.
    Rename {
        /// Which.
        site: u32,
        /// The name.
        name: GivenName,
    },
    /// Removes it.
    Remove {
        /// Which.
        site: u32,
    },
    /// Names a host, or gives the name to another address.
    AddHost {
        /// Where.
        site: u32,
        /// The name.
        name: GivenName,
        /// The address there.
        address: Ipv4Addr,
    },
    /// Takes the name away.
    RemoveHost {
        /// Where.
        site: u32,
        /// Which.
        name: GivenName,
    },
}

/// Why a text is no prefix, where sites are known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SitePrefixError {
    /// It is no prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// There is no such site.
    #[error("there is no site `{0}`; `wayleave via6 sites list` shows all, `wayleave via6 sites add {0}` makes it")]
    NoSite(String),
    /// What stands before `via` is IPv6.
    #[error("`{0}` is not IPv4: what is reached through a 4via6 site is")]
    NotV4(Prefix),
    /// A name and a number, of two sites.
    #[error("`{name}` is site {id} and not {other}: write the one that you mean")]
    Contradicts {
        /// The name.
        name: String,
        /// Whose it is.
        id: u32,
        /// What stands beside it.
        other: String,
    },
}

impl Sites {
    /// Sites and hosts as a store has them.
    pub fn new(sites: impl IntoIterator<Item = Site>, hosts: impl IntoIterator<Item = SiteHost>) -> Self {
        Self {
            by_id: sites.into_iter().map(|site| (site.id, site)).collect(),
            hosts: hosts.into_iter().map(|host| ((host.site, host.name.clone()), host)).collect(),
        }
    }

    /// All sites, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Site> {
        self.by_id.values()
    }

    /// All named hosts, by site and name.
    pub fn hosts(&self) -> impl Iterator<Item = &SiteHost> {
        self.hosts.values()
    }

    /// The site with this number.
    pub fn site(&self, id: u32) -> Option<&Site> {
        self.by_id.get(&id)
    }

    /// The site that a person means by a name or a number.
    pub fn named(&self, text: &str) -> Option<&Site> {
        let by_name = self.by_id.values().find(|site| site.name.as_str() == text);
        by_name.or_else(|| self.by_id.get(&text.parse().ok()?))
    }

    /// The lowest number from 1 that no site has.
    pub fn free(&self) -> Option<u32> {
        (1..=MAX_SITE).find(|id| !self.by_id.contains_key(id))
    }

    /// A prefix as people read it: `192.168.1.0/24 via berlin (7)` where it is one at a site, else as it is.
    pub fn show(&self, prefix: &Prefix) -> String {
        match via6::decode(prefix) {
            None => prefix.to_string(),
            Some((id, part)) => match self.by_id.get(&id) {
                Some(site) => format!("{part} via {} ({id})", site.name),
                None => format!("{part} via {id}"),
            },
        }
    }

    /// A prefix as people type it: one that stands for itself, or an IPv4 prefix `via` a site, by name or number, also as [`Self::show`]
    /// writes it.
    ///
    /// # Errors
    ///
    /// It is no prefix, or there is no such site.
    pub fn prefix(&self, text: &str) -> Result<Prefix, SitePrefixError> {
        let Some((part, site)) = text.trim().split_once(" via ") else { return Ok(text.trim().parse()?) };
        let site = site.trim();
        let (plain, beside) = site.split_once(" (").map_or((site, None), |(name, beside)| (name, Some(beside)));
        let number = || plain.parse().ok().filter(|id| *id <= MAX_SITE);
        let id = self.named(plain).map(|site| site.id).or_else(number);
        let id = id.ok_or_else(|| SitePrefixError::NoSite(plain.to_owned()))?;
        // The one may have been given to another site since this was printed.
        let other = beside.map(|beside| beside.trim_end_matches(')')).filter(|other| other.parse() != Ok(id));
        if let Some(other) = other {
            return Err(SitePrefixError::Contradicts { name: plain.to_owned(), id, other: other.to_owned() });
        }
        let part: Prefix = part.trim().parse()?;
        via6::at_site(id, &part).ok_or(SitePrefixError::NotV4(part))
    }

    /// An address as people read it: one that stands for itself, or that of a host at a site.
    pub fn show_address(&self, address: IpAddr) -> String {
        let host = Prefix::host(address);
        let shown = self.show(&host);
        if via6::decode(&host).is_some() { shown.replacen("/32", "", 1) } else { address.to_string() }
    }

    /// A prefix or an address as people type it, as [`Self::prefix`] does; an address is the prefix that holds it alone.
    ///
    /// # Errors
    ///
    /// It is neither, or there is no such site.
    pub fn place(&self, text: &str) -> Result<Prefix, SitePrefixError> {
        let (first, rest) = text.trim().split_at(text.trim().find(" via ").unwrap_or(text.trim().len()));
        match first.trim().parse().map(Prefix::host) {
            Ok(host) => self.prefix(&format!("{host}{rest}")),
            Err(_) => self.prefix(text),
        }
    }

    /// What policies know of the sites.
    pub(crate) fn numbers(&self) -> BTreeMap<String, u32> {
        self.by_id.values().map(|site| (site.name.to_string(), site.id)).collect()
    }

    pub(crate) fn apply(&mut self, change: SiteChange) {
        match change {
            SiteChange::Put(site) => drop(self.by_id.insert(site.id, site)),
            SiteChange::Remove(id) => drop(self.by_id.remove(&id)),
            SiteChange::PutHost(host) => drop(self.hosts.insert((host.site, host.name.clone()), host)),
            SiteChange::RemoveHost(site, name) => drop(self.hosts.remove(&(site, name))),
        }
    }
}

impl Tailnet {
    /// The sites.
    pub const fn sites(&self) -> &Arc<Sites> {
        &self.sites
    }

    pub(crate) fn plan_sites(&self, mut draft: Draft, command: SiteCommand) -> Result<Plan, Refusal> {
        let now = draft.now;
        let (site, change) = match command {
            SiteCommand::Add { name, id } => {
                self.check_site_name(&name)?;
                let id = id.or_else(|| self.sites.free()).ok_or(Refusal::NoSiteFree)?;
                if id > MAX_SITE {
                    return Err(Refusal::SiteNumber(id));
                }
                if let Some(site) = self.sites.site(id) {
                    return Err(Refusal::SiteExists { id, name: site.name.clone() });
                }
                (id, SiteChange::Put(Site { id, name, created_at: now }))
            }
            SiteCommand::Rename { site: id, name } => {
                let site = self.existing_site(id)?;
                if site.name != name {
                    self.check_site_name(&name)?;
                }
                (id, SiteChange::Put(Site { name, ..site.clone() }))
            }
            SiteCommand::Remove { site: id } => {
                let site = self.existing_site(id)?;
                let hosts: Vec<&str> =
                    self.sites.hosts().filter(|host| host.site == id).map(|host| host.name.as_str()).collect();
                if !hosts.is_empty() {
                    return Err(Refusal::SiteHasHosts { name: site.name.clone(), hosts: hosts.join(", ") });
                }
                (id, SiteChange::Remove(id))
            }
            SiteCommand::AddHost { site: id, name, address } => {
                self.existing_site(id)?;
                let host = SiteHost { site: id, name, address, created_at: now };
                if let Some(reason) = host.via6().invalid() {
                    return Err(Refusal::InvalidPrefix { prefix: host.via6(), reason });
                }
                (id, SiteChange::PutHost(host))
            }
            SiteCommand::RemoveHost { site: id, name } => {
                let site = self.existing_site(id)?;
                if !self.sites.hosts.contains_key(&(id, name.clone())) {
                    return Err(Refusal::NoSiteHost { site: site.name.clone(), name });
                }
                (id, SiteChange::RemoveHost(id, name))
            }
        };
        let mut next = Sites::clone(&self.sites);
        next.apply(change.clone());
        self.check_policy_still_reads(id_name(&self.sites, site), &next)?;
        draft.write(Write::Site(change));
        Ok(draft.done(Outcome::Site(site)))
    }

    fn existing_site(&self, id: u32) -> Result<&Site, Refusal> {
        self.sites.site(id).ok_or(Refusal::NoSite(id))
    }

    fn check_site_name(&self, name: &GivenName) -> Result<(), Refusal> {
        // `via 7` would have two meanings.
        if name.as_str().bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Refusal::SiteName(name.clone()));
        }
        match self.sites.named(name.as_str()) {
            Some(site) => Err(Refusal::SiteExists { id: site.id, name: name.clone() }),
            None => Ok(()),
        }
    }

    fn check_policy_still_reads(&self, site: String, next: &Sites) -> Result<(), Refusal> {
        let Some(row) = &self.policy_row else { return Ok(()) };
        let around = Surroundings { sites: next.numbers(), ..self.settings.policy.clone() };
        match PolicyFile::parse(&row.text, &around) {
            Ok(_) => Ok(()),
            Err(fault) => Err(Refusal::SiteInPolicy { site, fault: Box::new(fault) }),
        }
    }

    /// The sites changed: people read prefixes by them, and policies are read against them.
    pub(crate) fn put_sites(&mut self, changes: Vec<SiteChange>) {
        if changes.is_empty() {
            return;
        }
        let sites = Arc::make_mut(&mut self.sites);
        changes.into_iter().for_each(|change| sites.apply(change));
        self.sites_touched = true;
        let numbers = self.sites.numbers();
        if numbers == self.settings.policy.sites {
            return;
        }
        self.settings.policy.sites = numbers;
        let Some(row) = &self.policy_row else { return };
        // A plan that would leave a policy unreadable is refused.
        if let Ok(file) = PolicyFile::parse(&row.text, &self.settings.policy) {
            self.rules_changed(Arc::new(file));
        }
    }
}

fn id_name(sites: &Sites, id: u32) -> String {
    sites.site(id).map_or_else(|| id.to_string(), |site| site.name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, Event, Loaded, Settings};

    fn name(text: &str) -> GivenName {
        text.parse().unwrap()
    }

    fn tailnet() -> Tailnet {
        Tailnet::new(Settings::default(), Loaded::default(), Timestamp::from_millis(0)).unwrap()
    }

    fn ask(tailnet: &mut Tailnet, command: Command) -> Result<(), Refusal> {
        let now = Timestamp::from_millis(1);
        let plan = tailnet.plan(command, now)?;
        tailnet.apply(Event::Committed(Box::new(plan.into_committed())), now);
        Ok(())
    }

    fn add(tailnet: &mut Tailnet, text: &str, id: Option<u32>) -> Result<(), Refusal> {
        ask(tailnet, Command::Sites(SiteCommand::Add { name: name(text), id }))
    }

    #[test]
    fn prefixes_at_a_site_are_read_and_typed_by_its_name() {
        let mut tailnet = tailnet();
        add(&mut tailnet, "berlin", Some(7)).unwrap();
        add(&mut tailnet, "paris", None).unwrap();
        let sites = Arc::clone(tailnet.sites());
        let berlin: Prefix = "fd7a:115c:a1e0:b1a:0:7:c0a8:100/120".parse().unwrap();
        assert_eq!(sites.show(&berlin), "192.168.1.0/24 via berlin (7)");
        for text in [
            "192.168.1.0/24 via berlin",
            "192.168.1.0/24 via 7",
            "192.168.1.0/24 via berlin (7)",
            "fd7a:115c:a1e0:b1a:0:7:c0a8:100/120",
        ] {
            assert_eq!(sites.prefix(text).unwrap(), berlin, "{text}");
        }
        let printer: Prefix = "fd7a:115c:a1e0:b1a:0:7:c0a8:109/128".parse().unwrap();
        assert_eq!(sites.show_address(printer.network()), "192.168.1.9 via berlin (7)");
        for text in ["192.168.1.9 via berlin", "192.168.1.9 via berlin (7)", "fd7a:115c:a1e0:b1a:0:7:c0a8:109"] {
            assert_eq!(sites.place(text).unwrap(), printer, "{text}");
        }
        assert_eq!(sites.place("192.168.1.0/24 via 7").unwrap(), berlin);
        assert_eq!(sites.place("10.0.0.9").unwrap().to_string(), "10.0.0.9/32");
        assert_eq!(sites.show_address("10.0.0.9".parse().unwrap()), "10.0.0.9");
        let other: Prefix = "fd7a:115c:a1e0:b1a:0:9:c0a8:100/120".parse().unwrap();
        assert_eq!(sites.show(&other), "192.168.1.0/24 via 9");
        assert_eq!(sites.named("paris").unwrap().id, 1);
        for (text, fault) in [
            ("192.168.1.0/24 via rome", "there is no site `rome`"),
            ("192.168.1.0/24 via berlin (9)", "`berlin` is site 7 and not 9"),
            ("192.168.1.0/24 via 70000", "there is no site `70000`"),
            ("fd00::/64 via berlin", "is not IPv4"),
            ("192.168.1.7/24 via berlin", "has host bits set"),
        ] {
            assert!(sites.prefix(text).unwrap_err().to_string().contains(fault), "{text}");
        }
    }

    #[test]
    fn what_would_make_two_things_of_one_name_is_refused() {
        let mut tailnet = tailnet();
        add(&mut tailnet, "berlin", Some(7)).unwrap();
        for (text, id, fault) in [
            ("berlin", None, "site `berlin` exists"),
            ("rome", Some(7), "site `berlin` exists"),
            ("12", None, "would be taken for a number"),
            ("rome", Some(65_536), "at most 65535"),
        ] {
            let refusal = add(&mut tailnet, text, id).unwrap_err().to_string();
            assert!(refusal.contains(fault), "{text}: {refusal}");
        }
        let host = |address: &str| {
            let address = address.parse().unwrap();
            Command::Sites(SiteCommand::AddHost { site: 7, name: name("printer"), address })
        };
        assert!(ask(&mut tailnet, host("127.0.0.1")).is_err());
        ask(&mut tailnet, host("192.168.1.9")).unwrap();
        let remove = Command::Sites(SiteCommand::Remove { site: 7 });
        assert!(ask(&mut tailnet, remove.clone()).unwrap_err().to_string().contains("printer"));
        ask(&mut tailnet, Command::Sites(SiteCommand::RemoveHost { site: 7, name: name("printer") })).unwrap();
        ask(&mut tailnet, remove).unwrap();
    }

    #[test]
    fn a_site_that_the_policy_names_stays_and_a_new_one_can_be_named() {
        let mut tailnet = tailnet();
        let text = r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["192.168.1.0/24 via berlin:*"]}]}"#;
        let set = Command::SetPolicy { text: text.to_owned(), replaces: None, by: "test".to_owned() };
        assert!(ask(&mut tailnet, set.clone()).unwrap_err().to_string().contains("no site \"berlin\""));
        add(&mut tailnet, "berlin", Some(7)).unwrap();
        ask(&mut tailnet, set).unwrap();
        let rename = Command::Sites(SiteCommand::Rename { site: 7, name: name("potsdam") });
        for command in [rename, Command::Sites(SiteCommand::Remove { site: 7 })] {
            let refusal = ask(&mut tailnet, command).unwrap_err().to_string();
            assert!(refusal.contains("the policy names site `berlin`"), "{refusal}");
        }
    }
}
