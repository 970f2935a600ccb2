//! Reading and writing through the published fields.

use reqwest::Method;
use ringmaster_shared::{
    api::data::{ListResponse, ReadResponse, ReplicasResponse, WriteResponse},
    error::ErrorCode,
};
use serde_json::json;

use crate::support::{
    cluster::Cluster,
    raw,
    wait::{GENEROUS, eventually},
};

#[tokio::test]
async fn values_keep_their_form() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(0);
    let values = [
        json!(null),
        json!(false),
        json!(0),
        json!("cluster operational"),
        json!("\u{0} \u{1f98a} \" \\"),
        json!([1, [2.5, {"a": []}]]),
        json!({"b": 1, "a": {"": null}}),
    ];
    for (n, value) in values.iter().enumerate() {
        let key = format!("form-{n}");
        let reply = api.put(&key, value).await.expect("answered");
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(
            api.value(&key).await.expect("answered").as_ref(),
            Some(value)
        );
    }
    let long = "{\"value\": 123456789012345678901234567890.10}";
    let port = cluster.nodes[0].port;
    let headers = "content-type: application/json\r\n";
    let put = raw::request(port, "PUT", "/api/v1/data/n", headers, long.as_bytes()).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let read = api.read("n").await.expect("answered").text();
    assert!(
        read.contains("123456789012345678901234567890.10"),
        "digit for digit: {read}"
    );
}

#[tokio::test]
async fn keys_may_hold_anything_once_encoded() {
    let cluster = Cluster::start(1).await;
    let (api, port) = (cluster.api(0), cluster.nodes[0].port);
    let keys = [
        "a%2Fb",
        "%C3%A4",
        "%20",
        "a%00b",
        "%25",
        "test:cluster",
        "...",
    ];
    let decoded = ["a/b", "ä", " ", "a\0b", "%", "test:cluster", "..."];
    let headers = "content-type: application/json\r\n";
    for key in keys {
        let path = format!("/api/v1/data/{key}");
        let put = raw::request(port, "PUT", &path, headers, b"{\"value\": 7}").await;
        assert_eq!(put.status, 200, "{key}: {}", put.text());
        let read = raw::request(port, "GET", &path, "", b"").await;
        let read: ReadResponse = read.json().expect("there");
        assert_eq!(read.value, json!(7), "{key}");
    }
    let list: ListResponse = api.get("/api/v1/data").await.expect("answered");
    let mut want: Vec<&str> = decoded.to_vec();
    want.sort_unstable();
    assert_eq!(list.keys, want, "in byte order");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(0);
    let mut want = Vec::new();
    for n in 0..25 {
        let key = format!("page-{n:02}");
        cluster.write(0, &key, &json!(n), GENEROUS).await;
        want.push(key);
    }
    cluster.write(0, "unlisted", &json!(0), GENEROUS).await;
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let after: Option<String> = cursor.take();
        let after = after.map(|c| format!("&cursor={c}")).unwrap_or_default();
        let path = format!("/api/v1/data?prefix=page-&limit=10{after}");
        let page: ListResponse = api.get(&path).await.expect("answered");
        assert!(page.keys.len() <= 10);
        found.extend(page.keys);
        assert!(found.len() <= want.len(), "pages repeat themselves");
        match page.cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(found, want);
}

#[tokio::test]
async fn a_cursor_survives_the_loss_of_the_node_that_gave_it() {
    let mut cluster = Cluster::start(3).await;
    let mut want = Vec::new();
    for n in 0..30 {
        let key = format!("page-{n:02}");
        cluster.write(n % 3, &key, &json!(n), GENEROUS).await;
        want.push(key);
    }
    let first: ListResponse = cluster
        .api(2)
        .get("/api/v1/data?limit=10")
        .await
        .expect("answered");
    assert_eq!(first.keys, want[..10]);
    cluster.nodes[2].kill9();

    // at once: the others may not have noticed yet
    let (mut found, mut cursor) = (first.keys, first.cursor);
    let mut through = 0;
    while let Some(after) = cursor.take() {
        let path = format!("/api/v1/data?limit=10&cursor={after}");
        let api = cluster.api(through % 2);
        through += 1;
        let page: ListResponse = eventually("the next page", GENEROUS, async || {
            api.get(&path).await.map_err(|e| format!("{e:#}"))
        })
        .await;
        found.extend(page.keys);
        assert!(found.len() <= want.len(), "pages repeat themselves");
        cursor = page.cursor;
    }
    assert_eq!(found, want);
}

#[tokio::test]
async fn contexts_supersede_what_was_read_and_nothing_else() {
    let cluster = Cluster::start(3).await;
    let put = async |node: usize, value: u64, context: Option<&str>| {
        let body = match context {
            Some(context) => json!({"value": value, "context": context}),
            None => json!({ "value": value }),
        };
        let path = "/api/v1/data/siblings";
        let reply = cluster.api(node).send(Method::PUT, path, Some(&body)).await;
        let reply = reply.expect("answered");
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json::<WriteResponse>().expect("written").context
    };
    let read = async |node: usize| {
        let reply = cluster.api(node).read("siblings").await.expect("answered");
        reply.json::<ReadResponse>().expect("there")
    };
    let first = put(0, 1, None).await;
    put(1, 2, Some(&first)).await;
    // another client that had seen only the first
    put(2, 3, Some(&first)).await;
    let both = read(0).await;
    let siblings = both.siblings.expect("neither was dropped");
    let mut values: Vec<_> = siblings.iter().filter_map(|s| s.value.clone()).collect();
    assert_eq!(values.first(), Some(&both.value), "the winner comes first");
    values.sort_by_key(serde_json::Value::as_u64);
    assert_eq!(values, [json!(2), json!(3)]);
    // who has seen both supersedes both
    put(1, 4, Some(&both.context)).await;
    let one = read(2).await;
    assert_eq!((one.value, one.siblings), (json!(4), None));
    // and a plain write whatever is there
    put(0, 5, Some(&first)).await;
    put(2, 6, None).await;
    let one = read(1).await;
    assert_eq!((one.value, one.siblings), (json!(6), None));
}

#[tokio::test]
async fn deleted_keys_stay_deleted_and_may_come_back() {
    let cluster = Cluster::start(3).await;
    let path = "/api/v1/data/gone";
    cluster.write(0, "gone", &json!("here"), GENEROUS).await;
    let deleted = cluster.api(1).send(Method::DELETE, path, None).await;
    let deleted = deleted.expect("answered");
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    for node in 0..3 {
        let reply = cluster.api(node).read("gone").await.expect("answered");
        assert_eq!(reply.error().code, ErrorCode::KeyNotFound);
    }
    let list: ListResponse = cluster.api(2).get("/api/v1/data").await.expect("answered");
    assert!(list.keys.is_empty(), "{:?}", list.keys);
    cluster.write(2, "gone", &json!("again"), GENEROUS).await;
    cluster.reads(0, "gone", &json!("again")).await;
}

#[tokio::test]
async fn answers_name_replicas_and_levels() {
    let cluster = Cluster::start(3).await;
    let api = cluster.api(0);
    let reply = api.put("k", &json!(1)).await.expect("answered");
    for header in ["x-request-id", "x-ring-epoch"] {
        assert!(reply.headers.contains_key(header), "{header}");
    }
    let written: WriteResponse = reply.json().expect("written");
    assert_eq!(written.replication_nodes.len(), 3);
    assert_eq!(written.responsible_node, written.replication_nodes[0]);
    assert!(written.replication_result.quorum_achieved);
    assert!(written.replication_result.successful_nodes.len() >= 2);
    for level in ["one", "quorum", "all"] {
        let path = format!("/api/v1/data/k?consistency={level}");
        let body = json!({"value": level});
        let put = api.send(Method::PUT, &path, Some(&body)).await;
        assert_eq!(put.expect("answered").status, 200, "{level}");
        let read: ReadResponse = api.get(&path).await.expect("answered");
        if level != "one" {
            assert_eq!(read.value, json!(level));
        }
        let enough = if level == "all" { 3 } else { 1 };
        assert!(read.read_result.nodes_responded.len() >= enough, "{level}");
    }
    let replicas: ReplicasResponse = api.get("/api/v1/data/k/replicas").await.expect("answered");
    assert_eq!(replicas.replicas.len(), 3);
    assert!(replicas.replicas.iter().all(|r| r.present));
}
