//! `GET /api/v1/observations`: who sees whom as what, and where those who answered disagree.
//!
//! [`disagreements`] and the sentences are pure and live here, so that the daemon, scripts, the
//! doctor and the console's matrix all say the same.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{Generation, Incarnation, NodeId},
    member::MemberStatus,
};

/// Names written out in a sentence.
const NAMED_MAX: usize = 3;

/// Who sees whom as what, asked of the members a moment ago.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ObservationsResponse {
    #[schema(value_type = String)]
    pub current_node: NodeId,
    /// One for each member that was asked, whether it answered or not; sorted by id.
    pub observers: Vec<Observer>,
    /// The members about whom those who answered do not agree; sorted by id.
    #[serde(default)]
    pub disagreements: Vec<Disagreement>,
    /// Members left out of all `sees` and `views`, because every observer holds them alive and
    /// nothing is wrong with them; 0 unless `only=trouble` was asked for.
    #[serde(default)]
    pub well: usize,
    /// Members that were not asked: only so many are at a time.
    #[serde(default)]
    pub not_asked: usize,
}

/// The view of one member, as it told this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Observer {
    #[schema(value_type = String)]
    pub node_id: NodeId,
    /// When its view arrived, or when it was given up; this node's own is always current.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Whether it told what it sees; when it did not, `sees` and `views` are empty.
    #[serde(default = "yes")]
    pub answered: bool,
    /// Why there is no answer, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[schema(value_type = BTreeMap<String, MemberStatus>)]
    pub sees: BTreeMap<NodeId, MemberStatus>,
    /// The same with what lies behind it.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Sight>)]
    pub views: BTreeMap<NodeId, Sight>,
}

fn yes() -> bool {
    true
}

/// What one member holds of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sight {
    pub status: MemberStatus,
    pub generation: Generation,
    pub incarnation: Incarnation,
    /// Since when it holds that status; absent where it was not worth sending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Who got no answer from it, when it is held suspected or dead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub by: Vec<NodeId>,
    /// Why it is held so, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It answers the observer over TCP, but not over UDP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub udp_blocked: bool,
}

impl Sight {
    /// Whether it is worth a look: not simply alive.
    pub fn is_trouble(&self) -> bool {
        self.status != MemberStatus::Alive || self.udp_blocked
    }
}

/// A member about whom those who answered do not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disagreement {
    #[schema(value_type = String)]
    pub about: NodeId,
    /// Who holds it for what; sorted.
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub sees: BTreeMap<MemberStatus, Vec<NodeId>>,
    /// Who does not list it at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub unlisted_by: Vec<NodeId>,
    /// When one of them changed its mind last: so long it has been so, at least. Absent where
    /// nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
}

/// Where the observers that answered differ; what a member says of itself does not count.
pub fn disagreements(observers: &[Observer]) -> Vec<Disagreement> {
    let answered = || observers.iter().filter(|o| o.answered);
    let subjects: BTreeSet<&NodeId> = answered().flat_map(|o| o.sees.keys()).collect();
    let about = |id: &NodeId| {
        let mut sees: BTreeMap<MemberStatus, Vec<NodeId>> = BTreeMap::new();
        let mut unlisted_by = Vec::new();
        let mut since = None;
        for observer in answered().filter(|o| o.node_id != *id) {
            match observer.sees.get(id) {
                // gone for good is the same as not listed any more
                Some(MemberStatus::Left) | None => unlisted_by.push(observer.node_id.clone()),
                Some(status) => sees
                    .entry(*status)
                    .or_default()
                    .push(observer.node_id.clone()),
            }
            since = since.max(observer.views.get(id).and_then(|v| v.since));
        }
        let opinions = sees.len() + usize::from(!unlisted_by.is_empty());
        (opinions > 1).then(|| Disagreement {
            about: id.clone(),
            sees,
            unlisted_by,
            since,
        })
    };
    subjects.into_iter().filter_map(about).collect()
}

/// Members that everybody who answered holds alive, with nothing wrong: what a large matrix need
/// not show. Observers that did not answer are not among them.
pub fn well(observers: &[Observer]) -> BTreeSet<NodeId> {
    let mut subjects: BTreeSet<&NodeId> = observers.iter().flat_map(|o| o.sees.keys()).collect();
    for observer in observers {
        if !observer.answered {
            subjects.remove(&observer.node_id);
            continue;
        }
        subjects.retain(|id| {
            let own = observer.node_id == **id;
            let alive = observer.sees.get(*id) == Some(&MemberStatus::Alive);
            let trouble = observer.views.get(*id).is_some_and(Sight::is_trouble);
            own || (alive && !trouble)
        });
    }
    subjects.into_iter().cloned().collect()
}

impl Disagreement {
    /// Who differs, the fewest first: `node-3 holds node-5 dead, 4 others alive`.
    pub fn sentence(&self) -> String {
        let mut camps = self.camps();
        // of two equal camps the one that sees trouble is the news
        camps.sort_by_key(|(word, who)| (who.len(), *word == Some(MemberStatus::Alive.as_str())));
        let last = camps.len() - 1;
        let mut parts: Vec<String> = Vec::new();
        for (i, (word, who)) in camps.iter().enumerate() {
            let names = if i == last && i > 0 && who.len() > 1 {
                format!("{} others", who.len())
            } else {
                named(who)
            };
            parts.push(match (i, *word) {
                (0, None) => {
                    let verb = if who.len() == 1 { "does" } else { "do" };
                    format!("{names} {verb} not list {}", self.about)
                }
                (0, Some(word)) => {
                    let verb = if who.len() == 1 { "holds" } else { "hold" };
                    format!("{names} {verb} {} {word}", self.about)
                }
                (_, None) => format!("{names} not at all"),
                (_, Some(word)) => format!("{names} {word}"),
            });
        }
        parts.join(", ")
    }

    /// What that may come from, as a question.
    pub fn question(&self) -> String {
        let held = |status| self.sees.get(&status);
        let gone = held(MemberStatus::Dead).or_else(|| held(MemberStatus::Suspected));
        match (gone, held(MemberStatus::Alive)) {
            (Some(gone), Some(alive)) if gone.len() <= alive.len() => {
                "is the network between them cut?".to_owned()
            }
            (Some(_), Some(alive)) => {
                format!("does only {} still reach {}?", named(alive), self.about)
            }
            _ => "has the news not reached all yet?".to_owned(),
        }
    }

    /// `None` stands for "not listed".
    fn camps(&self) -> Vec<(Option<&'static str>, &[NodeId])> {
        let listed = self.sees.iter();
        let mut camps: Vec<(Option<&str>, &[NodeId])> = listed
            .map(|(status, who)| (Some(status.as_str()), who.as_slice()))
            .collect();
        if !self.unlisted_by.is_empty() {
            camps.push((None, &self.unlisted_by));
        }
        camps
    }
}

/// `a`, `a and b`, `a, b, c and 4 more`.
pub fn named(ids: &[NodeId]) -> String {
    let shown: Vec<&str> = ids.iter().take(NAMED_MAX).map(NodeId::as_str).collect();
    let more = ids.len() - shown.len();
    match shown.as_slice() {
        [] => "nobody".to_owned(),
        _ if more > 0 => format!("{} and {more} more", shown.join(", ")),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests;
