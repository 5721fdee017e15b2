//! Namespaces and the links between them.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

const PREFIX: &str = "wl";
/// The server's address: it is the first host.
const SERVER: &str = "10.77.1.2";
/// A second address of the server's, for its relay.
pub const RELAY: &str = "10.77.200.2";

/// Runs a command, and fails with its words.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let out = Command::new(program).args(arguments).output()?;
    if !out.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The network of one test. Dropping it takes all of it down.
pub struct Net {
    id: String,
    names: Vec<String>,
    links: u8,
}

impl Net {
    /// A core that routes, and nothing else.
    pub fn new(serial: u32) -> anyhow::Result<Self> {
        let mut net = Self { id: format!("{PREFIX}{}-{serial}", std::process::id()), names: Vec::new(), links: 0 };
        net.add("core")?;
        net.inside("core", &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        Ok(net)
    }

    /// The whole name of a namespace.
    pub fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.id)
    }

    fn add(&mut self, short: &str) -> anyhow::Result<()> {
        let name = self.name(short);
        let dns = Path::new("/etc/netns").join(&name);
        std::fs::create_dir_all(&dns)?;
        std::fs::write(dns.join("resolv.conf"), "")?;
        self.names.push(name.clone());
        run("ip", &["netns", "add", &name])?;
        self.inside(short, &["ip", "link", "set", "lo", "up"])?;
        Ok(())
    }

    /// A namespace with a link to the core, and its address there.
    pub fn host(&mut self, short: &str) -> anyhow::Result<String> {
        self.add(short)?;
        self.links += 1;
        let n = self.links;
        let (core, name, port) = (self.name("core"), self.name(short), format!("p{n}"));
        let (near, far) = (format!("10.77.{n}.1"), format!("10.77.{n}.2"));
        run("ip", &["link", "add", &port, "netns", &core, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        self.inside("core", &["ip", "addr", "add", &format!("{near}/24"), "dev", &port])?;
        self.inside("core", &["ip", "link", "set", &port, "up"])?;
        self.inside(short, &["ip", "addr", "add", &format!("{far}/24"), "dev", "eth0"])?;
        self.inside(short, &["ip", "link", "set", "eth0", "up"])?;
        self.inside(short, &["ip", "route", "add", "default", "via", &near])?;
        Ok(far)
    }

    /// A host on "the internet": outside the private ranges, which clients do not send through an exit.
    pub fn internet(&mut self, short: &str) -> anyhow::Result<String> {
        self.add(short)?;
        let (core, name) = (self.name("core"), self.name(short));
        run("ip", &["link", "add", "inet", "netns", &core, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        for command in ["ip addr add 203.0.113.1/24 dev inet", "ip link set inet up"] {
            self.inside("core", &command.split(' ').collect::<Vec<_>>())?;
        }
        for command in
            ["ip addr add 203.0.113.10/24 dev eth0", "ip link set eth0 up", "ip route add default via 203.0.113.1"]
        {
            self.inside(short, &command.split(' ').collect::<Vec<_>>())?;
        }
        Ok("203.0.113.10".to_owned())
    }

    /// A LAN: a switch that is itself a host at 192.168.77.100, and runs nothing.
    pub fn lan(&mut self, short: &str) -> anyhow::Result<()> {
        self.lan_at(short, "192.168.77.100/24")
    }

    /// The same at another address.
    pub fn lan_at(&mut self, short: &str, address: &str) -> anyhow::Result<()> {
        self.add(short)?;
        let own = format!("ip addr add {address} dev sw0");
        for command in ["ip link add sw0 type bridge", &own, "ip link set sw0 up"] {
            self.inside(short, &command.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Plugs a host into a LAN, as 192.168.77.`last`, and lets it forward.
    pub fn plug(&self, host: &str, lan: &str, last: u8) -> anyhow::Result<()> {
        self.plug_at(host, lan, &format!("192.168.77.{last}/24"), last)
    }

    /// The same at another address.
    pub fn plug_at(&self, host: &str, lan: &str, address: &str, last: u8) -> anyhow::Result<()> {
        let (host_name, lan_name, port) = (self.name(host), self.name(lan), format!("h{last}"));
        run(
            "ip",
            &["link", "add", "eth1", "netns", &host_name, "type", "veth", "peer", "name", &port, "netns", &lan_name],
        )?;
        self.inside(lan, &["ip", "link", "set", &port, "master", "sw0", "up"])?;
        self.inside(host, &["ip", "addr", "add", address, "dev", "eth1"])?;
        self.inside(host, &["ip", "link", "set", "eth1", "up"])?;
        self.forwards(host)
    }

    /// Lets a host forward.
    pub fn forwards(&self, host: &str) -> anyhow::Result<()> {
        for key in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            self.inside(host, &["sysctl", "-qw", key])?;
        }
        Ok(())
    }

    /// Runs a command inside a namespace.
    pub fn inside(&self, short: &str, command: &[&str]) -> anyhow::Result<String> {
        let name = self.name(short);
        run("ip", &[&["netns", "exec", &name], command].concat())
    }

    /// Drops, or lets through again, all that goes to or comes from an address, in the core: nobody's own link notices.
    pub fn cut(&self, address: &str, cut: bool) -> anyhow::Result<()> {
        let verb = if cut { "-I" } else { "-D" };
        for side in ["-s", "-d"] {
            self.inside("core", &["iptables", verb, "FORWARD", side, address, "-j", "DROP"])?;
        }
        Ok(())
    }

    /// Takes a host's link to the core down, from its own side.
    pub fn detach(&self, host: &str) -> anyhow::Result<()> {
        self.inside(host, &["ip", "link", "set", "eth0", "down"]).map(drop)
    }

    /// Takes it up again; `address` is the host's own.
    pub fn attach(&self, host: &str, address: &str) -> anyhow::Result<()> {
        self.inside(host, &["ip", "link", "set", "eth0", "up"])?;
        let (network, _) = address.rsplit_once('.').unwrap_or((address, ""));
        self.inside(host, &["ip", "route", "replace", "default", "via", &format!("{network}.1")]).map(drop)
    }

    /// Drops all between two addresses.
    pub fn part(&self, a: &str, b: &str) -> anyhow::Result<()> {
        self.between(a, b, "-I")
    }

    /// Lets through again what [`Self::part`] dropped.
    pub fn join(&self, a: &str, b: &str) -> anyhow::Result<()> {
        self.between(a, b, "-D")
    }

    fn between(&self, a: &str, b: &str, verb: &str) -> anyhow::Result<()> {
        for (from, to) in [(a, b), (b, a)] {
            self.inside("core", &["iptables", verb, "FORWARD", "-s", from, "-d", to, "-j", "DROP"])?;
        }
        Ok(())
    }

    /// Gives the server a second address, [`RELAY`], at which it is reached like at the first.
    pub fn relay_address(&self) -> anyhow::Result<()> {
        self.inside("core", &["ip", "route", "add", RELAY, "via", SERVER])?;
        self.inside("server", &["ip", "addr", "add", &format!("{RELAY}/32"), "dev", "eth0"])?;
        let rule = ["-t", "nat", "-A", "PREROUTING", "-d", RELAY, "-j", "DNAT", "--to-destination", SERVER];
        self.inside("server", &[&["iptables"], &rule[..]].concat()).map(drop)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| remove(name));
    }
}

fn remove(name: &str) {
    // Whatever is left in it goes first; a namespace that is gone already is as good.
    if let Ok(pids) = run("ip", &["netns", "pids", name]) {
        for pid in pids.split_whitespace() {
            run("kill", &["-9", pid]).ok();
        }
    }
    run("ip", &["netns", "del", name]).ok();
    std::fs::remove_dir_all(Path::new("/etc/netns").join(name)).ok();
}

/// Takes down what runs that were killed have left.
pub fn sweep() {
    let Ok(list) = run("ip", &["netns", "list"]) else { return };
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner =
            name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).filter(|pid| pid.parse::<u32>().is_ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(name);
        }
    }
}
