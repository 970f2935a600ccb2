//! Asking the other voters what this node may have voted before it lost its folder.
//!
//! Runs beside the driver, for a voter that waits must not hold up the changes that others decide.
//! Asks for as long as it takes, at once when the ring changes. What counts is in `recall`.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::Rng;
use ringmaster_shared::{id::Epoch, topology::Topology};
use tokio::time::sleep;

use super::{Around, CALL_TIMEOUT};
use crate::{
    replication::frames::{Request, Response},
    topology::{
        RegisterReply, TopologyHandle,
        recall::{Heard, Recall},
    },
};

/// Between rounds; doubled with each, up to the longest, and a random half of it is left out.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(10);

/// Asks whenever this node does not know its votes; ends with the node's handles.
pub(super) async fn recall_votes<A: Around>(handle: TopologyHandle, around: A) {
    let mut rings = handle.watch();
    let mut rounds = 0;
    loop {
        let ring = rings.borrow_and_update().clone();
        let ring = ring.filter(|_| handle.inner.identity.forgot_votes());
        let Some(ring) = ring else {
            if rings.changed().await.is_err() {
                return;
            }
            continue;
        };
        match ask(&handle, &around, &ring).await {
            Heard::Through(epoch) if write_down(&handle, epoch).await => continue,
            Heard::Later(later) => catch_up(&handle, later).await,
            Heard::Through(_) | Heard::More => {}
        }
        tokio::select! {
            changed = rings.changed() => match changed {
                Ok(()) => rounds = 0,
                Err(_) => return,
            },
            () = sleep(pause(rounds)) => rounds += 1,
        }
    }
}

fn pause(rounds: u32) -> Duration {
    let most = (ASK_AGAIN * 2_u32.pow(rounds.min(8))).min(ASK_AGAIN_MAX);
    most.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// One round: until it is known, or everybody answered or failed to.
async fn ask<A: Around>(handle: &TopologyHandle, around: &A, ring: &Topology) -> Heard {
    let me = handle.inner.identity.node_id().clone();
    let mut round = Recall::new(ring.clone(), me);
    let mut asked: FuturesUnordered<_> = round
        .whom()
        .map(|id| {
            let (around, id) = (around.clone(), id.clone());
            let question = Request::Register(round.question());
            async move {
                let answer = around.call(&id, ring.epoch, question, CALL_TIMEOUT).await;
                (id, answer)
            }
        })
        .collect();
    while let Some((id, answer)) = asked.next().await {
        let reply = match answer {
            Ok(Response::Register(reply)) => reply,
            Ok(Response::EpochBehind { topology }) => RegisterReply::Newer(topology),
            Ok(_) | Err(_) => continue,
        };
        let heard = round.on_reply(&id, reply);
        if heard != Heard::More {
            return heard;
        }
    }
    Heard::More
}

/// Whether it is on the disk.
async fn write_down(handle: &TopologyHandle, through: Epoch) -> bool {
    let identity = handle.inner.identity.clone();
    let written = tokio::task::spawn_blocking(move || identity.recall_votes(through)).await;
    match written {
        Ok(Ok(())) => {
            tracing::info!(
                "the other voters know of no ring beyond epoch {through} that this node can have \
                 voted on before it lost its folder: it votes on the rings after it"
            );
            true
        }
        Ok(Err(why)) => {
            tracing::error!(
                "this node abstains on: what it may have voted on cannot be written down: {why:#}"
            );
            false
        }
        Err(why) => {
            tracing::error!("this node abstains on: the thread that writes failed: {why}");
            false
        }
    }
}

async fn catch_up(handle: &TopologyHandle, later: Topology) {
    let epoch = later.epoch;
    if let Err(why) = handle.install(later).await {
        tracing::warn!("the topology of epoch {epoch} was refused: {why:#}");
    }
}
