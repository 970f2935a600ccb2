//! Contexts and conditions: what is taken, what is refused, and what the answers say.

use reqwest::Method;
use ringmaster_shared::{
    api::data::{ReadResponse, WriteResponse},
    error::ErrorCode,
};
use serde_json::{Value, json};

use crate::support::{
    client::{Api, Reply},
    cluster::Cluster,
    wait::GENEROUS,
};

const PATH: &str = "/api/v1/data/k";

fn etag(reply: &Reply) -> String {
    let tag = reply.headers.get("etag").expect("an ETag");
    tag.to_str().expect("text").to_owned()
}

async fn put(api: &Api, headers: &[(&str, &str)], body: Value) -> Reply {
    let sent = api.send_with(Method::PUT, PATH, headers, Some(&body)).await;
    sent.expect("answered")
}

#[tokio::test]
async fn a_write_goes_by_exactly_what_was_read() {
    let cluster = Cluster::start(3).await;
    cluster.write(0, "k", &json!(1), GENEROUS).await;
    let read = cluster.api(1).read("k").await.expect("answered");
    let tag = etag(&read);
    let body: ReadResponse = read.json().expect("a read");
    assert_eq!(tag, format!("\"{}\"", body.context));

    let known = [("if-none-match", tag.as_str())];
    let reader = cluster.api(2);
    let again = reader.send_with(Method::GET, PATH, &known, None).await;
    let again = again.expect("answered");
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(etag(&again), tag);

    let swapped = put(&cluster.api(2), &[("if-match", &tag)], json!({"value": 2})).await;
    assert_eq!(swapped.status, 200, "{}", swapped.text());
    let written: WriteResponse = swapped.json().expect("a write");
    assert_eq!(etag(&swapped), format!("\"{}\"", written.context));

    let late = put(&cluster.api(0), &[("if-match", &tag)], json!({"value": 3})).await;
    let error = late.error();
    assert_eq!(error.code, ErrorCode::PreconditionFailed);
    assert_eq!(error.details["context"], written.context, "what it is now");
    assert_eq!(error.details["outcome"], "none");
    cluster.reads(0, "k", &json!(2)).await;

    // what the answer to a write says is as good as what a read says
    let now = etag(&swapped);
    let deleter = cluster.api(1);
    let headers = [("if-match", now.as_str())];
    let deleted = deleter
        .send_with(Method::DELETE, PATH, &headers, None)
        .await;
    assert_eq!(deleted.expect("answered").status, 200);
    let any = put(&cluster.api(0), &[("if-match", "*")], json!({"value": 4})).await;
    let error = any.error();
    assert_eq!(error.code, ErrorCode::PreconditionFailed);
    assert_eq!(error.details["exists"], false);
    let created = put(
        &cluster.api(0),
        &[("if-none-match", "*")],
        json!({"value": 5}),
    )
    .await;
    assert_eq!(created.status, 200, "{}", created.text());
    let twice = put(
        &cluster.api(2),
        &[("if-none-match", "*")],
        json!({"value": 6}),
    )
    .await;
    assert_eq!(twice.error().details["exists"], true);
    let any = put(&cluster.api(0), &[("if-match", "*")], json!({"value": 7})).await;
    assert_eq!(any.status, 200, "{}", any.text());
}

#[tokio::test]
async fn conditions_that_make_no_sense_are_refused() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(0);
    let put_k = |headers, body| put(&api, headers, body);
    let first = put_k(&[], json!({"value": 1})).await;
    let tag = etag(&first);
    let context = tag.trim_matches('"').to_owned();
    let body = json!({"value": 2});
    let cases = [
        vec![("if-match", tag.as_str()), ("if-none-match", "*")],
        vec![("if-match", "\"a\", \"b\"")],
        vec![("if-match", "W/\"a\"")],
        vec![("if-match", "")],
        vec![("if-none-match", tag.as_str())],
        vec![("if-match", tag.as_str()), ("x-ring-context", &context)],
    ];
    for headers in &cases {
        let refused = put_k(headers, body.clone()).await;
        assert_eq!(refused.error().code, ErrorCode::BadRequest, "{headers:?}");
    }
    let both = json!({"value": 2, "context": context});
    let refused = put_k(&[("if-match", &tag)], both).await;
    assert_eq!(refused.error().code, ErrorCode::BadRequest);
    let one = format!("{PATH}?consistency=one");
    let headers = [("if-match", tag.as_str())];
    let refused = api
        .send_with(Method::PUT, &one, &headers, Some(&body))
        .await;
    assert_eq!(
        refused.expect("answered").error().code,
        ErrorCode::BadRequest
    );
    let absent = [("if-none-match", "*")];
    let refused = api.send_with(Method::DELETE, PATH, &absent, None).await;
    assert_eq!(
        refused.expect("answered").error().code,
        ErrorCode::BadRequest
    );
    cluster.reads(0, "k", &json!(1)).await;
}

#[tokio::test]
async fn contexts_of_elsewhere_are_refused() {
    let here = Cluster::start(1).await;
    let there = Cluster::start(1).await;
    for cluster in [&here, &there] {
        cluster.write(0, "k", &json!(1), GENEROUS).await;
    }
    here.write(0, "other", &json!(1), GENEROUS).await;
    let token = async |cluster: &Cluster, key: &str| {
        let read = cluster.api(0).read(key).await.expect("answered");
        read.json::<ReadResponse>().expect("a read").context
    };
    let mine = token(&here, "k").await;
    let mut edited = mine.clone().into_bytes();
    let last = edited.len() - 3;
    edited[last] = if edited[last] == b'A' { b'B' } else { b'A' };
    let edited = String::from_utf8(edited).expect("ascii");
    for (what, foreign) in [
        ("another key", token(&here, "other").await),
        ("another cluster", token(&there, "k").await),
        ("edited", edited),
        ("nonsense", "AAAA".to_owned()),
        ("too long", "A".repeat(17_000)),
    ] {
        let api = here.api(0);
        let in_body = put(&api, &[], json!({"value": 2, "context": foreign})).await;
        assert_eq!(in_body.error().code, ErrorCode::BadContext, "{what}");
        let tag = format!("\"{foreign}\"");
        let in_tag = put(&api, &[("if-match", &tag)], json!({"value": 2})).await;
        assert_eq!(in_tag.error().code, ErrorCode::BadContext, "{what}");
    }
    here.reads(0, "k", &json!(1)).await;
    let good = put(&here.api(0), &[], json!({"value": 2, "context": mine})).await;
    assert_eq!(good.status, 200);
}

#[tokio::test]
async fn siblings_are_bounded_and_told_of() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(0);
    let start = put(&api, &[], json!({"value": 0})).await;
    let old = etag(&start).trim_matches('"').to_owned();
    // the first covers the beginning, the rest only that again: each stays beside the others
    let mut refused = None;
    for n in 1..=120 {
        let reply = put(&api, &[], json!({"value": n, "context": old})).await;
        if reply.status != 200 {
            refused = Some((n, reply.error()));
            break;
        }
    }
    let (n, error) = refused.expect("bounded");
    assert_eq!((n, error.code), (101, ErrorCode::Conflict), "{error:?}");
    assert_eq!(error.details["siblings"], 100);
    let events: Value = api.get("/api/v1/events").await.expect("answered");
    let events = events["events"].as_array().expect("a list");
    let told: Vec<&Value> = events
        .iter()
        .filter(|e| e["code"] == "SIBLINGS_MANY")
        .collect();
    assert_eq!(told.len(), 1, "once a minute at most: {told:?}");
    assert_eq!(told[0]["details"]["siblings"], 25);

    let read = api.read("k").await.expect("answered");
    let read: ReadResponse = read.json().expect("a read");
    assert_eq!(read.siblings.expect("many").len(), 100);
    let settled = put(&api, &[], json!({"value": "all", "context": read.context})).await;
    assert_eq!(settled.status, 200, "{}", settled.text());
    let read: ReadResponse = api.get(PATH).await.expect("answered");
    assert_eq!((read.siblings, read.value), (None, json!("all")));
}
