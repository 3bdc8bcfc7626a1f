//! The processes of the machine, as `/proc` shows them: who descends from whom.

use std::fs;

/// The children of a process, their children, and so on.
pub(super) fn descendants(table: &[Stat], ancestor: i32) -> Vec<i32> {
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = table.iter().filter(|stat| stat.parent == parent && !found.contains(&stat.pid));
        let children: Vec<_> = children.map(|stat| stat.pid).collect();
        found.extend(children);
        next += 1;
    }
    found.split_off(1)
}

/// The fields of `/proc/<pid>/stat` that count here.
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) session: i32,
}

impl Stat {
    /// All processes that live.
    pub(super) fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| Self::read(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    /// A process; none if it is gone or a zombie.
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything: fields count from its end.
        let mut fields = text.rsplit_once(") ")?.1.split(' ');
        if fields.next()? == "Z" {
            return None;
        }
        let mut next = |skipped| fields.nth(skipped)?.parse().ok();
        Some(Self { pid, parent: next(0)?, session: next(1)? })
    }
}
