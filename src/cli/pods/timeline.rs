//! The stages of a pod's start as the runtime tells them, made into what a chart shows: phases, nesting, gaps, and what is
//! too short to be shown one by one.

use serde::Deserialize;

/// Where they are in the verbose PodSandboxStatus.
pub(super) const KEY: &str = "timeline";

/// More stages than a pod's start has; the rest is not shown.
const MOST: usize = 500;

/// A gap that is longer than this begins a chart of its own: a restart hours later would leave no room for the start.
const PAUSE: i128 = 1_000_000_000;

/// What takes less than this, and less than a hundredth of its phase, is short.
const SHORT: i128 = 1_000_000;

/// One stage. What a newer runtime adds is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Stage {
    pub(super) stage: String,
    /// What it was done to: a plugin, a container.
    pub(super) object: String,
    /// Nanoseconds since the epoch.
    pub(super) started_at: i64,
    pub(super) duration_nanos: u64,
    pub(super) error: Option<String>,
}

impl Stage {
    pub(super) fn ends_at(&self) -> i128 {
        i128::from(self.started_at) + i128::from(self.duration_nanos)
    }
}

/// Stages without a long gap between them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Phase {
    /// When the first begins and the last ends, in nanoseconds since the epoch.
    pub(super) from: i128,
    pub(super) to: i128,
    /// How long at least one of them was under way.
    pub(super) busy: i128,
    pub(super) rows: Vec<Row>,
}

/// A row of a chart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// A stage, and within how many others it lies.
    Stage(Stage, usize),
    /// No stage was under way from then on, for so long.
    Gap(i128, i128),
    /// So many short stages, in so long, which began then.
    Short(usize, i128, i128),
}

/// Reads what the runtime tells.
pub(super) fn read(text: &str) -> Result<Vec<Stage>, String> {
    let mut stages: Vec<Stage> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    stages.truncate(MOST);
    Ok(stages)
}

/// Orders the stages and divides them into phases.
pub(super) fn phases(stages: &[Stage]) -> Vec<Phase> {
    let mut stages = stages.to_vec();
    // One that holds others comes before them.
    stages.sort_by_key(|stage| (stage.started_at, std::cmp::Reverse(stage.duration_nanos)));
    let mut phases: Vec<Phase> = Vec::new();
    let mut around: Vec<i128> = Vec::new();
    for stage in stages {
        let (start, end) = (i128::from(stage.started_at), stage.ends_at());
        match phases.last_mut() {
            Some(phase) if start - phase.to <= PAUSE => {
                if start > phase.to {
                    phase.rows.push(Row::Gap(phase.to, start - phase.to));
                }
                phase.busy += (end - start.max(phase.to)).max(0);
                phase.to = phase.to.max(end);
            }
            _ => {
                around.clear();
                phases.push(Phase { from: start, to: end, busy: end - start, rows: Vec::new() });
            }
        }
        // What ended before it begins, or goes on less long, does not hold it.
        while around.last().is_some_and(|outer| *outer <= start || *outer < end) {
            around.pop();
        }
        let depth = around.len();
        around.push(end);
        if let Some(phase) = phases.last_mut() {
            phase.rows.push(Row::Stage(stage, depth));
        }
    }
    phases
}

impl Phase {
    /// Short stages that follow one another become one row, with the gaps between them. Short gaps are left out, and short
    /// stages within others.
    pub(super) fn fold(&mut self) {
        let limit = SHORT.min(((self.to - self.from) / 100).max(1));
        let mut rows: Vec<Row> = Vec::new();
        for row in std::mem::take(&mut self.rows) {
            match &row {
                Row::Gap(_, length) if *length < limit => continue,
                Row::Stage(stage, depth) if stage.is_shorter_than(limit) => {
                    if *depth > 0 {
                        continue;
                    }
                    let end = stage.ends_at();
                    // How many came just before, and when they began.
                    let before = match rows.last() {
                        Some(Row::Short(count, from, _)) => Some((*count, *from)),
                        Some(Row::Stage(last, 0)) if last.is_shorter_than(limit) => {
                            Some((1, i128::from(last.started_at)))
                        }
                        _ => None,
                    };
                    if let (Some((count, from)), Some(last)) = (before, rows.last_mut()) {
                        *last = Row::Short(count + 1, from, end - from);
                        continue;
                    }
                }
                Row::Stage(..) | Row::Gap(..) | Row::Short(..) => {}
            }
            rows.push(row);
        }
        self.rows = rows;
    }
}

impl Stage {
    /// Whether it may go without a row; what failed is always shown.
    fn is_shorter_than(&self, limit: i128) -> bool {
        i128::from(self.duration_nanos) < limit && self.error.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn stage(name: &str, started_at: i64, duration_nanos: u64) -> Stage {
        Stage { stage: name.into(), started_at, duration_nanos, ..Stage::default() }
    }

    #[test]
    fn what_a_runtime_tells_is_read_and_what_is_new_is_passed_over() {
        let told = r#"[{"stage":"cni","object":"bridge","startedAt":1700000000000000000,"durationNanos":25000000,"x":1},
                       {"stage":"start","error":"no"}]"#;
        let stages = read(told).unwrap();
        assert_eq!((stages[0].object.as_str(), stages[0].duration_nanos), ("bridge", 25_000_000));
        assert_eq!(stages[1].error.as_deref(), Some("no"));
        for wrong in ["", "{}", "[1]", r#"[{"durationNanos":-1}]"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let many = format!("[{}]", vec!["{}"; 1000].join(","));
        assert_eq!(read(&many).unwrap().len(), MOST);
    }

    #[test]
    fn stages_nest_by_their_times_and_gaps_are_rows() {
        let stages =
            [stage("inner", 10, 20), stage("outer", 0, 50), stage("after", 60, 40), stage("deep", 12, 5)];
        let [phase] = &phases(&stages)[..] else { panic!("one phase") };
        let shown: Vec<_> = phase
            .rows
            .iter()
            .map(|row| match row {
                Row::Stage(stage, depth) => format!("{}{}", "-".repeat(*depth), stage.stage),
                Row::Gap(at, length) => format!("gap {at}+{length}"),
                Row::Short(..) => "short".to_owned(),
            })
            .collect();
        assert_eq!(shown, ["outer", "-inner", "--deep", "gap 50+10", "after"]);
        assert_eq!((phase.from, phase.to, phase.busy), (0, 100, 90));
    }

    #[test]
    fn stages_side_by_side_do_not_nest_and_count_once() {
        let stages = [stage("record", 0, 30), stage("plugin", 10, 50)];
        let [phase] = &phases(&stages)[..] else { panic!("one phase") };
        assert!(phase.rows.iter().all(|row| matches!(row, Row::Stage(_, 0))), "{phase:?}");
        assert_eq!((phase.busy, phase.to), (60, 60));
    }

    #[test]
    fn what_is_short_is_counted_and_what_failed_is_shown() {
        let mut failed = stage("failed", 20, 1);
        failed.error = Some("no".into());
        let stages = [
            stage("a", 0, 1),
            stage("b", 2, 2),
            failed,
            stage("long", 30, 970),
            stage("within", 40, 1),
            stage("c", 1000, 1),
        ];
        let mut phase = phases(&stages).remove(0);
        phase.fold();
        let shown: Vec<_> = phase
            .rows
            .iter()
            .map(|row| match row {
                Row::Stage(stage, _) => stage.stage.clone(),
                Row::Gap(at, length) => format!("gap {at}+{length}"),
                Row::Short(count, at, length) => format!("{count} short {at}+{length}"),
            })
            .collect();
        assert_eq!(shown, ["2 short 0+4", "gap 4+16", "failed", "long", "c"]);
    }

    #[test]
    fn a_long_gap_begins_a_phase_of_its_own() {
        let second = 1_000_000_000;
        let stages =
            [stage("pod", 0, 10), stage("later", 5 * second, 10), stage("soon", 5 * second + 500, 1)];
        let phases = phases(&stages);
        assert_eq!(phases.iter().map(|phase| phase.rows.len()).collect::<Vec<_>>(), [1, 3]);
        assert!(super::phases(&[]).is_empty());
        // Times that cannot be do no harm.
        super::phases(&[stage("x", i64::MIN, u64::MAX), stage("y", i64::MAX, u64::MAX)]);
    }
}
