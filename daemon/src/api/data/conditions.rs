//! Contexts and conditions in headers: `X-Ring-Context`, `ETag`, `If-Match`, `If-None-Match`.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use ringmaster_shared::{key::Key, version::VersionVector};

use super::desk::Desk;
use crate::{
    api::{Answer, ApiError},
    replication::coordinator::Condition,
};

/// Carries the context beside raw bytes, both ways.
const HEADER_CONTEXT: HeaderName = HeaderName::from_static("x-ring-context");

/// The condition of a write and the context it goes by. `in_body` is the body's context, which
/// goes before the header's.
pub fn of_write(
    desk: &Desk,
    key: &Key,
    headers: &HeaderMap,
    in_body: Option<&str>,
) -> Answer<(Condition, Option<VersionVector>)> {
    let condition = match (
        tag(headers, &header::IF_MATCH)?,
        tag(headers, &header::IF_NONE_MATCH)?,
    ) {
        (None, None) => Condition::Always,
        (Some("*"), None) => Condition::Present,
        (Some(token), None) => Condition::Exactly(desk.seen(key, token)?),
        (None, Some("*")) => Condition::Absent,
        (None, Some(_)) => {
            return Err(ApiError::bad_request(
                "If-None-Match of a write takes only *: write when the key is absent",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request(
                "give either If-Match or If-None-Match, not both",
            ));
        }
    };
    let in_header = headers
        .get(HEADER_CONTEXT)
        .map(|v| v.to_str().unwrap_or("?"));
    let context = in_body.or(in_header);
    if matches!(condition, Condition::Exactly(_)) && context.is_some() {
        return Err(ApiError::bad_request(
            "give the context once: If-Match already supersedes exactly what it names",
        ));
    }
    let context = context.map(|token| desk.seen(key, token)).transpose()?;
    Ok((condition, context))
}

/// Whether the reader says it has this version already.
pub fn is_known(headers: &HeaderMap, token: &str) -> Answer<bool> {
    let known = tag(headers, &header::IF_NONE_MATCH)?;
    Ok(known.is_some_and(|known| known == "*" || known == token))
}

/// The one entity tag of a header, without its quotes.
fn tag<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Answer<Option<&'a str>> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else {
        return Ok(None);
    };
    let wrong = || {
        ApiError::bad_request(format!(
            "{name} takes one ETag of an earlier answer, in quotes, or *"
        ))
    };
    if all.next().is_some() {
        return Err(wrong());
    }
    let text = first.to_str().map_err(|_| wrong())?.trim();
    let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let bare = quoted.unwrap_or(text);
    let odd = |c: char| c == '"' || c == ',' || c.is_whitespace();
    if bare.is_empty() || bare.contains(odd) || (quoted.is_some() && bare == "*") {
        return Err(wrong());
    }
    Ok(Some(bare))
}

/// Says which version an answer is.
pub fn mark(mut answer: Response, token: &str, raw: bool) -> Response {
    let headers = answer.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{token}\"")) {
        headers.insert(header::ETAG, tag);
    }
    if raw && let Ok(token) = HeaderValue::from_str(token) {
        headers.insert(HEADER_CONTEXT, token);
    }
    answer
}

/// The reader has it already.
pub fn not_modified(token: &str) -> Response {
    mark(StatusCode::NOT_MODIFIED.into_response(), token, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_strictly() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, value.parse().expect("a header"));
            }
            let tag = tag(&headers, &header::IF_MATCH).map_err(|_| ());
            tag.map(|t| t.map(str::to_owned))
        };
        assert_eq!(read(&[]), Ok(None));
        for good in ["\"abc-_\"", "abc-_", " \"abc-_\" "] {
            assert_eq!(read(&[good]), Ok(Some("abc-_".to_owned())), "{good}");
        }
        assert_eq!(read(&["*"]), Ok(Some("*".to_owned())));
        for bad in ["", "\"\"", "\"*\"", "\"a\", \"b\"", "W/\"a\"", "\"a", "a b"] {
            assert_eq!(read(&[bad]), Err(()), "{bad}");
        }
        assert_eq!(read(&["a", "b"]), Err(()));
    }
}
