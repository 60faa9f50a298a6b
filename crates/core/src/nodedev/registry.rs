//! Which devices there are, by name, and what clients are told when that changes.

use super::{COMPUTER, DeviceKind, pci_name};
use crate::model::PciAddress;
use std::collections::{BTreeMap, BTreeSet};

/// What a device is known by while it may change its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceId {
    /// The computer.
    Computer,
    /// A PCI device, by where it is.
    Pci(PciAddress),
    /// A link, by its index.
    Link(u32),
}

impl DeviceId {
    /// What it is.
    pub const fn kind(self) -> DeviceKind {
        match self {
            Self::Computer => DeviceKind::System,
            Self::Pci(_) => DeviceKind::Pci,
            Self::Link(_) => DeviceKind::Net,
        }
    }
}

/// What is known of a device without reading all about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Where sysfs has it; empty for the computer.
    pub path: String,
    /// What of it may change and is told of: whoever reads it decides what that is.
    pub state: String,
}

/// Something that clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// There is a device of that name.
    Created(String),
    /// There is none any more.
    Deleted(String),
    /// The device of that name is described otherwise now.
    Updated(String),
}

impl News {
    /// The device's name.
    pub fn device(&self) -> &str {
        match self {
            Self::Created(name) | Self::Deleted(name) | Self::Updated(name) => name,
        }
    }
}

/// Which devices there are. Names of links may be the same, once what they can't have in them is left out: then the
/// first one has it, and the next one when that is gone.
#[derive(Clone, Debug)]
pub struct Registry {
    ids: BTreeMap<DeviceId, Listed>,
    names: BTreeSet<(String, DeviceId)>,
}

impl Default for Registry {
    /// The computer alone.
    fn default() -> Self {
        let mut registry = Self { ids: BTreeMap::new(), names: BTreeSet::new() };
        registry.put(DeviceId::Computer, Some(Listed { name: COMPUTER.to_owned(), ..Listed::default() }));
        registry
    }
}

impl Registry {
    /// A device was looked at: what it is, or that it is gone.
    pub fn put(&mut self, id: DeviceId, now: Option<Listed>) -> Vec<News> {
        let before = self.ids.remove(&id);
        if let Some(before) = &before {
            self.names.remove(&(before.name.clone(), id));
        }
        let mut news = Vec::new();
        let same_name =
            |a: &Option<Listed>, b: &Option<Listed>| a.as_ref().map(|d| &d.name) == b.as_ref().map(|d| &d.name);
        if same_name(&before, &now) {
            if before != now {
                news.extend(now.iter().map(|now| News::Updated(now.name.clone())));
            }
        } else {
            news.extend(before.filter(|old| self.id(&old.name).is_none()).map(|old| News::Deleted(old.name)));
            let new = now.iter().filter(|new| self.id(&new.name).is_none());
            news.extend(new.map(|new| News::Created(new.name.clone())));
        }
        if let Some(now) = now {
            self.names.insert((now.name.clone(), id));
            self.ids.insert(id, now);
        }
        news
    }

    /// All devices of a kind were looked at.
    pub fn put_all(&mut self, kind: DeviceKind, all: BTreeMap<DeviceId, Listed>) -> Vec<News> {
        let gone: Vec<DeviceId> =
            self.ids.keys().filter(|id| id.kind() == kind && !all.contains_key(id)).copied().collect();
        let mut news: Vec<News> = gone.into_iter().flat_map(|id| self.put(id, None)).collect();
        for (id, now) in all {
            news.extend(self.put(id, Some(now)));
        }
        news
    }

    /// All names, each once and in order, with what the device is.
    pub fn names(&self) -> impl Iterator<Item = (&str, DeviceKind)> {
        let mut last = "";
        let names = self.names.iter().map(|(name, id)| (name.as_str(), id.kind()));
        names.filter(move |(name, _)| std::mem::replace(&mut last, name) != *name)
    }

    /// The device of that name.
    pub fn get(&self, name: &str) -> Option<(DeviceId, &Listed)> {
        let id = self.id(name)?;
        Some((id, self.ids.get(&id)?))
    }

    /// The name of the device that one is part of: the PCI device that its path leads through last, or else the computer.
    pub fn parent(&self, id: DeviceId, device: &Listed) -> Option<String> {
        if id == DeviceId::Computer {
            return None;
        }
        let mut above = device.path.rsplit('/').skip(1).filter_map(|part| part.parse::<PciAddress>().ok());
        let pci = above.find(|address| self.ids.contains_key(&DeviceId::Pci(*address)));
        Some(pci.map_or_else(|| COMPUTER.to_owned(), pci_name))
    }

    fn id(&self, name: &str) -> Option<DeviceId> {
        let from = (name.to_owned(), DeviceId::Computer);
        self.names.range(from..).next().filter(|(found, _)| found == name).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::net_name;
    use super::*;

    fn link(interface: &str, state: &str) -> Option<Listed> {
        let name = net_name(interface, Some("02:00:00:00:00:01"));
        Some(Listed { name, path: format!("/sys/devices/virtual/net/{interface}"), state: state.to_owned() })
    }

    fn pci(address: &str, above: &str) -> (DeviceId, Listed) {
        let id: PciAddress = address.parse().unwrap();
        let path = format!("/sys/devices/pci0000:3a{above}/{address}");
        (DeviceId::Pci(id), Listed { name: pci_name(id), path, state: String::new() })
    }

    #[test]
    fn what_differs_is_told() {
        let mut registry = Registry::default();
        let id = DeviceId::Link(7);
        let (a, b) = ("net_a_02_00_00_00_00_01".to_owned(), "net_b_02_00_00_00_00_01".to_owned());
        assert_eq!(registry.put(id, link("a", "down")), [News::Created(a.clone())]);
        assert_eq!(registry.put(id, link("a", "down")), []);
        assert_eq!(registry.put(id, link("a", "up")), [News::Updated(a.clone())]);
        assert_eq!(registry.put(id, link("b", "up")), [News::Deleted(a), News::Created(b.clone())]);
        assert_eq!(registry.get(&b).unwrap().0, id);
        assert_eq!(registry.names().collect::<Vec<_>>(), [("computer", DeviceKind::System), (&b, DeviceKind::Net)]);
        assert_eq!(registry.put(id, None), [News::Deleted(b.clone())]);
        assert_eq!(registry.put(id, None), []);
        assert_eq!(registry.get(&b), None);
    }

    #[test]
    fn a_name_that_two_have_is_told_once() {
        let mut registry = Registry::default();
        let name = "net_a_b_02_00_00_00_00_01".to_owned();
        assert_eq!(registry.put(DeviceId::Link(7), link("a.b", "up")), [News::Created(name.clone())]);
        assert_eq!(registry.put(DeviceId::Link(8), link("a-b", "up")), []);
        assert_eq!(registry.names().count(), 2);
        assert_eq!(registry.get(&name).unwrap().0, DeviceId::Link(7));
        assert_eq!(registry.put(DeviceId::Link(7), None), []);
        assert!(registry.get(&name).unwrap().1.path.ends_with("a-b"));
        assert_eq!(registry.put(DeviceId::Link(8), None), [News::Deleted(name)]);
    }

    #[test]
    fn a_device_is_part_of_the_nearest_that_is_listed() {
        let mut registry = Registry::default();
        let all = [pci("0000:3a:00.0", ""), pci("0000:3b:00.0", "/0000:3a:00.0")];
        assert_eq!(registry.put_all(DeviceKind::Pci, all.clone().into()).len(), 2);
        let parent = |registry: &Registry, name: &str| {
            let (id, listed) = registry.get(name).unwrap();
            registry.parent(id, listed)
        };
        let virtio = Listed {
            name: "net_e".into(),
            path: "/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/virtio0/net/e".into(),
            state: String::new(),
        };
        registry.put(DeviceId::Link(2), Some(virtio));
        registry.put(DeviceId::Link(3), link("v", "up"));
        assert_eq!(parent(&registry, "net_e").as_deref(), Some("pci_0000_3b_00_0"));
        assert_eq!(parent(&registry, "pci_0000_3b_00_0").as_deref(), Some("pci_0000_3a_00_0"));
        assert_eq!(parent(&registry, "pci_0000_3a_00_0").as_deref(), Some("computer"));
        assert_eq!(parent(&registry, "net_v_02_00_00_00_00_01").as_deref(), Some("computer"));
        assert_eq!(parent(&registry, "computer"), None);
        let gone = registry.put_all(DeviceKind::Pci, [all[0].clone()].into());
        assert_eq!(gone, [News::Deleted("pci_0000_3b_00_0".into())]);
        assert_eq!(parent(&registry, "net_e").as_deref(), Some("pci_0000_3a_00_0"));
    }
}
