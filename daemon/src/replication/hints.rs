//! Hints: records owed to replicas that missed a write, kept durably here and replayed when the
//! replica answers again.
//!
//! Promises: bounded in bytes (the store refuses what is over budget) and in age; what is given up
//! marks its partition dirty for the target, durably, which is told and mended by anti-entropy;
//! throttled, and removed only when the target has confirmed them. Replaying is a join, so a hint
//! that arrives late or twice does no harm; one that is older than the target's floor is refused
//! there and discarded here.

mod marks;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use rand::Rng;
use ringmaster_shared::{
    clock::Hlc,
    event::EventCode,
    id::{NodeId, PartitionId},
    key::Key,
    topology::Topology,
    version::Record,
};
use tokio::time::Instant;

use self::marks::Marks;
use super::{
    frames::{Request, Response},
    replica::{fits_frame, weight},
    settings::Traffic,
    site::Site,
};
use crate::{breaks::broken, storage::StorageError, time::unix_ms};

/// Hints read from the store at once.
const BATCH_KEYS: usize = 64;
/// Most bytes of records in one message.
const BATCH_BYTES: usize = 1024 * 1024;
/// Hints that a target may refuse one by one before the rest waits for the next try, which goes on
/// after the last of these.
const REFUSED_MAX: usize = 64;
/// Pause between batches, so that replay never crowds out clients.
const BATCH_PAUSE: Duration = Duration::from_millis(10);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the worker looks by itself.
const TICK: Duration = Duration::from_secs(3);
/// Hints of one target whose age is looked at each time.
const AGED_ROWS: usize = 10_000;
/// After a failure the next try waits this long, then twice as long, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

#[derive(Clone)]
pub struct Hints {
    site: Arc<Site>,
    /// Targets whose outage has been reported.
    outages: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Targets whose dirty partitions have been reported.
    dirty: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Given up, and not yet noted in the store.
    marks: Arc<Marks>,
}

/// Hints that the target's store could not take, in one replay.
#[derive(Default)]
struct Refused {
    count: usize,
    why: Option<String>,
    /// The one that was too many: the rest waits for the next try.
    last: Option<Key>,
}

/// Why a replay did not hand over all that is owed.
struct Stopped {
    why: String,
    /// Where the next one goes on; none: at the front.
    after: Option<Key>,
}

/// Why hints were not taken.
struct NotTaken {
    /// The target answered that its store could not do all of it.
    is_of_the_store: bool,
    why: String,
}

impl From<String> for NotTaken {
    fn from(why: String) -> Self {
        Self {
            is_of_the_store: false,
            why,
        }
    }
}

/// When a target that failed may be tried again.
struct Waiting {
    until: Instant,
    pause: Duration,
    /// What comes up to this key was refused, and is tried again after the rest.
    after: Option<Key>,
}

impl Hints {
    /// Starts the replay worker; it ends with the site's stop token.
    pub fn start(site: Arc<Site>) -> Self {
        let hints = Self {
            site: site.clone(),
            outages: Arc::default(),
            dirty: Arc::default(),
            marks: Arc::default(),
        };
        let (worker, marker, stop) = (hints.clone(), hints.clone(), site.stop.clone());
        tokio::spawn(async move {
            stop.run_until_cancelled(marker.mark_for_ever()).await;
        });
        tokio::spawn(async move {
            site.stop
                .run_until_cancelled(worker.replay_for_ever())
                .await;
        });
        hints
    }

    /// Keeps a record for a replica that is not known to have it.
    pub async fn keep(&self, target: &NodeId, key: &Key, record: &Record) {
        let site = &self.site;
        if target == site.me() || broken("no-repair") {
            return;
        }
        let kept = site
            .replica
            .store
            .hint_add(target, key.clone(), record.clone())
            .await;
        match kept {
            Ok(true) => {
                if self.outages().insert(target.clone()) {
                    let what = format!(
                        "{target} misses writes; they are kept here and handed over when it answers"
                    );
                    site.events.info(EventCode::HintsStored, Some(target), what);
                }
            }
            Ok(false) => self.tell_dropped(target),
            Err(error) => self.tell_lost(target, &error.to_string()),
        }
    }

    /// Keeps nothing of a record for a replica that is not known to have it, but that they have to
    /// be compared. The store notes it later: a busy one can take long.
    pub fn drop_later(&self, target: &NodeId, partition: PartitionId, key: &Key) {
        if target == self.site.me() || broken("no-repair") {
            return;
        }
        if !self.marks.add(target, partition, key) {
            self.tell_lost(target, "too many others wait to be noted");
        }
    }

    async fn mark_for_ever(self) {
        loop {
            let marks = self.marks.next().await;
            join_all(
                marks
                    .into_iter()
                    .map(|(target, key)| self.mark(target, key)),
            )
            .await;
        }
    }

    async fn mark(&self, target: NodeId, key: Key) {
        match self.site.replica.store.hint_dropped(&target, key).await {
            Ok(()) => self.tell_dropped(&target),
            Err(error) => self.tell_lost(&target, &error.to_string()),
        }
    }

    fn tell_dropped(&self, target: &NodeId) {
        let site = &self.site;
        let code = EventCode::HintsDropped;
        if site.worth_reporting(code, Some(target)) {
            let what = format!(
                "no more room for writes owed to {target}; comparing partitions will bring it up \
                 when it returns"
            );
            site.events.warn(code, Some(target), what);
        }
        self.tell_dirty(target);
    }

    /// Neither the hint nor the mark could be stored.
    fn tell_lost(&self, target: &NodeId, why: &str) {
        let site = &self.site;
        let code = EventCode::HintsDropped;
        // whoever closes has nobody left to tell
        if !site.stop.is_cancelled() && site.worth_reporting(code, Some(target)) {
            let what = format!(
                "a write owed to {target} could not be kept here: {why}; the next comparison of \
                 its partition brings {target} up"
            );
            site.events.warn(code, Some(target), what);
        }
    }

    fn outages(&self) -> std::sync::MutexGuard<'_, BTreeSet<NodeId>> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once for each time that partitions of a target become dirty.
    fn tell_dirty(&self, target: &NodeId) {
        let dirty = self.site.replica.store.dirty();
        let mut told = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|id| dirty.contains_key(id));
        let count = dirty.get(target).map_or(0, Vec::len);
        if count > 0 && told.insert(target.clone()) {
            let what = format!(
                "writes owed to {target} were given up; the partitions they belong to ({count} so \
                 far) are compared with it when it answers"
            );
            let code = EventCode::PartitionsDirty;
            self.site.events.warn(code, Some(target), what);
        }
    }

    /// Gives up hints that are too old: a bounded stretch of those owed to each target.
    async fn give_up_old(&self, after: &mut BTreeMap<NodeId, Key>) {
        let site = &self.site;
        let max_age = u64::try_from(site.settings.hint_max_age.as_millis()).unwrap_or(u64::MAX);
        let before = Hlc::from_parts(unix_ms().saturating_sub(max_age), 0);
        for target in site.replica.store.hints_owed().into_keys() {
            let from = after.remove(&target);
            let (store, whose) = (site.replica.store.clone(), target.clone());
            let read = move || store.hints_before(&whose, from.as_ref(), before, AGED_ROWS);
            let page = match tokio::task::spawn_blocking(read).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    tracing::debug!(target = %target, "old hints were not looked for: {error}");
                    continue;
                }
                Err(_) => continue,
            };
            if let Some(next) = page.next {
                after.insert(target.clone(), next);
            }
            if page.found.is_empty() {
                continue;
            }
            let count = page.found.len();
            match site.replica.store.hints_given_up(&target, page.found).await {
                Ok(()) => {
                    tracing::info!(target = %target, hints = count, "hints were too old and are given up");
                    self.tell_dirty(&target);
                }
                Err(error) => tracing::debug!(target = %target, "old hints stay: {error}"),
            }
        }
    }

    async fn replay_for_ever(self) {
        let mut members = self.site.network.watch();
        let mut waiting: BTreeMap<NodeId, Waiting> = BTreeMap::new();
        let mut aged = BTreeMap::new();
        let mut next_aged = Instant::now();
        // marks that an earlier life left
        for target in self.site.replica.store.dirty().into_keys() {
            self.tell_dirty(&target);
        }
        loop {
            tokio::select! {
                changed = members.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(TICK) => {}
            }
            if Instant::now() >= next_aged {
                self.give_up_old(&mut aged).await;
                next_aged = Instant::now() + TICK;
            }
            for (target, owed) in self.site.replica.store.hints_owed() {
                let now = Instant::now();
                if owed == 0 || waiting.get(&target).is_some_and(|w| w.until > now) {
                    continue;
                }
                let after = waiting.get_mut(&target).and_then(|w| w.after.take());
                match self.settle(&target, after).await {
                    Ok(()) => drop(waiting.remove(&target)),
                    Err(Stopped { why, after }) => {
                        tracing::debug!(target = %target, "hints wait: {why}");
                        let pause = waiting.get(&target).map_or(BACKOFF.0, |w| w.pause * 2);
                        let pause = pause.min(BACKOFF.1);
                        let jitter = rand::rng().random_range(0.5..1.0);
                        let until = Instant::now() + pause.mul_f64(jitter);
                        let wait = Waiting {
                            until,
                            pause,
                            after,
                        };
                        waiting.insert(target, wait);
                    }
                }
            }
        }
    }

    /// Hands over, or gives up, what is owed to one target, if it can be reached.
    async fn settle(&self, target: &NodeId, after: Option<Key>) -> Result<(), Stopped> {
        let Some(topology) = self.site.replica.topology.current() else {
            return Ok(());
        };
        if topology.contains(target) {
            if !self.site.is_reachable(target) {
                return Ok(());
            }
            return self.replay(target, &topology, after).await;
        }
        let dropped = self.discard(target).await.map_err(|e| Stopped {
            why: e.to_string(),
            after: None,
        })?;
        tracing::info!(
            target = %target,
            hints = dropped,
            "left the ring; what was owed to it is forgotten"
        );
        Ok(())
    }

    /// Hands over what is owed, from `from` on.
    async fn replay(
        &self,
        target: &NodeId,
        topology: &Topology,
        from: Option<Key>,
    ) -> Result<(), Stopped> {
        let mut refused = Refused::default();
        let mut sent = 0;
        let ended = self
            .hand_over_from(target, topology, from.clone(), &mut refused, &mut sent)
            .await;
        if sent > 0 {
            let what = format!("{sent} writes that {target} had missed were handed over");
            self.site
                .events
                .info(EventCode::HintsReplayed, Some(target), what);
        }
        let skipped = from.is_some();
        let stopped = match (ended, refused.last, refused.why) {
            (Err(why), Some(last), _) => Some((why, Some(last))),
            (Err(why), None, _) => Some((why, from)),
            // from the front again
            (Ok(()), _, Some(why)) => Some((why, None)),
            (Ok(()), _, None) if skipped => {
                let why = "its store refused the first of them before".to_owned();
                Some((why, None))
            }
            (Ok(()), _, None) => None,
        };
        if let Some((why, after)) = stopped {
            return Err(Stopped { why, after });
        }
        self.outages().remove(target);
        Ok(())
    }

    async fn hand_over_from(
        &self,
        target: &NodeId,
        topology: &Topology,
        mut after: Option<Key>,
        refused: &mut Refused,
        sent: &mut usize,
    ) -> Result<(), String> {
        let store = &self.site.replica.store;
        loop {
            let page = store
                .hints_after(target, after.as_ref(), BATCH_KEYS)
                .map_err(|e| e.to_string())?;
            if page.last.is_none() {
                return Ok(());
            }
            after = page.last;
            self.give_up(target, page.damaged).await?;
            let batch = page.found;
            // a partition may have moved away from the target since
            let (due, moved): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .partition(|(key, _)| topology.is_replica(topology.partition_of(key), target));
            self.done(target, &moved).await?;
            let (due, large): (Vec<_>, Vec<_>) = due
                .into_iter()
                .partition(|(key, record)| fits_frame(key, record));
            self.give_up_large(target, &large).await?;
            for part in parts(due) {
                self.hand_over_each(target, &part, refused, sent).await?;
                tokio::time::sleep(BATCH_PAUSE).await;
            }
        }
    }

    /// What does not fit into a message would keep all that follows it from being handed over.
    async fn give_up_large(&self, target: &NodeId, large: &[(Key, Record)]) -> Result<(), String> {
        if large.is_empty() {
            return Ok(());
        }
        for (key, record) in large {
            self.site.tell_too_large(key, record);
        }
        self.give_up(target, fingerprints(large)).await
    }

    /// Leaves these to the comparison of their partitions.
    async fn give_up(&self, target: &NodeId, hints: Vec<(Key, u64)>) -> Result<(), String> {
        if hints.is_empty() {
            return Ok(());
        }
        let given_up = self.site.replica.store.hints_given_up(target, hints).await;
        given_up.map_err(|error| error.to_string())?;
        self.tell_dirty(target);
        Ok(())
    }

    /// Hands over a part; when the target's store could not take all of it, one by one, so that a
    /// record that is damaged there holds up nothing but its own hint. Adds those taken to `sent`.
    async fn hand_over_each(
        &self,
        target: &NodeId,
        part: &[(Key, Record)],
        refused: &mut Refused,
        sent: &mut usize,
    ) -> Result<(), String> {
        match self.hand_over(target, part).await {
            Ok(()) => {
                *sent += part.len();
                return Ok(());
            }
            Err(error) if error.is_of_the_store => {}
            Err(error) => return Err(error.why),
        }
        for one in part {
            match self.hand_over(target, std::slice::from_ref(one)).await {
                Ok(()) => *sent += 1,
                Err(error) if error.is_of_the_store => {
                    refused.count += 1;
                    if refused.count >= REFUSED_MAX {
                        refused.last = Some(one.0.clone());
                        return Err(error.why);
                    }
                    refused.why = Some(error.why);
                }
                Err(error) => return Err(error.why),
            }
        }
        Ok(())
    }

    async fn hand_over(&self, target: &NodeId, part: &[(Key, Record)]) -> Result<(), NotTaken> {
        let request = Request::Merge {
            entries: part.to_vec(),
            issued: Hlc::default(), // each speaks for itself
        };
        let mut traffic = Traffic::default();
        let ask = self
            .site
            .ask_for_repair(target, 0, request, CALL_TIMEOUT, &mut traffic);
        match ask.await {
            Ok(Response::Merged { .. }) => self.done(target, part).await.map_err(NotTaken::from),
            Ok(_) => Err("answered something else than was asked".to_owned().into()),
            Err(error) => Err(NotTaken {
                is_of_the_store: error.is_of_the_store(),
                why: error.why(),
            }),
        }
    }

    async fn done(&self, target: &NodeId, part: &[(Key, Record)]) -> Result<(), String> {
        if part.is_empty() {
            return Ok(());
        }
        let store = &self.site.replica.store;
        let done = store.hints_done(target, fingerprints(part)).await;
        done.map_err(|error| error.to_string())
    }

    async fn discard(&self, target: &NodeId) -> Result<usize, StorageError> {
        let store = &self.site.replica.store;
        let mut dropped = 0;
        loop {
            let page = store.hints_after(target, None, BATCH_KEYS)?;
            if page.last.is_none() {
                return Ok(dropped);
            }
            let mut gone = fingerprints(&page.found);
            gone.extend(page.damaged);
            dropped += gone.len();
            store.hints_done(target, gone).await?;
        }
    }
}

fn fingerprints(entries: &[(Key, Record)]) -> Vec<(Key, u64)> {
    let each = entries.iter();
    each.map(|(key, record)| (key.clone(), record.fingerprint()))
        .collect()
}

/// Cuts entries into messages of a bounded size; a single large record makes one of its own.
pub fn parts(entries: Vec<(Key, Record)>) -> Vec<Vec<(Key, Record)>> {
    let mut parts: Vec<Vec<(Key, Record)>> = Vec::new();
    let mut room = 0;
    for (key, record) in entries {
        let bytes = key.as_str().len() + weight(&record);
        match parts.last_mut() {
            Some(part) if bytes <= room => {
                room -= bytes;
                part.push((key, record));
            }
            _ => {
                room = BATCH_BYTES.saturating_sub(bytes);
                parts.push(vec![(key, record)]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ringmaster_shared::version::Value;

    use super::*;
    use crate::replication::testing::{alone, dot, key, sibling};

    fn entry(n: u64, bytes: usize) -> (Key, Record) {
        let mut sibling = sibling(dot("a", n), n, n);
        sibling.value = Some(Value::Raw(Bytes::from(vec![0; bytes])));
        (key(&n.to_string()), alone(sibling))
    }

    #[test]
    fn messages_are_bounded_and_nothing_is_lost() {
        let sizes = [10, 900_000, 200_000, 5_000_000, 10, 10];
        let entries: Vec<_> = (1..).zip(sizes).map(|(n, b)| entry(n, b)).collect();
        let cut = parts(entries.clone());
        let lengths: Vec<usize> = cut.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 1, 2]);
        assert_eq!(cut.concat(), entries);
        assert!(parts(Vec::new()).is_empty());
    }
}
