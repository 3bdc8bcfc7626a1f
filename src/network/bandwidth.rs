//! Traffic limits of a pod: the annotations `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth`.
//!
//! Their values are Kubernetes quantities in bits per second. The `bandwidth` capability takes rates in bits per second
//! and bursts in bits (CNI conventions); Kubernetes knows no burst, so it is as good as unlimited.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The burst in bits: about 2 Gbit, which all plugins can represent and no pod reaches.
const UNLIMITED_BURST: u64 = i32::MAX as u64;

/// What Kubernetes takes as a sane rate: 1 kbit/s to 1 Pbit/s.
const SANE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// A traffic annotation that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotation {annotation} of the pod is {value:?}; it has to be a quantity of 1k to 1P bits per second, such as 10M"
)]
pub struct InvalidBandwidth {
    /// The annotation's key.
    pub annotation: &'static str,
    /// Its value.
    pub value: String,
}

/// The value of the `bandwidth` capability; `None` when the pod has no limits.
pub(super) fn capability(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, InvalidBandwidth> {
    let limits = [
        ("kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst"),
        ("kubernetes.io/egress-bandwidth", "egressRate", "egressBurst"),
    ];
    let mut capability = serde_json::Map::new();
    for (annotation, rate, burst) in limits {
        let Some(value) = annotations.get(annotation) else { continue };
        let bits = quantity(value)
            .filter(|bits| SANE.contains(bits))
            .ok_or_else(|| InvalidBandwidth { annotation, value: value.clone() })?;
        capability.insert(rate.to_owned(), json!(bits));
        capability.insert(burst.to_owned(), json!(UNLIMITED_BURST));
    }
    Ok((!capability.is_empty()).then_some(Value::Object(capability)))
}

/// A non-negative Kubernetes quantity (`10M`, `1.5Gi`, `2e6`), rounded up to a whole number.
fn quantity(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 18 || fraction.contains('.') {
        return None;
    }
    let mantissa: u128 = digits.parse().ok()?;
    let (decimal, binary) = scale(suffix)?;
    let exponent = decimal - i32::try_from(fraction.len()).ok()?;
    let power = 10u128.checked_pow(exponent.unsigned_abs())?;
    let scaled = mantissa << binary;
    let value = if exponent < 0 { scaled.div_ceil(power) } else { scaled.checked_mul(power)? };
    u64::try_from(value).ok()
}

/// A suffix as powers of ten and of two.
fn scale(suffix: &str) -> Option<(i32, u32)> {
    let scale = match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            (power.abs() <= 18).then_some((power, 0))?
        }
    };
    Some(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        let cases = [
            ("0", 0),
            ("10M", 10_000_000),
            ("1.5Gi", 1_610_612_736),
            ("1.0001k", 1001),
            ("1500m", 2),
            ("2e6", 2_000_000),
            ("2E6", 2_000_000),
            ("1E", 1_000_000_000_000_000_000),
            (".5k", 500),
            ("5.", 5),
            ("+7", 7),
        ];
        for (text, value) in cases {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in
            ["", ".", "-1", "1.2.3", "M", "1 M", "1KB", "10e99", "99E", "1ki", "é", "9".repeat(40).as_str()]
        {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn annotations_become_rates_with_a_burst() {
        let annotation = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(capability(&BTreeMap::new()).unwrap(), None);
        assert_eq!(
            capability(&annotation("kubernetes.io/egress-bandwidth", "1M")).unwrap().unwrap(),
            json!({"egressRate": 1_000_000, "egressBurst": 2_147_483_647u64})
        );
        for value in ["1", "2P", "fast"] {
            let error =
                capability(&annotation("kubernetes.io/ingress-bandwidth", value)).unwrap_err().to_string();
            assert!(error.contains("ingress-bandwidth") && error.contains(value), "{error}");
        }
    }
}
