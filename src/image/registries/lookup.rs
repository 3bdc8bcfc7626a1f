//! From a reference to its endpoints: the longest prefix that matches, mirrors, and the names that images have there.
//!
//! Order, the one place that decides it: the hosts of `hosts.toml`, the mirrors of `registries.conf`, then the registry
//! itself. That is `registries.conf`'s location where it moves the image, else the `server` of `hosts.toml`, else the
//! registry by its own name. What is blocked is never asked, but its mirrors are: so a cluster can forbid a source.

use std::path::Path;

use super::conf::{Pulls, RegistriesConf, Registry};
use super::hosts::{HostEntry, HostsFile};
use super::{Endpoint, Plan, Role, Scheme, Trust};
use crate::image::reference::Reference;

/// Where references to Docker Hub are really served.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// The host that serves a registry which no configuration moves.
pub fn default_authority(registry: &str) -> &str {
    if registry == DOCKER_HUB.0 { DOCKER_HUB.1 } else { registry }
}

/// What an image's endpoints follow from.
pub(super) struct Lookup<'a> {
    pub(super) conf: &'a RegistriesConf,
    pub(super) hosts: Option<&'a HostsFile>,
    pub(super) certs_dir: Option<&'a Path>,
}

impl Lookup<'_> {
    /// All endpoints of `reference`.
    pub(super) fn plan(&self, reference: &Reference) -> Plan {
        let mut plan = Plan::default();
        let entry = self.conf.find(reference);
        for host in self.hosts.iter().flat_map(|file| &file.hosts) {
            plan.endpoints.push(self.host_endpoint(host, reference, Role::Mirror));
        }
        if let Some((registry, matched)) = entry {
            self.add_mirrors(registry, matched, reference, &mut plan);
        }
        match self.origin(entry, reference) {
            Ok(endpoint) => plan.add_origin(endpoint),
            Err(reason) => plan.refused.push(reason),
        }
        plan
    }

    fn add_mirrors(&self, registry: &Registry, matched: usize, reference: &Reference, plan: &mut Plan) {
        let by_digest = reference.digest().is_some();
        for mirror in &registry.mirrors {
            let is_for_this = match mirror.pulls {
                Pulls::All => true,
                Pulls::DigestOnly => by_digest,
                Pulls::TagOnly => !by_digest,
            };
            if !is_for_this {
                continue;
            }
            match self.moved(&mirror.location, mirror.insecure, matched, reference) {
                Ok(moved) => plan.endpoints.push(Endpoint { role: Role::Mirror, ..moved }),
                Err(reason) => plan.refused.push(reason),
            }
        }
    }

    /// The registry itself.
    fn origin(&self, entry: Option<(&Registry, usize)>, reference: &Reference) -> Result<Endpoint, String> {
        let Some((registry, matched)) = entry else {
            return Ok(self.by_hosts_or_name(reference));
        };
        if registry.blocked {
            return Err(blocked(registry));
        }
        let moved = self.moved(&registry.location, registry.insecure, matched, reference)?;
        let has_server = self.hosts.is_some_and(|file| file.server.is_some());
        if moved.reference == *reference && has_server {
            return Ok(self.by_hosts_or_name(reference));
        }
        Ok(moved)
    }

    fn by_hosts_or_name(&self, reference: &Reference) -> Endpoint {
        match self.hosts.and_then(|file| file.server.as_ref()) {
            Some(server) => self.host_endpoint(server, reference, Role::Origin),
            None => self.named_endpoint(reference.clone(), false, reference),
        }
    }

    /// An endpoint of `registries.conf`: the prefix, which is `matched` bytes of the reference, becomes `location`.
    fn moved(
        &self,
        location: &str,
        insecure: bool,
        matched: usize,
        reference: &Reference,
    ) -> Result<Endpoint, String> {
        let text = reference.to_string();
        let there = match location {
            "" => reference.clone(),
            location => {
                let text = format!("{location}{}", &text[matched..]);
                text.parse().map_err(|e| format!("the location for {reference} is no reference: {e}"))?
            }
        };
        match self.conf.find(&there) {
            Some((other, _)) if other.blocked => Err(blocked(other)),
            Some(_) | None => Ok(self.named_endpoint(there, insecure, reference)),
        }
    }

    fn named_endpoint(&self, there: Reference, insecure: bool, reference: &Reference) -> Endpoint {
        let home = there.registry() == reference.registry();
        // What `hosts.toml` and its directory say outside of any host is for the registry under its own name.
        let none = HostsFile::default();
        let hosts = self.hosts.filter(|_| home).unwrap_or(&none);
        Endpoint {
            authority: default_authority(there.registry()).to_owned(),
            scheme: if insecure { Scheme::Either } else { Scheme::Default },
            root: "/v2/".to_owned(),
            namespace: None,
            headers: hosts.headers.clone(),
            trust: Trust {
                directory: self.certs_dir.map(|dir| dir.join(there.registry())),
                ca: hosts.ca.clone(),
                client: hosts.client.clone(),
                verify: !insecure && !hosts.skip_verify,
            },
            role: Role::Origin,
            resolves: true,
            home,
            reference: there,
        }
    }

    fn host_endpoint(&self, host: &HostEntry, reference: &Reference, role: Role) -> Endpoint {
        let home = host.authority == default_authority(reference.registry());
        let named = if home { reference.registry() } else { &host.authority };
        Endpoint {
            reference: reference.clone(),
            authority: host.authority.clone(),
            scheme: host.scheme,
            root: host.root.clone(),
            namespace: (!home).then(|| reference.registry().to_owned()),
            headers: host.headers.clone(),
            trust: Trust {
                directory: self.certs_dir.map(|dir| dir.join(named)),
                ca: host.ca.clone(),
                client: host.client.clone(),
                verify: host.verify,
            },
            role,
            resolves: host.resolves,
            home,
        }
    }
}

impl Plan {
    /// Adds the registry itself. Files for containerd often name it among its mirrors too: it is asked once.
    fn add_origin(&mut self, origin: Endpoint) {
        let is_same = |other: &&mut Endpoint| {
            (&other.authority, &other.root, &other.reference)
                == (&origin.authority, &origin.root, &origin.reference)
                && other.resolves
        };
        match self.endpoints.iter_mut().find(is_same) {
            Some(same) => same.role = Role::Origin,
            None => self.endpoints.push(origin),
        }
    }
}

impl RegistriesConf {
    /// The registry whose prefix matches most of a reference, and how many bytes of the reference the prefix takes up.
    pub fn find(&self, reference: &Reference) -> Option<(&Registry, usize)> {
        let text = reference.to_string();
        let mut best: Option<(&Registry, usize)> = None;
        for registry in &self.registries {
            let Some(matched) = match_prefix(&registry.prefix, &text) else { continue };
            if best.is_none_or(|(other, _)| registry.prefix.len() > other.prefix.len()) {
                best = Some((registry, matched));
            }
        }
        best
    }
}

/// How many bytes of a normalized reference a prefix takes up: whole path components, the repository with its tag or
/// digest, or, with a wildcard, the host with its port.
pub(super) fn match_prefix(prefix: &str, text: &str) -> Option<usize> {
    if let Some(suffix) = prefix.strip_prefix('*') {
        let authority = &text[..text.find('/')?];
        let host = authority.split_once(':').map_or(authority, |(host, _)| host);
        return (host.len() > suffix.len() && host.ends_with(suffix)).then_some(authority.len());
    }
    let rest = text.strip_prefix(prefix)?;
    let is_boundary = match rest.bytes().next() {
        None | Some(b'/') => true,
        // A host alone is not a host with a port.
        Some(b':' | b'@') => prefix.contains('/'),
        Some(_) => false,
    };
    is_boundary.then_some(prefix.len())
}

fn blocked(registry: &Registry) -> String {
    let file = if registry.origin.is_empty() { "registries.conf" } else { &registry.origin };
    format!("registry {} is blocked in {file}", registry.prefix)
}
