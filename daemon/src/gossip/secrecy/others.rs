//! Members that seal with another key than this node's primary, and are sealed for with that.
//!
//! They may know no other key. Or they hold the primary as well and seal with the other only
//! because this node does: two that changed their primaries at different moments would each go by
//! what the other did last, for ever. So the primary is tried now and then, with one message: who
//! can open it answers with it. Who cannot loses that message, so it is tried ever more rarely.
//! Pure: time is handed in, milliseconds of any clock that does not go back.

use std::collections::HashMap;

use ringmaster_shared::id::NodeId;

use super::Fingerprint;

/// Members remembered.
const OTHERS_MAX: usize = 16_384;
/// From when a key was first used for a member until the primary is tried with it.
const TRY_AFTER_MS: u64 = 60_000;
/// Each time after twice as long, up to this.
const TRY_AFTER_MS_MAX: u64 = 3_600_000;

#[derive(Debug, Default)]
pub struct Others {
    noted: HashMap<NodeId, Noted>,
}

#[derive(Debug)]
struct Noted {
    key: Fingerprint,
    gap_ms: u64,
    /// When the primary is tried next; `None` before anything was sealed for the member.
    try_ms: Option<u64>,
}

impl Others {
    /// The member was heard sealing with that key. Hearing it again puts nothing off.
    pub fn note(&mut self, member: &NodeId, key: Fingerprint) {
        match self.noted.get(member) {
            Some(noted) if noted.key == key => return,
            None if self.noted.len() >= OTHERS_MAX => return,
            _ => {}
        }
        let noted = Noted {
            key,
            gap_ms: TRY_AFTER_MS,
            try_ms: None,
        };
        self.noted.insert(member.clone(), noted);
    }

    /// It seals with the primary.
    pub fn remove(&mut self, member: &NodeId) {
        self.noted.remove(member);
    }

    /// That key is the primary now.
    pub fn remove_key(&mut self, key: Fingerprint) {
        self.noted.retain(|_, noted| noted.key != key);
    }

    /// What the next message for the member is to be sealed with, if not with the primary.
    pub fn key_for(&mut self, now_ms: u64, member: &NodeId) -> Option<Fingerprint> {
        let noted = self.noted.get_mut(member)?;
        let due_ms = *noted.try_ms.get_or_insert(now_ms + noted.gap_ms);
        if now_ms < due_ms {
            return Some(noted.key);
        }
        noted.gap_ms = (2 * noted.gap_ms).min(TRY_AFTER_MS_MAX);
        noted.try_ms = Some(now_ms + noted.gap_ms);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{super::testing::id, key::Key},
        *,
    };

    #[test]
    fn the_primary_is_tried_with_single_messages_ever_more_rarely() {
        let (b, key) = (id("b"), Key::new([1; 32]).fingerprint());
        let mut others = Others::default();
        others.note(&b, key);
        let mut tried = Vec::new();
        // it is heard all the time, sealing with its key
        for second in 0..20_000 {
            others.note(&b, key);
            match others.key_for(1_000 * second, &b) {
                Some(with) => assert_eq!(with, key),
                None => tried.push(second),
            }
        }
        let minutes: Vec<u64> = tried.iter().map(|second| second / 60).collect();
        assert_eq!(minutes, [1, 3, 7, 15, 31, 63, 123, 183, 243, 303]);
        let another = Key::new([2; 32]).fingerprint();
        others.note(&b, another);
        assert_eq!(others.key_for(30_000_000, &b), Some(another), "of its own");
        others.remove_key(another);
        assert_eq!(others.key_for(30_000_000, &b), None);
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (key, next) = (
            Key::new([1; 32]).fingerprint(),
            Key::new([2; 32]).fingerprint(),
        );
        let mut others = Others::default();
        for n in 0..=OTHERS_MAX {
            others.note(&id(&format!("n{n}")), key);
        }
        assert_eq!(others.noted.len(), OTHERS_MAX);
        others.note(&id("n0"), next);
        assert_eq!(others.key_for(0, &id("n0")), Some(next));
    }
}
