//! The end of a member, its own or another's. A node that goes down on purpose: everybody
//! reachable (in a large cluster, enough of them) is told a few times, by packet and a couple by exchange, and then there is silence
//! for good.

use std::sync::Arc;

use ringmaster_shared::{
    id::NodeId,
    member::{Lifecycle, MemberStatus},
};

use super::{Core, Dest, Output, Phase};
use crate::gossip::{
    MemberState,
    claim::{Claim, Now, Via},
    codec::Body,
};

/// The farewell is said so often, so far apart.
const FAREWELL_ROUNDS: u32 = 3;
const FAREWELL_GAP_MS: u64 = 150;
/// Members told in one round, at random. They spread it on like any news; more packets at once
/// would only be dropped by the socket.
const FAREWELL_TOLD_MAX: usize = 512;

impl Core {
    /// This node goes down on purpose, as `last` (stopped, or left for good): everybody reachable
    /// is told, then there is silence.
    pub fn stop(&mut self, now: Now, last: MemberStatus) {
        if self.phase != Phase::Running {
            return;
        }
        let local = Arc::make_mut(&mut self.local);
        local.status = last;
        local.lifecycle = Lifecycle::Stopped;
        // where it may not rise, going is graver than whatever others hold of this life
        self.rise();
        self.revision += 1;
        let witnesses: Vec<String> = self
            .members
            .pick_reachable(&mut self.rng, 2, |_| true)
            .into_iter()
            .map(|m| m.state.address.clone())
            .collect();
        for address in witnesses {
            self.out.push(Output::Exchange { address });
        }
        self.phase = Phase::Farewell {
            rounds_left: FAREWELL_ROUNDS,
            next_ms: now.ms,
        };
        self.say_farewell(now);
    }

    /// Says for a member that is down that it left for good.
    pub fn bury(&mut self, now: Now, id: &NodeId) {
        let down = self.members.get(id).filter(|m| {
            let status = m.state.status;
            matches!(status, MemberStatus::Dead | MemberStatus::Stopped)
        });
        let Some(member) = down else {
            return;
        };
        let state = MemberState {
            status: MemberStatus::Left,
            ..(*member.state).clone()
        };
        let state = Arc::new(state);
        let from = self.local.id.clone();
        self.apply(now, Claim { state, from }, Via::Own);
    }

    pub(super) fn say_farewell(&mut self, now: Now) {
        let Phase::Farewell {
            rounds_left,
            next_ms,
        } = self.phase
        else {
            return;
        };
        if now.ms < next_ms {
            return;
        }
        let told: Vec<(NodeId, String)> = self
            .members
            .pick_reachable(&mut self.rng, FAREWELL_TOLD_MAX, |_| true)
            .into_iter()
            .map(|m| (m.state.id.clone(), m.state.address.clone()))
            .collect();
        let done = rounds_left <= 1 || told.is_empty();
        for (id, address) in told {
            let packet = self.packet(id, Body::Gossip, None);
            self.send(Dest::Address(address), packet);
        }
        self.phase = if done {
            Phase::Silent
        } else {
            Phase::Farewell {
                rounds_left: rounds_left - 1,
                next_ms: now.ms + FAREWELL_GAP_MS,
            }
        };
    }

    /// Whether the farewell is over.
    pub fn is_silent(&self) -> bool {
        self.phase == Phase::Silent
    }
}
