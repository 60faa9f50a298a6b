//! Where everything is, below one root directory (`patchcordd --root`).

use std::path::{Path, PathBuf};

/// The root directory, and all paths below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    base: PathBuf,
}

impl Default for Root {
    fn default() -> Self {
        Self::new("/")
    }
}

/// Methods that give one fixed path each.
macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {
        $($(#[$doc])* pub fn $name(&self) -> PathBuf { self.base.join($path) })*
    };
}

impl Root {
    /// Everything below `base`, normally `/`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    /// The root directory itself.
    pub fn base(&self) -> &Path {
        &self.base
    }

    paths! {
        /// The daemon's configuration.
        config = "etc/patchcord/patchcord.toml";
        /// Definitions of networks, one `NAME.xml` each, in libvirt's layout.
        networks = "etc/patchcord/networks";
        /// Links to the definitions of networks that start with the daemon.
        networks_autostart = "etc/patchcord/networks/autostart";
        /// Definitions of host interfaces.
        interfaces = "etc/patchcord/interfaces";
        /// Hook programs.
        hooks = "etc/patchcord/hooks";
        /// Everything that ends with a reboot.
        run = "run/patchcord";
        /// Held by the running daemon.
        lock = "run/patchcord/lock";
        /// The native API's socket.
        native_socket = "run/patchcord/patchcord.sock";
        /// Run state of active networks.
        run_networks = "run/patchcord/networks";
        /// Run state of ports.
        run_ports = "run/patchcord/ports";
        /// Run state of NICs.
        run_nics = "run/patchcord/nics";
        /// Device nodes of macvtaps that are opened by name, each called like its link.
        nodes = "run/patchcord/nodes";
        /// What switches were asked to give NICs' ports.
        run_associations = "run/patchcord/associations";
        /// What virtual functions were before NICs got them.
        run_functions = "run/patchcord/functions";
        /// lldpad's process id; see [`crate::lldpad`].
        lldpad_pid = "var/run/lldpad.pid";
        /// dnsmasq's configuration and process ids.
        run_dnsmasq = "run/patchcord/dnsmasq";
        /// The socket of Open vSwitch's database server.
        open_vswitch = "run/openvswitch/db.sock";
        /// Directory of libvirt's sockets.
        libvirt_run = "run/libvirt";
        /// Active networks of libvirt's own daemon.
        libvirt_run_networks = "run/libvirt/network";
        /// Definitions of networks of libvirt's own daemon.
        libvirt_networks = "etc/libvirt/qemu/networks";
        /// A monolithic libvirtd's socket.
        libvirtd_socket = "run/libvirt/libvirt-sock";
        /// What libvirt's daemons on this host know each other by.
        libvirt_token = "run/libvirt/common/system.token";
        /// The socket of the system's D-Bus.
        system_bus = "run/dbus/system_bus_socket";
        /// What outlives a reboot.
        lib = "var/lib/patchcord";
        /// This installation's id.
        instance = "var/lib/patchcord/instance";
        /// Leases and host files.
        dnsmasq = "var/lib/patchcord/dnsmasq";
        /// Which networks have files in [`Root::libvirt_dnsmasq`], and of which bridge.
        names = "var/lib/patchcord/names";
        /// `BRIDGE.status` and `BRIDGE.macs`, where libnss_libvirt reads them.
        libvirt_dnsmasq = "var/lib/libvirt/dnsmasq";
    }

    /// The sockets of libvirt's `service` (`virtnetworkd` and so on): for reading and writing, for reading only.
    pub fn libvirt_sockets(&self, service: &str) -> (PathBuf, PathBuf) {
        let run = self.libvirt_run();
        (run.join(format!("{service}-sock")), run.join(format!("{service}-sock-ro")))
    }
}
