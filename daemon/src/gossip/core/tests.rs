//! The protocol by example, split by subject; here is what the examples share.

mod alone;
mod bounds;
mod exchange;
mod farewell;
mod few_left;
mod hearsay;
mod laws;
mod lifeguard;
mod oneself;
mod probing;
mod strangers;
mod without_udp;
mod world;

use rand::SeedableRng;

use super::{
    super::{
        SuspicionView,
        codec::{self, Body, RejectReason},
        rejected::Rejected,
        testing::{cluster, id, member},
    },
    *,
};

const YEAR_2026: u64 = 1_780_000_000_000;

fn at(ms: u64) -> Now {
    Now {
        ms,
        unix_ms: YEAR_2026 + ms,
    }
}

fn core_of(name: &str) -> Core {
    core_with(GossipConfig::default(), name, &[])
}

fn core_with(config: GossipConfig, name: &str, contacts: &[&str]) -> Core {
    Core::new(
        config,
        cluster(),
        member(name),
        contacts.iter().map(ToString::to_string),
        SmallRng::seed_from_u64(7),
        at(0),
    )
}

fn source() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

fn state(name: &str, generation: u64, incarnation: u64, status: MemberStatus) -> MemberState {
    MemberState {
        status,
        generation,
        incarnation,
        ..member(name)
    }
}

/// Of a sender that says all of itself.
fn packet(
    from: impl Into<Arc<MemberState>>,
    to: &str,
    body: Body,
    claims: Vec<MemberState>,
) -> Packet {
    let from = from.into();
    let accuser = from.id.clone();
    Packet {
        cluster: cluster(),
        to: id(to),
        from: Brief::of(&from),
        intro: Some(from),
        ask: false,
        body,
        claims: claims
            .into_iter()
            .map(|state| Claim {
                state: state.into(),
                from: accuser.clone(),
            })
            .collect(),
    }
}

/// Hands `core` gossip of `from` with these claims.
fn gossip(core: &mut Core, now: u64, from: &str, claims: Vec<MemberState>) {
    let name = core.local.id.to_string();
    core.handle(
        at(now),
        source(),
        packet(member(from), &name, Body::Gossip, claims),
    );
}

fn status_of(core: &Core, name: &str) -> Option<MemberStatus> {
    core.members.get(&id(name)).map(|m| m.state.status)
}

fn freshness_of(core: &Core, name: &str) -> (u64, u64) {
    claim::freshness(&core.members.get(&id(name)).expect("known").state)
}

fn happenings(core: &mut Core) -> Vec<Happening> {
    let all = core.take_outputs();
    all.into_iter()
        .filter_map(|o| match o {
            Output::Happened(h) => Some(h),
            _ => None,
        })
        .collect()
}

fn packets(core: &mut Core) -> Vec<(Dest, Packet)> {
    let all = core.take_outputs();
    all.into_iter()
        .filter_map(|o| match o {
            Output::Send { to, packet } => Some((to, *packet)),
            _ => None,
        })
        .collect()
}

/// Ticks at every wake until `end`, collecting everything.
fn run_until(core: &mut Core, end: u64) -> Vec<(u64, Output)> {
    let mut all = Vec::new();
    while core.next_wake() <= end {
        let now = core.next_wake();
        core.tick(at(now));
        all.extend(core.take_outputs().into_iter().map(|o| (now, o)));
    }
    all
}
