//! Every screen on a live cluster, in every size, with and without colours; and that it is
//! quiet when nothing happens.

use std::time::{Duration, Instant};

use super::{COLUMNS, ROWS, connection::quits, endpoints, flags, is_well, open};
use crate::support::{binaries::binaries, cluster::Cluster, pty::Terminal, wait::GENEROUS};

/// Key, and what only that screen shows.
const SCREENS: [(&str, &str); 9] = [
    ("2", "3 members"),
    ("3", "256 partitions, 3 replicas each, quorum is 2"),
    ("4", "Ring epoch"),
    ("5", ":get user:42"),
    ("6", "following"),
    ("7", "Clean restart"),
    ("8", "Doctor: nothing is wrong"),
    ("?", "Everywhere"),
    ("1", "healthy"),
];

/// What an idle console may write in [`IDLE`]; drawing the whole screen twenty times a second
/// would be hundreds of times as much.
const IDLE_BYTES: usize = 8 * 1024;
const IDLE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn screens_keys_and_commands() {
    let cluster = Cluster::start(3).await;
    let mut console = open(&endpoints(&cluster));
    console.wait_for("a connection", GENEROUS, |s| is_well(s, 3));
    for (key, title) in SCREENS {
        console.press(key);
        console.wait_for(title, GENEROUS, |s| s.contains(title));
    }
    filters(&mut console);
    runs_commands(&mut console);
    never_quits_by_escape(&mut console);
    changes_its_size(&mut console);
    is_quiet(&mut console);
    console.press(":q\r");
    assert_eq!(console.wait_exit(GENEROUS), 0);

    small(&cluster);
    without_colours(&cluster);
}

fn filters(console: &mut Terminal) {
    console.press("2");
    console.wait_for("the members", GENEROUS, |s| s.contains("3 members"));
    console.press("/node-2");
    console.wait_for("one row", GENEROUS, |s| {
        s.contains("filter /node-2   1 node shown")
    });
    console.press("\r");
    console.press_until("\x1b", "all rows", GENEROUS, |s| !s.contains("filter /"));
    console.press("6/no such event");
    console.wait_for("no event", GENEROUS, |s| s.contains("No event matches"));
    console.press_until("\x1b", "events again", GENEROUS, |s| {
        !s.contains("No event matches")
    });
}

fn runs_commands(console: &mut Terminal) {
    console.press(":nonsense\r");
    console.wait_for("what is wrong", GENEROUS, |s| s.contains("no command"));
    console.press_until("\x1b", "no prompt", GENEROUS, |s| !s.contains(":nonsense"));
    console.press(":mem\t\r");
    console.wait_for("the members", GENEROUS, |s| s.contains("3 members"));
    console.press(":node node-3\r");
    console.wait_for("its details", GENEROUS, |s| s.contains("generation"));
    console.press(":locate user:42\r");
    console.wait_for("where it lives", GENEROUS, |s| {
        s.contains("Ring epoch") && s.contains("user:42")
    });
}

fn never_quits_by_escape(console: &mut Terminal) {
    console.press("1");
    console.wait_for("the overview", GENEROUS, |s| s.contains("● healthy"));
    for _ in 0..20 {
        console.press("\x1b");
    }
    console.press_until("?", "the help", GENEROUS, |s| s.contains("Everywhere"));
    assert!(console.is_running());
}

fn changes_its_size(console: &mut Terminal) {
    console.press_until("1", "the overview", GENEROUS, |s| s.contains("● healthy"));
    console.resize(10, 50);
    console.wait_for("what it needs", GENEROUS, |s| {
        s.contains("need 60x16, have 50x10")
    });
    console.resize(ROWS, COLUMNS);
    console.wait_for("everything again", GENEROUS, |s| is_well(s, 3));
}

fn is_quiet(console: &mut Terminal) {
    let before = console.bytes_written();
    // a measurement over a time, not a wait for something
    let until = Instant::now() + IDLE;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    let written = console.bytes_written() - before;
    assert!(written > 0, "not even an age changes");
    assert!(
        written < IDLE_BYTES,
        "{written} bytes while nothing happens"
    );
}

fn small(cluster: &Cluster) {
    let all = endpoints(cluster);
    let program = &binaries().ringmaster;
    let mut console = Terminal::spawn(program, &flags(&all), 24, 80);
    console.wait_for("the overview", GENEROUS, |s| is_well(s, 3));
    for (key, title) in SCREENS {
        console.press(key);
        // the longest titles are cut where there is no room
        let title = title.get(..14).unwrap_or(title);
        console.wait_for(title, GENEROUS, |s| s.contains(title));
    }
    quits(&mut console);
    let mut console = Terminal::spawn(program, &flags(&all), 15, 59);
    console.wait_for("what it needs", GENEROUS, |s| {
        s.contains("need 60x16, have 59x15")
    });
    quits(&mut console);
}

fn without_colours(cluster: &Cluster) {
    let all = endpoints(cluster);
    let program = &binaries().ringmaster;
    for (environment, coloured) in [(&[][..], true), (&[("NO_COLOR", "1")][..], false)] {
        let mut console = Terminal::spawn_with(program, &flags(&all), environment, ROWS, COLUMNS);
        console.wait_for("a connection", GENEROUS, |s| is_well(s, 3));
        for (key, title) in SCREENS {
            console.press(key);
            console.wait_for(title, GENEROUS, |s| s.contains(title));
        }
        quits(&mut console);
        let colours = colours(&console.raw());
        assert_eq!(
            !colours.is_empty(),
            coloured,
            "{environment:?}: {colours:?}"
        );
    }
}

/// The parameters of all sequences that set a colour; back to the terminal's own is none.
fn colours(raw: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(raw);
    let sequences = text.split("\x1b[").skip(1);
    let graphics = sequences.filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':')?;
        rest[end..].starts_with('m').then(|| rest[..end].to_owned())
    });
    let sets_colour = |parameters: &String| {
        let numbers = parameters
            .split([';', ':'])
            .filter_map(|n| n.parse::<u16>().ok());
        numbers
            .into_iter()
            .any(|n| matches!(n, 30..=38 | 40..=48 | 58 | 90..=107))
    };
    graphics.filter(sets_colour).collect()
}

#[test]
fn colours_are_recognised() {
    let raw = "\x1b[1mbold\x1b[38;5;2mgreen\x1b[39;49m\x1b[?25h\x1b[31m\x1b[0m\x1b[7m";
    assert_eq!(colours(raw.as_bytes()), ["38;5;2", "31"]);
}
