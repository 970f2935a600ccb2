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
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
};

use super::{
    HintPage, OwedPage, ScanPage, TombstonePage,
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

/// Records of a partition after a key. A page has at least one record when there is one left, sound
/// or damaged; what is damaged behind a sound head is noted, so that it is brought back.
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
    let mut last = None;
    for row in core.table.records.range(from, &prefix) {
        let row = row?;
        if bytes >= max_bytes as u64 && last.is_some() {
            page.next = last;
            break;
        }
        let (_, key) = split_item_key(row.key.as_ref())?;
        bytes += row.meta.stored_len + key.as_str().len() as u64;
        match core.table.records.load(row) {
            Ok(Some(record)) => page.entries.push((key.clone(), record)),
            Ok(None) => continue,
            Err(TableError::Damaged(why)) => {
                core.note_damaged(&key);
                page.damaged.push((key.clone(), why));
            }
            Err(failed) => return Err(failed),
        }
        last = Some(key);
    }
    Ok(page)
}

/// Keys of these leaves with their fingerprints, in key order. Reads the heads of the partition
/// once, however many leaves are asked for.
pub(super) fn leaves_versions(
    core: &Core,
    partition: PartitionId,
    leaves: &BTreeSet<u16>,
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
        if leaves.contains(&leaf_of(key.hash())) {
            let fingerprint = core.shown_fingerprint(&key, row.meta.fingerprint);
            found.push((key, fingerprint));
        }
    }
    Ok(found)
}

/// Tombstones (no sibling holds a value) of a partition that are not younger than `until`, after a
/// key; looks at `rows` records and finds `limit` at most.
pub(super) fn tombstones(
    core: &Core,
    partition: PartitionId,
    after: Option<&Key>,
    until: Hlc,
    (rows, limit): (usize, usize),
) -> Result<TombstonePage, TableError> {
    let prefix = partition.to_be_bytes();
    let from = match after {
        Some(key) => Bound::Excluded(item_key(partition, key.as_str().as_bytes())),
        None => Bound::Included(prefix.to_vec()),
    };
    let mut page = TombstonePage::default();
    for row in core.table.records.range(from, &prefix) {
        let row = row?;
        let (_, key) = split_item_key(row.key.as_ref())?;
        page.rows += 1;
        let stop = page.rows >= rows;
        // the head says whether the winner is a tombstone, the record whether all siblings are
        if !row.meta.present && row.meta.hlc <= until {
            let record = match core.table.records.load(row) {
                // one that is not found stays
                Err(TableError::Damaged(_)) => {
                    core.note_damaged(&key);
                    None
                }
                loaded => loaded?,
            };
            if let Some(record) = record.filter(|r| r.is_deleted() && r.max_hlc() <= until) {
                page.found.push((key.clone(), record.fingerprint()));
            }
        }
        if stop || page.found.len() >= limit {
            page.next = Some(key);
            break;
        }
    }
    Ok(page)
}

/// Hints of a node that were written before `before`, after a key; looks at `rows` hints.
pub(super) fn hints_before(
    core: &Core,
    target: &NodeId,
    after: Option<&Key>,
    before: Hlc,
    rows: usize,
) -> Result<HintPage, TableError> {
    let prefix = hints::item_prefix(target);
    let from = match after {
        Some(key) => Bound::Excluded(hints::item_key(target, key)),
        None => Bound::Included(prefix.clone()),
    };
    let mut page = HintPage::default();
    for (n, row) in core.table.hints.range(from, &prefix).enumerate() {
        let row = row?;
        let (_, key) = hints::split_item_key(row.key.as_ref())
            .ok_or_else(|| TableError::Damaged("a stored hint has no key".to_owned()))?;
        if row.meta.hlc < before {
            page.found.push((key.clone(), row.meta.fingerprint));
        }
        if n + 1 >= rows {
            page.next = Some(key);
            break;
        }
    }
    Ok(page)
}

/// Whether a hint for the key is kept for anybody.
pub(super) fn is_hinted(core: &Core, key: &Key) -> Result<bool, TableError> {
    for target in core.ledger.counts().keys() {
        let item = hints::item_key(target, key);
        if core.table.hints.meta(&item)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first hints kept for a node after a key, in key order.
pub(super) fn hints_for(
    core: &Core,
    target: &NodeId,
    after: Option<&Key>,
    limit: usize,
) -> Result<OwedPage, TableError> {
    let prefix = hints::item_prefix(target);
    let from = match after {
        Some(key) => Bound::Excluded(hints::item_key(target, key)),
        None => Bound::Included(prefix.clone()),
    };
    let mut page = OwedPage::default();
    let mut bytes = 0;
    for (n, row) in core.table.hints.range(from, &prefix).enumerate() {
        if n >= limit || bytes >= HINTS_PAGE_BYTES {
            break;
        }
        let row = row?;
        bytes += row.meta.stored_len;
        let fingerprint = row.meta.fingerprint;
        let (_, key) = hints::split_item_key(row.key.as_ref())
            .ok_or_else(|| TableError::Damaged("a stored hint has no key".to_owned()))?;
        page.last = Some(key.clone());
        match core.table.hints.load(row) {
            Ok(record) => page.found.extend(record.map(|record| (key, record))),
            Err(TableError::Damaged(_)) => {
                core.note_unreadable();
                page.damaged.push((key, fingerprint));
            }
            Err(failed) => return Err(failed),
        }
    }
    Ok(page)
}
