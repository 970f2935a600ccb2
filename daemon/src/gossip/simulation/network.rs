//! What becomes of a packet or a connection between two addresses. No state but the faults set.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
};

use rand::{Rng, rngs::SmallRng};

use super::names::Place;

/// How one direction between two addresses treats packets.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    pub delay_ms: RangeInclusive<u64>,
    pub loss: f64,
    pub duplication: f64,
    /// How many packets are held up...
    pub late: f64,
    /// ...by up to this, so that later ones overtake them.
    pub late_ms: u64,
    /// How many packets arrive with a flipped bit, or without their end.
    pub damage: f64,
}

impl Link {
    /// A quiet local network.
    pub const LAN: Self = Self {
        delay_ms: 1..=2,
        loss: 0.0,
        duplication: 0.0,
        late: 0.0,
        late_ms: 0,
        damage: 0.0,
    };
    /// Jitter and now and then a packet twice, but nothing is lost.
    pub const JITTERY: Self = Self {
        delay_ms: 1..=15,
        duplication: 0.01,
        ..Self::LAN
    };
}

/// Why there is no way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// UDP is blocked at one end.
    Udp,
    /// The ends are in different groups.
    Apart,
    OneWay,
}

/// What becomes of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// There is no way to there now.
    Cut(Obstacle),
    Lost,
    /// Arrives after so many milliseconds; perhaps a second time.
    Arrives {
        after_ms: u64,
        again_after_ms: Option<u64>,
        held_up: bool,
        damage: Option<Damage>,
    },
}

/// What became of a message's bytes. Positions are taken modulo its length, so that the same
/// numbers are drawn for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    Flipped { at: usize, bit: u8 },
    CutShort { to: usize },
}

impl Damage {
    pub fn befalls(self, bytes: &mut Vec<u8>) {
        let length = bytes.len().max(1);
        match self {
            Self::Flipped { at, bit } => {
                if let Some(byte) = bytes.get_mut(at % length) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Self::CutShort { to } => bytes.truncate(to % length),
        }
    }
}

pub struct Network {
    /// Where nothing else is said.
    pub base: Link,
    pub links: HashMap<(Place, Place), Link>,
    /// Group of each place; only within a group is there a way. Places beyond are in group 0.
    groups: Vec<u8>,
    /// Directions without a way, for packets and for connections' own packets.
    pub one_way_cuts: HashSet<(Place, Place)>,
    /// Places whose UDP is dropped both ways; TCP goes on.
    pub udp_blocked: HashSet<Place>,
    /// What a connection takes on top, each way.
    pub tcp_extra_ms: u64,
}

impl Network {
    pub fn new(base: Link) -> Self {
        Self {
            base,
            links: HashMap::new(),
            groups: Vec::new(),
            one_way_cuts: HashSet::new(),
            udp_blocked: HashSet::new(),
            tcp_extra_ms: 0,
        }
    }

    /// No faults, `base` everywhere.
    pub fn calm(&mut self, base: Link) {
        *self = Self::new(base);
    }

    pub fn group(&mut self, place: Place, group: u8) {
        if self.groups.len() <= place {
            self.groups.resize(place + 1, 0);
        }
        self.groups[place] = group;
    }

    fn group_of(&self, place: Place) -> u8 {
        self.groups.get(place).copied().unwrap_or(0)
    }

    fn obstacle(&self, from: Place, to: Place) -> Option<Obstacle> {
        if self.group_of(from) != self.group_of(to) {
            return Some(Obstacle::Apart);
        }
        let cut = !self.one_way_cuts.is_empty() && self.one_way_cuts.contains(&(from, to));
        cut.then_some(Obstacle::OneWay)
    }

    pub fn udp(&self, rng: &mut SmallRng, from: Place, to: Place) -> Fate {
        let blocked = !self.udp_blocked.is_empty()
            && (self.udp_blocked.contains(&from) || self.udp_blocked.contains(&to));
        let udp = blocked.then_some(Obstacle::Udp);
        if let Some(obstacle) = self.obstacle(from, to).or(udp) {
            return Fate::Cut(obstacle);
        }
        let link = self.link(from, to);
        if link.loss > 0.0 && rng.random_bool(link.loss) {
            return Fate::Lost;
        }
        let held_up = link.late > 0.0 && rng.random_bool(link.late);
        let mut after_ms = rng.random_range(link.delay_ms.clone());
        if held_up {
            after_ms += rng.random_range(1..=link.late_ms.max(1));
        }
        let again = link.duplication > 0.0 && rng.random_bool(link.duplication);
        let again_after_ms = again.then(|| rng.random_range(link.delay_ms.clone()));
        Fate::Arrives {
            after_ms,
            again_after_ms,
            held_up,
            damage: self.damage(rng, from, to),
        }
    }

    /// What becomes of a message's bytes on the way.
    pub fn damage(&self, rng: &mut SmallRng, from: Place, to: Place) -> Option<Damage> {
        let often = self.link(from, to).damage;
        if often <= 0.0 || !rng.random_bool(often) {
            return None;
        }
        let at = rng.random_range(0..1 << 20);
        Some(if rng.random_bool(0.7) {
            let bit = rng.random_range(0..8);
            Damage::Flipped { at, bit }
        } else {
            Damage::CutShort { to: at }
        })
    }

    /// How long one way of a connection takes; none when the other end cannot be reached. A
    /// connection needs both directions.
    pub fn tcp(&self, rng: &mut SmallRng, from: Place, to: Place) -> Option<u64> {
        if self
            .obstacle(from, to)
            .or(self.obstacle(to, from))
            .is_some()
        {
            return None;
        }
        let link = self.link(from, to);
        // lost segments are sent again, a timeout later each
        let mut again_ms = 0;
        while link.loss > 0.0 && again_ms < 5_000 && rng.random_bool(link.loss) {
            again_ms += 200;
        }
        let delay_ms = rng.random_range(link.delay_ms.clone());
        Some(delay_ms + again_ms + self.tcp_extra_ms)
    }

    fn link(&self, from: Place, to: Place) -> &Link {
        if self.links.is_empty() {
            return &self.base;
        }
        self.links.get(&(from, to)).unwrap_or(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn delivered(network: &Network, from: Place, to: Place) -> usize {
        let mut rng = SmallRng::seed_from_u64(1);
        (0..1000)
            .filter(|_| matches!(network.udp(&mut rng, from, to), Fate::Arrives { .. }))
            .count()
    }

    #[test]
    fn every_fault_of_the_network_is_one() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut net = Network::new(Link::LAN);
        assert_eq!(delivered(&net, 0, 1), 1000);
        net.one_way_cuts.insert((0, 1));
        assert_eq!((delivered(&net, 0, 1), delivered(&net, 1, 0)), (0, 1000));
        assert_eq!(
            net.tcp(&mut rng, 1, 0),
            None,
            "a connection needs both ways"
        );
        net.calm(Link::LAN);
        net.group(2, 1);
        assert_eq!((delivered(&net, 2, 1), delivered(&net, 0, 1)), (0, 1000));
        assert_eq!(net.tcp(&mut rng, 2, 1), None);
        net.calm(Link::LAN);
        net.udp_blocked.insert(1);
        assert_eq!((delivered(&net, 0, 1), delivered(&net, 1, 0)), (0, 0));
        assert!(net.tcp(&mut rng, 0, 1).is_some());
        net.calm(Link::LAN);
        let bad = Link {
            loss: 0.3,
            ..Link::LAN
        };
        net.links.insert((0, 1), bad);
        let arrived = delivered(&net, 0, 1);
        let mut bytes = vec![7; 10];
        Damage::Flipped { at: 1_003, bit: 2 }.befalls(&mut bytes);
        Damage::CutShort { to: 2_006 }.befalls(&mut bytes);
        assert_eq!(bytes, [7, 7, 7, 3, 7, 7]);
        assert!((600..800).contains(&arrived), "{arrived}");
        assert_eq!(delivered(&net, 1, 0), 1000);
        net.tcp_extra_ms = 500;
        assert!(net.tcp(&mut rng, 1, 0).is_some_and(|ms| ms > 500));
    }
}
