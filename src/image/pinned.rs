//! Which images the kubelet's garbage collection must leave, by patterns as CRI-O has them.

/// A pattern for names of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// `name`: exactly that.
    Exact(String),
    /// `prefix*`: what begins so.
    Prefix(String),
    /// `*keyword*`: what contains it.
    Keyword(String),
}

impl Pattern {
    /// Reads a pattern, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (starts, middle) = text.strip_prefix('*').map_or((false, text), |rest| (true, rest));
        let (ends, middle) = middle.strip_suffix('*').map_or((false, middle), |rest| (true, rest));
        match (starts, ends) {
            _ if middle.is_empty() || middle.contains('*') => {}
            (false, false) => return Ok(Self::Exact(middle.to_owned())),
            (false, true) => return Ok(Self::Prefix(middle.to_owned())),
            (true, true) => return Ok(Self::Keyword(middle.to_owned())),
            (true, false) => {}
        }
        Err(format!("{text:?} is neither a name, nor of the form \"prefix*\" or \"*keyword*\""))
    }

    /// Whether a normalized name, with its tag or digest, fits. An exact pattern may leave out the tag.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => {
                let rest = name.strip_prefix(exact.as_str());
                rest.is_some_and(|rest| rest.is_empty() || is_tag_or_digest(rest))
            }
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Self::Keyword(keyword) => name.contains(keyword.as_str()),
        }
    }
}

/// `:tag` or `@digest`, and not the rest of a longer path or a port.
fn is_tag_or_digest(rest: &str) -> bool {
    rest.starts_with([':', '@']) && !rest.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_fit_what_they_say() {
        let cases = [
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", true),
            ("registry.k8s.io/pause", "registry.k8s.io/pause:3.10", true),
            ("registry.k8s.io/pause", "registry.k8s.io/pause@sha256:0", true),
            ("registry.k8s.io/pause", "registry.k8s.io/pauses:3.10", false),
            ("registry", "registry:5000/pause:1", false),
            ("registry.k8s.io/kube-*", "registry.k8s.io/kube-proxy:v1", true),
            ("registry.k8s.io/kube-*", "docker.io/registry.k8s.io/kube-proxy:v1", false),
            ("*kube-proxy*", "registry.k8s.io/kube-proxy:v1", true),
            ("*kube-proxy*", "registry.k8s.io/kube:v1", false),
        ];
        for (pattern, name, fits) in cases {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), fits, "{pattern} {name}");
        }
        for wrong in ["", "*", "**", "*suffix", "a*b", "a*b*"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
