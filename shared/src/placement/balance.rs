//! Sets of replicas: filling rows, spreading them over zones, balancing load.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use super::scramble;
use crate::topology::{RingMember, Table};

/// Rows under construction. Nodes are indexes of the member list; only wanted ones take part.
pub(super) struct Planner<'a> {
    /// The table in force: what a node holds there it need not be sent.
    current: &'a Table,
    wanted: &'a [u16],
    /// Those of the wanted that may get more than they have.
    open: &'a [u16],
    /// Replicas each row is to have.
    replicas: usize,
    /// Zone number by node.
    zone: Vec<u16>,
    rows: Vec<Vec<u16>>,
    /// Rows that hold a node, by node.
    held: Vec<Vec<u16>>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        members: &[RingMember],
        wanted: &'a [u16],
        open: &'a [u16],
        current: &'a Table,
        replicas: usize,
    ) -> Self {
        let mut zones: BTreeMap<&str, u16> = BTreeMap::new();
        for m in members {
            let next = zones.len() as u16;
            zones.entry(&m.zone).or_insert(next);
        }
        let mut planner = Self {
            current,
            wanted,
            open,
            replicas,
            zone: members.iter().map(|m| zones[m.zone.as_str()]).collect(),
            rows: vec![Vec::new(); current.len()],
            held: vec![Vec::new(); members.len()],
        };
        for (p, old) in (0..).zip(current) {
            for node in old {
                if wanted.binary_search(node).is_ok() {
                    planner.put(p, *node);
                }
            }
        }
        planner
    }

    pub(super) fn into_rows(self) -> Vec<Vec<u16>> {
        self.rows
    }

    fn row(&self, p: u16) -> &Vec<u16> {
        &self.rows[usize::from(p)]
    }

    fn load(&self, node: u16) -> usize {
        self.held[usize::from(node)].len()
    }

    fn zone_of(&self, node: u16) -> u16 {
        self.zone[usize::from(node)]
    }

    fn put(&mut self, p: u16, node: u16) {
        self.rows[usize::from(p)].push(node);
        self.held[usize::from(node)].push(p);
    }

    fn take(&mut self, p: u16, node: u16) {
        self.rows[usize::from(p)].retain(|n| *n != node);
        self.held[usize::from(node)].retain(|q| *q != p);
    }

    /// How many of the row, `but` one aside, are in the zone of `node`.
    fn zone_mates(&self, p: u16, node: u16, but: Option<u16>) -> usize {
        let zone = self.zone_of(node);
        let others = self.row(p).iter().filter(|n| Some(**n) != but);
        others.filter(|n| self.zone_of(**n) == zone).count()
    }

    /// Whether `new` may stand in for `old` without crowding a zone more than `old` does.
    fn may_replace(&self, p: u16, old: u16, new: u16) -> bool {
        !self.row(p).contains(&new)
            && self.zone_mates(p, new, Some(old)) <= self.zone_mates(p, old, Some(old))
    }

    fn held_before(&self, p: u16, node: u16) -> bool {
        self.current[usize::from(p)].contains(&node)
    }

    /// Replicas of the row that its partition did not have before.
    fn arrivals(&self, p: u16) -> usize {
        let row = self.row(p).iter();
        row.filter(|n| !self.held_before(p, **n)).count()
    }

    /// Gives every row exactly as many replicas as it is to have.
    pub(super) fn fill_rows(&mut self) {
        for p in 0..self.rows.len() as u16 {
            while self.row(p).len() > self.replicas {
                let Some(extra) = self
                    .row(p)
                    .iter()
                    .copied()
                    .max_by_key(|n| (self.zone_mates(p, *n, Some(*n)), self.load(*n), *n))
                else {
                    break;
                };
                self.take(p, extra);
            }
            while self.row(p).len() < self.replicas {
                let free = self.wanted.iter().filter(|n| !self.row(p).contains(n));
                let Some(best) = free.copied().min_by_key(|n| {
                    (
                        // a short row is worse than one that waits for somebody
                        !self.open.contains(n),
                        self.zone_mates(p, *n, None),
                        self.load(*n),
                        scramble(p, *n),
                        *n,
                    )
                }) else {
                    break;
                };
                self.put(p, best);
            }
        }
    }

    /// Moves replicas out of crowded zones until no single replacement spreads a row better.
    /// Crowding is convex in the counts by zone, so that is the best spread there is.
    pub(super) fn mend_zones(&mut self) {
        for p in 0..self.rows.len() as u16 {
            while let Some((old, new)) = self.better_zone(p) {
                self.take(p, old);
                self.put(p, new);
            }
        }
    }

    fn better_zone(&self, p: u16) -> Option<(u16, u16)> {
        let old = self
            .row(p)
            .iter()
            .copied()
            .max_by_key(|n| (self.zone_mates(p, *n, Some(*n)), self.load(*n), *n))?;
        let crowd = self.zone_mates(p, old, Some(old));
        let free = self.open.iter().filter(|n| !self.row(p).contains(n));
        let new = free
            .copied()
            .filter(|n| self.zone_mates(p, *n, Some(old)) < crowd)
            .min_by_key(|n| {
                (
                    self.zone_mates(p, *n, Some(old)),
                    self.load(*n),
                    scramble(p, *n),
                    *n,
                )
            })?;
        Some((old, new))
    }

    /// Shifts load from the fullest to the emptiest until no chain of replacements helps.
    pub(super) fn balance(&mut self) {
        // What was reached in vain from a fuller node need not be searched again. Shifts may
        // open new ways, so a sweep that moved anything is followed by a fresh one.
        let mut closed = BTreeSet::new();
        let mut shifted = false;
        // each shift lowers the sum of squared loads; the bound only guards against a bug
        for _ in 0..=self.rows.len() * self.replicas * 4 {
            let emptiest = self.open.iter().map(|n| self.load(*n)).min().unwrap_or(0);
            let open = self.wanted.iter().filter(|n| !closed.contains(*n));
            let fullest = open.copied().max_by_key(|n| (self.load(*n), Reverse(*n)));
            match fullest.filter(|n| self.load(*n) > emptiest + 1) {
                Some(from)
                    if self.shift_directly(from) || self.shift_by_chain(from, &mut closed) =>
                {
                    shifted = true;
                }
                Some(_) => {}
                None if shifted => {
                    shifted = false;
                    closed.clear();
                }
                None => return,
            }
        }
    }

    /// One replacement from a full node to an empty one.
    fn shift_directly(&mut self, from: u16) -> bool {
        let mut emptier: Vec<u16> = self.open.to_vec();
        emptier.retain(|n| self.load(*n) + 2 <= self.load(from));
        emptier.sort_by_key(|n| (self.load(*n), *n));
        for to in emptier {
            if let Some(p) = self.cheapest(from, to) {
                self.take(p, from);
                self.put(p, to);
                return true;
            }
        }
        false
    }

    /// The partition in which `new` may replace `old` at the least cost: replicas sent, then
    /// partitions that would lose more than one of their replicas.
    fn cheapest(&self, old: u16, new: u16) -> Option<u16> {
        let rows = self.held[usize::from(old)].iter().copied();
        rows.filter(|p| self.may_replace(*p, old, new))
            .min_by_key(|p| {
                let sent =
                    u8::from(!self.held_before(*p, new)) + u8::from(self.held_before(*p, old));
                (sent, self.arrivals(*p), scramble(*p, new), *p)
            })
    }

    /// The shortest chain from a full node over others to an empty one. Without one, all that
    /// was reached is `closed`.
    fn shift_by_chain(&mut self, from: u16, closed: &mut BTreeSet<u16>) -> bool {
        let Some(chain) = self.chain_from(from, closed) else {
            return false;
        };
        // from the far end, so that no node is ever fuller than it was
        let mut moved = false;
        for step in chain.windows(2).rev() {
            let Some(p) = self.cheapest(step[0], step[1]) else {
                break;
            };
            self.take(p, step[0]);
            self.put(p, step[1]);
            moved = true;
        }
        moved
    }

    /// Nodes from `from` to the nearest one that holds at least two less.
    fn chain_from(&self, from: u16, closed: &mut BTreeSet<u16>) -> Option<Vec<u16>> {
        let mut came_from: BTreeMap<u16, u16> = BTreeMap::from([(from, from)]);
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            let rows = &self.held[usize::from(node)];
            for to in self.open {
                if came_from.contains_key(to)
                    || closed.contains(to)
                    || !rows.iter().any(|p| self.may_replace(*p, node, *to))
                {
                    continue;
                }
                came_from.insert(*to, node);
                if self.load(*to) + 2 <= self.load(from) {
                    return Some(unwind(&came_from, from, *to));
                }
                queue.push_back(*to);
            }
        }
        closed.extend(came_from.into_keys());
        None
    }
}

/// The path that a search took, first node first.
pub(super) fn unwind(came_from: &BTreeMap<u16, u16>, from: u16, to: u16) -> Vec<u16> {
    let mut chain = vec![to];
    let mut at = to;
    while at != from {
        at = came_from[&at];
        chain.push(at);
    }
    chain.reverse();
    chain
}
