//! Records that this node cannot read any more, and so cannot push.
//!
//! Promises: none of them is passed over in silence. One is settled when a write quorum of the other
//! cluster holds a record that has seen all that this one had, as after another former member pushed
//! its copy: then each version in it is there, or superseded there. Of the rest the operator hears
//! which they are, when everything else is pushed, and the node ends without having emptied its
//! store. Leaves reading and pushing to `push`.

use std::{collections::BTreeSet, time::Duration};

use ringmaster_shared::{
    id::NodeId,
    key::Key,
    topology::Access,
    version::{RecordVersion, VersionVector},
};
use tokio::time::sleep;

use super::carrier::{CALL_TIMEOUT, Carrier, thousands};
use crate::{
    cli::Failure,
    node::SharedNode,
    replication::{
        frames::{Request, Response},
        peers::Class,
    },
    storage::Store,
};

/// Remembered at most; of more it is only known that they are.
const MAX: usize = 10_000;
/// Named to the operator at most.
const NAMED: usize = 10;
/// How often the other cluster is asked for one of the first of them.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// Keys, and what the record of each had seen, if its head still tells.
#[derive(Default)]
pub(super) struct Damaged {
    found: Vec<(Key, Option<VersionVector>)>,
    more: usize,
}

impl Damaged {
    pub fn record(&mut self, store: &Store, key: Key) {
        let version = store.version(&key);
        self.note(key, version.ok().flatten());
    }

    pub fn hint(&mut self, store: &Store, target: &NodeId, key: Key) {
        let version = store.hint_version(target, &key);
        self.note(key, version.ok().flatten());
    }

    fn note(&mut self, key: Key, version: Option<RecordVersion>) {
        if self.found.len() < MAX {
            self.found.push((key, version.map(|v| v.clock)));
        } else {
            self.more += 1;
        }
    }

    /// Whether the other cluster needs none of them.
    pub async fn settle(self, node: &SharedNode, carrier: &Carrier) -> Result<(), Failure> {
        let mut missing = Vec::new();
        let total = self.found.len();
        for (at, (key, seen)) in self.found.into_iter().enumerate() {
            carrier.show_text(node, |_| looking(at, total, missing.len()));
            let tries = if missing.len() < NAMED { TRIES } else { 1 };
            if !carrier.comes_to_hold(&key, seen.as_ref(), tries).await {
                missing.push(key);
            }
        }
        if missing.is_empty() && self.more == 0 {
            return Ok(());
        }
        let into = &carrier.route.into;
        let count = carrier.route.partition_count;
        let text = sentence(
            &missing,
            self.more,
            count,
            into.as_str(),
            carrier.comes_back(),
        );
        Err(Failure::Failed(text))
    }
}

impl Carrier {
    async fn comes_to_hold(&self, key: &Key, seen: Option<&VersionVector>, tries: usize) -> bool {
        let Some(seen) = seen else {
            return false;
        };
        for attempt in 0..tries {
            if attempt > 0 {
                self.refresh().await;
                sleep(PAUSE).await;
            }
            if self.holds(key, seen).await {
                return true;
            }
        }
        false
    }

    /// Whether each replica of a write quorum there has seen all of `seen`.
    async fn holds(&self, key: &Key, seen: &VersionVector) -> bool {
        let topology = self.topology();
        let need = topology.requirement(topology.partition_of(key), Access::Write);
        let mut holding = BTreeSet::new();
        for id in need.replicas().into_iter().filter(|id| *id != self.me) {
            let request = Request::ReadVersion { key: key.clone() };
            let call = self
                .peers
                .call(&id, Class::Bulk, topology.epoch, request, CALL_TIMEOUT);
            match call.await {
                Ok(Response::Version { version }) if has_seen(version.as_ref(), seen) => {
                    holding.insert(id);
                }
                Ok(Response::EpochBehind { topology }) => {
                    self.take_over(topology);
                    return false;
                }
                Ok(Response::EpochAhead { .. }) => self.teach(&topology, &id).await,
                _ => {}
            }
        }
        need.is_met(&holding)
    }
}

fn has_seen(version: Option<&RecordVersion>, seen: &VersionVector) -> bool {
    version.is_some_and(|v| v.clock.dominates(seen))
}

/// `pushing: looking whether it needs what is damaged here: 12 of 1,300 done, 3 are missing there`.
fn looking(done: usize, total: usize, missing: usize) -> String {
    let [done, total, missing] = [done, total, missing].map(|n| thousands(n as u64));
    format!(
        "pushing: looking whether the other cluster has what is damaged here: {done} of {total} done, \
         {missing} not found there"
    )
}

/// Which records they are, and what there is to do.
fn sentence(missing: &[Key], more: usize, partitions: u16, into: &str, comes_back: bool) -> String {
    let named = missing.iter().take(NAMED);
    let named = named.map(|k| format!("{:?} (partition {})", k.as_str(), k.partition(partitions)));
    let mut named = named.collect::<Vec<_>>().join(", ");
    let count = missing.len() + more;
    if count > NAMED {
        named.push_str(", and others");
    }
    if comes_back {
        return format!(
            "{count} records here are damaged and cannot be pushed, and cluster {into} was not found to \
             hold as much: {named}. Everything else that lay here is there now. All that a quorum had \
             acknowledged was handed over when this node was removed from {into}: of that, nothing is \
             lost; what is not there was deleted since. At most what this node alone had taken (writes \
             with consistency one, or with an unknown outcome) is nowhere else. Start this node with an \
             empty --data-dir and a seed of cluster {into}"
        );
    }
    format!(
        "{count} records here are damaged and cannot be pushed, and cluster {into} does not have all \
         that they held: {named}. Everything else that lay here is there now. If other members of the \
         cluster that was given up hold copies, start those with --adopt, and this node again after \
         them. To give these records up, start this node with an empty --data-dir and a seed of cluster \
         {into}"
    )
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::version::Actor;

    use super::*;
    use crate::{
        config::{Config, layers::Layers},
        identity::{IdentityStore, Route},
        lifecycle::{facts::Phase, orders},
        node::{Node, adopt::plan::Seen},
        replication::tests::lab::{cluster, settled},
    };

    /// A node that was removed from its cluster, of which nobody answers now.
    fn removed(dir: &std::path::Path) -> (SharedNode, Carrier) {
        let id = NodeId::new("z").expect("valid");
        let flags = [
            ("node_id", id.to_string()),
            ("data_dir", dir.display().to_string()),
        ];
        let flags = flags.map(|(flag, value)| (flag.to_owned(), vec![value]));
        let config = Config::resolve(&Layers::of_flags(flags.into())).expect("valid");
        let identity = IdentityStore::open(dir, &id).expect("opens");
        let (orders, _) = orders::channel();
        let node = Node::new(config, identity, None, orders, Phase::Starting).expect("starts");
        let mut topology = settled(3, &["a", "b", "c"]);
        for member in &mut topology.members {
            // nobody listens there
            member.address = "127.0.0.1:1".to_owned();
        }
        let route = Route {
            from: cluster(),
            into: cluster(),
            through: Vec::new(),
            partition_count: topology.partition_count(),
        };
        let seen = Seen {
            seed: String::new(),
            topology,
            members: Vec::new(),
        };
        let carrier = Carrier::new(&node, &route, seen, 0);
        (node, carrier)
    }

    #[tokio::test]
    async fn who_comes_back_hears_how_far_it_is_and_that_nothing_is_lost() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (node, carrier) = removed(dir.path());
        let key = Key::new("k").expect("valid");
        let damaged = Damaged {
            found: vec![(key, Some(VersionVector::default()))],
            more: 0,
        };
        let Err(Failure::Failed(why)) = damaged.settle(&node, &carrier).await else {
            panic!("nobody has it");
        };
        assert!(
            why.contains("handed over when this node was removed"),
            "{why}"
        );
        let shown = node.control.facts().waiting_for.unwrap_or_default();
        assert!(shown.contains("0 of 1 done, 0 not found there"), "{shown}");
    }

    #[test]
    fn what_has_seen_less_does_not_stand_for_a_damaged_record() {
        let clock = |list: &[(&str, u64)]| {
            let entry = |(name, n): &(&str, u64)| {
                let node = NodeId::new(name).expect("valid");
                (Actor { node, epoch: 1 }, *n)
            };
            VersionVector(list.iter().map(entry).collect())
        };
        let seen = clock(&[("a", 2), ("b", 1)]);
        let cases = [
            (None, false),
            (Some(clock(&[("a", 2)])), false),
            (Some(clock(&[("a", 1), ("b", 1)])), false),
            (Some(seen.clone()), true),
            (Some(clock(&[("a", 2), ("b", 3), ("c", 1)])), true),
        ];
        for (there, wanted) in cases {
            let version = there.map(|clock| RecordVersion {
                clock,
                ..RecordVersion::default()
            });
            assert_eq!(has_seen(version.as_ref(), &seen), wanted, "{version:?}");
        }
    }

    #[test]
    fn the_operator_hears_which_records_they_are_and_what_to_do() {
        let key = |n| Key::new(&format!("user/{n}")).expect("valid");
        let one = sentence(&[key(1)], 0, 16, "kept", false);
        let partition = key(1).partition(16);
        assert!(one.starts_with("1 records here are damaged"), "{one}");
        assert!(
            one.contains(&format!("\"user/1\" (partition {partition}). ")),
            "{one}"
        );
        assert!(one.contains("--adopt") && one.contains("empty --data-dir"));
        let keys: Vec<Key> = (0..12).map(key).collect();
        let many = sentence(&keys, 5, 16, "kept", false);
        assert!(many.starts_with("17 records") && many.contains(", and others. "));
        assert!(!many.contains("user/11"));
        let own = sentence(&[key(1)], 0, 16, "kept", true);
        assert!(
            own.contains("handed over when this node was removed"),
            "{own}"
        );
        assert!(own.contains("empty --data-dir") && own.contains("nothing is lost"));
        assert!(!own.contains("does not have all") && !own.contains("--adopt"));
    }
}
