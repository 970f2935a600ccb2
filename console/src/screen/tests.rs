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

fn snap(name: &str, app: &App) {
    for (width, height) in [(80, 24), (120, 36)] {
        let name = format!("{name}_{width}x{height}");
        insta::assert_snapshot!(name, text(app, width, height));
    }
}

#[test]
fn screens_of_the_fixtures() {
    for (name, app) in fixture::all() {
        for screen in ScreenId::ALL {
            // what does not differ between states is kept once
            let only_once = matches!(screen, ScreenId::Help | ScreenId::Data);
            if only_once && name != "healthy" {
                continue;
            }
            let app = App {
                screen,
                ..app.clone()
            };
            snap(&format!("{name}_{}", screen.title().to_lowercase()), &app);
        }
    }
}

#[test]
fn no_size_panics() {
    for (_, app) in fixture::all() {
        for screen in ScreenId::ALL {
            for (tier, ascii) in [(ColorTier::True, false), (ColorTier::None, true)] {
                let display = Display { tier, ascii };
                let app = App {
                    screen,
                    display,
                    ..app.clone()
                };
                for width in (1..=200).step_by(13) {
                    for height in (1..=60).step_by(5) {
                        let area = Rect::new(0, 0, width, height);
                        draw_on(&mut Buffer::empty(area), area, &app);
                    }
                }
            }
        }
    }
}

/// The sizes around the limits of the layouts, every one of them.
#[test]
fn no_size_near_a_limit_panics() {
    let app = fixture::five_one_dead();
    for screen in ScreenId::ALL {
        let app = App {
            screen,
            ..app.clone()
        };
        for width in [1, 2, 59, 60, 61, 79, 80, 99, 100, 109, 110, 111, 120] {
            for height in 1..=40 {
                let area = Rect::new(0, 0, width, height);
                draw_on(&mut Buffer::empty(area), area, &app);
            }
        }
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

/// What reaches the terminal, byte for byte, through the real backend.
fn bytes(app: &App) -> String {
    use ratatui::{TerminalOptions, Viewport, backend::CrosstermBackend};
    crossterm::style::force_color_output(true);
    let mut out = Vec::new();
    {
        let backend = CrosstermBackend::new(&mut out);
        let viewport = Viewport::Fixed(Rect::new(0, 0, 120, 36));
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
            let app = App {
                screen,
                ..app.clone()
            };
            let written = sgr(&bytes(&app));
            let colours: Vec<&String> = written.iter().filter(|p| is_colour(p)).collect();
            assert!(colours.is_empty(), "{name} {screen:?}: {colours:?}");
            assert!(
                !written.iter().any(|p| p.starts_with(';')),
                "{name} {screen:?}"
            );
            assert!(written.iter().any(|p| p == "7"), "the open tab is reversed");
        }
    }
    let display = Display {
        tier: ColorTier::Ansi16,
        ascii: false,
    };
    let colourful = sgr(&bytes(&App {
        display,
        ..fixture::one_dead()
    }));
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
            let display = Display {
                tier: ColorTier::Ansi16,
                ascii: false,
            };
            let app = App {
                screen,
                display,
                ..app.clone()
            };
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
            let display = Display {
                tier: ColorTier::None,
                ascii: true,
            };
            let app = App {
                screen,
                display,
                ..app.clone()
            };
            let drawn = text(&app, 120, 36);
            let odd: Vec<char> = drawn.chars().filter(|c| !c.is_ascii()).collect();
            assert!(odd.is_empty(), "{name} {screen:?}: {odd:?}\n{drawn}");
        }
    }
}
