//! Values between their JSON form and what is stored.
//!
//! A JSON value is kept as the text the client sent, less white space, and shown again as that
//! text: numbers too long for a float come back digit for digit.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use ringmaster_shared::{
    api::data::{ReadResult, ReplicationResult},
    error::ErrorCode,
    id::NodeId,
    key::Key,
    version::{Record, Value},
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    api::{
        Answer, ApiError,
        body::{bad_json, object},
    },
    replication::coordinator::{ReadOutcome, WriteOutcome},
    time::timestamp_of_ms,
};

/// A parsed `PUT`.
#[derive(Debug)]
pub struct Put {
    pub value: Value,
    pub context: Option<String>,
}

/// `PutRequest` with the value as text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(default)]
    context: Option<String>,
}

/// `most`: bytes a value may have.
pub fn parse_put(body: &[u8], most: usize) -> Answer<Put> {
    if body.trim_ascii().is_empty() {
        let why = "the body is empty; send {\"value\": ...}";
        return Err(ApiError::new(ErrorCode::BadBody, why));
    }
    object(body)?;
    let put: PutBody = serde_json::from_slice(body).map_err(|e| bad_json(&e))?;
    Ok(Put {
        value: kept(put.value, most)?,
        context: put.context,
    })
}

/// A JSON value as it is stored.
pub fn kept(value: &RawValue, most: usize) -> Answer<Value> {
    // what no reader could parse again (nesting, lone surrogates, overflow) is refused now
    serde_json::from_str::<serde_json::Value>(value.get()).map_err(|e| bad_json(&e))?;
    let text = compact(value.get());
    if text.len() > most {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("the value has {} bytes, {most} are allowed", text.len()),
        )
        .details(serde_json::json!({"limit_bytes": most})));
    }
    Ok(Value::Json(Bytes::from(text)))
}

/// Valid JSON without white space between its tokens.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            in_string = !ends;
        } else if c == '"' {
            in_string = true;
        } else if matches!(c, ' ' | '\t' | '\r' | '\n') {
            continue;
        }
        out.push(c);
    }
    out
}

#[derive(Serialize)]
struct Base64 {
    base64: String,
}

/// The JSON form of a stored value.
fn shown(value: &Value) -> Answer<Box<RawValue>> {
    let broken = |e: serde_json::Error| {
        ApiError::new(
            ErrorCode::Internal,
            format!("a stored value is not JSON: {e}"),
        )
    };
    match value {
        Value::Json(text) => serde_json::from_slice(text).map_err(broken),
        Value::Raw(bytes) => to_raw_value(&Base64 {
            base64: STANDARD.encode(bytes),
        })
        .map_err(broken),
    }
}

/// `WriteResponse`, with the value as text.
#[derive(Serialize)]
pub struct WriteAnswer {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    context: String,
    responsible_node: Option<NodeId>,
    replication_nodes: Vec<NodeId>,
    replication_result: ReplicationResult,
    timestamp: i64,
}

pub fn write_answer(
    key: &Key,
    context: String,
    outcome: &WriteOutcome,
    value: Option<&Value>,
) -> Answer<WriteAnswer> {
    Ok(WriteAnswer {
        key: key.to_string(),
        value: value.map(shown).transpose()?,
        context,
        responsible_node: outcome.replicas.first().cloned(),
        replication_nodes: outcome.replicas.clone(),
        replication_result: ReplicationResult {
            successful_nodes: outcome.successful.clone(),
            failed_nodes: outcome.failed.clone(),
            quorum_achieved: outcome.quorum_achieved,
        },
        timestamp: Timestamp::now().as_second(),
    })
}

/// `ReadResponse`, with the values as text.
#[derive(Serialize)]
pub struct ReadAnswer {
    key: String,
    value: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    siblings: Option<Vec<SiblingAnswer>>,
    context: String,
    responsible_node: Option<NodeId>,
    replication_nodes: Vec<NodeId>,
    read_result: ReadResult,
    timestamp: i64,
}

/// `SiblingInfo`, with the value as text.
#[derive(Serialize)]
pub struct SiblingAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    written_at: Timestamp,
    node_id: NodeId,
}

pub fn read_answer(
    key: &Key,
    context: String,
    outcome: &ReadOutcome,
    value: &Value,
) -> Answer<ReadAnswer> {
    let concurrent = outcome.record.siblings.len() > 1;
    Ok(ReadAnswer {
        key: key.to_string(),
        value: shown(value)?,
        siblings: concurrent.then(|| siblings(&outcome.record)),
        context,
        responsible_node: outcome.replicas.first().cloned(),
        replication_nodes: outcome.replicas.clone(),
        read_result: read_result(outcome),
        timestamp: Timestamp::now().as_second(),
    })
}

pub fn read_result(outcome: &ReadOutcome) -> ReadResult {
    ReadResult {
        nodes_responded: outcome.responded.clone(),
        quorum_achieved: outcome.quorum_achieved,
        repaired: outcome.repaired.clone(),
    }
}

/// All versions, the winner first.
pub fn siblings(record: &Record) -> Vec<SiblingAnswer> {
    let mut all: Vec<_> = record.siblings.iter().collect();
    all.sort_by(|a, b| (b.hlc, &b.dot).cmp(&(a.hlc, &a.dot)));
    all.into_iter()
        .map(|s| SiblingAnswer {
            value: s.value.as_ref().and_then(|v| shown(v).ok()),
            written_at: timestamp_of_ms(s.hlc.unix_ms()),
            node_id: s.dot.actor.node.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::{
        api::data::{ReadResponse, WriteResponse},
        clock::Hlc,
        version::{Actor, Dot, Sibling},
    };

    use super::*;
    use crate::health::tests::id;

    fn stored(body: &str) -> Result<String, ErrorCode> {
        match parse_put(body.as_bytes(), 100).map_err(|e| e.code())?.value {
            Value::Json(text) => Ok(String::from_utf8(text.to_vec()).expect("UTF-8")),
            Value::Raw(_) => panic!("JSON is not raw"),
        }
    }

    #[test]
    fn json_values_are_kept_digit_for_digit() {
        let cases = [
            (
                r#"{"value":"cluster operational"}"#,
                r#""cluster operational""#,
            ),
            (r#"{"value": null}"#, "null"),
            (
                "{\"value\" : { \"a b\" : [ 1 , 2.50 ] }\n}",
                r#"{"a b":[1,2.50]}"#,
            ),
            (
                r#"{"value": 123456789012345678901234567890}"#,
                "123456789012345678901234567890",
            ),
            (
                r#"{"value": "a \" b \\", "context": null}"#,
                r#""a \" b \\""#,
            ),
            (r#"{"value": "\\\" x"}"#, r#""\\\" x""#),
        ];
        for (body, wants) in cases {
            assert_eq!(stored(body).as_deref(), Ok(wants), "{body}");
        }
    }

    #[test]
    fn bad_bodies_are_refused() {
        let deep = format!("{{\"value\": {}1{}}}", "[".repeat(200), "]".repeat(200));
        let surrogate = r#"{"value": "\ud800"}"#;
        for body in [
            "",
            "{}",
            "[]",
            "[1]",
            "5",
            "{\"value\"",
            "{\"value\": 1, \"valeu\": 2}",
            "{\"value\": 1, \"value\": 2}",
            "{\"value\": 1} x",
            "{\"value\": 1e999}",
            "{\"value\": 1, \"context\": 5}",
            surrogate,
            deep.as_str(),
        ] {
            assert_eq!(stored(body), Err(ErrorCode::BadBody), "{body}");
        }
        assert!(
            parse_put(b"{\"value\": \"\xff\"}", 100).is_err(),
            "not UTF-8"
        );
        let long = format!("{{\"value\": \"{}\"}}", "x".repeat(99));
        assert_eq!(stored(&long), Err(ErrorCode::TooLarge));
    }

    fn record(values: &[(&str, u64, Option<Value>)]) -> Record {
        let mut record = Record::default();
        for (name, hlc, value) in values {
            let dot = Dot {
                actor: Actor {
                    node: id(name),
                    epoch: 1,
                },
                counter: 1,
            };
            record.clock.add(&dot);
            record.siblings.push(Sibling {
                dot,
                hlc: Hlc(*hlc),
                value: value.clone(),
            });
        }
        record
    }

    #[test]
    fn answers_have_the_published_shape() {
        let key = Key::new("k").expect("valid");
        let json = |t: &'static str| Some(Value::Json(Bytes::from(t)));
        let raw = Some(Value::Raw(Bytes::from_static(b"\x00\xff")));
        let record = record(&[("a", 1, json("1.50")), ("b", 2, raw.clone())]);
        let read = ReadOutcome {
            partition: 0,
            replicas: vec![id("a"), id("b")],
            responded: vec![id("a")],
            repaired: vec![],
            quorum_achieved: true,
            record: record.clone(),
        };
        let value = raw.clone().expect("set");
        let answer = read_answer(&key, "token".into(), &read, &value).expect("shown");
        let text = serde_json::to_string(&answer).expect("JSON");
        assert!(text.contains("\"value\":1.50"), "{text}");
        let parsed: ReadResponse = serde_json::from_str(&text).expect("the shared type");
        assert_eq!(parsed.value, serde_json::json!({"base64": "AP8="}));
        let siblings = parsed.siblings.expect("two");
        assert_eq!((siblings.len(), &siblings[0].node_id), (2, &id("b")));

        let write = WriteOutcome {
            partition: 0,
            replicas: vec![id("a")],
            successful: vec![id("a")],
            failed: vec![],
            quorum_achieved: true,
            record,
            waited: std::time::Duration::ZERO,
        };
        let answer = write_answer(&key, "token".into(), &write, None).expect("shown");
        let text = serde_json::to_string(&answer).expect("JSON");
        let parsed: WriteResponse = serde_json::from_str(&text).expect("the shared type");
        assert_eq!((parsed.value, parsed.responsible_node), (None, id("a")));
        assert_eq!(parsed.context, "token");
    }
}
