//! A way in for the fuzz targets (`fuzz/`), compiled for nothing else.

use super::lookup::Lookup;
use super::{HostsFile, Plan, RegistriesConf};
use crate::image::reference::Reference;

/// The endpoints of an image by these files.
pub fn plan(conf: &RegistriesConf, hosts: Option<&HostsFile>, reference: &Reference) -> Plan {
    Lookup { conf, hosts, certs_dir: None }.plan(reference)
}
