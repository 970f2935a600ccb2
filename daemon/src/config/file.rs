//! The TOML file: flat keys and sections, every key known.

use toml::{Table, Value};

use super::{
    layers::{Given, Layer, Origin},
    settings,
};
use crate::cli::Failure;

/// Largest accepted file, bytes.
const BYTES_MAX: u64 = 1 << 20;

pub fn load(path: &str) -> Result<Layer, Failure> {
    let fail = |why: String| Failure::Usage(format!("config file {path}: {why}"));
    let size = std::fs::metadata(path).map_err(|e| fail(reason(&e)))?.len();
    if size > BYTES_MAX {
        return Err(fail(format!("it is larger than {BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(reason(&e)))?;
    parse(path, &text).map_err(fail)
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".into(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".into(),
        _ => error.to_string(),
    }
}

fn parse(path: &str, text: &str) -> Result<Layer, String> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e
            .span()
            .map(|s| text[..s.start.min(text.len())].lines().count().max(1));
        let at = line.map(|n| format!("line {n}: ")).unwrap_or_default();
        format!("{at}{}", e.message().replace('\n', " "))
    })?;
    let mut layer = Layer::new();
    for (name, value) in table {
        match value {
            Value::Table(section) => {
                for (inner, value) in section {
                    insert(&mut layer, path, format!("{name}.{inner}"), value)?;
                }
            }
            value => insert(&mut layer, path, name, value)?,
        }
    }
    Ok(layer)
}

fn insert(layer: &mut Layer, path: &str, key: String, value: Value) -> Result<(), String> {
    let Some(setting) = settings::find(&key) else {
        return Err(format!("unknown key {key:?}"));
    };
    let values = match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    let given = values
        .into_iter()
        .map(|value| {
            let text = match value {
                Value::String(text) => text,
                Value::Integer(n) => n.to_string(),
                Value::Boolean(b) if setting.switch => b.to_string(),
                _ if setting.switch => return Err(format!("{key} must be true or false")),
                _ => return Err(format!("{key} must be a text or a whole number")),
            };
            let origin = Origin::File {
                path: path.to_owned(),
                key: key.clone(),
            };
            Ok(Given { text, origin })
        })
        .collect::<Result<Vec<_>, String>>()?;
    layer.insert(key, given);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("prot = 8081", "unknown key \"prot\""),
            (
                "[gossip]\nintervall = \"1s\"",
                "unknown key \"gossip.intervall\"",
            ),
            ("[port]\nx = 1", "unknown key \"port.x\""),
            ("port = true", "port must be"),
            ("adopt = 1.5", "adopt must be true or false"),
            ("a = 1\nport 1", "line 2"),
        ];
        for (text, wants) in cases {
            let error = parse("x.toml", text).expect_err(text);
            assert!(error.contains(wants), "{error:?} must say {wants:?}");
            assert!(!error.contains('\n'), "{error:?} is one line");
        }
    }

    #[test]
    fn the_example_in_assets_is_valid() {
        let text = include_str!("../../../assets/ringd.example.toml");
        let layer = parse("example", text).expect("valid");
        assert_eq!(layer["node_id"][0].text, "node-1");
        let uncommented: String = text
            .lines()
            .map(|l| l.strip_prefix("#= ").unwrap_or(l))
            .fold(String::new(), |all, l| all + l + "\n");
        let all = parse("example", &uncommented).expect("its suggestions are valid as well");
        let missing: Vec<_> = settings::SETTINGS
            .iter()
            .filter(|s| !all.contains_key(s.key) && s.key != "seed_node")
            .map(|s| s.key)
            .collect();
        assert_eq!(missing, [""; 0], "every setting stands in the example");
    }
}
