//! Tests of which annotation counts, of quantities, of the file of classes, and of resctrl's directories.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use serde_json::{Value, json};

use super::glob::Device;
use super::*;

fn annotations(entries: &[(&str, &str)]) -> Annotations {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_narrowest_annotation_counts_and_an_empty_one_asks_for_none() {
    let (all, own, other) = (
        "rdt.resources.beta.kubernetes.io/pod",
        "rdt.resources.beta.kubernetes.io/container.c",
        "rdt.resources.beta.kubernetes.io/container.d",
    );
    let (cri, block) = ("io.kubernetes.cri.rdt-class", "blockio.resources.beta.kubernetes.io/pod");
    let asked = |container: &[(&str, &str)], pod: &[(&str, &str)]| {
        let (container, pod) = (annotations(container), annotations(pod));
        let subject = Subject { name: "c", container: &container, pod: &pod };
        subject.asked("rdt").map(|asked| format!("{} {}", asked.field, asked.class))
    };
    assert_eq!(asked(&[], &[(other, "x"), (block, "x")]), None);
    assert_eq!(asked(&[], &[(all, "a")]), Some(format!("sandbox_config.annotations[{all:?}] a")));
    assert_eq!(asked(&[], &[(all, "a"), (own, "b")]), Some(format!("sandbox_config.annotations[{own:?}] b")));
    assert_eq!(asked(&[(own, "c")], &[(own, "b")]), Some(format!("config.annotations[{own:?}] c")));
    assert_eq!(asked(&[(all, "c")], &[(own, "b")]), Some(format!("sandbox_config.annotations[{own:?}] b")));
    assert_eq!(asked(&[(cri, "e"), (own, "c")], &[]), Some(format!("config.annotations[{cri:?}] e")));
    assert_eq!(asked(&[], &[(all, "a"), (own, "")]), None);
}

#[test]
fn quantities_are_read_as_kubernetes_writes_them() {
    for (text, value) in [
        ("10", 10),
        ("50M", 50_000_000),
        ("1Gi", 1 << 30),
        ("1.5Ki", 1536),
        ("10k", 10_000),
        ("2e3", 2000),
        ("2E3", 2000),
        ("1E", 1_000_000_000_000_000_000),
        ("1001m", 2),
        ("25e-1", 3),
        ("+7", 7),
        (".5k", 500),
        ("0", 0),
        ("9223372036854775807", i64::MAX as u64),
    ] {
        assert_eq!(quantity::parse(text), Some(value), "{text}");
    }
    for text in
        ["", "-1", "M", "1K", "1 M", "1MB", "1.2.3", "9223372036854775808", "16Ei", "1e99", "0x10", "."]
    {
        assert_eq!(quantity::parse(text), None, "{text}");
    }
}

/// `/dev/a*` is 8:0 and 8:16, `/dev/b` is 8:16, `/dev/none` is nothing.
fn devices(pattern: &str) -> io::Result<BTreeSet<Device>> {
    let minors: &[u32] = match pattern {
        "/dev/a*" => &[0, 16],
        "/dev/b" => &[16],
        _ => &[],
    };
    Ok(minors.iter().map(|minor| Device { major: 8, minor: *minor }).collect())
}

fn limits(text: &str, class: &str) -> Result<Value, String> {
    blockio::limits(text.as_bytes(), class, devices).map(|found| serde_json::to_value(found).unwrap())
}

#[test]
fn a_later_entry_wins_for_its_devices_and_one_without_devices_is_the_default_weight() {
    let text = "Classes:
  slow:
  - Weight: 80
  - Devices: [/dev/a*, /dev/none]
    ThrottleReadBps: 50M
    ThrottleWriteBps: \"1Gi\"
    ThrottleReadIOPS: 10k
    ThrottleWriteIOPS: 5
    Weight: 50
  - Devices: [/dev/b]
    ThrottleReadBps: 100M
    ThrottleWriteIOPS: 0
    Weight: \"60\"
  - Devices: [/dev/none]
    Weight: 70
  free:
  other:
  - Weight: nonsense
";
    let rate = |minor: u32, rate: u64| json!({"major": 8, "minor": minor, "rate": rate});
    let expected = json!({
        "weight": 80,
        "weightDevice":
            [{"major": 8, "minor": 0, "weight": 50}, {"major": 8, "minor": 16, "weight": 60}],
        "throttleReadBpsDevice": [rate(0, 50_000_000), rate(16, 100_000_000)],
        "throttleWriteBpsDevice": [rate(0, 1 << 30), rate(16, 1 << 30)],
        "throttleReadIOPSDevice": [rate(0, 10_000), rate(16, 10_000)],
        "throttleWriteIOPSDevice": [rate(0, 5)],
    });
    assert_eq!(limits(text, "slow"), Ok(expected));
    assert_eq!(limits(text, "free"), Ok(json!({})));
}

#[test]
fn what_is_wrong_with_a_class_is_named_with_its_key() {
    let one = |entry: &str| limits(&format!("Classes: {{c: [{entry}]}}"), "c").unwrap_err();
    for (entry, words) in [
        ("{Weight: 9}", "Classes.c[0].Weight: 9 is not between 10 and 1000"),
        ("{Weight: 1001}", "Classes.c[0].Weight: 1001 is not"),
        ("{ThrottleReadBps: 1M}", "Classes.c[0].ThrottleReadBps: it needs Devices"),
        (
            "{Devices: [/dev/b], ThrottleWriteIOPS: -1}",
            "Classes.c[0].ThrottleWriteIOPS: \"-1\" is not a quantity",
        ),
        ("{Devices: [/dev/none], ThrottleReadBps: 1}", "Classes.c[0].Devices: no block device of this node"),
        ("{Devices: [sda], ThrottleReadBps: 1}", "Classes.c[0].Devices: \"sda\" is not an absolute path"),
        ("{Device: [/dev/b]}", "unknown field `Device`"),
    ] {
        let what = one(entry);
        assert!(what.starts_with(words), "{what}");
    }
    assert_eq!(limits("", "c").unwrap_err(), "Classes: it has no \"c\"; the classes are: ");
    assert!(limits("Classes: [", "c").unwrap_err().starts_with("not YAML"));
}

#[test]
fn an_rdt_class_must_be_one_of_resctrl() {
    let resctrl = tempfile::tempdir().unwrap();
    let class = |name: &str| {
        let found = rdt::class(resctrl.path(), name).map_err(|error| error.to_string())?;
        Ok::<_, String>(found.clos_id().clone().unwrap())
    };
    assert!(class("gold").unwrap_err().contains("is not mounted"));
    fs::create_dir_all(resctrl.path().join("gold")).unwrap();
    fs::create_dir_all(resctrl.path().join("info")).unwrap();
    fs::write(resctrl.path().join("schemata"), "").unwrap();
    fs::write(resctrl.path().join("gold/schemata"), "").unwrap();
    assert_eq!(class("gold"), Ok("gold".to_owned()));
    assert_eq!(class("/"), Ok("/".to_owned()));
    assert_eq!(class("system/default"), Ok("/".to_owned()));
    for name in ["info", "silver"] {
        assert!(
            class(name).unwrap_err().ends_with("is not a class of resctrl; make the class first"),
            "{name}"
        );
    }
    for name in [".", "..", "a/b", "gold\n", "/gold"] {
        assert!(class(name).unwrap_err().starts_with("it is not one name"), "{name:?}");
    }
}
