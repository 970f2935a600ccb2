//! Keys as they stand in a path. Strict: what cannot be decoded is not guessed.

use percent_encoding::percent_decode_str;
use ringmaster_shared::{error::ErrorCode, key::Key};

use crate::api::{Answer, ApiError};

const PREFIX: &str = "/api/v1/data/";

/// The key of a path whose last segment it is.
pub fn from_path(path: &str) -> Answer<Key> {
    decode(path.strip_prefix(PREFIX).unwrap_or_default())
}

pub fn empty() -> ApiError {
    bad("the key is missing: a key is 1 to 1024 bytes in the path after /api/v1/data/".to_owned())
}

/// A key as it stands in a body.
pub fn parse(text: &str) -> Answer<Key> {
    Key::new(text).map_err(|e| bad(e.to_string()))
}

fn decode(segment: &str) -> Answer<Key> {
    if segment.is_empty() {
        return Err(empty());
    }
    if let Some(at) = bad_escape(segment) {
        return Err(bad(format!(
            "the key is not percent-encoded: at byte {at}, '%' is not followed by two hex digits"
        )));
    }
    let text = percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| bad("the key is not UTF-8 once it is decoded".to_owned()))?;
    parse(&text)
}

fn bad(why: String) -> ApiError {
    ApiError::new(ErrorCode::BadKey, why)
}

fn bad_escape(segment: &str) -> Option<usize> {
    let bytes = segment.as_bytes();
    bytes.iter().enumerate().find_map(|(at, b)| {
        let hex = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_hexdigit);
        (*b == b'%' && !(hex(at + 1) && hex(at + 2))).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_once_and_checked() {
        let long = "k".repeat(1024);
        let good = [
            ("test:cluster", "test:cluster"),
            ("a%2Fb", "a/b"),
            ("a%2fb%20c", "a/b c"),
            ("a+b", "a+b"),
            ("%25", "%"),
            ("%2525", "%25"),
            ("%C3%A9", "é"),
            // as a path no URL library would keep; nothing here takes them for steps
            ("%2E", "."),
            ("%2E%2E", ".."),
            ("..", ".."),
            (long.as_str(), long.as_str()),
        ];
        for (path, wants) in good {
            let key = from_path(&format!("{PREFIX}{path}")).expect(path);
            assert_eq!(key.as_str(), wants);
        }
        let longer = "k".repeat(1025);
        for path in ["", "%", "%2", "%zz", "a%f", "%ff", "%C3", longer.as_str()] {
            let error = from_path(&format!("{PREFIX}{path}")).expect_err(path);
            assert_eq!(error.code(), ErrorCode::BadKey, "{path:?}");
        }
    }
}
