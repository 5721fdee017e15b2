//! What commands print: tables for people, JSON and YAML for programs.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde_json::Value;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table, for people.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
    /// YAML, for programs.
    Yaml,
}

/// A column: its title, and how it is read from an item.
pub struct Column {
    title: &'static str,
    read: Box<dyn Fn(&Value) -> String>,
}

impl Column {
    /// The text of a field; lists with commas, absent ones as a dash.
    pub fn text(title: &'static str, field: &'static str) -> Self {
        Self::with(title, move |item| show(&item[field]))
    }

    /// Yes or no.
    pub fn flag(title: &'static str, field: &'static str) -> Self {
        Self::with(title, move |item| if item[field] == Value::Bool(true) { "yes" } else { "no" }.to_owned())
    }

    /// A time, as how long ago it was, or how long it is until then.
    pub fn time(title: &'static str, field: &'static str) -> Self {
        Self::with(title, move |item| item[field].as_str().map_or_else(|| "-".to_owned(), relative))
    }

    /// Whatever is made of an item.
    pub fn with(title: &'static str, read: impl Fn(&Value) -> String + 'static) -> Self {
        Self { title, read: Box::new(read) }
    }
}

/// A value, in as few words as it takes.
pub fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields.get("name").map_or_else(|| value.to_string(), show),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A time as people say it: `3m ago`, `in 2d`.
fn relative(text: &str) -> String {
    let Ok(time) = text.parse::<jiff::Timestamp>() else { return text.to_owned() };
    let seconds = time.as_second() - jiff::Timestamp::now().as_second();
    let amount = match seconds.unsigned_abs() {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7199 => format!("{}m", s / 60),
        s @ 7200..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    };
    if seconds > 0 { format!("in {amount}") } else { format!("{amount} ago") }
}

/// Prints a list.
pub fn list(format: Format, items: &Value, columns: &[Column]) -> anyhow::Result<()> {
    match format {
        Format::Json | Format::Yaml => structured(format, items)?,
        Format::Table => {
            let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
            if items.is_empty() {
                line("none");
                return Ok(());
            }
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(columns.iter().map(|column| column.title));
            for item in items {
                table.add_row(columns.iter().map(|column| {
                    let text = (column.read)(item);
                    let cell = Cell::new(&text);
                    match colour_of(column.title, &text).filter(|_| colour) {
                        Some(colour) => cell.fg(colour),
                        None => cell,
                    }
                }));
            }
            for text in table.to_string().lines() {
                line(text.trim_end());
            }
        }
    }
    Ok(())
}

/// What wants to be seen first.
fn colour_of(title: &str, text: &str) -> Option<Color> {
    let word = text.split(':').next().unwrap_or_default();
    match (title, word) {
        ("STATE", "primary" | "serving" | "valid") | ("ONLINE", "yes") => Some(Color::Green),
        ("STATE", "pending" | "pre-approved" | "withdrawn") => Some(Color::Yellow),
        ("STATE", "offline" | "expired" | "refused" | "invalid" | "revoked") | ("ONLINE", "no") => Some(Color::Red),
        _ => None,
    }
}

/// Prints one thing, a field a line.
pub fn one(format: Format, item: &Value) -> anyhow::Result<()> {
    if format != Format::Table {
        return structured(format, item);
    }
    let fields = item.as_object().into_iter().flatten();
    let width = item.as_object().into_iter().flatten().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields {
        line(&format!("{name:width$}  {}", show(value)));
    }
    Ok(())
}

fn structured(format: Format, value: &Value) -> anyhow::Result<()> {
    let text = match format {
        Format::Json | Format::Table => serde_json::to_string_pretty(value)?,
        Format::Yaml => serde_saphyr::to_string(value)?,
    };
    line(text.trim_end());
    Ok(())
}

/// Prints a line. A reader that has gone wants no more of it.
pub fn line(text: &str) {
    try_line(text).ok();
}

/// Prints a line of something that has no end of its own.
///
/// # Errors
///
/// It can't be written: the reader has gone, say.
pub fn try_line(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}

/// Says something to the person, beside what was asked for.
pub fn note(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_in_few_words() {
        for (value, shown) in [
            (serde_json::json!(null), "-"),
            (serde_json::json!([]), "-"),
            (serde_json::json!(["a", "b"]), "a, b"),
            (serde_json::json!({"id": 1, "name": "r1"}), "r1"),
            (serde_json::json!(3), "3"),
        ] {
            assert_eq!(show(&value), shown);
        }
        assert_eq!(relative("no time"), "no time");
        assert!(relative("2020-01-01T00:00:00Z").ends_with("d ago"));
    }
}
