//! Which entry of an index is for this machine (OCI image specification, "Image index").

use serde::Deserialize;

/// What a manifest is made for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// The operating system by its Go name.
    pub os: String,
    /// The processor architecture by its Go name.
    pub architecture: String,
    /// The architecture's variant, for instance `v7` of arm.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
    }

    /// How well an image made for `image` runs here: more is better, `None` is not at all.
    pub(in crate::image) fn rank(&self, image: &Platform) -> Option<u32> {
        if self.os != image.os || self.architecture != image.architecture {
            return None;
        }
        let (own, asked) = (self.level(), image.level());
        match (own, asked) {
            _ if own == asked => Some(100),
            // A newer arm runs what was made for an older one, and arm alone has that rule.
            (Some(own), Some(asked)) if self.architecture == "arm" && (5..own).contains(&asked) => {
                Some(asked)
            }
            _ => None,
        }
    }

    /// The variant as a number, with the architecture's default where none is given.
    fn level(&self) -> Option<u32> {
        let default = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        };
        match self.variant.as_deref().unwrap_or_default() {
            "" => Some(default),
            text => text.strip_prefix('v').unwrap_or(text).parse().ok(),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        Platform { os, architecture, variant: parts.next() }
    }

    #[test]
    fn variants_follow_the_rules_of_their_architecture() {
        let rank = |host: &str, image: &str| platform(host).rank(&platform(image));
        assert!(rank("linux/arm/v7", "linux/arm/v7") > rank("linux/arm/v7", "linux/arm/v6"));
        assert!(rank("linux/arm/v7", "linux/arm/v6") > rank("linux/arm/v7", "linux/arm/v5"));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/arm/v6", "linux/arm"), None);
        assert_eq!(rank("linux/arm64/v8", "linux/arm64"), Some(100));
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(rank("linux/amd64", "unknown/unknown"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
    }
}
