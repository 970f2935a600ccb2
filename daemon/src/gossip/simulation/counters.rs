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

            /// All of them by name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            /// As [`Self::all`], to be changed.
            pub fn all_mut(&mut self) -> Vec<&mut u64> {
                vec![$(&mut self.$name),*]
            }

            /// One for each that there was at all.
            pub fn seen(&self) -> Self {
                Self { $($name: u64::from(self.$name > 0),)* }
            }
        }
    };
}

counters! {
    // packets
    sent, delivered, lost,
    /// There was no way, and why: partitions, cuts of one direction, UDP blocked.
    cut, cut_apart, cut_one_way, cut_udp,
    /// Over a link worse than the weather.
    over_bad_links,
    duplicated, held_up,
    /// Nobody ran at the address.
    unheard,
    /// Waited for a node that stood still, and arrived in a burst.
    waited,
    /// Did not fit the socket's buffer of a node that stood still.
    overflowed,
    sent_bytes,
    /// In the higher of two versions of the protocol.
    newer_version,
    // what became of bytes on the way
    flipped, cut_short,
    // why messages were not taken
    refused_damaged, refused_sealed, refused_replays, refused_version,
    // connections
    exchanges, exchange_bytes,
    /// Messages of exchanges, either way.
    exchange_messages,
    /// Messages with states in them.
    exchange_lists,
    /// Ended with both lists the same, from the start or by what was given.
    exchanges_equal, exchanges_differing,
    /// A message of it found no way.
    exchanges_cut,
    /// Not over in time, or refused, or who answered was gone before the next question.
    exchanges_late, exchanges_refused, exchanges_broken_off,
    /// Not begun: too many under way.
    exchanges_full,
    // keys
    keys_installed, keys_used, keys_removed,
    tcp_probes, tcp_answers, tcp_too_late, slow_tcp,
    foreign_contacts,
    // faults of nodes
    crashes, stops, leaves, pauses, blocks,
    /// At the place it was, after it was down.
    restarts,
    /// Of one that was up.
    fast_restarts,
    moves,
    /// Came back to find its place taken, and moved.
    displaced,
    joins, burials, recycled, recycled_by_foreigners,
    // faults of the network, and their end
    partitions, one_way_cuts, udp_blocks, bad_links, weather, reliefs,
    /// Seeds that stayed down when all else was calm.
    seeds_down,
    // what the members made of it
    suspected, dead, refuted, returned, restarted, joined, stopped, left, moved, udp_noticed,
    foreign_met, superseded,
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
            Happening::Superseded { .. } => &mut self.superseded,
            Happening::OwnUdpBlocked { .. }
            | Happening::UdpOpen { .. }
            | Happening::SeedUnreachable { .. }
            | Happening::SeedAnswers { .. } => return,
        };
        *counter += 1;
    }
}
