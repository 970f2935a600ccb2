//! Which observers and which members the who-sees-whom matrix shows, and what it says of them.
//!
//! Pure: rows, columns and sentences from the observations alone. In a large cluster only those
//! are shown with whom something is wrong; what is hidden is always said. How it is drawn is
//! left to `screen/matrix.rs`.

use std::collections::BTreeSet;

use ringmaster_shared::{
    api::{
        membership::{ObservationsResponse, Observer, Sight},
        observations::{named, well},
    },
    id::NodeId,
    member::MemberStatus,
};

use crate::format;

/// From so many members on only trouble is shown.
pub const LARGE_FROM: usize = 100;
/// Sentences about disagreements.
const SENTENCES_MAX: usize = 4;

/// What one cell says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Row and column are the same node.
    Itself,
    Sees(MemberStatus),
    /// Alive, but reached over TCP only.
    TcpOnly,
    /// It answered and does not list that one.
    Unlisted,
    /// It did not answer.
    Silent,
}

/// A row: who sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub observer: NodeId,
    /// In the order of the columns.
    pub cells: Vec<Cell>,
    /// Why it did not answer.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matrix {
    /// Who is seen.
    pub columns: Vec<NodeId>,
    /// Which columns are in dispute; as long as `columns`.
    pub disputed: Vec<bool>,
    pub rows: Vec<Row>,
    /// What is left out, in a sentence.
    pub hidden: Option<String>,
    /// The disagreements and who is reached over TCP only, in sentences; empty when there is none.
    pub trouble: Vec<String>,
    /// Who did not answer and was expected to, in a sentence.
    pub silent: Option<String>,
}

impl Matrix {
    pub fn of(seen: &ObservationsResponse) -> Self {
        let mut columns: BTreeSet<NodeId> = seen
            .observers
            .iter()
            .flat_map(|o| o.sees.keys().cloned().chain([o.node_id.clone()]))
            .collect();
        let listed: BTreeSet<&NodeId> = seen.observers.iter().flat_map(|o| o.sees.keys()).collect();
        // the daemon may have left out those who are well
        let members = match seen.well {
            0 => columns.len(),
            well => listed.len() + well,
        };
        let large = members >= LARGE_FROM;
        let mut rows: Vec<&Observer> = seen.observers.iter().collect();
        if large {
            let well = well(&seen.observers);
            columns.retain(|id| listed.contains(id) && !well.contains(id));
            let odd = odd(seen);
            rows.retain(|o| {
                !o.answered || o.node_id == seen.current_node || odd.contains(&o.node_id)
            });
        }
        let columns: Vec<NodeId> = columns.into_iter().collect();
        let disputed = |id: &NodeId| seen.disagreements.iter().any(|d| d.about == *id);
        let hidden = large.then(|| hidden(seen, members, columns.len(), rows.len()));
        Self {
            disputed: columns.iter().map(disputed).collect(),
            rows: rows.into_iter().map(|o| row(o, &columns)).collect(),
            columns,
            hidden: hidden.flatten(),
            trouble: trouble(seen),
            silent: silent(seen),
        }
    }
}

/// Observers that hold something the largest camp does not, or see over TCP only.
fn odd(seen: &ObservationsResponse) -> BTreeSet<&NodeId> {
    let mut odd = BTreeSet::new();
    for disagreement in &seen.disagreements {
        let camps = disagreement
            .sees
            .values()
            .chain([&disagreement.unlisted_by]);
        let camps: Vec<&Vec<NodeId>> = camps.collect();
        let largest = camps.iter().map(|c| c.len()).max().unwrap_or(0);
        let mut spared = false;
        for camp in camps {
            if camp.len() == largest && !std::mem::replace(&mut spared, true) {
                continue;
            }
            odd.extend(camp);
        }
    }
    let blocked = |o: &&Observer| o.views.values().any(|v| v.udp_blocked);
    odd.extend(seen.observers.iter().filter(blocked).map(|o| &o.node_id));
    odd
}

fn hidden(
    seen: &ObservationsResponse,
    members: usize,
    columns: usize,
    rows: usize,
) -> Option<String> {
    let (columns, rows) = (
        members.saturating_sub(columns),
        seen.observers.len().saturating_sub(rows),
    );
    let mut parts = Vec::new();
    if columns > 0 {
        parts.push(format!(
            "{} of {} members, alive to all who answered",
            format::count(columns as u64),
            format::count(members as u64)
        ));
    }
    if rows > 0 {
        parts.push(format!(
            "{}, who see nothing else than most",
            format::plural(rows, "observer")
        ));
    }
    if seen.not_asked > 0 {
        parts.push(format!(
            "{} not asked",
            format::plural(seen.not_asked, "member")
        ));
    }
    (!parts.is_empty()).then(|| format!("hidden: {}", parts.join("; ")))
}

fn row(observer: &Observer, columns: &[NodeId]) -> Row {
    let cell = |id: &NodeId| match (observer.sees.get(id), observer.views.get(id)) {
        _ if *id == observer.node_id => Cell::Itself,
        _ if !observer.answered => Cell::Silent,
        (Some(MemberStatus::Alive), Some(Sight { udp_blocked, .. })) if *udp_blocked => {
            Cell::TcpOnly
        }
        (Some(status), _) => Cell::Sees(*status),
        (None, _) => Cell::Unlisted,
    };
    Row {
        observer: observer.node_id.clone(),
        cells: columns.iter().map(cell).collect(),
        error: observer.error.clone(),
    }
}

fn trouble(seen: &ObservationsResponse) -> Vec<String> {
    let disagreements = seen.disagreements.iter().take(SENTENCES_MAX);
    let mut lines: Vec<String> = disagreements
        .map(|d| format!("{}: {}", d.sentence(), d.question()))
        .collect();
    if let Some(more) = seen.disagreements.len().checked_sub(SENTENCES_MAX + 1) {
        let more = format::plural(more + 1, "more member");
        lines.push(format!("the nodes disagree about {more}"));
    }
    lines.extend(tcp_only(seen));
    lines
}

fn tcp_only(seen: &ObservationsResponse) -> Option<String> {
    let mut pairs: Vec<(&NodeId, &NodeId)> = Vec::new();
    for observer in &seen.observers {
        let blocked = observer.views.iter().filter(|(_, v)| v.udp_blocked);
        pairs.extend(blocked.map(|(id, _)| (&observer.node_id, id)));
    }
    let (by, about) = pairs.first()?;
    // one and the same in all of them, with several others: it is about that one
    let in_all = |id: &NodeId| pairs.iter().all(|(by, to)| *by == id || *to == id);
    let others: BTreeSet<&NodeId> = pairs.iter().flat_map(|(by, to)| [*by, *to]).collect();
    if let Some(one) = [*by, *about].into_iter().find(|id| in_all(id))
        && others.len() > 2
    {
        let others: Vec<NodeId> = others.into_iter().filter(|o| *o != one).cloned().collect();
        let others = named(&others);
        return Some(format!(
            "TCP only between {one} and {others}: is the UDP of {one} blocked?"
        ));
    }
    let more = match pairs.len() - 1 {
        0 => String::new(),
        n => format!(" (and {} like that)", format::plural(n, "pair")),
    };
    Some(format!(
        "{by} reaches {about} over TCP only{more}: is UDP blocked between them?"
    ))
}

/// Members that somebody holds alive and that did not answer this node. Who is dead to all is no
/// surprise.
fn silent(seen: &ObservationsResponse) -> Option<String> {
    let alive = |id: &NodeId| {
        let mut answered = seen.observers.iter().filter(|o| o.answered);
        answered.any(|o| o.sees.get(id) == Some(&MemberStatus::Alive))
    };
    let silent: Vec<NodeId> = seen
        .observers
        .iter()
        .filter(|o| !o.answered && alive(&o.node_id))
        .map(|o| o.node_id.clone())
        .collect();
    (!silent.is_empty()).then(|| {
        let verb = if silent.len() == 1 { "does" } else { "do" };
        format!(
            "{} {verb} not tell {} what it sees, though held alive",
            named(&silent),
            seen.current_node
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fixture::{before, id, observed};
    use MemberStatus::{Alive, Dead};

    /// `n` nodes, all alive to all.
    fn well_of(n: usize) -> Vec<Observer> {
        let names: Vec<NodeId> = (1..=n).map(|i| id(&format!("node-{i:03}"))).collect();
        let observer = |node: &NodeId| Observer {
            node_id: node.clone(),
            at: before(0),
            answered: true,
            error: None,
            sees: names.iter().map(|n| (n.clone(), Alive)).collect(),
            views: BTreeMap::new(),
        };
        names.iter().map(observer).collect()
    }

    #[test]
    fn a_small_cluster_is_shown_whole() {
        let mut observers = well_of(5);
        observers[2].sees.insert(id("node-005"), Dead);
        observers[4].answered = false;
        observers[4].sees.clear();
        observers[4].error = Some("connection refused".to_owned());
        let matrix = Matrix::of(&observed(observers));
        assert_eq!((matrix.rows.len(), matrix.columns.len()), (5, 5));
        assert_eq!(matrix.disputed, [false, false, false, false, true]);
        assert_eq!(matrix.rows[0].cells[0], Cell::Itself);
        assert_eq!(matrix.rows[2].cells[4], Cell::Sees(Dead));
        assert_eq!(matrix.rows[4].cells[0], Cell::Silent);
        assert_eq!(
            matrix.trouble,
            ["node-003 holds node-005 dead, 3 others alive: is the network between them cut?"]
        );
        assert_eq!(matrix.hidden, None);
        assert!(
            matrix
                .silent
                .is_some_and(|s| s.starts_with("node-005 does not tell"))
        );
    }

    #[test]
    fn a_large_cluster_shows_trouble_and_says_what_it_hides() {
        let mut observers = well_of(120);
        observers[41].sees.insert(id("node-005"), Dead);
        for observer in &mut observers {
            observer.sees.insert(id("node-100"), Dead);
        }
        observers[99].answered = false;
        let mut seen = observed(observers);
        seen.current_node = id("node-001");
        let matrix = Matrix::of(&seen);
        assert_eq!(matrix.columns, ["node-005", "node-100"].map(id));
        let rows: Vec<&str> = matrix.rows.iter().map(|r| r.observer.as_str()).collect();
        assert_eq!(rows, ["node-001", "node-042", "node-100"]);
        let hidden = "hidden: 118 of 120 members, alive to all who answered; \
                      117 observers, who see nothing else than most";
        assert_eq!(matrix.hidden.as_deref(), Some(hidden));
        assert_eq!(matrix.silent, None, "who is dead to all is no surprise");
    }

    #[test]
    fn one_way_udp_is_told() {
        let mut observers = well_of(3);
        let sight = Sight {
            status: Alive,
            generation: 1,
            incarnation: 0,
            since: None,
            by: vec![],
            reason: None,
            udp_blocked: true,
        };
        observers[0].views.insert(id("node-003"), sight);
        let matrix = Matrix::of(&observed(observers));
        assert_eq!(matrix.rows[0].cells[2], Cell::TcpOnly);
        let text = "node-001 reaches node-003 over TCP only: is UDP blocked between them?";
        assert_eq!(matrix.trouble, [text]);
    }
}
