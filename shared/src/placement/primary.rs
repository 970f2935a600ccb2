//! Who comes first in each row.
//!
//! The primary is the replica that clients and hints turn to first. Rows keep their sets here;
//! only the order changes, preferably in rows that change anyway: reordering any other row makes
//! its partition part of the change, though no data moves.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

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
    let nodes: Vec<u16> = (0..nodes as u16)
        .filter(|n| takes_part[usize::from(*n)])
        .collect();
    // as in `Planner::balance`: what was reached in vain is not searched again in this sweep
    let mut closed = BTreeSet::new();
    let mut shifted = false;
    for _ in 0..=target.len() * 4 {
        let open = nodes.iter().filter(|n| !closed.contains(*n));
        let Some(from) = open
            .copied()
            .max_by_key(|n| (load[usize::from(*n)], Reverse(*n)))
        else {
            if !shifted {
                return;
            }
            shifted = false;
            closed.clear();
            continue;
        };
        let Some(chain) = chain_from(target, &load, from, &mut closed) else {
            continue;
        };
        shifted = true;
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
fn chain_from(
    target: &Table,
    load: &[usize],
    from: u16,
    closed: &mut BTreeSet<u16>,
) -> Option<Vec<u16>> {
    let mine = load[usize::from(from)];
    let mut came_from: BTreeMap<u16, u16> = BTreeMap::from([(from, from)]);
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        let mut next: Vec<u16> = target
            .iter()
            .filter(|row| row.first() == Some(&node))
            .flat_map(|row| row[1..].iter().copied())
            .filter(|n| !came_from.contains_key(n) && !closed.contains(n))
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
    closed.extend(came_from.into_keys());
    None
}
