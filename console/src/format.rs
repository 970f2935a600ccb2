//! Numbers and words for people: ages, bytes, counts, shares, and cutting to a width.
//!
//! Every function is total: any input has a short text. Widths are terminal cells, not bytes.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use ringmaster_shared::id::NodeId;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// `0.2 s`, `14 s`, `3m 05s`, `2h 11m`, `9d 4h`.
pub fn age(age: Duration) -> String {
    let s = age.as_secs();
    match s {
        0..=9 => {
            let tenths = age.as_millis() / 100;
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        10..=59 => format!("{s} s"),
        60..=3599 => format!("{}m {:02}s", s / 60, s % 60),
        3600..=86_399 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// What a node answered; most of them name themselves.
pub fn said_by(id: &NodeId, message: &str) -> String {
    let rest = message.strip_prefix(id.as_str());
    if rest.is_some_and(|rest| rest.starts_with(' ')) {
        message.to_owned()
    } else {
        format!("{id}: {message}")
    }
}

/// One word for a shell: quoted when it has to be.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Whole units only, for marks that should not flicker: `12s`, `3m`, `2h`.
pub fn age_short(age: Duration) -> String {
    let s = age.as_secs();
    match s {
        0..=99 => format!("{s}s"),
        100..=5999 => format!("{}m", s / 60),
        6000..=172_799 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// From `then` to `now`; zero when `then` is ahead.
pub fn between(then: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(then).try_into().unwrap_or_default()
}

/// `999 B`, `4.1 kB`, `41 MB`, `1.2 GB`; powers of a thousand, as disks are sold.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// `12,031`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// The nearest whole number; 0 for what is negative or no number.
#[allow(clippy::cast_sign_loss)] // `as` saturates, and that is what is wanted
pub fn whole(v: f64) -> u64 {
    v.round() as u64
}

/// `33.2 %`.
pub fn percent(p: f64) -> String {
    if p.is_finite() {
        format!("{p:.1} %")
    } else {
        "–".to_owned()
    }
}

/// Microseconds as milliseconds: `3.1`, `0.42`, `120`.
pub fn ms_from_us(us: u32) -> String {
    let ms = f64::from(us) / 1000.0;
    match us {
        0..=999 => format!("{ms:.2}"),
        1_000..=99_999 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// `1 node`, `3 nodes`.
pub fn plural(n: usize, noun: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {noun}{s}", count(n as u64))
}

/// `1 copy is`, `85 copies are`: for words that are not made plural by an `s`.
pub fn plural_of(n: usize, one: &str, many: &str) -> String {
    let words = if n == 1 { one } else { many };
    format!("{} {words}", count(n as u64))
}

/// `a, b and c`; at most six by name.
pub fn names(ids: &[&NodeId]) -> String {
    let shown: Vec<String> = ids.iter().take(6).map(ToString::to_string).collect();
    let more = ids.len() - shown.len();
    match shown.split_last() {
        None => "none".to_owned(),
        Some(_) if more > 0 => format!("{} and {more} more", shown.join(", ")),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// `12:04:31`, UTC.
pub fn clock(t: Timestamp) -> String {
    t.to_zoned(TimeZone::UTC).strftime("%H:%M:%S").to_string()
}

/// `12:04:17` for today, `11-21 12:04` for other days; UTC. Always the same width or three more.
pub fn event_time(t: Timestamp, now: Timestamp) -> String {
    let (then, today) = (t.to_zoned(TimeZone::UTC), now.to_zoned(TimeZone::UTC));
    if then.date() == today.date() {
        then.strftime("%H:%M:%S").to_string()
    } else {
        then.strftime("%m-%d %H:%M").to_string()
    }
}

/// Cells that `text` takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Cuts to at most `max` cells; what was cut ends in `mark`.
pub fn truncate(text: &str, max: usize, mark: &str) -> String {
    if text.width() <= max {
        return text.to_owned();
    }
    let room = max.saturating_sub(mark.width());
    if max < mark.width() {
        return String::new();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w > room {
            break;
        }
        used += w;
        out.push(c);
    }
    out.push_str(mark);
    out
}

/// Cut or padded to exactly `to` cells, text on the left.
pub fn left(text: &str, to: usize) -> String {
    let mut out = truncate(text, to, "…");
    out.extend(std::iter::repeat_n(' ', to.saturating_sub(out.width())));
    out
}

/// Cut or padded to exactly `to` cells, text on the right.
pub fn right(text: &str, to: usize) -> String {
    let cut = truncate(text, to, "…");
    let mut out = " ".repeat(to.saturating_sub(cut.width()));
    out.push_str(&cut);
    out
}

/// Breaks at spaces so that no line is longer than `max` cells; words longer than a line are cut.
/// Lines after the first start with `indent` spaces. At most `lines_max` lines come back.
pub fn wrap(text: &str, max: usize, indent: usize, lines_max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let indent = indent.min(max / 2);
    for word in text.split_whitespace() {
        let start = if lines.is_empty() { 0 } else { indent };
        if line.width() > start && line.width() + 1 + word.width() > max {
            lines.push(std::mem::take(&mut line));
            if lines.len() == lines_max {
                return lines;
            }
            line = " ".repeat(indent);
        } else if line.width() > start {
            line.push(' ');
        }
        let room = max.saturating_sub(line.width());
        line.push_str(&truncate(word, room, "…"));
    }
    if !line.trim().is_empty() {
        lines.push(line);
    }
    lines
}

/// A command broken before its flags, with the shell's `\` at the ends of lines, so that what is
/// on the screen can be copied and run.
pub fn wrap_command(command: &str, max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for (i, part) in command.split(" --").enumerate() {
        let part = if i == 0 {
            part.to_owned()
        } else {
            format!("--{part}")
        };
        // two cells for the space and the backslash of a broken line
        if !line.is_empty() && line.width() + 1 + part.width() + 2 > max {
            lines.push(format!("{line} \\"));
            line = format!("  {part}");
        } else {
            if i > 0 {
                line.push(' ');
            }
            line.push_str(&part);
        }
    }
    lines.push(line);
    lines
}

/// Control characters made visible, so that a stored value cannot drive the terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '·' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_node_is_named_once() {
        let id = NodeId::new("a").expect("valid");
        assert_eq!(said_by(&id, "a holds for 120 s"), "a holds for 120 s");
        assert_eq!(said_by(&id, "accepted"), "a: accepted");
        assert_eq!(said_by(&id, "about to stop"), "a: about to stop");
    }

    #[test]
    fn ages() {
        let cases = [
            (0, "0.0 s"),
            (240, "0.2 s"),
            (9_999, "9.9 s"),
            (14_300, "14 s"),
            (185_000, "3m 05s"),
            (7_860_000, "2h 11m"),
            (792_000_000, "9d 4h"),
        ];
        for (ms, want) in cases {
            assert_eq!(age(Duration::from_millis(ms)), want);
        }
        assert_eq!(age_short(Duration::from_secs(12)), "12s");
        assert_eq!(age_short(Duration::from_secs(200)), "3m");
    }

    #[test]
    fn sizes_and_counts() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (4_096, "4.1 kB"),
            (41_000_000, "41 MB"),
            (999_600, "1.0 MB"),
            (1_240_000_000, "1.2 GB"),
            (u64::MAX, "18 EB"),
        ];
        for (n, want) in cases {
            assert_eq!(bytes(n), want);
        }
        assert_eq!(count(7), "7");
        assert_eq!(count(12_031), "12,031");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(percent(33.24), "33.2 %");
        assert_eq!(percent(f64::NAN), "–");
        assert_eq!(ms_from_us(3_140), "3.1");
        assert_eq!(plural(1, "node"), "1 node");
        assert_eq!(plural(3, "node"), "3 nodes");
    }

    #[test]
    fn alignment_counts_cells() {
        assert_eq!(left("ab", 4), "ab  ");
        assert_eq!(right("ab", 4), "  ab");
        assert_eq!(left("abcdef", 4), "abc…");
        assert_eq!(width(&left("日本語", 4)), 4);
        assert_eq!(printable("a\x1b[2Jb\n"), "a·[2Jb·");
    }

    #[test]
    fn wrapping_keeps_every_word() {
        let got = wrap("one two three four", 9, 2, 9);
        assert_eq!(got, ["one two", "  three", "  four"]);
        assert_eq!(wrap("one two three four", 9, 2, 1), ["one two"]);
        assert!(wrap("   ", 9, 0, 9).is_empty());
    }

    #[test]
    fn commands_break_before_flags() {
        let command = "ringd --node-id=node-1 --port=8081 --data-dir=<its data dir>";
        assert_eq!(wrap_command(command, 80), [command]);
        assert_eq!(
            wrap_command(command, 40),
            [
                "ringd --node-id=node-1 --port=8081 \\",
                "  --data-dir=<its data dir>"
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_fits_the_width(text in "\\PC{0,40}", to in 0usize..50) {
            prop_assert!(width(&truncate(&text, to, "…")) <= to);
            prop_assert_eq!(width(&right(&text, to)), to);
            for line in wrap(&text, to, 2, 99) {
                prop_assert!(width(&line) <= to, "{line:?} at {to}");
            }
        }
    }
}
