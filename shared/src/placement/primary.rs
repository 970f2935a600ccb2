//! Who comes first in each row.
//!
//! The primary is the replica that clients and hints turn to first. Rows keep their sets here;
//! only the order changes, preferably in rows that change anyway: reordering any other row makes
//! its partition part of the change, though no data moves.

use std::collections::{BTreeMap, VecDeque};

use super::{balance::unwind, scramble};
use crate::topology::Table;

pub(super) fn balance(current: &Table, target: &mut Table, nodes: usize) {
    let mut load = vec![0_usize; nodes];
    let mut takes_part = vec![false; nodes];
    for row in target.iter() {
        if let Some(first) = row.first() {
            load[usize::from(*first)] += 1;
        }
        for node in row {
            takes_part[usize::from(*node)] = true;
        }
    }
    let mut by_load: Vec<u16> = (0..nodes as u16)
        .filter(|n| takes_part[usize::from(*n)])
        .collect();
    // each shift lowers the sum of squared loads; the bound only guards against a bug
    for _ in 0..=target.len() * 2 {
        by_load.sort_by_key(|n| (std::cmp::Reverse(load[usize::from(*n)]), *n));
        let Some(chain) = by_load
            .iter()
            .find_map(|from| chain_from(target, &load, *from))
        else {
            return;
        };
        for step in chain.windows(2).rev() {
            if let Some(p) = cheapest(current, target, step[0], step[1]) {
                let row = &mut target[p];
                if let Some(at) = row.iter().position(|n| *n == step[1]) {
                    row.swap(0, at);
                }
                load[usize::from(step[0])] -= 1;
                load[usize::from(step[1])] += 1;
            }
        }
    }
}

/// The row led by `old` that `new` may lead at the least cost.
fn cheapest(current: &Table, target: &Table, old: u16, new: u16) -> Option<usize> {
    (0..target.len())
        .filter(|p| target[*p].first() == Some(&old) && target[*p].contains(&new))
        .min_by_key(|p| {
            let untouched = target[*p] == current[*p];
            (untouched, scramble(*p as u16, new), *p)
        })
}

/// Nodes from `from` to the nearest one that leads at least two rows less.
fn chain_from(target: &Table, load: &[usize], from: u16) -> Option<Vec<u16>> {
    let mine = load[usize::from(from)];
    let mut came_from: BTreeMap<u16, u16> = BTreeMap::from([(from, from)]);
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        let mut next: Vec<u16> = target
            .iter()
            .filter(|row| row.first() == Some(&node))
            .flat_map(|row| row[1..].iter().copied())
            .filter(|n| !came_from.contains_key(n))
            .collect();
        next.sort_unstable_by_key(|n| (load[usize::from(*n)], *n));
        next.dedup();
        for to in next {
            came_from.insert(to, node);
            if load[usize::from(to)] + 2 <= mine {
                return Some(unwind(&came_from, from, to));
            }
            queue.push_back(to);
        }
    }
    None
}
