//! A client that chains its writes by the tokens of their answers, without reading in between,
//! never drops a sibling that it was not shown.

use reqwest::Method;
use ringmaster_shared::api::data::{ReadResponse, WriteResponse};
use serde_json::{Value, json};

use crate::support::{client::Api, cluster::Cluster};

/// Writes with a token; the answer's token.
async fn put(api: &Api, key: &str, value: u64, token: Option<&str>) -> String {
    let mut body = json!({ "value": value });
    if let Some(token) = token {
        body["context"] = token.into();
    }
    let path = format!("/api/v1/data/{key}");
    let reply = api.send(Method::PUT, &path, Some(&body)).await;
    let answer: WriteResponse = reply.expect("answered").json().expect("written");
    answer.context
}

async fn read(api: &Api, key: &str) -> (String, Vec<u64>) {
    let reply = api.read(key).await.expect("answered");
    let read: ReadResponse = reply.json().expect("there");
    let siblings = read.siblings.unwrap_or_default();
    let values = siblings.iter().filter_map(|s| s.value.as_ref());
    let mut values: Vec<u64> = values.filter_map(Value::as_u64).collect();
    if values.is_empty() {
        values.extend(read.value.as_u64());
    }
    values.sort_unstable();
    (read.context, values)
}

#[tokio::test]
async fn a_chain_of_writes_drops_nothing_unseen() {
    let cluster = Cluster::start(3).await;
    // the other client writes through the same node, or through another
    for (key, other) in [("apart", 1), ("together", 0)] {
        let (ours, theirs) = (cluster.api(0), cluster.api(other));
        put(&ours, key, 1, None).await;
        let (token, _) = read(&ours, key).await;
        // beside us, and we do not read again
        put(&theirs, key, 2, None).await;
        let token = put(&ours, key, 3, Some(&token)).await;
        put(&ours, key, 4, Some(&token)).await;
        let (token, values) = read(&theirs, key).await;
        assert!(
            values.contains(&2),
            "{key}: nobody who saw 2 replaced it: {values:?}"
        );
        assert!(
            values.contains(&4) && !values.contains(&1),
            "{key}: {values:?}"
        );
        if other != 0 {
            assert_eq!(values, [2, 4], "{key}: a chain supersedes itself");
        }
        // and who has seen all of it settles it
        put(&ours, key, 5, Some(&token)).await;
        let (_, values) = read(&theirs, key).await;
        assert_eq!(values, [5], "{key}");
    }
}
