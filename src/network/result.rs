//! Results of ADD: what a pod got, from the result formats of CNI 0.1.0 to 1.1.0.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::INTERFACE;
use super::config::CniVersion;

/// The most addresses, interfaces or routes that a result may list; real ones have a few.
const MAX_ITEMS: usize = 1024;

/// What a pod got from its network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodNetwork {
    /// The pod's addresses in the order of the plugins; the first is the primary.
    pub ips: Vec<IpAddr>,
    /// The interfaces that were made, in the pod and on the node.
    pub interfaces: Vec<Interface>,
    /// The routes that were set in the pod.
    pub routes: Vec<Route>,
    /// The result as the last plugin gave it.
    pub result: Value,
}

/// A network interface (CNI specification, section 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default)]
    pub mac: String,
    /// The network namespace that it is in; empty on the node.
    #[serde(default)]
    pub sandbox: String,
}

/// A route of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination, address and prefix length.
    pub dst: String,
    /// The next hop; absent for what is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// The union of all result formats.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<RawIp>,
    #[serde(default)]
    routes: Vec<Route>,
    /// CNI 0.1.0 and 0.2.0.
    ip4: Option<OldIp>,
    /// CNI 0.1.0 and 0.2.0.
    ip6: Option<OldIp>,
}

#[derive(Deserialize)]
struct RawIp {
    address: String,
    interface: Option<i64>,
}

#[derive(Deserialize)]
struct OldIp {
    ip: String,
    #[serde(default)]
    routes: Vec<Route>,
}

impl PodNetwork {
    /// Reads a result and checks it; the error says what is wrong with it.
    pub(super) fn parse(result: Value) -> Result<Self, String> {
        if !result.is_object() {
            return Err("it is not a JSON object".to_owned());
        }
        let mut raw = Raw::deserialize(&result).map_err(|e| e.to_string())?;
        for old in [raw.ip4.take(), raw.ip6.take()].into_iter().flatten() {
            raw.ips.push(RawIp { address: old.ip, interface: None });
            raw.routes.extend(old.routes);
        }
        if raw.interfaces.len().max(raw.ips.len()).max(raw.routes.len()) > MAX_ITEMS {
            return Err(format!("it lists more than {MAX_ITEMS} addresses, interfaces or routes"));
        }
        for route in &raw.routes {
            cidr(&route.dst)?;
        }
        Ok(Self { ips: raw.pod_addresses()?, interfaces: raw.interfaces, routes: raw.routes, result })
    }

    /// What a pod has whose network is the loopback interface alone.
    pub(super) fn loopback(version: CniVersion, netns: &Path) -> Self {
        let sandbox = netns.to_string_lossy().into_owned();
        let result = json!({
            "cniVersion": version,
            "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": sandbox}],
            "ips": [{"version": "4", "address": "127.0.0.1/8", "interface": 0}],
        });
        let interface = Interface { name: "lo".to_owned(), mac: "00:00:00:00:00:00".to_owned(), sandbox };
        Self {
            ips: vec![Ipv4Addr::LOCALHOST.into()],
            interfaces: vec![interface],
            routes: Vec::new(),
            result,
        }
    }
}

impl Raw {
    /// The addresses of eth0; where there is no such interface, all that are in the pod.
    fn pod_addresses(&self) -> Result<Vec<IpAddr>, String> {
        let (mut primary, mut others) = (Vec::new(), Vec::new());
        for RawIp { address, interface } in &self.ips {
            let ip = cidr(address)?;
            match self.interface(*interface)? {
                None => primary.push(ip),
                Some(found) if found.sandbox.is_empty() => {}
                Some(found) if found.name == INTERFACE => primary.push(ip),
                Some(_) => others.push(ip),
            }
        }
        Ok(if primary.is_empty() { others } else { primary })
    }

    fn interface(&self, index: Option<i64>) -> Result<Option<&Interface>, String> {
        // Some IPAM plugins write -1 for an address that belongs to no listed interface.
        let Some(index) = index.filter(|index| *index >= 0) else { return Ok(None) };
        let found = usize::try_from(index).ok().and_then(|index| self.interfaces.get(index));
        found.map(Some).ok_or_else(|| format!("an address belongs to interface {index}, which is not listed"))
    }
}

/// The address of `address/length`.
fn cidr(text: &str) -> Result<IpAddr, String> {
    let parse = || {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        (length <= if address.is_ipv4() { 32 } else { 128 }).then_some(address)
    };
    parse().ok_or_else(|| format!("{:?} is not an address with a prefix length", printable_start(text)))
}

fn printable_start(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(result: Value) -> Result<Vec<String>, String> {
        PodNetwork::parse(result).map(|network| network.ips.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn every_format_gives_the_addresses_of_the_pod() {
        let chained = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "net1", "sandbox": "/n"}, {"name": "eth0", "sandbox": "/n"}],
            "ips": [
                {"address": "10.0.0.1/24", "interface": 0},
                {"address": "10.9.0.2/24", "interface": 1},
                {"address": "10.0.0.2/24", "interface": 2, "gateway": "10.0.0.1"},
                {"address": "fd00::2/64", "interface": 2},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400}, {"dst": "fd00::/8"}],
        });
        assert_eq!(ips(chained).unwrap(), ["10.0.0.2", "fd00::2"]);
        let old = json!({"ip4": {"ip": "10.0.0.2/24", "routes": [{"dst": "0.0.0.0/0"}]}, "ip6": {"ip": "fd00::2/64"}});
        assert_eq!(ips(old).unwrap(), ["10.0.0.2", "fd00::2"]);
        assert_eq!(ips(json!({"ips": [{"address": "10.0.0.2/32", "interface": -1}]})).unwrap(), ["10.0.0.2"]);
        assert_eq!(
            ips(PodNetwork::loopback(CniVersion::V1_0_0, Path::new("/n")).result).unwrap(),
            ["127.0.0.1"]
        );
        assert!(ips(json!({"cniVersion": "1.0.0"})).unwrap().is_empty());
    }

    #[test]
    fn invalid_results_are_refused_with_the_reason() {
        let many = vec![json!({"name": "x"}); MAX_ITEMS + 1];
        for (result, named) in [
            (json!([]), "object"),
            (json!({"ips": "10.0.0.1/8"}), "sequence"),
            (json!({"ips": [{"address": "10.0.0.1"}]}), "10.0.0.1"),
            (json!({"ips": [{"address": "10.0.0.1/33"}]}), "10.0.0.1/33"),
            (json!({"ips": [{"address": "10.0.0.1/8", "interface": 3}]}), "interface 3"),
            (json!({"routes": [{"dst": "everywhere"}]}), "everywhere"),
            (json!({"interfaces": many}), "more than"),
        ] {
            let reason = ips(result).unwrap_err();
            assert!(reason.contains(named), "{reason}");
        }
    }
}
