//! Which rules of a policy concern a user, or an address and a port: what Tailscale's API calls a preview.

use std::net::IpAddr;

use crate::compiled::CompiledPolicy;
use crate::file::{Destination, Grant};
use crate::people::Surroundings;
use crate::rules::{Target, To};
use crate::selector::Selector;
use crate::tests::Party;

/// What a preview is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreviewFor {
    /// A user, as a policy names one: where may this user go?
    User(String),
    /// An address and a port: who may go there?
    AddressPort(IpAddr, u16),
}

/// A rule that concerns what was asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    /// Its sources.
    pub users: Vec<String>,
    /// Its destinations, each with its ports.
    pub ports: Vec<String>,
    /// The line on which it begins, from 1.
    pub line: usize,
}

impl CompiledPolicy {
    /// The entries of `acls` and `grants` that concern this, in the order of the text. Where a policy has neither, everybody may go
    /// everywhere, and that is what is told.
    ///
    /// # Errors
    ///
    /// The user is none that this policy can name.
    pub fn preview(&self, about: &PreviewFor, around: &Surroundings) -> Result<Vec<Matching>, String> {
        let rules = self.rules();
        let parties = match about {
            PreviewFor::User(user) => self.parties(user, around)?,
            PreviewFor::AddressPort(address, _) => self.parties(&address.to_string(), around)?,
        };
        let Some(grants) = &rules.file.grants else {
            return Ok(vec![Matching { users: vec!["*".to_owned()], ports: vec!["*:*".to_owned()], line: 1 }]);
        };
        // Only rules that let somebody through became clauses, in the same order.
        let grants = grants.iter().filter(|grant| !grant.conditional);
        let concerned = grants.zip(&rules.clauses).filter(|(_, clause)| match about {
            PreviewFor::User(_) => rules.source_lists[clause.sources].iter().any(|at| {
                let selector = &rules.selectors[*at];
                parties.iter().any(|party| self.is_party(selector, party))
            }),
            PreviewFor::AddressPort(_, port) => {
                let open = |target: &Target| {
                    target.traffic.iter().any(|traffic| traffic.ports.iter().any(|ports| ports.contains(*port)))
                };
                clause
                    .dst
                    .iter()
                    .any(|target| open(target) && parties.iter().any(|party| self.is_place(target.to, party)))
            }
        });
        Ok(concerned.map(|(grant, _)| matching(grant, &rules.file.text)).collect())
    }

    /// Whether a destination is this address, whoever asks.
    fn is_place(&self, to: To, party: &Party) -> bool {
        match (to, party) {
            (To::SameUser, Party::Address(_, owner)) => owner.as_ref().is_some_and(|owner| owner.user().is_some()),
            (to, party) => self.is_target(to, &Party::Anybody, party),
        }
    }
}

fn matching(grant: &Grant, text: &str) -> Matching {
    let ports = |destination: &Destination| {
        let all = destination.traffic.iter().flat_map(|traffic| &traffic.ports);
        let ports: Vec<String> = all.map(ToString::to_string).collect();
        format!("{}:{}", destination.target, if ports.is_empty() { "-".to_owned() } else { ports.join(",") })
    };
    Matching {
        users: grant.src.iter().map(Selector::to_string).collect(),
        ports: grant.dst.iter().map(ports).collect(),
        line: text.get(..grant.at.start).map_or(1, |before| before.matches('\n').count() + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{People, PolicyFile, Rules};
    use wayleave_model::{Timestamp, User, UserId, UserRole};

    const POLICY: &str = r#"{
        "groups": { "group:eng": ["anna@example.com"] },
        "hosts": { "db": "10.0.0.5" },
        "acls": [
            { "action": "accept", "src": ["group:eng"], "dst": ["db:5432", "10.1.0.0/16:22"] },
            { "action": "accept", "src": ["*"], "dst": ["*:53"] },
        ],
    }"#;

    fn policy() -> CompiledPolicy {
        let anna = User {
            id: UserId::new(1),
            name: "anna".to_owned(),
            display_name: String::new(),
            email: Some("anna@example.com".to_owned()),
            identity: None,
            picture: String::new(),
            role: UserRole::Member,
            created_at: Timestamp::from_millis(0),
        };
        let bert = User { id: UserId::new(2), name: "bert".to_owned(), email: None, ..anna.clone() };
        let file = Arc::new(PolicyFile::parse(POLICY, &Surroundings::default()).unwrap());
        CompiledPolicy::new(Arc::new(Rules::new(file, Arc::new(People::new(&[anna, bert])))))
    }

    fn lines(about: PreviewFor) -> Vec<usize> {
        policy().preview(&about, &Surroundings::default()).unwrap().iter().map(|matching| matching.line).collect()
    }

    #[test]
    fn a_users_rules_are_those_that_name_the_user_or_everybody() {
        assert_eq!(lines(PreviewFor::User("anna@example.com".to_owned())), [5, 6]);
        assert_eq!(lines(PreviewFor::User("bert@".to_owned())), [6]);
        let nobody = PreviewFor::User("nobody@example.com".to_owned());
        assert!(policy().preview(&nobody, &Surroundings::default()).is_err());
    }

    #[test]
    fn an_addresses_rules_are_those_that_open_the_port_there() {
        let at = |address: &str, port| PreviewFor::AddressPort(address.parse().unwrap(), port);
        assert_eq!(lines(at("10.0.0.5", 5432)), [5]);
        assert_eq!(lines(at("10.1.2.3", 22)), [5]);
        assert_eq!(lines(at("10.1.2.3", 53)), [6]);
        assert_eq!(lines(at("10.0.0.5", 80)), [0; 0]);
    }

    #[test]
    fn a_rule_is_told_as_it_is_written() {
        let anna = PreviewFor::User("anna@example.com".to_owned());
        let first = policy().preview(&anna, &Surroundings::default()).unwrap().remove(0);
        assert_eq!(first.users, ["group:eng"]);
        assert_eq!(first.ports, ["10.0.0.5:5432", "10.1.0.0/16:22"]);
    }
}
