//! HuJSON: JSON with comments and trailing commas, as a tree that remembers where each value stands.
//!
//! The grammar is the library's. Two things that it lets pass are refused here: control characters inside strings, and a file with
//! nothing in it. So are two keys of one name in an object: where the last one silently wins, a policy has a hole.

use std::fmt;
use std::ops::Range;

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// Where something stands in the text, in bytes.
pub type Span = Range<usize>;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object, in the order of the text.
    Object(Vec<(Text, Value)>),
}

/// A string and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// What it says.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// Something that is wrong with a policy, or that its reader should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What, in one line.
    pub message: String,
    /// Where. `None`: in no place of the text.
    pub at: Option<Span>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>, at: &Span) -> Self {
        Self { message: message.into(), at: Some(at.clone()) }
    }

    /// The message with its line and column, and the line itself with the place marked.
    ///
    /// `source` is the text that was parsed.
    pub fn shown<'a>(&'a self, source: &'a str) -> impl fmt::Display + 'a {
        Shown { fault: self, source }
    }

    /// Line and column of the place, both from 1; the column counts characters.
    pub fn position(&self, source: &str) -> Option<(usize, usize)> {
        let before = source.get(..self.at.as_ref()?.start)?;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Some((before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
    }
}

/// How much of a long line is shown on each side of the place.
const WINDOW: usize = 60;

struct Shown<'a> {
    fault: &'a Fault,
    source: &'a str,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some((line, column)), Some(at)) = (self.fault.position(self.source), &self.fault.at) else {
            return f.write_str(&self.fault.message);
        };
        writeln!(f, "line {line}, column {column}: {}", self.fault.message)?;
        let text: Vec<char> = self.source.lines().nth(line - 1).unwrap_or_default().chars().collect();
        let marked = self.source.get(at.clone()).map_or(1, |text| text.lines().next().unwrap_or("").chars().count());
        let start = (column - 1).saturating_sub(WINDOW);
        let end = text.len().min(column - 1 + WINDOW.max(marked.min(WINDOW * 2)));
        let cut = |c: &char| if *c == '\t' { ' ' } else { *c };
        let part: String = text.get(start..end).unwrap_or_default().iter().map(cut).collect();
        let (left, right) = (if start > 0 { "…" } else { "" }, if end < text.len() { "…" } else { "" });
        let margin = line.to_string();
        writeln!(f, " {margin} | {left}{part}{right}")?;
        let indent = column - 1 - start + left.chars().count();
        let marks = marked.clamp(1, (end + 1).saturating_sub(column).max(1));
        write!(f, " {} | {}{}", " ".repeat(margin.len()), " ".repeat(indent), "^".repeat(marks))
    }
}

/// A text of HuJSON as plain JSON: without comments and trailing commas, in the order in which it is written.
///
/// # Errors
///
/// It is no HuJSON.
pub fn standard_json(source: &str) -> Result<String, Fault> {
    let mut out = String::new();
    write_json(&parse(source)?, 0, &mut out);
    out.push('\n');
    Ok(out)
}

fn write_json(value: &Value, depth: usize, out: &mut String) {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    match &value.kind {
        Kind::Null => out.push_str("null"),
        Kind::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Kind::Number(number) => out.push_str(number),
        Kind::Text(text) => out.push_str(&quoted(text)),
        Kind::List(list) if list.is_empty() => out.push_str("[]"),
        Kind::Object(object) if object.is_empty() => out.push_str("{}"),
        Kind::List(list) => {
            out.push('[');
            for (at, value) in list.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                line(out, depth + 1);
                write_json(value, depth + 1, out);
            }
            line(out, depth);
            out.push(']');
        }
        Kind::Object(object) => {
            out.push('{');
            for (at, (key, value)) in object.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                line(out, depth + 1);
                out.push_str(&quoted(&key.text));
                out.push_str(": ");
                write_json(value, depth + 1, out);
            }
            line(out, depth);
            out.push('}');
        }
    }
}

impl Value {
    /// Whether it is an array.
    pub const fn is_list(&self) -> bool {
        matches!(self.kind, Kind::List(_))
    }
}

/// Parses HuJSON.
///
/// # Errors
///
/// What is wrong first, and where.
pub fn parse(source: &str) -> Result<Value, Fault> {
    // Every field is written out: the library's defaults are lenient, and a new release may bring new leniencies.
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let result = parse_to_ast(source, &CollectOptions::default(), &options).map_err(|error| {
        let range = error.range();
        Fault::new(error.kind().to_string(), &(range.start..range.end))
    })?;
    let value = result
        .value
        .ok_or_else(|| Fault::new("there is nothing here: a policy is an object, `{}` at least", &(0..0)))?;
    convert(source, value)
}

fn convert(source: &str, value: ast::Value<'_>) -> Result<Value, Fault> {
    let range = value.range();
    let span = range.start..range.end;
    let kind = match value {
        ast::Value::NullKeyword(_) => Kind::Null,
        ast::Value::BooleanLit(lit) => Kind::Bool(lit.value),
        ast::Value::NumberLit(lit) => Kind::Number(lit.value.to_owned()),
        ast::Value::StringLit(lit) => {
            no_control_characters(source, &span)?;
            Kind::Text(lit.value.into_owned())
        }
        ast::Value::Array(list) => {
            Kind::List(list.elements.into_iter().map(|value| convert(source, value)).collect::<Result<_, _>>()?)
        }
        ast::Value::Object(object) => {
            let mut all: Vec<(Text, Value)> = Vec::with_capacity(object.properties.len());
            for property in object.properties {
                let range = property.name.range();
                let span = range.start..range.end;
                no_control_characters(source, &span)?;
                let key = Text { text: property.name.into_string(), span };
                if all.iter().any(|(other, _)| other.text == key.text) {
                    return Err(Fault::new(format!("`{}` is here twice; keep one of them", key.text), &key.span));
                }
                all.push((key, convert(source, property.value)?));
            }
            Kind::Object(all)
        }
    };
    Ok(Value { span, kind })
}

fn no_control_characters(source: &str, span: &Span) -> Result<(), Fault> {
    let text = source.get(span.clone()).unwrap_or_default();
    match text.char_indices().find(|(_, c)| *c < ' ') {
        None => Ok(()),
        Some((at, c)) => {
            let at = span.start + at;
            Err(Fault::new(
                format!("a string holds the control character {:#04x}; write it escaped", u32::from(c)),
                &(at..at + 1),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_trailing_commas_are_hujson_and_little_else_is() {
        for good in ["{}", "// a\n{/* b */}", "{\"a\": [1, 2,],}", "[]", "{\"a\": \"\\u0041\"}"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "// only",
            "{'a': 1}",
            "{a: 1}",
            "{\"a\": 1 \"b\": 2}",
            "{\"a\": 0x1}",
            "{\"a\": 1} x",
            "[,]",
            "/* open",
            "{\"a\": \"\n\"}",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_may_not_be_there_twice() {
        let fault = parse("{\"acls\": [],\n \"acls\": []}").unwrap_err();
        assert_eq!(fault.position("{\"acls\": [],\n \"acls\": []}"), Some((2, 2)));
    }

    #[test]
    fn a_fault_shows_its_line_and_marks_the_place() {
        let source = "{\n  \"acls\": [7],\n}";
        let fault = Fault::new("what is this", &(source.find('7').unwrap()..source.find('7').unwrap() + 1));
        assert_eq!(
            fault.shown(source).to_string(),
            "line 2, column 12: what is this\n 2 |   \"acls\": [7],\n   |            ^"
        );
        let long = format!("{{\"a\": \"{}\", \"b\": 7}}", "x".repeat(500));
        let at = long.find('7').unwrap();
        let shown = Fault::new("here", &(at..at + 1)).shown(&long).to_string();
        assert!(shown.lines().all(|line| line.chars().count() < 140), "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        let mark = lines[2].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[1].chars().nth(mark), Some('7'));
    }

    #[test]
    fn depth_does_not_overflow_the_stack() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"{\"a\":".repeat(100_000)).is_err());
    }
}
