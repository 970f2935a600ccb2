//! Taking the node down, step by step, whatever the reason. Every step has a bound.

use std::time::Duration;

use ringmaster_shared::event::EventCode;
use tokio::time::{Instant, sleep, timeout};

use super::{Cause, End, SharedNode};
use crate::{
    api::server::Server, cli::Failure, lifecycle::facts::Phase,
    replication::coordinator::Coordinator,
};

/// Telling the others; they notice by themselves if it takes longer.
const FAREWELL: Duration = Duration::from_secs(2);
/// A checkpoint of much data on a slow disk; what is acknowledged is in the log anyway.
const CLOSE: Duration = Duration::from_secs(60);
/// For the last answers to be taken.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub async fn shutdown(node: &SharedNode, server: Server, cause: Cause) -> Result<End, Failure> {
    let (why, end) = match cause {
        Cause::Stop { why } => (why, Ok(End::Stopped)),
        Cause::Replace { why, standby } => {
            let why = match &standby {
                Some(_) => why,
                None => format!("to restart ({why})"),
            };
            (why, Ok(End::Replace { standby }))
        }
        // the last line on stderr says why
        Cause::Fail(failure) => ("it cannot go on".to_owned(), Err(failure)),
    };
    stop_taking(node, &why);
    finish_requests(node).await;
    farewell(node).await;
    node.stop.cancel();
    let closed = close_store(node).await;
    server.close(LAST_ANSWERS).await;
    if let (Ok(End::Stopped), Err(failure)) = (&end, closed) {
        return Err(failure);
    }
    tracing::info!("stopped");
    end
}

fn stop_taking(node: &SharedNode, why: &str) {
    let id = &node.facts.id;
    let message = format!("{id} is draining: {why}; new requests are refused");
    node.control.update(|facts| {
        facts.phase = Phase::Stopping;
        facts.waiting_for = Some("it is about to stop".to_owned());
    });
    node.events.info(EventCode::NodeStopping, Some(id), message);
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
