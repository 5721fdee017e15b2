//! Reading typed values out of the tree, and remembering every fault on the way instead of the first.

use crate::source::{Fault, Kind, Span, Text, Value};

/// Faults and warnings of one reading.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) faults: Vec<Fault>,
    pub(crate) warnings: Vec<Fault>,
}

impl Findings {
    pub(crate) fn fault(&mut self, message: impl Into<String>, at: &Span) {
        self.faults.push(Fault::new(message, at));
    }

    pub(crate) fn warn(&mut self, message: impl Into<String>, at: &Span) {
        self.warnings.push(Fault::new(message, at));
    }

    /// The value, or its message as a fault at this place.
    pub(crate) fn keep<T>(&mut self, result: Result<T, String>, at: &Span) -> Option<T> {
        result.map_err(|message| self.fault(message, at)).ok()
    }

    fn expected(&mut self, what: &str, value: &Value) {
        let found = match &value.kind {
            Kind::Null => "null".to_owned(),
            Kind::Bool(value) => value.to_string(),
            Kind::Number(number) => number.clone(),
            Kind::Text(text) => format!("{text:?}"),
            Kind::List(_) => "a list".to_owned(),
            Kind::Object(_) => "an object".to_owned(),
        };
        self.fault(format!("{what} is expected here, not {found}"), &value.span);
    }

    /// A string. `null` is as if it were not there.
    pub(crate) fn text(&mut self, value: &Value) -> Option<Text> {
        match &value.kind {
            Kind::Text(text) => Some(Text { text: text.clone(), span: value.span.clone() }),
            Kind::Null => None,
            Kind::Bool(_) | Kind::Number(_) | Kind::List(_) | Kind::Object(_) => {
                self.expected("a string", value);
                None
            }
        }
    }

    pub(crate) fn bool(&mut self, value: &Value) -> Option<bool> {
        match &value.kind {
            Kind::Bool(value) => Some(*value),
            Kind::Null => None,
            Kind::Text(_) | Kind::Number(_) | Kind::List(_) | Kind::Object(_) => {
                self.expected("true or false", value);
                None
            }
        }
    }

    /// The elements of a list; `null` is an empty one.
    pub(crate) fn list<'a>(&mut self, value: &'a Value) -> &'a [Value] {
        match &value.kind {
            Kind::List(list) => list,
            Kind::Null => &[],
            Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) | Kind::Object(_) => {
                self.expected("a list", value);
                &[]
            }
        }
    }

    /// A list of strings.
    pub(crate) fn texts(&mut self, value: &Value) -> Vec<Text> {
        let mut texts = Vec::new();
        for value in self.list(value) {
            if value.kind == Kind::Null {
                self.expected("a string", value);
            }
            texts.extend(self.text(value));
        }
        texts
    }

    /// The members of an object; `null` is an empty one.
    pub(crate) fn object<'a>(&mut self, value: &'a Value) -> &'a [(Text, Value)] {
        match &value.kind {
            Kind::Object(object) => object,
            Kind::Null => &[],
            Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) | Kind::List(_) => {
                self.expected("an object", value);
                &[]
            }
        }
    }

    /// The members of an object whose keys are known ones, each at most once. Go reads keys without regard to case, and old policies
    /// use that, so it is done here too.
    pub(crate) fn fields<'a>(&mut self, value: &'a Value, known: &[&'static str]) -> Fields<'a> {
        let mut fields = Vec::new();
        for (key, value) in self.object(value) {
            let name = known.iter().find(|name| name.eq_ignore_ascii_case(&key.text));
            match name {
                None => {
                    let near = known.iter().min_by_key(|name| distance(name, &key.text));
                    let near = near.filter(|name| distance(name, &key.text) <= 3);
                    let hint = near.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
                    self.fault(format!("unknown field `{}`{hint}", key.text), &key.span);
                }
                Some(name) if fields.iter().any(|(other, _)| other == name) => {
                    self.fault(format!("`{}` is here twice; keep one of them", key.text), &key.span);
                }
                Some(name) => fields.push((*name, value)),
            }
        }
        Fields(fields)
    }
}

/// The known members of an object.
pub(crate) struct Fields<'a>(Vec<(&'static str, &'a Value)>);

impl<'a> Fields<'a> {
    /// The member of this name, unless it is `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        let found = self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        found.filter(|value| value.kind != Kind::Null)
    }
}

/// How many letters have to be changed, put in or taken out to get from one word to another.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.to_lowercase().chars().enumerate() {
        let mut left_up = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let change = left_up + usize::from(a != *b);
            left_up = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(left_up + 1);
        }
    }
    row[b.len()]
}

/// The value as JSON, as it is handed to clients.
pub(crate) fn to_json(value: &Value) -> serde_json::Value {
    match &value.kind {
        Kind::Null => serde_json::Value::Null,
        Kind::Bool(value) => (*value).into(),
        Kind::Number(number) => serde_json::from_str(number).unwrap_or_default(),
        Kind::Text(text) => text.clone().into(),
        Kind::List(list) => list.iter().map(to_json).collect(),
        Kind::Object(object) => object.iter().map(|(key, value)| (key.text.clone(), to_json(value))).collect(),
    }
}
