//! What one member tells another of whom it sees as what, in few bytes.
//!
//! The asker sends marks: one hash for each bucket of the members it holds. The answerer sends the
//! members of the buckets in which it holds something else, and everywhere those with whom
//! something is wrong; the asker fills in the rest from its own list. Two that agree about ten
//! thousand members exchange some kilobytes. Pure; who is asked, and when, is left to the API.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_shared::{
    api::observations::Sight,
    id::{Generation, Incarnation, NodeId},
    member::MemberStatus,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{MemberView, report};

/// Up to so many members everything is sent, with times.
const ALL_UP_TO: usize = 64;
/// Members in a bucket, about.
const BUCKET_MEMBERS: usize = 16;
/// Buckets, at most.
const BUCKETS_MAX: usize = 1024;
/// Members with whom something is wrong that are sent although the asker knows of it.
const TROUBLED_MAX: usize = 128;
/// Members in one answer, at most.
const SEEN_MAX: usize = 512;

/// What the asker holds: a hash for each bucket; empty when it wants everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks(Vec<u64>);

/// One member as the answerer holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    id: NodeId,
    status: MemberStatus,
    generation: Generation,
    incarnation: Incarnation,
    /// Since when it holds that status; Unix milliseconds, the answerer's clock.
    since_ms: i64,
    accusers: Vec<NodeId>,
    silent_ms: u64,
    udp_blocked: bool,
}

/// An answer to marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Buckets in which the two differ: what is not in `seen` of these the answerer does not list.
    differing: Vec<u16>,
    seen: Vec<Seen>,
    /// Members that did not fit; then the answer is no whole view.
    left_out: u32,
}

impl Marks {
    /// Of everything this node holds.
    pub fn of(views: &[MemberView]) -> Self {
        if views.len() <= ALL_UP_TO {
            return Self(Vec::new());
        }
        let buckets = views.len().div_ceil(BUCKET_MEMBERS).min(BUCKETS_MAX);
        Self(marks(views, buckets))
    }
}

fn marks(views: &[MemberView], buckets: usize) -> Vec<u64> {
    let mut marks = vec![0_u64; buckets];
    for view in views {
        // the sum does not depend on the order
        let mark = &mut marks[bucket_of(&view.state.id, buckets)];
        *mark = mark.wrapping_add(fingerprint(view));
    }
    marks
}

fn bucket_of(id: &NodeId, buckets: usize) -> usize {
    (xxh3_64(id.as_str().as_bytes()) % buckets.max(1) as u64) as usize
}

fn fingerprint(view: &MemberView) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(view.state.id.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(view.state.status.as_str().as_bytes());
    hasher.update(&view.state.generation.to_le_bytes());
    hasher.update(&view.state.incarnation.to_le_bytes());
    hasher.digest()
}

/// The answer to `asked` of a node that holds `views`.
pub fn sighting(views: &[MemberView], asked: &Marks) -> Sighting {
    let buckets = asked.0.len();
    if buckets == 0 || buckets > BUCKETS_MAX {
        return cut(Vec::new(), views.iter().collect());
    }
    let own = marks(views, buckets);
    let differs: Vec<bool> = own.iter().zip(&asked.0).map(|(a, b)| a != b).collect();
    let mut troubled = 0;
    let told = views.iter().filter(|view| {
        if differs[bucket_of(&view.state.id, buckets)] {
            return true;
        }
        let trouble = view.state.status != MemberStatus::Alive || view.doubts.udp_blocked;
        troubled += usize::from(trouble);
        trouble && troubled <= TROUBLED_MAX
    });
    let seen = told.collect();
    let numbered = (0_u16..).zip(&differs);
    let differing = numbered.filter(|(_, differs)| **differs).map(|(n, _)| n);
    cut(differing.collect(), seen)
}

fn cut(differing: Vec<u16>, views: Vec<&MemberView>) -> Sighting {
    let left_out = views.len().saturating_sub(SEEN_MAX);
    Sighting {
        differing,
        seen: views.into_iter().take(SEEN_MAX).map(Seen::of).collect(),
        left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
    }
}

impl Seen {
    fn of(view: &MemberView) -> Self {
        Self {
            id: view.state.id.clone(),
            status: view.state.status,
            generation: view.state.generation,
            incarnation: view.state.incarnation,
            since_ms: view.status_since.as_millisecond(),
            accusers: view.doubts.accusers.clone(),
            silent_ms: view.doubts.silent_ms,
            udp_blocked: view.doubts.udp_blocked,
        }
    }

    fn sight(self) -> Sight {
        Sight {
            status: self.status,
            generation: self.generation,
            incarnation: self.incarnation,
            since: jiff::Timestamp::from_millisecond(self.since_ms).ok(),
            reason: report::reason(self.status, &self.accusers, self.silent_ms),
            by: self.accusers,
            udp_blocked: self.udp_blocked,
        }
    }
}

/// What somebody told, against the asker's own list: everything else is held as the asker does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// What differs, and those with whom something is wrong.
    pub sights: BTreeMap<NodeId, Sight>,
    /// On the asker's list, but not on the other's.
    pub unlisted: BTreeSet<NodeId>,
}

impl Told {
    /// What the teller holds of `view`'s member.
    pub fn of(&self, view: &MemberView) -> Option<Sight> {
        let id = &view.state.id;
        match self.sights.get(id) {
            Some(sight) => Some(sight.clone()),
            None if self.unlisted.contains(id) => None,
            None => Some(Sight {
                since: None,
                by: Vec::new(),
                reason: None,
                udp_blocked: false,
                ..own(view)
            }),
        }
    }
}

/// The asker's own sight of a member.
pub fn own(view: &MemberView) -> Sight {
    Seen::of(view).sight()
}

/// Reads the answer to `asked`, which are the marks of `views`.
///
/// # Errors
///
/// How many members did not fit into the answer.
pub fn read(views: &[MemberView], asked: &Marks, answer: Sighting) -> Result<Told, u32> {
    if answer.left_out > 0 {
        return Err(answer.left_out);
    }
    let seen = answer.seen.into_iter().take(SEEN_MAX);
    let mut told = Told {
        sights: seen.map(|seen| (seen.id.clone(), seen.sight())).collect(),
        unlisted: BTreeSet::new(),
    };
    let buckets = asked.0.len();
    let mut differs = vec![buckets == 0; buckets.max(1)];
    for n in answer.differing {
        if let Some(differs) = differs.get_mut(usize::from(n)) {
            *differs = true;
        }
    }
    for view in views {
        let id = &view.state.id;
        match told.sights.get(id) {
            Some(sight) => {
                // it came along with others of its bucket
                let plain = view.state.status == MemberStatus::Alive && !sight.is_trouble();
                let life = (view.state.generation, view.state.incarnation);
                if buckets > 0 && plain && (sight.generation, sight.incarnation) == life {
                    told.sights.remove(id);
                }
            }
            None if differs[bucket_of(id, differs.len())] => {
                told.unlisted.insert(id.clone());
            }
            None => {}
        }
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::{
        super::{
            Doubts,
            testing::{id, member},
        },
        *,
    };

    fn view(name: &str, status: MemberStatus, incarnation: u64) -> MemberView {
        let mut state = member(name);
        state.status = status;
        state.incarnation = incarnation;
        MemberView {
            state: state.into(),
            last_seen: Timestamp::UNIX_EPOCH,
            status_since: Timestamp::UNIX_EPOCH,
            heartbeat_seq: 0,
            doubts: Doubts::default(),
        }
    }

    type Plain = BTreeMap<NodeId, (MemberStatus, u64)>;

    /// All that `told` says, in full.
    fn whole(told: &Told, mine: &[MemberView]) -> Plain {
        let plain = |s: &Sight| (s.status, s.incarnation);
        let known = mine
            .iter()
            .filter_map(|v| Some((v.state.id.clone(), plain(&told.of(v)?))));
        let told = told.sights.iter().map(|(id, s)| (id.clone(), plain(s)));
        known.chain(told).collect()
    }

    fn held(views: &[MemberView]) -> Plain {
        let of = |v: &MemberView| (v.state.id.clone(), (v.state.status, v.state.incarnation));
        views.iter().map(of).collect()
    }

    fn bytes(of: &impl Serialize) -> usize {
        postcard::to_stdvec(of).expect("encoded").len()
    }

    #[test]
    fn those_who_agree_say_little() {
        let views: Vec<MemberView> = (0..10_000)
            .map(|n| view(&format!("node-{n}"), MemberStatus::Alive, 3))
            .collect();
        let marks = Marks::of(&views);
        assert!(bytes(&marks) < 7_000, "{}", bytes(&marks));
        let answer = sighting(&views, &marks);
        assert!(bytes(&answer) < 16, "{}", bytes(&answer));
        let told = read(&views, &marks, answer).expect("it fits");
        assert_eq!(told, Told::default());
    }

    #[test]
    fn one_that_differs_costs_its_bucket_and_comes_with_its_reason() {
        let mine: Vec<MemberView> = (0..1_000)
            .map(|n| view(&format!("node-{n}"), MemberStatus::Alive, 0))
            .collect();
        let mut theirs = mine.clone();
        theirs[500] = MemberView {
            doubts: Doubts {
                accusers: vec![id("node-1")],
                silent_ms: 4_200,
                udp_blocked: false,
            },
            ..view("node-500", MemberStatus::Dead, 0)
        };
        let marks = Marks::of(&mine);
        let answer = sighting(&theirs, &marks);
        assert!(answer.seen.len() < 60, "{}", answer.seen.len());
        assert!(bytes(&answer) < 2_000, "{}", bytes(&answer));
        let told = read(&mine, &marks, answer).expect("it fits");
        assert_eq!(whole(&told, &mine), held(&theirs));
        assert_eq!(told.sights.len(), 1);
        let sight = &told.sights[&id("node-500")];
        assert_eq!(sight.by, [id("node-1")]);
        let reason = sight.reason.as_deref();
        assert_eq!(reason, Some("no answer to node-1 for 4.2 s"));
        assert!(sight.since.is_some());
    }

    #[test]
    fn an_answer_that_does_not_fit_says_so() {
        let views: Vec<MemberView> = (0..SEEN_MAX + 7)
            .map(|n| view(&format!("node-{n}"), MemberStatus::Alive, 0))
            .collect();
        let everything = Marks(Vec::new());
        let answer = sighting(&views, &everything);
        assert_eq!(answer.seen.len(), SEEN_MAX);
        assert_eq!(read(&[], &everything, answer), Err(7));
        // marks nobody makes are answered in bounds, too
        let odd = Marks(vec![0; BUCKETS_MAX + 1]);
        assert_eq!(sighting(&views, &odd).left_out, 7);
    }

    fn any_views() -> impl Strategy<Value = Vec<MemberView>> {
        use MemberStatus::{Alive, Dead, Stopped, Suspected};
        let status = prop::sample::select(vec![Alive, Alive, Alive, Suspected, Dead, Stopped]);
        prop::collection::btree_map(0..90_u8, (status, 0..2_u64), 60..90).prop_map(|all| {
            let view = |(n, (status, incarnation))| view(&format!("n{n:03}"), status, incarnation);
            all.into_iter().map(view).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_the_other_holds(mine in any_views(), theirs in any_views()) {
            let marks = Marks::of(&mine);
            let told = read(&mine, &marks, sighting(&theirs, &marks)).expect("it fits");
            prop_assert_eq!(whole(&told, &mine), held(&theirs));
        }
    }
}
