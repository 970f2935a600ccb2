//! How the cluster is, as one node tells it (status, members) and as all do (check).

use super::answer::Outcome;
use crate::{
    batch::{
        Output, check, print_json, print_lines,
        table::{Align, Table},
    },
    client::Client,
    exit,
    procedure::survey::{Survey, first_answer},
};

pub(super) async fn status(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let view = first_answer(client, endpoints).await?;
    let s = &view.status;
    if output == Output::Json {
        print_json(s)?;
    } else {
        let p = s.replication.partitions;
        let mut lines = vec![
            format!(
                "node        {} at {}, {}",
                s.node.id,
                s.node.address,
                s.node.lifecycle.as_str()
            ),
            format!(
                "cluster     {}, epoch {}",
                s.cluster.cluster_id, s.cluster.ring_epoch
            ),
            format!(
                "health      {}",
                serde_json::to_value(s.cluster.health)
                    .ok()
                    .and_then(|v| v.as_str().map(str::to_owned))
                    .unwrap_or_default()
            ),
            format!(
                "nodes       {} of {} alive",
                s.replication.alive_nodes, s.replication.total_nodes
            ),
            format!(
                "partitions  {}: {} with all replicas, {} at quorum, {} without quorum",
                p.total,
                p.all_replicas,
                p.quorum - p.all_replicas,
                p.unavailable
            ),
            format!("keys        {} on this node", s.storage.key_count),
        ];
        if let Some(waiting) = &s.node.waiting_for {
            lines.push(format!("waits for   {waiting}"));
        }
        lines.extend(
            s.cluster
                .problems
                .iter()
                .map(|p| format!("problem     {}: {}", p.code, p.message)),
        );
        print_lines(lines);
    }
    Ok(if s.replication.quorum_available {
        exit::OK
    } else {
        exit::FAILED
    })
}

pub(super) async fn members(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let view = first_answer(client, endpoints).await?;
    let m = &view.members;
    if output == Output::Json {
        print_json(m)?;
    } else {
        let mut table = Table::new(&[
            ("NODE", Align::Left),
            ("STATUS", Align::Left),
            ("LIFECYCLE", Align::Left),
            ("ADDRESS", Align::Left),
            ("ZONE", Align::Left),
            ("EPOCH", Align::Right),
            ("INCARNATION", Align::Right),
            ("KEYS", Align::Right),
            ("VERSION", Align::Left),
        ]);
        for info in m.cluster_members.values() {
            table.row([
                info.node_id.to_string(),
                info.status.as_str().to_owned(),
                info.lifecycle.as_str().to_owned(),
                info.address.clone(),
                info.zone.clone(),
                info.ring_epoch.to_string(),
                info.incarnation.to_string(),
                info.load.keys.to_string(),
                info.version.clone(),
            ]);
        }
        let mut lines = table.lines();
        lines.push(format!(
            "{} of {} alive, seen by {}, digest {}",
            m.alive_members, m.total_members, m.current_node, m.membership_digest
        ));
        print_lines(lines);
    }
    Ok(if m.alive_members == m.total_members {
        exit::OK
    } else {
        exit::FAILED
    })
}

pub(super) async fn check(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let survey = Survey::take(client, endpoints).await?;
    let verdicts = check::verdicts(&survey);
    let ok = verdicts.iter().all(|v| v.ok);
    if output == Output::Json {
        print_json(&serde_json::json!({"ok": ok, "checks": verdicts}))?;
    } else {
        let mark = |ok| if ok { "ok    " } else { "FAILED" };
        print_lines(
            verdicts
                .iter()
                .map(|v| format!("{}  {:<15} {}", mark(v.ok), v.check, v.message)),
        );
    }
    Ok(if ok { exit::OK } else { exit::FAILED })
}
