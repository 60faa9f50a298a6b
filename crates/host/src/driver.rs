//! Which driver a PCI device has, and giving it another one, by sysfs (kernel: `Documentation/ABI/testing/sysfs-bus-pci`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use patchcord_core::model::PciAddress;

use crate::{Error, Result};

/// How long a driver may take to show up once it was asked to take a device.
const PATIENCE: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(10);

/// The drivers of PCI devices.
#[derive(Debug, Clone)]
pub struct Drivers {
    bus: PathBuf,
}

impl Drivers {
    /// With sysfs at `ROOT/sys`; the root directory is normally `/`.
    pub fn new(root: &Path) -> Self {
        Self { bus: root.join("sys/bus/pci") }
    }

    /// The driver of a device, if it has one.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn of(&self, address: PciAddress) -> Result<Option<String>> {
        let link = self.device(address).join("driver");
        match fs::read_link(&link) {
            Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", link)(error)),
        }
    }

    /// Gives a device this driver, and takes it from the one that it has. Where that fails it gets the old one back.
    ///
    /// # Errors
    /// [`Error::Driver`] when that driver is not loaded or does not take it; [`Error::File`].
    pub fn bind(&self, address: PciAddress, driver: &str) -> Result<()> {
        let before = self.of(address)?;
        if before.as_deref() == Some(driver) {
            return Ok(());
        }
        if !self.bus.join("drivers").join(driver).exists() {
            let problem = format!("that driver is not loaded: 'modprobe {driver}' loads it");
            return Err(Error::Driver { address, driver: driver.to_owned(), problem });
        }
        let bound = self.hand_over(address, driver, before.as_deref());
        if bound.is_err() {
            // What went wrong is told; what its own driver says now is no news beside that.
            let _ = self.give_back(address, before.as_deref());
        }
        bound
    }

    /// Gives a device the driver that it had before it was [bound](Self::bind), or none.
    ///
    /// # Errors
    /// As [`Drivers::bind`].
    pub fn give_back(&self, address: PciAddress, before: Option<&str>) -> Result<()> {
        // An empty line lets any driver take it again.
        self.write(self.device(address).join("driver_override"), "\n")?;
        let now = self.of(address)?;
        if now.as_deref() == before {
            return Ok(());
        }
        self.unbind(address, now.as_deref())?;
        match before {
            Some(driver) => self.probe(address, driver),
            None => Ok(()),
        }
    }

    fn hand_over(&self, address: PciAddress, driver: &str, now: Option<&str>) -> Result<()> {
        // From here on no other driver takes it, so that none comes in between.
        self.write(self.device(address).join("driver_override"), driver)?;
        self.unbind(address, now)?;
        self.probe(address, driver)
    }

    fn unbind(&self, address: PciAddress, driver: Option<&str>) -> Result<()> {
        let Some(driver) = driver else { return Ok(()) };
        self.write(self.bus.join("drivers").join(driver).join("unbind"), &address.to_string())
    }

    /// Has the kernel find a device's driver, which is to be this one.
    fn probe(&self, address: PciAddress, driver: &str) -> Result<()> {
        self.write(self.bus.join("drivers_probe"), &address.to_string())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.of(address)?;
            if now.as_deref() == Some(driver) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let instead = now.map_or_else(|| "no driver".to_owned(), |now| format!("the driver {now}"));
                let problem = format!("it has {instead}; the kernel's log says more");
                return Err(Error::Driver { address, driver: driver.to_owned(), problem });
            }
            sleep(INTERVAL);
        }
    }

    fn device(&self, address: PciAddress) -> PathBuf {
        self.bus.join("devices").join(address.to_string())
    }

    fn write(&self, path: PathBuf, text: &str) -> Result<()> {
        // Not made anew where it is missing: it would be no file of the kernel's.
        let written = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| {
            use io::Write;
            file.write_all(text.as_bytes())
        });
        written.map_err(Error::file("write", path))
    }
}
