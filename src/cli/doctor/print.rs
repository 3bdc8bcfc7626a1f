//! The findings as a table for a person, and as JSON for a program.

use serde_json::json;

use super::finding::{Check, Outcome};
use crate::cli::table::{Style, printable, styled};

/// How wide lines are where no terminal says so.
pub(super) const WIDTH: usize = 120;

/// The least room for what was seen.
const ROOM: usize = 30;

/// A line or more for each check, and one for all.
pub(super) fn table(checks: &[Check], columns: usize, colour: bool) -> String {
    let ids = checks.iter().map(|check| check.id.chars().count()).max().unwrap_or(0);
    let indent = "problem".len() + 2 + ids + 2;
    let room = columns.saturating_sub(indent).max(ROOM);
    let mut text = String::new();
    for check in checks {
        let (word, style) = shown(check.outcome);
        let lines = wrapped(&printable(&check.seen), room).into_iter().map(|line| (line, Style::Plain));
        let advice =
            check.advice.iter().flat_map(|advice| wrapped(&format!("> {}", printable(advice)), room));
        for (number, (line, own)) in lines.chain(advice.map(|line| (line, Style::Dim))).enumerate() {
            let (word, id) = if number == 0 { (word, printable(&check.id)) } else { ("", String::new()) };
            let word = styled(&format!("{word:<7}"), style, colour && number == 0);
            text.push_str(&format!("{word}  {id:<ids$}  {}\n", styled(&line, own, colour)));
        }
    }
    text.push('\n');
    text.push_str(&summary(checks, colour));
    text
}

/// The same for a program; keys and ids are stable.
pub(super) fn json(checks: &[Check]) -> String {
    let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
    let document = json!({
        "checks": checks,
        "summary": {
            "ok": count(Outcome::Ok),
            "note": count(Outcome::Note),
            "warning": count(Outcome::Warning),
            "problem": count(Outcome::Problem),
        },
    });
    format!("{document:#}\n")
}

fn shown(outcome: Outcome) -> (&'static str, Style) {
    match outcome {
        Outcome::Ok => ("ok", Style::Green),
        Outcome::Note => ("note", Style::Cyan),
        Outcome::Warning => ("warning", Style::Yellow),
        Outcome::Problem => ("problem", Style::Red),
    }
}

fn summary(checks: &[Check], colour: bool) -> String {
    let parts = [Outcome::Problem, Outcome::Warning, Outcome::Note, Outcome::Ok].map(|outcome| {
        let count = checks.iter().filter(|check| check.outcome == outcome).count();
        let (word, style) = shown(outcome);
        let plural = if count == 1 || outcome == Outcome::Ok { "" } else { "s" };
        let text = format!("{count} {word}{plural}");
        if count == 0 { text } else { styled(&text, style, colour) }
    });
    parts.join(", ") + "\n"
}

/// Words in lines of at most so many columns; a longer word has a line of its own.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + length <= columns => line.push_str(&format!(" {word}")),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok("kernel.version", "Linux 6.18"),
            Check::problem("disk.root", "it is on nfs\u{1b}[2J which is no place for it", "put it elsewhere"),
        ]
    }

    #[test]
    fn a_table_is_aligned_wrapped_and_harmless() {
        let text = table(&checks(), 20, false);
        let expected = "\
ok       kernel.version  Linux 6.18
problem  disk.root       it is on nfs?[2J which is no
                         place for it
                         > put it elsewhere

1 problem, 0 warnings, 0 notes, 1 ok
";
        assert_eq!(text, expected);
    }

    #[test]
    fn colours_are_for_terminals_and_change_no_column() {
        let text = table(&checks(), 100, true);
        assert!(text.starts_with("\u{1b}[32mok     \u{1b}[0m  kernel.version"), "{text:?}");
        assert!(text.contains("\u{1b}[31mproblem\u{1b}[0m"), "{text:?}");
    }

    #[test]
    fn a_program_finds_every_check_with_its_outcome() {
        let document: serde_json::Value = serde_json::from_str(&json(&checks())).unwrap();
        assert_eq!(document["summary"], json!({ "ok": 1, "note": 0, "warning": 0, "problem": 1 }));
        assert_eq!(
            document["checks"][0],
            json!({ "id": "kernel.version", "outcome": "ok", "seen": "Linux 6.18" })
        );
        assert_eq!(document["checks"][1]["do"], "put it elsewhere");
        assert_eq!(document["checks"][1]["outcome"], "problem");
    }
}
