//! What one feed has sent and what follows from that. Pure but for the time on frames.

use std::sync::Arc;

use jiff::Timestamp;
use ringmaster_shared::{
    api::ring::RingResponse,
    event::Event,
    feed::{ClientFrame, Delta, Frame, FrameBody, Snapshot, Topic},
};

use crate::view::{Views, same_members, same_status, without_table};

/// Recent events in a snapshot.
pub const SNAPSHOT_EVENTS: usize = 100;

#[derive(Default)]
pub struct Session {
    seq: u64,
    wishes: ClientFrame,
    sent: Option<Views>,
    last_event: u64,
}

impl Session {
    /// Takes a frame of the client; an error is a sentence for it.
    pub fn order(&mut self, text: &str) -> Result<(), String> {
        if !text.trim_start().starts_with('{') {
            return Err("the frame was not understood: it must be a JSON object".into());
        }
        self.wishes = serde_json::from_str(text).map_err(|e| {
            format!("the frame was not understood: {e}; send {{\"subscribe\": [...], \"ring_table\": true}}")
        })?;
        Ok(())
    }

    pub fn frame(&mut self, body: FrameBody) -> Frame {
        self.seq += 1;
        Frame {
            seq: self.seq,
            time: Timestamp::now(),
            body,
        }
    }

    pub fn snapshot(&mut self, views: &Views, events: Vec<Event>) -> Snapshot {
        self.last_event = events.last().map_or(0, |e| e.seq).max(self.last_event);
        self.sent = Some(views.clone());
        Snapshot {
            status: views.status.clone(),
            members: views.members.clone(),
            ring: self.ring(&views.ring),
            events: if self.wants(Topic::Events) {
                events
            } else {
                Vec::new()
            },
        }
    }

    /// What changed since the last frame; `None` when that is nothing the client wants.
    pub fn delta(&mut self, views: &Views) -> Option<Delta> {
        let sent = self.sent.as_ref()?;
        let status =
            self.wants(Topic::Status) && (views.aged || !same_status(&sent.status, &views.status));
        let members = self.wants(Topic::Members)
            && (views.aged || !same_members(&sent.members, &views.members));
        let ring = self.wants(Topic::Ring)
            && !Arc::ptr_eq(&sent.ring, &views.ring)
            && sent.ring != views.ring;
        if !(status || members || ring) {
            return None;
        }
        let delta = Delta {
            status: status.then(|| views.status.clone()),
            members: members.then(|| views.members.clone()),
            ring: ring.then(|| self.ring(&views.ring)),
        };
        self.sent = Some(views.clone());
        Some(delta)
    }

    pub fn wants_event(&mut self, event: &Event) -> bool {
        let new = event.seq > self.last_event;
        self.last_event = event.seq.max(self.last_event);
        new && self.wants(Topic::Events)
    }

    fn wants(&self, topic: Topic) -> bool {
        self.wishes
            .subscribe
            .as_ref()
            .is_none_or(|topics| topics.contains(&topic))
    }

    fn ring(&self, ring: &RingResponse) -> RingResponse {
        if self.wishes.ring_table {
            ring.clone()
        } else {
            without_table(ring)
        }
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::event::EventCode;

    use super::*;
    use crate::{
        events::Events,
        health::{
            keeper::Keeper,
            tests::{id, topology},
        },
        view::{
            build,
            tests::{facts, look},
        },
    };

    fn views() -> Views {
        let look = look(Some(topology(&["a", "b"])), None);
        build(&facts(), &look, &mut Keeper::default())
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut session = Session::default();
        let mut views = views();
        assert!(session.delta(&views).is_none(), "the snapshot comes first");
        let snapshot = session.snapshot(&views, Vec::new());
        assert!(snapshot.ring.table.is_empty() && snapshot.ring.epoch == 3);
        assert!(session.delta(&views).is_none());
        views.status.timestamp += 9;
        assert!(session.delta(&views).is_none(), "time alone is no change");
        views.status.storage.key_count = 5;
        let delta = session.delta(&views).expect("a change");
        assert!(delta.status.is_some() && delta.members.is_none() && delta.ring.is_none());
        assert!(session.delta(&views).is_none(), "told already");
        views.aged = true;
        let delta = session
            .delta(&views)
            .expect("times are refreshed now and then");
        assert!(delta.status.is_some() && delta.members.is_some() && delta.ring.is_none());
    }

    #[test]
    fn the_client_chooses_topics_and_the_table() {
        let mut session = Session::default();
        let mut views = views();
        session
            .order(r#"{"subscribe": ["ring"], "ring_table": true}"#)
            .expect("understood");
        let snapshot = session.snapshot(&views, Vec::new());
        assert_eq!(snapshot.ring.table.len(), 4);
        views.status.storage.key_count = 5;
        assert!(session.delta(&views).is_none(), "status is not wanted");
        for bad in [
            "",
            "{",
            "[]",
            r#"{"subscribe": ["x"]}"#,
            r#"{"other": 1}"#,
            "5",
        ] {
            assert!(session.order(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            session.snapshot(&views, Vec::new()).ring.table.len(),
            4,
            "wishes stay"
        );
    }

    #[test]
    fn events_of_the_snapshot_are_not_sent_again() {
        let events = Events::new(id("a"));
        let mut receiver = events.subscribe();
        events.info(EventCode::NodeStarted, None, "one");
        let mut session = Session::default();
        session.snapshot(&views(), events.newest(10));
        events.info(EventCode::NodeStarted, None, "two");
        let wanted: Vec<bool> = std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|e| session.wants_event(&e))
            .collect();
        assert_eq!(wanted, [false, true]);
    }

    #[test]
    fn frames_are_numbered() {
        let mut session = Session::default();
        let gap = session.frame(FrameBody::Gap { dropped: 1 });
        let text = serde_json::to_string(&gap).expect("JSON");
        assert!(
            text.contains(r#""seq":1"#) && text.contains(r#""type":"gap""#),
            "{text}"
        );
        assert_eq!(session.frame(FrameBody::Gap { dropped: 2 }).seq, 2);
    }
}
