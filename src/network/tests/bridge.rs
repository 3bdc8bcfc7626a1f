//! The network that the tests with real plugins use: a bridge with addresses of its own.

use std::path::Path;

use serde_json::json;

/// A configuration list (`.conflist`) for a bridge that routes to the outside and maps ports.
///
/// The network has the bridge's name. `subnet` is an IPv4 or IPv6 prefix (`10.88.0.0/16`); host-local keeps the addresses
/// that are taken below `data_dir`.
pub(super) fn bridge_conflist(bridge: &str, subnet: &str, data_dir: &Path) -> String {
    let everywhere = if subnet.contains(':') { "::/0" } else { "0.0.0.0/0" };
    let list = json!({
        "cniVersion": "1.0.0",
        "name": bridge,
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": data_dir,
                    "ranges": [[{"subnet": subnet}]],
                    "routes": [{"dst": everywhere}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    format!("{list:#}\n")
}
