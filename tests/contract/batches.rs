//! Several keys in one request.

use reqwest::Method;
use ringmaster_shared::{
    api::data::{BATCH_MAX, BatchResponse, ListResponse, ReadResponse, WriteResponse},
    error::{ErrorBody, ErrorCode},
};
use serde_json::{Value, json};

use crate::support::{client::Api, cluster::Cluster};

async fn batch(api: &Api, what: &str, body: &Value) -> BatchResponse {
    let path = format!("/api/v1/batch/{what}");
    let reply = api.send(Method::POST, &path, Some(body)).await;
    let reply = reply.expect("answered");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json().expect("a batch's answer")
}

#[tokio::test]
async fn each_key_has_the_answer_it_would_have_alone() {
    let cluster = Cluster::start(3).await;
    let entries: Vec<Value> = (0..40)
        .map(|n| json!({"key": format!("key/{n}"), "value": {"n": n}}))
        .chain([
            json!({"key": "", "value": 1}),
            json!({"key": "key/0", "value": 2, "context": "AAAA"}),
        ])
        .collect();
    let put = batch(&cluster.api(0), "put", &json!({ "entries": entries })).await;
    assert_eq!((put.succeeded, put.failed, put.results.len()), (40, 2, 42));
    for (n, result) in put.results.iter().take(40).enumerate() {
        assert_eq!(
            (result.key.as_str(), result.status),
            (&*format!("key/{n}"), 200)
        );
        let written: WriteResponse =
            serde_json::from_value(result.answer.clone()).expect("a write");
        assert!(written.replication_result.quorum_achieved);
    }
    for (n, code) in [(40, ErrorCode::BadKey), (41, ErrorCode::BadContext)] {
        let result = &put.results[n];
        let error: ErrorBody = serde_json::from_value(result.answer.clone()).expect("an error");
        assert_eq!((result.status, error.code), (400, code));
        assert!(!error.request_id.is_empty());
    }

    let keys = ["key/7", "missing", "key/3", "key/7"];
    let got = batch(&cluster.api(1), "get", &json!({ "keys": keys })).await;
    assert_eq!((got.succeeded, got.failed), (3, 1));
    let status: Vec<(&str, u16)> = got.results.iter().map(|r| (&*r.key, r.status)).collect();
    assert_eq!(
        status,
        [
            ("key/7", 200),
            ("missing", 404),
            ("key/3", 200),
            ("key/7", 200)
        ]
    );
    let read: ReadResponse = serde_json::from_value(got.results[2].answer.clone()).expect("a read");
    assert_eq!(read.value, json!({"n": 3}));
}

#[tokio::test]
async fn entries_of_one_key_are_applied_in_order() {
    let cluster = Cluster::start(3).await;
    let entries: Vec<Value> = (0..60)
        .map(|n| json!({"key": format!("k{}", n % 3), "value": n}))
        .collect();
    let put = batch(&cluster.api(2), "put", &json!({ "entries": entries })).await;
    assert_eq!(put.succeeded, 60);
    for (key, last) in [("k0", 57), ("k1", 58), ("k2", 59)] {
        cluster.reads(0, key, &json!(last)).await;
    }
}

#[tokio::test]
async fn batches_are_bounded_and_read_strictly() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(0);
    let send = async |what: &str, body: Value| {
        let path = format!("/api/v1/batch/{what}");
        let reply = api.send(Method::POST, &path, Some(&body)).await;
        reply.expect("answered")
    };
    let keys: Vec<String> = (0..=BATCH_MAX).map(|n| n.to_string()).collect();
    let entries: Vec<Value> = keys.iter().map(|k| json!({"key": k, "value": 1})).collect();
    for (what, body, code) in [
        ("get", json!({ "keys": keys }), ErrorCode::TooLarge),
        ("put", json!({ "entries": entries }), ErrorCode::TooLarge),
        ("get", json!({"keys": "k"}), ErrorCode::BadBody),
        ("get", json!(["k"]), ErrorCode::BadBody),
        (
            "put",
            json!({"entries": [{"key": "k"}]}),
            ErrorCode::BadBody,
        ),
        (
            "put",
            json!({"entries": [{"key": "k", "value": 1, "x": 1}]}),
            ErrorCode::BadBody,
        ),
    ] {
        assert_eq!(send(what, body).await.error().code, code, "{what}");
    }
    let list: ListResponse = api.get("/api/v1/data").await.expect("answered");
    assert!(list.keys.is_empty(), "nothing was stored: {:?}", list.keys);
    let none = batch(&api, "get", &json!({"keys": []})).await;
    assert_eq!((none.succeeded, none.failed), (0, 0));

    // large values do not crowd themselves out, and an answer has a bound
    let text = "x".repeat(1_000_000);
    for half in 0..2 {
        let entries: Vec<Value> = (0..12)
            .map(|n| json!({"key": format!("large-{half}-{n}"), "value": text}))
            .collect();
        let put = batch(&api, "put", &json!({ "entries": entries })).await;
        assert_eq!(put.succeeded, 12, "{:?}", put.results.last());
    }
    let keys: Vec<String> = (0..24)
        .map(|n| format!("large-{}-{}", n / 12, n % 12))
        .collect();
    let got = batch(&api, "get", &json!({ "keys": keys })).await;
    let refused: Vec<u16> = got
        .results
        .iter()
        .map(|r| r.status)
        .filter(|s| *s != 200)
        .collect();
    assert!(
        got.succeeded >= 12 && !refused.is_empty(),
        "{}",
        got.succeeded
    );
    assert!(refused.iter().all(|s| *s == 413), "{refused:?}");
}
