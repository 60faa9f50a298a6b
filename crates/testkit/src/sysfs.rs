//! A sysfs of directories, files and links below a directory of the test's: PCI functions, which of them are virtual ones
//! (VFs) of another (PF), their drivers and network links.
//!
//! Code with a root directory of its own reads this one; what it asks of the kernel still goes to the real one. Everything
//! may change while that code runs. What is written to a file stays there, and nothing comes of it, save with
//! [`Sysfs::bind_as_told`].

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The bridge that all functions are below.
const BRIDGE: &str = "devices/pci0000:3a";

/// A sysfs at `ROOT/sys`. Functions are named by their addresses, such as `0000:3b:02.1`. All that this does panics when
/// it can't be done.
#[derive(Debug)]
pub struct Sysfs {
    sys: PathBuf,
}

impl Sysfs {
    /// One without functions or links.
    pub fn new(root: &Path) -> Self {
        let sysfs = Self { sys: root.join("sys") };
        for directory in ["class/net", "bus/pci/devices", "bus/pci/drivers", BRIDGE] {
            done(directory, fs::create_dir_all(sysfs.sys.join(directory)));
        }
        sysfs.set("bus/pci/drivers_probe", "");
        sysfs
    }

    /// Something in it, such as `bus/pci/drivers_probe`.
    pub fn path(&self, below: &str) -> PathBuf {
        self.sys.join(below)
    }

    /// The directory of a function.
    pub fn device(&self, address: &str) -> PathBuf {
        self.sys.join(BRIDGE).join(address)
    }

    /// Adds a function that has no driver.
    pub fn add_function(&self, address: &str) {
        let device = self.device(address);
        done(address, fs::create_dir(&device));
        self.link_to("../../../bus/pci", &device.join("subsystem"));
        self.link_to(&format!("../../../{BRIDGE}/{address}"), &self.path("bus/pci/devices").join(address));
        self.set(&format!("{BRIDGE}/{address}/driver_override"), "(null)\n");
        // What udev takes for a device has one, whatever is in it.
        self.set(&format!("{BRIDGE}/{address}/uevent"), &format!("PCI_SLOT_NAME={address}\n"));
    }

    /// Says more about a function: the contents of attributes such as `vendor`, without the line's end where they are text.
    pub fn describe(&self, address: &str, attributes: &[(&str, &[u8])]) {
        for (attribute, content) in attributes {
            done(attribute, fs::write(self.device(address).join(attribute), content));
        }
    }

    /// Puts functions into an IOMMU group and no others.
    pub fn group(&self, number: u32, functions: &[&str]) {
        let group = format!("kernel/iommu_groups/{number}");
        done(&group, fs::create_dir_all(self.path(&group).join("devices")));
        for address in functions {
            self.link_to(&format!("../../../{group}"), &self.device(address).join("iommu_group"));
            self.link_to(&format!("../../../../{BRIDGE}/{address}"), &self.path(&group).join("devices").join(address));
        }
    }

    /// Removes a function with its links. A PF is told of a VF that goes by [`Sysfs::enable`].
    pub fn remove_function(&self, address: &str) {
        self.unbind(address);
        done(address, fs::remove_file(self.path("bus/pci/devices").join(address)));
        done(address, fs::remove_dir_all(self.device(address)));
    }

    /// Makes functions the virtual ones of another, and those that were before no longer.
    pub fn enable(&self, pf: &str, vfs: &[&str]) {
        let physical = self.device(pf);
        for number in 0.. {
            let function = physical.join(format!("virtfn{number}"));
            let Ok(target) = fs::read_link(&function) else { break };
            remove_if_there(&physical.join(target).join("physfn"));
            done(pf, fs::remove_file(function));
        }
        self.set(&format!("{BRIDGE}/{pf}/sriov_totalvfs"), "64\n");
        for (number, vf) in vfs.iter().enumerate() {
            self.link_to(&format!("../{vf}"), &physical.join(format!("virtfn{number}")));
            self.link_to(&format!("../{pf}"), &self.device(vf).join("physfn"));
        }
        self.set(&format!("{BRIDGE}/{pf}/sriov_numvfs"), &format!("{}\n", vfs.len()));
    }

    /// Adds a link of a function, with attributes such as `ifindex`.
    pub fn add_link(&self, address: &str, name: &str, attributes: &[(&str, &str)]) {
        let directory = self.device(address).join("net").join(name);
        done(name, fs::create_dir_all(&directory));
        self.link_to(&format!("../../../{address}"), &directory.join("device"));
        self.link_to("../../../../../class/net", &directory.join("subsystem"));
        let index = attributes.iter().find(|(attribute, _)| *attribute == "ifindex").map_or("0", |(_, index)| index);
        done(name, fs::write(directory.join("uevent"), format!("INTERFACE={name}\nIFINDEX={index}\n")));
        for (attribute, value) in attributes {
            done(attribute, fs::write(directory.join(attribute), format!("{value}\n")));
        }
        self.link_to(&format!("../../{BRIDGE}/{address}/net/{name}"), &self.path("class/net").join(name));
    }

    /// Adds a link that is in the test's namespace as one of a function, with what the kernel's sysfs says of it.
    pub fn add_real_link(&self, address: &str, name: &str) {
        let real = Path::new("/sys/class/net").join(name);
        let attributes = ["ifindex", "address", "operstate", "phys_port_id", "phys_port_name"].map(|attribute| {
            // Many drivers don't have the last two.
            let value = fs::read_to_string(real.join(attribute)).unwrap_or_default();
            (attribute, value.trim().to_owned())
        });
        assert!(!attributes[0].1.is_empty(), "there is no link {name}");
        let attributes: Vec<_> = attributes.iter().map(|(attribute, value)| (*attribute, value.as_str())).collect();
        self.add_link(address, name, &attributes);
    }

    /// Removes a link.
    pub fn remove_link(&self, name: &str) {
        let class = self.path("class/net").join(name);
        let directory = fs::canonicalize(&class);
        done(name, fs::remove_file(class));
        let directory = done(name, directory);
        done(name, fs::remove_dir_all(&directory));
        // `net` goes with the last of its links.
        let _ = directory.parent().map(fs::remove_dir);
    }

    /// Adds a driver of PCI functions.
    pub fn add_driver(&self, driver: &str) {
        done(driver, fs::create_dir(self.path("bus/pci/drivers").join(driver)));
        for file in ["bind", "unbind"] {
            self.set(&format!("bus/pci/drivers/{driver}/{file}"), "");
        }
    }

    /// Gives a function that has none a driver.
    pub fn bind(&self, address: &str, driver: &str) {
        self.link_to(&format!("../../../bus/pci/drivers/{driver}"), &self.device(address).join("driver"));
        let of_driver = self.path("bus/pci/drivers").join(driver).join(address);
        self.link_to(&format!("../../../../{BRIDGE}/{address}"), &of_driver);
    }

    /// Takes the driver of a function away, if it has one, and with it the function's links.
    pub fn unbind(&self, address: &str) {
        let device = self.device(address);
        for link in fs::read_dir(device.join("net")).into_iter().flatten().flatten() {
            self.remove_link(&link.file_name().to_string_lossy());
        }
        remove_if_there(&device.join("driver").join(address));
        remove_if_there(&device.join("driver"));
    }

    /// Does what the kernel does about what is written to drivers' files and `drivers_probe`, until what this gives is
    /// dropped. A function whose `driver_override` names no driver gets `usual`.
    pub fn bind_as_told(&self, usual: &str) -> Binding {
        let (sysfs, usual, stop) = (Self { sys: self.sys.clone() }, usual.to_owned(), Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                sysfs.bind_once(&usual);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Binding { stop, thread: Some(thread) }
    }

    fn bind_once(&self, usual: &str) {
        let probed = self.take("bus/pci/drivers_probe");
        // Whoever has a function probed has had it unbound before.
        for driver in fs::read_dir(self.path("bus/pci/drivers")).into_iter().flatten().flatten() {
            let unbound = self.take(&format!("bus/pci/drivers/{}/unbind", driver.file_name().to_string_lossy()));
            unbound.iter().for_each(|address| self.unbind(address));
        }
        let Some(address) = probed else { return };
        let device = self.device(&address);
        let wanted = fs::read_to_string(device.join("driver_override")).unwrap_or_default();
        // The kernel's file has a line only; behind it is what was written before.
        let wanted = wanted.lines().next().filter(|driver| !driver.is_empty() && *driver != "(null)").unwrap_or(usual);
        if !device.join("driver").exists() && self.path("bus/pci/drivers").join(wanted).exists() {
            self.bind(&address, wanted);
        }
    }

    /// What was written to a file since the last time.
    fn take(&self, below: &str) -> Option<String> {
        let text = done(below, fs::read_to_string(self.path(below)));
        if text.is_empty() {
            return None;
        }
        self.set(below, "");
        Some(text.trim().to_owned())
    }

    fn set(&self, below: &str, content: &str) {
        done(below, fs::write(self.path(below), content));
    }

    fn link_to(&self, target: &str, link: &Path) {
        done(target, symlink(target, link));
    }
}

/// What stands in for the kernel; see [`Sysfs::bind_as_told`].
#[derive(Debug)]
pub struct Binding {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if let (Some(Err(panic)), false) = (ended, std::thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}

fn remove_if_there(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        outcome => done(&path.to_string_lossy(), outcome),
    }
}

#[track_caller]
fn done<T>(what: &str, outcome: io::Result<T>) -> T {
    outcome.unwrap_or_else(|error| panic!("{what}: {error}"))
}
