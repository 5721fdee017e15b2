//! The values of a configuration by the dotted names of their keys, as Headscale's own reader sees them: names in any case, YAML, JSON or
//! TOML by the file's extension, durations as Go writes them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::ConfigError;

/// The longest configuration that is read; a YAML file may unfold to much more than its length.
const LONGEST: usize = 1 << 20;

/// Keys whose value is a map with names of its own, or a list of maps: what is inside are no keys.
const MAPS: [&str; 5] = [
    "dns_config.restricted_nameservers",
    "dns_config.extra_records",
    "dns.nameservers.split",
    "dns.extra_records",
    "oidc.extra_params",
];

/// All values.
#[derive(Debug)]
pub(super) struct Values {
    values: BTreeMap<String, Value>,
}

impl Values {
    /// Reads a file's text.
    pub(super) fn read(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let no = |detail: String| ConfigError::Parse { path: path.to_owned(), detail };
        if text.len() > LONGEST {
            return Err(no(format!("it has more than {LONGEST} bytes")));
        }
        let value = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => serde_json::from_str(text).map_err(|error| no(error.to_string()))?,
            Some("toml") => {
                let table: toml::Table = text.parse().map_err(|error: toml::de::Error| no(error.to_string()))?;
                serde_json::to_value(table).map_err(|error| no(error.to_string()))?
            }
            _ => yaml(text).map_err(no)?,
        };
        let mut values = Self { values: BTreeMap::new() };
        match value {
            Value::Object(fields) => fields.into_iter().for_each(|(name, value)| values.put(&name, value)),
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(no("it is not a list of keys with their values".to_owned()));
            }
        }
        Ok(values)
    }

    fn put(&mut self, name: &str, value: Value) {
        let name = name.to_lowercase();
        match value {
            Value::Object(fields) if !MAPS.contains(&name.as_str()) => {
                fields.into_iter().for_each(|(field, value)| self.put(&format!("{name}.{field}"), value));
            }
            // A key with nothing behind it is not set.
            Value::Null => {}
            value @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                self.values.insert(name, value);
            }
        }
    }

    /// Whether a key, or one inside it, is set.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.keys().any(|key| key == name || key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// A value as it stands there.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// A value as people write it.
    pub(super) fn shown(&self, name: &str) -> String {
        let value = self.values.get(name);
        value.map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(value) => Err(fault(name, value, "takes a text")),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let word = value.as_str().map(str::to_lowercase);
        match (value, word.as_deref()) {
            (Value::Bool(flag), _) => Ok(Some(*flag)),
            (_, Some("true" | "yes" | "on" | "1" | "t")) => Ok(Some(true)),
            (_, Some("false" | "no" | "off" | "0" | "f" | "")) => Ok(Some(false)),
            (value, _) => Err(fault(name, value, "takes true or false")),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
        number.map(Some).ok_or_else(|| fault(name, value, "takes a whole number"))
    }

    /// A list of texts; one text alone, or several with commas or blanks between them, is one too, as it is there.
    pub(super) fn list(&self, name: &str) -> Result<Vec<String>, ConfigError> {
        match self.value(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => {
                let parts = text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty());
                Ok(parts.map(str::to_owned).collect())
            }
            Some(value @ Value::Array(items)) => {
                let texts = items.iter().map(|item| item.as_str().map(|text| text.trim().to_owned()));
                texts.collect::<Option<_>>().ok_or_else(|| fault(name, value, "takes a list of texts"))
            }
            Some(value) => Err(fault(name, value, "takes a list of texts")),
        }
    }

    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        duration(&text).map(Some).ok_or_else(|| fault(name, value, "takes a duration such as 30m, 24h or 180d"))
    }

    /// All keys that are set.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

/// A text of YAML.
pub(in crate::headscale) fn yaml(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

pub(super) fn fault(name: &str, found: &Value, expected: &str) -> ConfigError {
    let found = if super::is_secret(name) { "(hidden)".to_owned() } else { found.to_string() };
    ConfigError::Value { key: name.to_owned(), found, expected: expected.to_owned() }
}

/// A duration as Go and Prometheus write it: numbers with units, one after the other; a bare number is nanoseconds.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(nanos) = text.parse::<u64>() {
        return Some(Duration::from_nanos(nanos));
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 7.0 * 86_400.0,
            "y" => 365.0 * 86_400.0,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Values {
        Values::read(Path::new("config.yaml"), text).unwrap()
    }

    #[test]
    fn keys_are_dotted_and_in_any_case_and_maps_with_names_of_their_own_stay_whole() {
        let values =
            read("Server_URL: https://x\ndns:\n  nameservers:\n    split:\n      a.example: [10.0.0.1]\n  empty:\n");
        assert_eq!(values.text("server_url").unwrap(), Some("https://x".to_owned()));
        assert_eq!(values.value("dns.nameservers.split").unwrap()["a.example"][0], "10.0.0.1");
        assert!(values.has("dns.nameservers") && !values.has("dns.empty") && !values.has("dn"));
    }

    #[test]
    fn values_are_read_as_loosely_as_there_and_faults_name_the_key() {
        let values =
            read("a: yes\nb: \"false\"\nc: 5432\nd: x\ne: [1, 2]\nlist: a, b\noidc:\n  client_secret: [s3cret]\n");
        assert_eq!((values.flag("a").unwrap(), values.flag("b").unwrap()), (Some(true), Some(false)));
        assert_eq!((values.number("c").unwrap(), values.text("c").unwrap()), (Some(5432), Some("5432".to_owned())));
        assert_eq!(values.list("list").unwrap(), ["a", "b"]);
        assert!(values.flag("d").unwrap_err().to_string().contains("`d` is \"x\", and takes true or false"));
        assert!(values.list("e").is_err() && values.number("d").is_err());
        assert!(!values.text("oidc.client_secret").unwrap_err().to_string().contains("s3cret"));
        assert!(Values::read(Path::new("config.yaml"), "a: [").is_err());
        assert!(Values::read(Path::new("config.yaml"), "- a").is_err());
        assert!(Values::read(Path::new("config.json"), "{\"a\":1}").is_ok());
        assert!(Values::read(Path::new("config.toml"), "[a]\nb = 1").unwrap().has("a.b"));
    }

    #[test]
    fn durations_have_the_units_of_go_and_days() {
        for (text, seconds) in [("30m", 1800.0), ("1h30m", 5400.0), ("180d", 15_552_000.0), ("1.5s", 1.5), ("0", 0.0)] {
            assert_eq!(duration(text).map(|time| time.as_secs_f64()), Some(seconds), "{text}");
        }
        for bad in ["", "soon", "5", "5 minutes", "h", "1e400y"] {
            assert!(duration(bad).is_none_or(|time| bad == "5" && time.as_nanos() == 5), "{bad}");
        }
    }
}
