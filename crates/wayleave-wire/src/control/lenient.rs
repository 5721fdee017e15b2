//! Reading JSON as Go's decoder does.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a client sent can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the request is not the JSON of this protocol")]
pub struct ReadError(#[from] serde_json::Error);

/// Reads a value whose field names are lower case, from JSON in whatever case. `null` is the same as absent.
pub(super) fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, ReadError> {
    let mut value: Value = serde_json::from_slice(json)?;
    normalise(&mut value);
    Ok(T::deserialize(value)?)
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let old = std::mem::take(fields);
            for (name, mut value) in old {
                if !value.is_null() {
                    normalise(&mut value);
                    fields.insert(name.to_ascii_lowercase(), value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Reads a text that may be missing, empty, or the zero form of its kind, which all mean "unset".
pub(super) fn key<K: std::str::FromStr>(text: &str, is_zero: impl Fn(&K) -> bool) -> Option<K> {
    text.parse().ok().filter(|key| !is_zero(key))
}
