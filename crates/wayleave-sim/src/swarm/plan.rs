//! What is to be measured.

use std::path::PathBuf;

use clap::ValueEnum;

/// How many clients, under which policy, through which stages.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server's binary.
    pub server: PathBuf,
    /// How many nodes there are in all, three routers among them.
    pub clients: usize,
    /// Who sees whom.
    pub policy: Policy,
    /// What is done, in this order.
    pub stages: Vec<Stage>,
    /// How many failovers.
    pub failovers: usize,
    /// How long nothing is done, in seconds.
    pub idle: u64,
    /// How long some come and go, in seconds.
    pub flapping: u64,
    /// How long a stage may take, in seconds.
    pub patience: u64,
    /// How many clients dial at once.
    pub dialling: usize,
}

/// Who sees whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Everybody everybody.
    AcceptAll,
    /// Fifty groups: most see only their own, each tenth the next one too; all may use the routers.
    Groups,
}

/// How many groups there are.
pub(crate) const GROUPS: usize = 50;

/// Something that happens to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// All join, and leave before anybody is told. Only where it is asked for: so many nodes are there sooner, since nobody has to be told
    /// of each that comes.
    Register,
    /// All join, or come back.
    Connect,
    /// Nothing happens.
    Idle,
    /// One route is approved.
    Approve,
    /// The primary of a prefix dies, again and again.
    Failover,
    /// One client in a hundred loses its connection and comes back.
    Flap,
    /// All lose their connections, and come back at once; a router dies meanwhile.
    Storm,
    /// The policy changes for one group.
    Policy,
    /// All lose their connections and come back at once, and a tenth of them reads nothing of its map. Only where it is asked for: it takes
    /// until those are cut off.
    Stuck,
}

impl Stage {
    /// All that are usual, in their order.
    pub const ALL: [Self; 7] =
        [Self::Connect, Self::Idle, Self::Approve, Self::Failover, Self::Flap, Self::Policy, Self::Storm];
}

impl Policy {
    /// The policy's text; `more`: one group may reach one more.
    pub(crate) fn text(self, more: bool) -> String {
        let mut rules = Vec::new();
        let mut allow = |from: &str, to: &str| {
            rules.push(serde_json::json!({ "action": "accept", "src": [from], "dst": [format!("{to}:*")] }));
        };
        let mut groups = serde_json::Map::new();
        match self {
            Self::AcceptAll => allow("*", "*"),
            Self::Groups => {
                for n in 0..GROUPS {
                    groups.insert(format!("group:g{n:02}"), serde_json::json!([format!("g{n:02}@")]));
                    allow(&format!("group:g{n:02}"), &format!("group:g{n:02}"));
                    if n % 10 == 0 {
                        allow(&format!("group:g{n:02}"), &format!("group:g{:02}", (n + 1) % GROUPS));
                    }
                }
                allow("*", "10.96.0.0/12");
                if more {
                    allow("group:g05", "group:g06");
                }
            }
        }
        serde_json::json!({ "groups": groups, "acls": rules }).to_string()
    }

    /// The groups that a group's members see, their own among them.
    pub(crate) fn seen_by(self, group: usize, more: bool) -> Vec<usize> {
        let mut seen = vec![group];
        if self == Self::Groups {
            let pairs = (0..GROUPS).step_by(10).map(|n| (n, (n + 1) % GROUPS)).chain(more.then_some((5, 6)));
            for (a, b) in pairs {
                if a == group {
                    seen.push(b);
                } else if b == group {
                    seen.push(a);
                }
            }
        }
        seen
    }
}
