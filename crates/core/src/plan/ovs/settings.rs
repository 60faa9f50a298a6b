//! What a port is to have, and what that makes of the columns of Open vSwitch's database (ovs-vswitchd.conf.db(5)).

use crate::model::{NativeMode, Rate, Vlan};
use crate::plan::{Index, OvsPort};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use uuid::Uuid;

/// Key of external_ids: the installation that made the row. It is on all our rows.
pub const INSTANCE: &str = "patchcord-instance";
/// Key of external_ids: the NIC that a Port is for.
const NIC: &str = "patchcord-nic";
/// Key of external_ids: the index of the link that a Port was made for.
const LINK: &str = "patchcord-link";
/// Key of external_ids: the Port that a QoS or a Queue is for, by its name. They stay when a Port goes.
pub const PORT: &str = "patchcord-port";
/// The keys of a Port's external_ids that are ours to set.
pub const PORT_KEYS: [&str; 3] = [INSTANCE, LINK, NIC];
/// Those of an Interface: the mark, those of Open vSwitch's integration guide, and libvirt's `port-profile`.
pub const INTERFACE_KEYS: [&str; 6] = [INSTANCE, "attached-mac", "iface-id", "iface-status", "port-profile", "vm-id"];

/// The type of our QoS rows.
const HTB: &str = "linux-htb";
/// The most bits, and bits a second, that it takes, some 34 Gbit/s: before version 3.2, Open vSwitch counts the bytes in 32
/// bits, and makes a small limit of a greater one.
const HTB_MOST: u64 = u32::MAX as u64 * 8;

/// The columns of a port that are ours to set. What else there is, others' keys of external_ids included, stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `Port.external_ids`: our mark.
    pub port_ids: BTreeMap<String, String>,
    /// `Interface.external_ids`: our mark, and what describes the guest's NIC.
    pub interface_ids: BTreeMap<String, String>,
    /// `Port.vlan_mode`, `tag` and `trunks`.
    pub vlan: VlanColumns,
    /// `Interface.ingress_policing_rate` and `ingress_policing_burst`: from the guest.
    pub policing: Policing,
    /// `Port.qos`: towards the guest.
    pub shaping: Shaping,
}

/// How a port treats VLANs. Nothing at all makes it a trunk of all VLANs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VlanColumns {
    /// `access`, `trunk`, `native-tagged` or `native-untagged`; others may have set something else.
    pub mode: Option<String>,
    /// The VLAN of an access port, or the native one.
    pub tag: Option<i64>,
    /// The VLANs of a trunk; none stands for all.
    pub trunks: BTreeSet<i64>,
}

/// What comes from the guest beyond this is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policing {
    /// In 1,000 bits a second; 0 for no limit.
    pub rate: i64,
    /// In 1,000 bits; 0 for Open vSwitch's default of 8,000.
    pub burst: i64,
}

/// What goes to the guest beyond this waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shaping {
    /// No limit.
    #[default]
    None,
    /// One class of HTB for all frames.
    Limit(Limit),
    /// Something that others have set up, or changed.
    Other,
}

/// A limit, as HTB has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In bits a second.
    pub rate: u64,
    /// In bits; without, as little as HTB can do with.
    pub burst: Option<u64>,
}

impl Settings {
    /// What `port` comes down to, for that installation.
    pub fn of(port: &OvsPort, instance: Uuid) -> Self {
        let ids = |ids: &[(&str, Option<String>)]| {
            ids.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?))).collect()
        };
        let mark = (INSTANCE, Some(instance.to_string()));
        let bandwidth = port.bandwidth.clone().unwrap_or_default();
        Self {
            port_ids: ids(&[mark.clone(), (LINK, Some(port.link.0.to_string())), (NIC, Some(port.nic.to_string()))]),
            interface_ids: ids(&[
                mark,
                ("attached-mac", port.mac.map(|mac| mac.to_string())),
                ("iface-id", Some(port.interface_id.to_string())),
                // There is one interface for an iface-id on a host, and so it is the one in use.
                ("iface-status", Some("active".to_owned())),
                ("port-profile", port.profile_id.clone()),
                ("vm-id", port.guest.map(|guest| guest.to_string())),
            ]),
            vlan: port.vlan.as_ref().map(VlanColumns::of).unwrap_or_default(),
            policing: bandwidth.outbound.map(Policing::of).unwrap_or_default(),
            shaping: bandwidth.inbound.map(Shaping::of).unwrap_or_default(),
        }
    }

    /// The NIC that the port is marked with.
    pub fn nic(&self) -> Option<Uuid> {
        Uuid::try_parse(self.port_ids.get(NIC)?).ok()
    }

    /// The index of the link that the port was made for.
    pub fn link(&self) -> Option<Index> {
        self.port_ids.get(LINK)?.parse().ok().map(Index)
    }

    /// `iface-id`.
    pub fn interface_id(&self) -> Option<&str> {
        self.interface_ids.get("iface-id").map(String::as_str)
    }
}

impl VlanColumns {
    fn of(vlan: &Vlan) -> Self {
        let ids = || vlan.tags.iter().map(|tag| i64::from(tag.id));
        let native = vlan.tags.iter().find_map(|tag| Some((tag.id, tag.native?)));
        match (native, vlan.tags.as_slice()) {
            // The native VLAN is listed, too: an empty list would stand for all.
            (Some((id, native)), _) => {
                let mode = match native {
                    NativeMode::Tagged => "native-tagged",
                    NativeMode::Untagged => "native-untagged",
                };
                Self { mode: Some(mode.to_owned()), tag: Some(id.into()), trunks: ids().collect() }
            }
            (None, []) => Self::default(),
            (None, [tag]) if vlan.trunk != Some(true) => {
                Self { mode: Some("access".to_owned()), tag: Some(tag.id.into()), trunks: BTreeSet::new() }
            }
            (None, _) => Self { mode: Some("trunk".to_owned()), tag: None, trunks: ids().collect() },
        }
    }
}

impl fmt::Display for VlanColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = || self.trunks.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        // What follows from the others goes without saying.
        let plain = match (self.tag, self.trunks.is_empty()) {
            (Some(_), true) => "access",
            (None, false) => "trunk",
            _ => "",
        };
        let mode = self.mode.as_ref().filter(|mode| *mode != plain).map(|mode| format!("vlan_mode={mode}"));
        let tag = self.tag.map(|tag| format!("tag={tag}"));
        let trunks = (!self.trunks.is_empty()).then(|| format!("trunks={}", list()));
        let columns: Vec<String> = mode.into_iter().chain(tag).chain(trunks).collect();
        f.write_str(if columns.is_empty() { "no VLAN of its own" } else { "" })?;
        f.write_str(&columns.join(" "))
    }
}

impl Policing {
    fn of(rate: Rate) -> Self {
        // ovs-vswitchd takes 32 bits of either.
        let thousands = |kib: u64| i64::from(u32::try_from(bits(kib).div_ceil(1000)).unwrap_or(u32::MAX));
        let Some(average) = rate.average else { return Self::default() };
        Self { rate: thousands(average), burst: rate.burst.map_or(0, thousands) }
    }
}

impl Shaping {
    fn of(rate: Rate) -> Self {
        let Some(average) = rate.average else { return Self::None };
        let most = |kib| bits(kib).min(HTB_MOST);
        Self::Limit(Limit { rate: most(average), burst: rate.burst.map(most) })
    }
}

impl Limit {
    /// `type` and `other_config` of the QoS, `other_config` of its Queue 0.
    ///
    /// The QoS's own rate is the average too: the queue may borrow from it, and would go on at more for ever.
    pub fn columns(self) -> (&'static str, BTreeMap<String, String>, BTreeMap<String, String>) {
        let entry = |key: &str, value: u64| (key.to_owned(), value.to_string());
        let qos = BTreeMap::from([entry("max-rate", self.rate)]);
        let mut queue = BTreeMap::from([entry("min-rate", self.rate), entry("max-rate", self.rate)]);
        queue.extend(self.burst.map(|burst| entry("burst", burst)));
        (HTB, qos, queue)
    }
}

/// Of KiB.
fn bits(kib: u64) -> u64 {
    kib.saturating_mul(8 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VlanTag;

    fn columns(trunk: Option<bool>, tags: &[(u16, Option<NativeMode>)]) -> (Option<String>, Option<i64>, Vec<i64>) {
        let tags = tags.iter().map(|(id, native)| VlanTag { id: *id, native: *native }).collect();
        let columns = VlanColumns::of(&Vlan { trunk, tags });
        (columns.mode, columns.tag, columns.trunks.into_iter().collect())
    }

    #[test]
    fn vlans_are_an_access_port_a_trunk_or_a_native_one() {
        let mode = |mode: &str| Some(mode.to_owned());
        assert_eq!(columns(None, &[(5, None)]), (mode("access"), Some(5), vec![]));
        assert_eq!(columns(Some(true), &[(5, None)]), (mode("trunk"), None, vec![5]));
        assert_eq!(columns(None, &[(7, None), (5, None)]), (mode("trunk"), None, vec![5, 7]));
        let tagged = [(7, None), (5, Some(NativeMode::Tagged))];
        assert_eq!(columns(Some(true), &tagged), (mode("native-tagged"), Some(5), vec![5, 7]));
        let untagged = [(5, Some(NativeMode::Untagged))];
        assert_eq!(columns(None, &untagged), (mode("native-untagged"), Some(5), vec![5]));
    }

    #[test]
    fn bandwidth_is_counted_in_bits_and_has_an_end() {
        let rate = |average, burst| Rate { average, burst, peak: Some(1), floor: Some(1) };
        assert_eq!(Policing::of(rate(Some(1000), Some(100))), Policing { rate: 8192, burst: 820 });
        assert_eq!(Policing::of(rate(None, None)), Policing::default());
        assert_eq!(Policing::of(rate(Some(u64::MAX), None)).rate, i64::from(u32::MAX));
        let limit = |rate, burst| Shaping::Limit(Limit { rate, burst });
        assert_eq!(Shaping::of(rate(Some(1000), Some(100))), limit(8_192_000, Some(819_200)));
        assert_eq!(Shaping::of(rate(None, Some(5))), Shaping::None);
        assert_eq!(Shaping::of(rate(Some(u64::MAX), None)), limit(34_359_738_360, None));
    }
}
