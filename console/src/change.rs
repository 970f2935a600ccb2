//! Changes of the ring as an operator meets them: which there are, who can be chosen for them
//! now, and the words for them.
//!
//! Pure. What a change would do the daemon plans; how far one has come is judged in
//! `change/watch.rs`. The dashboard and the verbs share both.

pub mod watch;

use ringmaster_shared::{
    api::ring::{Change, TransitionInfo},
    id::NodeId,
    member::{Lifecycle, MemberStatus},
    topology::ChangeKind,
};

use crate::cluster::Cluster;

/// What an operator can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeVerb {
    Join,
    Leave,
    Remove,
    Replace,
    Rebalance,
    Cancel,
}

impl ChangeVerb {
    pub const ALL: [Self; 6] = [
        Self::Join,
        Self::Leave,
        Self::Remove,
        Self::Replace,
        Self::Rebalance,
        Self::Cancel,
    ];

    pub fn of(change: &Change) -> Self {
        match change {
            Change::Join { .. } => Self::Join,
            Change::Leave { .. } => Self::Leave,
            Change::Remove { .. } => Self::Remove,
            Change::Replace { .. } => Self::Replace,
            Change::Rebalance {} => Self::Rebalance,
            Change::Cancel {} => Self::Cancel,
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Join => "Take in candidates",
            Self::Leave => "Decommission a node",
            Self::Remove => "Remove a dead node",
            Self::Replace => "Replace a dead node",
            Self::Rebalance => "Rebalance",
            Self::Cancel => "Cancel the ring change",
        }
    }

    /// The word of the command line and of the prompt.
    pub fn word(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Remove => "remove",
            Self::Replace => "replace",
            Self::Rebalance => "rebalance",
            Self::Cancel => "cancel",
        }
    }

    /// What it is for, in a few sentences.
    pub fn about(self) -> &'static str {
        match self {
            Self::Join => {
                "Gives nodes that were started with --join manual their share of the ring. They \
                 are filled first and count afterwards; clients notice nothing."
            }
            Self::Leave => {
                "Hands over everything a living node holds, then lets it go. Until the end it \
                 serves as before; then it stops, and its folder is not needed any more."
            }
            Self::Remove => {
                "Takes a dead node out of the ring; the others copy what it held from the \
                 replicas that are left. For a node that will not come back."
            }
            Self::Replace => {
                "Puts a candidate exactly in the place of a dead node: nothing else moves. It is \
                 filled from the replicas that are left."
            }
            Self::Rebalance => {
                "Spreads the same members evenly again, over nodes and over zones, with the \
                 fewest moves. Clients notice nothing."
            }
            Self::Cancel => {
                "Gives up the change of the ring that is under way; the table in force stays as \
                 it is. What was copied for it is forgotten."
            }
        }
    }
}

/// Everything `verb` could be asked for now, most useful first; empty when there is nothing.
pub fn choices(verb: ChangeVerb, cluster: &Cluster) -> Vec<Change> {
    match verb {
        ChangeVerb::Join => join_choices(candidates(cluster)),
        ChangeVerb::Leave => {
            let living = members(cluster, |status| status == Some(MemberStatus::Alive));
            let living = living.into_iter();
            living.map(|node| Change::Leave { node }).collect()
        }
        ChangeVerb::Remove => {
            let gone = dead(cluster);
            gone.into_iter()
                .map(|node| Change::Remove { node })
                .collect()
        }
        ChangeVerb::Replace => {
            let candidates = candidates(cluster);
            let pairs = dead(cluster).into_iter().flat_map(|dead| {
                let with = candidates.clone().into_iter();
                with.map(move |with| Change::Replace {
                    dead: dead.clone(),
                    with,
                })
            });
            pairs.collect()
        }
        ChangeVerb::Rebalance => match &cluster.ring {
            Some(_) => vec![Change::Rebalance {}],
            None => Vec::new(),
        },
        ChangeVerb::Cancel => match transition(cluster) {
            Some(_) => vec![Change::Cancel {}],
            None => Vec::new(),
        },
    }
}

/// All of them together, then each alone.
fn join_choices(candidates: Vec<NodeId>) -> Vec<Change> {
    let mut choices = Vec::new();
    if candidates.len() > 1 {
        choices.push(Change::Join {
            nodes: candidates.clone(),
        });
    }
    let each = candidates.into_iter();
    choices.extend(each.map(|node| Change::Join { nodes: vec![node] }));
    choices
}

/// Why there is nothing to choose.
pub fn nothing_for(verb: ChangeVerb, cluster: &Cluster) -> String {
    let text = match verb {
        _ if cluster.ring.is_none() => "the ring is not known yet",
        ChangeVerb::Leave => "no member of the ring is alive",
        ChangeVerb::Remove => "no member of the ring is dead",
        ChangeVerb::Replace if dead(cluster).is_empty() => "no member of the ring is dead",
        ChangeVerb::Join | ChangeVerb::Replace => {
            "no candidate waits; start one with --join manual"
        }
        ChangeVerb::Rebalance => "the ring is not known yet",
        ChangeVerb::Cancel => "no change of the ring is under way",
    };
    text.to_owned()
}

/// The change under way, as the node at the other end of the link tells it.
pub fn transition(cluster: &Cluster) -> Option<&TransitionInfo> {
    cluster.ring.as_ref()?.value.transition.as_ref()
}

/// Nodes that wait for somebody to take them in.
pub fn candidates(cluster: &Cluster) -> Vec<NodeId> {
    let Some(members) = &cluster.members else {
        return Vec::new();
    };
    let all = members.value.cluster_members.values();
    all.filter(|m| m.status == MemberStatus::Alive && m.lifecycle == Lifecycle::Candidate)
        .map(|m| m.node_id.clone())
        .collect()
}

/// Members of the ring that gossip holds for gone, or does not know.
fn dead(cluster: &Cluster) -> Vec<NodeId> {
    let gone = |status: Option<MemberStatus>| status.is_none_or(|s| !s.is_reachable());
    members(cluster, gone)
}

/// Members of the table in force by what gossip says of them.
fn members(cluster: &Cluster, wanted: impl Fn(Option<MemberStatus>) -> bool) -> Vec<NodeId> {
    let known = cluster.members.as_ref().map(|m| &m.value.cluster_members);
    let status = |id: &NodeId| known.and_then(|m| m.get(id)).map(|m| m.status);
    let ring = cluster.ring.iter().flat_map(|r| &r.value.nodes);
    ring.filter(|n| !n.joining)
        .filter(|n| wanted(status(&n.id)))
        .map(|n| n.id.clone())
        .collect()
}

/// A change in a few words: `node-4 joins`, `node-3 is removed`.
pub fn words(change: &Change) -> String {
    match change {
        Change::Join { nodes } => match nodes.as_slice() {
            [one] => format!("{one} joins"),
            all => format!("{} join", list(all)),
        },
        Change::Leave { node } => format!("{node} leaves"),
        Change::Remove { node } => format!("{node} is removed"),
        Change::Replace { dead, with } => format!("{with} takes the place of {dead}"),
        Change::Rebalance {} => "the members are balanced anew".to_owned(),
        Change::Cancel {} => "the change under way is given up".to_owned(),
    }
}

/// What has to be typed before it is applied; `None` where Enter is enough, because it can be
/// taken back and takes nothing away.
pub fn word_to_type(change: &Change) -> Option<String> {
    match change {
        Change::Leave { node } | Change::Remove { node } => Some(node.to_string()),
        Change::Replace { dead, .. } => Some(dead.to_string()),
        Change::Join { .. } | Change::Rebalance {} | Change::Cancel {} => None,
    }
}

/// What an operator would have asked for to get the change that is seen under way.
pub fn seen(transition: &TransitionInfo) -> Change {
    let joining = || transition.joining.clone();
    let leaving = transition.leaving.first().cloned();
    match (transition.kind, leaving) {
        (ChangeKind::Leave, Some(node)) => Change::Leave { node },
        (ChangeKind::Remove, Some(node)) => Change::Remove { node },
        (ChangeKind::Replace, Some(dead)) => match transition.joining.first() {
            Some(with) => Change::Replace {
                dead,
                with: with.clone(),
            },
            None => Change::Remove { node: dead },
        },
        (ChangeKind::Rebalance, _) => Change::Rebalance {},
        _ => Change::Join { nodes: joining() },
    }
}

/// `a, b and c`.
pub fn list(ids: &[NodeId]) -> String {
    let names: Vec<&str> = ids.iter().map(NodeId::as_str).collect();
    match names.as_slice() {
        [] => "nobody".to_owned(),
        [one] => (*one).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, id};

    #[test]
    fn who_can_be_chosen_follows_from_the_members() {
        let healthy = fixture::healthy().cluster;
        assert_eq!(choices(ChangeVerb::Leave, &healthy).len(), 3);
        for verb in [ChangeVerb::Join, ChangeVerb::Remove, ChangeVerb::Replace] {
            assert!(choices(verb, &healthy).is_empty(), "{verb:?}");
        }
        assert!(choices(ChangeVerb::Cancel, &healthy).is_empty());

        let dead = fixture::one_dead().cluster;
        let node = id("node-3");
        assert_eq!(
            choices(ChangeVerb::Remove, &dead),
            [Change::Remove { node }]
        );
        assert_eq!(choices(ChangeVerb::Leave, &dead).len(), 2);
        assert!(nothing_for(ChangeVerb::Replace, &dead).contains("candidate"));

        let waiting = fixture::candidate().cluster;
        let (dead, with) = (id("node-3"), id("node-4"));
        assert_eq!(
            choices(ChangeVerb::Replace, &waiting),
            [Change::Replace { dead, with }]
        );
        assert_eq!(
            choices(ChangeVerb::Join, &waiting),
            [Change::Join {
                nodes: vec![id("node-4")]
            }]
        );
    }

    #[test]
    fn several_candidates_can_come_together() {
        let both = vec![id("a"), id("b")];
        let choices = join_choices(both.clone());
        assert_eq!(choices.len(), 3);
        assert_eq!(choices[0], Change::Join { nodes: both });
        assert_eq!(words(&choices[0]), "a and b join");
    }

    #[test]
    fn what_takes_something_away_is_typed() {
        let node = id("n");
        let typed = |change| word_to_type(&change);
        assert_eq!(
            typed(Change::Leave { node: node.clone() }).as_deref(),
            Some("n")
        );
        assert_eq!(
            typed(Change::Remove { node: node.clone() }).as_deref(),
            Some("n")
        );
        let with = id("w");
        assert_eq!(
            typed(Change::Replace { dead: node, with }).as_deref(),
            Some("n")
        );
        assert_eq!(typed(Change::Rebalance {}), None);
    }
}
