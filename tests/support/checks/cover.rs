//! Which write supersedes which.
//!
//! A write with a context supersedes what the context covers. A write without one supersedes
//! what its query found: that is in the answer's context, and when there is no answer, at least
//! all that was settled before it began and at most all that began before it ended. Two
//! relations follow: what *must* have been superseded (to condemn what is still there) and what
//! *may* have been (to excuse what is not).

use std::collections::{BTreeMap, HashMap};

use ringmaster_shared::version::Dot;

use super::{
    ended::End,
    record::{History, Op, Outcome, Seen, Write},
};

/// A write that may have taken place.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    pub op: &'a Op,
    pub write: &'a Write,
    /// From when on a read is bound to know it: acknowledged, or shown by an earlier read.
    pub settled: Option<u64>,
}

impl Written<'_> {
    pub fn dot(&self) -> Option<&Dot> {
        self.write.returned.as_ref().map(|r| &r.dot)
    }

    pub fn is_acknowledged(&self) -> bool {
        self.op.ended().is_some()
    }

    /// The moment after which it can supersede nothing more.
    fn over(&self) -> u64 {
        self.op.ended().unwrap_or(u64::MAX)
    }

    /// Whether, once this one counts, `other` cannot be there any more.
    pub fn must_cover(&self, other: &Written) -> bool {
        if self.write.id == other.write.id {
            return false;
        }
        // whatever its answer says: what was settled it had to find
        let was_settled = other.settled.is_some_and(|at| at < self.op.called);
        match (&self.write.sent, &self.write.returned, other.dot()) {
            (Some(sent), _, Some(dot)) => sent.clock.covers(dot),
            (Some(sent), _, None) => sent.shown.contains(&other.write.id),
            (None, Some(returned), Some(dot)) => was_settled || returned.clock.covers(dot),
            (None, _, _) => was_settled,
        }
    }

    /// Whether this one can be why `other` is gone.
    pub fn may_cover(&self, other: &Written) -> bool {
        if self.write.id == other.write.id || self.over() < other.op.called {
            return false;
        }
        match (&self.write.sent, &self.write.returned, other.dot()) {
            (Some(sent), _, Some(dot)) => sent.clock.covers(dot),
            (Some(sent), _, None) => {
                sent.shown.contains(&other.write.id) || other.op.called < sent.at
            }
            (None, Some(returned), Some(dot)) => returned.clock.covers(dot),
            (None, _, _) => true,
        }
    }

    /// Whether `seen` shows it; a delete shows as a delete whose dot is covered.
    pub fn is_shown_by(&self, seen: &Seen) -> bool {
        if !self.write.deletes {
            return seen.values.contains(&self.write.id);
        }
        let known = self.dot().is_none_or(|dot| seen.clock.covers(dot));
        (seen.tombstones > 0 && known) || seen.clock.is_empty()
    }
}

/// All that happened to one key.
#[derive(Debug, Default)]
pub struct KeyStory<'a> {
    /// In the order of calls; without those that were refused.
    pub writes: Vec<Written<'a>>,
    /// In the order of calls.
    pub reads: Vec<(&'a Op, &'a Seen)>,
    /// Values of writes that were refused.
    pub refused: Vec<u64>,
    by_id: HashMap<u64, usize>,
}

impl<'a> KeyStory<'a> {
    pub fn by_id(&self, id: u64) -> Option<&Written<'a>> {
        self.by_id.get(&id).map(|at| &self.writes[*at])
    }

    /// When the first write was called, other than those `but` names, that can be why `gone` is.
    pub fn first_excuse(&self, gone: &Written, but: Option<u64>) -> Option<&Written<'a>> {
        let others = self.writes.iter();
        let mut others = others.filter(|w| Some(w.write.id) != but);
        others.find(|w| w.may_cover(gone))
    }

    /// Reads that began after `since`.
    pub fn reads_after(&self, since: u64) -> &[(&'a Op, &'a Seen)] {
        let from = self.reads.partition_point(|(op, _)| op.called <= since);
        &self.reads[from..]
    }
}

/// The history by key.
#[derive(Debug, Default)]
pub struct Cover<'a> {
    pub keys: BTreeMap<&'a str, KeyStory<'a>>,
}

impl<'a> Cover<'a> {
    /// All that was ever shown of each key: by its reads, and at the end.
    pub fn shown(&self, end: &'a End) -> impl Iterator<Item = (&'a str, &KeyStory<'a>, &'a Seen)> {
        self.keys.iter().flat_map(|(key, story)| {
            let reads = story.reads.iter().map(|(_, seen)| *seen);
            reads
                .chain(end.seen(key))
                .map(move |seen| (*key, story, seen))
        })
    }

    pub fn of(history: &'a History) -> Self {
        let mut keys: BTreeMap<&str, KeyStory> = BTreeMap::new();
        for op in &history.ops {
            let story = keys.entry(&op.key).or_default();
            if let Some(seen) = op.read() {
                story.reads.push((op, seen));
            }
            let Some(write) = op.write() else { continue };
            if op.outcome == Outcome::Refused {
                story.refused.push(write.id);
                continue;
            }
            story.writes.push(Written {
                op,
                write,
                settled: op.ended(),
            });
        }
        for story in keys.values_mut() {
            story.reads.sort_by_key(|(op, _)| op.called);
            story.writes.sort_by_key(|w| w.op.called);
            let ids = story.writes.iter().enumerate();
            story.by_id = ids.map(|(at, w)| (w.write.id, at)).collect();
            for (op, seen) in &story.reads {
                for value in &seen.values {
                    if let (Some(at), Some(end)) = (story.by_id.get(value), op.ended()) {
                        let settled = &mut story.writes[*at].settled;
                        *settled = Some(settled.map_or(end, |s| s.min(end)));
                    }
                }
            }
        }
        Self { keys }
    }
}
