//! Who the people of the tailnet are, as far as a policy asks.

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::{User, UserId, UserRole};

/// The users, by every name that a policy may call them by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    all: BTreeMap<UserId, Person>,
    by_login: BTreeMap<String, BTreeSet<UserId>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Person {
    email: Option<String>,
    role: UserRole,
}

impl People {
    /// These users.
    pub fn new<'a>(users: impl IntoIterator<Item = &'a User>) -> Self {
        let mut people = Self::default();
        for user in users {
            let name = user.name.to_lowercase();
            let email = user.email.as_ref().map(|email| email.to_lowercase());
            let mut logins = vec![name.clone()];
            if !name.contains('@') {
                logins.push(format!("{name}@"));
            }
            logins.extend(email.clone());
            for login in logins {
                people.by_login.entry(login).or_default().insert(user.id);
            }
            let email = email.or_else(|| name.contains('@').then(|| name.clone()));
            people.all.insert(user.id, Person { email, role: user.role });
        }
        people
    }

    /// The users that this text names: an e-mail address, a login name, or a name with `@` behind it. Case is of no account. Two
    /// imported users may share a name.
    pub(crate) fn named(&self, login: &str) -> impl Iterator<Item = UserId> {
        self.by_login.get(&login.to_lowercase()).into_iter().flatten().copied()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = UserId> {
        self.all.keys().copied()
    }

    /// The users whose e-mail address is in this domain.
    pub(crate) fn of_domain<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = UserId> + 'a {
        self.all().filter(move |user| self.local_part(*user, domain).is_some())
    }

    /// What stands before the `@` of the user's e-mail address, if it is in this domain.
    pub(crate) fn local_part(&self, user: UserId, domain: &str) -> Option<&str> {
        let (local, own) = self.all.get(&user)?.email.as_deref()?.rsplit_once('@')?;
        (own == domain && !local.is_empty()).then_some(local)
    }

    /// The users of a role. Whoever owns the tailnet is an admin too.
    pub(crate) fn of_role(&self, role: UserRole) -> impl Iterator<Item = UserId> {
        let fits = move |own: UserRole| own == role || (role == UserRole::Admin && own == UserRole::Owner);
        self.all.iter().filter(move |(_, person)| fits(person.role)).map(|(user, _)| *user)
    }
}

/// Which domains `user:*@domain` may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domains {
    /// These. Users may have others, and yet those may not be named.
    Only(BTreeSet<String>),
    /// Any.
    Any,
}

impl Domains {
    pub(crate) fn check(&self, domain: &str) -> Result<(), String> {
        let known = match self {
            Self::Any => domain.contains('.') && !domain.contains('*'),
            Self::Only(domains) => domains.contains(domain),
        };
        // The wording is the hosted control plane's (conformance case ssh-b4).
        let refusal = "is not associated with this Tailnet and cannot be used in user:*@<domain> expressions";
        if known { Ok(()) } else { Err(format!("[ssh] {domain} {refusal}")) }
    }
}

/// What a policy is read against, beside its own text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The domains of the tailnet.
    pub domains: Domains,
    /// The numbers of the 4via6 sites that have a name.
    pub sites: BTreeMap<String, u32>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { domains: Domains::Any, sites: BTreeMap::new() }
    }
}
