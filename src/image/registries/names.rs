//! Short names: what `busybox` may stand for.
//!
//! A name with a registry is itself. Of the others an alias decides; else every search registry is a candidate, in the
//! order of the configuration; else it is Docker Hub's, as Kubernetes has it.

use super::conf::{RegistriesConf, ShortNameMode};
use crate::image::reference::{InvalidReference, Reference};

impl RegistriesConf {
    /// The references that `name` may stand for, in the order in which they are tried; never none.
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>, InvalidReference> {
        let plain: Reference = name.parse()?;
        if Reference::names_registry(name) {
            return Ok(vec![plain]);
        }
        let repository = name.split('@').next().and_then(|rest| rest.split(':').next()).unwrap_or(name);
        let suffix = &name[repository.len()..];
        if let Some(Some(target)) = self.aliases.get(repository) {
            return Ok(vec![format!("{target}{suffix}").parse()?]);
        }
        let search = self.search.iter().flatten();
        let candidates: Vec<Reference> =
            search.map(|registry| format!("{registry}/{name}").parse()).collect::<Result<_, _>>()?;
        Ok(if candidates.is_empty() { vec![plain] } else { candidates })
    }

    /// Whether a name of several candidates is refused for a pull.
    pub fn refuses_ambiguity(&self) -> bool {
        self.short_name_mode == Some(ShortNameMode::Enforcing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn an_alias_wins_over_search_registries_and_these_over_docker_hub() {
        let candidates = |conf: &str, name: &str| -> Vec<String> {
            let found = parse(conf).unwrap().candidates(name).unwrap();
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(candidates("", "busybox"), ["docker.io/library/busybox:latest"]);
        let conf = "unqualified-search-registries = [\"r.io\", \"docker.io\", \"localhost:5000\"]\n\
            [aliases]\nfedora = \"registry.fedora.org/fedora\"\n\"team/app\" = \"r.io/x/app\"\ngone = \"\"\n";
        assert_eq!(
            candidates(conf, "busybox:1"),
            ["r.io/busybox:1", "docker.io/library/busybox:1", "localhost:5000/busybox:1"]
        );
        assert_eq!(candidates(conf, "fedora:40"), ["registry.fedora.org/fedora:40"]);
        assert_eq!(candidates(conf, "team/app"), ["r.io/x/app:latest"]);
        assert_eq!(candidates(conf, "gone")[0], "r.io/gone:latest");
        let digest = format!("fedora@sha256:{}", "a".repeat(64));
        assert_eq!(candidates(conf, &digest), [format!("registry.fedora.org/{digest}")]);
        for full in ["quay.io/fedora", "docker.io/fedora", "localhost/fedora", "r.io:1/fedora"] {
            assert_eq!(candidates(conf, full).len(), 1, "{full}");
        }
    }
}
