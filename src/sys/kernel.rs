//! Which kernel this is, for what can only be told by its version.

/// Whether the kernel is at least Linux `major`.`minor`.
pub fn is_at_least(major: u32, minor: u32) -> bool {
    numbers(&release()) >= (major, minor)
}

/// The kernel's own name for itself, as `uname -r`.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The first two numbers of a release; what is no number is 0.
fn numbers(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_number() {
        assert_eq!(numbers("6.1.0-34-amd64"), (6, 1));
        assert_eq!(numbers("5.10"), (5, 10));
        assert_eq!(numbers("6.18-rc1"), (6, 18));
        assert_eq!(numbers("strange"), (0, 0));
        assert!(numbers("5.9.1") < numbers("5.10.0") && numbers("5.19.3") < numbers("6.0.0"));
        assert!(is_at_least(3, 0) && !is_at_least(1000, 0));
    }
}
