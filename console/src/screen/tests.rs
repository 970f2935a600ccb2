//! Every screen of every ready-made state, as text: looked at by a person when it changes.

use ratatui::{Terminal, backend::TestBackend, buffer::Buffer, layout::Rect, style::Color};

use super::{draw, draw_on};
use crate::{
    app::{App, ScreenId},
    config::{ColorTier, Display},
    fixture,
};

fn text(app: &App, width: u16, height: u16) -> String {
    let backend = TestBackend::new(width, height);
    let mut terminal = Terminal::new(backend).expect("a test terminal");
    terminal.draw(|frame| draw(frame, app)).expect("drawn");
    let rows = terminal
        .backend()
        .buffer()
        .content
        .chunks(usize::from(width));
    let line = |row: &[ratatui::buffer::Cell]| -> String {
        row.iter().map(ratatui::buffer::Cell::symbol).collect()
    };
    let lines: Vec<String> = rows.map(|r| line(r).trim_end().to_owned()).collect();
    lines.join("\n")
}

fn on(app: &App, screen: ScreenId) -> App {
    let mut app = app.clone();
    app.screen = screen;
    app
}

fn dressed(app: &App, screen: ScreenId, tier: ColorTier, ascii: bool) -> App {
    let mut app = on(app, screen);
    app.display = Display { tier, ascii };
    app
}

/// Both sizes in one file, the small one first.
fn snap(name: &str, app: &App) {
    let both = [(80, 24), (120, 36)].map(|(width, height)| {
        let line = "=".repeat(width.into());
        format!(
            "{width}x{height}\n{line}\n{}\n{line}",
            text(app, width, height)
        )
    });
    insta::assert_snapshot!(name, both.join("\n\n"));
}

#[test]
fn screens_of_the_fixtures() {
    use ScreenId::{Data, Doctor, Events, Help, Members, Overview, Procedures, Quorum, Ring};
    let cases: Vec<(&str, App, &[ScreenId])> = vec![
        ("healthy", fixture::healthy(), &ScreenId::ALL),
        (
            "one_dead",
            fixture::one_dead(),
            &[Overview, Members, Quorum, Ring, Events, Doctor],
        ),
        (
            "five_one_dead",
            fixture::five_one_dead(),
            &[Overview, Members, Quorum, Ring],
        ),
        ("two_dead", fixture::two_dead(), &[Overview, Quorum, Doctor]),
        (
            "disagreeing",
            fixture::disagreeing(),
            &[Overview, Members, Doctor],
        ),
        (
            "disconnected",
            fixture::disconnected(),
            &[Overview, Members, Quorum, Ring, Data, Events, Doctor],
        ),
        (
            "one_without_udp",
            fixture::one_without_udp(),
            &[Overview, Members, Doctor],
        ),
        ("fallback", fixture::fallback(), &[Overview, Doctor]),
        (
            "never_connected",
            fixture::never_connected(),
            &[Overview, Doctor, Help],
        ),
        (
            "clean_restart",
            fixture::clean_restart(),
            &[Overview, Members, Procedures, Doctor],
        ),
        (
            "held_viewer",
            fixture::looking_through_a_held_one(),
            &[Overview, Doctor],
        ),
    ];
    let failed = fixture::failed_restart();
    snap("failed_restart", &failed);
    let mut log = failed;
    log.procedures.show_log = true;
    snap("failed_restart_log", &log);
    snap("matrix", &fixture::matrix());
    snap("matrix_large", &fixture::matrix_large());
    for (name, app, screens) in cases {
        for screen in screens {
            let name = format!("{name}_{}", screen.title().to_lowercase());
            snap(&name, &on(&app, *screen));
        }
    }
}

#[test]
fn answers_and_overlays() {
    let changes = fixture::changes::all();
    for (name, app) in fixture::overlays::overlays().into_iter().chain(changes) {
        snap(name, &app);
    }
    for (name, app) in fixture::changes::all() {
        use ScreenId::{Doctor, Events, Members, Ring};
        let screens: &[ScreenId] = match name {
            "change_running" | "joining" => &[Members, Ring],
            "read_only_node" => &[Members, Events, Doctor],
            "two_clusters" | "change_menu" => &[Doctor],
            _ => &[],
        };
        for screen in screens {
            let name = format!("{name}_{}", screen.title().to_lowercase());
            snap(&name, &on(&app, *screen));
        }
    }
}

fn sweep(app: &App, widths: &[u16], heights: impl Iterator<Item = u16>) {
    for height in heights {
        for width in widths.iter().copied() {
            let area = Rect::new(0, 0, width, height);
            draw_on(&mut Buffer::empty(area), area, app);
        }
    }
}

#[test]
fn no_size_panics() {
    for (_, app) in fixture::all() {
        let overlaid = app.confirm.is_some() || app.prompt.is_some() || app.data.answer.is_some();
        for screen in ScreenId::ALL {
            // what is laid over a screen is swept over one of them
            if !overlaid || screen == app.screen {
                let app = dressed(&app, screen, ColorTier::True, false);
                let widths: Vec<u16> = (1..=200).step_by(23).collect();
                sweep(&app, &widths, (1..=60).step_by(9));
            }
        }
    }
}

/// The sizes around the limits of the layouts, every one of them.
#[test]
fn no_size_near_a_limit_panics() {
    let app = fixture::five_one_dead();
    for screen in ScreenId::ALL {
        let app = on(&app, screen);
        let widths = [1, 59, 60, 79, 80, 99, 100, 109, 110, 120];
        let heights = [1, 15, 16, 17, 19, 20, 21, 24, 27, 31, 32, 33, 36];
        sweep(&app, &widths, heights.into_iter());
    }
}

#[test]
fn too_small_says_what_it_needs() {
    let app = fixture::healthy();
    assert_eq!(
        text(&app, 59, 20).lines().next(),
        Some("need 60x16, have 59x20")
    );
    assert!(text(&app, 60, 16).contains("Connected"));
}

#[test]
fn the_overview_counts_the_full_disks_of_nodes_that_answer() {
    let mut app = on(&fixture::changes::read_only_node(), ScreenId::Overview);
    assert!(text(&app, 120, 36).contains("1 read-only"));
    let node = app.cluster.nodes.get_mut(&fixture::id("node-2"));
    node.expect("a node").error = Some(crate::cluster::NodeError {
        message: "connection refused".to_owned(),
        since_ms: app.now_ms,
    });
    assert!(!text(&app, 120, 36).contains("read-only"), "it was, last");
}

#[test]
fn the_overview_tells_no_outage_that_nobody_can_see() {
    let app = on(&fixture::looking_through_a_held_one(), ScreenId::Overview);
    let drawn = text(&app, 80, 24);
    assert!(drawn.contains("health not known"), "{drawn}");
    assert!(
        !drawn.contains("unavailable") && !drawn.contains("below"),
        "{drawn}"
    );
}

/// What reaches the terminal, byte for byte, through the real backend.
fn bytes(app: &App, width: u16, height: u16) -> String {
    use ratatui::{TerminalOptions, Viewport, backend::CrosstermBackend};
    crossterm::style::force_color_output(true);
    let mut out = Vec::new();
    {
        let backend = CrosstermBackend::new(&mut out);
        let viewport = Viewport::Fixed(Rect::new(0, 0, width, height));
        let mut terminal =
            Terminal::with_options(backend, TerminalOptions { viewport }).expect("a terminal");
        terminal.draw(|frame| draw(frame, app)).expect("drawn");
    }
    String::from_utf8(out).expect("text")
}

/// The parameters of all SGR sequences (`ESC [ … m`).
fn sgr(bytes: &str) -> Vec<String> {
    let parts = bytes.split("\x1b[").skip(1);
    parts
        .filter_map(|p| {
            let end = p.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':'))?;
            (p[end..].starts_with('m')).then(|| p[..end].to_owned())
        })
        .collect()
}

fn is_colour(parameters: &str) -> bool {
    let first = parameters.split([';', ':']).next().unwrap_or("");
    let n: u32 = first.parse().unwrap_or(0);
    matches!(n, 30..=38 | 40..=48 | 90..=97 | 100..=107)
}

#[test]
fn mono_writes_no_colour_and_keeps_bold_and_reverse() {
    for (name, app) in fixture::all() {
        for screen in ScreenId::ALL {
            let app = on(&app, screen);
            let written = sgr(&bytes(&app, 120, 36));
            let colours: Vec<&String> = written.iter().filter(|p| is_colour(p)).collect();
            assert!(colours.is_empty(), "{name} {screen:?}: {colours:?}");
            assert!(
                !written.iter().any(|p| p.starts_with(';')),
                "{name} {screen:?}"
            );
            assert!(written.iter().any(|p| p == "7"), "the open tab is reversed");
        }
    }
    let colourful = sgr(&bytes(
        &dressed(
            &fixture::one_dead(),
            ScreenId::Overview,
            ColorTier::Ansi16,
            false,
        ),
        120,
        36,
    ));
    assert!(
        colourful.iter().any(|p| is_colour(p)),
        "the check sees colours when there are some"
    );
}

/// In the tier of sixteen nothing but the terminal's own colours is used, and its background is
/// painted over only by the lower halves of the circle's cells.
#[test]
fn sixteen_colours_are_the_terminals_own() {
    for (name, app) in fixture::all() {
        for screen in ScreenId::ALL {
            let app = dressed(&app, screen, ColorTier::Ansi16, false);
            let area = Rect::new(0, 0, 120, 36);
            let mut buf = Buffer::empty(area);
            draw_on(&mut buf, area, &app);
            for cell in &buf.content {
                let own = |c| !matches!(c, Color::Rgb(..) | Color::Indexed(_));
                assert!(own(cell.fg) && own(cell.bg), "{name} {screen:?}: {cell:?}");
                let halves = ["▀", "█"].contains(&cell.symbol());
                assert!(
                    cell.bg == Color::Reset || halves,
                    "{name} {screen:?}: {cell:?}"
                );
            }
        }
    }
}

#[test]
fn ascii_mode_is_ascii() {
    for (name, app) in fixture::all() {
        for screen in ScreenId::ALL {
            let app = dressed(&app, screen, ColorTier::None, true);
            let drawn = text(&app, 120, 36);
            let odd: Vec<char> = drawn.chars().filter(|c| !c.is_ascii()).collect();
            assert!(odd.is_empty(), "{name} {screen:?}: {odd:?}\n{drawn}");
        }
    }
}

/// To look at a state in colour: writes every screen of every state as a terminal would get it,
/// into the folder named by `SCREENS_DIR`, for `cat`.
#[test]
#[ignore = "writes files to look at; checks nothing"]
fn write_pictures() {
    let Some(dir) = std::env::var_os("SCREENS_DIR") else {
        return;
    };
    for (name, app) in fixture::all() {
        for screen in ScreenId::ALL {
            for (tier, word) in [(ColorTier::Ansi16, "16"), (ColorTier::True, "true")] {
                for (width, height) in [(80, 24), (120, 36)] {
                    let app = dressed(&app, screen, tier, false);
                    let file = format!("{name}_{}_{word}_{width}", screen.title().to_lowercase());
                    let path = std::path::Path::new(&dir).join(file);
                    std::fs::write(path, bytes(&app, width, height)).expect("written");
                }
            }
        }
    }
}
