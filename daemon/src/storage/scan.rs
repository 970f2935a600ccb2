//! Reading ranges: listings, pages of a partition, the keys of a digest leaf.
//!
//! Everything here runs on the caller's thread, straight on the table, and is bounded by what
//! the caller asked for, so that a page costs about the same at the start and at the end.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    ops::Bound,
};

use ringmaster_shared::{
    id::{NodeId, PartitionId},
    key::Key,
    version::Record,
};

use super::{
    ScanPage,
    core::{Core, item_key, key_part, split_item_key},
    digest::leaf_of,
    hints,
    table::{Row, TableError},
};

/// Bytes after which a page of hints ends early.
const HINTS_PAGE_BYTES: u64 = 8 * 1024 * 1024;

/// Next row that holds a value.
fn next_present(
    rows: &mut impl Iterator<Item = Result<Row, TableError>>,
) -> Result<Option<Row>, TableError> {
    for row in rows {
        let row = row?;
        if row.meta.present {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Keys with a value across partitions, in byte order: a merge of one ordered range each.
pub(super) fn list_keys(
    core: &Core,
    partitions: &[PartitionId],
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Key>, TableError> {
    let partitions: BTreeSet<PartitionId> = partitions.iter().copied().collect();
    let prefixes: Vec<Vec<u8>> = partitions
        .iter()
        .map(|p| item_key(*p, prefix.as_bytes()))
        .collect();
    let mut ranges = Vec::with_capacity(prefixes.len());
    let mut heads = BinaryHeap::with_capacity(prefixes.len());
    for (partition, item_prefix) in partitions.iter().zip(&prefixes) {
        let from = match after {
            Some(after) if after >= prefix => {
                Bound::Excluded(item_key(*partition, after.as_bytes()))
            }
            _ => Bound::Included(item_prefix.clone()),
        };
        let mut rows = core.table.records.range(from, item_prefix);
        if let Some(row) = next_present(&mut rows)? {
            heads.push(Reverse((key_part(row.key.as_ref()).to_vec(), ranges.len())));
            ranges.push(rows);
        }
    }
    let mut keys = Vec::new();
    while keys.len() < limit {
        let Some(Reverse((bytes, from))) = heads.pop() else {
            break;
        };
        let key = std::str::from_utf8(&bytes).ok();
        let key = key.and_then(|k| Key::new(k).ok());
        keys.push(key.ok_or_else(|| TableError::Damaged("a stored key is not a key".to_owned()))?);
        if let Some(row) = next_present(&mut ranges[from])? {
            heads.push(Reverse((key_part(row.key.as_ref()).to_vec(), from)));
        }
    }
    Ok(keys)
}

/// Records of a partition after a key. A page has at least one record when there is one left.
pub(super) fn scan_partition(
    core: &Core,
    partition: PartitionId,
    after: Option<&Key>,
    max_bytes: usize,
) -> Result<ScanPage, TableError> {
    let prefix = partition.to_be_bytes();
    let from = match after {
        Some(key) => Bound::Excluded(item_key(partition, key.as_str().as_bytes())),
        None => Bound::Included(prefix.to_vec()),
    };
    let mut page = ScanPage::default();
    let mut bytes = 0;
    for row in core.table.records.range(from, &prefix) {
        let row = row?;
        if bytes >= max_bytes as u64 && !page.entries.is_empty() {
            page.next = page.entries.last().map(|(key, _)| key.clone());
            break;
        }
        let (_, key) = split_item_key(row.key.as_ref())?;
        bytes += row.meta.stored_len + key.as_str().len() as u64;
        if let Some(record) = core.table.records.load(row)? {
            page.entries.push((key, record));
        }
    }
    Ok(page)
}

/// Keys of one leaf with their fingerprints. Reads the heads of the whole partition.
pub(super) fn leaf_versions(
    core: &Core,
    partition: PartitionId,
    leaf: u16,
) -> Result<Vec<(Key, u64)>, TableError> {
    let prefix = partition.to_be_bytes();
    let mut found = Vec::new();
    for row in core
        .table
        .records
        .range(Bound::Included(prefix.to_vec()), &prefix)
    {
        let row = row?;
        let (_, key) = split_item_key(row.key.as_ref())?;
        if leaf_of(key.hash()) == leaf {
            found.push((key, row.meta.fingerprint));
        }
    }
    Ok(found)
}

/// The first hints kept for a node, in key order.
pub(super) fn hints_for(
    core: &Core,
    target: &NodeId,
    limit: usize,
) -> Result<Vec<(Key, Record)>, TableError> {
    let prefix = hints::item_prefix(target);
    let mut found = Vec::new();
    let mut bytes = 0;
    for row in core
        .table
        .hints
        .range(Bound::Included(prefix.clone()), &prefix)
    {
        if found.len() >= limit || bytes >= HINTS_PAGE_BYTES {
            break;
        }
        let row = row?;
        bytes += row.meta.stored_len;
        let (_, key) = hints::split_item_key(row.key.as_ref())
            .ok_or_else(|| TableError::Damaged("a stored hint has no key".to_owned()))?;
        if let Some(record) = core.table.hints.load(row)? {
            found.push((key, record));
        }
    }
    Ok(found)
}
