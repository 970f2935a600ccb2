//! Who owns what: the ring, and where one key lives.

use ringmaster_shared::{api::ring::LocateResponse, topology::Step};

use super::answer::{Outcome, first};
use crate::{
    batch::{
        Output, print_json, print_lines,
        table::{Align, Table},
    },
    client::{Client, encode},
    exit,
    procedure::survey::{first_answer, seeing_first},
};

pub(super) async fn ring(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let view = first_answer(client, endpoints).await?;
    let r = &view.ring;
    if output == Output::Json {
        print_json(r)?;
        return Ok(exit::OK);
    }
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("ZONE", Align::Left),
        ("PRIMARIES", Align::Right),
        ("REPLICAS", Align::Right),
        ("OWNS %", Align::Right),
        ("", Align::Left),
    ]);
    for n in &r.nodes {
        table.row([
            n.id.to_string(),
            n.zone.clone(),
            n.primaries.to_string(),
            n.replicas.to_string(),
            format!("{:.1}", n.owns_percent),
            match (n.joining, n.leaving) {
                (true, _) => "joining".to_owned(),
                (_, true) => "leaving".to_owned(),
                _ => String::new(),
            },
        ]);
    }
    let mut lines = table.lines();
    lines.push(format!(
        "epoch {}, {} partitions, up to {} replicas, digest {}",
        r.epoch, r.ring.partitions, r.ring.replicas, r.digest
    ));
    if let Some(t) = &r.transition {
        lines.push(format!(
            "a change is under way: {}; {} partitions move, {}",
            crate::change::words(&crate::change::seen(t)),
            t.moving,
            match t.step {
                Step::Filling => "new replicas are being filled",
                Step::Dual => "reads ask old and new",
            }
        ));
    }
    print_lines(lines);
    Ok(exit::OK)
}

pub(super) async fn locate(
    client: &Client,
    endpoints: &[String],
    key: &str,
    output: Output,
) -> Outcome {
    let path = format!("/api/v1/ring/locate?key={}", encode(key));
    let endpoints = seeing_first(client, endpoints).await;
    let l: LocateResponse = first(client, &endpoints, &path).await?;
    if output == Output::Json {
        print_json(&l)?;
    } else {
        let mut table = Table::new(&[
            ("REPLICA", Align::Left),
            ("ADDRESS", Align::Left),
            ("STATUS", Align::Left),
            ("LIFECYCLE", Align::Left),
            ("", Align::Left),
        ]);
        for r in &l.replicas {
            table.row([
                r.node_id.to_string(),
                r.address.clone(),
                r.status.as_str().to_owned(),
                r.lifecycle.as_str().to_owned(),
                if r.incoming {
                    "incoming".to_owned()
                } else {
                    String::new()
                },
            ]);
        }
        let mut lines = vec![format!(
            "{} hashes to {}, partition {}, epoch {}",
            l.key, l.hash, l.partition, l.epoch
        )];
        lines.extend(table.lines());
        print_lines(lines);
    }
    Ok(if l.quorum_available {
        exit::OK
    } else {
        exit::FAILED
    })
}
