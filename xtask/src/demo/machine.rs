//! QEMU's command line for a guest of `target/guest`.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::workspace::Workspace;

/// Where the machines' files are, for every user to read.
pub(super) struct Image(PathBuf);

impl Image {
    /// Copies the image next to the programs.
    pub(super) fn set(ws: &Workspace, beside: &Path) -> Result<Self> {
        for file in ["vmlinuz", "initramfs"] {
            std::fs::copy(ws.target.join("guest").join(file), beside.join(file))?;
        }
        Ok(Self(beside.to_owned()))
    }

    /// A machine called `name` with one NIC: the value of `-netdev` without its id, and the MAC that the guest sees.
    ///
    /// Emulated, even where the device node for better exists: nested, it hangs on some hosts.
    pub(super) fn qemu(&self, name: &str, ping: &str, netdev: &str, mac: &str) -> Vec<String> {
        let file = |name: &str| self.0.join(name).display().to_string();
        let ping = if ping.is_empty() { String::new() } else { format!(" guest_ping={ping}") };
        let mut args: Vec<String> = "qemu-system-x86_64 -accel tcg -cpu max -m 128 -nodefaults -no-user-config \
                                     -no-reboot -display none -serial stdio"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        args.extend(["-kernel".into(), file("vmlinuz"), "-initrd".into(), file("initramfs"), "-append".into()]);
        args.push(format!("console=ttyS0 quiet loglevel=1 panic=-1 guest_name={name}{ping}"));
        // It boots from no network, so it needs no such ROM.
        let device = format!("virtio-net-pci,netdev=n0,mac={mac},romfile=");
        args.extend(["-netdev".into(), format!("{netdev},id=n0"), "-device".into(), device]);
        args
    }
}
