//! Who is in the cluster, one of them in detail, and who sees whom.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use ringmaster_shared::{api::health::GossipHealth, member::MemberStatus};

use super::{
    matrix,
    member_table::{MemberTable, mark},
    overview::filter_line,
    view::View,
};
use crate::{
    app::rows::MemberRow,
    format,
    theme::{Theme, Tone},
    widget::{self, Rows},
};

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
    if view.app.members.matrix {
        return matrix::draw(view, buf, area, true);
    }
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let fresh = view.fresh(view.cluster.members.as_ref());
    let members = view.cluster.members.as_ref().map(|m| &m.value);
    let title = members.map_or("Members".to_owned(), |m| {
        format!(
            "{}, {} alive, as {} sees them",
            format::plural(m.total_members, "member"),
            m.alive_members,
            m.current_node
        )
    });
    widget::heading(buf, rows.take(1), title, fresh, theme);
    let table = MemberTable::new(view);
    let room = (rows.left() / 2).max(3);
    let place = rows.take(table.height().min(room));
    table.render(view, buf, place);
    if fresh.stale {
        widget::dim(buf, place);
    }
    if let Some(line) = filter_line(view, &table) {
        rows.line(buf, &line);
    }
    match table.selected().and_then(|row| why(view, row)) {
        Some(line) => rows.line(buf, &line),
        None => rows.skip(1),
    }
    let rest = rows.rest();
    if view.app.members.open.is_some() && !View::is_roomy(area) {
        draw_detail(view, buf, rest, table.selected());
    } else if rest.width >= 100 {
        // more than it needs would be taken from the matrix
        let left = (rest.width / 2).min(58);
        let detail = Rect {
            width: left,
            ..rest
        };
        let right = Rect {
            x: rest.x + left,
            width: rest.width - left,
            ..rest
        };
        draw_detail(view, buf, detail, table.selected());
        matrix::draw(view, buf, right, false);
    } else {
        matrix::draw(view, buf, rest, false);
    }
}

/// Why the selected member is held as it is, when it is not simply well.
fn why(view: &View, row: &MemberRow) -> Option<Line<'static>> {
    let members = view.cluster.members.as_ref()?;
    let info = members.value.cluster_members.get(&row.id)?;
    let current = &members.value.current_node;
    let (reason, tone) = match (&info.reason, row.own_udp_blocked_since) {
        (Some(reason), _) if info.status == MemberStatus::Dead => (reason.clone(), Tone::Bad),
        (Some(reason), _) => (reason.clone(), Tone::Warn),
        (None, Some(_)) => {
            let text = "nobody answers it over UDP: its own UDP is blocked, both ways or one";
            (text.to_owned(), Tone::Warn)
        }
        (None, None) if row.udp_blocked => {
            let text = format!("answers {current} over TCP only; is UDP blocked between them?");
            (text, Tone::Warn)
        }
        (None, None) => return None,
    };
    let mark = mark(view, row);
    let glyph = Span::styled(format!(" {} ", mark.glyph), view.theme.style(tone));
    let text = format!("{}: {}", row.id, format::printable(&reason));
    Some(Line::from(vec![glyph, Span::raw(text)]))
}

fn draw_detail(view: &View, buf: &mut Buffer, area: Rect, row: Option<&MemberRow>) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let Some(row) = row else {
        rows.line(buf, &Line::styled(" No node is selected.", theme.quiet()));
        return;
    };
    let node = view.cluster.nodes.get(&row.id);
    let known = node.and_then(|n| n.status.as_ref());
    let fresh = view.fresh(known);
    let current = if row.is_current {
        ", this console's node"
    } else {
        ""
    };
    widget::heading(
        buf,
        rows.take(1),
        format!("{}{current}", row.id),
        fresh,
        theme,
    );
    let body = rows.rest();
    let info = view.cluster.members.as_ref();
    let info = info.and_then(|m| m.value.cluster_members.get(&row.id));
    let mut pairs: Vec<(&str, String)> = Vec::new();
    let state = mark(view, row);
    // since when its disk is full or it moves gossip does not know
    let told = !row.read_only && row.moves.is_none();
    let since = row.status_since.filter(|_| told).map(|t| {
        let ago = format::age(format::between(t, view.app.utc));
        format!(", for {ago}")
    });
    pairs.push((
        "state",
        format!(
            "{} {}{}",
            state.glyph,
            state.word,
            since.unwrap_or_default()
        ),
    ));
    if let Some(reason) = info.and_then(|i| i.reason.as_ref()) {
        pairs.push(("why", format::printable(reason)));
    }
    if let Some(since) = row.own_udp_blocked_since {
        let ago = format::age(format::between(since, view.app.utc));
        let text = format!("{} its own is blocked, for {ago}", theme.glyphs.warn);
        pairs.push(("UDP", text));
    } else if let Some(m) = view.cluster.members.as_ref()
        && row.udp_blocked
    {
        let current = &m.value.current_node;
        let text = format!("{} {current} reaches it over TCP only", theme.glyphs.warn);
        pairs.push(("UDP", text));
    }
    if let Some(gossip) = known.and_then(|k| k.value.gossip.as_ref()) {
        pairs.extend(health(gossip, usize::from(area.width), theme));
    }
    pairs.push(("address", format!("{}   zone {}", row.address, row.zone)));
    if let Some(info) = info {
        // the feed tells of changes, not of every heartbeat: of a member that lives it would be old
        if info.status != MemberStatus::Alive {
            let heard = format::age(format::between(info.last_seen, view.app.utc));
            pairs.push(("last heard", format!("{heard} ago")));
        }
        pairs.push((
            "life",
            format!(
                "generation {}, incarnation {}",
                info.generation, info.incarnation
            ),
        ));
        pairs.push((
            "ring",
            format!("epoch {}, digest {}", info.ring_epoch, info.ring_digest),
        ));
    }
    if let Some(error) = node.and_then(|n| n.error.as_ref()) {
        let ago = view.app.now_ms.saturating_sub(error.since_ms);
        let ago = format::age(std::time::Duration::from_millis(ago));
        let message = format::printable(&error.message);
        pairs.push(("REST", format!("{} {message}, for {ago}", theme.glyphs.bad)));
    }
    if let Some(status) = known.map(|k| &k.value) {
        let s = &status.storage;
        pairs.push((
            "views",
            format!(
                "{} alive of {}, digest {}",
                status.replication.alive_nodes,
                status.replication.total_nodes,
                status.cluster.membership_digest
            ),
        ));
        if let Some(waiting) = &status.node.waiting_for {
            pairs.push(("waits for", format::printable(waiting)));
        }
        pairs.push((
            "storage",
            format!(
                "{}, {}, {}{}",
                format::plural(s.key_count as usize, "key"),
                format::plural(s.tombstones as usize, "tombstone"),
                format::bytes(s.bytes_on_disk),
                s.disk_free_bytes
                    .map_or(String::new(), |b| format!(", {} free", format::bytes(b)))
            ),
        ));
        if s.read_only {
            let why = s
                .read_only_reason
                .as_deref()
                .unwrap_or("its disk is nearly full");
            let why = format!("{} {}", theme.glyphs.warn, format::printable(why));
            let room = usize::from(area.width).saturating_sub(14);
            let lines = format::wrap(&why, room, 2, 3).into_iter();
            let labels = std::iter::once("read only").chain(std::iter::repeat(""));
            pairs.extend(labels.zip(lines));
        }
        let owed: Vec<String> = s
            .hints_owed
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(to, n)| format!("{} for {to}", format::count(*n)))
            .collect();
        let owed = if owed.is_empty() {
            "none".to_owned()
        } else {
            owed.join(", ")
        };
        pairs.push(("hints kept", owed));
        let dirty = s.dirty_partitions.iter().filter(|(_, n)| **n > 0);
        let dirty: Vec<String> = dirty
            .map(|(with, n)| format!("{} with {with}", format::plural(*n as usize, "partition")))
            .collect();
        if !dirty.is_empty() {
            pairs.push(("to compare", dirty.join(", ")));
        }
        if !s.tombstones_wait_for.is_empty() {
            let who = crate::change::list(&s.tombstones_wait_for);
            pairs.push(("deletions", format!("wait for {who} to confirm")));
        }
        pairs.push((
            "process",
            format!(
                "pid {}, version {} ({})",
                status.node.pid, status.node.version, status.node.commit
            ),
        ));
    }
    for (label, value) in pairs {
        let label = Span::styled(format!(" {}", format::left(label, 11)), theme.quiet());
        rows.line(
            buf,
            &Line::from(vec![label, Span::raw(value)]).into_clipped(area.width),
        );
    }
    if fresh.stale {
        widget::dim(buf, body);
    }
}

/// What the node's own gossip engine says of itself.
fn health(gossip: &GossipHealth, width: usize, theme: &Theme) -> Vec<(&'static str, String)> {
    let mut pairs = Vec::new();
    if gossip.health_score == 0 {
        pairs.push(("health", "0, it answers in time".to_owned()));
    } else {
        let why = gossip.health_reasons.first().map_or("", String::as_str);
        let text = format!("{} {}: {why}", theme.glyphs.warn, gossip.health_score);
        let lines = format::wrap(&format::printable(&text), width.saturating_sub(14), 2, 3);
        let labels = std::iter::once("health").chain(std::iter::repeat(""));
        pairs.extend(labels.zip(lines));
    }
    for seed in &gossip.seeds_unreachable {
        let text = format!("{} {seed} does not answer", theme.glyphs.warn);
        pairs.push(("seed", format::printable(&text)));
    }
    pairs
}

trait Clipped {
    fn into_clipped(self, width: u16) -> Self;
}

impl Clipped for Line<'static> {
    /// Cuts the last span so that one cell stays free on the right.
    fn into_clipped(mut self, width: u16) -> Self {
        let over = (self.width() + 1).saturating_sub(usize::from(width));
        if over > 0
            && let Some(last) = self.spans.last_mut()
        {
            let keep = last.width().saturating_sub(over);
            last.content = format::truncate(&last.content, keep, "…").into();
        }
        self
    }
}
