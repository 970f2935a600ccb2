//! Taking the node down, step by step, whatever the reason. Every step has a bound.
//! A node that was to start again and is told to stop meanwhile does not.

use std::time::Duration;

use ringmaster_shared::{event::EventCode, member::ABOUT_TO_STOP};
use tokio::time::{Instant, sleep, timeout};

use super::{
    SharedNode, adopt,
    cause::{Again, Cause, End},
};
use crate::{
    api::server::Server,
    cli::Failure,
    lifecycle::{
        facts::Phase,
        orders::{Order, OrderReceiver},
    },
    replication::coordinator::Coordinator,
};

/// Telling the others; they notice by themselves if it takes longer.
const FAREWELL: Duration = Duration::from_secs(2);
/// A checkpoint of much data on a slow disk; what is acknowledged is in the log anyway.
const CLOSE: Duration = Duration::from_secs(60);
/// For the last answers to be taken.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub async fn shutdown(
    node: &SharedNode,
    server: Server,
    cause: Cause,
    received: &mut OrderReceiver,
) -> Result<End, Failure> {
    stop_taking(node, &cause);
    let mut ending = Ending {
        node,
        received,
        cause,
    };
    ending.during(finish_requests(node)).await;
    ending.during(farewell(node)).await;
    node.stop.cancel();
    let closed = ending.during(close_store(node)).await;
    ending.during(server.close(LAST_ANSWERS)).await;
    let end = match ending.decide().await {
        Cause::Stop { .. } => {
            closed?;
            Ok(End::Stopped)
        }
        // what did not close well is replayed
        Cause::Replace(Again { standby, adopt, .. }) => Ok(End::Replace {
            standby,
            adopts: adopt.is_some(),
        }),
        Cause::Fail(failure) => Err(failure),
    };
    tracing::info!("stopped");
    end
}

/// On the way out, and listening: who was to start again may be told to stop meanwhile.
struct Ending<'a> {
    node: &'a SharedNode,
    received: &'a mut OrderReceiver,
    cause: Cause,
}

impl Ending<'_> {
    /// Takes a step, and takes up at once what is ordered meanwhile.
    async fn during<T>(&mut self, step: impl Future<Output = T>) -> T {
        tokio::pin!(step);
        loop {
            tokio::select! {
                done = &mut step => return done,
                Some(order) = self.received.recv() => self.hear(order),
            }
        }
    }

    /// Why it ends, now that nothing more is to be done. Only here, when nothing can refuse it any
    /// more, an order to adopt is written down for the next life.
    async fn decide(mut self) -> Cause {
        self.last_look();
        if let Some(seeds) = self.to_adopt() {
            let node = self.node;
            self.during(adopt::note(node, seeds)).await;
            self.last_look();
            if self.to_adopt().is_none() {
                adopt::take_back(self.node).await;
            }
        } else {
            adopt::tell_written(self.node);
        }
        self.cause
    }

    fn last_look(&mut self) {
        while let Ok(order) = self.received.try_recv() {
            self.hear(order);
        }
    }

    fn to_adopt(&self) -> Option<Vec<String>> {
        match &self.cause {
            Cause::Replace(again) => again.adopt.clone(),
            Cause::Stop { .. } | Cause::Fail(_) => None,
        }
    }

    fn hear(&mut self, order: Order) {
        let before = matches!(self.cause, Cause::Replace(_));
        let adopts = self.to_adopt().is_some();
        self.cause = self.cause.clone().then(order);
        let why = match &self.cause {
            Cause::Stop { why } => why.clone(),
            Cause::Fail(failure) => failure.to_string(),
            Cause::Replace(_) => return,
        };
        if before {
            let id = &self.node.facts.id;
            tell_wait(self.node, &self.cause);
            let message = format!("{id} does not start again: {why}");
            let events = &self.node.events;
            events.info(EventCode::NodeStopping, Some(id), message);
            if adopts {
                adopt::given_back(self.node, "it was told to stop before it had restarted");
            }
        }
    }
}

fn stop_taking(node: &SharedNode, cause: &Cause) {
    let id = &node.facts.id;
    let why = cause.sentence();
    let message = format!("{id} is draining: {why}; new requests are refused");
    tell_wait(node, cause);
    node.events.info(EventCode::NodeStopping, Some(id), message);
}

fn tell_wait(node: &SharedNode, cause: &Cause) {
    let waits = match cause {
        Cause::Replace(_) => format!("{ABOUT_TO_STOP}, {}", cause.sentence()),
        Cause::Stop { .. } | Cause::Fail(_) => ABOUT_TO_STOP.to_owned(),
    };
    node.control.update(|facts| {
        facts.phase = Phase::Stopping;
        facts.waiting_for = Some(waits);
    });
}

async fn finish_requests(node: &SharedNode) {
    let until = Instant::now() + node.config.limits.drain_timeout;
    let under_way = || {
        let coordinated = node.coordinator.get().map_or(0, Coordinator::in_flight);
        let coordinated = i64::try_from(coordinated).unwrap_or(i64::MAX);
        coordinated.max(node.metrics.requests_in_flight())
    };
    while under_way() > 0 && Instant::now() < until {
        sleep(LOOK_EVERY).await;
    }
    match under_way() {
        0 => tracing::info!("stopping: requests under way are finished"),
        n => tracing::warn!("stopping: {n} requests did not finish in time and are cut off"),
    }
}

async fn farewell(node: &SharedNode) {
    let Some(gossip) = node.gossip.get() else {
        return;
    };
    let last_words = async {
        if node.identity.departure().is_some() {
            gossip.announce_left().await;
        } else {
            gossip.announce_stopped().await;
        }
    };
    if timeout(FAREWELL, last_words).await.is_ok() {
        tracing::info!("stopping: told the other nodes");
    } else {
        tracing::warn!("stopping: could not tell the other nodes in time");
    }
}

async fn close_store(node: &SharedNode) -> Result<(), Failure> {
    let Some(store) = node.store.get() else {
        return Ok(());
    };
    if store.poisoned().is_some() {
        // nothing can be written any more, and closing would only say so again
        tracing::warn!(
            "stopping: the store stays as it is; acknowledged writes are in its log and are replayed at the next start"
        );
        return Ok(());
    }
    let failed = match timeout(CLOSE, store.close()).await {
        Ok(Ok(())) => {
            tracing::info!("stopping: data is flushed and the store is closed");
            return Ok(());
        }
        Ok(Err(e)) => e.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    let message = format!(
        "the store did not close well: {failed}; acknowledged writes are in its log and are replayed at the next start"
    );
    tracing::error!("{message}");
    Err(Failure::Failed(message))
}
