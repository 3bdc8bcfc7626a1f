//! Lines on standard error: for people, or as JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::line::Line;

/// `TIME LEVEL message name=value ...`
pub(super) fn text(line: &Line<'_>, colours: bool) -> String {
    let mut text = time();
    let (colour, end) = if colours { (colour(line.level), "\x1b[0m") } else { ("", "") };
    let _ = write!(text, " {colour}{:>5}{end} ", line.level);
    push_escaped(&mut text, &line.message);
    for (name, value) in &line.fields {
        let _ = write!(text, " {name}=");
        match value {
            Value::String(value) => push_value(&mut text, value),
            other => text.push_str(&other.to_string()),
        }
    }
    text.push('\n');
    text
}

/// One object; what the line itself says comes before a field of the same name.
pub(super) fn json(line: &Line<'_>) -> String {
    let mut object: Map<String, Value> =
        line.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    object.insert("timestamp".to_owned(), json!(time()));
    object.insert("level".to_owned(), json!(line.level.as_str().to_lowercase()));
    object.insert("target".to_owned(), json!(line.target));
    object.insert("message".to_owned(), json!(line.message));
    let mut text = Value::Object(object).to_string();
    text.push('\n');
    text
}

/// Now, as RFC 3339 has it.
fn time() -> String {
    let mut text = String::with_capacity(160);
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG | Level::TRACE => "\x1b[2m",
    }
}

/// A value that is one word stands as it is, others in quotes.
fn push_value(text: &mut String, value: &str) {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@%+,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return text.push_str(value);
    }
    let _ = write!(text, "{value:?}");
}

fn push_escaped(text: &mut String, message: &str) {
    for c in message.chars() {
        match c {
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        let fields = vec![
            ("pod", json!("abc")),
            ("archive", json!("a b\n")),
            ("code", json!(7)),
            ("level", json!("x")),
        ];
        let message = "it says\nERROR forged \x1b[31m".to_owned();
        Line { level: Level::WARN, target: "podd::x", message, fields }
    }

    #[test]
    fn a_line_is_one_line_whatever_it_says() {
        let text = text(&line(), false);
        let rest = text.split_once(' ').unwrap().1;
        assert_eq!(
            rest,
            " WARN it says\\nERROR forged \\u{1b}[31m pod=abc archive=\"a b\\n\" code=7 level=x\n"
        );
    }

    #[test]
    fn json_has_the_lines_own_words_and_its_fields() {
        let json: Value = serde_json::from_str(&json(&line())).unwrap();
        assert_eq!(json["level"], "warn", "no field takes its place");
        assert_eq!(
            (&json["pod"], &json["code"], &json["target"]),
            (&json!("abc"), &json!(7), &json!("podd::x"))
        );
        assert_eq!(json["message"], "it says\nERROR forged \x1b[31m");
    }
}
