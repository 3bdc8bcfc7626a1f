//! Version, Status and RuntimeConfig: what podd says of itself.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Service;
use crate::api;
use crate::apparmor::{AppArmorFacts, DefaultProfile, OWN_PROFILE};
use crate::cgroup::Driver;

/// The name by which the kubelet shows the runtime (`podd://0.1.0`).
const RUNTIME_NAME: &str = "podd";
/// The CRI's version (`runtime.v1`).
const API_VERSION: &str = "v1";

pub(super) fn version() -> api::VersionResponse {
    api::VersionResponse {
        version: "0.1.0".to_owned(), // of the kubelet's runtime API, fixed since its first days
        runtime_name: RUNTIME_NAME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: API_VERSION.to_owned(),
    }
}

pub(super) fn runtime_config(driver: Driver) -> api::RuntimeConfigResponse {
    let driver = match driver {
        Driver::Cgroupfs => api::CgroupDriver::Cgroupfs,
        Driver::Systemd => api::CgroupDriver::Systemd,
    };
    let linux = api::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
    api::RuntimeConfigResponse { linux: Some(linux) }
}

impl Service {
    pub(super) fn runtime_status(&self, verbose: bool) -> api::StatusResponse {
        let ready = condition("RuntimeReady", self.pods.runtime_ready());
        let network = condition("NetworkReady", self.pods.network().status().map_err(|e| e.to_string()));
        let config = self.pods.config();
        let names = config.runtimes.keys().map(|name| (name.as_str(), name));
        let handlers = [("", &config.default_runtime)].into_iter().chain(names);
        let handlers = handlers.map(|(name, runtime)| api::RuntimeHandler {
            name: name.to_owned(),
            features: Some(self.handler_features(runtime)),
        });
        api::StatusResponse {
            status: Some(api::RuntimeStatus { conditions: vec![ready, network] }),
            info: if verbose { self.runtime_info() } else { HashMap::new() },
            runtime_handlers: handlers.collect(),
            features: Some(api::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: true,
            }),
        }
    }

    /// What the kubelet may ask of pods with this runtime; nothing for as long as it has not answered.
    fn handler_features(&self, runtime: &str) -> api::RuntimeHandlerFeatures {
        let features = self.pods.features(runtime);
        api::RuntimeHandlerFeatures {
            recursive_read_only_mounts: features.is_some_and(|can| can.recursive_read_only.is_ok()),
            // The kubelet has the volumes of such a pod mapped too.
            user_namespaces: self.pods.has_user_namespaces()
                && features.is_some_and(|can| can.id_mapped_mounts.is_ok()),
        }
    }

    fn runtime_info(&self) -> HashMap<String, String> {
        let counts =
            json!({ "podSandboxes": self.pods.pods().len(), "containers": self.pods.containers().len() });
        HashMap::from([
            ("config".to_owned(), json!(self.pods.config()).to_string()),
            ("cniconfig".to_owned(), self.cni_config_json().to_string()),
            ("lastCNILoadStatus".to_owned(), json!(self.cni_load_status()).to_string()),
            ("rust".to_owned(), json!(env!("PODD_RUSTC")).to_string()),
            ("objects".to_owned(), counts.to_string()),
            ("confinement".to_owned(), self.pods.confinement().to_string()),
            ("apparmor".to_owned(), self.apparmor_info().to_string()),
            ("events".to_owned(), json!(self.pods.events().numbers()).to_string()),
            ("pulls".to_owned(), json!(self.pods.images().pulls()).to_string()),
            ("pullTotals".to_owned(), json!(self.pods.images().pull_totals()).to_string()),
        ])
    }

    fn apparmor_info(&self) -> Value {
        match self.pods.apparmor().facts() {
            AppArmorFacts::Disabled => json!({ "enabled": false }),
            AppArmorFacts::Enabled { default, .. } => {
                let (profile, problem) = match default {
                    DefaultProfile::Unconfined => ("unconfined".to_owned(), None),
                    DefaultProfile::Loaded(name) => (name, None),
                    DefaultProfile::Missing(name) => (name, Some("it is not loaded".to_owned())),
                    DefaultProfile::Failed(why) => (OWN_PROFILE.to_owned(), Some(why)),
                };
                json!({ "enabled": true, "defaultProfile": profile, "problem": problem })
            }
        }
    }
}

fn condition(kind: &str, state: Result<(), String>) -> api::RuntimeCondition {
    let status = state.is_ok();
    let (reason, message) = match state {
        Ok(()) => (String::new(), String::new()),
        Err(message) => (format!("{kind}False"), message),
    };
    api::RuntimeCondition { r#type: kind.to_owned(), status, reason, message }
}
