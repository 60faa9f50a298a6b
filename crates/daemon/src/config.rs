//! The daemon's configuration: one TOML file, in which every key has a default.

use crate::access::Entry;
use crate::libvirt::Switch;
use patchcord_core::model::{DevicePlug, LinkName};
use patchcord_core::plan::uplink::Uplinks;
use patchcord_libvirt_wire::Driver;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `log`: how much is logged.
    pub log: LogLevel,
    /// `dnsmasq`: the program, by absolute path.
    #[serde(deserialize_with = "absolute")]
    pub dnsmasq: PathBuf,
    /// `[devices]`: how NICs get devices of the host's.
    pub devices: Devices,
    /// `[bridges.NAME]`, of host bridges: `uplinks`, those of its ports that are to carry the VLANs of NICs there.
    #[serde(deserialize_with = "uplinks")]
    pub bridges: Uplinks,
    /// `[libvirt]`: whether libvirt's clients are served.
    pub libvirt: Libvirt,
    /// `[hooks]`: programs that are called when networks and NICs come, change and go.
    pub hooks: Hooks,
    /// `[openvswitch]`: where Open vSwitch is.
    pub openvswitch: OpenVSwitch,
    /// `[[access]]`: who else than root and the group `patchcord` may do what.
    pub access: Vec<Entry>,
}

/// How NICs get devices of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Devices {
    /// `carrier`: devices without one are passed over.
    pub carrier: bool,
    /// `plug`: how NICs are plugged in that don't say so themselves.
    #[serde(deserialize_with = "plug")]
    pub plug: DevicePlug,
    /// `bind_drivers`: PCI devices are bound to the driver that hands them to guests, for networks with managed='yes'. The
    /// daemon keeps the right to do so then.
    pub bind_drivers: bool,
    /// `association_timeout`: how many seconds a switch has to give a NIC's port its profile, 1 to 300.
    #[serde(deserialize_with = "timeout")]
    pub association_timeout: u16,
}

impl Default for Devices {
    fn default() -> Self {
        Self { carrier: false, plug: DevicePlug::default(), bind_drivers: false, association_timeout: 10 }
    }
}

/// Whether libvirt's clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Libvirt {
    /// `network`: on the sockets of virtnetworkd, `auto`, `on` or `off`.
    pub network: Switch,
    /// `interface`: on those of virtinterfaced.
    pub interface: Switch,
    /// `nodedev`: on those of virtnodedevd. Other devices than the host's network devices are not known here, so clients
    /// that come for them would find none: it has to be asked for.
    pub nodedev: Switch,
    /// `shaping`: who sees to the rates of guests' taps that libvirt's QEMU driver makes.
    pub shaping: Shaping,
    /// `authentication`: who says which users other than root may come to the sockets at all, `none` (their modes alone)
    /// or `polkit`.
    pub authentication: Policy,
    /// `access_check`: who says what those may do with which object, `none` (all that their socket lets them) or `polkit`.
    pub access_check: Policy,
}

/// Who sees to the rates of guests' taps that libvirt's QEMU driver makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shaping {
    /// That driver.
    #[default]
    Libvirt,
    /// We.
    Patchcord,
}

/// Who says what clients of libvirt's may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Nobody.
    #[default]
    None,
    /// polkit, by libvirt's actions.
    Polkit,
}

impl Default for Libvirt {
    fn default() -> Self {
        Self {
            network: Switch::Auto,
            interface: Switch::Auto,
            nodedev: Switch::IfPassed,
            shaping: Shaping::default(),
            authentication: Policy::None,
            access_check: Policy::None,
        }
    }
}

impl Libvirt {
    /// The switch of a driver.
    pub const fn of(self, driver: Driver) -> Switch {
        match driver {
            Driver::Network => self.network,
            Driver::Interface => self.interface,
            Driver::NodeDevice => self.nodedev,
        }
    }
}

/// Where Open vSwitch is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpenVSwitch {
    /// `socket`: that of ovsdb-server, by absolute path; without it, run/openvswitch/db.sock below the root.
    #[serde(deserialize_with = "some_absolute")]
    pub socket: Option<PathBuf>,
}

/// How hooks are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// `timeout`: how many seconds each may take, 1 to 300.
    #[serde(deserialize_with = "timeout")]
    pub timeout: u16,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { timeout: 30 }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what is odd.
    Warn,
    /// And what was done.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And everything else.
    Trace,
}

impl LogLevel {
    /// tracing's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("can't read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says something that it can't.
    #[error("{path}, line {line}: {cause}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        cause: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: LogLevel::default(),
            dnsmasq: "/usr/sbin/dnsmasq".into(),
            devices: Devices::default(),
            bridges: Uplinks::new(),
            libvirt: Libvirt::default(),
            hooks: Hooks::default(),
            openvswitch: OpenVSwitch::default(),
            access: Vec::new(),
        }
    }
}

impl Config {
    /// Reads a file. One that is not there counts as empty, unless it `must_exist`.
    ///
    /// # Errors
    /// [`ConfigError`], with the line where it is a fault of the content.
    pub fn load(path: &Path, must_exist: bool) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => String::new(),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        Self::parse(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError::Content { path: path.to_owned(), line, cause: error.message().replace('\n', ", ") }
        })
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Whatever toml says, with a range of bytes.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

fn absolute<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(serde::de::Error::custom(format!("'{}' is not an absolute path", path.display())))
    }
}

fn some_absolute<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    absolute(deserializer).map(Some)
}

fn timeout<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let seconds = i64::deserialize(deserializer)?;
    u16::try_from(seconds)
        .ok()
        .filter(|seconds| (1..=300).contains(seconds))
        .ok_or_else(|| serde::de::Error::custom(format!("{seconds} seconds are not between 1 and 300")))
}

fn uplinks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Uplinks, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct HostBridge {
        uplinks: Vec<String>,
    }
    let link = |name: &str| LinkName::new(name).map_err(serde::de::Error::custom);
    let mut bridges = Uplinks::new();
    for (name, bridge) in BTreeMap::<String, HostBridge>::deserialize(deserializer)? {
        let ports = bridge.uplinks.iter().map(|port| link(port)).collect::<Result<BTreeSet<_>, _>>()?;
        if let Some(port) = ports.iter().find(|port| bridges.values().any(|others| others.contains(port))) {
            return Err(serde::de::Error::custom(format!("{port} can't be an uplink of two bridges")));
        }
        bridges.insert(link(&name)?, ports);
    }
    Ok(bridges)
}

fn plug<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<DevicePlug, D::Error> {
    let word = String::deserialize(deserializer)?;
    let known = DevicePlug::WORDS.iter().find(|(known, _)| *known == word);
    known
        .map(|(_, plug)| *plug)
        .ok_or_else(|| serde::de::Error::custom(format!("unknown plug '{word}', expected 'cord' or 'macvtap'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let missing = Path::new("/nonexistent/patchcord.toml");
        assert_eq!(Config::load(missing, false).unwrap(), Config::default());
        assert!(matches!(Config::load(missing, true), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn keys() {
        let config = Config::parse("log = 'debug'\ndnsmasq = '/opt/dnsmasq'").unwrap();
        assert_eq!((config.log.as_str(), config.dnsmasq), ("debug", PathBuf::from("/opt/dnsmasq")));
        assert_eq!((config.hooks.timeout, Config::parse("[hooks]\ntimeout = 300").unwrap().hooks.timeout), (30, 300));
        let uplinks = Config::parse("[bridges.br0]\nuplinks = ['eth0', 'eth1']").unwrap().bridges;
        let uplinks: Vec<String> = uplinks.iter().map(|(bridge, ports)| format!("{bridge} {}", ports.len())).collect();
        assert_eq!(uplinks, ["br0 2"]);
        let config = Config::parse("[devices]\nplug = 'macvtap'").unwrap();
        assert_eq!(config.devices, Devices { plug: DevicePlug::Macvtap, ..Devices::default() });
        let libvirt = Config::parse("[libvirt]\nnetwork = 'off'\nnodedev = 'on'").unwrap().libvirt;
        assert_eq!(libvirt.shaping, Shaping::Libvirt);
        let shaping = |text| Config::parse(text).unwrap().libvirt.shaping;
        assert_eq!(shaping("[libvirt]\nshaping = 'patchcord'"), Shaping::Patchcord);
        assert_eq!(Driver::ALL.map(|driver| libvirt.of(driver)), [Switch::Off, Switch::Auto, Switch::On]);
        assert_eq!((libvirt.authentication, libvirt.access_check), (Policy::None, Policy::None));
        let libvirt = Config::parse("[libvirt]\nauthentication = 'polkit'").unwrap().libvirt;
        assert_eq!((libvirt.authentication, libvirt.access_check), (Policy::Polkit, Policy::None));
    }

    #[test]
    fn faults_name_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("patchcord.toml");
        for (text, line, says) in [
            ("\nlogs = 'info'", 2, "unknown field `logs`"),
            ("log = 'loud'", 1, "unknown variant `loud`"),
            ("\n\ndnsmasq = 'dnsmasq'", 3, "not an absolute path"),
            ("log = ", 1, ""),
            ("[hooks]\ntimeout = 0", 2, "not between 1 and 300"),
            ("[devices]\nassociation_timeout = 0", 2, "not between 1 and 300"),
            ("[hooks]\ntimeout = 301", 2, "not between 1 and 300"),
            ("[bridges.br0]\nuplinks = ['e/0']", 1, "'/'"),
            ("[bridges.br0]\nuplink = 'eth0'", 2, "unknown field `uplink`"),
            ("[bridges]\nb.uplinks = ['e']\na.uplinks = ['e']", 1, "uplink of two bridges"),
            ("[devices]\nplug = 'wire'", 2, "expected 'cord' or 'macvtap'"),
            ("[libvirt]\ninterface = 'ifpassed'", 2, "expected one of `auto`, `on`, `off`"),
            ("[libvirt]\nshaping = 'both'", 2, "expected `libvirt` or `patchcord`"),
            ("[libvirt]\naccess_check = 'sasl'", 2, "expected `none` or `polkit`"),
            ("\n[[access]]\nnetworks = ['*']\nallow = ['show']", 2, "needs users or groups"),
            ("[[access]]\nusers = ['a']\nallow = ['show']", 1, "missing field `networks`"),
            ("[[access]]\nusers = ['a']\nnetworks = ['*']\nallow = ['all']", 4, "unknown variant `all`"),
            ("[[access]]\nuser = 'a'\nnetworks = ['*']\nallow = []", 2, "unknown field `user`"),
        ] {
            std::fs::write(&path, text).unwrap();
            let Err(ConfigError::Content { line: at, cause, .. }) = Config::load(&path, true) else {
                panic!("{text} is taken")
            };
            assert_eq!(at, line, "{text}: {cause}");
            assert!(cause.contains(says), "{text}: {cause}");
        }
    }
}
