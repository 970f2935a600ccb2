//! What happened in a run: the faults, so that a test can say they were there, and what the
//! members made of them.

use crate::gossip::core::Happening;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Everything counts from nought.
        #[derive(Default, Debug, PartialEq, Eq, Clone)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    // packets
    sent, delivered, lost, cut, duplicated, held_up,
    /// Nobody ran at the address.
    unheard,
    /// Waited for a node that stood still, and arrived in a burst.
    waited,
    /// Did not fit the socket's buffer of a node that stood still.
    overflowed,
    sent_bytes,
    // connections
    exchanges, exchange_bytes, exchanges_cut, tcp_probes, tcp_answers, tcp_too_late, slow_tcp,
    foreign_contacts,
    // faults of nodes
    crashes, stops, leaves, pauses, blocks, restarts, fast_restarts, moves, joins, burials, recycled,
    recycled_by_foreigners,
    // faults of the network
    partitions, one_way_cuts, udp_blocks, bad_links, weather,
    // what the members made of it
    suspected, dead, refuted, returned, restarted, joined, stopped, left, moved, udp_noticed,
    foreign_met, rejected,
}

impl Counters {
    /// What a core said happened.
    pub fn count(&mut self, happening: &Happening) {
        let counter = match happening {
            Happening::Suspected { .. } => &mut self.suspected,
            Happening::Dead { .. } => &mut self.dead,
            Happening::SelfRefuted { .. } => &mut self.refuted,
            Happening::Returned { .. } => &mut self.returned,
            Happening::Restarted { .. } => &mut self.restarted,
            Happening::Joined { .. } => &mut self.joined,
            Happening::Stopped { .. } => &mut self.stopped,
            Happening::Left { .. } => &mut self.left,
            Happening::AddressChanged { .. } => &mut self.moved,
            Happening::UdpBlocked { .. } => &mut self.udp_noticed,
            Happening::Foreign { .. } => &mut self.foreign_met,
            Happening::OwnUdpBlocked { .. }
            | Happening::UdpOpen { .. }
            | Happening::SeedUnreachable { .. }
            | Happening::SeedAnswers { .. }
            | Happening::Superseded { .. } => return,
        };
        *counter += 1;
    }
}
