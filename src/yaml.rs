//! YAML as JSON values, for the documents of others that may come in either form.
//!
//! Only what such documents need: one document, keys that are texts, no tags. Aliases are refused, because a few lines of them
//! stand for gigabytes; nesting is bounded, as every level is a call. Whoever reads the file bounds its size.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, StrInput};
use serde_json::{Map, Number, Value};

/// How deep lists and mappings may be nested.
const MAX_DEPTH: usize = 32;

/// Why a text is not a document that is read here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// It is not YAML.
    #[error("not YAML: {0}")]
    Syntax(ScanError),
    /// It is YAML of a kind that is not read.
    #[error("line {line}: {what}")]
    Refused {
        /// Where.
        line: usize,
        /// What is there.
        what: String,
    },
    /// The text ends within the document.
    #[error("the text ends within the document")]
    Short,
}

/// Reads one document; an empty text is null.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    let mut reader = Reader { parser: Parser::new_from_str(text) };
    let mut document = None;
    loop {
        let (event, line) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(document.unwrap_or(Value::Null)),
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            _ if document.is_some() => return Err(refused(line, "a second document")),
            event => document = Some(reader.value(event, line, 0)?),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), YamlError> {
        let (event, span) = self.parser.next_event().ok_or(YamlError::Short)?.map_err(YamlError::Syntax)?;
        Ok((event, span.start.line()))
    }

    fn value(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Value, YamlError> {
        if depth > MAX_DEPTH {
            return Err(refused(line, "it is nested too deeply"));
        }
        match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => Err(refused(line, "tags are not read")),
            Event::Scalar(text, ScalarStyle::Plain, _, None) => Ok(plain(&text)),
            Event::Scalar(text, _, _, None) => Ok(Value::String(text.into_owned())),
            Event::SequenceStart(_, None) => self.list(depth),
            Event::MappingStart(_, None) => self.mapping(depth),
            Event::Alias(_) => Err(refused(line, "aliases are not read")),
            Event::SequenceEnd
            | Event::MappingEnd
            | Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Err(YamlError::Short),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(list)),
                (event, line) => list.push(self.value(event, line, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut map = Map::new();
        loop {
            let (event, line) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Object(map)),
                Event::Scalar(text, _, _, None) => text.into_owned(),
                _ => return Err(refused(line, "a key that is not a text")),
            };
            let (event, at) = self.next()?;
            let value = self.value(event, at, depth + 1)?;
            if map.insert(key.clone(), value).is_some() {
                return Err(refused(line, format!("the key {key:?} stands there twice")));
            }
        }
    }
}

fn refused(line: usize, what: impl Into<String>) -> YamlError {
    YamlError::Refused { line, what: what.into() }
}

/// A scalar without quotes, by the core schema; a number that begins with a zero is octal, as Go's readers have it.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = |digits: &str, radix| i64::from_str_radix(digits, radix).ok().filter(|n| *n >= 0);
    let number = match text.as_bytes() {
        [b'0', b'x', ..] => radix(&text[2..], 16),
        [b'0', b'o', ..] => radix(&text[2..], 8),
        [b'0', rest @ ..] if !rest.is_empty() && rest.iter().all(u8::is_ascii_digit) => radix(text, 8),
        _ => text.parse().ok(),
    };
    if let Some(number) = number {
        return Value::from(number);
    }
    let digits = text.bytes().any(|byte| byte.is_ascii_digit());
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let float = text.parse().ok().filter(|_| digits && numeric).and_then(Number::from_f64);
    float.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_becomes_the_value_that_it_means() {
        let text = "# words\nkind: a.io/b\nlist:\n- path: \"/dev/x\"\n  mode: 0660\n  hex: 0x1f\n- ~\n- 'true'\n- true\n\
                    - -4\n- 1.5\n- 1.2.3\n- '12'\nflow: {a: [1, b]}\ntext: |\n  two\n  lines\n";
        let expected = json!({
            "kind": "a.io/b",
            "list": [
                {"path": "/dev/x", "mode": 0o660, "hex": 31}, null, "true", true, -4, 1.5, "1.2.3", "12",
            ],
            "flow": {"a": [1, "b"]},
            "text": "two\nlines\n",
        });
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), Value::Null);
    }

    #[test]
    fn what_is_not_read_is_refused_with_its_line() {
        let refusal = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(refusal("a: &x 1\nb: *x\n"), "line 2: aliases are not read");
        assert_eq!(refusal("a: 1\na: 2\n"), "line 2: the key \"a\" stands there twice");
        assert_eq!(refusal("a\n---\nb\n"), "line 3: a second document");
        assert_eq!(refusal("a: !!binary aaaa\n"), "line 1: tags are not read");
        assert_eq!(refusal("? [a]\n: b\n"), "line 1: a key that is not a text");
        assert_eq!(refusal(&"[".repeat(40)), "line 1: it is nested too deeply");
        assert!(refusal("a: [").starts_with("not YAML: "));
    }
}
