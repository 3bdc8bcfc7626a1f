//! The picture: a pure function of what is to be seen and of the room for it.
//!
//! Names come from outside, and what a terminal would obey or what is not one column wide is replaced, so a line has as
//! many columns as characters.

use super::sample::{Entry, Sort, Usage, sum};
use crate::cli::table::{Style, age, bytes, printable};

/// The least room for a name; columns go for it.
const NAME_MIN: usize = 24;

/// Lines that are not rows: what the node does, a remark, the titles, the keys.
const FRAME: usize = 4;

/// The room on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// All that is to be seen.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Who runs the pods.
    pub(super) runtime: String,
    /// Sorted.
    pub(super) entries: Vec<Entry>,
    pub(super) sort: Sort,
    /// How many rows are above the first that is seen.
    pub(super) offset: usize,
    /// What is wrong at the moment.
    pub(super) remark: Option<String>,
    /// The time, for ages.
    pub(super) now: i64,
}

/// A line of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) style: Style,
}

/// A column besides the name.
struct Column {
    title: &'static str,
    width: usize,
    /// Those with the highest number go first where there is no room.
    rank: u8,
    cell: fn(&Entry, i64) -> Option<String>,
    /// Whether it is for pods alone.
    of_pods: bool,
}

const fn column(
    title: &'static str,
    width: usize,
    rank: u8,
    of_pods: bool,
    cell: fn(&Entry, i64) -> Option<String>,
) -> Column {
    Column { title, width, rank, cell, of_pods }
}

const COLUMNS: [Column; 9] = [
    column("STATE", 9, 2, false, |entry, _| Some(entry.state.to_owned())),
    column("AGE", 5, 3, false, |entry, now| Some(age(now, entry.created))),
    column("CPU", 6, 0, false, |entry, _| entry.usage.cpu.map(cores)),
    column("MEMORY", 6, 1, false, |entry, _| entry.usage.memory.map(bytes)),
    column("IN/s", 6, 4, true, |entry, _| entry.usage.received.map(bytes)),
    column("OUT/s", 6, 5, true, |entry, _| entry.usage.sent.map(bytes)),
    column("DISK", 6, 6, false, |entry, _| entry.usage.disk.map(bytes)),
    column("IO%", 5, 8, false, |entry, _| entry.usage.io.map(|percent| format!("{percent:.1}"))),
    column("PIDS", 5, 7, true, |entry, _| entry.usage.pids.map(|pids| pids.to_string())),
];

/// The picture of at most that size.
pub(super) fn draw(view: &View, size: Size) -> Vec<Line> {
    let room = size.rows.saturating_sub(FRAME);
    let rows = rows(view, &columns_for(Some(size.columns)), size.columns);
    let offset = view.offset.min(last_offset(rows.len(), room));
    let remark = view.remark.as_ref().map(|text| line(printable(text), Style::Red));
    let mut lines = vec![line(summary(view), Style::Bold), remark.unwrap_or_else(|| line("", Style::Plain))];
    lines.push(line(titles(&columns_for(Some(size.columns)), size.columns), Style::Reverse));
    let seen = offset + 1..=(offset + room).min(rows.len());
    let position = match rows.len() {
        0 => "no pods".to_owned(),
        all if all > room => format!("{}-{} of {all}", seen.start(), seen.end()),
        all => format!("{all} rows"),
    };
    lines.extend(rows.into_iter().skip(offset).take(room));
    lines.resize_with(FRAME - 1 + room, || line("", Style::Plain));
    lines.push(line(
        format!("q quit   s sort: {}   arrows scroll   {position}", view.sort.name()),
        Style::Dim,
    ));
    lines.truncate(size.rows);
    for line in &mut lines {
        line.text = fit(&line.text, size.columns);
    }
    lines
}

/// The same as a plain table, as wide and as long as it has to be.
pub(super) fn plain(view: &View) -> String {
    let names = view.entries.iter().flat_map(|pod| {
        let containers = pod.containers.iter().map(|own| own.name.chars().count() + 2);
        containers.chain([pod.name.chars().count()])
    });
    let all: usize = COLUMNS.iter().map(|column| column.width + 2).sum();
    let width = names.max().unwrap_or(0).max(NAME_MIN) + all;
    let mut text = titles(&columns_for(None), width) + "\n";
    for row in rows(view, &columns_for(None), width) {
        text.push_str(row.text.trim_end());
        text.push('\n');
    }
    text
}

/// The furthest that the rows can be scrolled.
pub(super) fn last_offset(rows: usize, room: usize) -> usize {
    rows.saturating_sub(room)
}

/// How many rows a view has.
pub(super) fn row_count(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| 1 + entry.containers.len()).sum()
}

/// How many rows are seen at a time.
pub(super) fn page(size: Size) -> usize {
    size.rows.saturating_sub(FRAME).max(1)
}

fn line(text: impl Into<String>, style: Style) -> Line {
    Line { text: text.into(), style }
}

/// The columns that leave room for a name; all where the width does not matter.
fn columns_for(width: Option<usize>) -> Vec<&'static Column> {
    let mut columns: Vec<_> = COLUMNS.iter().collect();
    let Some(width) = width else { return columns };
    let taken = |columns: &[&Column]| columns.iter().map(|column| column.width + 2).sum::<usize>();
    while taken(&columns) + NAME_MIN > width {
        let Some(last) = columns.iter().map(|column| column.rank).max() else { break };
        columns.retain(|column| column.rank != last);
    }
    columns
}

fn titles(columns: &[&Column], width: usize) -> String {
    compose("POD", columns, width, |column| column.title.to_owned())
}

/// A row for each pod, and below it one for each of its containers.
fn rows(view: &View, columns: &[&Column], width: usize) -> Vec<Line> {
    let row = |entry: &Entry, name: String, is_pod: bool| {
        let text = compose(&name, columns, width, |column| match (column.cell)(entry, view.now) {
            Some(text) => text,
            None if column.of_pods && !is_pod => String::new(),
            None => "-".to_owned(),
        });
        let style = match (entry.lives, is_pod) {
            (false, _) => Style::Dim,
            (true, true) => Style::Bold,
            (true, false) => Style::Plain,
        };
        line(text, style)
    };
    let of_pod = |pod: &Entry| {
        let own = row(pod, pod.name.clone(), true);
        let containers = pod.containers.iter().map(|own| row(own, format!("  {}", own.name), false));
        [own].into_iter().chain(containers).collect::<Vec<_>>()
    };
    view.entries.iter().flat_map(of_pod).collect()
}

/// The name to the left in what room there is, the cells to the right, figures flush right.
fn compose(name: &str, columns: &[&Column], width: usize, cell: impl Fn(&Column) -> String) -> String {
    let taken: usize = columns.iter().map(|column| column.width + 2).sum();
    let room = width.saturating_sub(taken);
    let mut text = format!("{:<room$}", fit(name, room));
    for column in columns {
        let width = column.width;
        match column.title {
            "STATE" => text.push_str(&format!("  {:<width$}", cell(column))),
            _ => text.push_str(&format!("  {:>width$}", cell(column))),
        }
    }
    text
}

fn summary(view: &View) -> String {
    let pods = view.entries.len();
    let ready = view.entries.iter().filter(|pod| pod.lives).count();
    let containers = || view.entries.iter().flat_map(|pod| &pod.containers);
    let running = containers().filter(|container| container.lives).count();
    let of_all = |part: fn(&Usage) -> Option<u64>| sum(view.entries.iter().map(|pod| part(&pod.usage)));
    let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let (cpu, memory) = (of_all(|usage| usage.cpu).map(cores), of_all(|usage| usage.memory).map(bytes));
    format!(
        "{}   pods {ready}/{pods}   containers {running}/{}   cpu {}   memory {}",
        view.runtime,
        containers().count(),
        shown(cpu),
        shown(memory),
    )
}

/// Billionths of a core as kubectl shows them: thousandths, with an `m`.
fn cores(nanos: u64) -> String {
    match nanos.div_ceil(1_000_000) {
        thousandths if thousandths < 100_000 => format!("{thousandths}m"),
        thousandths => format!("{}", thousandths / 1000),
    }
}

/// Harmless, and cut to so many columns.
fn fit(text: &str, columns: usize) -> String {
    let narrow = |c: char| if c.is_ascii() || matches!(c, '\u{a1}'..='\u{24f}') { c } else { '?' };
    let text: String = printable(text).chars().map(narrow).collect();
    match text.chars().count() > columns {
        false => text,
        true if columns < 2 => text.chars().take(columns).collect(),
        true => text.chars().take(columns - 1).chain(['~']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(pods: usize) -> View {
        let container = Entry { name: "nginx".into(), state: "running", lives: true, ..Entry::default() };
        let usage = Usage { cpu: Some(12_300_000), memory: Some(34_100_000), ..Usage::default() };
        let pod = |number: usize| Entry {
            name: format!("default/web-{number}"),
            state: "ready",
            lives: true,
            created: 1,
            usage,
            containers: vec![container.clone()],
        };
        let entries = (0..pods).map(pod).collect();
        View {
            runtime: "podd 1".into(),
            entries,
            sort: Sort::Cpu,
            offset: 0,
            remark: None,
            now: 61_000_000_001,
        }
    }

    fn texts(view: &View, columns: usize, rows: usize) -> Vec<String> {
        draw(view, Size { columns, rows }).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn the_picture_has_the_size_of_the_terminal_whatever_that_is() {
        for (columns, rows) in [(200, 50), (80, 24), (40, 10), (20, 5), (10, 3), (1, 1), (0, 0)] {
            for pods in [0, 1, 40] {
                let lines = texts(&view(pods), columns, rows);
                assert_eq!(lines.len(), rows, "{columns}x{rows}");
                assert!(
                    lines.iter().all(|line| line.chars().count() <= columns),
                    "{columns}x{rows}: {lines:?}"
                );
            }
        }
    }

    #[test]
    fn figures_stand_below_their_titles() {
        let lines = texts(&view(1), 120, 10);
        assert_eq!(lines[0], "podd 1   pods 1/1   containers 1/1   cpu 13m   memory 34.1MB");
        for (title, figure) in [("CPU", "13m"), ("MEMORY", "34.1MB"), ("AGE", "61s")] {
            let end = |line: &str, word: &str| line.find(word).unwrap() + word.len();
            assert_eq!(end(&lines[2], title), end(&lines[3], figure), "{lines:#?}");
        }
        assert!(lines[3].starts_with("default/web-0 ") && lines[4].starts_with("  nginx "), "{lines:#?}");
        // Of the network a container has nothing of its own; what is not known is a dash.
        assert_eq!(
            lines[4].split_whitespace().collect::<Vec<_>>(),
            ["nginx", "running", "-", "-", "-", "-", "-"]
        );
    }

    #[test]
    fn where_room_is_short_the_least_important_goes_first() {
        let titles = |columns| texts(&view(1), columns, 10)[2].clone();
        assert!(titles(110).contains("IO%"));
        let narrow = titles(80);
        assert!(!narrow.contains("IO%") && narrow.contains("MEMORY") && narrow.contains("AGE"), "{narrow}");
        assert_eq!(titles(36).split_whitespace().collect::<Vec<_>>(), ["POD", "CPU"]);
    }

    #[test]
    fn rows_scroll_and_never_beyond_the_last() {
        let mut long = view(20);
        long.offset = 1000;
        let lines = texts(&long, 80, 14);
        assert!(lines[3].starts_with("default/web-15"), "{lines:#?}");
        assert!(lines.last().unwrap().ends_with("31-40 of 40"), "{lines:#?}");
        long.offset = 3;
        assert!(texts(&long, 80, 14)[3].starts_with("  nginx"));
    }

    #[test]
    fn names_cannot_speak_to_the_terminal() {
        let mut hostile = view(1);
        hostile.entries[0].name = "a/\u{1b}[2Jx\u{202e}日本".into();
        hostile.remark = Some("broken\r\n\u{1b}]0;title\u{7}".into());
        let lines = draw(&hostile, Size { columns: 80, rows: 10 });
        assert!(
            lines.iter().all(|line| line.text.chars().all(|c| c == ' ' || c.is_ascii_graphic())),
            "{lines:?}"
        );
        assert!(lines[3].text.starts_with("a/?[2Jx???"), "{lines:?}");
        assert_eq!((lines[1].style, lines[1].text.as_str()), (Style::Red, "broken???]0;title?"));
    }

    #[test]
    fn a_plain_table_has_every_column_and_whole_names() {
        let mut one = view(1);
        one.entries[0].name = format!("default/{}", "x".repeat(100));
        let table = plain(&one);
        assert!(table.lines().next().unwrap().ends_with("PIDS"), "{table}");
        assert!(table.contains(&"x".repeat(100)), "{table}");
        assert_eq!(table.lines().count(), 3);
    }

    #[test]
    fn cores_are_thousandths() {
        assert_eq!([0, 1, 1_000_000, 2_500_000_000].map(cores), ["0m", "1m", "1m", "2500m"]);
        assert_eq!(cores(128_000_000_000), "128");
    }
}
