//! What is counted, for Prometheus. `docs/metrics.md` says what each name means.
//!
//! Counters and histograms grow where things happen; what can be looked up (nodes, routes, lengths of queues) is looked up when it is asked
//! for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use wayleave_model::Approver;
use wayleave_routes::{Because, Cause, Gone, Kind, Verdict};
use wayleave_tailnet::{Effect, Tailnet};

use crate::deliveries::{Deliveries, Told};

type Label = [(&'static str, String); 1];

/// From a millisecond to sixteen seconds.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Makes the histogram of a label.
#[derive(Clone, Debug)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        seconds()
    }
}

/// What a frame of a map stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The whole map.
    Full,
    /// What changed.
    Delta,
    /// Nothing, so that the stream lives.
    KeepAlive,
    /// A question to the client.
    Ask,
}

impl Frame {
    const ALL: [Self; 4] = [Self::Full, Self::Delta, Self::KeepAlive, Self::Ask];

    const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Delta => "delta",
            Self::KeepAlive => "keep_alive",
            Self::Ask => "ask",
        }
    }
}

/// An operation of the store that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// What a person asked for becomes durable.
    Commit,
    /// What is in force becomes durable.
    WriteBehind,
    /// After a failure it is tried whether anything can be written again.
    Try,
}

impl Operation {
    const ALL: [Self; 3] = [Self::Commit, Self::WriteBehind, Self::Try];

    const fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::WriteBehind => "write_behind",
            Self::Try => "try",
        }
    }
}

/// The causes of a failover. Who moved a prefix is in the history, and no label: there may be any number of them.
fn cause(because: &Because) -> String {
    if matches!(because, Because::MovedBy(_)) { "moved".to_owned() } else { because.to_string() }
}

/// All for which a prefix goes from one router to another.
fn causes() -> impl Iterator<Item = Because> {
    let of_old = Cause::ALL.into_iter();
    let some = [
        Because::JoinedFirst,
        Because::HigherPriority,
        Because::BetterRank,
        Because::IncumbentFlapping,
        Because::IncumbentDrained,
        Because::MovedBy(Approver::Cli),
        Because::OnlyCandidate,
        Because::LastKnown,
    ];
    (some.into_iter())
        .chain(of_old.clone().map(Because::IncumbentDown))
        .chain(of_old.map(Because::IncumbentSuspect))
        .chain(Gone::ALL.map(Because::IncumbentGone))
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    frames: Family<Label, Counter>,
    bytes: Family<Label, Counter>,
    delivery: Histogram,
    last_delivery: Histogram,
    evidence: Family<[(&'static str, String); 2], Counter>,
    failovers: Family<Label, Counter>,
    store: Family<Label, Histogram, Seconds>,
    deliveries: Mutex<Deliveries>,
    commands_waiting: AtomicI64,
    rows_behind: AtomicI64,
    store_fails: AtomicBool,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("wayleave");
        let (frames, bytes) = (Family::<Label, Counter>::default(), Family::<Label, Counter>::default());
        let evidence = Family::<[(&'static str, String); 2], Counter>::default();
        let failovers = Family::<Label, Counter>::default();
        let (delivery, last_delivery) = (seconds(), seconds());
        let store = Family::new_with_constructor(Seconds);
        // What can be counted begins at 0: Prometheus does not see a counter grow that begins with 1.
        for frame in Frame::ALL {
            drop(frames.get_or_create(&[("kind", frame.word().to_owned())]));
            drop(bytes.get_or_create(&[("kind", frame.word().to_owned())]));
        }
        for because in causes() {
            drop(failovers.get_or_create(&[("cause", cause(&because))]));
        }
        for kind in Kind::ALL {
            for verdict in [Verdict::Convicted, Verdict::Observed, Verdict::Acquitted] {
                let verdict = verdict(Cause::NotSeen).word().to_owned();
                drop(evidence.get_or_create(&[("kind", kind.word().to_owned()), ("verdict", verdict)]));
            }
        }
        for operation in Operation::ALL {
            drop(store.get_or_create(&[("operation", operation.word().to_owned())]));
        }
        registry.register("map_frames", "Frames of map streams that were handed to the transport", frames.clone());
        registry.register_with_unit(
            "map_frames_size",
            "Bytes of those frames, as they are sent",
            Unit::Bytes,
            bytes.clone(),
        );
        registry.register_with_unit(
            "map_delivery",
            "From a decision until a viewer that it concerns has been handed it",
            Unit::Seconds,
            delivery.clone(),
        );
        registry.register_with_unit(
            "map_delivery_last",
            "From a decision until the last viewer that it concerns has been handed it",
            Unit::Seconds,
            last_delivery.clone(),
        );
        registry.register("evidence", "Verdicts about routers, by kind of evidence", evidence.clone());
        registry.register("failovers", "Prefixes that went from one router to another, by cause", failovers.clone());
        registry.register_with_unit("store", "How long the database took", Unit::Seconds, store.clone());
        Self {
            registry,
            frames,
            bytes,
            delivery,
            last_delivery,
            evidence,
            failovers,
            store,
            deliveries: Mutex::default(),
            commands_waiting: AtomicI64::new(0),
            rows_behind: AtomicI64::new(0),
            store_fails: AtomicBool::new(false),
        }
    }
}

impl Metrics {
    /// A frame was handed to the transport, whole.
    pub fn frame(&self, kind: Frame, bytes: u64) {
        let label = [("kind", kind.word().to_owned())];
        self.frames.get_or_create(&label).inc();
        self.bytes.get_or_create(&label).inc_by(bytes);
    }

    /// There is a new picture.
    pub fn picture(&self, version: u64) {
        let told = self.deliveries().made(version, Instant::now());
        self.observe(&told);
    }

    /// A viewer was brought from one picture to another, and `wrote`: it was handed a frame for that. One that has just got its first map
    /// comes from nowhere.
    pub fn delivered(&self, from: Option<u64>, to: u64, wrote: bool) {
        let told = self.deliveries().moved(from, to, wrote, Instant::now());
        self.observe(&told);
    }

    /// A viewer that stood at this picture is gone.
    pub fn left(&self, from: u64) {
        let told = self.deliveries().gone(from);
        self.observe(&told);
    }

    fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observe(&self, told: &Told) {
        if let Some(own) = told.own {
            self.delivery.observe(own.as_secs_f64());
        }
        for last in &told.last {
            self.last_delivery.observe(last.as_secs_f64());
        }
    }

    /// The database was asked for something.
    pub fn stored(&self, operation: Operation, took: Duration, failed: bool) {
        self.store.get_or_create(&[("operation", operation.word().to_owned())]).observe(took.as_secs_f64());
        if self.store_fails.swap(failed, Ordering::Relaxed) && !failed {
            tracing::info!("the database takes what is written to it again");
        }
    }

    /// How much waits for the database.
    pub fn waits(&self, commands: usize, rows: usize) {
        self.commands_waiting.store(i64::try_from(commands).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.rows_behind.store(i64::try_from(rows).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Whether the last write to the database failed.
    pub fn store_fails(&self) -> bool {
        self.store_fails.load(Ordering::Relaxed)
    }

    /// Counts what follows from an effect.
    pub fn effect(&self, effect: &Effect) {
        if let Effect::PrimaryChanged(change) = effect
            && change.from.is_some()
            && change.to.is_some()
        {
            self.failovers.get_or_create(&[("cause", cause(&change.because))]).inc();
        }
        if let Effect::Judged(judgement) = effect {
            let verdict: Verdict = judgement.verdict;
            let kind = verdict.cause().kind().word().to_owned();
            self.evidence.get_or_create(&[("kind", kind), ("verdict", verdict.word().to_owned())]).inc();
        }
    }

    /// Everything, as OpenMetrics text; without what the control loop has to say where it says nothing.
    pub fn text(&self, inbox: usize, webhook_calls: Option<u64>, now: Option<&Now>) -> String {
        let mut looked_up = Registry::with_prefix("wayleave");
        let mut gauge = |name: &str, help: &str, value: i64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(value);
            looked_up.register(name, help, gauge);
        };
        gauge("control_loop_answers", "Whether the control loop answers", i64::from(now.is_some()));
        gauge("inbox_length", "Inputs that wait for the control loop", i64::try_from(inbox).unwrap_or(i64::MAX));
        gauge("commands_waiting", "Commands that wait for the database", self.commands_waiting.load(Ordering::Relaxed));
        gauge("rows_behind", "Facts in force that are not durable yet", self.rows_behind.load(Ordering::Relaxed));
        gauge("store_fails", "Whether the last write to the database failed", i64::from(self.store_fails()));
        if let Some(calls) = webhook_calls {
            let calls = i64::try_from(calls).unwrap_or(i64::MAX);
            gauge("webhook_calls_waiting", "Calls of webhooks that are still to be made", calls);
        }
        if let Some(now) = now {
            gauge("nodes", "Nodes", now.nodes);
            gauge("map_sessions", "Map sessions that are open", now.sessions);
            gauge("prefixes_down", "Prefixes that have a router of which none is up", now.prefixes_down);
            let routes = Family::<Label, Gauge>::default();
            for (state, count) in &now.routes {
                routes.get_or_create(&[("state", (*state).to_owned())]).set(*count);
            }
            looked_up.register("routes", "Routes, by state", routes);
        }
        let behind = Gauge::<f64, AtomicU64>::default();
        behind.set(self.deliveries().behind(Instant::now()).as_secs_f64());
        let help = "How long the viewer that is furthest behind has been behind";
        looked_up.register_with_unit("map_viewers_behind", help, Unit::Seconds, behind);
        let mut out = String::new();
        // Writing into a string does not fail.
        text::encode_registry(&mut out, &self.registry).ok();
        text::encode_registry(&mut out, &looked_up).ok();
        text::encode_eof(&mut out).ok();
        out
    }
}

/// What is looked up.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// Nodes.
    pub nodes: i64,
    /// Map sessions that are open.
    pub sessions: i64,
    /// Prefixes that have a router of which none is up.
    pub prefixes_down: i64,
    /// Routes by state, all states among them.
    pub routes: BTreeMap<&'static str, i64>,
}

impl Now {
    /// What a tailnet has to tell.
    pub fn of(tailnet: &Tailnet) -> Self {
        let table = tailnet.routes();
        let mut routes: BTreeMap<&'static str, i64> =
            wayleave_routes::RouteState::WORDS.into_iter().map(|word| (word, 0)).collect();
        for row in table.rows() {
            *routes.entry(table.state(row).word()).or_default() += 1;
        }
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            nodes: count(tailnet.registry().node_count()),
            sessions: count(tailnet.open_sessions()),
            prefixes_down: count(table.seats().filter(|(_, seat)| !table.is_up(seat.node)).count()),
            routes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use wayleave_model::NodeId;
    use wayleave_routes::PrimaryChange;

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.frame(Frame::Full, 1000);
        metrics.frame(Frame::Delta, 20);
        metrics.frame(Frame::Delta, 22);
        let change = PrimaryChange {
            prefix: "10.1.0.0/16".parse().unwrap(),
            from: Some(NodeId::new(1)),
            to: Some(NodeId::new(2)),
            because: Because::IncumbentDown(Cause::PingUnanswered),
        };
        metrics.effect(&Effect::PrimaryChanged(change));
        let routes = BTreeMap::from([("primary", 3)]);
        let text = metrics.text(5, Some(2), Some(&Now { nodes: 7, routes, ..Now::default() }));
        for line in [
            "wayleave_map_frames_total{kind=\"delta\"} 2",
            "wayleave_map_frames_size_bytes_total{kind=\"delta\"} 42",
            "wayleave_failovers_total{cause=\"incumbent down: ping unanswered\"} 1",
            "wayleave_failovers_total{cause=\"moved\"} 0",
            "wayleave_evidence_total{kind=\"path\",verdict=\"observed\"} 0",
            "wayleave_store_seconds_count{operation=\"commit\"} 0",
            "wayleave_control_loop_answers 1",
            "wayleave_inbox_length 5",
            "wayleave_webhook_calls_waiting 2",
            "wayleave_nodes 7",
            "wayleave_routes{state=\"primary\"} 3",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn without_the_control_loop_the_rest_is_told() {
        let text = Metrics::default().text(4096, None, None);
        for line in
            ["wayleave_control_loop_answers 0", "wayleave_inbox_length 4096", "wayleave_map_delivery_seconds_count 0"]
        {
            assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("wayleave_nodes"), "{text}");
    }

    /// The names in some text, without what Prometheus appends to those of a histogram.
    fn names(text: &str) -> BTreeSet<String> {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
        let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("wayleave_") && word.len() > 9);
        let bare = |word: &str| {
            ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
        };
        words.map(bare).collect()
    }

    #[test]
    fn the_documents_and_the_dashboard_know_these_names_and_no_others() {
        let routes = BTreeMap::from([("primary", 3)]);
        let text = Metrics::default().text(0, Some(0), Some(&Now { routes, ..Now::default() }));
        let samples: String =
            text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
        let known = names(&samples);
        assert_eq!(names(include_str!("../../../docs/metrics.md")), known);
        let shown = names(include_str!("../../../deploy/grafana.json"));
        assert!(shown.is_subset(&known), "{:?}", shown.difference(&known));
    }
}
