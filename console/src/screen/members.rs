//! Who is in the cluster, one of them in detail, and who sees whom.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use ringmaster_shared::{api::membership::ObservationsResponse, id::NodeId, member::MemberStatus};

use super::{
    View,
    member_table::{MemberTable, mark},
    overview::filter_line,
};
use crate::{
    app::rows::MemberRow,
    format,
    theme::{Tone, node_letter},
    widget::{self, Rows},
};

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
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
    rows.skip(1);
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
        let matrix = Rect {
            x: rest.x + left,
            width: rest.width - left,
            ..rest
        };
        draw_detail(view, buf, detail, table.selected());
        draw_matrix(view, buf, matrix);
    } else {
        draw_matrix(view, buf, rest);
    }
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

/// Rows see, columns are seen. A column on which the living disagree is marked.
fn draw_matrix(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let fresh = view.fresh(view.cluster.observations.as_ref());
    widget::heading(buf, rows.take(1), "Who sees whom", fresh, theme);
    let body = rows.rest();
    let Some(known) = &view.cluster.observations else {
        rows.line(
            buf,
            &Line::styled(" No observations have arrived yet.", theme.quiet()),
        );
        return;
    };
    let seen = &known.value;
    let targets = targets(seen);
    let name_width = targets.iter().map(|n| format::width(n.as_str())).max();
    let name_width = name_width.unwrap_or(0).clamp(8, 20);
    let room = usize::from(area.width).saturating_sub(name_width + 14);
    let names_fit = targets.len() * 8 <= room;
    let each = if names_fit {
        (room / targets.len().max(1)).min(name_width + 4)
    } else {
        2
    };
    let mut head = Line::from(format!(" {}", format::left("sees", name_width + 1)));
    for (i, id) in targets.iter().enumerate() {
        let text = if names_fit {
            format::truncate(id.as_str(), each - 1, theme.glyphs.ellipsis)
        } else {
            let index = view.ring.index_of(id).unwrap_or(i);
            node_letter(index).to_string()
        };
        head.push_span(Span::raw(format::left(&text, each)));
    }
    head.style = theme.quiet();
    rows.line(buf, &head);
    for observer in &seen.observers {
        let reachable = is_up(view, &observer.node_id);
        let mut line = Line::from(format!(
            " {}",
            format::left(observer.node_id.as_str(), name_width + 1)
        ));
        for id in &targets {
            let (text, tone) = match observer.sees.get(id) {
                _ if *id == observer.node_id => (theme.glyphs.dot.to_owned(), Tone::Quiet),
                Some(status) => {
                    let mark = theme.status(*status);
                    let word = if names_fit { mark.word } else { "" };
                    (format!("{} {word}", mark.glyph), mark.tone)
                }
                None => ("? unknown".to_owned(), Tone::Quiet),
            };
            let text = format::truncate(&text, each.saturating_sub(1), "");
            line.push_span(Span::styled(format::left(&text, each), theme.style(tone)));
        }
        if !reachable {
            let ago = format::age_short(format::between(observer.at, view.app.utc));
            line.push_span(Span::raw(format!(" {ago} ago")));
            line.style = theme.quiet();
        }
        rows.line(buf, &line);
    }
    rows.lines(buf, verdict(view, seen, &targets));
    if fresh.stale {
        widget::dim(buf, body);
    }
}

fn targets(seen: &ObservationsResponse) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = seen
        .observers
        .iter()
        .flat_map(|o| o.sees.keys().cloned().chain([o.node_id.clone()]))
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

fn is_up(view: &View, id: &NodeId) -> bool {
    let members = view.cluster.members.as_ref();
    members
        .and_then(|m| m.value.cluster_members.get(id))
        .is_some_and(|m| m.status.is_reachable())
}

/// Whether the reachable observers agree on everybody, in words.
fn verdict(view: &View, seen: &ObservationsResponse, targets: &[NodeId]) -> Vec<Line<'static>> {
    let theme = &view.theme;
    let mut lines = Vec::new();
    for id in targets {
        let mut said: Vec<(MemberStatus, Vec<&NodeId>)> = Vec::new();
        for observer in &seen.observers {
            if observer.node_id == *id || !is_up(view, &observer.node_id) {
                continue;
            }
            if let Some(status) = observer.sees.get(id) {
                match said.iter_mut().find(|(s, _)| s == status) {
                    Some((_, who)) => who.push(&observer.node_id),
                    None => said.push((*status, vec![&observer.node_id])),
                }
            }
        }
        if said.len() > 1 {
            let parts: Vec<String> = said
                .iter()
                .map(|(s, who)| {
                    let who: Vec<&str> = who.iter().map(|n| n.as_str()).collect();
                    format!("{} to {}", s.as_str(), who.join(", "))
                })
                .collect();
            lines.push(Line::from(vec![
                Span::styled(format!(" {} ", theme.glyphs.warn), theme.style(Tone::Warn)),
                Span::styled(format!("{id} is {}", parts.join(", but ")), theme.bold()),
            ]));
        }
    }
    if lines.is_empty() {
        let text = format!(" {} those that answer agree", theme.glyphs.good);
        lines.push(Line::styled(text, theme.style(Tone::Good)));
    }
    lines
}
