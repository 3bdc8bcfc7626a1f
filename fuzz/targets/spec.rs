//! The runtime's document from whatever a client may send: CRI messages in protobuf's own encoding, told apart by the length of
//! the first in two bytes. What comes of them is a document that a runtime can read, or an error that names a field.
#![no_main]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use podd::api::{ContainerConfig, PodSandboxConfig};
use podd::apparmor::{AppArmorFacts, DefaultProfile};
use podd::cgroup::CgroupMode;
use podd::id::PodId;
use podd::runtime::Features;
use podd::selinux::Labels;
use podd::spec::seccomp::Filter;
use podd::spec::{
    Base, DEFAULT_CAPABILITIES, HostFacts, MountSource, Namespaces, PodFiles, PrivilegedDevices,
    ResolvedUser, SourcePropagation, SpecInput, build,
};
use prost::Message;

const POD_ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn host(bits: u8) -> HostFacts {
    HostFacts {
        bounding: 0x1ff_ffff_ffff,
        oom_score_adj_floor: Some(0).filter(|_| bits & 1 == 0),
        cgroup: if bits & 2 == 0 { CgroupMode::V1 } else { CgroupMode::V2 },
        swap_limit: bits & 4 == 0,
        hugepage_sizes: vec!["2MB".to_owned()],
        devices: Vec::new(),
        apparmor: match bits & 8 == 0 {
            true => AppArmorFacts::Disabled,
            false => AppArmorFacts::Enabled {
                default: DefaultProfile::Unconfined,
                loaded: ["mine".to_owned()].into(),
            },
        },
        nsdelegate: bits & 16 == 0,
        selinux: bits & 32 == 0,
        kernel: (6, 1),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[bits, high, low], rest)) = data.split_first_chunk::<3>() else { return };
    let middle = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    let (first, second) = rest.split_at(middle);
    let (Ok(config), Ok(pod)) = (ContainerConfig::decode(first), PodSandboxConfig::decode(second)) else {
        return;
    };
    let source = |mount: &podd::api::Mount| MountSource {
        path: PathBuf::from(&mount.host_path),
        propagation: SourcePropagation::Shared,
    };
    let mounts: Vec<_> = config.mounts.iter().map(source).collect();
    let (pod_id, host): (PodId, _) = (POD_ID.parse().expect("an ID"), host(bits));
    let annotations: BTreeMap<_, _> = config.annotations.clone().into_iter().collect();
    let input = SpecInput {
        config: &config,
        pod: &pod,
        pod_id: &pod_id,
        image: &Default::default(),
        user: &ResolvedUser::default(),
        rootfs: Path::new("/rootfs"),
        cgroups_path: "/pod/container",
        hostname: "host",
        pids_limit: u64::from(bits & 64),
        namespaces: Namespaces::default(),
        files: PodFiles::default(),
        mounts: &mounts,
        default_mounts: &[],
        devices: &[],
        annotations: &annotations,
        capabilities: &DEFAULT_CAPABILITIES,
        seccomp: &Filter::BuiltIn,
        labels: &Labels::default(),
        features: &Features { recursive_read_only: Ok(()), id_mapped_mounts: Ok(()) },
        base: &Base::default(),
        privileged_devices: PrivilegedDevices::All,
        host: &host,
    };
    match build(&input) {
        Ok(spec) => {
            let text = serde_json::to_vec(&spec).expect("a document is JSON");
            let again = serde_json::from_slice(&text).expect("a document can be read");
            assert_eq!(spec, again);
            let process = spec.process().as_ref().expect("there is a process");
            let args = process.args().as_ref().expect("it runs something");
            assert!(args.iter().all(|arg| !arg.contains('\0')) && !args[0].is_empty());
        }
        Err(error) => assert!(error.to_string().contains(": "), "{error}"),
    }
});
