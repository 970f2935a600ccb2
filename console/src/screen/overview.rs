//! One look: is it well, and if not, what is wrong, since when, and what can be done.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Modifier,
    text::{Line, Span},
};
use ringmaster_shared::{
    member::{Lifecycle, MemberStatus},
    quorum::ClusterHealth,
};

use super::{events, member_table::MemberTable, view::View};
use crate::{
    change::{candidates, seen, transition, words},
    format,
    link::{EndpointView, Way},
    theme::Tone,
    widget::{self, Rows, spark},
};

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let fresh = view.fresh(view.cluster.members.as_ref());
    let airy = area.height >= 22;
    let head = health_line(view, fresh.stale, area.width);
    widget::heading(buf, rows.take(1), head, fresh, theme);
    if airy {
        rows.skip(1);
    }
    let table = MemberTable::new(view);
    // the rest of the picture needs nine lines; a long table scrolls
    let room = rows.left().saturating_sub(9).max(4);
    let below = filter_line(view, &table);
    table.render(view, buf, rows.take(table.height().min(room)));
    if let Some(line) = below {
        rows.line(buf, &line);
    }
    rows.skip(1);
    draw_ring(view, buf, &mut rows);
    draw_load(view, buf, &mut rows);
    rows.skip(1);
    draw_events(view, buf, &mut rows);
    if fresh.stale {
        let body = Rect {
            y: area.y + 1,
            height: area.height.saturating_sub(1),
            ..area
        };
        widget::dim(buf, body);
    }
}

/// `/text` stays in sight while it hides rows.
pub(super) fn filter_line(view: &View, table: &MemberTable) -> Option<Line<'static>> {
    let filter = &view.app.members.filter;
    (!filter.is_empty()).then(|| {
        let shown = format!(
            " filter /{filter}   {} shown   Esc clears",
            format::plural(table.len(), "node")
        );
        Line::styled(shown, view.theme.quiet())
    })
}

/// `▲ degraded   2 of 3 serving   epoch 5 agreed by all   256 partitions: 0 full · …`; what is
/// stale is told as what was.
fn health_line(view: &View, stale: bool, width: u16) -> Line<'static> {
    let theme = &view.theme;
    // who sees only itself cannot tell how the others are
    let blind = view.cluster.lonely_viewer(view.app.now_ms).is_some();
    let counts = view.cluster.partition_counts().filter(|_| !blind);
    let health = counts.map(|c| c.health());
    let (glyph, word, tone) = match health {
        None if blind => (theme.glyphs.pending, "health not known", Tone::Quiet),
        Some(ClusterHealth::Healthy) => (theme.glyphs.good, "healthy", Tone::Good),
        Some(ClusterHealth::Degraded) => (theme.glyphs.warn, "degraded", Tone::Warn),
        Some(ClusterHealth::Unavailable) => (theme.glyphs.bad, "unavailable", Tone::Bad),
        None => (theme.glyphs.pending, "no ring known", Tone::Quiet),
    };
    let (glyph, word, tone) = if stale {
        (theme.glyphs.pending, format!("was {word}"), Tone::Quiet)
    } else {
        (glyph, word.to_owned(), tone)
    };
    let narrow = width < 100 || stale;
    let gap = if narrow { "  " } else { "   " };
    let mut line = Line::from(Span::styled(
        format!("{glyph} {word}"),
        theme.style(tone).add_modifier(Modifier::BOLD),
    ));
    let mut add = |text: String| line.push_span(Span::styled(text, theme.plain().not_bold()));
    if let Some(members) = &view.cluster.members {
        let all = &members.value.cluster_members;
        let serving = |s: MemberStatus, l: Lifecycle| s.is_reachable() && l == Lifecycle::Serving;
        let n = all
            .values()
            .filter(|m| serving(m.status, m.lifecycle))
            .count();
        add(format!("{gap}{n} of {} serving", all.len()));
        let answers = view.cluster.nodes.values();
        let answers = answers.filter_map(|n| n.answer(view.app.now_ms));
        let full = answers.filter(|s| s.storage.read_only).count();
        if full > 0 {
            add(format!(", {full} read-only"));
        }
        let waiting = candidates(view.cluster).len();
        if waiting > 0 {
            add(format!(", {}", format::plural(waiting, "candidate")));
        }
    }
    let known = view.cluster.members.is_some() && (width >= 100 || !stale);
    let epoch = known.then(|| format!("{gap}{}", epoch_words(view, narrow)));
    let mut places = None;
    if let Some(c) = counts {
        let (dot, all, quorum) = (theme.glyphs.dot, c.all_replicas, c.quorum - c.all_replicas);
        let (of, at) = if narrow {
            (String::new(), "quorum")
        } else {
            (format!("{} partitions: ", c.total), "at quorum")
        };
        // not "lost": they are closed, and what they hold is still there
        places = Some(format!(
            "{gap}{of}{all} full {dot} {quorum} {at} {dot} {} below",
            c.unavailable
        ));
    }
    // what is cut off for want of room is the epoch, never how many are below quorum
    let parts = if narrow {
        [places, epoch]
    } else {
        [epoch, places]
    };
    parts.into_iter().flatten().for_each(add);
    line
}

fn epoch_words(view: &View, narrow: bool) -> String {
    let Some(topology) = &view.cluster.topology else {
        return String::new();
    };
    let epoch = topology.epoch;
    let members = view
        .cluster
        .members
        .iter()
        .flat_map(|m| m.value.cluster_members.values());
    let (alive, silent): (Vec<_>, Vec<_>) = members.partition(|m| m.status == MemberStatus::Alive);
    let behind = alive.iter().filter(|m| m.ring_epoch != epoch).count();
    let agreed = match (behind, narrow) {
        (0, true) => String::new(),
        (0, false) if silent.is_empty() => " agreed by all".to_owned(),
        (0, false) => format!(" agreed by {} alive", alive.len()),
        (n, _) => format!(", {n} differ"),
    };
    let moving = match transition(view.cluster) {
        Some(_) if narrow => ", changing".to_owned(),
        Some(t) => format!(", {}", words(&seen(t))),
        None => String::new(),
    };
    format!("epoch {epoch}{agreed}{moving}")
}

fn draw_ring(view: &View, buf: &mut Buffer, rows: &mut Rows) {
    if view.ring.is_empty() {
        let line = Line::styled(" The ring has not arrived yet.", view.theme.quiet());
        rows.line(buf, &line);
        return;
    }
    let width = usize::from(rows.rest().width).saturating_sub(13);
    let selected = view.app.ring.highlight.as_ref();
    let selected = selected.and_then(|id| view.ring.index_of(id));
    let strip = view
        .ring
        .strip(&[(0, "ring")], width, selected, &view.theme);
    strip.render(buf, rows.take(strip.height()), &view.theme);
}

fn draw_load(view: &View, buf: &mut Buffer, rows: &mut Rows) {
    let width = usize::from(rows.rest().width);
    let totals = &view.cluster.totals;
    let numbers = |read: fn(&ringmaster_shared::member::Load) -> u64| -> Vec<f64> {
        let series = totals.series(read).into_iter();
        series.map(|v| v.map_or(f64::NAN, |v| v as f64)).collect()
    };
    // where nothing was asked there is no time to show
    let times = numbers(|l| l.p99_us.into()).into_iter();
    let times = times.map(|v| if v > 0.0 { v } else { f64::NAN }).collect();
    let whole: fn(f64) -> String = |v| format::count(format::whole(v));
    let millis: fn(f64) -> String = |v| format::ms_from_us(format::whole(v) as u32);
    let series = [
        ("writes/s", numbers(|l| l.puts_per_s.into()), whole),
        ("reads/s", numbers(|l| l.gets_per_s.into()), whole),
        ("p99 ms", times, millis),
        ("hints", numbers(|l| l.hints.into()), whole),
    ];
    // label, gap, number and gap take 21 cells; as many as fit with a line worth looking at
    let shown = (width / 38).clamp(1, series.len());
    let each = (width.saturating_sub(1) / shown).saturating_sub(21).min(60);
    let mut line = Line::from(" ");
    for (label, samples, number) in series.iter().take(shown) {
        let spans = spark::labelled(label, samples, *number, each, &view.theme);
        line.spans.extend(spans);
        line.push_span(Span::raw("   "));
    }
    rows.line(buf, &line);
}

fn draw_events(view: &View, buf: &mut Buffer, rows: &mut Rows) {
    let room = usize::from(rows.left());
    let width = usize::from(rows.rest().width);
    let entries = events::entries(view);
    for entry in entries.iter().rev().take(room) {
        rows.lines(buf, entry.lines(view, width, 1));
    }
    if entries.is_empty() {
        rows.line(buf, &Line::styled(" No events yet.", view.theme.quiet()));
    }
}

/// Nothing was ever heard: what was tried, what came back, and what to do.
pub fn draw_never_connected(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    rows.skip(1);
    let head = Span::styled(
        format!(" {} No node has answered yet.", theme.glyphs.bad),
        theme.style(Tone::Bad),
    );
    rows.line(buf, &Line::from(head));
    rows.skip(1);
    rows.line(
        buf,
        &Line::styled(" Tried, again and again:", theme.quiet()),
    );
    let room = usize::from(rows.left().saturating_sub(9));
    let endpoints = &view.app.link.endpoints;
    let wide = endpoints.iter().map(|e| e.address.len()).max().unwrap_or(0);
    for endpoint in endpoints.iter().take(room) {
        rows.line(buf, &endpoint_line(view, endpoint, wide));
    }
    if endpoints.is_empty() {
        rows.line(buf, &Line::raw("   no endpoint is configured"));
    }
    rows.skip(1);
    let width = usize::from(area.width).saturating_sub(4);
    let advice = [
        (false, "Start a first node:"),
        (
            true,
            "ringd --node-id=node-1 --port=8081 --data-dir=./data/node-1",
        ),
        (false, "and further ones with a seed:"),
        (
            true,
            "ringd --node-id=node-2 --port=8082 --data-dir=./data/node-2 \
             --seed-node=localhost:8081",
        ),
        (false, "Or say where one runs, or try three at once:"),
        (true, "ringmaster --endpoint HOST:PORT"),
        (true, "ringmaster demo"),
        (
            false,
            "This screen fills by itself as soon as a node answers; r tries now.",
        ),
    ];
    for (is_command, text) in advice {
        if is_command {
            let lines = format::wrap_command(text, width).into_iter();
            rows.lines(
                buf,
                lines.map(|l| Line::styled(format!("   {l}"), theme.bold())),
            );
        } else {
            rows.line(buf, &Line::styled(format!(" {text}"), theme.quiet()));
        }
    }
}

fn endpoint_line(view: &View, endpoint: &EndpointView, wide: usize) -> Line<'static> {
    let theme = &view.theme;
    let trying = endpoint.ws == Way::Trying || endpoint.rest == Way::Trying;
    let (glyph, tone) = match (trying, &endpoint.last_error) {
        (true, _) => (theme.glyphs.busy, Tone::Busy),
        (false, Some(_)) => (theme.glyphs.bad, Tone::Bad),
        (false, None) => (theme.glyphs.pending, Tone::Quiet),
    };
    let why = match &endpoint.last_error {
        Some(error) => format::printable(error),
        None if trying => "trying".to_owned(),
        None => "not tried yet".to_owned(),
    };
    Line::from(vec![
        Span::styled(format!("   {glyph} "), theme.style(tone)),
        Span::raw(format::left(&endpoint.address, wide.min(40))),
        Span::raw(format!("   {why}")),
    ])
}
