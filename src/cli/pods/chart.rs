//! The timeline of a start as bars: what took how long, and when. A pure function of stages and width.

use super::timeline::{Phase, Row, Stage, phases};
use crate::cli::table::printable;

/// The least and the most room for bars.
const BARS: std::ops::RangeInclusive<usize> = 16..=80;

/// The longest name that is not cut.
const NAME_MAX: usize = 40;

/// Eighths of a column.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// What stands where podd had nothing to do: the kubelet had, or the image came.
const WAIT: &str = "(waiting for a request)";

/// The chart with its headings.
pub(super) fn chart(stages: &[Stage], columns: usize) -> String {
    let phases = phases(stages);
    let Some(first) = phases.first() else { return "Nothing is known of where its start went.\n".to_owned() };
    let begin = first.from;
    let busy: i128 = phases.iter().map(|phase| phase.busy).sum();
    let end = phases.last().map_or(begin, |phase| phase.to);
    let mut text = format!("Start: {} of work", span(busy));
    if end - begin > busy {
        text.push_str(&format!(" within {}", span(end - begin)));
    }
    text.push('\n');
    let labels: Vec<_> = phases.iter().flat_map(|phase| &phase.rows).map(label).collect();
    let room = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let bars = columns.saturating_sub(room + 14).clamp(*BARS.start(), *BARS.end());
    for phase in &phases {
        text.push('\n');
        text.push_str(&heading(phase, begin, room, bars));
        for row in &phase.rows {
            text.push_str(&drawn(row, phase, room, bars));
        }
    }
    text
}

/// The axis of a phase: when it began after the first, and how long it is.
fn heading(phase: &Phase, begin: i128, room: usize, bars: usize) -> String {
    let from = match phase.from - begin {
        0 => "0".to_owned(),
        later => format!("+{}", span(later)),
    };
    let to = span(phase.to - phase.from);
    let gap = bars.saturating_sub(from.chars().count() + to.chars().count()).max(1);
    format!("{:<room$}  {:>10}  {from}{}{to}\n", "STAGE", "TOOK", " ".repeat(gap))
}

fn drawn(row: &Row, phase: &Phase, room: usize, bars: usize) -> String {
    let (start, length, mark) = match row {
        Row::Stage(stage, _) => (i128::from(stage.started_at), i128::from(stage.duration_nanos), None),
        Row::Wait(start, length) => (*start, *length, Some('·')),
    };
    let bar = bar(start - phase.from, length, phase.to - phase.from, bars, mark);
    let mut line = format!("{:<room$}  {:>10}  {bar}", label(row), span(length));
    if let Row::Stage(Stage { error: Some(error), .. }, _) = row {
        line.push_str(&format!("\n{:<room$}  {:>10}  failed: {}", "", "", printable(error)));
    }
    line + "\n"
}

fn label(row: &Row) -> String {
    let label = match row {
        Row::Wait(..) => WAIT.to_owned(),
        Row::Stage(stage, depth) => {
            let object = if stage.object.is_empty() { String::new() } else { format!(" {}", stage.object) };
            format!("{}{}{object}", "  ".repeat((*depth).min(8)), stage.stage)
        }
    };
    let label = printable(&label);
    match label.chars().count() > NAME_MAX {
        true => label.chars().take(NAME_MAX - 1).chain(['~']).collect(),
        false => label,
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
            stage("run pod", "", 0, 40_000),
            stage("cni", "bridge", 10_000, 20_000),
            stage("create", "web", 60_000, 20_000),
        ];
        let text = chart(&stages, 63);
        let expected = [
            "Start: 60.0 ms of work within 80.0 ms",
            "",
            "STAGE                          TOOK  0                  80.0 ms",
            "run pod                     40.0 ms  █████████████",
            "  cni bridge                20.0 ms     ██████▊",
            "(waiting for a request)     20.0 ms               ·······",
            "create web                  20.0 ms                     ███████",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 63), "{text}");
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
        let text = chart(&[stage("run pod", "", 0, 1000), failed], 100);
        assert_eq!(text.matches("STAGE").count(), 2, "{text}");
        assert!(
            text.contains("+5000 ms") && text.contains("cni br?[0m") && text.contains("failed: no?address"),
            "{text}"
        );
        assert!(chart(&[], 80).contains("Nothing is known"));
    }

    #[test]
    fn times_have_the_unit_that_suits_them() {
        let shown = [40_000, 300_000, 25_040_000, 420_000_000, 12_300_000_000, 3_600_000_000_000].map(span);
        assert_eq!(shown, ["40 µs", "0.3 ms", "25.0 ms", "420 ms", "12.3 s", "60 min"]);
    }
}
