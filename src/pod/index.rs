//! All pods and containers by ID, and the lookups by prefix (B4).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::container::Container;
use super::error::PodError;
use super::sandbox::Pod;
use crate::id::{ContainerId, PodId};

/// The objects that exist. One that is being made is not here yet.
#[derive(Default)]
pub(super) struct Index {
    // Held for a map operation; never over an await.
    maps: Mutex<Maps>,
}

#[derive(Default)]
struct Maps {
    pods: BTreeMap<PodId, Arc<Pod>>,
    containers: BTreeMap<ContainerId, Arc<Container>>,
}

impl Index {
    pub(super) fn add_pod(&self, pod: Arc<Pod>) {
        self.lock().pods.insert(pod.facts.id.clone(), pod);
    }

    pub(super) fn add_container(&self, container: Arc<Container>) {
        self.lock().containers.insert(container.facts.id.clone(), container);
    }

    pub(super) fn remove_pod(&self, id: &PodId) {
        self.lock().pods.remove(id);
    }

    pub(super) fn remove_container(&self, id: &ContainerId) {
        self.lock().containers.remove(id);
    }

    pub(super) fn pods(&self) -> Vec<Arc<Pod>> {
        self.lock().pods.values().cloned().collect()
    }

    pub(super) fn containers(&self) -> Vec<Arc<Container>> {
        self.lock().containers.values().cloned().collect()
    }

    pub(super) fn containers_of(&self, pod: &PodId) -> Vec<Arc<Container>> {
        let of_pod = |container: &&Arc<Container>| container.facts.name.pod == *pod;
        self.lock().containers.values().filter(of_pod).cloned().collect()
    }

    /// The pod with this ID, or the only one whose ID begins so.
    pub(super) fn pod(&self, id: &str) -> Result<Arc<Pod>, PodError> {
        by_prefix(&self.lock().pods, "pod sandbox", id)
    }

    /// The container with this ID, or the only one whose ID begins so.
    pub(super) fn container(&self, id: &str) -> Result<Arc<Container>, PodError> {
        by_prefix(&self.lock().containers, "container", id)
    }

    fn lock(&self) -> MutexGuard<'_, Maps> {
        // A map operation does not panic halfway, so a poisoned map is still whole.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn by_prefix<Id, T>(map: &BTreeMap<Id, Arc<T>>, kind: &'static str, text: &str) -> Result<Arc<T>, PodError>
where
    Id: Ord + std::borrow::Borrow<str>,
{
    if text.is_empty() {
        return Err(PodError::invalid(format!("{}_id", kind.replace(' ', "_")), "is empty"));
    }
    let mut found = map
        .range::<str, _>((Bound::Included(text), Bound::Unbounded))
        .take_while(|(id, _)| <Id as std::borrow::Borrow<str>>::borrow(id).starts_with(text));
    match (found.next(), found.count()) {
        (None, _) => Err(PodError::NotFound { kind, id: text.to_owned() }),
        (Some((_, object)), 0) => Ok(Arc::clone(object)),
        (Some(_), more) => Err(PodError::Ambiguous { kind, prefix: text.to_owned(), count: more + 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> BTreeMap<PodId, Arc<u32>> {
        ["aa", "ab", "b"]
            .iter()
            .zip(0..)
            .map(|(p, n)| (format!("{p:0<64}").parse().unwrap(), Arc::new(n)))
            .collect()
    }

    #[test]
    fn b4_a_unique_prefix_finds_its_object() {
        assert_eq!(*by_prefix(&map(), "pod sandbox", "aa").unwrap(), 0);
        assert_eq!(*by_prefix(&map(), "pod sandbox", "b").unwrap(), 2);
    }

    #[test]
    fn b4_ambiguous_unknown_and_empty_differ() {
        let error = |text: &str| by_prefix(&map(), "pod sandbox", text).unwrap_err();
        assert!(matches!(error("a"), PodError::Ambiguous { count: 2, .. }));
        assert!(matches!(error("c"), PodError::NotFound { .. }));
        assert!(matches!(error(&"b".repeat(64)), PodError::NotFound { .. }));
        assert!(matches!(error(""), PodError::Invalid { .. }));
    }
}
