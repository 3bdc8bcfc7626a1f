//! The runtime's own words about a failure: the last error in its log, and what it wrote to its standard error.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use podd_monitor::protocol::{MAX_TEXT, Settings, Stage};

use crate::failure::Failure;
use crate::sys::process::Status;

/// What a failed `<runtime> create` leaves to say. Without a status it has not ended in time.
pub(crate) fn failure(settings: &Settings, status: Option<Status>, stderr: &OwnedFd) -> Failure {
    let program = settings.create.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let program = program.display();
    let (stage, mut text) = match status {
        Some(status) => (Stage::Create, format!("{program} create ended with {}", end(status))),
        None => {
            let patience = settings.create_timeout;
            (Stage::Timeout, format!("{program} create did not end within {patience:?} and was killed"))
        }
    };
    let message = fs::read_to_string(&settings.runtime_log).ok().and_then(|log| last_error(&log));
    let stderr = read_available(stderr);
    for words in [message.as_deref(), stderr.as_deref()].into_iter().flatten() {
        if !text.contains(words) {
            text.push_str(": ");
            text.push_str(words);
        }
    }
    Failure::new(stage, text)
}

/// A process's end in words.
pub(crate) fn end(status: Status) -> String {
    match status {
        Status::Exited(code) => format!("exit code {code}"),
        Status::Signalled(signal) => format!("signal {signal}"),
    }
}

/// What stands in a pipe, which gives `WouldBlock` when it is empty.
fn read_available(pipe: &OwnedFd) -> Option<String> {
    let mut bytes = Vec::new();
    // An error ends the text as the end of the stream does; what came before it is kept.
    let _ = File::from(pipe.try_clone().ok()?).take(MAX_TEXT as u64).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The message of the last line of level error, in a log of lines such as `{"level":"error","msg":"..."}`.
fn last_error(log: &str) -> Option<String> {
    let errors =
        log.lines().rev().filter(|line| field(line, "level").is_some_and(|l| l == "error" || l == "fatal"));
    errors.filter_map(|line| field(line, "msg")).find(|message| !message.is_empty())
}

/// The string value of a key in a flat JSON object.
fn field(line: &str, key: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("\"{key}\""))?;
    let mut rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?.chars();
    let mut value = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(value),
            '\\' => value.push(match rest.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'u' => {
                    let code: String = rest.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&code, 16).ok()?;
                    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                }
                other => other,
            }),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_found_and_unescaped() {
        let log = "{\"level\":\"error\",\"msg\":\"first\"}\n\
                   { \"msg\" : \"exec \\\"sh\\u003e\\\": a\\nb\\\\\", \"level\": \"error\", \"time\":\"t\"}\n\
                   {\"level\":\"warning\",\"msg\":\"later\"}\nno json\n";
        assert_eq!(last_error(log).as_deref(), Some("exec \"sh>\": a\nb\\"));
    }

    #[test]
    fn a_log_without_errors_has_none() {
        for log in [
            "",
            "{\"level\":\"error\"",
            "{\"level\":\"info\",\"msg\":\"x\"}",
            "\"level\":\"error\" \"msg\":\"\\",
        ] {
            assert_eq!(last_error(log), None, "{log}");
        }
    }
}
