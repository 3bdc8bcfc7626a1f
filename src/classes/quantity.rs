//! Quantities as Kubernetes writes them: `10`, `50M`, `1.5Gi`, `2e3`. What is left of a fraction counts as one.

/// The suffixes with their bases and powers.
const SUFFIXES: [(&str, u128, i32); 16] = [
    ("Ki", 1024, 1),
    ("Mi", 1024, 2),
    ("Gi", 1024, 3),
    ("Ti", 1024, 4),
    ("Pi", 1024, 5),
    ("Ei", 1024, 6),
    ("n", 10, -9),
    ("u", 10, -6),
    ("m", 10, -3),
    ("k", 10, 3),
    ("M", 10, 6),
    ("G", 10, 9),
    ("T", 10, 12),
    ("P", 10, 15),
    ("E", 10, 18),
    ("", 10, 0),
];

/// The largest exponent; above, nothing fits that is not zero.
const MAX_EXPONENT: i32 = 18;

/// Reads a quantity that is not negative and fits an `i64`, as the kernel and the peers count.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // The bound keeps what follows within 128 bits.
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 19 || fraction.contains('.') {
        return None;
    }
    let (base, power) = scale(suffix)?;
    let mantissa: u128 = digits.parse().ok()?;
    let factor = base.checked_pow(power.unsigned_abs())?;
    let (above, below) = if power < 0 { (1, factor) } else { (factor, 1) };
    let below = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(below)?;
    let value = mantissa.checked_mul(above)?.div_ceil(below);
    u64::try_from(value).ok().filter(|value| i64::try_from(*value).is_ok())
}

fn scale(suffix: &str) -> Option<(u128, i32)> {
    let known = SUFFIXES.iter().find(|(name, ..)| *name == suffix);
    if let Some((_, base, power)) = known {
        return Some((*base, *power));
    }
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (power.abs() <= MAX_EXPONENT).then_some((10, power))
}
