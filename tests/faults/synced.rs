//! P1 as the kernel sees it: every acknowledged write was written to the commit logs of a write
//! quorum, and synced there, before its 200 left; and no replica said "done" before its own
//! sync had returned. Judged from the system calls of all three daemons.
//!
//! Skipped, with a line that says why, where `strace` cannot trace.

use std::{collections::HashMap, fs};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    cluster::Cluster,
    skip::skipped,
    trace::{self, Call},
    wait::{GENEROUS, eventually},
};

const WRITES: usize = 30;
const QUORUM: usize = 2;

/// What was looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Examined {
    acknowledgements: usize,
    /// Answers of replicas to the coordinator.
    done: usize,
}

/// When the record was synced to this node's log: the end of the first sync of the file that
/// began after the bytes were written.
fn synced(calls: &[Call], marker: &str) -> Option<u64> {
    let log = |c: &&Call| c.target.contains("/store/log/") && c.result >= 0;
    let written = calls.iter().filter(log);
    let mut written = written.filter(|c| !c.is_sync() && c.contains(marker.as_bytes()));
    let write = written.next()?;
    let syncs = calls.iter().filter(log);
    let mut syncs = syncs.filter(|c| c.is_sync() && c.target == write.target);
    let sync = syncs.find(|c| c.began >= write.ended)?;
    Some(sync.ended)
}

/// When the 200 for this value began to leave.
fn acknowledged(calls: &[Call], marker: &str) -> Option<u64> {
    let sent = calls.iter().filter(|c| c.connection().is_some());
    let mut sent = sent.filter(|c| c.data.starts_with(b"HTTP/1.1 200") && c.result > 0);
    let answer = sent.find(|c| c.contains(marker.as_bytes()))?;
    Some(answer.began)
}

/// A frame's id and its bytes, of all frames in what was sent at once.
fn frames(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((body, rest)) = rest.split_at_checked(length) else {
            break; // not ours, as an upgrade in HTTP
        };
        // the id comes first, seven bits a byte
        let mut id = 0_u64;
        for (n, byte) in body.iter().take(9).enumerate() {
            id |= u64::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                break;
            }
        }
        frames.push((id, body));
        bytes = rest;
    }
    frames
}

/// `(connection as the sender has it, id)` of everything sent in frames, with when.
fn sent(calls: &[Call]) -> impl Iterator<Item = ((&str, &str, u64), &[u8], u64)> {
    calls.iter().flat_map(|call| {
        let ends = call.connection().filter(|_| call.result > 0);
        let frames = ends.map(|_| frames(&call.data)).unwrap_or_default();
        frames.into_iter().filter_map(move |(id, body)| {
            let (from, to) = ends?;
            Some(((from, to, id), body, call.began))
        })
    })
}

/// The first of `traces` is the node that all writes went through.
fn judge(traces: &[Vec<Call>], markers: &[String]) -> Result<Examined, String> {
    let mut examined = Examined::default();
    // when each replica answered what
    let answers: Vec<HashMap<_, u64>> = traces
        .iter()
        .map(|calls| sent(calls).map(|(key, _, at)| (key, at)).collect())
        .collect();
    for marker in markers {
        let syncs: Vec<Option<u64>> = traces.iter().map(|calls| synced(calls, marker)).collect();
        let answer = acknowledged(&traces[0], marker);
        let answer = answer.ok_or_else(|| format!("no acknowledgement of {marker} was traced"))?;
        let before = syncs.iter().flatten().filter(|at| **at <= answer).count();
        let needed = QUORUM.min(traces.len());
        if before < needed {
            return Err(format!(
                "{marker} was acknowledged at {answer}, when {before} of {needed} had synced it: \
                 {syncs:?}"
            ));
        }
        examined.acknowledgements += 1;
        let asked = sent(&traces[0]).filter(|(_, body, _)| {
            let holds = |part: &[u8]| part == marker.as_bytes();
            body.windows(marker.len()).any(holds)
        });
        for ((from, to, id), _, _) in asked {
            for (node, answers) in answers.iter().enumerate().skip(1) {
                let Some(done) = answers.get(&(to, from, id)) else {
                    continue;
                };
                if syncs[node].is_none_or(|at| at > *done) {
                    return Err(format!(
                        "node-{} answered for {marker} at {done}, synced: {:?}",
                        node + 1,
                        syncs[node]
                    ));
                }
                examined.done += 1;
            }
        }
    }
    Ok(examined)
}

/// Writes small values through the first of `count` traced nodes; what they did, and the values.
async fn traced(count: usize, environment: &[(&str, &str)]) -> (Vec<Vec<Call>>, Vec<String>) {
    let markers: Vec<String> = (0..WRITES)
        .map(|n| format!("traced-{n:04}-marker"))
        .collect();
    (traced_values(count, environment, &markers).await, markers)
}

/// The same of these values.
async fn traced_values(
    count: usize,
    environment: &[(&str, &str)],
    values: &[String],
) -> Vec<Vec<Call>> {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |i: usize| folder.path().join(format!("node-{}", i + 1));
    let mut cluster = Cluster::empty().await;
    for i in 0..count {
        let mut wrapper = vec!["strace".to_owned()];
        wrapper.extend(trace::FLAGS.map(str::to_owned));
        wrapper.extend(["-o".to_owned(), file(i).display().to_string()]);
        let seeds = if i == 0 { vec![] } else { cluster.seed(0) };
        cluster.add_wrapped(&seeds, wrapper, environment).await;
        cluster.agree().await;
    }
    for (n, value) in values.iter().enumerate() {
        let key = format!("key-{n}");
        let reply = cluster.api(0).put(&key, &json!(value)).await;
        let reply = reply.expect("answered");
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    for i in 0..count {
        let status = cluster.api(i).status().await.expect("answers");
        assert!(cluster.nodes[i].stop().await.success());
        let last = format!("{} ", status.node.pid);
        eventually(
            "the tracer has written its last line",
            GENEROUS,
            async || {
                let trace = fs::read(file(i)).map_err(|e| e.to_string())?;
                let trace = String::from_utf8_lossy(&trace);
                let end = |l: &str| l.starts_with(&last) && l.contains("+++ exited");
                trace
                    .lines()
                    .any(end)
                    .then_some(())
                    .ok_or_else(|| "it goes on".into())
            },
        )
        .await;
    }
    let read = |i| fs::read(file(i)).expect("a trace");
    let traces = (0..count).map(|i| trace::parse(&String::from_utf8_lossy(&read(i))));
    traces.collect()
}

#[tokio::test]
async fn a_sync_on_a_quorum_comes_before_each_acknowledgement() {
    if let Some(why) = trace::impossible() {
        skipped(&format!("no process can be traced here: {why}"));
        return;
    }
    let (traces, markers) = traced(3, &[]).await;
    let examined = judge(&traces, &markers);
    eprintln!("{examined:?}");
    let examined = examined.expect("each acknowledgement after its syncs");
    assert_eq!(examined.acknowledgements, WRITES);
    assert!(
        examined.done >= WRITES,
        "each write had an answer: {examined:?}"
    );

    // the same, had it been otherwise
    for (what, doctored) in doctored(&traces, &markers) {
        let verdict = judge(&doctored, &markers);
        assert!(verdict.is_err(), "{what}: {verdict:?}");
    }
    if cfg!(debug_assertions) {
        let (traces, markers) = traced(1, &[("RINGD_BREAK", "skip-sync")]).await;
        let verdict = judge(&traces, &markers);
        assert!(verdict.is_err(), "syncs were left out: {verdict:?}");
    }
}

type Doctored = (&'static str, Vec<Vec<Call>>);

fn doctored(traces: &[Vec<Call>], markers: &[String]) -> Vec<Doctored> {
    let change = |what, nodes: &[usize], change: &dyn Fn(&mut Vec<Call>)| {
        let mut traces = traces.to_vec();
        for node in nodes {
            change(&mut traces[*node]);
        }
        (what, traces)
    };
    let marker = markers[WRITES / 2].as_bytes();
    let is_answer = |c: &Call| c.data.starts_with(b"HTTP/1.1 200") && c.contains(marker);
    let is_log_sync = |c: &Call| c.is_sync() && c.target.contains("/store/log/");
    vec![
        change("nobody syncs", &[0, 1, 2], &|t| t.retain(|c| !c.is_sync())),
        change("one of three syncs", &[1, 2], &|t| {
            t.retain(|c| !is_log_sync(c));
        }),
        change("the syncs fail", &[0, 1, 2], &|t| {
            let syncs = t.iter_mut().filter(|c| is_log_sync(c));
            syncs.for_each(|c| c.result = -1);
        }),
        change("every sync takes a second longer", &[0, 1, 2], &|t| {
            let syncs = t.iter_mut().filter(|c| is_log_sync(c));
            syncs.for_each(|c| c.ended += 1_000_000);
        }),
        change("one answer comes a second early", &[0], &|t| {
            let answers = t.iter_mut().filter(|c| is_answer(c));
            answers.for_each(|c| c.began -= 1_000_000);
        }),
        change("one answer is missing", &[0], &|t| {
            t.retain(|c| !is_answer(c));
        }),
        change("the replicas answer a second early", &[1, 2], &|t| {
            let sends = t.iter_mut().filter(|c| c.connection().is_some());
            sends.for_each(|c| c.began -= 1_000_000);
        }),
    ]
}

/// Bodies of large values are files that a checkpoint vouches for: each was written, then synced,
/// and their folder too, before the checkpoint was. Returns how many there were.
fn bodies_before_checkpoint(calls: &[Call]) -> Result<usize, String> {
    let done = || calls.iter().filter(|c| c.result >= 0);
    let last = done().rfind(|c| c.target.contains("/store/checkpoint") && !c.is_sync());
    let last = last.ok_or("no checkpoint was written")?.began;
    let bodies = done().filter(|c| c.target.contains("/bodies/records/") && !c.is_sync());
    let bodies: HashMap<&str, u64> = bodies.map(|c| (c.target.as_str(), c.ended)).collect();
    let synced = |target: &str, from: u64| {
        let mut syncs = done().filter(|c| c.is_sync() && c.target.ends_with(target));
        syncs.any(|c| c.began >= from && c.ended <= last)
    };
    for (target, written) in &bodies {
        if !synced(target, *written) {
            return Err(format!("{target} was not synced before {last}"));
        }
    }
    let written = bodies.values().max().copied().unwrap_or_default();
    if !synced("/bodies/records", written) {
        return Err("their folder was not synced".to_owned());
    }
    Ok(bodies.len())
}

#[tokio::test]
async fn large_bodies_are_synced_before_a_checkpoint_vouches_for_them() {
    if let Some(why) = trace::impossible() {
        skipped(&format!("no process can be traced here: {why}"));
        return;
    }
    let values: Vec<String> = (0..5).map(|n| n.to_string().repeat(100_000)).collect();
    let traces = traced_values(1, &[], &values).await;
    assert_eq!(bodies_before_checkpoint(&traces[0]), Ok(values.len()));
    // the same, had it been otherwise
    let doctored = |keep: fn(&Call) -> bool| {
        let kept: Vec<Call> = traces[0].iter().filter(|c| keep(c)).cloned().collect();
        bodies_before_checkpoint(&kept)
    };
    assert!(doctored(|c| !c.is_sync() || !c.target.contains("/bodies/records/")).is_err());
    assert!(doctored(|c| !c.target.ends_with("/bodies/records")).is_err());
}
