//! The file of block I/O classes, in the form that CRI-O and containerd read, and one of its classes as limits of a container.
//!
//! It is read anew for each container that asks for a class: devices come and go. A later entry of a class takes the place of
//! an earlier one for the same device and limit.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBlockIo, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};
use serde::Deserialize;

use super::glob::{self, Device};
use super::quantity;
use crate::{sys, yaml};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The weights that cgroups know.
const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// Why a class cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BlockIoError {
    /// The node has no classes.
    #[error("blockio.config_file of the node's configuration is empty; name the file of the classes there")]
    NoFile,
    /// The file cannot be read.
    #[error("{} cannot be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}: {what}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The key and what is wrong with it.
        what: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "Classes", default)]
    classes: Option<BTreeMap<String, Option<Vec<Entry>>>>,
}

/// A number may stand with quotes and without.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(serde_json::Number),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Entry {
    devices: Option<Vec<String>>,
    weight: Option<Scalar>,
    throttle_read_bps: Option<Scalar>,
    throttle_write_bps: Option<Scalar>,
    #[serde(rename = "ThrottleReadIOPS")]
    throttle_read_iops: Option<Scalar>,
    #[serde(rename = "ThrottleWriteIOPS")]
    throttle_write_iops: Option<Scalar>,
}

type Rates = BTreeMap<Device, u64>;

/// The limits as far as they are gathered.
#[derive(Debug, Default)]
struct Limits {
    weight: Option<u16>,
    weights: BTreeMap<Device, u16>,
    read_bps: Rates,
    write_bps: Rates,
    read_iops: Rates,
    write_iops: Rates,
}

/// The class by its name, for the devices that the host has now.
pub(super) fn class(file: &Path, name: &str) -> Result<LinuxBlockIo, BlockIoError> {
    if file.as_os_str().is_empty() {
        return Err(BlockIoError::NoFile);
    }
    let unreadable = |source| BlockIoError::Unreadable { file: file.to_owned(), source };
    // A FIFO by that name would hold the reader for ever.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("it is not a file")));
    }
    let text = sys::fs::read_bounded(file, MAX_FILE).map_err(unreadable)?;
    limits(&text, name, glob::block_devices)
        .map_err(|what| BlockIoError::Invalid { file: file.to_owned(), what })
}

/// The class of a file's text; `devices` looks up a pattern. The error is what is wrong, with its key.
pub(super) fn limits(
    text: &[u8],
    name: &str,
    devices: impl Fn(&str) -> io::Result<BTreeSet<Device>>,
) -> Result<LinuxBlockIo, String> {
    let text = std::str::from_utf8(text).map_err(|e| format!("not UTF-8: {e}"))?;
    let document = match yaml::parse(text).map_err(|e| e.to_string())? {
        serde_json::Value::Null => serde_json::Value::Object(serde_json::Map::new()),
        document => document,
    };
    let file: File = serde_json::from_value(document).map_err(|e| e.to_string())?;
    let classes = file.classes.unwrap_or_default();
    let Some(entries) = classes.get(name) else {
        let known: Vec<_> = classes.keys().map(String::as_str).collect();
        return Err(format!("Classes: it has no {name:?}; the classes are: {}", known.join(", ")));
    };
    let mut limits = Limits::default();
    for (n, entry) in entries.iter().flatten().enumerate() {
        limits.add(entry, &devices).map_err(|(key, what)| format!("Classes.{name}[{n}]{key}: {what}"))?;
    }
    limits.build().map_err(|e| e.to_string())
}

impl Limits {
    fn add(
        &mut self,
        entry: &Entry,
        look_up: impl Fn(&str) -> io::Result<BTreeSet<Device>>,
    ) -> Result<(), (&'static str, String)> {
        let weight = weight(entry.weight.as_ref()).map_err(|what| (".Weight", what))?;
        let mut rates = Vec::new();
        for (key, asked, target) in [
            (".ThrottleReadBps", &entry.throttle_read_bps, &mut self.read_bps),
            (".ThrottleWriteBps", &entry.throttle_write_bps, &mut self.write_bps),
            (".ThrottleReadIOPS", &entry.throttle_read_iops, &mut self.read_iops),
            (".ThrottleWriteIOPS", &entry.throttle_write_iops, &mut self.write_iops),
        ] {
            let rate = quantity(asked.as_ref()).map_err(|what| (key, what))?;
            rates.extend(rate.map(|rate| (key, rate, target)));
        }
        let Some(patterns) = &entry.devices else {
            if let Some((key, ..)) = rates.first() {
                return Err((key, "it needs Devices beside it".to_owned()));
            }
            self.weight = weight.or(self.weight);
            return Ok(());
        };
        let found = find(patterns, look_up).map_err(|what| (".Devices", what))?;
        if found.is_empty() {
            let what = format!("no block device of this node is one of {}", patterns.join(", "));
            if !rates.is_empty() {
                return Err((".Devices", what));
            }
            tracing::warn!("a weight of block I/O is passed over: {what}");
        }
        self.weights.extend(found.iter().flat_map(|device| weight.map(|weight| (*device, weight))));
        for (_, rate, target) in rates {
            target.extend(found.iter().map(|device| (*device, rate)));
        }
        Ok(())
    }
}

fn find(
    patterns: &[String],
    look_up: impl Fn(&str) -> io::Result<BTreeSet<Device>>,
) -> Result<BTreeSet<Device>, String> {
    let mut found = BTreeSet::new();
    for pattern in patterns {
        if !pattern.starts_with('/') {
            return Err(format!("{pattern:?} is not an absolute path"));
        }
        found.extend(look_up(pattern).map_err(|e| format!("{pattern:?}: {e}"))?);
    }
    Ok(found)
}

fn quantity(asked: Option<&Scalar>) -> Result<Option<u64>, String> {
    let text = match asked {
        None => return Ok(None),
        Some(Scalar::Number(number)) => number.to_string(),
        Some(Scalar::Text(text)) => text.clone(),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = quantity::parse(&text);
    parsed.map(Some).ok_or_else(|| format!("{text:?} is not a quantity such as 100, 50M or 1Gi"))
}

fn weight(asked: Option<&Scalar>) -> Result<Option<u16>, String> {
    let Some(asked) = quantity(asked)? else { return Ok(None) };
    let weight = u16::try_from(asked).ok().filter(|weight| WEIGHTS.contains(weight));
    let (least, most) = (WEIGHTS.start(), WEIGHTS.end());
    weight.map(Some).ok_or_else(|| format!("{asked} is not between {least} and {most}"))
}

impl Limits {
    fn build(self) -> Result<LinuxBlockIo, OciSpecError> {
        let one = |(device, weight): (Device, u16)| {
            LinuxWeightDeviceBuilder::default().major(device.major).minor(device.minor).weight(weight).build()
        };
        let weights = self.weights.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
        let mut found = LinuxBlockIo::default();
        found
            .set_weight(self.weight)
            .set_weight_device(Some(weights).filter(|list| !list.is_empty()))
            .set_throttle_read_bps_device(throttles(self.read_bps)?)
            .set_throttle_write_bps_device(throttles(self.write_bps)?)
            .set_throttle_read_iops_device(throttles(self.read_iops)?)
            .set_throttle_write_iops_device(throttles(self.write_iops)?);
        Ok(found)
    }
}

/// A rate of 0 is no limit: cgroup v1 has it so, and v2 would refuse it.
fn throttles(rates: Rates) -> Result<Option<Vec<LinuxThrottleDevice>>, OciSpecError> {
    let limited = rates.into_iter().filter(|(_, rate)| *rate != 0);
    let one = |(device, rate): (Device, u64)| {
        LinuxThrottleDeviceBuilder::default().major(device.major).minor(device.minor).rate(rate).build()
    };
    let list = limited.map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(list).filter(|list| !list.is_empty()))
}
