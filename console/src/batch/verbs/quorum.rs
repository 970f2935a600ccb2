//! Which partitions have their quorum, who is missing, and what one more stop would cost.

use std::collections::BTreeMap;

use ringmaster_shared::{
    api::ring::{ClusterResponse, topology_of},
    id::{ClusterId, NodeId},
    quorum::{PartitionCounts, PartitionHealth, partition_counts, partition_health},
};
use serde::Serialize;

use super::answer::Outcome;
use crate::{
    batch::{
        Output, print_json, print_lines,
        table::{Align, Table},
    },
    client::Client,
    exit,
    procedure::survey::first_answer,
};

/// What `quorum --output json` prints.
#[derive(Serialize)]
struct QuorumReport {
    epoch: u64,
    partitions: PartitionCounts,
    /// Partitions without all replicas: number, health, who is missing.
    short: Vec<ShortPartition>,
    /// By node: partitions that would lose their quorum if it stopped now.
    would_lose: Vec<WouldLose>,
}

#[derive(Serialize)]
struct ShortPartition {
    partition: u16,
    health: PartitionHealth,
    missing: Vec<NodeId>,
}

#[derive(Serialize)]
struct WouldLose {
    node_id: NodeId,
    partitions: u16,
}

fn quorum_report(view: &ClusterResponse) -> Option<QuorumReport> {
    let cluster = ClusterId::new(&view.status.cluster.cluster_id).ok()?;
    let topology = topology_of(&view.ring, &cluster)?;
    let up = view.members.available();
    let partitions = partition_counts(&topology, &up);
    let short = (0..topology.partition_count())
        .filter_map(|p| {
            let health = partition_health(&topology, p, &up);
            let missing = || {
                topology
                    .all_replicas(p)
                    .into_iter()
                    .filter(|id| !up.contains(id))
                    .collect()
            };
            (health != PartitionHealth::AllReplicas).then(|| ShortPartition {
                partition: p,
                health,
                missing: missing(),
            })
        })
        .collect();
    let would_lose = up
        .iter()
        .map(|id| {
            let mut rest = up.clone();
            rest.remove(id);
            let lost = partition_counts(&topology, &rest).unavailable;
            WouldLose {
                node_id: id.clone(),
                partitions: lost - partitions.unavailable,
            }
        })
        .collect();
    Some(QuorumReport {
        epoch: topology.epoch,
        partitions,
        short,
        would_lose,
    })
}

pub(super) async fn quorum(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let view = first_answer(client, endpoints).await?;
    let Some(report) = quorum_report(&view) else {
        eprintln!("ringmaster: {} has no ring yet", view.status.node.id);
        return Ok(exit::FAILED);
    };
    let p = report.partitions;
    if output == Output::Json {
        print_json(&report)?;
    } else {
        let mut lines = vec![format!(
            "{} partitions: {} with all replicas, {} at quorum, {} without quorum",
            p.total,
            p.all_replicas,
            p.quorum - p.all_replicas,
            p.unavailable
        )];
        let mut missing: BTreeMap<String, usize> = BTreeMap::new();
        for s in &report.short {
            let names: Vec<&str> = s.missing.iter().map(NodeId::as_str).collect();
            *missing.entry(names.join(", ")).or_default() += 1;
        }
        lines.extend(
            missing
                .iter()
                .map(|(who, n)| format!("  {n} partitions miss {who}")),
        );
        let mut table = Table::new(&[
            ("IF THIS STOPS", Align::Left),
            ("PARTITIONS LOST", Align::Right),
        ]);
        for w in &report.would_lose {
            table.row([w.node_id.to_string(), w.partitions.to_string()]);
        }
        lines.extend(table.lines());
        print_lines(lines);
    }
    Ok(if p.total > 0 && p.unavailable == 0 {
        exit::OK
    } else {
        exit::FAILED
    })
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::member::MemberStatus;

    use super::*;
    use crate::procedure::fixture::{id, survey};

    #[test]
    fn the_quorum_report_counts_what_a_stop_would_cost() {
        let s = survey(&["a", "b", "c"], &[5, 5, 5]);
        let mut view = s.views[0].clone().expect("a view");
        let healthy = quorum_report(&view).expect("a report");
        assert!(healthy.short.is_empty());
        assert!(healthy.would_lose.iter().all(|w| w.partitions == 0));

        let dead = view.members.cluster_members.get_mut(&id("c")).expect("c");
        dead.status = MemberStatus::Dead;
        let report = quorum_report(&view).expect("a report");
        assert_eq!(report.partitions.all_replicas, 0);
        assert_eq!(report.short[0].missing, [id("c")]);
        assert!(report.would_lose.iter().all(|w| w.partitions == 4));
    }
}
