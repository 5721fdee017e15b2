//! What is counted, for Prometheus. `docs/metrics.md` says what each name means.
//!
//! Counters and histograms grow where things happen; what can be looked up (nodes, routes, lengths of queues) is looked up when it is asked
//! for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use wayleave_routes::{Because, Verdict};
use wayleave_tailnet::{Effect, Tailnet};

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
}

/// How many pictures are remembered with the time at which they were made: a viewer that is further behind is not timed.
const REMEMBERED: usize = 4096;

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    frames: Family<Label, Counter>,
    bytes: Family<Label, Counter>,
    delivery: Histogram,
    evidence: Family<[(&'static str, String); 2], Counter>,
    failovers: Family<Label, Counter>,
    store: Family<Label, Histogram, Seconds>,
    /// The newest pictures, by version, and when each was made.
    pictures: Mutex<VecDeque<(u64, Instant)>>,
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
        let (delivery, store) = (seconds(), Family::new_with_constructor(Seconds));
        registry.register("map_frames", "Frames of map streams that were handed to the transport", frames.clone());
        registry.register_with_unit("map_frames_size", "Bytes of those frames, compressed", Unit::Bytes, bytes.clone());
        registry.register_with_unit(
            "map_delivery",
            "From a decision until a viewer that it concerns has been handed it",
            Unit::Seconds,
            delivery.clone(),
        );
        registry.register("evidence", "Verdicts about routers, by kind of evidence", evidence.clone());
        registry.register("failovers", "Prefixes that went from one router to another, by cause", failovers.clone());
        registry.register_with_unit("store", "How long the database took", Unit::Seconds, store.clone());
        Self {
            registry,
            frames,
            bytes,
            delivery,
            evidence,
            failovers,
            store,
            pictures: Mutex::default(),
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
        let mut pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        if pictures.len() == REMEMBERED {
            pictures.pop_front();
        }
        pictures.push_back((version, Instant::now()));
    }

    /// A viewer that knew the picture `before` was brought to a newer one: it waited since the first picture that was new to it.
    pub fn delivered(&self, before: u64) {
        let since = {
            let pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
            let first = pictures.partition_point(|(version, _)| *version <= before);
            // Where older ones are forgotten, the first that is remembered is not the first that was new.
            (first > 0).then(|| pictures.get(first).map(|(_, at)| *at)).flatten()
        };
        if let Some(since) = since {
            self.delivery.observe(since.elapsed().as_secs_f64());
        }
    }

    /// The database was asked for something.
    pub fn stored(&self, operation: Operation, took: Duration, failed: bool) {
        let word = match operation {
            Operation::Commit => "commit",
            Operation::WriteBehind => "write_behind",
        };
        self.store.get_or_create(&[("operation", word.to_owned())]).observe(took.as_secs_f64());
        self.store_fails.store(failed, Ordering::Relaxed);
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
            // Who moved it is in the history.
            let moved = matches!(change.because, Because::MovedBy(_));
            let cause = if moved { "moved".to_owned() } else { change.because.to_string() };
            self.failovers.get_or_create(&[("cause", cause)]).inc();
        }
        if let Effect::Judged(judgement) = effect {
            let verdict: Verdict = judgement.verdict;
            let kind = verdict.cause().kind().word().to_owned();
            self.evidence.get_or_create(&[("kind", kind), ("verdict", verdict.word().to_owned())]).inc();
        }
    }

    /// Everything, as OpenMetrics text.
    pub fn text(&self, now: &Now) -> String {
        let mut looked_up = Registry::with_prefix("wayleave");
        let mut gauge = |name: &str, help: &str, value: i64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(value);
            looked_up.register(name, help, gauge);
        };
        gauge("nodes", "Nodes", now.nodes);
        gauge("map_sessions", "Map sessions that are open", now.sessions);
        gauge("inbox_length", "Inputs that wait for the control loop", now.inbox);
        gauge("prefixes_down", "Prefixes that have a router of which none is up", now.prefixes_down);
        gauge("commands_waiting", "Commands that wait for the database", self.commands_waiting.load(Ordering::Relaxed));
        gauge("rows_behind", "Facts in force that are not durable yet", self.rows_behind.load(Ordering::Relaxed));
        gauge("webhook_calls_waiting", "Calls of webhooks that are still to be made", now.webhook_calls);
        let routes = Family::<Label, Gauge>::default();
        for (state, count) in &now.routes {
            routes.get_or_create(&[("state", (*state).to_owned())]).set(*count);
        }
        looked_up.register("routes", "Routes, by state", routes);
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
    /// Inputs that wait for the control loop.
    pub inbox: i64,
    /// Calls of webhooks that are still to be made.
    pub webhook_calls: i64,
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
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wayleave_model::NodeId;
    use wayleave_routes::{Cause, PrimaryChange};

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
        let text = metrics.text(&Now { nodes: 7, routes, ..Now::default() });
        for line in [
            "wayleave_map_frames_total{kind=\"delta\"} 2",
            "wayleave_map_frames_size_bytes_total{kind=\"delta\"} 42",
            "wayleave_failovers_total{cause=\"incumbent down: ping unanswered\"} 1",
            "wayleave_nodes 7",
            "wayleave_routes{state=\"primary\"} 3",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_viewer_waited_since_the_first_picture_that_was_new_to_it() {
        let metrics = Metrics::default();
        metrics.delivered(1);
        let count = |metrics: &Metrics| {
            let text = metrics.text(&Now::default());
            text.lines().find(|line| line.starts_with("wayleave_map_delivery_seconds_count")).map(str::to_owned)
        };
        assert_eq!(count(&metrics).unwrap(), "wayleave_map_delivery_seconds_count 0", "nothing is known of it");
        metrics.picture(1);
        metrics.picture(2);
        metrics.delivered(1);
        metrics.delivered(2);
        assert_eq!(count(&metrics).unwrap(), "wayleave_map_delivery_seconds_count 1");
    }
}
