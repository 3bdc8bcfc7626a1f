//! The level of each pod: sensitivity `s0` and two categories, a pair that no other pod of the node has.
//!
//! Which levels are taken is read from the pods that exist, so nothing has to be given back or restored; only for the
//! time between the choice and the pod's being in the index is a level held here.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The levels of pods that are being made.
#[derive(Debug, Default)]
pub struct Levels {
    /// A std mutex: it is held for a few operations on a set.
    held: Mutex<HashSet<String>>,
}

/// A level that nobody else gets as long as this lives.
#[derive(Debug)]
pub struct Reservation<'a> {
    levels: &'a Levels,
    level: String,
}

/// All pairs of categories are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "every pair of {0} SELinux categories is a pod's already; make `selinux.mcs_range` larger or run fewer pods"
)]
pub struct Exhausted(u16);

impl Levels {
    /// A level out of so many categories that is none of those `taken`.
    pub fn reserve(
        &self,
        categories: u16,
        taken: impl FnOnce() -> HashSet<String>,
    ) -> Result<Reservation<'_>, Exhausted> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: a pod that leaves `held` is among those taken before.
        let taken = taken();
        let pairs = u64::from(categories) * u64::from(categories.saturating_sub(1)) / 2;
        let begin = match pairs {
            0 => return Err(Exhausted(categories)),
            pairs => random() % pairs,
        };
        let level = (0..pairs)
            .map(|offset| level(categories, (begin + offset) % pairs))
            .find(|level| !taken.contains(level) && !held.contains(level));
        let level = level.ok_or(Exhausted(categories))?;
        held.insert(level.clone());
        Ok(Reservation { levels: self, level })
    }
}

impl Reservation<'_> {
    /// The level, such as `s0:c12,c345`.
    pub fn level(&self) -> &str {
        &self.level
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.levels.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.level);
    }
}

/// The pair of that number: those of the lowest category come first.
fn level(categories: u16, number: u64) -> String {
    let (mut low, mut left) = (0, number);
    let mut row = u64::from(categories) - 1;
    while left >= row {
        left -= row;
        row -= 1;
        low += 1;
    }
    format!("s0:c{low},c{}", low + 1 + left)
}

/// Pods begin anywhere, so that one that is made anew does not get the level, and so the volumes, of the one before.
fn random() -> u64 {
    let id = crate::id::PodId::generate();
    u64::from_str_radix(&id.as_str()[..16], 16).expect("an ID is hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_is_given_once_and_none_when_all_are_taken() {
        let levels = Levels::default();
        let held: Vec<_> = (0..6).map(|_| levels.reserve(4, HashSet::new).unwrap()).collect();
        let all: HashSet<_> = held.iter().map(|held| held.level().to_owned()).collect();
        let pairs = ["s0:c0,c1", "s0:c0,c2", "s0:c0,c3", "s0:c1,c2", "s0:c1,c3", "s0:c2,c3"];
        assert_eq!(all, pairs.map(str::to_owned).into());
        assert_eq!(levels.reserve(4, HashSet::new).unwrap_err(), Exhausted(4));
        drop(held);
        let taken: HashSet<_> = pairs[1..].iter().map(|&level| level.to_owned()).collect();
        assert_eq!(levels.reserve(4, || taken).unwrap().level(), "s0:c0,c1");
        assert!(levels.reserve(1, HashSet::new).is_err());
    }

    #[test]
    fn the_pairs_of_the_largest_range_are_in_bounds() {
        assert_eq!(level(1024, 0), "s0:c0,c1");
        assert_eq!(level(1024, 1022), "s0:c0,c1023");
        assert_eq!(level(1024, 1023), "s0:c1,c2");
        assert_eq!(level(1024, 1024 * 1023 / 2 - 1), "s0:c1022,c1023");
    }
}
