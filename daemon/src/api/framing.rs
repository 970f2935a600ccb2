//! What every answer has: a request id, the epoch, the one error format, a count.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use futures_util::FutureExt;
use ringmaster_shared::{
    api::{HEADER_REQUEST_ID, HEADER_RING_EPOCH},
    error::ErrorCode,
    id::Epoch,
};

use super::{ApiError, no_such_path, wrong_method};
use crate::metrics::Metrics;

const REQUEST_ID: HeaderName = HeaderName::from_static(HEADER_REQUEST_ID);
const RING_EPOCH: HeaderName = HeaderName::from_static(HEADER_RING_EPOCH);
/// Longest id taken over from a client, characters.
const REQUEST_ID_MAX: usize = 64;

/// What framing needs to know of the node.
#[derive(Clone)]
pub struct Frame {
    pub metrics: Arc<Metrics>,
    pub epoch: Arc<dyn Fn() -> Epoch + Send + Sync>,
}

pub fn wrap(routes: Router, frame: Frame) -> Router {
    routes
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(frame, around))
}

async fn around(State(frame): State<Frame>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _in_flight = frame.metrics.request_guard();
    let method = method_name(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |p| p.as_str().to_owned());
    let request_id = request_id(&request);
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        // whoever refuses further in names the same request
        request.headers_mut().insert(REQUEST_ID, id);
    }
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let response = answer.unwrap_or_else(|_| {
        tracing::error!("a bug: {method} {route} panicked (request {request_id})");
        ApiError::new(
            ErrorCode::Internal,
            format!("a bug in ringd; its log says more about request {request_id}"),
        )
        .render(&request_id)
    });
    let mut response = in_one_format(response, &request_id);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(RING_EPOCH, HeaderValue::from((frame.epoch)()));
    let code = response.status().as_u16();
    frame
        .metrics
        .answered(method, &route, code, started.elapsed());
    response
}

/// Renders [`ApiError`]s, and errors that axum made by itself.
fn in_one_format(mut response: Response, request_id: &str) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let mut rendered = error.render(request_id);
        // what the handler added to its refusal; the length is that of the empty one
        for (name, value) in response.headers() {
            if name != header::CONTENT_LENGTH && !rendered.headers().contains_key(name) {
                rendered.headers_mut().append(name, value.clone());
            }
        }
        return rendered;
    }
    let status = response.status();
    let typed = response.headers().contains_key(header::CONTENT_TYPE) && !is_plain_text(&response);
    if typed || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let code = match status {
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        StatusCode::REQUEST_TIMEOUT => ErrorCode::RequestTimeout,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
        StatusCode::URI_TOO_LONG => ErrorCode::UriTooLong,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ErrorCode::HeadTooLarge,
        StatusCode::MISDIRECTED_REQUEST => ErrorCode::WrongCluster,
        StatusCode::UPGRADE_REQUIRED => ErrorCode::UpgradeRequired,
        StatusCode::SERVICE_UNAVAILABLE => ErrorCode::NotServing,
        s if s.is_client_error() => ErrorCode::BadRequest,
        _ => ErrorCode::Internal,
    };
    let reason = status.canonical_reason().unwrap_or("error");
    ApiError::new(code, format!("the request was refused: {reason}")).render(request_id)
}

fn is_plain_text(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|k| k.as_bytes().starts_with(b"text/plain"))
}

/// The client's own id when it is harmless, else a new one.
fn request_id(request: &Request) -> String {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|v| v.to_str().ok())
        .filter(|id| {
            let harmless = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
            (1..=REQUEST_ID_MAX).contains(&id.len()) && id.chars().all(harmless)
        });
    // from the thread's own generator: a system call for each request would be a waste
    let drawn = || uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    given.map_or_else(|| drawn().simple().to_string(), str::to_owned)
}

/// A fixed set, so that clients cannot grow the metrics.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use http_body_util::BodyExt;
    use ringmaster_shared::error::ErrorBody;
    use tower::ServiceExt;

    use super::*;

    fn router() -> Router {
        let routes = Router::new()
            .route("/ok", get(async || "fine").put(async || "put"))
            .route(
                "/panic",
                get(async || -> &'static str { panic!("on purpose") }),
            )
            .route("/text", get(async || (StatusCode::BAD_REQUEST, "plain")))
            .route(
                "/named",
                get(async || {
                    let refusal = ApiError::new(ErrorCode::NotServing, "not yet");
                    ([("x-ring-node", "node-1")], refusal)
                }),
            )
            .route(
                "/busy",
                get(async || ApiError::new(ErrorCode::TooBusy, "no").retry_after(3)),
            );
        let frame = Frame {
            metrics: Arc::new(Metrics::new()),
            epoch: Arc::new(|| 7),
        };
        wrap(routes, frame)
    }

    async fn ask(method: &str, path: &str, id: &str) -> Response {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HEADER_REQUEST_ID, id)
            .body(Body::empty())
            .expect("valid");
        router().oneshot(request).await.expect("infallible")
    }

    #[tokio::test]
    async fn every_error_has_the_one_format() {
        let cases = [
            ("GET", "/nothing", 404, ErrorCode::NotFound),
            ("POST", "/ok", 405, ErrorCode::MethodNotAllowed),
            ("GET", "/panic", 500, ErrorCode::Internal),
            ("GET", "/text", 400, ErrorCode::BadRequest),
            ("GET", "/busy", 429, ErrorCode::TooBusy),
        ];
        for (method, path, status, code) in cases {
            let response = ask(method, path, "my-id").await;
            assert_eq!(response.status(), status, "{method} {path}");
            let header = |name: &str| {
                let value = response.headers().get(name)?;
                value.to_str().ok().map(str::to_owned)
            };
            assert_eq!(header("x-request-id").as_deref(), Some("my-id"));
            assert_eq!(header("x-ring-epoch").as_deref(), Some("7"));
            let allow = (status == 405).then_some("GET,HEAD,PUT");
            assert_eq!(header("allow").as_deref(), allow);
            let retry = (status == 429).then_some("3");
            assert_eq!(header("retry-after").as_deref(), retry);
            let bytes = response.into_body().collect().await.expect("whole");
            let body: ErrorBody = serde_json::from_slice(&bytes.to_bytes()).expect("the format");
            assert_eq!((body.code, body.request_id.as_str()), (code, "my-id"));
        }
    }

    #[tokio::test]
    async fn headers_of_a_refusal_are_kept_but_not_its_length() {
        let response = ask("GET", "/named", "id").await;
        assert_eq!(response.status(), 503);
        let headers = response.headers().clone();
        assert_eq!(headers.get("x-ring-node").expect("kept"), "node-1");
        let body = response.into_body().collect().await.expect("whole");
        let length = body.to_bytes().len().to_string();
        let told = headers.get(header::CONTENT_LENGTH);
        assert!(told.is_none_or(|told| *told == *length), "{told:?}");
    }

    #[tokio::test]
    async fn odd_request_ids_are_replaced() {
        let response = ask("GET", "/ok", "a b\"c").await;
        assert_eq!(response.status(), 200);
        let id = response.headers().get("x-request-id").expect("an id");
        assert_eq!(id.len(), 32);
    }
}
