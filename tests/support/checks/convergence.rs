//! K5: when nobody writes any more, all replicas of a key hold the same, every node reads the
//! same, and all nodes go by the same members and the same settled ring.

use super::{
    Check, Verdict,
    ended::{End, KeyEnd, NodeEnd},
    record::Seen,
};

pub fn check(end: &End) -> Verdict {
    let mut verdict = Verdict::new(Check::Convergence);
    for (key, of_key) in &end.keys {
        verdict.examine(differs(of_key).map(|why| format!("{key}: {why}")));
    }
    for pair in end.nodes.windows(2) {
        verdict.examine(disagree(&pair[0], &pair[1]));
    }
    verdict
}

fn differs(key: &KeyEnd) -> Option<String> {
    if key.replicas.is_empty() || key.reads.is_empty() {
        return Some("nobody was asked what it holds".into());
    }
    let mut fingerprints = Vec::new();
    for (asked, replicas) in &key.replicas {
        if replicas.is_empty() {
            return Some(format!("{asked} knows no replica"));
        }
        for replica in replicas {
            if let Some(error) = &replica.error {
                return Some(format!("{} did not answer {asked}: {error}", replica.node));
            }
            fingerprints.push((&replica.node, &replica.fingerprint));
        }
    }
    let (_, first) = fingerprints[0];
    if fingerprints.iter().any(|(_, f)| *f != first) {
        return Some(format!("replicas differ: {fingerprints:?}"));
    }
    let contents = |seen: &Seen| {
        let mut values = seen.values.clone();
        values.sort_unstable();
        (values, seen.found, seen.clock.clone())
    };
    let (node, first) = &key.reads[0];
    let other = key
        .reads
        .iter()
        .find(|(_, s)| contents(s) != contents(first));
    other.map(|(other, seen)| {
        format!(
            "{node} reads {:?} and {other} reads {:?}",
            first.values, seen.values
        )
    })
}

fn disagree(a: &NodeEnd, b: &NodeEnd) -> Option<String> {
    if let Some(node) = [a, b].into_iter().find(|n| n.changing) {
        return Some(format!("{} knows of a change under way", node.node));
    }
    let view = |n: &NodeEnd| {
        let ring = (n.ring_epoch, n.ring_digest.clone());
        (n.cluster.clone(), ring, n.membership_digest.clone())
    };
    (view(a) != view(b)).then(|| format!("two nodes go by different views:\n  {a:?}\n  {b:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::made_up::*;
    use super::*;

    fn red(end: &End) -> bool {
        check(end).violations > 0
    }

    #[test]
    fn everything_must_be_the_same() {
        let good = ends(&[1], &[("a", 1)]);
        assert!(!red(&good));
        let broken: [(&str, fn(&mut KeyEnd)); 5] = [
            ("a replica holds something else", |k| {
                k.replicas[0].1[1].fingerprint = Some("other".into());
            }),
            ("a replica holds nothing", |k| {
                k.replicas[0].1[1].fingerprint = None;
            }),
            ("a replica did not answer", |k| {
                k.replicas[0].1[1].error = Some("silent".into());
            }),
            ("two nodes read differently", |k| {
                k.reads[1].1.values = vec![2];
            }),
            ("nobody was asked", |k| k.replicas.clear()),
        ];
        for (what, breaks) in broken {
            let mut end = good.clone();
            breaks(end.keys.get_mut(KEY).expect("the key"));
            assert!(red(&end), "{what}");
        }
        let views: [(&str, fn(&mut NodeEnd)); 4] = [
            ("another ring", |n| n.ring_digest = "other".into()),
            ("another epoch", |n| n.ring_epoch = 9),
            ("other members", |n| n.membership_digest = "other".into()),
            ("a change under way", |n| n.changing = true),
        ];
        for (what, breaks) in views {
            let mut end = good.clone();
            breaks(&mut end.nodes[1]);
            assert!(red(&end), "{what}");
        }
    }
}
