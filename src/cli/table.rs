//! Tables and figures for people.

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

/// Without what a terminal could take for a command.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
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
    fn bytes_have_three_digits() {
        let shown = [(0, "0B"), (999, "999B"), (1000, "1.00kB"), (12_345, "12.3kB"), (999_600, "1.00MB")];
        for (count, text) in shown {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(123_456_789), "123MB");
        assert_eq!(bytes(u64::MAX), "18446744TB");
    }
}
