//! Policies of earlier releases, in the language of today.
//!
//! | what | until | here |
//! |---|---|---|
//! | YAML, chosen by the file's extension | 0.22 | HuJSON |
//! | `users` and `ports` in a rule | 0.15 | `src` and `dst` |
//! | `user` and `allow` in a test | 0.15 | `src` and `accept` |
//! | users by their plain names | 0.25 | with an `@` behind it, where a user of that name is imported |
//! | `randomize_client_port` in the configuration | 0.28 | `randomizeClientPort` |
//!
//! The text is changed in these places only, so that comments and order stay. A name that is no user's is left as it is: nothing is guessed.

use std::collections::BTreeSet;

use wayleave_policy::source::{self, Kind, Span, Text, Value};

use super::config::values::yaml;

/// How a policy is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON with comments.
    HuJson,
    /// By the extension `.yml` or `.yaml`.
    Yaml,
}

/// A policy in the language of today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The text.
    pub text: String,
    /// What was changed, for the report.
    pub notices: Vec<String>,
}

/// A policy that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy can't be read: {0}")]
pub struct OldPolicyError(String);

/// Brings a policy into the language of today. `users` are the names of those who are imported.
///
/// # Errors
///
/// The text is neither HuJSON nor YAML, as its format says.
pub fn translate(
    text: &str,
    format: Format,
    users: &BTreeSet<String>,
    randomize_client_port: bool,
) -> Result<Translated, OldPolicyError> {
    let mut notices = Vec::new();
    let text = match format {
        Format::HuJson => text.to_owned(),
        Format::Yaml => {
            let value = yaml(text).map_err(OldPolicyError)?;
            if !value.is_object() {
                return Err(OldPolicyError("it is no list of sections".to_owned()));
            }
            notices.push("the policy was YAML and is HuJSON here; its comments are lost".to_owned());
            serde_json::to_string_pretty(&value).map_err(|error| OldPolicyError(error.to_string()))?
        }
    };
    // What is no HuJSON is shown with its place by whoever compiles it.
    let Ok(tree) = source::parse(&text) else { return Ok(Translated { text, notices }) };
    let mut edits = Edits { users, edits: Vec::new(), named: BTreeSet::new(), renamed: 0 };
    edits.policy(&tree);
    if randomize_client_port && let Some(at) = edits.place_for(&tree, "randomizeClientPort") {
        edits.edits.push((
            at..at,
            "\n  // randomize_client_port of Headscale's configuration\n  \"randomizeClientPort\": true,".to_owned(),
        ));
        notices.push("randomize_client_port is in the policy: \"randomizeClientPort\": true".to_owned());
    }
    if edits.renamed > 0 {
        notices.push(format!(
            "{} old field names in the policy were replaced (`users` and `ports` are `src` and `dst`)",
            edits.renamed
        ));
    }
    if !edits.named.is_empty() {
        let names: Vec<&str> = edits.named.iter().map(String::as_str).collect();
        notices.push(format!("users in the policy have an `@` behind their names: {}", names.join(", ")));
    }
    Ok(Translated { text: edits.apply(text), notices })
}

struct Edits<'a> {
    users: &'a BTreeSet<String>,
    edits: Vec<(Span, String)>,
    named: BTreeSet<String>,
    renamed: usize,
}

impl Edits<'_> {
    fn policy(&mut self, tree: &Value) {
        for (key, value) in fields(tree) {
            match key.text.to_lowercase().as_str() {
                "groups" | "tagowners" => fields(value).for_each(|(_, names)| self.names(names)),
                "autoapprovers" => self.auto_approvers(value),
                "acls" => items(value).for_each(|rule| self.rule(rule)),
                "ssh" => items(value).for_each(|rule| self.ssh(rule)),
                "tests" => items(value).for_each(|test| self.test(test)),
                _ => {}
            }
        }
    }

    fn auto_approvers(&mut self, value: &Value) {
        for (key, value) in fields(value) {
            match key.text.to_lowercase().as_str() {
                "routes" => fields(value).for_each(|(_, names)| self.names(names)),
                "exitnode" => self.names(value),
                _ => {}
            }
        }
    }

    fn rule(&mut self, rule: &Value) {
        for (key, value) in fields(rule) {
            match key.text.as_str() {
                "src" => self.names(value),
                "users" => {
                    self.rename(key, "src");
                    self.names(value);
                }
                "dst" => self.destinations(value),
                "ports" => {
                    self.rename(key, "dst");
                    self.destinations(value);
                }
                _ => {}
            }
        }
    }

    /// In a shell's rule `users` are those of the machine.
    fn ssh(&mut self, rule: &Value) {
        for (key, value) in fields(rule) {
            if matches!(key.text.as_str(), "src" | "dst") {
                self.names(value);
            }
        }
    }

    fn test(&mut self, test: &Value) {
        for (key, value) in fields(test) {
            match key.text.as_str() {
                "src" => self.name(value),
                "user" => {
                    self.rename(key, "src");
                    self.name(value);
                }
                "accept" | "deny" => self.destinations(value),
                "allow" => {
                    self.rename(key, "accept");
                    self.destinations(value);
                }
                _ => {}
            }
        }
    }

    fn rename(&mut self, key: &Text, name: &str) {
        self.renamed += 1;
        self.edits.push((key.span.clone(), quoted(name)));
    }

    fn names(&mut self, value: &Value) {
        items(value).for_each(|item| self.name(item));
    }

    fn name(&mut self, value: &Value) {
        if let Kind::Text(text) = &value.kind
            && self.is_user(text)
        {
            self.edits.push((value.span.clone(), quoted(&format!("{text}@"))));
        }
    }

    /// A destination has its ports behind the last colon.
    fn destinations(&mut self, value: &Value) {
        for item in items(value) {
            if let Kind::Text(text) = &item.kind
                && let Some((name, ports)) = text.rsplit_once(':')
                && self.is_user(name)
            {
                self.edits.push((item.span.clone(), quoted(&format!("{name}@:{ports}"))));
            }
        }
    }

    /// Whether this is the plain name of somebody who is imported. A name with an `@` is one already.
    fn is_user(&mut self, name: &str) -> bool {
        let is = !name.contains('@') && self.users.contains(name);
        if is {
            self.named.insert(name.to_owned());
        }
        is
    }

    /// Where a field can be put in at the top; `None` if it is there.
    fn place_for(&self, tree: &Value, field: &str) -> Option<usize> {
        let there = fields(tree).any(|(key, _)| key.text.eq_ignore_ascii_case(field));
        (!there && matches!(tree.kind, Kind::Object(_))).then_some(tree.span.start + 1)
    }

    fn apply(mut self, mut text: String) -> String {
        self.edits.sort_by_key(|(span, _)| span.start);
        for (span, new) in self.edits.into_iter().rev() {
            text.replace_range(span, &new);
        }
        text
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn fields(value: &Value) -> impl Iterator<Item = &(Text, Value)> {
    if let Kind::Object(fields) = &value.kind { fields.as_slice() } else { &[] }.iter()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    if let Kind::List(items) = &value.kind { items.as_slice() } else { &[] }.iter()
}

#[cfg(test)]
mod tests {
    use wayleave_policy::{PolicyFile, Surroundings};

    use super::*;

    fn translated(text: &str, format: Format) -> Translated {
        let users = ["alice", "infra", "web"].map(str::to_owned).into();
        let translated = translate(text, format, &users, false).unwrap();
        PolicyFile::parse(&translated.text, &Surroundings::default()).unwrap();
        translated
    }

    #[test]
    fn plain_names_of_users_get_an_at_and_all_else_stays_as_it_is_written() {
        let old = r#"// who runs it
{
  "groups": {"group:ops": ["alice", "carol@example.com"]}, // and nobody else
  "hosts": {"office": "10.20.0.0/16",},
  "tagOwners": {"tag:ci": ["group:ops", "alice"]},
  "autoApprovers": {"routes": {"10.20.0.0/16": ["infra"]}, "exitNode": ["alice", "tag:ci"]},
  "acls": [
    {"action": "accept", "src": ["alice", "office"], "dst": ["infra:22", "office:*", "web:80,443"]},
  ],
  "ssh": [{"action": "accept", "src": ["alice"], "dst": ["tag:ci"], "users": ["alice", "root"]}],
}"#;
        let new = translated(old, Format::HuJson);
        let expected = old
            .replace(r#"["alice", "carol"#, r#"["alice@", "carol"#)
            .replace(r#""group:ops", "alice"]"#, r#""group:ops", "alice@"]"#)
            .replace(r#"["infra"]"#, r#"["infra@"]"#)
            .replace(r#"["alice", "tag:ci"]"#, r#"["alice@", "tag:ci"]"#)
            .replace(r#"["alice", "office"]"#, r#"["alice@", "office"]"#)
            .replace("infra:22", "infra@:22")
            .replace("web:80", "web@:80")
            .replace(r#""src": ["alice"]"#, r#""src": ["alice@"]"#);
        assert_eq!(new.text, expected);
        assert_eq!(new.notices, ["users in the policy have an `@` behind their names: alice, infra, web"]);
    }

    #[test]
    fn the_fields_of_the_first_releases_have_their_names_of_today() {
        let old = r#"{"acls":[{"action":"accept","users":["alice"],"ports":["infra:22"]}],
                      "tests":[{"user":"alice","allow":["infra:22"]}]}"#;
        let new = translated(old, Format::HuJson);
        let expected = r#"{"acls":[{"action":"accept","src":["alice@"],"dst":["infra@:22"]}],
                      "tests":[{"src":"alice@","accept":["infra@:22"]}]}"#;
        assert_eq!(new.text, expected);
    }

    #[test]
    fn yaml_becomes_json() {
        let yaml = "groups:\n  \"group:ops\": [alice]\nacls:\n  - action: accept\n    src: [\"*\"]\n    dst: [\"alice:*\"] # all\n";
        let new = translated(yaml, Format::Yaml);
        let value: serde_json::Value = serde_json::from_str(&new.text).unwrap();
        let expected = serde_json::json!({
            "groups": { "group:ops": ["alice@"] },
            "acls": [{ "action": "accept", "src": ["*"], "dst": ["alice@:*"] }],
        });
        assert_eq!(value, expected);
        assert!(translate("- a\n- b\n", Format::Yaml, &BTreeSet::new(), false).is_err());
        assert!(translate("a: [", Format::Yaml, &BTreeSet::new(), false).is_err());
    }

    #[test]
    fn a_setting_that_is_the_policys_now_is_put_into_it_once() {
        let put = |text: &str| translate(text, Format::HuJson, &BTreeSet::new(), true).unwrap().text;
        let new = put("// all\n{\"acls\": []}");
        assert!(new.starts_with("// all\n{\n  // randomize_client_port"), "{new}");
        PolicyFile::parse(&new, &Surroundings::default()).unwrap();
        PolicyFile::parse(&put("{}"), &Surroundings::default()).unwrap();
        assert_eq!(put(&new), new);
    }

    #[test]
    fn what_is_no_policy_is_left_to_whoever_compiles_it() {
        assert_eq!(translated_text("{ nonsense"), "{ nonsense");
        assert_eq!(translated_text("[1]"), "[1]");
    }

    fn translated_text(text: &str) -> String {
        translate(text, Format::HuJson, &BTreeSet::new(), true).unwrap().text
    }
}
