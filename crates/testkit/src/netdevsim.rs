//! Physical functions (PFs) that the kernel simulates, by its driver `netdevsim`. Their virtual functions (VFs) can be set
//! like those of a network card; they have neither PCI functions nor links.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{MountFlags, mount};

use crate::{process, skip, test_name};

const BUS: &str = "/sys/bus/netdevsim";
const DEBUG: &str = "/sys/kernel/debug";

/// A PF. It goes when this is dropped.
#[derive(Debug)]
pub struct NetdevSim {
    /// Its number on the bus, which all namespaces share.
    id: u32,
}

impl NetdevSim {
    /// A PF with this many VFs, with a link of the given name in the namespace of [`in_namespace`](crate::in_namespace); or
    /// nothing, and the running test is skipped.
    ///
    /// # Panics
    /// When the kernel simulates PFs, but not this one.
    #[must_use = "return from the test when there is none"]
    pub fn start(link: &str, vfs: u32) -> Option<Self> {
        let device = match Self::new() {
            Ok(device) => device,
            Err(error) => {
                skip(&test_name(), &format!("kernel has no netdevsim ({error})"));
                return None;
            }
        };
        let made = fs::read_dir(device.path("net")).and_then(|mut links| links.next().transpose());
        let Ok(Some(made)) = made else { panic!("netdevsim{} should have a link: {made:?}", device.id) };
        let mut rename = Command::new("ip");
        rename.args(["link", "set", "name", link, "dev"]).arg(made.file_name());
        process::output(rename).unwrap_or_else(|error| panic!("{error}"));
        device.enable(vfs);
        Some(device)
    }

    /// Gives it this many VFs instead of those that it had, all without settings.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn enable(&self, vfs: u32) {
        if !Path::new(DEBUG).join("netdevsim").exists() {
            let mounted = mount("debugfs", DEBUG, "debugfs", MountFlags::empty(), None);
            mounted.unwrap_or_else(|error| panic!("mount {DEBUG}: {error}"));
        }
        let numvfs = self.path("sriov_numvfs");
        // Room for as many, which the kernel makes anew; the driver has none for more than 4 by itself.
        let room = format!("{DEBUG}/netdevsim/netdevsim{}/max_vfs", self.id);
        for (file, count) in [(&numvfs, 0), (&room, vfs), (&numvfs, vfs)] {
            fs::write(file, count.to_string()).unwrap_or_else(|error| panic!("{file}: {count}: {error}"));
        }
    }

    /// One without VFs in the calling thread's namespace.
    pub(crate) fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // No other test's: a process id has 22 bits at most.
        let id = std::process::id() << 8 | NEXT.fetch_add(1, Ordering::Relaxed) & 0xff;
        let file = format!("{BUS}/new_device");
        let made = fs::write(&file, format!("{id} 1"));
        made.map(|()| Self { id }).map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))
    }

    /// Its name on the bus `netdevsim`.
    pub fn device(&self) -> String {
        format!("netdevsim{}", self.id)
    }

    fn path(&self, below: &str) -> String {
        format!("{BUS}/devices/netdevsim{}/{below}", self.id)
    }
}

impl Drop for NetdevSim {
    fn drop(&mut self) {
        // The next test does not meet it, whatever comes of this.
        let _ = fs::write(format!("{BUS}/del_device"), self.id.to_string());
    }
}
