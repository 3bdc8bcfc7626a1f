//! The text of podd's own profile: what a container may do of all that its capabilities would let it do.
//!
//! Everything is allowed but for what reaches the node itself: kernel settings in `/proc` and `/sys`, memory, mounts, and
//! processes of other containers. No includes: the text is whole, whatever the host's `/etc/apparmor.d` says.

/// The profile's name, which the kernel and `kubectl` users see.
pub const OWN_PROFILE: &str = "podd-default";

/// Where the parser finds the features that the text was written for.
pub(super) const ABI: &str = "/etc/apparmor.d/abi/3.0";

/// The profile, for a daemon that itself runs under the label `daemon`.
///
/// With `pinned`, newer parsers take the text as version 3 meant it: nothing is denied only because it was not known then,
/// such as making user namespaces, or unix sockets apart from other networks.
pub(super) fn text(daemon: &str, pinned: bool) -> String {
    let abi = if pinned { "abi <abi/3.0>,\n" } else { "" };
    let name = OWN_PROFILE;
    let daemon = match daemon {
        "" | "unconfined" => String::new(),
        label => format!("  signal (receive) peer=\"{label}\",\n"),
    };
    format!(
        "{abi}profile {name} flags=(attach_disconnected,mediate_deleted) {{\n{ALLOWED}{daemon}{DENIED}}}\n"
    )
}

const ALLOWED: &str = r#"
  file,
  network,
  capability,
  umount,

  # From the node's own processes, and the runtimes where they have profiles of their own.
  signal (receive) peer=unconfined,
  signal (receive) peer={runc,crun},
  # Within the container; newer kernels stack the label of processes in a user namespace.
  signal (send, receive) peer="podd-default{,//&unconfined}",
  # The other side needs the right as well.
  ptrace (readby, tracedby),
  ptrace (read, trace) peer="podd-default{,//&unconfined}",

"#;

const DENIED: &str = r#"
  # Of /proc only what belongs to processes, and limits of shared memory, may be written.
  deny /proc/[^1-9s]** wklx,
  deny /proc/s[^y]** wklx,
  deny /proc/sy[^s]** wklx,
  deny /proc/sys[^/]** wklx,
  deny /proc/sys/[^k]** wklx,
  deny /proc/sys/kernel/[^s]** wklx,
  deny /proc/sys/kernel/s[^h]** wklx,
  deny /proc/sys/kernel/sh[^m]** wklx,
  deny /proc/{sysrq-trigger,mem,kmem,kcore} rwklx,

  # Of /sys only cgroups.
  deny /sys/[^f]** wklx,
  deny /sys/f[^s]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/fs/cg[^r]** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,

  deny mount,
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_daemon_may_signal_its_containers() {
        assert!(text("podd", false).contains("signal (receive) peer=\"podd\","));
        assert!(!text("unconfined", false).contains("peer=\"unconfined\""));
    }

    #[test]
    fn the_text_is_pinned_where_the_parser_has_versions() {
        assert!(text("unconfined", true).starts_with("abi <abi/3.0>,\nprofile podd-default "));
        assert!(text("unconfined", false).starts_with("profile podd-default "));
    }
}
