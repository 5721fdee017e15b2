//! Relay maps as Headscale keeps them in files: YAML, with the names of Tailscale's fields in lower case. Here they are JSON.

use serde_json::{Map, Value};

use super::config::values::yaml;

/// The fields of a relay map by their names in lower case.
const FIELDS: [&str; 18] = [
    "Regions",
    "RegionID",
    "RegionCode",
    "RegionName",
    "Avoid",
    "NoMeasureNoHome",
    "Nodes",
    "Name",
    "HostName",
    "CertName",
    "IPv4",
    "IPv6",
    "STUNPort",
    "STUNOnly",
    "DERPPort",
    "InsecureForTests",
    "STUNTestIP",
    "CanPort80",
];

/// A relay map in YAML as one in JSON.
///
/// # Errors
///
/// It is none, in words.
pub fn to_json(text: &str) -> Result<String, String> {
    let mut map = yaml(text)?;
    let regions =
        map.as_object_mut().and_then(|fields| fields.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case("regions")));
    let Some((_, Value::Object(regions))) = regions else {
        return Err("it has no regions".to_owned());
    };
    let mut named = Map::new();
    for (id, region) in std::mem::take(regions) {
        if id.parse::<u32>().is_err() {
            return Err(format!("`{id}` is no number of a region"));
        }
        // A region that is set to nothing takes out one of a map by address; that is not possible here.
        if !region.is_null() {
            named.insert(id, with_names(region)?);
        }
    }
    let map = Value::Object(Map::from_iter([("Regions".to_owned(), Value::Object(named))]));
    serde_json::to_string_pretty(&map).map_err(|error| error.to_string())
}

fn with_names(value: Value) -> Result<Value, String> {
    Ok(match value {
        Value::Object(fields) => {
            let mut named = Map::new();
            for (name, value) in fields {
                let known = FIELDS.iter().find(|field| field.eq_ignore_ascii_case(&name));
                let known = known.ok_or_else(|| format!("there is no field `{name}` in a relay map"))?;
                named.insert((*known).to_owned(), with_names(value)?);
            }
            Value::Object(named)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(with_names).collect::<Result<_, _>>()?),
        value @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_those_of_the_json_form() {
        let yaml = "regions:\n  901:\n    regionid: 901\n    regioncode: ams\n    regionname: Amsterdam\n    nodes:\n      - name: 901a\n        \
                    regionid: 901\n        hostname: derp.example.net\n        ipv4: 198.51.100.7\n        stunport: 0\n        stunonly: false\n        \
                    derpport: 8443\n  902: null\n";
        let json: Value = serde_json::from_str(&to_json(yaml).unwrap()).unwrap();
        let node = &json["Regions"]["901"]["Nodes"][0];
        assert_eq!(
            (&node["HostName"], &node["DERPPort"], &node["IPv4"]),
            (&"derp.example.net".into(), &8443.into(), &"198.51.100.7".into())
        );
        assert_eq!(json["Regions"]["901"]["RegionName"], "Amsterdam");
        assert!(json["Regions"].get("902").is_none());
        for bad in ["", "a: 1", "regions: 5", "regions:\n  x: {}", "regions:\n  1: {color: red}"] {
            assert!(to_json(bad).is_err(), "{bad}");
        }
    }
}
