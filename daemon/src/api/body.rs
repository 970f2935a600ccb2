//! Request bodies: bounded in size, in time and in sum, then parsed strictly.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, header, response::Parts},
    response::Response,
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ringmaster_shared::error::ErrorCode;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Answer, ApiError, admission::Admission};

/// Enough for any order, bytes.
pub const ORDER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a body that is too large that are read and thrown away, so that the client gets to
/// see the answer instead of a reset connection.
const DISCARD_MAX: u64 = 8 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Bounds on bodies; shared by all requests.
#[derive(Clone)]
pub struct BodyLimits {
    /// Kibibytes of bodies that may be held at once.
    budget: Arc<Semaphore>,
    deadline: Duration,
}

/// A whole body, counted against the budget while it is held.
#[derive(Debug)]
pub struct Held {
    pub bytes: Bytes,
    share: OwnedSemaphorePermit,
}

/// Bytes of an answer with their share; lives as long as any slice of them.
struct Counted {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn counted(parts: Parts, bytes: Bytes, share: OwnedSemaphorePermit) -> Response {
    let counted = Bytes::from_owner(Counted {
        bytes,
        _share: share,
    });
    Response::from_parts(parts, Body::from(counted))
}

async fn whole(response: Response) -> Answer<(Parts, Bytes)> {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(|e| {
        ApiError::new(
            ErrorCode::Internal,
            format!("the answer cannot be written: {e}"),
        )
    })?;
    Ok((parts, bytes.to_bytes()))
}

impl Held {
    /// Hands the share on to an answer that repeats the body.
    pub async fn answer(self, response: Response) -> Answer<Response> {
        let (parts, bytes) = whole(response).await?;
        Ok(counted(parts, bytes, self.share))
    }
}

impl BodyLimits {
    pub fn new(total_bytes: usize, deadline: Duration) -> Self {
        Self {
            budget: Arc::new(Semaphore::new(total_bytes / 1024)),
            deadline,
        }
    }

    /// Turns a write away before its body takes memory, when its length is known and there would
    /// be no room for it. A body that is not too long is read and thrown away, so that the
    /// connection can be used again.
    pub async fn if_room(
        &self,
        admission: &Admission,
        headers: &HeaderMap,
        body: Body,
    ) -> Answer<Body> {
        let Some(length) = announced(headers) else {
            return Ok(body);
        };
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if let Err(refusal) = admission.look(bytes) {
            return Err(refused(body, length, refusal).await);
        }
        Ok(body)
    }

    /// Reads the whole body of at most `most` bytes.
    pub async fn read(&self, headers: &HeaderMap, body: Body, most: usize) -> Answer<Held> {
        let announced = announced(headers);
        if let Some(length) = announced.filter(|n| *n > most as u64) {
            return Err(refused(body, length, too_large(most)).await);
        }
        // without a length, the most it may become
        let share = announced.unwrap_or(most as u64).div_ceil(1024).max(1) as u32;
        let share = self
            .budget
            .clone()
            .try_acquire_many_owned(share)
            .map_err(|_| busy("request bodies fill the memory set aside for them").close())?;
        let whole = Limited::new(body, most).collect();
        match tokio::time::timeout(self.deadline, whole).await {
            Ok(Ok(bytes)) => Ok(Held {
                bytes: bytes.to_bytes(),
                share,
            }),
            Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_large(most).close()),
            Ok(Err(_)) => {
                Err(ApiError::new(ErrorCode::BadBody, "the body broke off before its end").close())
            }
            Err(_) => Err(ApiError::new(
                ErrorCode::RequestTimeout,
                format!(
                    "the body did not arrive within {}",
                    crate::config::in_words(self.deadline)
                ),
            )
            .close()),
        }
    }

    /// Counts an answer against the budget until the last of its bytes is taken by the client:
    /// many who ask for much and read nothing must not fill the memory.
    pub async fn answer(&self, response: Response) -> Answer<Response> {
        let (parts, bytes) = whole(response).await?;
        let share = bytes.len().div_ceil(1024) as u32;
        let share = self
            .budget
            .clone()
            .try_acquire_many_owned(share)
            .map_err(|_| busy("answers that clients do not take fill the memory set aside"))?;
        Ok(counted(parts, bytes, share))
    }

    /// The body of an order; empty means `T::default()`.
    pub async fn order<T: DeserializeOwned + Default>(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Answer<T> {
        let held = self.read(headers, body, ORDER_BYTES_MAX).await?;
        if held.bytes.trim_ascii().is_empty() {
            return Ok(T::default());
        }
        parse(headers, &held.bytes)
    }

    /// The body of a request that needs one.
    pub async fn json<T: DeserializeOwned>(&self, headers: &HeaderMap, body: Body) -> Answer<T> {
        let held = self.read(headers, body, ORDER_BYTES_MAX).await?;
        parse(headers, &held.bytes)
    }
}

/// A JSON object that came as one.
pub fn parse<'a, T: Deserialize<'a>>(headers: &HeaderMap, bytes: &'a [u8]) -> Answer<T> {
    if media_type(headers)? != Media::Json {
        return Err(unsupported("application/octet-stream"));
    }
    object(bytes)?;
    serde_json::from_slice(bytes).map_err(|e| bad_json(&e))
}

/// serde would take an array for a struct, field by field in order.
pub fn object(bytes: &[u8]) -> Answer<()> {
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        return Ok(());
    }
    let why = "the body is not what this path takes: it must be a JSON object, {...}";
    Err(ApiError::new(ErrorCode::BadBody, why))
}

pub fn bad_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(
        ErrorCode::BadBody,
        format!("the body is not what this path takes: {error}"),
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Raw,
}

/// Nothing said means JSON.
pub fn media_type(headers: &HeaderMap) -> Answer<Media> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Media::Json);
    };
    let text = value.to_str().unwrap_or("?");
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let utf8 = parts
        .filter_map(|p| p.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .all(|(_, set)| {
            let set = set.trim().trim_matches('"');
            set.eq_ignore_ascii_case("utf-8") || set.eq_ignore_ascii_case("utf8")
        });
    match kind.as_str() {
        "application/octet-stream" => Ok(Media::Raw),
        "application/json" if utf8 => Ok(Media::Json),
        _ => Err(unsupported(text)),
    }
}

fn unsupported(given: &str) -> ApiError {
    let given: String = given.chars().take(100).collect();
    ApiError::new(
        ErrorCode::UnsupportedMediaType,
        format!(
            "Content-Type {given:?} is not taken here; send application/json in UTF-8 (curl: -H 'Content-Type: application/json'), or a value as application/octet-stream"
        ),
    )
}

pub fn busy(why: &str) -> ApiError {
    ApiError::new(ErrorCode::TooBusy, format!("{why}; try again shortly")).retry_after(1)
}

fn too_large(most: usize) -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!("the body is larger than the {most} bytes this path takes"),
    )
    .details(serde_json::json!({"limit_bytes": most}))
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// A refusal, after which the connection can be used again only if the body was read to its end.
async fn refused(body: Body, length: u64, refusal: ApiError) -> ApiError {
    if discard(body, length).await {
        refusal
    } else {
        refusal.close()
    }
}

/// Reads what is left of a body; whether it came to its end.
async fn discard(mut body: Body, length: u64) -> bool {
    if length > DISCARD_MAX {
        return false;
    }
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    let ended = tokio::time::timeout(DISCARD_TIME, all).await;
    ended.is_ok() && body.is_end_stream()
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use ringmaster_shared::api::admin::StandbyOrder;

    use super::*;

    fn limits() -> BodyLimits {
        BodyLimits::new(64 * 1024, Duration::from_millis(50))
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| {
                let name = axum::http::HeaderName::from_static(k);
                (name, v.parse().expect("a header value"))
            })
            .collect()
    }

    #[tokio::test]
    async fn bodies_are_bounded_in_size_and_time() {
        let code = |r: Answer<Held>| r.map(|h| h.bytes.len()).map_err(|e| e.code());
        let none = HeaderMap::new();
        let read = |h: &HeaderMap, b: Body| {
            let (limits, h) = (limits(), h.clone());
            async move { code(limits.read(&h, b, 10).await) }
        };
        assert_eq!(read(&none, Body::from("0123456789")).await, Ok(10));
        assert_eq!(
            read(&none, Body::from("0123456789x")).await,
            Err(ErrorCode::TooLarge)
        );
        let announced = headers(&[("content-length", "11")]);
        assert_eq!(
            read(&announced, Body::from("0123456789x")).await,
            Err(ErrorCode::TooLarge)
        );
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(&none, silent).await, Err(ErrorCode::RequestTimeout));
        let broken = Body::from_stream(stream::iter([
            Ok(Bytes::from("a")),
            Err(std::io::Error::other("gone")),
        ]));
        assert_eq!(read(&none, broken).await, Err(ErrorCode::BadBody));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_body_is_thrown_away_only_within_bounds() {
        let silent = || stream::pending::<Result<Bytes, std::io::Error>>();
        let over = (DISCARD_MAX + 1).to_string();
        let cases = [
            ("11", Body::from("0123456789x"), false),
            ("11", Body::from_stream(silent()), true),
            (over.as_str(), Body::from_stream(silent()), true),
        ];
        for (length, body, closes) in cases {
            let announced = headers(&[("content-length", length)]);
            let began = tokio::time::Instant::now();
            let refusal = limits().read(&announced, body, 10).await;
            assert!(began.elapsed() <= DISCARD_TIME, "{length}");
            let answer = refusal.expect_err("too large").render("id");
            assert_eq!(answer.status(), 413);
            let close = answer.headers().contains_key(header::CONNECTION);
            assert_eq!(close, closes, "{length}");
        }
    }

    #[tokio::test]
    async fn the_sum_of_bodies_is_bounded() {
        let limits = limits();
        let big = headers(&[("content-length", "40000")]);
        let body = || Body::from(vec![b'x'; 40_000]);
        let first = limits.read(&big, body(), 50_000).await.expect("fits");
        let second = limits.read(&big, body(), 50_000).await;
        assert_eq!(second.expect_err("full").code(), ErrorCode::TooBusy);
        drop(first);
        assert!(limits.read(&big, body(), 50_000).await.is_ok());
    }

    #[tokio::test]
    async fn answers_count_until_they_are_taken() {
        let limits = limits();
        let answer = || Response::new(Body::from(vec![b'x'; 40_000]));
        let first = limits.answer(answer()).await.expect("fits");
        // as a server does: the body is dropped, its bytes wait to be written
        let waiting = first.into_body().collect().await.expect("whole").to_bytes();
        assert_eq!(waiting.len(), 40_000);
        let second = limits.answer(answer()).await;
        assert_eq!(second.expect_err("full").code(), ErrorCode::TooBusy);
        drop(waiting);
        assert!(limits.answer(answer()).await.is_ok());
    }

    #[tokio::test]
    async fn orders_are_read_strictly() {
        let json = headers(&[("content-type", "application/json")]);
        let order = |h: &HeaderMap, text: &'static str| {
            let (limits, h) = (limits(), h.clone());
            async move {
                limits
                    .order::<StandbyOrder>(&h, Body::from(text))
                    .await
                    .map_err(|e| e.code())
            }
        };
        let form = headers(&[("content-type", "application/x-www-form-urlencoded")]);
        assert_eq!(order(&form, "").await, Ok(StandbyOrder::default()));
        let held = order(&json, "{\"hold_seconds\": 5}").await.expect("valid");
        assert_eq!(held.hold_seconds, Some(5));
        assert_eq!(order(&json, "{\"hold\": 5}").await, Err(ErrorCode::BadBody));
        assert_eq!(order(&json, "{").await, Err(ErrorCode::BadBody));
        assert_eq!(order(&json, "[5]").await, Err(ErrorCode::BadBody));
        assert_eq!(
            order(&form, "{}").await,
            Err(ErrorCode::UnsupportedMediaType)
        );
    }

    #[test]
    fn media_types() {
        let kind = |t: &str| media_type(&headers(&[("content-type", t)])).map_err(|e| e.code());
        assert_eq!(kind("application/json"), Ok(Media::Json));
        assert_eq!(kind("Application/JSON; charset=\"UTF-8\""), Ok(Media::Json));
        assert_eq!(kind("application/octet-stream"), Ok(Media::Raw));
        for bad in ["application/json; charset=latin1", "text/plain", ""] {
            assert_eq!(kind(bad), Err(ErrorCode::UnsupportedMediaType), "{bad:?}");
        }
        assert_eq!(
            media_type(&HeaderMap::new()).map_err(|e| e.code()),
            Ok(Media::Json)
        );
    }
}
