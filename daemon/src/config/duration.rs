//! Durations as people write them: `200ms`, `1s`, `2m`.

use std::time::Duration;

/// Longest accepted, milliseconds.
const MOST_MS: u64 = 24 * 60 * 60 * 1000;

pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || "a time is a number with ms, s or m, e.g. 200ms, of at most a day".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let scale = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(bad()),
    };
    match number.checked_mul(scale) {
        Some(ms) if (1..=MOST_MS).contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(bad()),
    }
}

/// The shortest of the same forms.
pub fn in_words(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms.is_multiple_of(60_000) && ms > 0 {
        format!("{}m", ms / 60_000)
    } else if ms.is_multiple_of(1000) {
        format!("{}s", ms / 1000)
    } else {
        format!("{ms}ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refusals() {
        for (text, ms) in [
            ("200ms", 200),
            ("1s", 1000),
            ("2m", 120_000),
            ("30 s", 30_000),
        ] {
            let duration = parse(text).expect(text);
            assert_eq!(duration.as_millis(), ms, "{text}");
            assert_eq!(parse(&in_words(duration)), Ok(duration));
        }
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "0ms",
            "1h",
            "1.5s",
            "99999999999999999999s",
            "2000m",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
