//! A runtime's complaint, made fit for an event that people read.
//!
//! crun and runc write lines of JSON (`--log-format json`), older ones logfmt or a time and a text. What comes from inside
//! a container can be in it too, so control characters go and the length is bounded.

use serde::Deserialize;

/// The longest text in bytes; an event has no more room for its whole message.
const MAX_TEXT: usize = 2048;

/// A line of a runtime's JSON log.
#[derive(Deserialize)]
struct Line {
    msg: String,
    #[serde(default)]
    level: String,
}

/// What a runtime's log or error output says, in one line: its errors where it marks them, else all of it.
pub fn readable(output: &[u8]) -> String {
    let output = String::from_utf8_lossy(output);
    let (mut errors, mut rest) = (Vec::new(), Vec::new());
    for line in output.lines().filter(|line| !line.trim().is_empty()) {
        match marked(line) {
            Some(Line { msg, level }) if matches!(level.as_str(), "error" | "fatal" | "panic") => {
                push(&mut errors, &msg)
            }
            Some(Line { msg, .. }) => push(&mut rest, &msg),
            None => push(&mut rest, without_time(line)),
        }
    }
    bounded(if errors.is_empty() { rest } else { errors }.join("; "))
}

/// A line that has a level: JSON, or logfmt as `time="..." level=error msg="..."`.
fn marked(line: &str) -> Option<Line> {
    if let Ok(line) = serde_json::from_str(line) {
        return Some(line);
    }
    let (_, level) = line.split_once("level=")?;
    let (level, message) = level.split_once(" msg=")?;
    let msg = match serde_json::Deserializer::from_str(message).into_iter::<String>().next() {
        Some(Ok(quoted)) => quoted,
        _ => message.to_owned(),
    };
    Some(Line { msg, level: level.to_owned() })
}

/// The text after crun's time stamp, `2026-01-02T03:04:05.000000Z: text`.
fn without_time(line: &str) -> &str {
    match line.split_once(": ") {
        Some((time, text)) if time.ends_with('Z') && time.starts_with(|c: char| c.is_ascii_digit()) => text,
        _ => line,
    }
}

fn push(list: &mut Vec<String>, text: &str) {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let plain = plain.trim().to_owned();
    if !plain.is_empty() && !list.contains(&plain) {
        list.push(plain);
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end =
            (0..=MAX_TEXT - "...".len()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runtimes_format_is_unwrapped() {
        let cases = [
            (
                r#"{"msg":"executable file `nope` not found in $PATH","level":"error","time":"t"}"#,
                "executable file `nope` not found in $PATH",
            ),
            (r#"{"level":"error","msg":"exec failed: \"x\"","time":"t"}"#, "exec failed: \"x\""),
            (r#"time="2026-11-20T13:57:09Z" level=error msg="cannot \"open\" it""#, "cannot \"open\" it"),
            ("2026-11-20T13:57:09.332513Z: error opening file", "error opening file"),
            ("level=warning msg=\"old kernel\"\nlevel=error msg=\"it broke\"", "it broke"),
            ("one\n\ntwo\none\n", "one; two"),
            ("", ""),
        ];
        for (output, expected) in cases {
            assert_eq!(readable(output.as_bytes()), expected);
        }
    }

    #[test]
    fn control_characters_and_length_are_taken_off() {
        assert_eq!(readable(b"a\x1b[31mb\xffc\r"), "a [31mb\u{fffd}c");
        let long = readable("ä".repeat(5000).as_bytes());
        assert!(long.len() <= MAX_TEXT && long.ends_with("ä..."), "{}", long.len());
    }

    proptest::proptest! {
        #[test]
        fn any_output_becomes_one_bounded_line(output: Vec<u8>) {
            let text = readable(&output);
            assert!(text.len() <= MAX_TEXT && !text.contains(char::is_control));
        }
    }
}
