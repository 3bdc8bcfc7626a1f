//! Tables and figures for people.

use std::io::IsTerminal;

/// How many hexadecimal digits of an ID are shown (as crictl).
pub(super) const SHORT_ID: usize = 13;

/// Rows of cells as text, each column as wide as its widest cell.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{:<width$}   ", printable(cell)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number of bytes in decimal units, as crictl shows it.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            let decimals = match value {
                _ if unit == "B" => 0,
                v if v < 9.995 => 2,
                v if v < 99.95 => 1,
                _ => 0,
            };
            return format!("{value:.decimals$}{unit}");
        }
        value /= 1000.0;
    }
    format!("{count}B")
}

/// Without what a terminal could take for a command, or for a change of the direction of writing.
pub(super) fn printable(text: &str) -> String {
    let harmless = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if harmless(c) { c } else { '?' }).collect()
}

/// How long something has been, by its two largest units at most, as kubectl shows it; `-` for what lies ahead.
pub(super) fn age(now: i64, since: i64) -> String {
    let Ok(seconds) = u64::try_from(now.saturating_sub(since) / 1_000_000_000) else { return "-".to_owned() };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if since <= 0 => "-".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => format!("{minutes}m{}s", seconds % 60),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => format!("{hours}h{}m", minutes % 60),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => format!("{days}d{}h", hours % 24),
        () => format!("{days}d"),
    }
}

/// A colour or weight of text on a terminal (ECMA-48, SGR).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Reverse,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Style {
    fn code(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Bold => 1,
            Self::Dim => 2,
            Self::Reverse => 7,
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Cyan => 36,
        }
    }
}

/// Text in a style, if there is to be any.
pub(super) fn styled(text: &str, style: Style, colour: bool) -> String {
    match colour && style != Style::Plain {
        true => format!("\x1b[{}m{text}\x1b[0m", style.code()),
        false => text.to_owned(),
    }
}

/// Whether standard output is a terminal whose user has not asked for text alone (no-color.org).
pub(super) fn wants_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [vec!["a".to_owned(), "\u{1b}[31m".to_owned()], vec!["long name".to_owned(), String::new()]];
        assert_eq!(table(&["N", "VALUE"], &rows), "N           VALUE\na           ?[31m\nlong name\n");
    }

    #[test]
    fn what_a_terminal_obeys_is_made_harmless() {
        assert_eq!(printable("a\u{1b}]0;x\u{7}\u{9b}2J\u{202e}b\n\u{200b}"), "a?]0;x??2J?b??");
        assert_eq!(printable("grün 日本"), "grün 日本");
    }

    #[test]
    fn an_age_has_two_units_at_most() {
        let second = 1_000_000_000;
        let shown = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m0s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600, "3h0m"),
            (47 * 3600, "47h"),
            (49 * 3600, "2d1h"),
            (30 * 86_400, "30d"),
        ];
        for (seconds, text) in shown {
            assert_eq!(age((100 + seconds) * second, 100 * second), text);
        }
        assert_eq!(age(second, 0), "-");
        assert_eq!(age(second, 5 * second), "-");
    }

    #[test]
    fn bytes_have_three_digits() {
        let shown = [(0, "0B"), (999, "999B"), (1000, "1.00kB"), (12_345, "12.3kB"), (999_600, "1.00MB")];
        for (count, text) in shown {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(123_456_789), "123MB");
        assert_eq!(bytes(u64::MAX), "18446744TB");
    }
}
