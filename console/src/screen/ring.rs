//! The ring: circle for orientation, strip as the main view, ownership in numbers, a key's place.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use ringmaster_shared::{api::ring::RingNode, key::first_hash_of, topology::Step};

use super::{quorum::replicas, view::View};
use crate::{
    change, format,
    theme::{Tone, node_letter},
    widget::{
        self, Rows,
        circle::{Circle, Slice},
        table::{Cell, Column, Table},
    },
};

const COLUMNS: [Column; 8] = [
    Column::left("", 1, 0),
    Column::left("NODE", 8, 0).at_most(24),
    Column::right("OWNS", 8, 1),
    Column::right("DELTA", 6, 5),
    Column::right("HOLDS", 6, 2),
    Column::right("FIRST OF", 8, 3),
    Column::left("", 12, 4),
    Column::left("STATE", 12, 3),
];

/// Cells of the bar that shows a node's share.
const BAR: usize = 12;
/// Terminals at least so large get the circle.
const CIRCLE_WIDTH: u16 = 110;
const CIRCLE_HEIGHT: u16 = 32 - 5;

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let known = view.cluster.ring.as_ref();
    let fresh = view.fresh(known);
    if view.ring.is_empty() {
        widget::heading(buf, rows.take(1), "Ring", fresh, theme);
        let line = Line::styled(" The ring has not arrived yet.", theme.quiet());
        rows.line(buf, &line);
        return;
    }
    widget::heading(buf, rows.take(1), title(view), fresh, theme);
    let body = rows.rest();
    let with_circle = area.width >= CIRCLE_WIDTH && area.height >= CIRCLE_HEIGHT;
    if with_circle {
        // strip with its caret, the line under it, and the table come below
        let moving = u16::from(change::transition(view.cluster).is_some());
        let below = view.ring.ranks() as u16 + 2 + 1 + 1 + moving;
        let height = rows.left().saturating_sub(below);
        let top = rows.take(height);
        let wide = (top.height * 2).min(top.width / 2);
        let place = Rect {
            x: top.x + 1,
            width: wide,
            ..top
        };
        draw_circle(view, buf, place);
        let beside = Rect {
            x: top.x + wide + 3,
            width: top.width - wide - 3,
            ..top
        };
        draw_beside(view, buf, beside);
    }
    draw_strip(view, buf, &mut rows);
    if !with_circle {
        rows.lines(buf, cursor_lines(view));
        rows.skip(1);
        draw_table(view, buf, rows.rest());
    }
    if fresh.stale {
        widget::dim(buf, body);
    }
}

fn title(view: &View) -> String {
    let Some(topology) = &view.cluster.topology else {
        return "Ring".to_owned();
    };
    let nodes = format::plural(view.ring.nodes.len(), "node");
    let changing = topology.transition.as_ref().map(|t| {
        let pairs = t.target.iter().zip(&topology.table);
        let moving = pairs.filter(|(a, b)| a != b).count();
        let step = match t.step {
            Step::Filling => "new replicas are being filled",
            Step::Dual => "reads ask old and new",
        };
        let why = view.cluster.ring.as_ref();
        let why = why.and_then(|r| r.value.transition.as_ref());
        let why = why.map_or(String::new(), |t| change::words(&change::seen(t)));
        format!("; {why}: {moving} are moving, {step}")
    });
    format!(
        "Ring epoch {}, {} partitions on {nodes}{}",
        topology.epoch,
        topology.partition_count(),
        changing.unwrap_or_default()
    )
}

/// The partition that marks are put on: that of the key looked for, or the cursor's.
fn marked(view: &View) -> u16 {
    let located = view.app.ring.located.as_ref();
    located.map_or(view.app.ring.cursor, |l| l.partition)
}

/// The node whose places are bright: the chosen one, or the first replica under the cursor.
fn bright(view: &View) -> Option<usize> {
    let chosen = view.app.ring.highlight.as_ref();
    chosen.and_then(|id| view.ring.index_of(id))
}

fn draw_circle(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let at = marked(view);
    let under = view.ring.parts.get(usize::from(at));
    let node = bright(view).or(under.and_then(|p| p.replicas.first().copied()));
    let slices: Vec<Slice> = view
        .ring
        .parts
        .iter()
        .map(|p| {
            let owner = p.replicas.first().copied();
            Slice {
                owner,
                hollow: owner.is_some_and(|i| !view.ring.up[i]),
                inner: node.is_some_and(|n| p.replicas.contains(&n)),
            }
        })
        .collect();
    let count = slices.len().max(1) as f64;
    let mut center = vec![Line::styled(format!("partition {at}"), theme.bold())];
    if let Some(part) = under {
        center.push(Line::raw(format!(
            "{} of {} live",
            part.live,
            part.replicas.len()
        )));
    }
    let places = Circle::places(area);
    if slices.len() > places {
        center.push(Line::default());
        center.push(Line::styled(
            format!("{} drawn as {places}", slices.len()),
            theme.quiet(),
        ));
    }
    let circle = Circle {
        slices: &slices,
        inner_node: node,
        caret: Some((f64::from(at) + 0.5) / count),
        center,
    };
    circle.render(buf, area, theme);
}

/// Right of the circle: the table of owners, and what is under the cursor.
fn draw_beside(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    rows.skip(1);
    let lines = 4;
    let wanted = view.ring.nodes.len() as u16 + 2;
    let height = wanted.min(rows.left().saturating_sub(lines + 4));
    draw_table(view, buf, rows.take(height));
    rows.skip(1);
    rows.lines(buf, cursor_lines(view));
    rows.skip(1);
    let first = format!(
        "{} the start of the key space is at twelve o'clock",
        theme.glyphs.dot
    );
    let name = bright(view).or_else(|| {
        let part = view.ring.parts.get(usize::from(marked(view)))?;
        part.replicas.first().copied()
    });
    let name = name.map_or("the node", |i| view.ring.nodes[i].as_str());
    let second = format!(
        "{} inner ring: where {name} holds a replica",
        theme.glyphs.dot
    );
    let third = format!(
        "{} thin band: its first replica does not answer",
        theme.glyphs.dot
    );
    for text in [first, second, third] {
        rows.line(buf, &Line::styled(format!(" {text}"), theme.quiet()));
    }
}

/// The key or partition under the cursor, its slice of the hash space, and its replicas in order.
fn cursor_lines(view: &View) -> Vec<Line<'static>> {
    let theme = &view.theme;
    let at = marked(view);
    let Some(part) = view.ring.parts.get(usize::from(at)) else {
        return Vec::new();
    };
    let count = view.ring.parts.len() as u16;
    let mut head = Line::from(" ");
    let (label, name, rest) = match &view.app.ring.located {
        Some(l) => (
            "key ",
            format::truncate(&format::printable(&l.key), 32, theme.glyphs.ellipsis),
            format!("  hash {:016x}  partition {at}", l.hash),
        ),
        None => (
            "partition ",
            at.to_string(),
            format!("  from hash {:016x}", first_hash_of(at, count)),
        ),
    };
    head.push_span(Span::styled(label, theme.quiet()));
    head.push_span(Span::styled(name, theme.bold()));
    head.push_span(Span::styled(rest, theme.quiet()));
    let mut list = Line::from(Span::styled(" replicas  ", theme.quiet()));
    list.spans.extend(replicas(view, part));
    vec![head, list]
}

fn draw_strip(view: &View, buf: &mut Buffer, rows: &mut Rows) {
    const LABELS: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];
    let width = usize::from(rows.rest().width).saturating_sub(13);
    let ranks: Vec<(usize, &str)> = LABELS
        .iter()
        .enumerate()
        .take(view.ring.ranks())
        .map(|(i, l)| (i, *l))
        .collect();
    let mut strip = view.ring.strip(&ranks, width, bright(view), &view.theme);
    strip.rows.extend(view.ring.incoming(width, &view.theme));
    strip.caret = Some(view.ring.cell_of(marked(view), width));
    strip.render(buf, rows.take(strip.height()), &view.theme);
}

fn draw_table(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let Some(ring) = view.cluster.ring.as_ref().map(|r| &r.value) else {
        return;
    };
    let settled = ring.nodes.iter().filter(|n| !n.joining).count().max(1);
    let ideal = 100.0 / settled as f64;
    let row = |(i, node): (usize, &RingNode)| {
        let filled = format::whole(node.owns_percent / 100.0 * BAR as f64).min(BAR as u64) as usize;
        let bar = format!(
            "{}{}",
            theme.glyphs.bar_full.repeat(filled),
            theme.glyphs.bar_empty.repeat(BAR - filled)
        );
        let member = view.cluster.members.as_ref();
        let member = member.and_then(|m| m.value.cluster_members.get(&node.id));
        let moves = node.joining || node.leaving;
        let state = match member {
            Some(m) if moves && m.status.is_reachable() => {
                let mark = theme.moves(node.joining);
                Cell::new(
                    format!("{} {}", mark.glyph, mark.word),
                    theme.style(mark.tone),
                )
            }
            Some(m) => {
                let mark = theme.member(m.status, m.lifecycle);
                Cell::new(
                    format!("{} {}", mark.glyph, mark.word),
                    theme.style(mark.tone),
                )
            }
            None => Cell::new("unknown", theme.style(Tone::Quiet)),
        };
        let delta = if moves {
            theme.glyphs.dash.to_owned()
        } else {
            format!("{:+.1}", round(node.owns_percent) - round(ideal))
        };
        vec![
            Cell::new(node_letter(i).to_string(), theme.node_style(i)),
            Cell::from(node.id.as_str()),
            Cell::from(format::percent(round(node.owns_percent))),
            Cell::new(delta, theme.quiet()),
            Cell::from(format::count(node.replicas as u64)),
            Cell::from(format::count(node.primaries as u64)),
            Cell::new(bar, theme.node_style(i)),
            state,
        ]
    };
    let sum =
        |f: fn(&RingNode) -> usize| format::count(ring.nodes.iter().map(f).sum::<usize>() as u64);
    let owns: f64 = ring.nodes.iter().map(|n| n.owns_percent).sum();
    let total = vec![
        Cell::default(),
        Cell::from("total"),
        Cell::from(format::percent(owns)),
        Cell::default(),
        Cell::from(sum(|n| n.replicas)),
        Cell::from(sum(|n| n.primaries)),
    ];
    let selected = bright(view);
    let table = Table {
        columns: &COLUMNS,
        rows: ring.nodes.iter().enumerate().map(row).collect(),
        selected,
        sort: None,
        total: Some(total),
    };
    table.render(buf, area, theme);
}

fn round(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}
