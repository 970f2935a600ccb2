//! Claims about members, and which of two claims wins.
//!
//! The order is total and the same on every node, so that nodes which heard the same claims in
//! any order end with the same list: a later life (generation) first, then a later refutation
//! (incarnation), then the graver status. Only the member itself raises its incarnation, so a
//! member held dead becomes alive by its own word alone.

use std::sync::Arc;

use ringmaster_shared::{
    id::{Generation, NodeId},
    member::{Freshness, MemberStatus},
};
use serde::{Deserialize, Serialize};

use super::MemberState;
use crate::config::seeds;

/// `host:port`: a DNS name of 253 bytes, brackets or not, and a port.
pub const ADDRESS_BYTES_MAX: usize = 262;
/// Longest zone and version text; with the address bound it lets any claim fit into one packet.
pub const TEXT_BYTES_MAX: usize = 64;
/// Generations are Unix milliseconds; one further ahead than this comes from a broken clock, and
/// taking it in would lock the node's true later lives out.
const GENERATION_AHEAD_MS_MAX: u64 = 365 * 24 * 3600 * 1000;
/// Far more than a member ever needs; one that is accused so far up goes on with the next
/// generation, see [`next_above`].
pub const INCARNATION_MAX: u64 = 1 << 48;

/// The time, as the driver hands it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds; what intervals and deadlines go by.
    pub ms: u64,
    /// Unix milliseconds; for time stamps and for judging generations only.
    pub unix_ms: u64,
}

/// Later lives that a process may go on as without a note on the disk: they are leased when it
/// starts, as its next start begins above them. One is taken at most once a second, so a process
/// that uses them up was accused for a quarter of an hour with nothing above the accusation; and
/// a start costs its node no more than a second of generations.
pub const LIVES_LEASED: u64 = 1000;

/// What somebody says about a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub state: Arc<MemberState>,
    /// Who started it: the member itself, or who got no answer.
    pub from: NodeId,
}

/// How a claim reached this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// In a packet, about anybody.
    Packet,
    /// In a full-state exchange: possibly old, so deaths are only suspicions.
    Exchange,
    /// A death that came in an exchange, taken in as suspicion.
    HeldDead,
    /// This node's own finding.
    Own,
}

pub fn freshness(state: &MemberState) -> Freshness {
    (state.generation, state.incarnation)
}

/// The least that is above this and that everybody accepts: what a member takes to refute it.
pub fn next_above((generation, incarnation): Freshness) -> Freshness {
    if incarnation < INCARNATION_MAX {
        (generation, incarnation + 1)
    } else {
        (generation.saturating_add(1), 0)
    }
}

/// Whether `claim` replaces `held`.
pub fn beats(claim: &MemberState, held: &MemberState) -> bool {
    // the statuses are declared in the order of gravity: alive, suspected, dead, stopped, left
    (freshness(claim), claim.status) > (freshness(held), held.status)
}

/// The status an exchanged claim arrives with. A death may be long outdated where it comes from,
/// so it arrives as suspicion and the member gets its chance to refute; but what is held dead in
/// the same life stays dead, only its incarnation is learned.
pub fn status_from_exchange(claim: &MemberState, held: Option<&MemberState>) -> MemberStatus {
    let already_dead =
        held.is_some_and(|h| h.status == MemberStatus::Dead && h.generation == claim.generation);
    match claim.status {
        MemberStatus::Dead if !already_dead => MemberStatus::Suspected,
        status => status,
    }
}

/// Whether a life said to have begun then began, by this node's clock, further in the future than
/// clocks may differ: nobody takes in what is said of it.
pub fn is_too_far_ahead(generation: Generation, unix_ms: u64) -> bool {
    generation > unix_ms.saturating_add(GENERATION_AHEAD_MS_MAX)
}

/// Whether the fields are within the bounds every node keeps to. All of it stands in log lines and
/// on consoles, so nothing in it may begin a line or steer a terminal; ids are checked as they are
/// read.
pub fn is_acceptable(state: &MemberState, unix_ms: u64) -> bool {
    state.address.len() <= ADDRESS_BYTES_MAX
        && seeds::is_address(&state.address)
        && is_short_text(&state.zone)
        && is_short_text(&state.version)
        && state.incarnation <= INCARNATION_MAX
        && !is_too_far_ahead(state.generation, unix_ms)
}

fn is_short_text(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
}

/// Cuts the texts of this node's own state to the bounds, lest all others refuse it.
pub fn clip(mut state: MemberState) -> MemberState {
    for (text, max) in [
        (&mut state.zone, TEXT_BYTES_MAX),
        (&mut state.version, TEXT_BYTES_MAX),
    ] {
        let mut end = max.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    state
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::member, *};

    fn state(generation: u64, incarnation: u64, status: MemberStatus) -> MemberState {
        MemberState {
            status,
            generation,
            incarnation,
            ..member("m")
        }
    }

    #[test]
    fn precedence_by_table() {
        use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
        let cases = [
            // (claim, held, wins)
            ((1, 0, Suspected), (1, 0, Alive), true),
            ((1, 0, Dead), (1, 0, Suspected), true),
            ((1, 0, Stopped), (1, 0, Dead), true),
            ((1, 0, Left), (1, 0, Dead), true),
            ((1, 0, Alive), (1, 0, Suspected), false),
            ((1, 0, Alive), (1, 0, Dead), false),
            ((1, 1, Alive), (1, 0, Dead), true),
            ((1, 2, Alive), (1, 10, Dead), false),
            ((1, 10, Dead), (1, 1, Dead), true),
            ((2, 0, Alive), (1, 100, Dead), true),
            ((1, 100, Dead), (2, 0, Alive), false),
            ((2, 0, Alive), (1, 3, Left), true),
            ((1, 0, Alive), (1, 0, Alive), false),
        ];
        for (claim, held, wins) in cases {
            let (c, h) = (
                state(claim.0, claim.1, claim.2),
                state(held.0, held.1, held.2),
            );
            assert_eq!(beats(&c, &h), wins, "{claim:?} over {held:?}");
        }
    }

    #[test]
    fn an_exchanged_death_is_a_suspicion_unless_it_is_held_already() {
        use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
        let dead = state(5, 3, Dead);
        assert_eq!(status_from_exchange(&dead, None), Suspected);
        let alive = state(5, 3, Alive);
        assert_eq!(status_from_exchange(&dead, Some(&alive)), Suspected);
        assert_eq!(status_from_exchange(&dead, Some(&state(5, 1, Dead))), Dead);
        assert_eq!(
            status_from_exchange(&dead, Some(&state(4, 1, Dead))),
            Suspected,
            "another life"
        );
        for kept in [Alive, Suspected, Stopped, Left] {
            assert_eq!(status_from_exchange(&state(5, 3, kept), None), kept);
        }
    }

    #[test]
    fn bounds_are_kept() {
        let now = 1_000_000;
        let year = GENERATION_AHEAD_MS_MAX;
        let edits: [(&str, Edit, bool); 12] = [
            ("plain", |_| (), true),
            ("IPv6", |s| s.address = "[fe80::1%eth0]:8081".into(), true),
            ("no address", |s| s.address.clear(), false),
            ("no port", |s| s.address = "host".into(), false),
            (
                "long address",
                |s| s.address = format!("{}:1", "x".repeat(261)),
                false,
            ),
            (
                "a line in the address",
                |s| s.address.insert(1, '\n'),
                false,
            ),
            ("long zone", |s| s.zone = "x".repeat(65), false),
            ("a line in the zone", |s| s.zone.push('\n'), false),
            ("a terminal's", |s| s.zone.push('\u{9b}'), false),
            ("a line in the version", |s| s.version.push('\r'), false),
            ("long version", |s| s.version = "x".repeat(65), false),
            ("incarnation", |s| s.incarnation = u64::MAX, false),
        ];
        for (name, edit, good) in edits {
            let mut s = state(1, 1, MemberStatus::Alive);
            edit(&mut s);
            assert_eq!(is_acceptable(&s, now), good, "{name}");
        }
        assert!(is_acceptable(
            &state(now + year, 1, MemberStatus::Alive),
            now
        ));
        assert!(!is_acceptable(
            &state(now + year + 1, 1, MemberStatus::Alive),
            now
        ));
        let mut long = state(1, 1, MemberStatus::Alive);
        long.zone = "ä".repeat(50);
        assert!(is_acceptable(&clip(long), now));
    }

    type Edit = fn(&mut MemberState);

    fn any_state() -> impl Strategy<Value = MemberState> {
        use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
        let status = prop::sample::select(vec![Alive, Suspected, Dead, Stopped, Left]);
        (0..3u64, 0..3u64, status).prop_map(|(g, i, s)| state(g, i, s))
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_matter(claims in prop::collection::vec(any_state(), 1..8)) {
            let settle = |list: &[MemberState]| {
                list.iter().cloned().reduce(|held, c| if beats(&c, &held) { c } else { held })
            };
            let mut backwards = claims.clone();
            backwards.reverse();
            prop_assert_eq!(settle(&claims), settle(&backwards));
        }
    }
}
