//! Rates: what `<bandwidth>` comes down to at a link, in the kernel's terms.
//!
//! Frames that leave a link wait in the classes of a token bucket of ours (`htb`) at its root. What comes in can't wait: it
//! is dropped above the rate (`police`) where the kernel has that, else it waits at the link that it leaves by.
//!
//! | what | towards the guest | from the guest |
//! |---|---|---|
//! | a NIC in a bridge | htb at the tap | police at the tap, else htb at an ifb that it is handed to first |
//! | a NIC on a device | htb at the tap | police at the tap, else htb at the macvlan |
//! | a NIC that is a macvtap | police at the macvtap, else htb at an ifb | htb at the macvtap |
//! | a network's own bridge | htb at the bridge | police at the bridge, else htb at an ifb |
//!
//! A port's tap, which libvirt's driver makes, has them as a NIC in a bridge, where they are ours to see to.
//!
//! libvirt's documents say what the numbers mean: `average` in the long run; `burst` may go at once, at `peak` at most.

use super::mark::{Mark, MarkKind};
use super::observed::Observed;
use crate::intent::{Intent, NicIntent};
use crate::model::{ActualType, Bandwidth, LinkName, MacAddr, Network, Rate, VirtualPortType};
use std::collections::BTreeMap;
use uuid::Uuid;

/// libvirt counts in units of 1024 bytes.
const UNIT: u64 = 1024;
/// The longest frame that a guest with offloads sends, in bytes: 64 KiB behind an Ethernet header with two VLAN tags.
const LONGEST: u64 = 65_536 + 22;
/// The least burst that we give by ourselves, in bytes.
const LEAST: u64 = 16 * 1024;

/// A class that everything belongs to that belongs to no other: the only one of a NIC, and the first of a bridge, from
/// which all others borrow.
pub const FIRST: u16 = 1;
/// On a bridge, the class of all that nothing is promised to.
pub const OTHERS: u16 = 2;
/// The classes of those that something is promised to: so many have filters of their own, by which the kernel knows them.
pub const PROMISED: std::ops::RangeInclusive<u16> = 3..=0xfff;

/// A token bucket, in bytes and bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What may leave in the long run.
    pub rate: u64,
    /// What may leave at most, with what is borrowed and for as long as the burst lasts; at least `rate`.
    pub ceil: u64,
    /// What may leave at once at the rate.
    pub burst: u64,
    /// What may leave at once at `ceil`.
    pub cburst: u64,
}

impl Limit {
    fn new(rate: u64, ceil: u64, burst: Option<u64>, cburst: Option<u64>) -> Self {
        let ceil = ceil.max(rate);
        let burst = kept(burst.unwrap_or_else(|| own_burst(rate)), rate);
        let cburst = kept(cburst.unwrap_or_else(|| own_burst(ceil)), ceil);
        Self { rate, ceil, burst, cburst }
    }

    /// Of one direction; `None` when it limits nothing. Without a peak nothing but the burst's size bounds its speed.
    pub fn of(rate: &Rate) -> Option<Self> {
        let bytes = |kib: u64| kib.saturating_mul(UNIT);
        let average = bytes(rate.average?);
        let burst = rate.burst.map(bytes);
        Some(match rate.peak {
            Some(peak) => Self::new(average, bytes(peak), burst, None),
            None => Self::new(average, average, burst, burst),
        })
    }
}

/// A hundredth of a second's worth, so that timers keep up.
fn own_burst(rate: u64) -> u64 {
    (rate / 100).max(LEAST)
}

/// What the kernel keeps of a burst: it counts the time that this takes at its rate, in up to 2^32 ticks of 64 ns
/// (`PSCHED_SHIFT` in `include/net/pkt_sched.h`), rounded up. What is wanted is compared with what is read back.
fn kept(burst: u64, rate: u64) -> u64 {
    const TICK: u128 = 64;
    const SECOND: u128 = 1_000_000_000;
    let rate = u128::from(rate.max(1));
    let ticks = (u128::from(burst) * SECOND).div_ceil(rate * TICK).min(u128::from(u32::MAX));
    u64::try_from(ticks * TICK * rate / SECOND).unwrap_or(u64::MAX)
}

/// A limit by dropping, in bytes and bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Police {
    /// What may come in the long run; not 0, which would be no limit.
    pub rate: u64,
    /// What may come at once. A longer frame never passes.
    pub burst: u64,
}

impl Police {
    /// Of one direction. Dropping hurts more than waiting, so that a second's worth may come at once, as with libvirt,
    /// if nothing else is said; `peak` has no meaning.
    pub fn of(rate: &Rate) -> Option<Self> {
        let average = rate.average?;
        let burst = rate.burst.unwrap_or(average).saturating_mul(UNIT).max(LONGEST);
        let rate = average.saturating_mul(UNIT);
        Some(Self { rate, burst: kept(burst, rate) })
    }
}

/// A class of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The number of the class that it borrows from; none borrow from nobody.
    pub parent: Option<u16>,
    /// How fast.
    pub limit: Limit,
    /// Whose frames belong to it, by their Ethernet destination. One without is for the rest, or for others to borrow from.
    pub destination: Option<MacAddr>,
    /// Whether frames wait in it, in a queue of ours; not where others borrow from it.
    pub queue: bool,
}

/// The classes of a token bucket at a link's root, by number; empty: none of ours is there.
pub type Classes = BTreeMap<u16, Class>;

/// The class for frames that no other one is for.
pub fn class_of_the_rest(classes: &Classes) -> u16 {
    let rest = classes.iter().find(|(_, class)| class.queue && class.destination.is_none());
    rest.map_or(0, |(number, _)| *number)
}

fn one_class(limit: Limit) -> Classes {
    Classes::from([(FIRST, Class { parent: None, limit, destination: None, queue: true })])
}

/// What of ours limits a link, as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// What leaves it.
    pub classes: Classes,
    /// What comes in at it.
    pub police: Option<Police>,
    /// Whether somebody else limits it. That is read of links that others made, where it is theirs to do so.
    pub others: bool,
}

/// What this kernel can do about rates, found out by trying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShapingSupport {
    /// Whether it drops what comes in above a rate (`act_police`).
    pub police: bool,
}

/// How what comes in at a link is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Incoming {
    /// It is not.
    #[default]
    Free,
    /// What is too much is dropped at once.
    Police(Police),
    /// It waits at the link that it leaves by.
    Queue(Limit),
}

impl Incoming {
    fn of(rate: Option<Rate>, support: ShapingSupport) -> Self {
        let limit = rate.filter(|r| r.average.is_some());
        let police = limit.and_then(|r| Police::of(&r)).map(Self::Police).filter(|_| support.police);
        police.or_else(|| Limit::of(&limit?).map(Self::Queue)).unwrap_or_default()
    }

    /// The limit by dropping.
    pub const fn police(&self) -> Option<Police> {
        match self {
            Self::Police(police) => Some(*police),
            _ => None,
        }
    }

    /// The classes of the link that it leaves by.
    pub fn classes(&self) -> Classes {
        match self {
            Self::Queue(limit) => one_class(*limit),
            _ => Classes::new(),
        }
    }
}

/// The limits at a link, in the directions that it sees. What leaves a tap or bridge is for guests, and what comes in is
/// from them. Of a macvtap it is the other way round: the guest's end is inside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// What leaves it.
    pub classes: Classes,
    /// What comes in at it.
    pub incoming: Incoming,
}

/// The rates of what leaves a link and of what comes in at it.
#[derive(Clone, Copy, Debug, Default)]
struct AtLink {
    leaves: Option<Rate>,
    comes_in: Option<Rate>,
}

impl AtLink {
    /// Of a NIC's tap or macvtap.
    fn of_nic(nic: &NicIntent, Bandwidth { inbound, outbound }: Bandwidth) -> Self {
        match nic.is_macvtap() {
            true => Self { leaves: outbound, comes_in: inbound },
            false => Self { leaves: inbound, comes_in: outbound },
        }
    }

    fn limits(&self, support: ShapingSupport) -> Rates {
        Rates {
            classes: self.leaves.as_ref().and_then(Limit::of).map(one_class).unwrap_or_default(),
            incoming: Incoming::of(self.comes_in, support),
        }
    }
}

/// Whether a NIC's rates, or those of its network's portgroups, may ask for anything of the kernel.
fn may_be_limited(nic: &NicIntent, network: Option<&Network>) -> bool {
    nic.nic.bandwidth.is_some() || network.is_some_and(|n| n.portgroups.iter().any(|p| p.bandwidth.is_some()))
}

fn merged(intent: &Intent, nic: &NicIntent) -> Option<Bandwidth> {
    if !may_be_limited(nic, intent.active_network_of(nic)) {
        return None;
    }
    let merged = super::desired::merged(intent, nic).ok()?;
    // Open vSwitch limits its ports by itself.
    let kind = merged.virtualport.as_ref().and_then(|v| v.kind);
    merged.bandwidth.filter(|_| kind != Some(VirtualPortType::OpenVSwitch))
}

/// The limits at a NIC's tap or macvtap.
pub fn of_nic(intent: &Intent, observed: &Observed, nic: &NicIntent) -> Rates {
    let Some(bandwidth) = merged(intent, nic) else { return Rates::default() };
    AtLink::of_nic(nic, bandwidth).limits(observed.shaping.unwrap_or_default())
}

/// Whether the rates of a port may be ours to see to: its guest's link is a tap in a bridge of the kernel's.
pub fn at_ports_tap(intent: &Intent, port: &NicIntent) -> bool {
    let kind = || super::desired::merged(intent, port).ok()?.virtualport?.kind;
    port.is_port() && port.allocation.is_none() && kind() != Some(VirtualPortType::OpenVSwitch)
}

/// What a NIC is promised, in KiB a second, by an active network's own bridge.
pub fn floor(intent: &Intent, nic: &NicIntent) -> Option<u64> {
    nic.nic.bandwidth.as_ref()?.inbound?.floor?;
    let network = intent.active_network_of(nic)?;
    let virtual_network = ActualType::of_nic(&nic.nic, Some(network)) == ActualType::Network;
    merged(intent, nic)?.inbound?.floor.filter(|_| virtual_network)
}

/// The limits at a network's own bridge.
pub fn of_network(intent: &Intent, observed: &Observed, uuid: Uuid) -> Rates {
    let active = intent.network(uuid).and_then(|n| n.active.as_ref()).filter(|n| n.forward.mode.has_own_bridge());
    let Some(Bandwidth { inbound, outbound }) = active.and_then(|n| n.bandwidth.as_ref()) else {
        return Rates::default();
    };
    let whole = inbound.as_ref().and_then(Limit::of);
    Rates {
        classes: whole.map(|whole| bridge_classes(intent, uuid, whole)).unwrap_or_default(),
        incoming: Incoming::of(*outbound, observed.shaping.unwrap_or_default()),
    }
}

/// What is promised has a class for each; the rest has what is left over, so that all of them together are never
/// promised more than the bridge may send; and whoever needs more borrows what nobody uses.
fn bridge_classes(intent: &Intent, uuid: Uuid, whole: Limit) -> Classes {
    let mut classes = Classes::new();
    let mut left = whole.rate;
    for nic in intent.nics_of(uuid).filter(|nic| nic.class.is_some()) {
        let (Some(number), Some(mac), Some(floor)) = (nic.class, nic.nic.mac, floor(intent, nic)) else { continue };
        let rate = floor.saturating_mul(UNIT);
        left = left.saturating_sub(rate);
        let limit = Limit::new(rate, whole.ceil, None, None);
        classes.insert(number, Class { parent: Some(FIRST), limit, destination: Some(mac), queue: true });
    }
    // The kernel knows no rate of 0.
    let rest = Limit::new(left.max(1), whole.ceil, None, None);
    classes.insert(FIRST, Class { parent: None, limit: whole, destination: None, queue: false });
    classes.insert(OTHERS, Class { parent: Some(FIRST), limit: rest, destination: None, queue: true });
    classes
}

/// Whether a NIC's rates depend on what the kernel can do.
pub fn nic_needs_support(intent: &Intent, nic: &NicIntent) -> bool {
    merged(intent, nic).is_some_and(|bandwidth| AtLink::of_nic(nic, bandwidth).comes_in.is_some())
}

/// Whether those of a network's bridge do.
pub fn network_needs_support(intent: &Intent, uuid: Uuid) -> bool {
    let active = intent.network(uuid).and_then(|n| n.active.as_ref());
    active.and_then(|n| n.bandwidth.as_ref()).is_some_and(|b| b.outbound.is_some())
}

/// An ifb to be made: a link that hands frames back to where they came from, once they have waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfbSpec {
    /// Its name.
    pub name: LinkName,
    /// Its mark.
    pub mark: Mark,
}

impl IfbSpec {
    /// That of a NIC or network. The name is made of the id, so that nobody has to remember it.
    pub fn of(instance: Uuid, kind: MarkKind, id: Uuid) -> Option<Self> {
        let bytes = id.as_bytes();
        let folded = (0..6).map(|n| bytes[n] ^ bytes[n + 6] ^ bytes.get(n + 12).copied().unwrap_or(0));
        let digits: String = folded.map(|byte| format!("{byte:02x}")).collect();
        let name = LinkName::new(format!("pci{digits}")).ok()?;
        Some(Self { name, mark: Mark { instance, kind, id } })
    }
}
