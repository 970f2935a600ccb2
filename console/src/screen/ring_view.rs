//! The ring as the pictures need it: one value that strip, circle, grid and tables share.
//!
//! Owners come from the topology and health from the shared quorum arithmetic; nothing is
//! computed a second time here.

use ratatui::style::{Modifier, Style};
use ringmaster_shared::{id::NodeId, quorum::PartitionHealth};

use crate::{
    cluster::Cluster,
    theme::{Theme, Tone, node_letter},
    widget::strip::{Strip, StripRow, covers, majority},
};

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Indexes into [`RingView::nodes`], the primary first.
    pub replicas: Vec<usize>,
    /// Replicas it is moving to, when it is moving.
    pub incoming: Vec<usize>,
    /// How many of `replicas` take part now.
    pub live: usize,
    pub health: PartitionHealth,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RingView {
    pub nodes: Vec<NodeId>,
    /// Whether each node takes part now.
    pub up: Vec<bool>,
    pub parts: Vec<Part>,
    pub replication_factor: usize,
}

impl RingView {
    pub fn new(cluster: &Cluster) -> Self {
        let Some(topology) = &cluster.topology else {
            return Self::default();
        };
        let available = cluster.available();
        let nodes: Vec<NodeId> = topology.members.iter().map(|m| m.id.clone()).collect();
        let index = |ids: Vec<NodeId>| -> Vec<usize> {
            let place = |id: &NodeId| nodes.iter().position(|n| n == id);
            ids.iter().filter_map(place).collect()
        };
        let up: Vec<bool> = nodes.iter().map(|n| available.contains(n)).collect();
        let part = |p| {
            let replicas = index(topology.replicas(p));
            let incoming = index(topology.target_replicas(p).unwrap_or_default());
            let live = replicas.iter().filter(|i| up[**i]).count();
            let health = cluster.partition_health(p, &available);
            Part {
                incoming: incoming
                    .into_iter()
                    .filter(|i| !replicas.contains(i))
                    .collect(),
                replicas,
                live,
                health: health.unwrap_or(PartitionHealth::Unavailable),
            }
        };
        Self {
            parts: (0..topology.partition_count()).map(part).collect(),
            replication_factor: usize::from(topology.replication_factor),
            nodes,
            up,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The ranks a strip has rows for: as many as the longest replica list.
    pub fn ranks(&self) -> usize {
        self.parts
            .iter()
            .map(|p| p.replicas.len())
            .max()
            .unwrap_or(0)
    }

    pub fn index_of(&self, id: &NodeId) -> Option<usize> {
        self.nodes.iter().position(|n| n == id)
    }

    /// The owners of one rank, unrolled to `width` cells. With a node selected the others are dim.
    pub fn owners(
        &self,
        rank: usize,
        width: usize,
        selected: Option<usize>,
        theme: &Theme,
    ) -> Vec<(char, Style)> {
        self.cells(width, |parts| {
            let owner = majority(parts.iter().map(|p| p.replicas.get(rank).copied())).flatten();
            let Some(owner) = owner else {
                return (' ', Style::new());
            };
            let mut style = theme.node_style(owner);
            if selected == Some(owner) {
                style = style.add_modifier(Modifier::BOLD);
            } else if selected.is_some() || !self.up[owner] {
                style = style.add_modifier(Modifier::DIM);
            }
            (node_letter(owner), style)
        })
    }

    /// The least number of live replicas in each cell.
    pub fn live_counts(&self, width: usize, theme: &Theme) -> Vec<(char, Style)> {
        self.cells(width, |parts| {
            let worst = parts.iter().min_by_key(|p| (p.health, p.live));
            worst.map_or((' ', Style::new()), |p| heat(p, theme))
        })
    }

    /// To whom copies are made, while a change is under way.
    pub fn incoming(&self, width: usize, theme: &Theme) -> Option<StripRow> {
        if self.parts.iter().all(|p| p.incoming.is_empty()) {
            return None;
        }
        let cells = self.cells(width, |parts| {
            match majority(parts.iter().flat_map(|p| p.incoming.iter().copied())) {
                Some(i) => (node_letter(i), theme.node_style(i)),
                None => (
                    theme.glyphs.dot.chars().next().unwrap_or('.'),
                    theme.quiet(),
                ),
            }
        });
        Some(StripRow {
            label: "copied to".to_owned(),
            cells,
        })
    }

    fn cells<T>(&self, width: usize, cell: impl Fn(&[Part]) -> T) -> Vec<T> {
        if self.is_empty() {
            return Vec::new();
        }
        let slice = |i| {
            let (from, to) = covers(i, width, self.parts.len());
            cell(&self.parts[from..to])
        };
        (0..width).map(slice).collect()
    }

    /// The cell of a strip of `width` that shows `partition`.
    pub fn cell_of(&self, partition: u16, width: usize) -> usize {
        let count = self.parts.len().max(1);
        let at = usize::from(partition) * width / count;
        at.min(width.saturating_sub(1))
    }

    /// The strip with the given ranks and the row of live counts.
    pub fn strip(
        &self,
        ranks: &[(usize, &str)],
        width: usize,
        selected: Option<usize>,
        theme: &Theme,
    ) -> Strip {
        let mut rows: Vec<StripRow> = ranks
            .iter()
            .map(|(rank, label)| StripRow {
                label: (*label).to_owned(),
                cells: self.owners(*rank, width, selected, theme),
            })
            .collect();
        rows.push(StripRow {
            label: "live".to_owned(),
            cells: self.live_counts(width, theme),
        });
        Strip {
            rows,
            label_width: 10,
            width,
            caret: None,
        }
    }
}

/// How a partition is shown in one cell: its live replicas, loud where some are missing.
pub fn heat(part: &Part, theme: &Theme) -> (char, Style) {
    let digit = char::from_digit(part.live as u32, 10).unwrap_or('+');
    match part.health {
        PartitionHealth::AllReplicas => (digit, theme.quiet()),
        PartitionHealth::Quorum => (digit, theme.style(Tone::Warn)),
        PartitionHealth::Unavailable => {
            let style = theme.style(Tone::Bad).add_modifier(Modifier::REVERSED);
            (digit, style)
        }
    }
}
