//! The composition root: opens, binds, finds the cluster, runs, and takes it all down again.
//!
//! Order of a life: sockets, identity, HTTP (the port answers from here on), standby if so
//! ordered, store, cluster, gossip, coordinator; then orders are awaited. Whatever ends it goes
//! through [`shutdown`].

mod address_book;
pub mod adopt;
mod bind;
mod cause;
mod departure;
mod descriptors;
mod entry;
mod handle;
pub mod keys;
pub mod seeds;
mod shutdown;
mod standby;
mod start;
mod watchers;

use std::time::Duration;

pub use cause::End;
pub use handle::{Node, SharedNode};

use crate::{
    api::{
        self,
        server::{Server, ServerLimits},
    },
    cli::Failure,
    config::Config,
    gossip::secrecy::Secrecy,
    identity::IdentityStore,
    lifecycle::{
        Ticket,
        facts::Phase,
        orders::{self, OrderReceiver},
        signals::Signals,
    },
    storage::Store,
};
use cause::{Again, Cause};
use standby::Held;
use start::Started;

/// Tasks that do not end by themselves are cut off after this.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// One life of the node, from its sockets to its end. With a ticket it begins in standby.
pub fn run(config: &Config, ticket: Option<Ticket>, signals: &Signals) -> Result<End, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ringd")
        .build()
        .map_err(|e| Failure::Failed(format!("cannot start threads: {e}")))?;
    let end = runtime.block_on(live(config, ticket, signals));
    runtime.shutdown_timeout(LAST_WAIT);
    end
}

async fn live(config: &Config, ticket: Option<Ticket>, signals: &Signals) -> Result<End, Failure> {
    let sockets = bind::bind(config.bind, config.port)?;
    // a full disk would not take the note of this start
    Store::make_room(
        &config.data_dir.join(start::STORE_DIR),
        config.storage.reserve_bytes,
    );
    let identity = IdentityStore::open(&config.data_dir, &config.node_id).map_err(|e| {
        if e.is_usage() {
            Failure::Usage(e.to_string())
        } else {
            Failure::Failed(e.to_string())
        }
    })?;
    entry::check_seeds(config, &identity)?;
    let secrecy = Secrecy::load(
        config.secrecy.keyring_file.as_deref(),
        &config.data_dir,
        config.secrecy.verify,
        identity.generation(),
    )
    .map_err(|e| Failure::Usage(e.to_string()))?;
    let (orders, mut received) = orders::channel();
    signals.stop(orders.clone());
    let phase = match ticket {
        Some(_) => Phase::Standby,
        None => Phase::Starting,
    };
    let node = Node::new(config.clone(), identity, secrecy, orders, phase)?;
    let limits = ServerLimits {
        connections: descriptors::connections(config.limits.connections),
        header_timeout: config.limits.header_timeout,
    };
    let server = Server::start(
        sockets.tcp,
        api::router(&node),
        &limits,
        &node.metrics,
        node.stop_serving.clone(),
    );
    watchers::spawn_looks(&node);
    watchers::spawn_lifecycle(&node);
    let cause = course(&node, sockets.udp, ticket, &mut received).await;
    shutdown::shutdown(&node, server, cause, &mut received).await
}

/// From the open port to the reason to stop.
async fn course(
    node: &SharedNode,
    udp: std::net::UdpSocket,
    ticket: Option<Ticket>,
    received: &mut OrderReceiver,
) -> Cause {
    let mut seeds = None;
    if let Some(ticket) = ticket {
        match standby::hold(node, ticket, received).await {
            Held::Start { seeds: given } => seeds = given,
            Held::End(cause) => return cause,
        }
    }
    let seeds = entry::seeds_to_use(node, seeds);
    let started = tokio::select! {
        started = start::start(node, udp, seeds) => started,
        cause = next_cause(received) => return cause,
    };
    match started {
        Ok(Started::Runs) => next_cause(received).await,
        Ok(Started::Again { why }) => Cause::Replace(Again::restart(why)),
        Err(failure) => Cause::Fail(failure),
    }
}

async fn next_cause(received: &mut OrderReceiver) -> Cause {
    while let Some(order) = received.recv().await {
        // an order to start came just as the hold ran out: the node starts anyway
        if let Some(cause) = Cause::of(order) {
            return cause;
        }
    }
    let why = "nobody is left to give orders".to_owned();
    Cause::Stop { why }
}
