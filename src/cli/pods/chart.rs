//! The timeline of a start as bars: what took how long, and when. A pure function of stages and width.

use super::timeline::{Phase, Row, Stage, phases};
use crate::cli::table::printable;

/// The least and the most room for bars.
const BARS: std::ops::RangeInclusive<usize> = 16..=80;

/// The most room for whose a stage was, and for its name.
const WHOSE: usize = 14;
const NAME: std::ops::RangeInclusive<usize> = 16..=44;

/// The room for a length of time, with the blanks between the columns.
const TOOK: usize = 8 + 3 * 2;

/// Eighths of a column.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// What stands where no stage was under way: the kubelet was, or podd between two stages.
const GAP: &str = "(between stages)";

/// The widths of the columns.
struct Widths {
    whose: usize,
    name: usize,
    bars: usize,
}

impl Widths {
    fn of(rows: &[&Row], columns: usize) -> Self {
        let longest =
            |text: fn(&Row) -> String| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
        let whose = longest(whose).clamp(2, WHOSE);
        // The bars have at least two fifths of what is left.
        let left = columns.saturating_sub(whose + TOOK);
        let name = longest(name).min(left * 3 / 5).clamp(*NAME.start(), *NAME.end());
        Self { whose, name, bars: left.saturating_sub(name).clamp(*BARS.start(), *BARS.end()) }
    }

    /// The columns before the bars.
    fn line(&self, whose: &str, name: &str, took: &str) -> String {
        let Self { whose: first, name: second, .. } = *self;
        format!("{:<first$}  {:<second$}  {took:>8}  ", cut(whose, first), cut(name, second))
    }
}

/// The chart with its headings. With `all`, every stage has a row, however short.
pub(super) fn chart(stages: &[Stage], columns: usize, all: bool) -> String {
    let mut phases = phases(stages);
    let Some(first) = phases.first() else { return "Nothing is known of where its start went.\n".to_owned() };
    let begin = first.from;
    let busy: i128 = phases.iter().map(|phase| phase.busy).sum();
    let end = phases.last().map_or(begin, |phase| phase.to);
    let mut text = format!("Start: {} of work", span(busy));
    if end - begin > busy {
        text.push_str(&format!(" within {}", span(end - begin)));
    }
    text.push('\n');
    if !all {
        phases.iter_mut().for_each(Phase::fold);
    }
    let rows: Vec<_> = phases.iter().flat_map(|phase| &phase.rows).collect();
    let widths = Widths::of(&rows, columns);
    for phase in &phases {
        text.push('\n');
        text.push_str(&heading(phase, begin, &widths));
        for row in &phase.rows {
            text.push_str(&drawn(row, phase, &widths));
        }
    }
    text
}

/// The axis of a phase: when it began after the first, and how long it is.
fn heading(phase: &Phase, begin: i128, widths: &Widths) -> String {
    let from = match phase.from - begin {
        0 => "0".to_owned(),
        later => format!("+{}", span(later)),
    };
    let to = span(phase.to - phase.from);
    let gap = widths.bars.saturating_sub(from.chars().count() + to.chars().count()).max(1);
    format!("{}{from}{}{to}\n", widths.line("OF", "STAGE", "TOOK"), " ".repeat(gap))
}

fn drawn(row: &Row, phase: &Phase, widths: &Widths) -> String {
    let (start, length, mark) = match row {
        Row::Stage(stage, _) => (i128::from(stage.started_at), i128::from(stage.duration_nanos), None),
        Row::Short(_, start, length) => (*start, *length, None),
        Row::Gap(start, length) => (*start, *length, Some('·')),
    };
    let bar = bar(start - phase.from, length, phase.to - phase.from, widths.bars, mark);
    let mut line = widths.line(&whose(row), &name(row), &span(length)) + &bar;
    if let Row::Stage(Stage { error: Some(error), .. }, _) = row {
        line.push_str(&format!("\n{}failed: {}", widths.line("", "", ""), printable(error)));
    }
    line + "\n"
}

fn name(row: &Row) -> String {
    match row {
        Row::Gap(..) => GAP.to_owned(),
        Row::Short(count, ..) => format!("({count} short stages)"),
        Row::Stage(stage, depth) => format!("{}{}", "  ".repeat((*depth).min(8)), stage.stage),
    }
}

/// Whose a stage was, in a word: a container, a plugin, an image; of the pod itself nothing.
fn whose(row: &Row) -> String {
    let Row::Stage(Stage { object, .. }, _) = row else { return String::new() };
    if object.starts_with("pod ") {
        return String::new();
    }
    let object = object.strip_prefix("container ").unwrap_or(object);
    let object = object.strip_suffix(" (attempt 0)").unwrap_or(object);
    let object = object.strip_prefix("sha256:").map_or(object, |_| "image");
    object.rsplit('/').next().unwrap_or(object).to_owned()
}

/// Harmless, and not longer than that.
fn cut(text: &str, most: usize) -> String {
    let text = printable(text);
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['~']).collect(),
        false => text,
    }
}

/// A bar from `start` on, `length` long, on an axis of `total` that is `columns` wide. Whatever took time is seen.
fn bar(start: i128, length: i128, total: i128, columns: usize, mark: Option<char>) -> String {
    let eighths = i128::try_from(columns * 8).unwrap_or(i128::MAX);
    let total = total.max(1);
    let at = |time: i128| usize::try_from((time.clamp(0, total) * eighths) / total).unwrap_or(0);
    let to = at(start.saturating_add(length));
    // What begins at the very end is seen within the last column.
    let from = at(start).min(columns * 8 - 1);
    // A bar begins with a whole column: there are no blocks that begin within one.
    let column = from / 8;
    let filled = if length > 0 { to.saturating_sub(column * 8).max(1) } else { 1 };
    let mut text = " ".repeat(column);
    match mark {
        Some(mark) => text.extend(std::iter::repeat_n(mark, filled.div_ceil(8))),
        None => {
            text.extend(std::iter::repeat_n('█', filled / 8));
            text.extend((filled % 8 > 0).then(|| EIGHTHS[filled % 8 - 1]));
        }
    }
    text
}

/// A length of time with three digits or so.
fn span(nanos: i128) -> String {
    let millis = nanos as f64 / 1e6;
    match millis {
        _ if millis < 0.1 => format!("{:.0} µs", nanos as f64 / 1e3),
        _ if millis < 100.0 => format!("{millis:.1} ms"),
        _ if millis < 10_000.0 => format!("{millis:.0} ms"),
        _ if millis < 600_000.0 => format!("{:.1} s", millis / 1e3),
        _ => format!("{:.0} min", millis / 60e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, object: &str, at_micros: i64, micros: u64) -> Stage {
        Stage {
            stage: name.into(),
            object: object.into(),
            started_at: 1_700_000_000_000_000_000 + at_micros * 1000,
            duration_nanos: micros * 1000,
            error: None,
        }
    }

    #[test]
    fn a_start_is_drawn_to_scale() {
        let stages = [
            stage("running all", "pod a/b (uid 1, attempt 0)", 0, 40_000),
            stage("running CNI ADD", "bridge", 10_000, 20_000),
            stage("creating", "container web (attempt 0)", 60_000, 20_000),
            stage("looking", "sha256:abc", 59_990, 5),
        ];
        let text = chart(&stages, 62, false);
        let expected = [
            "Start: 60.0 ms of work within 80.0 ms",
            "",
            "OF      STAGE                  TOOK  0                 80.0 ms",
            "        running all         40.0 ms  ████████████▌",
            "bridge    running CNI ADD   20.0 ms     ██████▍",
            "        (between stages)    20.0 ms              ██████",
            "image   looking                5 µs",
            "web     creating            20.0 ms                    ███████",
        ];
        let shape = |line: &str| {
            line.split(['█', '·', '▏', '▎', '▍', '▌', '▋', '▊', '▉']).next().unwrap().trim_end().to_owned()
        };
        let shown: Vec<_> = text.lines().map(shape).collect();
        assert_eq!(shown, expected.map(shape), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 62), "{text}");
        let bars: Vec<_> =
            text.lines().map(|line| line.chars().filter(|c| "█·".contains(*c)).count()).collect();
        assert_eq!(bars, [0, 0, 0, 12, 6, 7, 0, 7], "{text}");
    }

    #[test]
    fn the_longest_names_are_cut_and_leave_room_for_bars() {
        let stages = [stage(&"s".repeat(200), &"o".repeat(200), 0, 5)];
        for columns in [0, 20, 80, 300] {
            let text = chart(&stages, columns, true);
            let line = text.lines().last().unwrap();
            assert!(line.contains('~') && line.ends_with('█'), "{text}");
        }
    }

    #[test]
    fn the_shortest_stage_is_seen_and_no_bar_leaves_the_chart() {
        assert_eq!(bar(0, 0, 1000, 10, None), "▏");
        assert_eq!(bar(1000, 0, 1000, 10, None), format!("{}▏", " ".repeat(9)));
        assert_eq!(bar(0, 1000, 1000, 10, None), "█".repeat(10));
        assert_eq!(bar(500, i128::from(u64::MAX), 1000, 10, None), format!("{}█████", " ".repeat(5)));
        assert_eq!(bar(0, 0, 0, 1, None), "▏");
    }

    #[test]
    fn phases_have_an_axis_each_and_failures_their_reason() {
        let mut failed = stage("cni", "br\u{1b}[0m", 5_000_000, 1000);
        failed.error = Some("no\naddress".into());
        let text = chart(&[stage("run pod", "", 0, 1000), failed], 100, false);
        assert_eq!(text.matches("STAGE").count(), 2, "{text}");
        assert!(
            text.contains("+5000 ms") && text.contains("br?[0m  cni") && text.contains("failed: no?address"),
            "{text}"
        );
        assert!(chart(&[], 80, true).contains("Nothing is known"));
    }

    #[test]
    fn times_have_the_unit_that_suits_them() {
        let shown = [40_000, 300_000, 25_040_000, 420_000_000, 12_300_000_000, 3_600_000_000_000].map(span);
        assert_eq!(shown, ["40 µs", "0.3 ms", "25.0 ms", "420 ms", "12.3 s", "60 min"]);
    }
}
