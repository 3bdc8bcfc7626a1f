//! The processes of a cgroup.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::stats::Buffer;
use super::{CgroupError, CgroupMode, CgroupPath, Cgroups};

/// How often what is left is signalled; between two tries a fork may have slipped through.
const TRIES: u32 = 200;

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Deeper trees are not made by anyone; the bound keeps a hostile container from deep recursion.
const MAX_DEPTH: usize = 32;

impl Cgroups {
    /// The processes in a cgroup and in all below it, in any hierarchy. None where it does not exist. What is in another
    /// PID namespace and has no number here is left out.
    pub fn processes(&self, path: &CgroupPath) -> Result<BTreeSet<i32>, CgroupError> {
        let mut found = BTreeSet::new();
        for directory in self.task_directories(path) {
            collect(&directory, 0, &mut found)?;
        }
        Ok(found)
    }

    /// How many processes there are in a cgroup and below it, without a list of them where nothing is below it. Blocks: not
    /// for the async pool.
    pub fn process_count(&self, path: &CgroupPath, buffer: &mut Buffer) -> Option<u64> {
        let directory = self.task_directories(path).into_iter().next()?;
        // Each directory below adds a link.
        if fs::metadata(&directory).ok()?.nlink() > 2 {
            return u64::try_from(self.processes(path).ok()?.len()).ok();
        }
        buffer.count_lines(&directory.join("cgroup.procs"))
    }

    /// Kills all processes in a cgroup and below it, and waits until they are gone. Blocks: not for the async pool.
    pub fn kill_all(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        if path.is_root() {
            return Err(CgroupError::Parent(path.to_string()));
        }
        for tried in 0..=TRIES {
            let left = self.processes(path)?;
            if left.is_empty() {
                return Ok(());
            }
            if tried == TRIES {
                return Err(CgroupError::Alive { path: path.clone(), left: left.len(), tried });
            }
            self.kill(path, &left);
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// One signal for the whole tree where the kernel has it (v2 since 5.14), else one for each process.
    fn kill(&self, path: &CgroupPath, processes: &BTreeSet<i32>) {
        if self.mode == CgroupMode::V2
            && self.directories(path).all(|directory| fs::write(directory.join("cgroup.kill"), "1").is_ok())
        {
            return;
        }
        for pid in processes.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            // A process that is gone already is what was wanted; the next look tells.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// On v1 one hierarchy is enough and the rest would be the same answer again: pids, where no process can leave unseen.
    fn task_directories(&self, path: &CgroupPath) -> Vec<std::path::PathBuf> {
        let best = ["pids", "memory", "devices"]
            .iter()
            .find_map(|name| self.hierarchies.iter().find(|hierarchy| hierarchy.has(name)));
        match (self.mode, best) {
            (CgroupMode::V1, Some(hierarchy)) => vec![path.under(&hierarchy.root)],
            _ => self.directories(path).collect(),
        }
    }
}

fn collect(directory: &Path, depth: usize, found: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
    let procs = directory.join("cgroup.procs");
    match fs::read_to_string(&procs) {
        Ok(text) => {
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0))
        }
        // Gone, or going while it is read (ENODEV); a threaded cgroup of v2 has no list of processes (EOPNOTSUPP).
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) if matches!(rustix::io::Errno::from_io_error(&e), Some(rustix::io::Errno::NODEV)) => {
            return Ok(());
        }
        Err(e) if matches!(rustix::io::Errno::from_io_error(&e), Some(rustix::io::Errno::OPNOTSUPP)) => {}
        Err(e) => return Err(CgroupError::io("read", &procs)(e)),
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if depth < MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth + 1, found)?;
        }
    }
    Ok(())
}
