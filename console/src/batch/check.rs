//! `ringmaster check`: asks every member and gives a verdict per question.
//!
//! Pure: from a [`Survey`] to a list of verdicts. The check works best when the cluster does not:
//! whoever is silent or disagrees is named.

use std::collections::BTreeMap;

use ringmaster_shared::{api::ring::ClusterResponse, id::NodeId, member::Lifecycle};
use serde::Serialize;

use crate::procedure::survey::Survey;

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Stable name, e.g. `views_agree`.
    pub check: &'static str,
    pub ok: bool,
    /// One sentence.
    pub message: String,
}

/// All verdicts; the cluster passes when every one is ok.
pub fn verdicts(survey: &Survey) -> Vec<Verdict> {
    let answered: Vec<(&NodeId, &ClusterResponse)> = survey
        .targets
        .iter()
        .zip(&survey.views)
        .filter_map(|(t, v)| v.as_ref().ok().map(|v| (&t.id, v)))
        .collect();
    vec![
        all_answer(survey),
        all_serve(&answered),
        one_cluster(survey, &answered),
        same("views_agree", "membership digest", &answered, |v| {
            v.members.membership_digest.clone()
        }),
        same("epochs_agree", "ring epoch", &answered, |v| {
            format!("{} ({})", v.ring.epoch, v.ring.digest)
        }),
        no_change(&answered),
        quorum(&answered),
        all_replicas(&answered),
        hints(&answered),
        writable(&answered),
    ]
}

fn verdict(check: &'static str, ok: bool, message: String) -> Verdict {
    Verdict { check, ok, message }
}

/// Of all who answered, also of endpoints that are in nobody's list.
fn one_cluster(survey: &Survey, answered: &[(&NodeId, &ClusterResponse)]) -> Verdict {
    match survey.split() {
        Some(why) => verdict("one_cluster", false, why),
        None => same("one_cluster", "cluster", answered, |v| {
            let cluster = &v.status.cluster.cluster_id;
            if cluster.is_empty() {
                "none yet".to_owned()
            } else {
                cluster.clone()
            }
        }),
    }
}

fn all_answer(survey: &Survey) -> Verdict {
    if survey.targets.is_empty() {
        return verdict("members_answer", false, survey.nobody());
    }
    let silent: Vec<String> = survey
        .targets
        .iter()
        .zip(&survey.views)
        .filter_map(|(t, v)| v.as_ref().err().map(|why| format!("{}: {why}", t.id)))
        .collect();
    let total = survey.targets.len();
    if silent.is_empty() {
        verdict(
            "members_answer",
            true,
            format!("all {total} members answer"),
        )
    } else {
        let message = format!(
            "{} of {total} members do not answer: {}",
            silent.len(),
            silent.join("; ")
        );
        verdict("members_answer", false, message)
    }
}

fn all_serve(answered: &[(&NodeId, &ClusterResponse)]) -> Verdict {
    let idle: Vec<String> = answered
        .iter()
        .filter(|(_, v)| v.status.node.lifecycle != Lifecycle::Serving)
        .map(|(id, v)| format!("{id} is {}", v.status.node.lifecycle.as_str()))
        .collect();
    let message = if idle.is_empty() {
        format!("{} members serve", answered.len())
    } else {
        idle.join("; ")
    };
    verdict("members_serve", idle.is_empty(), message)
}

fn same(
    check: &'static str,
    what: &str,
    answered: &[(&NodeId, &ClusterResponse)],
    of: impl Fn(&ClusterResponse) -> String,
) -> Verdict {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, view) in answered {
        groups.entry(of(view)).or_default().push(id.to_string());
    }
    match groups.iter().next() {
        Some((value, _)) if groups.len() == 1 => {
            verdict(check, true, format!("one {what} everywhere: {value}"))
        }
        None => verdict(check, false, format!("nobody told its {what}")),
        Some(_) => {
            let parts: Vec<String> = groups
                .iter()
                .map(|(value, ids)| format!("{}: {value}", ids.join(", ")))
                .collect();
            verdict(
                check,
                false,
                format!("the {what} differs: {}", parts.join("; ")),
            )
        }
    }
}

fn no_change(answered: &[(&NodeId, &ClusterResponse)]) -> Verdict {
    let moving = answered
        .iter()
        .find_map(|(_, v)| v.ring.transition.as_ref().map(|t| t.moving));
    match moving {
        None => verdict(
            "no_ring_change",
            true,
            "no ring change is under way".to_owned(),
        ),
        Some(n) => verdict(
            "no_ring_change",
            false,
            format!("{n} partitions are being moved"),
        ),
    }
}

fn quorum(answered: &[(&NodeId, &ClusterResponse)]) -> Verdict {
    let without: Vec<String> = answered
        .iter()
        .filter(|(_, v)| !v.status.replication.quorum_available)
        .map(|(id, v)| {
            let p = v.status.replication.partitions;
            format!(
                "{id} sees {} of {} partitions without quorum",
                p.unavailable, p.total
            )
        })
        .collect();
    let ok = without.is_empty() && !answered.is_empty();
    let message = if ok {
        "every partition has a quorum".to_owned()
    } else {
        without.join("; ")
    };
    verdict("quorum", ok, message)
}

fn all_replicas(answered: &[(&NodeId, &ClusterResponse)]) -> Verdict {
    let short: Vec<String> = answered
        .iter()
        .filter(|(_, v)| {
            v.status.replication.partitions.all_replicas < v.status.replication.partitions.total
        })
        .map(|(id, v)| {
            let p = v.status.replication.partitions;
            format!(
                "{id} sees {} of {} partitions with all replicas",
                p.all_replicas, p.total
            )
        })
        .collect();
    let ok = short.is_empty() && !answered.is_empty();
    let message = if ok {
        "all replicas of every partition".to_owned()
    } else {
        short.join("; ")
    };
    verdict("all_replicas", ok, message)
}

fn hints(answered: &[(&NodeId, &ClusterResponse)]) -> Verdict {
    let owed: Vec<String> = answered
        .iter()
        .flat_map(|(id, v)| {
            v.status
                .storage
                .hints_owed
                .iter()
                .filter(|(_, n)| **n > 0)
                .map(move |(to, n)| format!("{id} owes {n} to {to}"))
                .chain(dirty(id, v))
        })
        .collect();
    let ok = owed.is_empty();
    let message = if ok {
        "no hints are owed".to_owned()
    } else {
        owed.join("; ")
    };
    verdict("no_hints_owed", ok, message)
}

/// Where hints were dropped whole partitions are still to be compared.
fn dirty<'a>(id: &'a NodeId, view: &'a ClusterResponse) -> impl Iterator<Item = String> + 'a {
    let dirty = view.status.storage.dirty_partitions.iter();
    dirty
        .filter(|(_, n)| **n > 0)
        .map(move |(to, n)| format!("{id} has {n} partitions to compare with {to}"))
}

fn writable(answered: &[(&NodeId, &ClusterResponse)]) -> Verdict {
    let full: Vec<String> = answered
        .iter()
        .filter(|(_, v)| v.status.storage.read_only)
        .map(|(id, v)| {
            let why = v.status.storage.read_only_reason.as_deref();
            format!("{id}: {}", why.unwrap_or("its disk is nearly full"))
        })
        .collect();
    let ok = full.is_empty();
    let message = if ok {
        "every node takes writes".to_owned()
    } else {
        full.join("; ")
    };
    verdict("disks_writable", ok, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedure::fixture::{CLUSTER, heard, id, survey};

    fn failed(survey: &Survey) -> Vec<&'static str> {
        verdicts(survey)
            .into_iter()
            .filter(|v| !v.ok)
            .map(|v| v.check)
            .collect()
    }

    #[test]
    fn a_healthy_cluster_passes_everything() {
        assert_eq!(
            failed(&survey(&["a", "b", "c"], &[5, 5, 5])),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn each_trouble_fails_its_own_check() {
        type Edit = fn(&mut ClusterResponse);
        let view = |s: &mut Survey, f: Edit| {
            if let Ok(v) = &mut s.views[1] {
                f(v);
            }
        };
        let mut silent = survey(&["a", "b", "c"], &[5, 5, 5]);
        silent.views[1] = Err("connection refused".into());
        assert_eq!(failed(&silent), ["members_answer"]);

        let cases: [(Edit, &str); 7] = [
            (
                |v| v.status.node.lifecycle = Lifecycle::Draining,
                "members_serve",
            ),
            (
                |v| v.status.cluster.cluster_id = "other".into(),
                "one_cluster",
            ),
            (
                |v| v.members.membership_digest = "other".into(),
                "views_agree",
            ),
            (|v| v.status.replication.quorum_available = false, "quorum"),
            (
                |v| {
                    v.status.storage.hints_owed.insert(id("a"), 3);
                },
                "no_hints_owed",
            ),
            (
                |v| {
                    v.status.storage.dirty_partitions.insert(id("a"), 3);
                },
                "no_hints_owed",
            ),
            (|v| v.status.storage.read_only = true, "disks_writable"),
        ];
        for (edit, want) in cases {
            let mut s = survey(&["a", "b", "c"], &[5, 5, 5]);
            view(&mut s, edit);
            assert_eq!(failed(&s), [want]);
        }
        assert_eq!(failed(&survey(&["a", "b"], &[5, 6])), ["epochs_agree"]);
    }

    #[test]
    fn an_endpoint_of_another_cluster_fails_it_and_a_joining_one_does_not() {
        let mut s = survey(&["a"], &[5]);
        s.heard = vec![heard("a:1", "a", CLUSTER), heard("d:1", "d", "")];
        assert_eq!(failed(&s), Vec::<&str>::new());
        s.heard.push(heard("b:1", "b", "another"));
        assert_eq!(failed(&s), ["one_cluster"]);
        let of = verdicts(&s).into_iter().find(|v| v.check == "one_cluster");
        let message = of.expect("a verdict").message;
        for part in [CLUSTER, "another at b:1 (b)", "ringmaster adopt"] {
            assert!(message.contains(part), "no {part}: {message}");
        }
    }

    #[test]
    fn where_nobody_has_a_ring_nothing_is_well() {
        let mut s = survey(&[], &[]);
        s.heard = vec![heard("d:1", "d", "")];
        let first = &verdicts(&s)[0];
        assert_eq!((first.check, first.ok), ("members_answer", false));
        assert!(first.message.contains("d:1 (d) is serving"), "{first:?}");
    }
}
