//! Changes of the ring on the procedures screen: whom to choose, what exactly would move, and
//! how far the change under way is.

use std::time::Duration;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};
use ringmaster_shared::{
    api::ring::{Change, PlanResponse, PlannedShare},
    id::NodeId,
    topology::Table,
};

use super::{step::draw_step, view::View};
use crate::{
    app::ring_change::{Asked, Choosing, Planned, Run},
    change::{self, ChangeVerb},
    format,
    message::ChangeOrder,
    theme::{Theme, Tone, node_letter},
    widget::{
        self, Rows,
        strip::{Strip, StripRow, covers, majority},
    },
};

/// Cells of the labels left of a strip, and the margins.
const STRIP_MARGIN: usize = 13;
const STRIP_LABEL: usize = 10;

/// What the daemon is being asked, while it is.
pub fn asked_line(view: &View, asked: &Asked) -> Line<'static> {
    let theme = &view.theme;
    let ago = view.app.now_ms.saturating_sub(asked.since_ms);
    let ago = format::age(Duration::from_millis(ago));
    let what = match &asked.order {
        ChangeOrder::Plan(change) => format!("planning: {}", change::words(change)),
        ChangeOrder::Apply { change, .. } => format!("ordering: {}", change::words(change)),
    };
    let text = format!(" {} {what}, for {ago}", theme.glyphs.busy);
    Line::styled(text, theme.style(Tone::Busy))
}

pub fn draw_choosing(view: &View, choosing: &Choosing, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let title = Line::from(vec![
        Span::styled(format!(" {}", choosing.verb.title()), theme.bold()),
        Span::styled("   which? Enter shows what it would do", theme.quiet()),
    ]);
    rows.line(buf, &title);
    rows.skip(1);
    let room = usize::from(rows.left()).saturating_sub(6).max(1);
    let from = (choosing.selected + 1).saturating_sub(room);
    let shown = choosing.choices.iter().enumerate();
    for (i, change) in shown.skip(from).take(room) {
        let chosen = i == choosing.selected;
        let mark = if chosen { theme.glyphs.select } else { " " };
        let place = rows.take(1);
        let words = change::words(change);
        let room = usize::from(area.width).saturating_sub(format::width(&words) + 2);
        let facts = format::truncate(&facts(view, change), room, theme.glyphs.ellipsis);
        let mut line = Line::from(format!("{mark}{words}"));
        line.push_span(Span::styled(facts, theme.quiet()));
        widget::draw_line(buf, place, &line);
        if chosen {
            buf.set_style(place.intersection(buf.area), theme.selected());
        }
    }
    rows.skip(1);
    let room = usize::from(area.width).saturating_sub(4);
    for line in format::wrap(choosing.verb.about(), room, 0, 4) {
        rows.line(buf, &Line::styled(format!("   {line}"), theme.quiet()));
    }
}

/// What is known of the nodes a change names: zone, what they hold, since when they are gone.
fn facts(view: &View, change: &Change) -> String {
    let nodes: Vec<&NodeId> = match change {
        Change::Join { nodes } => nodes.iter().collect(),
        Change::Leave { node } | Change::Remove { node } => vec![node],
        Change::Replace { dead, with } => vec![dead, with],
        Change::Rebalance {} | Change::Cancel {} => vec![],
    };
    let members = view.cluster.members.as_ref();
    let ring = view.cluster.ring.as_ref();
    let mut facts = String::new();
    for id in nodes {
        let info = members.and_then(|m| m.value.cluster_members.get(id));
        let place = ring.and_then(|r| r.value.nodes.iter().find(|n| &n.id == id));
        let mut words: Vec<String> = Vec::new();
        if let Some(info) = info {
            let mark = view.theme.member(info.status, info.lifecycle);
            let since = format::age(format::between(info.status_since, view.app.utc));
            words.push(format!("{} for {since}", mark.word));
        }
        if let Some(place) = place {
            words.push(format!("holds {} partitions", place.replicas));
        }
        if let Some(zone) = info.map(|i| &i.zone).or(place.map(|p| &p.zone)) {
            words.push(format!("zone {zone}"));
        }
        facts = format!("{facts}   {id}: {}", words.join(", "));
    }
    facts
}

pub fn draw_plan(view: &View, planned: &Planned, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let title = ChangeVerb::of(&planned.change).title();
    let age = view.app.now_ms.saturating_sub(planned.received_ms);
    let age = format::age(Duration::from_millis(age));
    let base = planned.result.as_ref().ok().map(|p| p.base_epoch);
    let base = base.map_or(String::new(), |e| format!(" at epoch {e}"));
    let begun = if planned.in_doubt {
        "outcome not known"
    } else {
        "not begun"
    };
    rows.line(
        buf,
        &Line::from(vec![
            Span::styled(format!(" {title}"), theme.bold()),
            Span::styled(
                format!("   {begun}: planned {age} ago{base}"),
                theme.quiet(),
            ),
        ]),
    );
    if let Some(asked) = &view.app.procedures.change.asked {
        rows.line(buf, &asked_line(view, asked));
    } else {
        rows.skip(1);
    }
    let width = usize::from(area.width);
    let lines = match &planned.result {
        Ok(plan) => plan_lines(view, plan, planned.note.as_deref(), width),
        Err(why) => {
            let text = format!("{} {why}", theme.glyphs.bad);
            let mut lines = sentence(&text, width, theme.style(Tone::Bad));
            lines.push(Line::default());
            let again = " Enter asks again.";
            lines.push(Line::styled(again, theme.quiet()));
            lines
        }
    };
    let mut room = usize::from(rows.left());
    if lines.len() > room {
        // the last row says how much is below
        room = room.saturating_sub(1);
    }
    let top = view
        .app
        .procedures
        .scroll
        .clamped(lines.len().saturating_sub(room));
    let more = lines.len().saturating_sub(top + room);
    rows.lines(buf, lines.into_iter().skip(top).take(room));
    if more > 0 {
        let below = format::plural(more, "line");
        let text = format!("{} {below} more ", theme.glyphs.sort_down);
        widget::draw_right(buf, rows.take(1), &Line::styled(text, theme.quiet()), 0);
    }
}

/// Wrapped to the width, one cell in, with hanging lines.
fn sentence(text: &str, width: usize, style: Style) -> Vec<Line<'static>> {
    let lines = format::wrap(text, width.saturating_sub(3), 2, 6).into_iter();
    lines
        .map(|l| Line::styled(format!(" {l}"), style))
        .collect()
}

fn plan_lines(
    view: &View,
    plan: &PlanResponse,
    note: Option<&str>,
    width: usize,
) -> Vec<Line<'static>> {
    let theme = &view.theme;
    let mut lines = Vec::new();
    if let Some(note) = note {
        let text = format!("{} {note}", theme.glyphs.warn);
        lines.extend(sentence(&text, width, theme.style(Tone::Warn)));
    }
    lines.extend(sentence(&plan.summary, width, theme.bold()));
    let copies: usize = plan.copies.values().sum();
    let cost = format!(
        "{} of {} move, {}, about {}",
        format::count(plan.partitions_moved as u64),
        format::plural(plan.table.len(), "partition"),
        format::plural_of(copies, "replica copy", "replica copies"),
        format::bytes(plan.bytes_moved)
    );
    lines.extend(sentence(&cost, width, Style::new()));
    for risk in &plan.risks {
        let text = format!("{} {risk}", theme.glyphs.warn);
        lines.extend(sentence(&text, width, theme.style(Tone::Warn)));
    }
    lines.extend(verdict(view, plan, width));
    // where there is no such change, there is nothing to compare
    if plan.partitions_moved == 0 && !plan.obstacles.is_empty() {
        return lines;
    }
    lines.push(Line::default());
    lines.extend(share_lines(plan, theme));
    lines.push(Line::default());
    let strip = moves(&plan.members, &plan.table, &plan.target, width, theme);
    lines.extend(strip.lines(theme));
    lines
}

/// Whether it can be applied now, and if not, why.
fn verdict(view: &View, plan: &PlanResponse, width: usize) -> Vec<Line<'static>> {
    let theme = &view.theme;
    let ring = view.app.cluster.ring.as_ref();
    let epoch = ring.map(|r| r.value.epoch);
    let bad = |text: String| {
        let text = format!("{} {text}", theme.glyphs.bad);
        sentence(&text, width, theme.style(Tone::Bad))
    };
    let mut lines: Vec<Line> = plan.obstacles.iter().cloned().flat_map(bad).collect();
    if epoch.is_some_and(|e| e != plan.base_epoch) {
        let now = epoch.unwrap_or_default();
        lines.extend(bad(format!(
            "The ring is at epoch {now} by now; Enter plans anew."
        )));
    }
    if view.app.read_only {
        let text = "This console is read-only: it can be looked at, not begun.";
        lines.extend(sentence(text, width, theme.quiet()));
    }
    if lines.is_empty() {
        let text = format!("{} Nothing stands in the way.", theme.glyphs.good);
        lines = sentence(&text, width, theme.style(Tone::Good));
    }
    lines
}

/// Each member with what it holds now and then.
fn share_lines(plan: &PlanResponse, theme: &Theme) -> Vec<Line<'static>> {
    let mut ids: Vec<&NodeId> = plan.members.iter().collect();
    let named = plan.before.iter().chain(&plan.after).map(|s| &s.node_id);
    for id in named {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let wide = ids.iter().map(|id| format::width(id.as_str())).max();
    let wide = wide.unwrap_or(0).clamp(6, 24);
    let digits = plan.table.len().to_string().len().max(3);
    let pair = 2 * digits + 3;
    let head = format!(
        "   {}  {}  {}   {}  {}",
        format::left("MEMBER", wide),
        format::left("ZONE", 8),
        format::right("HOLDS", pair),
        format::right("FIRST OF", pair),
        format::right("COPIES", 7)
    );
    let mut lines = vec![Line::styled(head, theme.quiet())];
    for (i, id) in ids.into_iter().enumerate() {
        let of = |shares: &[PlannedShare]| shares.iter().find(|s| &s.node_id == id).cloned();
        let (before, after) = (of(&plan.before), of(&plan.after));
        let zone = before.as_ref().or(after.as_ref());
        let zone = zone.map_or(String::new(), |s| s.zone.clone());
        let now_then = |f: fn(&PlannedShare) -> usize| {
            let number = |s: &Option<PlannedShare>| match s {
                Some(s) => format::count(f(s) as u64),
                None => theme.glyphs.dash.to_owned(),
            };
            let arrow = theme.glyphs.arrow;
            format!(
                "{} {arrow} {}",
                format::right(&number(&before), digits),
                format::right(&number(&after), digits)
            )
        };
        let copies = plan.copies.get(id).copied().unwrap_or(0);
        let style = match (&before, &after) {
            (Some(_), None) => theme.style(Tone::Warn),
            (None, Some(_)) => theme.style(Tone::Busy),
            _ => Style::new(),
        };
        let fate = match (&before, &after) {
            (Some(_), None) => "  goes",
            (None, Some(_)) => "  comes",
            _ => "",
        };
        lines.push(Line::from(vec![
            Span::styled(format!(" {} ", node_letter(i)), theme.node_style(i)),
            Span::styled(format::left(id.as_str(), wide), style),
            Span::raw(format!(
                "  {}  {}   {}  {}",
                format::left(&zone, 8),
                format::right(&now_then(|s| s.replicas), pair),
                format::right(&now_then(|s| s.primaries), pair),
                format::right(&format::count(copies as u64), 7)
            )),
            Span::styled(fate, style),
        ]));
    }
    lines
}

/// The ring now, as it would be, and to whom copies are made, over the whole key space.
fn moves(members: &[NodeId], table: &Table, target: &Table, width: usize, theme: &Theme) -> Strip {
    let width = width.saturating_sub(STRIP_MARGIN).max(1);
    let owner = |i: Option<u16>| match i {
        Some(i) if usize::from(i) < members.len() => {
            let i = usize::from(i);
            (node_letter(i), theme.node_style(i))
        }
        _ => (' ', Style::new()),
    };
    let first = |table: &Table, cell: usize| {
        let (from, to) = covers(cell, width, table.len());
        let parts = table.get(from..to).unwrap_or_default();
        owner(majority(parts.iter().map(|r| r.first().copied())).flatten())
    };
    let copied = |cell: usize| {
        let (from, to) = covers(cell, width, table.len());
        let gained = (from..to).filter_map(|p| Some((table.get(p)?, target.get(p)?)));
        let gained = gained.flat_map(|(old, new)| new.iter().filter(|i| !old.contains(i)));
        match majority(gained.copied()) {
            Some(i) => owner(Some(i)),
            None => (dot(theme), theme.quiet()),
        }
    };
    let row = |label: &str, cells: Vec<(char, Style)>| StripRow {
        label: label.to_owned(),
        cells,
    };
    let all = |f: &dyn Fn(usize) -> (char, Style)| (0..width).map(f).collect::<Vec<_>>();
    let empty = table.is_empty();
    Strip {
        rows: if empty {
            Vec::new()
        } else {
            vec![
                row("1st now", all(&|c| first(table, c))),
                row("1st then", all(&|c| first(target, c))),
                row("copied to", all(&copied)),
            ]
        },
        label_width: STRIP_LABEL,
        width,
        caret: None,
    }
}

fn dot(theme: &Theme) -> char {
    theme.glyphs.dot.chars().next().unwrap_or('.')
}

/// The change under way, or the last one.
pub fn draw_run(view: &View, run: &Run, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let by = if run.ours {
        "ordered here"
    } else {
        "not ordered here"
    };
    let started = format::clock(run.started);
    let ago = format::age(format::between(run.started, view.app.utc));
    rows.line(
        buf,
        &Line::from(vec![
            Span::styled(" Ring change", theme.bold()),
            Span::raw(format!("   {}   ", change::words(run.change()))),
            Span::styled(format!("{by}, {started} UTC, {ago} ago"), theme.quiet()),
        ]),
    );
    rows.skip(1);
    for step in &run.steps {
        draw_step(view, step, 12, buf, rows.take(1));
    }
    rows.skip(1);
    let stale = view.fresh(view.cluster.ring.as_ref()).stale;
    match &run.outcome {
        Some(Ok(text)) => {
            let text = format!("{} {text}", theme.glyphs.good);
            let lines = sentence(&text, area.width.into(), theme.style(Tone::Good));
            rows.lines(buf, lines);
        }
        Some(Err(text)) => {
            let text = format!("{} {text}", theme.glyphs.bad);
            rows.lines(
                buf,
                sentence(&text, area.width.into(), theme.style(Tone::Bad)),
            );
        }
        None if stale => {
            let text = format!("{} This is the last that was heard.", theme.glyphs.warn);
            rows.lines(
                buf,
                sentence(&text, area.width.into(), theme.style(Tone::Warn)),
            );
        }
        None => draw_moving(view, buf, &mut rows),
    }
}

/// Where it is going, partition by partition, and who is being waited for.
fn draw_moving(view: &View, buf: &mut Buffer, rows: &mut Rows) {
    let theme = &view.theme;
    let Some(ring) = view.cluster.ring.as_ref().map(|r| &r.value) else {
        return;
    };
    let Some(transition) = &ring.transition else {
        return;
    };
    let width = usize::from(rows.rest().width);
    let ids: Vec<NodeId> = ring.nodes.iter().map(|n| n.id.clone()).collect();
    let strip = moves(&ids, &ring.table, &transition.target, width, theme);
    rows.lines(buf, strip.lines(theme));
    let mut legend = Line::from(" ");
    for (i, node) in ring.nodes.iter().enumerate() {
        let fate = match (node.joining, node.leaving) {
            (true, _) => " comes",
            (_, true) => " goes",
            _ => "",
        };
        legend.push_span(Span::styled(
            format!("{} ", node_letter(i)),
            theme.node_style(i),
        ));
        legend.push_span(Span::styled(format!("{}{fate}   ", node.id), theme.quiet()));
    }
    rows.line(buf, &legend);
    rows.skip(1);
    let up = view.cluster.available();
    let silent: Vec<NodeId> = ids.into_iter().filter(|id| !up.contains(id)).collect();
    if !silent.is_empty() {
        let text = format!(
            "{} {} not answering: what it is to acknowledge waits for it. It goes on by itself \
             when the node is back; c gives the change up.",
            theme.glyphs.warn,
            are(&silent)
        );
        rows.lines(buf, sentence(&text, width, theme.style(Tone::Warn)));
    }
}

/// `a is`, `a and b are`.
fn are(ids: &[NodeId]) -> String {
    let verb = if ids.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", change::list(ids))
}
