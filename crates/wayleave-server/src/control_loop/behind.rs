//! What is in force already and not durable yet: written in batches, one at a time, and again where the database refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use wayleave_model::{NodeId, Prefix, RouteId};
use wayleave_routes::Group;
use wayleave_store::{Soft, StoreError};
use wayleave_tailnet::HistoryEntry;

use super::Loop;
use crate::metrics::Operation;

pub(super) type Writing = JoinHandle<Result<(), StoreError>>;

/// How long after a failed write it is tried again.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What is in force and not yet durable.
#[derive(Clone, Default)]
pub(super) struct Behind {
    pub(super) nodes: BTreeSet<NodeId>,
    pub(super) routes: BTreeSet<RouteId>,
    pub(super) seats: BTreeSet<(Prefix, Option<Group>)>,
    pub(super) flaps: BTreeSet<NodeId>,
    pub(super) history: Vec<HistoryEntry>,
}

impl Behind {
    pub(super) fn len(&self) -> usize {
        self.nodes.len() + self.routes.len() + self.seats.len() + self.flaps.len() + self.history.len()
    }
}

impl Loop {
    /// Starts to write what is in force and not yet durable, unless a batch is on its way: the next one then takes all in one.
    pub(super) fn write_behind(&mut self) {
        if self.writing.is_some() || self.committing.is_some() {
            return;
        }
        if self.not_before.is_some_and(|at| at > tokio::time::Instant::now()) {
            return;
        }
        self.not_before = None;
        self.waiting.extend(self.again.drain(..).map(|command| (command, None)));
        let facts = self.take_behind();
        if !facts.is_empty() {
            self.writing = Some(self.write(facts));
        } else if self.waiting.is_empty() && self.metrics.store_fails() {
            self.writing = Some(self.try_writing());
        }
    }

    /// Nobody may want to write anything for hours after a failure, and until then nobody would know that it is over.
    fn try_writing(&self) -> Writing {
        let (store, metrics) = (self.store.clone(), Arc::clone(&self.metrics));
        self.workers.spawn(async move {
            let started = std::time::Instant::now();
            let done = store.try_writing().await;
            metrics.stored(Operation::Try, started.elapsed(), done.is_err());
            done
        })
    }

    pub(super) fn write(&self, facts: Vec<Soft>) -> Writing {
        let (store, metrics) = (self.store.clone(), Arc::clone(&self.metrics));
        self.workers.spawn(async move {
            let started = std::time::Instant::now();
            let done = store.write_behind(facts).await;
            metrics.stored(Operation::WriteBehind, started.elapsed(), done.is_err());
            done
        })
    }

    pub(super) fn take_behind(&mut self) -> Vec<Soft> {
        self.on_its_way = std::mem::take(&mut self.behind);
        let Behind { nodes, routes, seats, flaps, history } = self.on_its_way.clone();
        let (registry, table) = (self.tailnet.registry(), self.tailnet.routes());
        let nodes =
            nodes.into_iter().filter_map(|id| registry.node(id)).cloned().map(|node| Soft::Node(Box::new(node)));
        let routes = routes.into_iter().filter_map(|id| table.row(id)).cloned().map(Soft::Route);
        let seats = seats.into_iter().map(|(prefix, group)| Soft::Seat {
            prefix,
            holder: table.seat_row(&prefix, group.as_ref()).map(|row| row.holder),
            group: group.map(|group| (*group).clone()).unwrap_or_default(),
        });
        let flaps = flaps.into_iter().map(|node| Soft::Flaps(node, table.flaps(node)));
        nodes.chain(routes).chain(seats).chain(flaps).chain(history.into_iter().map(Soft::History)).collect()
    }

    pub(super) fn written(&mut self, done: Result<(), StoreError>) {
        let was_a_try = self.on_its_way.len() == 0;
        let Behind { nodes, routes, seats, flaps, history } = std::mem::take(&mut self.on_its_way);
        if let Err(error) = done {
            let error = &error as &dyn std::error::Error;
            if was_a_try {
                tracing::warn!(error, "the database still takes nothing; it is tried again");
            } else {
                tracing::error!(
                    error,
                    "state that is in force could not be stored; it is tried again, and a restart before that would forget it"
                );
            }
            self.behind.nodes.extend(nodes);
            self.behind.routes.extend(routes);
            self.behind.seats.extend(seats);
            self.behind.flaps.extend(flaps);
            self.behind.history.splice(0..0, history);
            self.not_before = Some(tokio::time::Instant::now() + TRY_AGAIN);
        }
    }
}
