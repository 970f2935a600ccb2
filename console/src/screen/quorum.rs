//! Which parts of the key space are safe, which are thin, which are closed, and what would happen
//! if one more node stopped.

use std::collections::BTreeMap;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use ringmaster_shared::quorum::{PartitionCounts, PartitionHealth, partition_counts};

use super::{
    ring_view::{Part, heat},
    view::View,
};
use crate::{
    app::screens::partitions_per_row,
    format,
    theme::{Tone, node_letter},
    widget::{
        self, Rows,
        table::{Cell, Column, Table},
    },
};

const COLUMNS: [Column; 6] = [
    Column::left("", 1, 2),
    Column::left("NODE", 8, 0).at_most(24),
    Column::right("HOLDS", 6, 2),
    Column::right("FIRST OF", 8, 3),
    Column::left("IF IT STOPPED NOW", 40, 1),
    Column::left("", 0, 9),
];

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let fresh = view.fresh(view.cluster.ring.as_ref());
    let Some(counts) = view.cluster.partition_counts().filter(|c| c.total > 0) else {
        widget::heading(buf, rows.take(1), "Quorum", fresh, theme);
        rows.line(
            buf,
            &Line::styled(" The ring has not arrived yet.", theme.quiet()),
        );
        return;
    };
    let title = format!(
        "{} partitions, {} replicas each, quorum is {}",
        counts.total,
        view.ring.ranks(),
        view.ring.ranks() / 2 + 1
    );
    widget::heading(buf, rows.take(1), title, fresh, theme);
    let body = rows.rest();
    draw_counts(view, counts, buf, &mut rows);
    rows.skip(1);
    draw_grid(view, buf, &mut rows);
    rows.line(buf, &cursor_line(view));
    rows.skip(1);
    let gaps = gaps(view);
    let nodes = view.ring.nodes.len() as u16 + 1;
    let roomy = rows.left() > nodes + 3;
    let gap_room = if roomy {
        rows.left() - nodes - 1
    } else {
        rows.left().min(2)
    };
    rows.lines(buf, gaps.into_iter().take(usize::from(gap_room)));
    if roomy {
        rows.skip(1);
    }
    draw_nodes(view, counts, buf, rows.rest());
    if fresh.stale {
        widget::dim(buf, body);
    }
}

fn draw_counts(view: &View, counts: PartitionCounts, buf: &mut Buffer, rows: &mut Rows) {
    let theme = &view.theme;
    let lines = [
        (
            "all replicas",
            counts.all_replicas,
            theme.glyphs.good,
            Tone::Good,
        ),
        (
            "quorum only",
            counts.quorum - counts.all_replicas,
            theme.glyphs.warn,
            Tone::Warn,
        ),
        ("no quorum", counts.unavailable, theme.glyphs.bad, Tone::Bad),
    ];
    let mut line = Line::from(" ");
    for (label, n, glyph, tone) in lines {
        let tone = if n == 0 { Tone::Quiet } else { tone };
        let share = 100.0 * f64::from(n) / f64::from(counts.total.max(1));
        line.push_span(Span::styled(format!("{glyph} {label} "), theme.style(tone)));
        line.push_span(Span::styled(n.to_string(), theme.bold()));
        let share = if rows.rest().width < 100 {
            "    ".to_owned()
        } else {
            format!("  {}      ", format::percent(share))
        };
        line.push_span(Span::styled(share, theme.quiet()));
    }
    rows.line(buf, &line);
}

/// One cell a partition: how many of its replicas take part.
fn draw_grid(view: &View, buf: &mut Buffer, rows: &mut Rows) {
    let theme = &view.theme;
    let parts = &view.ring.parts;
    let per_row = usize::from(partitions_per_row(rows.rest().width));
    let cursor = usize::from(view.app.quorum.cursor);
    let lines_max = usize::from(rows.left().saturating_sub(6));
    let lines = parts.len().div_ceil(per_row);
    // more rows than fit: those around the cursor
    let from = (cursor / per_row + 1).saturating_sub(lines_max);
    for row in (from..lines).take(lines_max) {
        let first = row * per_row;
        let label = format!(" {}  ", format::right(&first.to_string(), 5));
        let mut line = Line::from(Span::styled(label, theme.quiet()));
        for (i, part) in parts.iter().enumerate().skip(first).take(per_row) {
            let (c, style) = heat(part, theme);
            let style = if i == cursor { theme.selected() } else { style };
            line.push_span(Span::styled(c.to_string(), style));
        }
        rows.line(buf, &line);
    }
}

/// What is under the cursor.
fn cursor_line(view: &View) -> Line<'static> {
    let theme = &view.theme;
    let cursor = usize::from(view.app.quorum.cursor);
    let Some(part) = view.ring.parts.get(cursor) else {
        return Line::default();
    };
    let mut line = Line::from(Span::styled(
        format!(" partition {cursor}: "),
        theme.quiet(),
    ));
    line.spans.extend(replicas(view, part));
    line
}

/// `node-1 ●  node-3 ✖`, in order.
pub(super) fn replicas(view: &View, part: &Part) -> Vec<Span<'static>> {
    let theme = &view.theme;
    let mut spans = Vec::new();
    for (list, note) in [(&part.replicas, ""), (&part.incoming, " (coming)")] {
        for i in list {
            let (glyph, tone) = if view.ring.up[*i] {
                (theme.glyphs.good, Tone::Good)
            } else {
                (theme.glyphs.bad, Tone::Bad)
            };
            spans.push(Span::styled(format!("{glyph} "), theme.style(tone)));
            spans.push(Span::raw(format!("{}{note}   ", view.ring.nodes[*i])));
        }
    }
    spans
}

/// Partitions with a replica missing, grouped by who is missing.
fn gaps(view: &View) -> Vec<Line<'static>> {
    let theme = &view.theme;
    let mut by_missing: BTreeMap<(PartitionHealth, Vec<usize>), Vec<usize>> = BTreeMap::new();
    for (p, part) in view.ring.parts.iter().enumerate() {
        if part.health != PartitionHealth::AllReplicas {
            let down = |i: &usize| !view.ring.up[*i];
            let all = part.replicas.iter().chain(&part.incoming);
            let mut missing: Vec<usize> = all.copied().filter(down).collect();
            missing.sort_unstable();
            by_missing
                .entry((part.health, missing))
                .or_default()
                .push(p);
        }
    }
    if by_missing.is_empty() {
        let text = format!(
            " {} Every partition has all its replicas.",
            theme.glyphs.good
        );
        return vec![Line::styled(text, theme.style(Tone::Good))];
    }
    let line = |((health, missing), parts): (&(PartitionHealth, Vec<usize>), &Vec<usize>)| {
        let names: Vec<&str> = missing
            .iter()
            .map(|i| view.ring.nodes[*i].as_str())
            .collect();
        let (glyph, word, tone) = match health {
            PartitionHealth::Unavailable => (theme.glyphs.bad, "no quorum", Tone::Bad),
            _ => (theme.glyphs.warn, "quorum only", Tone::Warn),
        };
        Line::from(vec![
            Span::styled(format!(" {glyph} {word}  "), theme.style(tone)),
            Span::styled(format::plural(parts.len(), "partition"), theme.bold()),
            Span::raw(format!(" without {}   ", names.join(", "))),
            Span::styled(ranges(parts), theme.quiet()),
        ])
    };
    by_missing.iter().map(line).collect()
}

/// `0-2, 12, 14-19`, at most a line of it.
fn ranges(sorted: &[usize]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut i = 0;
    while i < sorted.len() {
        let start = sorted[i];
        while sorted.get(i + 1) == Some(&(sorted[i] + 1)) {
            i += 1;
        }
        out.push(if sorted[i] == start {
            start.to_string()
        } else {
            format!("{start}-{}", sorted[i])
        });
        i += 1;
        if out.len() == 24 && i < sorted.len() {
            out.push("…".to_owned());
            break;
        }
    }
    out.join(", ")
}

fn draw_nodes(view: &View, now: PartitionCounts, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let Some(topology) = &view.cluster.topology else {
        return;
    };
    let available = view.cluster.available();
    let row = |(i, id): (usize, &ringmaster_shared::id::NodeId)| {
        let holds = view
            .ring
            .parts
            .iter()
            .filter(|p| p.replicas.contains(&i))
            .count();
        let first = view
            .ring
            .parts
            .iter()
            .filter(|p| p.replicas.first() == Some(&i))
            .count();
        let (text, tone) = if view.ring.up[i] {
            let mut without = available.clone();
            without.remove(id);
            verdict(now, partition_counts(topology, &without))
        } else {
            ("does not take part already".to_owned(), Tone::Quiet)
        };
        let glyph = match tone {
            Tone::Good => theme.glyphs.good,
            Tone::Bad => theme.glyphs.bad,
            Tone::Warn => theme.glyphs.warn,
            Tone::Quiet | Tone::Busy => theme.glyphs.pending,
        };
        vec![
            Cell::new(node_letter(i).to_string(), theme.node_style(i)),
            Cell::from(id.as_str()),
            Cell::from(format::count(holds as u64)),
            Cell::from(format::count(first as u64)),
            Cell::new(format!("{glyph} {text}"), theme.style(tone)),
        ]
    };
    let table = Table {
        columns: &COLUMNS,
        rows: view.ring.nodes.iter().enumerate().map(row).collect(),
        selected: None,
        sort: None,
        total: None,
    };
    table.render(buf, area, theme);
}

/// What stopping a node would change.
fn verdict(now: PartitionCounts, then: PartitionCounts) -> (String, Tone) {
    let lost = then.unavailable.saturating_sub(now.unavailable);
    let thinner = now.all_replicas.saturating_sub(then.all_replicas);
    if lost > 0 {
        let text = format!("{} below quorum: no reads, no writes", partitions(lost));
        (text, Tone::Bad)
    } else if thinner > 0 {
        let text = format!(
            "quorum holds everywhere; {} with a replica less",
            partitions(thinner)
        );
        (text, Tone::Good)
    } else if now.unavailable > 0 {
        let text = format!("{} closed already", partitions(now.unavailable));
        (text, Tone::Warn)
    } else {
        ("nothing changes".to_owned(), Tone::Good)
    }
}

fn partitions(n: u16) -> String {
    format::plural(usize::from(n), "partition")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_short() {
        assert_eq!(ranges(&[0, 1, 2, 12, 14, 15]), "0-2, 12, 14-15");
        assert_eq!(ranges(&[]), "");
        let odd: Vec<usize> = (0..100).map(|i| i * 2).collect();
        assert!(ranges(&odd).ends_with("46, …"));
    }
}
