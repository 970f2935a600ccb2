//! Leaving one cluster for another without losing anything: what a start does about it.
//!
//! A node that adopts gives up its cluster, pushes all it holds into the other, and only then
//! empties its store and joins as a new node. Promises: until the old cluster is given up the
//! node is what it was; an order that was refused is nowhere written down; from then on it serves nobody (no peer is answered, no client's key is
//! read) until it is a member of the other; nothing is removed here before a write quorum there
//! has it synced; cut anywhere, the next start goes on.
//!
//! [`plan`] decides, [`scout`] looks, [`mod@push`] carries; the steps stand in `identity::adopting`.

pub mod plan;
mod push;
mod scout;

use std::{io, path::Path, time::Duration};

use ringmaster_shared::{event::EventCode, id::NodeId, key::PARTITION_COUNT_DEFAULT};
use tokio::time::{Instant, sleep};

use self::{
    plan::{Seen, Task, Us, Verdict, judge},
    scout::Scout,
};
use super::{
    SharedNode,
    seeds::{Told, pause},
    start::on_disk,
};
use crate::{
    cli::Failure,
    identity::{Adopting, IdentityStore, RememberedMember, Route},
    lifecycle::orders::Order,
    storage::Store,
};

/// Part of the store that is for people, and stays.
const SET_ASIDE: &str = "set-aside";
/// How long a seed is asked when an order comes.
const ORDER_TIME: Duration = Duration::from_secs(8);

/// How a start goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Course {
    /// With these seeds.
    On { seeds: Vec<String> },
    /// What is held here must be pushed, once the store is open.
    Push(Route),
    /// A step is done; the next one begins in a new life.
    Again { why: String },
}

/// Before the store is opened.
pub async fn begin(node: &SharedNode, seeds: Vec<String>) -> Result<Course, Failure> {
    let identity = &node.identity;
    let task = plan::task(
        identity.adopting(),
        node.config.adopt,
        &seeds,
        identity.cluster_id().is_some(),
        // one that its ring did without would not serve anyway
        identity
            .topology()
            .is_some_and(|t| t.contains(&node.facts.id)),
    );
    match task {
        Task::Usual => Ok(Course::On { seeds }),
        Task::Join { seeds: through } => Ok(Course::On { seeds: through }),
        Task::Push(route) => Ok(Course::Push(route)),
        Task::Empty(route) => {
            empty(node, &route).await?;
            Ok(Course::On {
                seeds: route.through,
            })
        }
        Task::Look {
            seeds: asked,
            patience,
            ordered,
        } => {
            let whose = if ordered { Wish::Order } else { Wish::Flag };
            if ordered {
                tell_order(node, &asked);
            }
            let looked = look(node, &asked, patience, whose).await;
            after_look(node, looked, whose, seeds).await
        }
    }
}

/// What was ordered in an earlier life is told in this one, too: it may have been long ago.
fn tell_order(node: &SharedNode, seeds: &[String]) {
    let seeds = seeds.join(", ");
    tracing::info!("ordered earlier: to adopt the cluster of {seeds}; asking which it is");
    let waits = format!("a seed to say which cluster is to be adopted: {seeds}");
    node.control.update(|facts| facts.waiting_for = Some(waits));
}

async fn after_look(
    node: &SharedNode,
    looked: Looked,
    whose: Wish,
    seeds: Vec<String>,
) -> Result<Course, Failure> {
    match (looked, whose) {
        (Looked::Go(route), _) => give_up(node, route).await,
        (Looked::Nothing(why), Wish::Flag) => {
            tracing::info!("{why}; going on as usual");
            Ok(Course::On { seeds })
        }
        (Looked::Silent(why), Wish::Flag) => {
            tracing::warn!(
                "no seed says which cluster it is of: {why}; going on as a member of this node's own cluster, and asking on"
            );
            Ok(Course::On { seeds })
        }
        (Looked::Refused(why), Wish::Flag) => Err(Failure::Failed(why)),
        (Looked::Nothing(why) | Looked::Silent(why) | Looked::Refused(why), Wish::Order) => {
            on_disk(node, IdentityStore::drop_order).await?;
            given_back(node, &why);
            Ok(Course::On { seeds })
        }
    }
}

/// With the store open, instead of serving.
pub async fn push(node: &SharedNode, store: &Store, route: Route) -> Result<Course, Failure> {
    let through = push::everything(node, store, route).await?;
    on_disk(node, move |identity| identity.pushed(through)).await?;
    let why = "everything is pushed; to join with an empty store".to_owned();
    Ok(Course::Again { why })
}

/// This node goes by the ring of a cluster: if it came from another one, that is done now.
pub async fn arrived(node: &SharedNode) -> Result<(), Failure> {
    if !matches!(node.identity.adopting(), Some(Adopting::Joining(_))) {
        return Ok(());
    }
    let identity = node.identity.clone();
    let done = tokio::task::spawn_blocking(move || identity.arrived()).await;
    let route = done
        .map_err(|e| Failure::Failed(format!("writing the identity failed: {e}")))?
        .map_err(|e| Failure::Failed(format!("{e:#}")))?;
    if let Some(route) = route {
        let message = format!(
            "{} has left cluster {} for {}, which has everything it held",
            node.facts.id, route.from, route.into
        );
        node.events
            .info(EventCode::ClusterAdopted, Some(&node.facts.id), message);
    }
    Ok(())
}

/// Why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declined {
    /// It cannot be, or would be nothing.
    No(String),
    /// It may be later.
    NotNow(String),
}

/// Looks at the seeds: whether the way is free. Nothing is changed, so that it may be given up or
/// refused at any moment; what orders it is [`Order::Restart`] with these seeds.
pub async fn may_be_ordered(node: &SharedNode, seeds: &[String]) -> Result<(), Declined> {
    match look(node, seeds, Some(ORDER_TIME), Wish::Order).await {
        Looked::Go(_) => Ok(()),
        Looked::Nothing(why) | Looked::Refused(why) => Err(Declined::No(why)),
        Looked::Silent(why) => Err(Declined::NotNow(why)),
    }
}

/// Writes an order down for the next start, which carries it out. To be called when nothing is
/// left that could refuse it.
pub async fn note(node: &SharedNode, seeds: Vec<String>) {
    let noted = on_disk(node, move |identity| identity.order_adopting(seeds)).await;
    if let Err(failure) = noted {
        given_back(node, &failure.to_string());
    }
}

/// The next start will not be to adopt.
pub async fn take_back(node: &SharedNode) {
    if let Err(failure) = on_disk(node, IdentityStore::drop_order).await {
        let message = format!(
            "the order to adopt cannot be taken back: {failure}; the next start carries it out"
        );
        node.events
            .error(EventCode::SeedRefused, Some(&node.facts.id), message);
    }
}

/// Takes back what a life that is over had written down for the next, which is not to begin.
pub fn withdraw(data_dir: &Path, node_id: &NodeId) {
    let opened = IdentityStore::open(data_dir, node_id).map_err(|error| error.to_string());
    let dropped = opened.and_then(|identity| {
        let dropped = identity.drop_order();
        dropped.map_err(|error| format!("{error:#}"))
    });
    match dropped {
        Ok(()) => tracing::error!(
            "the order to adopt is given back, and this node stays what it was: it was told to stop \
             before it had restarted"
        ),
        Err(why) => tracing::error!(
            "the order to adopt cannot be taken back: {why}; the next start carries it out"
        ),
    }
}

/// A start that is cut short while it asks the seeds leaves the order as it is.
pub fn tell_written(node: &SharedNode) {
    if matches!(node.identity.adopting(), Some(Adopting::Ordered { .. })) {
        tracing::info!("the order to adopt stays written down; the next start carries it out");
    }
}

/// Tells that an order to adopt leads to nothing.
pub fn given_back(node: &SharedNode, why: &str) {
    let message =
        format!("the order to adopt is given back, and this node stays what it was: {why}");
    node.events
        .error(EventCode::SeedRefused, Some(&node.facts.id), message);
}

/// A seed turned out to be of another cluster while this node serves, and `--adopt` was given.
pub async fn order_by_flag(node: &SharedNode, seed: &str) -> Order {
    let why = format!("to adopt the cluster of {seed}");
    let seeds = vec![seed.to_owned()];
    match may_be_ordered(node, &seeds).await {
        Ok(()) => Order::Restart {
            why,
            adopt: Some(seeds),
        },
        Err(Declined::No(why)) => Order::Fail(Failure::Failed(why)),
        // it goes on looking when it starts
        Err(Declined::NotNow(_)) => Order::Restart { why, adopt: None },
    }
}

/// Who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Flag,
    Order,
}

/// What the seeds said in the end.
enum Looked {
    Go(Route),
    Nothing(String),
    Refused(String),
    Silent(String),
}

/// Asks all seeds, round after round, until one of them settles it.
async fn look(
    node: &SharedNode,
    seeds: &[String],
    patience: Option<Duration>,
    whose: Wish,
) -> Looked {
    let scout = Scout::new(node);
    let until = patience.map(|p| Instant::now() + p);
    let mut told = Told::default();
    for attempt in 0_u32.. {
        let mut whys = Vec::new();
        let mut nothing = None;
        for seed in seeds {
            let verdict = match scout.look(seed).await {
                Ok(seen) if whose == Wish::Flag && has_left(node, &seen) => Verdict::Wait(format!(
                    "{seed}: belongs to the cluster this node has left; only an order leads back"
                )),
                Ok(seen) => verdict(node, &seen),
                Err(why) => Verdict::Wait(why),
            };
            match verdict {
                Verdict::Go(route) => return Looked::Go(route),
                Verdict::Refuse(why) => return Looked::Refused(why),
                Verdict::Nothing(why) => nothing = Some(why),
                Verdict::Wait(why) => whys.push(why),
            }
        }
        if let Some(why) = nothing {
            return Looked::Nothing(why);
        }
        let whys = whys.join("; ");
        let next = pause(attempt, rand::random());
        if until.is_some_and(|until| Instant::now() + next > until) {
            return Looked::Silent(whys);
        }
        if node.store.get().is_none() {
            told.tell(node, &whys);
        }
        sleep(next).await;
    }
    Looked::Silent("a bug: the seeds were given up".into())
}

/// A flag that stays in a script must not lead a node to and fro.
fn has_left(node: &SharedNode, seen: &Seen) -> bool {
    node.identity.given_up().as_ref() == Some(&seen.topology.cluster_id)
}

fn verdict(node: &SharedNode, seen: &Seen) -> Verdict {
    let state = node.identity.adopting();
    let on_the_way = state.as_ref().and_then(Adopting::route);
    let topology = node.topology.current();
    let cluster = on_the_way
        .map(|route| route.from.clone())
        .or_else(|| node.identity.cluster_id());
    let Some(cluster) = cluster else {
        return Verdict::Nothing(
            "this node belongs to no cluster yet: it has nothing to give up".into(),
        );
    };
    let partition_count = on_the_way.map_or_else(
        || {
            topology
                .as_ref()
                .map_or(PARTITION_COUNT_DEFAULT, |t| t.partition_count())
        },
        |route| route.partition_count,
    );
    let us = Us {
        id: &node.facts.id,
        address: &node.facts.address,
        cluster: &cluster,
        topology: topology.as_deref(),
        partition_count,
        on_the_way: on_the_way.is_some(),
    };
    judge(&us, seen)
}

async fn give_up(node: &SharedNode, route: Route) -> Result<Course, Failure> {
    let message = if route.from == route.into {
        format!(
            "cluster {} has removed {}; what is held here is pushed back into it, then this node joins anew",
            route.from, node.facts.id
        )
    } else {
        format!(
            "{} gives up cluster {} for {}; what is held here is pushed into that one first",
            node.facts.id, route.from, route.into
        )
    };
    on_disk(node, move |identity| identity.give_up(route)).await?;
    node.events
        .warn(EventCode::ClusterAdopted, Some(&node.facts.id), message);
    let why = "its old cluster is given up".to_owned();
    Ok(Course::Again { why })
}

async fn empty(node: &SharedNode, route: &Route) -> Result<(), Failure> {
    let dir = node.config.data_dir.join(super::start::STORE_DIR);
    let shown = dir.display().to_string();
    let emptied = tokio::task::spawn_blocking(move || empty_store(&dir)).await;
    emptied
        .map_err(|e| Failure::Failed(format!("emptying {shown} failed: {e}")))?
        .map_err(|e| {
            Failure::Failed(format!(
                "{shown} cannot be emptied: {e}; all it holds is in cluster {}, so it may be removed by hand",
                route.into
            ))
        })?;
    tracing::info!(
        "{shown} is emptied: all it held is in cluster {}",
        route.into
    );
    // names are learned when it is let in; until then only where to knock matters
    let remembered: Vec<RememberedMember> = Vec::new();
    on_disk(node, move |identity| identity.emptied(remembered)).await
}

/// Removes everything but what was set aside for people.
fn empty_store(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == SET_ASIDE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::id::ClusterId;

    use super::*;

    /// The process was told to stop between two lives.
    #[test]
    fn an_order_whose_life_does_not_begin_is_taken_back() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let node_id = NodeId::new("a").expect("valid");
        let open = || IdentityStore::open(dir.path(), &node_id).expect("opens");
        let identity = open();
        let cluster = ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid");
        identity.set_cluster(cluster.clone()).expect("writes");
        identity
            .order_adopting(vec!["b:8080".into()])
            .expect("writes");
        drop(identity);
        withdraw(dir.path(), &node_id);
        let identity = open();
        assert_eq!(identity.adopting(), None);
        assert_eq!(identity.cluster_id(), Some(cluster), "it stays what it was");
    }

    #[test]
    fn emptying_keeps_what_was_set_aside_and_may_be_repeated() {
        let dir = tempfile::TempDir::new().expect("temp dir");
        let store = dir.path().join("store");
        empty_store(&store).expect("there is none");
        for folder in ["log", "table", "set-aside/1"] {
            std::fs::create_dir_all(store.join(folder)).expect("made");
        }
        for file in ["checkpoint", "log/1.log", "set-aside/1/x"] {
            std::fs::write(store.join(file), b"x").expect("written");
        }
        for _ in 0..2 {
            empty_store(&store).expect("emptied");
            let left: Vec<_> = std::fs::read_dir(&store)
                .expect("there")
                .map(|e| e.expect("readable").file_name())
                .collect();
            assert_eq!(left, ["set-aside"]);
        }
        assert!(store.join("set-aside/1/x").exists());
    }
}
