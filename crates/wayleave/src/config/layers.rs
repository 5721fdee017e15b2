//! For each key the strongest source that names it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Value;

use super::keys::{self, KEYS, Key, Kind};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// This file.
    File(PathBuf),
    /// This variable.
    Variable(String),
    /// This flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// Something is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration file {} is no TOML", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why, with line and column.
        source: Box<toml::de::Error>,
    },
    /// There is no such key.
    #[error("{origin}: there is no key `{key}`{}", near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    Unknown {
        /// Where it stands.
        origin: Source,
        /// What stands there.
        key: String,
        /// The nearest that there is.
        near: Option<&'static str>,
    },
    /// The value is not what the key takes.
    #[error("{origin}: `{key}` is {found}, and {expected}")]
    Value {
        /// Where it stands.
        origin: Source,
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What it takes.
        expected: String,
    },
    /// What is said of a prefix can't be.
    #[error("{origin}: `{key}`: {fault}")]
    Prefix {
        /// Where it stands.
        origin: Source,
        /// The key, with the prefix.
        key: String,
        /// Why not, and what to do.
        fault: String,
    },
    /// A flag has no value.
    #[error("--set takes KEY=VALUE, not `{0}`")]
    Set(String),
}

/// What was said of each key, by the strongest that said anything.
#[derive(Clone, Debug)]
pub struct Layers(BTreeMap<&'static str, (Value, Source)>);

impl Layers {
    /// Reads all sources. `file` is read if it is named, or if it is there; `set` are `KEY=VALUE`s, the later the stronger; `flags` are
    /// those with names of their own, which are stronger still.
    ///
    /// # Errors
    ///
    /// A file can't be read, or a source names a key that there is not, or a value is not of its key's kind.
    pub fn read(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        set: &[String],
        flags: &[(&'static str, &'static str, String)],
    ) -> Result<Self, ConfigError> {
        let mut layers = Self(BTreeMap::new());
        for key in KEYS {
            let value = from_text(key, key.default, &Source::Default)?;
            layers.0.insert(key.name, (value, Source::Default));
        }
        if let Some(path) = file {
            let read = |source| ConfigError::Read { path: path.to_owned(), source };
            let text = std::fs::read_to_string(path).map_err(read)?;
            let parse = |source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) };
            let table: toml::Table = text.parse().map_err(parse)?;
            layers.take_table("", table, &Source::File(path.to_owned()))?;
        }
        for (name, text) in environment {
            if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
                layers.put(key, &text, Source::Variable(name))?;
            }
        }
        for pair in set {
            let (name, text) = pair.split_once('=').ok_or_else(|| ConfigError::Set(pair.clone()))?;
            let origin = Source::Flag("--set");
            let key = keys::find(name.trim()).ok_or_else(|| unknown(name.trim(), origin.clone()))?;
            layers.put(key, text, origin)?;
        }
        for (flag, name, text) in flags {
            let origin = Source::Flag(flag);
            let key = keys::find(name).ok_or_else(|| unknown(name, origin.clone()))?;
            layers.put(key, text, origin)?;
        }
        Ok(layers)
    }

    fn put(&mut self, key: &'static Key, text: &str, origin: Source) -> Result<(), ConfigError> {
        let value = from_text(key, text, &origin)?;
        self.0.insert(key.name, (value, origin));
        Ok(())
    }

    fn take_table(&mut self, prefix: &str, table: toml::Table, origin: &Source) -> Result<(), ConfigError> {
        for (name, value) in table {
            let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match (keys::find(&name), value) {
                (Some(key), value) => {
                    check(key, &value, origin)?;
                    self.0.insert(key.name, (value, origin.clone()));
                }
                (None, Value::Table(inner)) if KEYS.iter().any(|key| key.name.starts_with(&format!("{name}."))) => {
                    self.take_table(&name, inner, origin)?;
                }
                (None, _) => return Err(unknown(&name, origin.clone())),
            }
        }
        Ok(())
    }

    /// What holds for a key.
    pub fn get(&self, name: &str) -> Option<&(Value, Source)> {
        self.0.get(name)
    }

    /// All keys with what holds for them, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Value, &Source)> {
        KEYS.iter().filter_map(|key| self.0.get(key.name).map(|(value, source)| (key, value, source)))
    }
}

fn unknown(key: &str, origin: Source) -> ConfigError {
    ConfigError::Unknown { origin, key: key.to_owned(), near: keys::nearest(key) }
}

const fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "takes a text",
        Kind::Flag => "takes true or false",
        Kind::Number => "takes a whole number, 0 or more",
        Kind::Duration => "takes a duration such as 500ms, 24h or 90d",
        Kind::Listen => "takes an address and a port such as 127.0.0.1:8080, or off",
        Kind::List => "takes a list of texts",
        Kind::Toml => "takes a TOML value",
    }
}

/// A value out of a text, as a variable or a flag has it.
fn from_text(key: &'static Key, text: &str, origin: &Source) -> Result<Value, ConfigError> {
    let text = text.trim();
    let wrong = || ConfigError::Value {
        origin: origin.clone(),
        key: key.name.to_owned(),
        found: format!("`{text}`"),
        expected: expected(key.kind).to_owned(),
    };
    let value = match key.kind {
        Kind::Text | Kind::Duration | Kind::Listen => Value::String(text.to_owned()),
        Kind::Flag => Value::Boolean(text.parse().map_err(|_| wrong())?),
        Kind::Number => Value::Integer(text.parse().map_err(|_| wrong())?),
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        Kind::Toml => {
            let table: toml::Table = format!("value = {text}").parse().map_err(|_| wrong())?;
            table.into_iter().next().map(|(_, value)| value).ok_or_else(wrong)?
        }
    };
    check(key, &value, origin)?;
    Ok(value)
}

/// Whether a value is of its key's kind. What it says is looked at later.
fn check(key: &'static Key, value: &Value, origin: &Source) -> Result<(), ConfigError> {
    let fits = match (key.kind, value) {
        (Kind::Text | Kind::Duration | Kind::Listen, Value::String(_))
        | (Kind::Flag, Value::Boolean(_))
        | (Kind::Toml, _) => true,
        (Kind::Number, Value::Integer(number)) => *number >= 0,
        (Kind::List, Value::Array(items)) => items.iter().all(Value::is_str),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let found = value.to_string();
    Err(ConfigError::Value {
        origin: origin.clone(),
        key: key.name.to_owned(),
        found,
        expected: expected(key.kind).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Result<Layers, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wayleave.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        Layers::read(Some(&path), environment, &set, &[("--listen", "http_listen", "127.0.0.1:1".to_owned())])
    }

    fn text(layers: &Layers, key: &str) -> String {
        layers.get(key).unwrap().0.to_string()
    }

    #[test]
    fn each_source_is_stronger_than_the_one_before() {
        let file = "listen = \"127.0.0.1:2\"\n[dns]\nbase_domain = \"file\"\n[nodes]\nephemeral_timeout = \"1h\"\n";
        let env = [("WAYLEAVE_DNS_BASE_DOMAIN", "env"), ("WAYLEAVE_NODES_EPHEMERAL_TIMEOUT", "2h"), ("OTHER", "x")];
        let layers = read(file, &env, &["nodes.ephemeral_timeout=3h", "http_listen=127.0.0.1:9"]).unwrap();
        assert_eq!(text(&layers, "listen"), "\"127.0.0.1:2\"");
        assert_eq!(text(&layers, "dns.base_domain"), "\"env\"");
        assert_eq!(text(&layers, "nodes.ephemeral_timeout"), "\"3h\"");
        assert_eq!(text(&layers, "http_listen"), "\"127.0.0.1:1\"");
        assert_eq!(layers.get("routes.starting").unwrap().1, Source::Default);
    }

    #[test]
    fn faults_name_the_key_and_where_it_stands() {
        let words = |result: Result<Layers, ConfigError>| result.unwrap_err().to_string();
        let unknown = words(read("[derp]\nstun_listn = \"off\"\n", &[], &[]));
        assert!(unknown.contains("wayleave.toml: there is no key `derp.stun_listn`; did you mean `derp.stun_listen`?"));
        let wrong = words(read("[derp]\nenabled = \"yes\"\n", &[], &[]));
        assert!(wrong.contains("`derp.enabled` is \"yes\", and takes true or false"), "{wrong}");
        let variable = words(read("", &[("WAYLEAVE_DERP_REGION_ID", "x")], &[]));
        assert!(
            variable.starts_with("environment variable WAYLEAVE_DERP_REGION_ID: `derp.region_id` is `x`"),
            "{variable}"
        );
        assert!(words(read("", &[], &["listen"])).contains("--set takes KEY=VALUE"));
        assert!(words(read("listen = ", &[], &[])).contains("is no TOML"));
        assert!(words(read("other = 1", &[], &[])).contains("there is no key `other`"));
    }
}
