//! The table of nodes that Overview and Members share.

use std::time::Duration;

use ratatui::{buffer::Buffer, layout::Rect, style::Style};
use ringmaster_shared::member::{Lifecycle, MemberStatus};

use super::view::View;
use crate::{
    app::ScreenId,
    app::{
        rows::{MemberRow, Moves, members},
        screens::MemberColumn,
    },
    format,
    theme::{Mark, Tone, node_letter},
    widget::table::{Cell, Column, Sort, Table},
};

/// The letter, then one column for each of [`MemberColumn::ALL`].
const fn columns(seen: &'static str, health_rank: u8) -> [Column; 14] {
    [
        Column::left("", 1, 1),
        Column::left("NODE", 8, 0).at_most(24),
        Column::left("STATE", 13, 0).at_most(19),
        Column::left("ZONE", 4, 9).at_most(12),
        Column::right("OWNS", 7, 4),
        Column::right("KEYS", 7, 5),
        Column::right("PUT/s", 6, 6),
        Column::right("GET/s", 6, 6),
        Column::right("p99 ms", 6, 7),
        Column::right("HINTS", 5, 3),
        Column::right("DISK", 7, 8),
        Column::right("UP", 7, 10),
        Column::right("HEALTH", 6, health_rank),
        Column::left(seen, 6, 2),
    ]
}

pub struct MemberTable {
    rows: Vec<MemberRow>,
    selected: Option<usize>,
}

impl MemberTable {
    pub fn new(view: &View) -> Self {
        let state = &view.app.members;
        let rows = members(view.cluster, state);
        // nothing chosen yet: the first row is where the keys will start
        let chosen = state.selected.as_ref();
        let selected = match chosen {
            Some(id) => rows.iter().position(|r| &r.id == id),
            None => (!rows.is_empty()).then_some(0),
        };
        Self { rows, selected }
    }

    /// Lines it would like to have.
    pub fn height(&self) -> u16 {
        self.rows.len() as u16 + 1
    }

    pub fn selected(&self) -> Option<&MemberRow> {
        self.rows.get(self.selected?)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn render(&self, view: &View, buf: &mut Buffer, area: Rect) {
        let state = &view.app.members;
        let column = MemberColumn::ALL.iter().position(|c| *c == state.sort);
        let seen = if area.width < 100 {
            "SEEN BY"
        } else {
            "SEEN ALIVE BY"
        };
        let health_rank = if view.app.screen == ScreenId::Members {
            3
        } else {
            11
        };
        let table = Table {
            columns: &columns(seen, health_rank),
            rows: self.rows.iter().map(|r| cells(view, r)).collect(),
            selected: self.selected,
            sort: column.map(|c| Sort {
                column: c + 1,
                descending: state.descending,
            }),
            total: None,
        };
        table.render(buf, area, &view.theme);
    }
}

/// Sign, word and colour of a node's state.
pub fn mark(view: &View, row: &MemberRow) -> Mark {
    let theme = &view.theme;
    let serving = row.status == Some(MemberStatus::Alive)
        && row.lifecycle.is_none_or(|l| l == Lifecycle::Serving);
    match row.moves {
        _ if serving && row.read_only => {
            return Mark {
                glyph: theme.glyphs.warn,
                word: "read-only",
                tone: Tone::Warn,
            };
        }
        Some(moves) if serving => return theme.moves(moves == Moves::In),
        _ => {}
    }
    match (row.status, row.lifecycle) {
        (Some(status), lifecycle) => view
            .theme
            .member(status, lifecycle.unwrap_or(Lifecycle::Serving)),
        (None, Some(lifecycle)) => view.theme.member(MemberStatus::Alive, lifecycle),
        (None, None) => Mark {
            glyph: view.theme.glyphs.pending,
            word: "unlisted",
            tone: Tone::Quiet,
        },
    }
}

fn cells(view: &View, row: &MemberRow) -> Vec<Cell> {
    let theme = &view.theme;
    let none = || Cell::new(theme.glyphs.dash, theme.quiet());
    let state = mark(view, row);
    // since when it moves or is full gossip does not know
    let of_status = ["read-only", "leaving", "joining"];
    let since = row.status_since.filter(|_| state.tone != Tone::Good);
    let since = since.filter(|_| !of_status.contains(&state.word));
    let since = since.map(|t| format::age(format::between(t, view.app.utc)));
    let word = match since {
        Some(since) => format!("{} {} {since}", state.glyph, state.word),
        None => format!("{} {}", state.glyph, state.word),
    };
    let letter = view.ring.index_of(&row.id);
    let letter_style = letter.map_or_else(Style::new, |i| theme.node_style(i));
    let number = |v: Option<String>| v.map_or_else(none, Cell::from);
    let load = row.load.as_ref();
    let last = row.last_load.as_ref();
    let p99 = load.map(|l| l.p99_us).filter(|p| *p > 0);
    vec![
        Cell::new(
            letter.map_or(String::new(), |i| node_letter(i).to_string()),
            letter_style,
        ),
        Cell::from(row.id.as_str()),
        Cell::new(word, theme.style(state.tone)),
        Cell::from(row.zone.as_str()),
        number(row.owns_percent.map(format::percent)),
        number(last.map(|l| format::count(l.keys))),
        number(load.map(|l| format::count(l.puts_per_s.into()))),
        number(load.map(|l| format::count(l.gets_per_s.into()))),
        number(p99.map(format::ms_from_us)),
        match load.map(|l| l.hints) {
            Some(0) => Cell::new("0", theme.quiet()),
            Some(n) => Cell::new(format::count(n.into()), theme.style(Tone::Warn)),
            None => none(),
        },
        number(last.map(|l| format::bytes(l.bytes_on_disk))),
        number(
            row.uptime_s
                .map(|s| format::age(Duration::from_secs(s.max(10)))),
        ),
        match row.health {
            Some(0) => Cell::new("0", theme.quiet()),
            Some(score) => Cell::new(score.to_string(), theme.style(Tone::Warn)),
            None => none(),
        },
        seen(view, row),
    ]
}

fn seen(view: &View, row: &MemberRow) -> Cell {
    let theme = &view.theme;
    let own_udp = row.own_udp_blocked_since.is_some();
    let differs = match (own_udp, row.udp_blocked, row.disagrees) {
        (true, _, _) => "  no UDP",
        (false, true, _) => "  TCP only",
        (false, false, true) => "  own view differs",
        (false, false, false) => "",
    };
    match row.seen_alive_by {
        Some((seen, all)) => {
            let style = if seen < all || !differs.is_empty() {
                theme.style(Tone::Warn)
            } else {
                Style::new()
            };
            Cell::new(format!("{seen} of {all}{differs}"), style)
        }
        None => Cell::new(theme.glyphs.dash, theme.quiet()),
    }
}
