use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::details::{Kind, cpu_v1, cpu_v2, devices_v1, devices_v2, huge_page_size};
use super::*;

/// `memory.stat` of a container on Linux 6.18, v1.
const MEMORY_STAT_V1: &str = "\
cache 40960
rss 8192
mapped_file 4096
swap 0
pgfault 11
pgmajfault 1
inactive_file 12288
active_file 16384
hierarchical_memory_limit 67108864
hierarchical_memsw_limit 67108864
total_cache 81920
total_rss 1048576
total_rss_huge 0
total_shmem 0
total_mapped_file 8192
total_dirty 0
total_writeback 0
total_swap 4096
total_pgpgin 1216
total_pgpgout 900
total_pgfault 1407
total_pgmajfault 3
total_inactive_anon 1048576
total_active_anon 0
total_inactive_file 24576
total_active_file 32768
total_unevictable 0
";

/// The same on Linux 6.1, v2.
const MEMORY_STAT_V2: &str = "\
anon 1048576
file 81920
kernel 65536
kernel_stack 16384
pagetables 32768
sec_pagetables 0
percpu 288
sock 0
vmalloc 0
shmem 0
file_mapped 8192
file_dirty 0
inactive_anon 1048576
active_anon 0
inactive_file 24576
active_file 32768
slab_reclaimable 9000
slab_unreclaimable 6000
slab 15000
pgfault 1407
pgmajfault 3
";

#[test]
fn both_versions_tell_the_same_of_memory() {
    let v1 = MemoryStat::parse(MEMORY_STAT_V1.as_bytes(), CgroupMode::V1);
    let v2 = MemoryStat::parse(MEMORY_STAT_V2.as_bytes(), CgroupMode::V2);
    assert_eq!(v1.swap, Some(4096));
    let expected = Memory {
        usage: 1_200_000,
        working_set: 1_200_000 - 24_576,
        limit: Some(2_000_000),
        rss: 1_048_576,
        cache: 81_920,
        mapped_file: 8192,
        active_file: 32_768,
        inactive_file: 24_576,
        kernel: 65_536,
        page_faults: (1407, 1407),
        major_page_faults: (3, 3),
    };
    assert_eq!(v2.memory(1_200_000, Some(2_000_000)), expected);
    let on_v1 = Memory { kernel: 0, page_faults: (11, 1407), major_page_faults: (1, 3), ..expected };
    assert_eq!(v1.memory(1_200_000, Some(2_000_000)), on_v1);
}

#[test]
fn b21_the_working_set_and_what_is_available_never_go_below_zero() {
    let stat = MemoryStat::parse(b"inactive_file 5000\n", CgroupMode::V2);
    let memory = stat.memory(4000, Some(3000));
    assert_eq!((memory.working_set, memory.available()), (0, Some(3000)));
    let full = MemoryStat::default().memory(4000, Some(3000));
    assert_eq!((full.working_set, full.available()), (4000, Some(0)));
    assert_eq!(MemoryStat::default().memory(4000, None).available(), None);
}

#[test]
fn before_linux_5_18_the_kernels_memory_is_the_sum_of_its_parts() {
    let older = MEMORY_STAT_V2.replace("kernel 65536\n", "");
    let stat = MemoryStat::parse(older.as_bytes(), CgroupMode::V2);
    assert_eq!(stat.memory(0, None).kernel, 16_384 + 32_768 + 288 + 15_000);
}

#[test]
fn a_limit_that_limits_nothing_is_none() {
    for text in ["max\n", "9223372036854771712\n", "-1\n", "", "12x"] {
        assert_eq!(parse::limit(text.as_bytes()), None, "{text:?}");
    }
    assert_eq!(parse::limit(b"67108864\n"), Some(67_108_864));
    assert_eq!(parse::number(b"99999999999999999999999\n"), Some(u64::MAX));
}

#[test]
fn pressure_has_two_lines_of_percent_and_microseconds() {
    let text = "some avg10=1.53 avg60=0.37 avg300=12.50 total=2000123\nfull avg10=0.00 avg60=0.10 avg300=0.20 total=7\n";
    let pressure = parse::pressure(text.as_bytes()).unwrap();
    assert_eq!(pressure.some, Stall { total: 2_000_123_000, averages: [1.53, 0.37, 12.5] });
    assert_eq!(pressure.full, Some(Stall { total: 7000, averages: [0.0, 0.1, 0.2] }));
    let older = parse::pressure(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n").unwrap();
    assert_eq!(older.full, None);
    assert_eq!(parse::pressure(b"some avg10=nan avg60=0 avg300=0 total=1\n"), None);
}

#[test]
fn throttling_is_in_nanoseconds_on_v1_and_in_microseconds_on_v2() {
    let v1 = b"nr_periods 40\nnr_throttled 12\nthrottled_time 750000000\nnr_bursts 0\nburst_time 0\n";
    let v2 = b"usage_usec 900\nuser_usec 600\nsystem_usec 300\nnr_periods 40\nnr_throttled 12\nthrottled_usec 750000\n";
    let quota = Cpu { periods: 40, throttled_periods: 12, throttled: 750_000_000, ..Cpu::default() };
    assert_eq!(cpu_v1(v1), quota);
    assert_eq!(cpu_v2(v2), Cpu { user: 600_000, system: 300_000, ..quota });
    assert_eq!(parse::value(v2, b"usage_usec"), Some(900));
}

#[test]
fn devices_are_the_same_on_both_versions() {
    let bytes = b"254:0 Read 8192\n254:0 Write 4096\n254:0 Sync 4096\n254:0 Async 8192\n254:0 Discard 0\n254:0 Total 12288\nTotal 12288\n";
    let times = b"254:0 Read 2\n254:0 Write 1\n254:0 Total 3\nTotal 3\n";
    let mut v1 = BTreeMap::new();
    devices_v1(bytes, Kind::Bytes, &mut v1);
    devices_v1(times, Kind::Times, &mut v1);
    let v2 = devices_v2(b"7:1 \n254:0 rbytes=8192 wbytes=4096 rios=2 wios=1 dbytes=0 dios=0\n");
    let expected =
        Device { major: 254, minor: 0, read_bytes: 8192, written_bytes: 4096, reads: 2, writes: 1 };
    assert_eq!(v1.into_values().collect::<Vec<_>>(), [expected]);
    assert_eq!(v2, [Device { major: 7, minor: 1, ..Device::default() }, expected]);
}

#[test]
fn huge_pages_are_called_as_in_the_names_of_files() {
    let sizes = ["hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB", "other"].map(huge_page_size);
    assert_eq!(sizes, [Some("64KB".into()), Some("2MB".into()), Some("1GB".into()), None]);
}

#[test]
fn a_real_cgroup_is_read_and_is_gone_when_it_was_removed() {
    let cgroups = Cgroups::detect().unwrap();
    let path = CgroupPath::new(&format!("/podd-test-{}-meter", std::process::id())).unwrap();
    assert_eq!(cgroups.meter(&path).err(), Some(Gone));
    cgroups.create(&path).unwrap();
    let (meter, mut buffer) = (cgroups.meter(&path).unwrap(), Buffer::default());
    let usage = meter.read(&mut buffer);
    let details = cgroups.details(&path, &mut buffer);
    cgroups.remove_tree(&path).unwrap();
    let usage = usage.unwrap();
    assert_eq!(usage.cpu, Some(0));
    let memory = usage.memory.unwrap();
    assert!(memory.usage < 1 << 20 && memory.limit.is_none(), "{memory:?}");
    assert_eq!(details.cpu, Some(Cpu::default()));
    assert_eq!((details.threads, details.oom_kills), (Some(0), Some(0)));
    assert_eq!(meter.read(&mut buffer), Err(Gone));
    assert_eq!(cgroups.details(&path, &mut buffer), Details::default());
}

#[test]
fn more_than_the_buffer_of_a_file_is_not_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("memory.stat");
    fs::write(&file, "anon 1\n".repeat(BUFFER)).unwrap();
    let mut buffer = Buffer::default();
    assert_eq!(buffer.read_path(&file).unwrap().len(), BUFFER);
}

proptest! {
    #[test]
    fn whatever_a_file_holds_is_read(text in prop_oneof![
        any::<Vec<u8>>(),
        "([a-z_]{1,8}[ =:]?[0-9.a]{0,22}[ \n]){0,40}".prop_map(String::into_bytes),
    ]) {
        for mode in [CgroupMode::V1, CgroupMode::V2] {
            MemoryStat::parse(&text, mode).memory(u64::MAX, parse::limit(&text));
        }
        parse::number(&text);
        parse::pressure(&text);
        cpu_v1(&text);
        cpu_v2(&text);
        devices_v2(&text);
        let mut devices = BTreeMap::new();
        devices_v1(&text, Kind::Bytes, &mut devices);
        prop_assert!(devices.len() <= 256);
    }
}
