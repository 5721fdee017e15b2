//! The stages, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::bits::Bits;
use super::crowd::{Crowd, Viewer, Want};
use super::host::{Host, own_cpu, tcp_memory, wall_micros};
use super::plan::{GROUPS, Plan, Policy, Stage};
use super::report::{Report, StageReport, percentile};

/// The prefix that moves, and the one that is approved later.
const MOVES: &str = "10.99.0.0/16";
const LATER: &str = "10.98.0.0/16";
/// Sessions that are lost within a second are one common loss, if they are more than half of all; a little more than that.
const COMMON_LOSS: Duration = Duration::from_millis(1200);
/// How long a client may take nothing of its map, where that is played.
const STUCK: Duration = Duration::from_secs(20);
/// Routers are in a group of their own, behind those of the clients.
const ROUTERS: usize = GROUPS;

/// Runs a plan. What has to come of each stage is waited for; an error is what did not.
///
/// # Errors
///
/// The server fails, or a viewer is not told what it has to be told, or is told what can't be.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let patience = format!("limits.stuck={}s", STUCK.as_secs());
    let more = if plan.stages.contains(&Stage::Stuck) { vec!["--set".to_owned(), patience] } else { Vec::new() };
    let host = Host::start(&plan.server, &more)?;
    let base_memory = host.memory().0;
    let crowd = Crowd::new(host.address(), host.public_key().await?, MOVES, plan.dialling);
    let mut bench = Bench {
        plan,
        host,
        crowd,
        base_memory,
        routers: Vec::new(),
        primary: 0,
        all_approved: false,
        more: false,
        lost: 0,
    };
    let processors = std::thread::available_parallelism()?.get();
    let mut report = Report {
        clients: plan.clients,
        policy: match plan.policy {
            Policy::AcceptAll => "accept-all",
            Policy::Groups => "groups",
        },
        processors,
        stages: Vec::new(),
    };
    bench.prepare().await?;
    for stage in &plan.stages {
        if *stage == Stage::Policy && plan.policy == Policy::AcceptAll {
            continue;
        }
        let done = bench.stage(*stage, processors).await;
        report.stages.push(done.with_context(|| format!("{stage:?}"))?);
        let faults = bench.crowd.faults();
        if !faults.is_empty() {
            bail!("{stage:?}: clients were told what can't be: {faults:?}");
        }
        if bench.lost > 0 && !matches!(stage, Stage::Connect | Stage::Storm | Stage::Stuck) {
            let warned = bench.host.faults();
            bail!("{stage:?}: {} connections ended that nobody cut; the server warned of {warned:?}", bench.lost);
        }
    }
    Ok(report)
}

struct Bench<'a> {
    plan: &'a Plan,
    host: Host,
    crowd: Arc<Crowd>,
    base_memory: u64,
    routers: Vec<Arc<Viewer>>,
    /// Which of the routers carries the prefix.
    primary: usize,
    /// The third router is approved too.
    all_approved: bool,
    /// The policy lets one group see one more.
    more: bool,
    /// Connections that ended in the last stage although nobody cut them, or that could not be made.
    lost: usize,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
const fn float(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
const fn count(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
const fn millis(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

impl Bench<'_> {
    async fn prepare(&mut self) -> anyhow::Result<()> {
        self.host.set_policy(&self.plan.policy.text(false))?;
        let groups = if self.plan.policy == Policy::Groups { GROUPS } else { 1 };
        let mut keys = Vec::new();
        for user in (0..groups).map(|n| format!("g{n:02}")).chain(["net".to_owned()]) {
            self.host.ask(&["users", "create", &user])?;
            let key = self.host.ask(&["keys", "create", "--user", &user, "--reusable"])?;
            keys.push(key["key"].as_str().with_context(|| format!("no key in {key}"))?.to_owned());
        }
        let net = keys.pop().context("no key for routers")?;
        for (name, prefix) in [("r1", MOVES), ("r2", MOVES), ("r3", LATER)] {
            let router = self.crowd.add(name.to_owned(), ROUTERS, net.clone(), vec![prefix.to_owned()]);
            self.crowd.connect(&router);
            self.routers.push(router);
            self.crowd.all_in(self.patience()).await?;
        }
        for name in ["r1", "r2"] {
            self.approve(name, MOVES).await?;
        }
        for index in 0..self.plan.clients.saturating_sub(self.routers.len()) {
            let group = index % groups;
            self.crowd.add(format!("c{index:05}"), group, keys[group].clone(), Vec::new());
        }
        Ok(())
    }

    const fn patience(&self) -> Duration {
        Duration::from_secs(self.plan.patience)
    }

    /// Approves, as soon as the router has said that it advertises.
    async fn approve(&self, router: &str, prefix: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.patience();
        loop {
            let list = self.host.ask(&["routes", "list", "--node", router])?;
            if list.to_string().contains(prefix) {
                return self.host.ask(&["routes", "approve", "--node", router, prefix]).map(drop);
            }
            if Instant::now() > deadline {
                bail!("{router} does not advertise {prefix}: {list}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stage(&mut self, stage: Stage, processors: usize) -> anyhow::Result<StageReport> {
        self.crowd.traffic();
        let mut report = StageReport {
            stage: format!("{stage:?}").to_lowercase(),
            wall_s: 0.0,
            server_cpu_s: 0.0,
            swarm_cpu_s: 0.0,
            swarm_share: 0.0,
            figures: Vec::new(),
        };
        let (started, server, own) = (Instant::now(), self.host.cpu(), own_cpu());
        match stage {
            Stage::Register => self.register(&mut report).await?,
            Stage::Connect => self.connect(&mut report).await?,
            Stage::Idle => self.idle(&mut report).await,
            Stage::Approve => self.approve_one(&mut report).await?,
            Stage::Failover => self.failovers(&mut report).await?,
            Stage::Flap => self.flap(&mut report).await?,
            Stage::Storm => self.storm(&mut report).await?,
            Stage::Policy => self.change_policy(&mut report).await?,
            Stage::Stuck => self.stuck(&mut report).await?,
        }
        report.wall_s = started.elapsed().as_secs_f64();
        report.server_cpu_s = (self.host.cpu() - server).as_secs_f64();
        report.swarm_cpu_s = (own_cpu() - own).as_secs_f64();
        report.swarm_share = report.swarm_cpu_s / (report.wall_s * count(processors));
        self.lost = self.crowd.lost.swap(0, Ordering::Relaxed);
        report.add("connections lost that nobody cut", count(self.lost), "");
        let (frames, bytes) = self.crowd.traffic();
        report.add("frames to clients", float(frames), "");
        report.add("bytes to clients, compressed", float(bytes) / 1e6, "MB");
        Ok(report)
    }

    /// Which nodes each group sees, all of them being in.
    fn everybody(&self) -> Want {
        let viewers = self.crowd.viewers();
        let mut groups = vec![Bits::default(); GROUPS + 1];
        for viewer in &viewers {
            groups[viewer.group].insert(viewer.id());
        }
        if self.plan.policy == Policy::AcceptAll {
            let all: Bits = viewers.iter().map(|viewer| viewer.id()).collect();
            return Want::Knows(vec![all; GROUPS + 1]);
        }
        // Who leads to what all may use is seen by all and sees all; who is not approved is seen by nobody.
        let approved: Vec<u64> =
            self.routers.iter().filter(|router| self.is_approved(router)).map(|router| router.id()).collect();
        let seen = (0..GROUPS).map(|group| {
            let mut all: Bits = approved.iter().copied().collect();
            for other in self.plan.policy.seen_by(group, self.more) {
                viewers.iter().filter(|viewer| viewer.group == other).for_each(|viewer| all.insert(viewer.id()));
            }
            all
        });
        Want::Knows(seen.collect())
    }

    fn is_approved(&self, router: &Viewer) -> bool {
        router.name != "r3" || self.all_approved
    }

    async fn register(&self, report: &mut StageReport) -> anyhow::Result<()> {
        let started = Instant::now();
        let viewers = self.crowd.viewers();
        let mut joining = tokio::task::JoinSet::new();
        for viewer in viewers.iter().filter(|viewer| !viewer.is_router) {
            let (crowd, viewer) = (Arc::clone(&self.crowd), Arc::clone(viewer));
            joining.spawn(async move { crowd.register(&viewer).await });
        }
        while let Some(done) = tokio::time::timeout(self.patience(), joining.join_next()).await? {
            done??;
        }
        report.add("all registered", started.elapsed().as_secs_f64(), "s");
        Ok(())
    }

    async fn connect(&mut self, report: &mut StageReport) -> anyhow::Result<()> {
        let (started, began, cpu) = (Instant::now(), wall_micros(), self.host.cpu());
        let viewers = self.crowd.viewers();
        viewers.iter().filter(|viewer| !viewer.is_router).for_each(|viewer| self.crowd.connect(viewer));
        self.crowd.all_in(self.patience()).await?;
        let took = started.elapsed().as_secs_f64();
        let joined = viewers.iter().map(|viewer| viewer.joined_at()).max().unwrap_or(0) - began;
        // Those that were registered before only come back.
        if joined > 0 {
            report.add("all registered", millis(joined) / 1000.0, "s");
        }
        report.add("all have a first map", took, "s");
        let goal = self.crowd.want(self.everybody());
        self.crowd.reach(&goal, self.patience()).await?;
        report.add("everybody sees everybody", started.elapsed().as_secs_f64(), "s");
        let cpu = (self.host.cpu() - cpu).as_secs_f64();
        report.add("server CPU for each client", cpu * 1000.0 / count(viewers.len()), "ms");
        Ok(())
    }

    async fn idle(&self, report: &mut StageReport) {
        let (started, cpu) = (Instant::now(), self.host.cpu());
        tokio::time::sleep(Duration::from_secs(self.plan.idle)).await;
        let share = (self.host.cpu() - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
        report.add("server CPU, of one processor", share * 100.0, "%");
        let memory = self.host.memory().0;
        report.add("resident memory", float(memory) / 1e6, "MB");
        let each = float(memory.saturating_sub(self.base_memory)) / 1024.0 / count(self.plan.clients);
        report.add("resident memory for each client", each, "KiB");
    }

    async fn approve_one(&mut self, report: &mut StageReport) -> anyhow::Result<()> {
        let router = self.routers[2].id();
        self.crowd.watch_prefix(LATER);
        let goal = self.crowd.want(Want::Carrier { now: router, before: None });
        let (asked, cpu) = (wall_micros(), self.host.cpu());
        self.approve("r3", LATER).await?;
        self.all_approved = true;
        let reached = self.crowd.reach(&goal, self.patience()).await?;
        let cpu = (self.host.cpu() - cpu).as_secs_f64();
        self.crowd.watch_prefix(MOVES);
        let times = sorted(reached.iter().map(|(_, at)| millis(at - asked)).collect());
        report.add("asked to last viewer", percentile(&times, 1.0), "ms");
        report.add("server CPU", cpu * 1000.0, "ms");
        report.add("server CPU for each viewer", cpu * 1e6 / count(times.len()), "us");
        Ok(())
    }

    /// Asks who carries the prefix that moves: what a stage did to the routers may have moved it.
    fn look_for_primary(&mut self) -> anyhow::Result<()> {
        let list = self.host.ask(&["routes", "list", "--prefix", MOVES])?;
        let carrier = list.as_array().into_iter().flatten().find(|row| row["is_primary"] == true);
        let node = carrier.and_then(|row| row["node"]["id"].as_u64());
        let place = self.routers[..2].iter().position(|router| Some(router.id()) == node);
        self.primary = place.with_context(|| format!("neither of two routers carries {MOVES}: {list}"))?;
        Ok(())
    }

    /// Kills the primary. Returns how long that took to be decided, and how much later each viewer knew, by its place.
    async fn fail_over(&mut self) -> anyhow::Result<(f64, i64, Vec<(usize, f64)>)> {
        let dies = Arc::clone(&self.routers[self.primary]);
        let (before, now) = (dies.id(), self.routers[1 - self.primary].id());
        let moves = self.host.moves();
        let goal = self.crowd.want(Want::Carrier { now, before: Some(before) });
        let killed = wall_micros();
        self.crowd.cut(&dies);
        let reached = self.crowd.reach(&goal, self.patience()).await?;
        // The log may come a moment later than the maps.
        let deadline = Instant::now() + Duration::from_secs(5);
        let decided = loop {
            if let Some(at) = self.host.moves_after(moves).first() {
                break *at;
            }
            if Instant::now() > deadline {
                bail!("the server did not log its decision");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        self.primary = 1 - self.primary;
        self.crowd.connect(&dies);
        Ok((millis(decided - killed), decided, reached.iter().map(|(who, at)| (*who, millis(at - decided))).collect()))
    }

    async fn failovers(&mut self, report: &mut StageReport) -> anyhow::Result<()> {
        let (mut all, mut firsts, mut lasts, mut decided) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut cpu = 0.0;
        self.look_for_primary()?;
        for _ in 0..self.plan.failovers {
            let before = self.host.cpu();
            let (after, _, times) = self.fail_over().await?;
            cpu += (self.host.cpu() - before).as_secs_f64();
            let times = sorted(times.into_iter().map(|(_, time)| time).collect());
            decided.push(after);
            firsts.push(percentile(&times, 0.0));
            lasts.push(percentile(&times, 1.0));
            all.extend(times);
            // The one that died has to be back before the other one dies.
            self.crowd.all_in(self.patience()).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let (all, lasts) = (sorted(all), sorted(lasts));
        report.add("lost to decided, p50", percentile(&sorted(decided), 0.5), "ms");
        report.add("decided to first viewer, p50", percentile(&sorted(firsts), 0.5), "ms");
        report.add("decided to viewer, p50", percentile(&all, 0.5), "ms");
        report.add("decided to viewer, p99", percentile(&all, 0.99), "ms");
        report.add("decided to last viewer, p50", percentile(&lasts, 0.5), "ms");
        report.add("decided to last viewer, worst", percentile(&lasts, 1.0), "ms");
        report.add("server CPU for each failover", cpu * 1000.0 / count(self.plan.failovers.max(1)), "ms");
        Ok(())
    }

    async fn flap(&mut self, report: &mut StageReport) -> anyhow::Result<()> {
        let viewers = self.crowd.viewers();
        let some: Vec<_> = viewers.iter().filter(|viewer| !viewer.is_router).step_by(100).collect();
        let cpu = self.host.cpu();
        let end = Instant::now() + Duration::from_secs(self.plan.flapping);
        let mut rounds = 0_usize;
        while Instant::now() < end {
            for viewer in &some {
                self.crowd.cut(viewer);
                self.crowd.connect(viewer);
            }
            self.crowd.all_in(self.patience()).await?;
            rounds += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let cpu = (self.host.cpu() - cpu).as_secs_f64();
        let goal = self.crowd.want(self.everybody());
        self.crowd.reach(&goal, self.patience()).await?;
        report.add("reconnects", count(rounds * some.len()), "");
        report.add("server CPU for each reconnect", cpu * 1000.0 / count((rounds * some.len()).max(1)), "ms");
        Ok(())
    }

    async fn change_policy(&mut self, report: &mut StageReport) -> anyhow::Result<()> {
        self.more = !self.more;
        let goal = self.crowd.want(self.everybody());
        let (asked, cpu) = (wall_micros(), self.host.cpu());
        self.host.set_policy(&self.plan.policy.text(self.more))?;
        let reached = self.crowd.reach(&goal, self.patience()).await?;
        // Whoever is not concerned would be told now, if anything.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let cpu = (self.host.cpu() - cpu).as_secs_f64();
        let times = reached.iter().map(|(_, at)| millis(at - asked)).filter(|time| *time > 0.0);
        report.add("asked to last viewer concerned", percentile(&sorted(times.collect()), 1.0), "ms");
        report.add("server CPU", cpu * 1000.0, "ms");
        Ok(())
    }

    async fn storm(&mut self, report: &mut StageReport) -> anyhow::Result<()> {
        let viewers = self.crowd.viewers();
        self.look_for_primary()?;
        self.host.forget_peak();
        let tcp_before = tcp_memory();
        let tcp = Peak::of_tcp();
        for viewer in &viewers {
            self.crowd.cut(viewer);
        }
        let (started, cpu) = (Instant::now(), self.host.cpu());
        // Routers come back as everybody does, and one of them dies once half of the others have their maps.
        for viewer in &viewers {
            self.crowd.connect(viewer);
        }
        let half = viewers.len() / 2;
        let deadline = Instant::now() + self.patience();
        while viewers.iter().filter(|viewer| viewer.times().1 > 0).count() < half
            || self.routers.iter().any(|router| router.times().1 == 0)
        {
            if Instant::now() > deadline {
                bail!("half of the clients had no map in time");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // What is lost within a second of all the others counts as lost with them, and waits for them to come back.
        tokio::time::sleep(COMMON_LOSS.saturating_sub(started.elapsed())).await;
        let (after, decided, times) = self.fail_over().await?;
        let had: Vec<f64> = times
            .into_iter()
            .filter(|(who, _)| viewers.get(*who).is_some_and(|viewer| (1..decided).contains(&viewer.times().1)))
            .map(|(_, time)| time)
            .collect();
        self.crowd.all_in(self.patience()).await?;
        report.add("all have a map", started.elapsed().as_secs_f64(), "s");
        let goal = self.crowd.want(self.everybody());
        self.crowd.reach(&goal, self.patience()).await?;
        report.add("everybody sees everybody", started.elapsed().as_secs_f64(), "s");
        report.add("server CPU in all", (self.host.cpu() - cpu).as_secs_f64(), "s");
        let took = sorted(viewers.iter().map(|viewer| millis(viewer.times().1 - viewer.times().0)).collect());
        report.add("dialled to map, p50", percentile(&took, 0.5), "ms");
        report.add("dialled to map, p99", percentile(&took, 0.99), "ms");
        report.add("failover meanwhile: lost to decided", after, "ms");
        report.add("failover meanwhile: viewers that had a map", count(had.len()), "");
        report.add("failover meanwhile: decided to viewer, p99", percentile(&sorted(had), 0.99), "ms");
        let (peak, tcp) = (self.host.memory().1, tcp.most().saturating_sub(tcp_before));
        report.add("resident memory, peak", float(peak) / 1e6, "MB");
        report.add("TCP memory of both ends, peak", float(tcp) / 1e6, "MB");
        Ok(())
    }
}

impl Bench<'_> {
    /// Nobody but those that read nothing has to wait for that, and what is kept for them is bounded.
    async fn stuck(&mut self, report: &mut StageReport) -> anyhow::Result<()> {
        let viewers = self.crowd.viewers();
        let some: Vec<_> = viewers.iter().filter(|viewer| !viewer.is_router).skip(9).step_by(10).collect();
        self.host.forget_peak();
        let (tcp_before, cut_before) = (tcp_memory(), self.host.cut_off());
        let tcp = Peak::of_tcp();
        viewers.iter().for_each(|viewer| self.crowd.cut(viewer));
        some.iter().for_each(|viewer| viewer.stick(true));
        let started = Instant::now();
        viewers.iter().for_each(|viewer| self.crowd.connect(viewer));
        self.crowd.all_in(self.patience()).await?;
        report.add("all others have a map", started.elapsed().as_secs_f64(), "s");
        let goal = self.crowd.want(self.everybody());
        self.crowd.reach(&goal, self.patience()).await?;
        report.add("all others see everybody", started.elapsed().as_secs_f64(), "s");
        let (peak, most) = (self.host.memory().1, tcp.most().saturating_sub(tcp_before));
        report.add("read nothing", count(some.len()), "");
        report.add("resident memory, peak", float(peak) / 1e6, "MB");
        report.add("TCP memory of both ends, peak", float(most) / 1e6, "MB");
        self.look_for_primary()?;
        let (_, _, times) = self.fail_over().await?;
        let times = sorted(times.into_iter().map(|(_, time)| time).collect());
        report.add("failover: decided to last viewer that reads", percentile(&times, 1.0), "ms");
        // They are cut off, as far as the kernels did not take all that there was to tell.
        let (mut cut, mut last) = (0, started.elapsed());
        while cut < some.len() && started.elapsed() < last.max(STUCK) + STUCK * 2 {
            let now = self.host.cut_off() - cut_before;
            if now > cut {
                (cut, last) = (now, started.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        report.add("cut off", count(cut), "");
        if cut > 0 {
            report.add("dialled to the last of them cut off", last.as_secs_f64(), "s");
        }
        report.add("resident memory, when they are", float(self.host.memory().0) / 1e6, "MB");
        for viewer in &some {
            viewer.stick(false);
            self.crowd.cut(viewer);
            self.crowd.connect(viewer);
        }
        self.crowd.all_in(self.patience()).await
    }
}

/// The most memory that TCP had while it was looked at.
struct Peak {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Peak {
    fn of_tcp() -> Self {
        let (most, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (into, end) = (Arc::clone(&most), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                into.fetch_max(tcp_memory(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { most, stop }
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
