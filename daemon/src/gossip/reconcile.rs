//! The full-state exchange: two nodes find out where their lists differ and tell each other that.
//!
//! Who asks sends the sum over its whole list; when the other's is the same, that was all, however
//! many members there are. Otherwise both cut their lists into buckets by a hash of the member's
//! id, the asker sends a sum for each, and the other answers with its states of those that
//! differ; the asker then gives its own of the same buckets, as far as they are not what it got.
//! All sums depend on a number drawn for the exchange, so nobody can prepare lists that look
//! alike, or members that all fall into one bucket.
//!
//! Pure: `core/reconciling.rs` has the lists, `driver.rs` and `exchange.rs` the connection. What
//! the states do to a list is decided where it always is, in `core/hearsay.rs`.

use std::{collections::HashMap, sync::Arc};

use ringmaster_shared::{
    id::{ClusterId, NodeId},
    member::MemberStatus,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::{MemberState, codec::Brief};

/// States in one message; more go into the next.
pub const STATES_MAX: usize = 2048;
/// The largest message of an exchange either side reads. `STATES_MAX` of the longest states are
/// well below.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
const BUCKETS_MAX: usize = 1024;
/// Members to a bucket, roughly.
const BUCKET_MEMBERS: usize = 8;
/// Up to so many sums are sent at once, without asking whether they are wanted.
const BUCKETS_AT_ONCE: usize = 4;
/// Questions in one exchange; with `STATES_MAX` enough for all members there can be, both ways.
const QUESTIONS_MAX: u32 = 24;

/// A question, or an answer, and who says it to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message<T> {
    pub cluster: ClusterId,
    pub from: Brief,
    pub what: T,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// "Do you hold what I hold?"
    Compare(Summary),
    /// "These are mine."
    Take { states: Vec<Arc<MemberState>> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// "I hold the same."
    Equal,
    /// "I do not: compare by buckets", as many as these members of mine need.
    Unequal { members: u32 },
    /// "These are mine of those buckets, which differ."
    Differs {
        buckets: Vec<u16>,
        states: Vec<Arc<MemberState>>,
        /// The first bucket that was not looked at, for want of room.
        more_from: Option<u16>,
    },
    /// "Thank you."
    Taken,
}

/// What a list looks like from afar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub salt: u64,
    /// Over all members.
    pub sum: u64,
    /// A power of two of them, or none when only the whole is to be compared.
    pub buckets: Vec<u64>,
    /// Buckets before this one were compared already.
    pub from: u16,
}

/// How many buckets a list of `members` is cut into.
pub fn bucket_count(members: usize) -> usize {
    let wanted = members.div_ceil(BUCKET_MEMBERS).max(1);
    wanted.next_power_of_two().min(BUCKETS_MAX)
}

/// `count` is a power of two.
fn bucket_of(salt: u64, id: &NodeId, count: usize) -> usize {
    xxh3_64_with_seed(id.as_str().as_bytes(), salt) as usize & (count - 1)
}

/// Everything two nodes have to agree about. Load, lifecycle and ring change without being news
/// or raise the incarnation.
fn sum_of(salt: u64, state: &MemberState) -> u64 {
    let mut hash = Xxh3::with_seed(salt);
    for text in [state.id.as_str(), state.address.as_str()] {
        hash.update(text.as_bytes());
        hash.update(&[0]);
    }
    hash.update(&state.generation.to_le_bytes());
    hash.update(&state.incarnation.to_le_bytes());
    hash.update(&[state.status as u8]);
    hash.digest()
}

/// Who left is remembered by some and was never known to others, which is no difference.
fn counts(state: &MemberState) -> bool {
    state.status != MemberStatus::Left
}

/// Sums of all buckets. Sums, so that the order of the list does not matter.
fn sums<'a>(
    salt: u64,
    count: usize,
    states: impl Iterator<Item = &'a Arc<MemberState>>,
) -> Vec<u64> {
    let mut sums = vec![0_u64; count];
    for state in states.filter(|s| counts(s)) {
        let at = bucket_of(salt, &state.id, count);
        sums[at] = sums[at].wrapping_add(sum_of(salt, state));
    }
    sums
}

fn whole(sums: &[u64]) -> u64 {
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// What an exchange compares first: the same for lists that need none.
#[cfg(test)]
pub fn sum_of_list(salt: u64, list: &[Arc<MemberState>]) -> u64 {
    whole(&sums(salt, 1, list.iter()))
}

/// The states of one list, by bucket.
struct Buckets {
    sums: Vec<u64>,
    states: Vec<Vec<Arc<MemberState>>>,
}

impl Buckets {
    fn of(salt: u64, count: usize, list: Vec<Arc<MemberState>>) -> Self {
        let sums = sums(salt, count, list.iter());
        let mut states = vec![Vec::new(); count];
        for state in list {
            states[bucket_of(salt, &state.id, count)].push(state);
        }
        Self { sums, states }
    }
}

/// The answer to a summary, given this node's list.
pub fn compare(theirs: &Summary, list: Vec<Arc<MemberState>>) -> Option<Answer> {
    let count = theirs.buckets.len();
    let unequal = Answer::Unequal {
        members: list.len() as u32,
    };
    if count == 0 {
        let same = whole(&sums(theirs.salt, 1, list.iter())) == theirs.sum;
        return Some(if same { Answer::Equal } else { unequal });
    }
    if !count.is_power_of_two() || count > BUCKETS_MAX {
        return None;
    }
    // far too few buckets for this list: one of them would not fit into a message
    if theirs.from == 0 && bucket_count(list.len()) > count * BUCKETS_AT_ONCE {
        return Some(unequal);
    }
    let mut ours = Buckets::of(theirs.salt, count, list);
    if theirs.from == 0 && ours.sums == theirs.buckets {
        return Some(Answer::Equal);
    }
    let mut buckets = Vec::new();
    let mut states = Vec::new();
    let mut more_from = None;
    for at in usize::from(theirs.from)..count {
        if ours.sums[at] == theirs.buckets[at] {
            continue;
        }
        let bucket = std::mem::take(&mut ours.states[at]);
        if !buckets.is_empty() && states.len() + bucket.len() > STATES_MAX {
            more_from = Some(at as u16);
            break;
        }
        buckets.push(at as u16);
        // one bucket alone is never so full, unless by a rare chance: the next exchange cuts the
        // list in another way
        states.extend(bucket.into_iter().take(STATES_MAX));
    }
    Some(Answer::Differs {
        buckets,
        states,
        more_from,
    })
}

/// What the side that asks does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Ask(Ask),
    /// Over; whether the lists were the same from the start.
    Done {
        equal: bool,
    },
    /// The answer makes no sense.
    Nonsense,
}

/// One exchange, seen from the side that began it.
#[derive(Debug)]
pub struct Asking {
    salt: u64,
    count: usize,
    asked: u32,
    /// What the last question was.
    last: Asked,
    /// Messages of states still to be given.
    to_give: Vec<Vec<Arc<MemberState>>>,
    more_from: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Whole,
    Buckets { from: u16 },
    ToTake,
}

impl Asking {
    /// Begins an exchange about everything this node knows. `salt` is random.
    pub fn begin(salt: u64, list: &[Arc<MemberState>]) -> (Self, Ask) {
        let mut asking = Self {
            salt,
            count: bucket_count(list.len()),
            asked: 1,
            last: Asked::Whole,
            to_give: Vec::new(),
            more_from: None,
        };
        let ask = if asking.count <= BUCKETS_AT_ONCE {
            asking.by_buckets(list, 0)
        } else {
            Ask::Compare(Summary {
                salt,
                sum: whole(&sums(salt, 1, list.iter())),
                buckets: Vec::new(),
                from: 0,
            })
        };
        (asking, ask)
    }

    /// Begins an exchange that only tells: of a node that goes, about itself.
    pub fn telling(state: Arc<MemberState>) -> (Self, Ask) {
        let asking = Self {
            salt: 0,
            count: 1,
            asked: 1,
            last: Asked::ToTake,
            to_give: Vec::new(),
            more_from: None,
        };
        let states = vec![state];
        (asking, Ask::Take { states })
    }

    fn by_buckets(&mut self, list: &[Arc<MemberState>], from: u16) -> Ask {
        self.last = Asked::Buckets { from };
        let buckets = sums(self.salt, self.count, list.iter());
        Ask::Compare(Summary {
            salt: self.salt,
            sum: whole(&buckets),
            buckets,
            from,
        })
    }

    /// What comes after `answer`, and the states in it that are to be merged. `list` is this
    /// node's before they are.
    pub fn next(
        &mut self,
        answer: Answer,
        list: &[Arc<MemberState>],
    ) -> (Next, Vec<Arc<MemberState>>) {
        let mut got = Vec::new();
        let next = match (self.last, answer) {
            (Asked::Whole | Asked::Buckets { .. }, Answer::Equal) => {
                return (Next::Done { equal: true }, got);
            }
            (Asked::Whole, Answer::Unequal { members }) => {
                self.count = self.count.max(bucket_count(members as usize));
                Some(self.by_buckets(list, 0))
            }
            (Asked::Buckets { from: 0 }, Answer::Unequal { members })
                if bucket_count(members as usize) > self.count =>
            {
                self.count = bucket_count(members as usize);
                Some(self.by_buckets(list, 0))
            }
            (
                Asked::Buckets { from },
                Answer::Differs {
                    buckets,
                    states,
                    more_from,
                },
            ) => {
                // it has to come nearer to the end, or it would never come there
                let onward =
                    more_from.is_none_or(|more| more > from && usize::from(more) < self.count);
                if states.len() > STATES_MAX || !onward {
                    return (Next::Nonsense, got);
                }
                self.to_give = self.ours_of(&buckets, &states, list);
                self.more_from = more_from;
                got = states;
                self.go_on(list)
            }
            (Asked::ToTake, Answer::Taken) => self.go_on(list),
            _ => return (Next::Nonsense, got),
        };
        self.asked += 1;
        match next {
            Some(ask) if self.asked <= QUESTIONS_MAX => (Next::Ask(ask), got),
            _ => (Next::Done { equal: false }, got),
        }
    }

    fn go_on(&mut self, list: &[Arc<MemberState>]) -> Option<Ask> {
        if let Some(states) = self.to_give.pop() {
            self.last = Asked::ToTake;
            return Some(Ask::Take { states });
        }
        let from = self.more_from.take()?;
        Some(self.by_buckets(list, from))
    }

    /// This node's states of those buckets, without those the other side just sent the same.
    fn ours_of(
        &self,
        buckets: &[u16],
        theirs: &[Arc<MemberState>],
        list: &[Arc<MemberState>],
    ) -> Vec<Vec<Arc<MemberState>>> {
        let mut wanted = vec![false; self.count];
        for at in buckets {
            if let Some(wanted) = wanted.get_mut(usize::from(*at)) {
                *wanted = true;
            }
        }
        let held: HashMap<&NodeId, u64> = theirs
            .iter()
            .map(|s| (&s.id, sum_of(self.salt, s)))
            .collect();
        let ours: Vec<_> = list
            .iter()
            .filter(|s| wanted[bucket_of(self.salt, &s.id, self.count)])
            .filter(|s| held.get(&s.id) != Some(&sum_of(self.salt, s)))
            .cloned()
            .collect();
        ours.chunks(STATES_MAX).map(<[_]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests;
