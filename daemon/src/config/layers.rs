//! Sources of settings, strongest first, and where each text came from.

use std::{collections::BTreeMap, fmt};

use super::{file, settings};
use crate::cli::Failure;

/// Where a text stood, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flag(String),
    Variable(String),
    File { path: String, key: String },
    Default(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Variable(name) => f.write_str(name),
            Self::File { path, key } => write!(f, "{path}: {key}"),
            Self::Default(key) => write!(f, "the default of {key}"),
        }
    }
}

/// A text somebody gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub text: String,
    pub origin: Origin,
}

/// Texts by setting key, as they came from one source.
pub type Layer = BTreeMap<String, Vec<Given>>;

/// All sources, strongest first.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    layers: Vec<Layer>,
}

impl Layers {
    /// Flags by setting key, the environment, and the file that `--config` or `RINGD_CONFIG` names.
    pub fn load(
        flags: BTreeMap<String, Vec<String>>,
        variable: impl Fn(&str) -> Option<String>,
        config_flag: Option<String>,
    ) -> Result<Self, Failure> {
        let config = config_flag.or_else(|| variable("RINGD_CONFIG"));
        let mut layers = Self::of_flags(flags).layers;
        layers.push(from_environment(variable));
        if let Some(path) = config {
            layers.push(file::load(&path)?);
        }
        Ok(Self { layers })
    }

    pub fn of_flags(flags: BTreeMap<String, Vec<String>>) -> Self {
        let given = |key: &str, text| Given {
            text,
            origin: Origin::Flag(key.replace(['.', '_'], "-")),
        };
        let layer = flags
            .into_iter()
            .map(|(key, texts)| {
                let texts = texts.into_iter().map(|t| given(&key, t)).collect();
                (key, texts)
            })
            .collect();
        Self {
            layers: vec![layer],
        }
    }

    /// What the strongest source that names any of `keys` says about all of them.
    pub fn all(&self, keys: &[&str]) -> Vec<Given> {
        self.layers
            .iter()
            .find(|layer| keys.iter().any(|k| layer.contains_key(*k)))
            .map(|layer| {
                keys.iter()
                    .filter_map(|k| layer.get(*k))
                    .flatten()
                    .cloned()
                    .collect()
            })
            .unwrap_or_default()
    }

    /// The strongest text for `key`, or its default, checked by `parse`.
    pub fn optional<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        let given = self.all(&[key]).into_iter().next_back().or_else(|| {
            let text = settings::find(key)?.default?.to_owned();
            let origin = Origin::Default(key.to_owned());
            Some(Given { text, origin })
        });
        let Some(given) = given else { return Ok(None) };
        parse(given.text.trim())
            .map(Some)
            .map_err(|why| Failure::Usage(format!("{}: {:?}: {why}", given.origin, given.text)))
    }

    /// The same for settings that have a default.
    pub fn required<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        self.optional(key, parse)?
            .ok_or_else(|| Failure::Usage(format!("{key} is missing")))
    }
}

fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Layer {
    settings::SETTINGS
        .iter()
        .filter_map(|s| {
            let name = s.variable();
            // an empty variable is how scripts unset one
            let text = variable(&name).filter(|t| !t.is_empty())?;
            let origin = Origin::Variable(name);
            Some((s.key.to_owned(), vec![Given { text, origin }]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text(layers: &Layers, key: &str) -> String {
        layers.required(key, |t| Ok(t.to_owned())).expect("present")
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let mut file = tempfile::NamedTempFile::new().expect("temp file");
        write!(
            file,
            "zone = \"f\"\nport = 1\nseed_nodes = [\"f:1\", \"f:2\"]\n[gossip]\nfanout = 7\n"
        )
        .expect("written");
        let environment = |name: &str| match name {
            "RINGD_ZONE" => Some("e".to_owned()),
            "RINGD_PORT" => Some("2".to_owned()),
            "RINGD_BIND" => Some(String::new()),
            _ => None,
        };
        let flags = [("port".to_owned(), vec!["3".to_owned()])].into();
        let path = file.path().display().to_string();
        let layers = Layers::load(flags, environment, Some(path.clone())).expect("readable");
        assert_eq!(text(&layers, "port"), "3");
        assert_eq!(text(&layers, "zone"), "e");
        assert_eq!(text(&layers, "gossip.fanout"), "7");
        assert_eq!(text(&layers, "bind"), "127.0.0.1", "empty means not set");
        let seeds = layers.all(&["seed_node", "seed_nodes"]);
        assert_eq!(seeds.len(), 2);
        assert_eq!(seeds[0].origin.to_string(), format!("{path}: seed_nodes"));
    }

    #[test]
    fn seeds_of_a_stronger_source_replace_those_of_a_weaker_one() {
        let environment = |name: &str| (name == "RINGD_SEED_NODES").then(|| "e:1,e:2".to_owned());
        let flags = [(
            "seed_node".to_owned(),
            vec!["a:1".to_owned(), "b:1".to_owned()],
        )]
        .into();
        let layers = Layers::load(flags, environment, None).expect("no file");
        let texts: Vec<String> = layers
            .all(&["seed_node", "seed_nodes"])
            .into_iter()
            .map(|g| g.text)
            .collect();
        assert_eq!(texts, ["a:1", "b:1"]);
    }
}
