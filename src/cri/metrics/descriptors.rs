//! The metrics that podd tells of: their names, labels and meaning. Names and labels are those under which the kubelet's
//! cAdvisor has published the same figures for years, so that rules and dashboards go on working without it; they never
//! change. `docs/stats.md` lists them, and a test holds both together.

use crate::api;

/// The labels that every metric has, in this order: the cgroup's path, the container's ID (the pod's, of its network), the
/// image, and the names that Kubernetes has for it.
const BASE: [&str; 6] = ["id", "name", "image", "namespace", "pod", "container"];

/// One metric.
pub(super) struct Descriptor {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: api::MetricType,
    /// The labels that it has besides [`BASE`], after those.
    pub(super) more: &'static [&'static str],
}

impl Descriptor {
    pub(super) fn labels(&self) -> impl Iterator<Item = &'static str> {
        BASE.iter().chain(self.more).copied()
    }

    pub(super) fn message(&self) -> api::MetricDescriptor {
        api::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: self.labels().map(str::to_owned).collect(),
        }
    }
}

const fn counter(name: &'static str, more: &'static [&'static str], help: &'static str) -> Descriptor {
    Descriptor { name, help, kind: api::MetricType::Counter, more }
}

const fn gauge(name: &'static str, more: &'static [&'static str], help: &'static str) -> Descriptor {
    Descriptor { name, help, kind: api::MetricType::Gauge, more }
}

const DEVICE: &[&str] = &["device"];
const INTERFACE: &[&str] = &["interface"];
const PAGE_SIZE: &[&str] = &["pagesize"];

/// Names the descriptors, and lists them in the same order.
macro_rules! descriptors {
    ($($constant:ident = $kind:ident($name:literal, $more:expr, $help:literal);)*) => {
        $(pub(super) static $constant: Descriptor = $kind($name, $more, $help);)*
        /// All metrics.
        pub(super) static ALL: &[&Descriptor] = &[$(&$constant),*];
    };
}

descriptors! {
    LAST_SEEN = gauge("container_last_seen", &[],
        "When the container was measured, in seconds since the epoch");
    START_TIME = gauge("container_start_time_seconds", &[],
        "When the container was started, in seconds since the epoch");

    CPU_USAGE = counter("container_cpu_usage_seconds_total", &["cpu"],
        "Processor time in seconds; cpu is always total");
    CPU_USER = counter("container_cpu_user_seconds_total", &[],
        "Processor time of the processes themselves, in seconds");
    CPU_SYSTEM = counter("container_cpu_system_seconds_total", &[],
        "Processor time of the kernel for them, in seconds");
    CPU_PERIODS = counter("container_cpu_cfs_periods_total", &[],
        "Periods of the processor quota that have passed");
    CPU_THROTTLED_PERIODS = counter("container_cpu_cfs_throttled_periods_total", &[],
        "Periods in which the quota was used up");
    CPU_THROTTLED = counter("container_cpu_cfs_throttled_seconds_total", &[],
        "Time for which the quota held processes, in seconds");

    MEMORY_USAGE = gauge("container_memory_usage_bytes", &[], "Memory in use, page cache included");
    MEMORY_WORKING_SET = gauge("container_memory_working_set_bytes", &[],
        "Memory in use without page cache that was not used of late");
    MEMORY_MAX = gauge("container_memory_max_usage_bytes", &[], "The most memory that ever was in use");
    MEMORY_RSS = gauge("container_memory_rss", &[], "Anonymous memory, in bytes");
    MEMORY_CACHE = gauge("container_memory_cache", &[], "Page cache, in bytes");
    MEMORY_MAPPED = gauge("container_memory_mapped_file", &[], "Page cache that is mapped, in bytes");
    MEMORY_ACTIVE_FILE = gauge("container_memory_total_active_file_bytes", &[],
        "Page cache that was used of late");
    MEMORY_INACTIVE_FILE = gauge("container_memory_total_inactive_file_bytes", &[],
        "Page cache that was not used of late");
    MEMORY_KERNEL = gauge("container_memory_kernel_usage", &[],
        "Memory of the kernel for the container, in bytes");
    MEMORY_SWAP = gauge("container_memory_swap", &[], "Bytes on swap");
    MEMORY_LIMIT_HITS = counter("container_memory_failcnt", &[], "How often the memory limit was reached");
    MEMORY_FAULTS = counter("container_memory_failures_total", &["failure_type", "scope"],
        "Page faults: pgfault, or pgmajfault for those that wait for a disk; of the container alone, or its hierarchy of cgroups");
    OOM_KILLS = counter("container_oom_events_total", &[], "Processes that were killed for want of memory");

    PRESSURE_CPU_SOME = counter("container_pressure_cpu_waiting_seconds_total", &[],
        "Time in which some tasks waited for a processor, in seconds");
    PRESSURE_CPU_FULL = counter("container_pressure_cpu_stalled_seconds_total", &[],
        "Time in which all tasks waited for a processor, in seconds");
    PRESSURE_MEMORY_SOME = counter("container_pressure_memory_waiting_seconds_total", &[],
        "Time in which some tasks waited for memory, in seconds");
    PRESSURE_MEMORY_FULL = counter("container_pressure_memory_stalled_seconds_total", &[],
        "Time in which all tasks waited for memory, in seconds");
    PRESSURE_IO_SOME = counter("container_pressure_io_waiting_seconds_total", &[],
        "Time in which some tasks waited for a disk, in seconds");
    PRESSURE_IO_FULL = counter("container_pressure_io_stalled_seconds_total", &[],
        "Time in which all tasks waited for a disk, in seconds");

    PROCESSES = gauge("container_processes", &[], "Processes");
    THREADS = gauge("container_threads", &[], "Threads");
    THREADS_MAX = gauge("container_threads_max", &[], "How many threads there may be; 0 is no limit");
    FILE_DESCRIPTORS = gauge("container_file_descriptors", &[], "Open file descriptors");
    SOCKETS = gauge("container_sockets", &[], "Open sockets");
    ULIMITS = gauge("container_ulimits_soft", &["ulimit"],
        "Soft limits of the first process; ulimit is max_open_files");

    FS_USAGE = gauge("container_fs_usage_bytes", DEVICE, "Bytes in the writable layer");
    FS_LIMIT = gauge("container_fs_limit_bytes", DEVICE,
        "Size of the file system with the writable layer, in bytes");
    FS_INODES = gauge("container_fs_inodes_total", DEVICE, "Inodes that the file system can have");
    FS_INODES_FREE = gauge("container_fs_inodes_free", DEVICE, "Inodes of the file system that are free");
    FS_READS = counter("container_fs_reads_total", DEVICE, "Reads from the device");
    FS_READ_BYTES = counter("container_fs_reads_bytes_total", DEVICE, "Bytes read from the device");
    FS_WRITES = counter("container_fs_writes_total", DEVICE, "Writes to the device");
    FS_WRITTEN_BYTES = counter("container_fs_writes_bytes_total", DEVICE, "Bytes written to the device");
    BLKIO = counter("container_blkio_device_usage_total", &["device", "major", "minor", "operation"],
        "Bytes read from and written to the device; operation is Read or Write");

    HUGETLB_USAGE = gauge("container_hugetlb_usage_bytes", PAGE_SIZE, "Huge pages in use, in bytes");
    HUGETLB_MAX = gauge("container_hugetlb_max_usage_bytes", PAGE_SIZE,
        "The most huge pages that ever were in use, in bytes");

    SPEC_CPU_PERIOD = gauge("container_spec_cpu_period", &[],
        "Period of the processor quota, in microseconds");
    SPEC_CPU_QUOTA = gauge("container_spec_cpu_quota", &[], "Processor quota of a period, in microseconds");
    SPEC_CPU_SHARES = gauge("container_spec_cpu_shares", &[], "Share of the processors beside others");
    SPEC_MEMORY_LIMIT = gauge("container_spec_memory_limit_bytes", &[], "Limit of memory; 0 is no limit");
    SPEC_MEMORY_RESERVATION = gauge("container_spec_memory_reservation_limit_bytes", &[],
        "Memory that is not taken from the container; 0 is none");
    SPEC_MEMORY_SWAP = gauge("container_spec_memory_swap_limit_bytes", &[],
        "Limit of memory and swap together; 0 is no limit");

    NETWORK_RECEIVED_BYTES = counter("container_network_receive_bytes_total", INTERFACE, "Bytes received");
    NETWORK_RECEIVED_PACKETS = counter("container_network_receive_packets_total", INTERFACE,
        "Packets received");
    NETWORK_RECEIVED_ERRORS = counter("container_network_receive_errors_total", INTERFACE,
        "Errors while receiving");
    NETWORK_RECEIVED_DROPPED = counter("container_network_receive_packets_dropped_total", INTERFACE,
        "Packets dropped while receiving");
    NETWORK_SENT_BYTES = counter("container_network_transmit_bytes_total", INTERFACE, "Bytes sent");
    NETWORK_SENT_PACKETS = counter("container_network_transmit_packets_total", INTERFACE, "Packets sent");
    NETWORK_SENT_ERRORS = counter("container_network_transmit_errors_total", INTERFACE,
        "Errors while sending");
    NETWORK_SENT_DROPPED = counter("container_network_transmit_packets_dropped_total", INTERFACE,
        "Packets dropped while sending");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A row of the table in the documentation.
    fn row(descriptor: &Descriptor) -> String {
        let kind = match descriptor.kind {
            api::MetricType::Counter => "counter",
            api::MetricType::Gauge => "gauge",
        };
        let more = descriptor.more.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        format!("| `{}` | {kind} | {more} | {} |", descriptor.name, descriptor.help)
    }

    #[test]
    fn the_documentation_has_each_metric_as_it_is() {
        let documented: Vec<_> = include_str!("../../../docs/stats.md")
            .lines()
            .filter(|line| line.contains("` | counter | ") || line.contains("` | gauge | "))
            .map(str::to_owned)
            .collect();
        let expected: Vec<_> = ALL.iter().map(|descriptor| row(descriptor)).collect();
        assert!(documented == expected, "the table in docs/stats.md should be:\n{}", expected.join("\n"));
    }

    #[test]
    fn no_metric_is_there_twice() {
        let names: BTreeSet<_> = ALL.iter().map(|descriptor| descriptor.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(ALL[0].message().label_keys, BASE);
    }
}
