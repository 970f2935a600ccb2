//! Who is asked, and the picture made of the answers. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use ringmaster_shared::{
    api::{
        membership::{ObservationsResponse, Observer, Sight},
        observations::disagreements,
    },
    id::NodeId,
    member::MemberStatus,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::gossip::{
    MemberView, Members,
    sight::{self, Told},
};

/// Members held dead that are asked all the same: a one-way cut looks like death from here.
const DEAD_ASKED_MAX: usize = 32;
/// From so many members on only trouble is shown, whatever was asked for.
const ALL_SHOWN_MAX: usize = 256;
/// Members in trouble shown at most.
const TROUBLE_SHOWN_MAX: usize = 256;

/// Which members stand in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    All,
    Trouble,
}

/// Who is asked in a round, and who is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    pub asked: Vec<NodeId>,
    /// Told with the reason why nobody asks them.
    pub silent: Vec<(NodeId, &'static str)>,
    /// There were too many.
    pub left_out: usize,
}

/// Suspected members first, then some of the dead, then the others, in an order of this node's
/// own: with many members each node asks other ones, and always the same.
pub fn choose(views: &[MemberView], own: &NodeId, most: usize) -> Chosen {
    let mut chosen = Chosen::default();
    let mut ranked: Vec<(u8, u64, &NodeId)> = Vec::new();
    for view in views.iter().filter(|v| v.state.id != *own) {
        let id = &view.state.id;
        let first = match view.state.status {
            MemberStatus::Suspected => 0,
            MemberStatus::Dead => 1,
            MemberStatus::Alive => 2,
            MemberStatus::Stopped | MemberStatus::Left => {
                chosen
                    .silent
                    .push((id.clone(), "it was stopped on purpose"));
                continue;
            }
        };
        let turn = xxh3_64(format!("{own} {id}").as_bytes());
        ranked.push((first, turn, id));
    }
    ranked.sort_unstable();
    let mut dead = 0;
    for (first, _, id) in ranked {
        dead += usize::from(first == 1);
        if chosen.asked.len() >= most || (first == 1 && dead > DEAD_ASKED_MAX) {
            chosen.left_out += 1;
        } else {
            chosen.asked.push(id.clone());
        }
    }
    // their rows, too, are few
    let room = most.saturating_sub(chosen.asked.len());
    chosen.left_out += chosen.silent.len().saturating_sub(room);
    chosen.silent.truncate(room);
    chosen
}

/// What came of asking one member.
#[derive(Debug, Clone)]
pub struct Answer {
    pub node_id: NodeId,
    pub at: Timestamp,
    /// What it told, or why it did not.
    pub told: Result<Told, String>,
}

/// All answers of a round, and the list they are told against.
pub struct Round {
    own: NodeId,
    views: Members,
    answers: Vec<Answer>,
    not_asked: usize,
}

impl Round {
    /// Who was chosen and is not among `answers` was too late.
    pub fn new(
        own: NodeId,
        views: Members,
        chosen: Chosen,
        mut answers: Vec<Answer>,
        at: Timestamp,
    ) -> Self {
        let answered: BTreeSet<NodeId> = answers.iter().map(|a| a.node_id.clone()).collect();
        let late = chosen.asked.into_iter().filter(|id| !answered.contains(id));
        let late = late.map(|id| (id, "no answer in time; others were slow as well"));
        for (node_id, why) in late.collect::<Vec<_>>().into_iter().chain(chosen.silent) {
            let told = Err(why.to_owned());
            answers.push(Answer { node_id, at, told });
        }
        answers.push(Answer {
            node_id: own.clone(),
            at,
            told: Ok(Told::default()),
        });
        answers.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        Self {
            own,
            views,
            answers,
            not_asked: chosen.left_out,
        }
    }

    pub fn response(&self, shown: Shown) -> ObservationsResponse {
        let all = shown == Shown::All && self.views.len() <= ALL_SHOWN_MAX;
        let subjects = if all {
            self.everybody()
        } else {
            self.troubled()
        };
        let known: BTreeMap<&NodeId, &MemberView> =
            self.views.iter().map(|v| (&v.state.id, v)).collect();
        let observers: Vec<Observer> = self
            .answers
            .iter()
            .map(|answer| self.observer(answer, &subjects, &known))
            .collect();
        ObservationsResponse {
            current_node: self.own.clone(),
            disagreements: disagreements(&observers),
            observers,
            well: known.keys().filter(|id| !subjects.contains(*id)).count(),
            not_asked: self.not_asked,
        }
    }

    fn everybody(&self) -> BTreeSet<NodeId> {
        let told = self.answers.iter().filter_map(|a| a.told.as_ref().ok());
        let unknown = told.flat_map(|t| t.sights.keys());
        let known = self.views.iter().map(|v| &v.state.id);
        known.chain(unknown).cloned().collect()
    }

    /// Members that somebody does not simply hold alive, or that did not answer; the disputed ones
    /// first where there are too many.
    fn troubled(&self) -> BTreeSet<NodeId> {
        let mut found: BTreeMap<&NodeId, usize> = BTreeMap::new();
        let held: BTreeMap<&NodeId, MemberStatus> = self
            .views
            .iter()
            .map(|v| (&v.state.id, v.state.status))
            .collect();
        for view in self.views.iter().filter(|v| is_trouble(v)) {
            found.insert(&view.state.id, 0);
        }
        for answer in &self.answers {
            let Ok(told) = &answer.told else {
                found.entry(&answer.node_id).or_default();
                continue;
            };
            for (id, sight) in &told.sights {
                let disputed = held.get(id) != Some(&sight.status);
                if disputed || sight.is_trouble() {
                    *found.entry(id).or_default() += usize::from(disputed);
                }
            }
            for id in &told.unlisted {
                *found.entry(id).or_default() += 1;
            }
        }
        let mut ranked: Vec<(bool, &NodeId)> =
            found.into_iter().map(|(id, n)| (n == 0, id)).collect();
        ranked.sort_unstable();
        let shown = ranked.into_iter().take(TROUBLE_SHOWN_MAX);
        shown.map(|(_, id)| id.clone()).collect()
    }

    fn observer(
        &self,
        answer: &Answer,
        subjects: &BTreeSet<NodeId>,
        known: &BTreeMap<&NodeId, &MemberView>,
    ) -> Observer {
        let of = |told: &Told, id: &NodeId| -> Option<Sight> {
            match known.get(id) {
                Some(view) if answer.node_id == self.own => Some(sight::own(view)),
                Some(view) => told.of(view),
                None => told.sights.get(id).cloned(),
            }
        };
        let views: BTreeMap<NodeId, Sight> = match &answer.told {
            Ok(told) => subjects
                .iter()
                .filter_map(|id| Some((id.clone(), of(told, id)?)))
                .collect(),
            Err(_) => BTreeMap::new(),
        };
        Observer {
            node_id: answer.node_id.clone(),
            at: answer.at,
            answered: answer.told.is_ok(),
            error: answer.told.as_ref().err().cloned(),
            sees: views.iter().map(|(id, s)| (id.clone(), s.status)).collect(),
            views,
        }
    }
}

fn is_trouble(view: &MemberView) -> bool {
    view.state.status != MemberStatus::Alive || view.doubts.udp_blocked
}

#[cfg(test)]
mod tests;
