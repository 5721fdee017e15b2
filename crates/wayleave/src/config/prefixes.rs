//! What the configuration says of single prefixes: the tables under `routes.prefixes`.

use std::collections::BTreeMap;
use std::str::FromStr;

use toml::{Table, Value};
use wayleave_model::{Prefix, PrefixOverrides};

use super::keys;
use super::layers::{ConfigError, Layers, Source};

/// The key that holds them.
pub const KEY: &str = "routes.prefixes";

/// What can be said of a prefix.
const SETTINGS: [&str; 4] = ["failback_after", "when_down", "on_withdraw", "spread"];

/// What is said, by prefix.
///
/// # Errors
///
/// A name is no prefix, or one of which nothing can be said, or what is said of one can't be.
pub fn read(layers: &Layers) -> Result<BTreeMap<Prefix, PrefixOverrides>, ConfigError> {
    let Some((value, origin)) = layers.get(KEY) else { return Ok(BTreeMap::new()) };
    let expected = "takes prefixes with what holds for them, such as { \"10.0.0.0/8\" = { spread = \"region\" } }";
    let table = value.as_table().ok_or_else(|| wrong(origin, KEY.to_owned(), value, expected))?;
    let mut all = BTreeMap::new();
    for (text, settings) in table {
        let place = Place { origin, key: format!("{KEY}.\"{text}\"") };
        let prefix = prefix(text).map_err(|fault| place.fault(fault))?;
        let expected = "takes a section of settings, such as { spread = \"region\" }";
        let settings = settings.as_table().ok_or_else(|| wrong(origin, place.key.clone(), settings, expected))?;
        let overrides = overrides(&place, settings)?;
        if all.insert(prefix, overrides).is_some() {
            return Err(place.fault(format!("{prefix} has another section, in another spelling: put them together")));
        }
    }
    all.retain(|_, overrides| !overrides.is_empty());
    Ok(all)
}

/// Each thing that is said, with the whole of its key.
pub fn flat(value: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let of = |prefix: &String, settings: &Value| {
        let key = format!("{KEY}.\"{prefix}\"");
        let settings = settings.as_table().into_iter().flatten();
        settings.map(|(name, value)| (format!("{key}.{name}"), text(value))).collect::<Vec<_>>()
    };
    value.as_table().into_iter().flatten().flat_map(|(prefix, settings)| of(prefix, settings)).collect()
}

/// Where something stands.
struct Place<'a> {
    origin: &'a Source,
    key: String,
}

impl Place<'_> {
    fn fault(&self, fault: String) -> ConfigError {
        ConfigError::Prefix { origin: self.origin.clone(), key: self.key.clone(), fault }
    }
}

fn wrong(origin: &Source, key: String, found: &Value, expected: &str) -> ConfigError {
    ConfigError::Value { origin: origin.clone(), key, found: found.to_string(), expected: expected.to_owned() }
}

/// The prefix that a section names, if something can be said of it.
fn prefix(text: &str) -> Result<Prefix, String> {
    let prefix: Prefix = match text.parse() {
        Ok(prefix) => prefix,
        Err(_) if text.contains(" via ") => {
            return Err(
                "names of sites are not known here: write the prefix that `wayleave via6 encode` gives".to_owned()
            );
        }
        Err(error) => return Err(format!("{error}")),
    };
    if prefix.is_exit() {
        return Err("exits are never elected, and each client chooses its own: take this section out".to_owned());
    }
    match prefix.invalid() {
        Some(reason) => Err(format!("{prefix} can never be a route, since it {reason}: take this section out")),
        None => Ok(prefix),
    }
}

fn overrides(place: &Place<'_>, settings: &Table) -> Result<PrefixOverrides, ConfigError> {
    if let Some(unknown) = settings.keys().find(|name| !SETTINGS.contains(&name.as_str())) {
        let near = SETTINGS.into_iter().min_by_key(|name| keys::distance(unknown, name));
        let near = near.filter(|name| keys::distance(unknown, name) <= 3);
        let hint = near.map(|name| format!("did you mean `{name}`?"));
        let hint = hint.unwrap_or_else(|| format!("it takes {}", SETTINGS.map(|name| format!("`{name}`")).join(", ")));
        return Err(place.fault(format!("there is no setting `{unknown}` of a prefix; {hint}")));
    }
    Ok(PrefixOverrides {
        when_down: setting(place, settings, "when_down")?,
        on_withdraw: setting(place, settings, "on_withdraw")?,
        spread: setting(place, settings, "spread")?,
        failback: setting(place, settings, "failback_after")?,
        frozen: None,
    })
}

fn setting<T: FromStr<Err: std::fmt::Display>>(
    place: &Place<'_>,
    settings: &Table,
    name: &str,
) -> Result<Option<T>, ConfigError> {
    let Some(value) = settings.get(name) else { return Ok(None) };
    let key = format!("{}.{name}", place.key);
    let text = value.as_str().ok_or_else(|| wrong(place.origin, key.clone(), value, "takes a text"))?;
    let parsed = text.trim().parse().map(Some);
    parsed.map_err(|error: T::Err| ConfigError::Prefix { origin: place.origin.clone(), key, fault: error.to_string() })
}

#[cfg(test)]
mod tests {
    use wayleave_model::{Failback, OnWithdraw, Spread, WhenDown};

    use super::*;

    fn layers(file: &str) -> Layers {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wayleave.toml");
        std::fs::write(&path, file).unwrap();
        Layers::read(Some(&path), std::iter::empty(), &[], &[]).unwrap()
    }

    #[test]
    fn sections_of_prefixes_are_read() {
        let all = read(&layers(
            "[routes]\nspread = \"balance\"\n[routes.prefixes.\"10.0.0.0/8\"]\nwhen_down = \"fall_back\"\n\
             on_withdraw = \"keep\"\nspread = \"region\"\nfailback_after = \"90s\"\n\
             [routes.prefixes.\"fd00:1::/64\"]\nfailback_after = \"never\"\n[routes.prefixes.\"10.9.0.0/16\"]\n",
        ))
        .unwrap();
        let first = PrefixOverrides {
            when_down: Some(WhenDown::FallBack),
            on_withdraw: Some(OnWithdraw::Keep),
            spread: Some(Spread::Region),
            failback: Some(Failback::After(std::time::Duration::from_secs(90))),
            frozen: None,
        };
        let second = PrefixOverrides { failback: Some(Failback::Never), ..PrefixOverrides::default() };
        let named = |text: &str| text.parse::<Prefix>().unwrap();
        assert_eq!(all, [(named("10.0.0.0/8"), first), (named("fd00:1::/64"), second)].into());
    }

    #[test]
    fn they_come_from_a_variable_or_a_flag_too() {
        let set = ["routes.prefixes={ \"10.0.0.0/8\" = { spread = \"region\" } }".to_owned()];
        let layers = Layers::read(None, std::iter::empty(), &set, &[]).unwrap();
        assert_eq!(read(&layers).unwrap().len(), 1);
        let (value, _) = layers.get(KEY).unwrap();
        assert_eq!(flat(value), [("routes.prefixes.\"10.0.0.0/8\".spread".to_owned(), "region".to_owned())]);
    }

    #[test]
    fn what_can_not_be_is_refused_with_what_where_and_what_to_do() {
        for (file, expected) in [
            (
                "[routes.prefixes.\"10.0.0.5/8\"]",
                "`routes.prefixes.\"10.0.0.5/8\"`: `10.0.0.5/8` has host bits set: did you mean `10.0.0.0/8`?",
            ),
            (
                "[routes.prefixes.office]",
                "`routes.prefixes.\"office\"`: `office` is not a prefix: write an address, a slash",
            ),
            ("[routes.prefixes.\"10.0.0.0/8 via rome\"]", "write the prefix that `wayleave via6 encode` gives"),
            ("[routes.prefixes.\"0.0.0.0/0\"]", "`routes.prefixes.\"0.0.0.0/0\"`: exits are never elected"),
            (
                "[routes.prefixes.\"127.0.0.0/8\"]",
                "127.0.0.0/8 can never be a route, since it overlaps the loopback range: take this",
            ),
            ("[routes.prefixes.\"100.64.0.0/16\"]", "since it overlaps the tailnet's own addresses"),
            ("routes.prefixes = 3", "`routes.prefixes` is 3, and takes prefixes with what holds for them"),
            (
                "routes.prefixes.\"10.0.0.0/8\" = \"keep\"",
                "`routes.prefixes.\"10.0.0.0/8\"` is \"keep\", and takes a section",
            ),
            (
                "[routes.prefixes.\"10.0.0.0/8\"]\nwen_down = \"keep\"",
                "there is no setting `wen_down` of a prefix; did you mean `when_down`?",
            ),
            (
                "[routes.prefixes.\"10.0.0.0/8\"]\npriority = 3",
                "there is no setting `priority` of a prefix; it takes `failback_after`, `when_down`",
            ),
            (
                "[routes.prefixes.\"10.0.0.0/8\"]\nspread = \"sideways\"",
                "`routes.prefixes.\"10.0.0.0/8\".spread`: `sideways` is not among single, region, balance",
            ),
            (
                "[routes.prefixes.\"10.0.0.0/8\"]\nfailback_after = 60",
                "`routes.prefixes.\"10.0.0.0/8\".failback_after` is 60, and takes a text",
            ),
            (
                "[routes.prefixes.\"10.0.0.0/8\"]\nfailback_after = \"soon\"",
                "`soon` is neither a duration, such as 60s or 2h 30m, nor `never`",
            ),
            (
                "[routes.prefixes.\"fd00:1::/64\"]\n[routes.prefixes.\"fd00:1:0::/64\"]",
                "fd00:1::/64 has another section",
            ),
        ] {
            let error = read(&layers(file)).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("wayleave.toml: "), "{file}: {error}");
        }
    }
}
