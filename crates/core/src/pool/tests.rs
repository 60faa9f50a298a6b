//! Tables of who gets what, and random histories against a pool that looks at everything each time.

use super::{Access, Device, Pool, Reason, Refusal, Unusable};
use crate::model::{LinkName, PciAddress};
use Access::{Exclusive, Shared};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use uuid::Uuid;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn eth(n: usize) -> Device {
    Device::Link(LinkName::new(format!("eth{n}")).unwrap())
}

fn vf(function: u8) -> Device {
    Device::Pci(PciAddress { domain: 0, bus: 3, slot: 0x10, function })
}

/// Networks' lists; holders have other ids.
const RED: Uuid = Uuid::from_u128(1001);
const BLUE: Uuid = Uuid::from_u128(1002);

impl Pool {
    /// Chooses, and holds what was chosen.
    fn allocate(
        &mut self,
        list: Uuid,
        holder: Uuid,
        access: Access,
        usable: impl Fn(&Device) -> Result<(), Unusable>,
    ) -> Result<Device, Refusal> {
        let device = self.choose(list, holder, access, usable)?;
        self.hold(holder, &device, access);
        Ok(device)
    }

    /// Holds this very device, if that may be.
    fn take(&mut self, holder: Uuid, device: &Device, access: Access) -> Result<(), Refusal> {
        self.may_take(holder, device, access, anything)?;
        self.hold(holder, device, access);
        Ok(())
    }
}

fn anything(_: &Device) -> Result<(), Unusable> {
    Ok(())
}

fn pool(red: &[Device], blue: &[Device]) -> Pool {
    let mut pool = Pool::default();
    pool.register(RED, red.iter().cloned());
    pool.register(BLUE, blue.iter().cloned());
    pool
}

fn told(refusal: Refusal) -> String {
    let error = refusal.into_error("NIC of guest 'web'", |holder| format!("NIC {}", holder.as_u128()));
    format!("{:?}: {error}", error.kind)
}

#[test]
fn shared_devices_fill_evenly_and_in_order() {
    let mut pool = pool(&[eth(2), eth(0), eth(1)], &[]);
    let got: Vec<_> = (0..7).map(|n| pool.allocate(RED, id(n), Shared, anything).unwrap()).collect();
    assert_eq!(got, [2, 0, 1, 2, 0, 1, 2].map(eth));
    // The one that was left is the next.
    pool.release(id(1));
    assert_eq!(pool.allocate(RED, id(8), Shared, anything), Ok(eth(0)));
}

#[test]
fn loads_are_those_of_the_whole_host() {
    let mut pool = pool(&[eth(0), eth(1)], &[eth(0), eth(2)]);
    pool.take(id(1), &eth(0), Shared).unwrap();
    assert_eq!(pool.allocate(RED, id(2), Shared, anything), Ok(eth(1)));
    assert_eq!(pool.allocate(BLUE, id(3), Shared, anything), Ok(eth(2)));
    assert_eq!(pool.allocate(RED, id(4), Shared, anything), Ok(eth(0)));
    // Two hold eth0 now, one of them from no list, one from RED.
    assert_eq!(pool.allocate(BLUE, id(5), Shared, anything), Ok(eth(2)));
}

#[test]
fn exclusive_devices_are_nobody_elses_across_networks() {
    let mut pool = pool(&[eth(0), eth(1)], &[eth(1), eth(0), vf(1)]);
    assert_eq!(pool.allocate(RED, id(1), Exclusive, anything), Ok(eth(0)));
    assert_eq!(pool.allocate(BLUE, id(2), Shared, anything), Ok(eth(1)));
    let mut all = String::new();
    // One is held exclusively, the other shared: neither can be had exclusively, and the first not at all.
    writeln!(all, "{}", told(pool.allocate(RED, id(3), Exclusive, anything).unwrap_err())).unwrap();
    assert_eq!(pool.allocate(RED, id(3), Shared, anything), Ok(eth(1)));
    assert_eq!(pool.allocate(BLUE, id(4), Exclusive, anything), Ok(vf(1)));
    writeln!(all, "{}", told(pool.allocate(BLUE, id(5), Exclusive, anything).unwrap_err())).unwrap();
    writeln!(all, "{}", told(pool.take(id(6), &eth(0), Shared).unwrap_err())).unwrap();
    writeln!(all, "{}", told(pool.take(id(6), &eth(1), Exclusive).unwrap_err())).unwrap();
    insta::assert_snapshot!(all, @r#"
    InUse: NIC of guest 'web': no device is free: eth0 is held exclusively by NIC 1; eth1 is held by NIC 2; detach those who hold one of them, or list more
    InUse: NIC of guest 'web': no device is free: eth1 is held by NIC 2 and NIC 3; eth0 is held exclusively by NIC 1; 0000:03:10.1 is held exclusively by NIC 4; detach those who hold one of them, or list more
    InUse: NIC of guest 'web': eth0 is held exclusively by NIC 1; detach those who hold it, or use another
    InUse: NIC of guest 'web': eth1 is held by NIC 2 and NIC 3; detach those who hold it, or use another
    "#);
    pool.release(id(1));
    assert_eq!(pool.allocate(RED, id(5), Exclusive, anything), Ok(eth(0)));
}

#[test]
fn what_is_not_usable_is_passed_over() {
    let mut pool = pool(&[eth(0), eth(1), eth(2)], &[]);
    let only_last = |d: &Device| match d {
        d if *d == eth(0) => Err(Unusable::Absent),
        d if *d == eth(1) => Err(Unusable::NoCarrier),
        _ => Ok(()),
    };
    for access in [Shared, Exclusive] {
        assert_eq!(pool.allocate(RED, id(1), access, only_last), Ok(eth(2)));
        pool.release(id(1));
    }
    pool.allocate(RED, id(1), Exclusive, only_last).unwrap();
    let mut all = String::new();
    let empty = Uuid::from_u128(7);
    writeln!(all, "{}", told(pool.allocate(RED, id(2), Shared, only_last).unwrap_err())).unwrap();
    writeln!(all, "{}", told(pool.allocate(RED, id(2), Shared, |_| Err(Unusable::Absent)).unwrap_err())).unwrap();
    writeln!(all, "{}", told(pool.allocate(empty, id(2), Shared, anything).unwrap_err())).unwrap();
    insta::assert_snapshot!(all, @r#"
    InUse: NIC of guest 'web': no device is free: eth0 is not there; eth1 has no carrier; eth2 is held exclusively by NIC 1; detach those who hold one of them, or list more
    NoDevice: NIC of guest 'web': no device can be used: eth0 is not there; eth1 is not there; eth2 is not there; list other devices, or wait for one to come with startupPolicy='optional' on <source>
    NoDevice: NIC of guest 'web': no devices are listed; list some in the network's <forward>
    "#);
}

#[test]
fn what_others_use_is_in_use_and_what_is_out_of_order_is_not_there() {
    let pool = pool(&[eth(0), eth(1)], &[]);
    let link = || LinkName::new("eth9").unwrap();
    let mut all = String::new();
    for why in [
        Unusable::Absent,
        Unusable::NoCarrier,
        Unusable::NotRestored("no".into()),
        Unusable::NoFunction,
        Unusable::Loopback,
        Unusable::PortOf("br0".into()),
        Unusable::Carries("mv0".into()),
        Unusable::TakenBy("mv0".into()),
        Unusable::HostsOwn(link(), "192.0.2.1".parse().unwrap()),
        Unusable::Leaving,
        Unusable::LinkHeld(link()),
        Unusable::GivenAway("0000:03:10.1".parse().unwrap()),
    ] {
        // With another that is not there.
        let one = |d: &Device| Err(if *d == eth(1) { why.clone() } else { Unusable::Absent });
        let both = pool.choose(RED, id(1), Shared, one).unwrap_err();
        let alone = pool.may_take(id(1), &eth(1), Shared, one).unwrap_err();
        assert_eq!(both.is_absence(), matches!(why, Unusable::Absent | Unusable::NoCarrier));
        let [both, alone] = [both, alone].map(told);
        assert_eq!(both.split(':').next(), alone.split(':').next(), "{both}");
        if matches!(why, Unusable::PortOf(_)) {
            writeln!(all, "{both}").unwrap();
        }
        writeln!(all, "{alone}").unwrap();
    }
    insta::assert_snapshot!(all, @r#"
    NoDevice: NIC of guest 'web': no device can be used: eth1 is not there; list other devices, or wait for one to come with startupPolicy='optional' on <source>
    NoDevice: NIC of guest 'web': no device can be used: eth1 has no carrier; list other devices, or wait for one to come with startupPolicy='optional' on <source>
    NoDevice: NIC of guest 'web': no device can be used: eth1 could not be made what it was before its last guest, which is tried again: no; list other devices, or wait for one to come with startupPolicy='optional' on <source>
    NoDevice: NIC of guest 'web': no device can be used: eth1 is no virtual function of a device of this host's; list other devices, or wait for one to come with startupPolicy='optional' on <source>
    NoDevice: NIC of guest 'web': no device can be used: eth1 is the host's loopback, which leads nowhere; list other devices, or wait for one to come with startupPolicy='optional' on <source>
    InUse: NIC of guest 'web': no device is free: eth0 is not there; eth1 is a port of br0, which takes all its frames; free one of them on the host, or list more
    InUse: NIC of guest 'web': eth1 is a port of br0, which takes all its frames; free it on the host, or use another
    InUse: NIC of guest 'web': eth1 carries mv0, which is not ours, and is wanted exclusively; free it on the host, or use another
    InUse: NIC of guest 'web': eth1 is taken by mv0, which is not ours, in passthrough mode; free it on the host, or use another
    InUse: NIC of guest 'web': eth1 has the link eth9, on which the host has 192.0.2.1; free it on the host, or use another
    InUse: NIC of guest 'web': eth1 is being given back just now; detach those who hold it, or use another
    InUse: NIC of guest 'web': eth1 has the link eth9, which NICs sit on; detach those who hold it, or use another
    InUse: NIC of guest 'web': eth1 is the link of 0000:03:10.1, which a guest has; detach those who hold it, or use another
    "#);
}

#[test]
fn refusals_are_bounded() {
    let mut pool = pool(&(0..1000).map(eth).collect::<Vec<_>>(), &[]);
    for n in 0..10_000 {
        pool.allocate(RED, id(n), Shared, anything).unwrap();
    }
    let refusal = pool.allocate(RED, id(10_001), Exclusive, anything).unwrap_err();
    insta::assert_snapshot!(told(refusal), @r#"
    InUse: NIC of guest 'web': no device is free: eth0 is held by NIC 0, NIC 1000, NIC 2000, NIC 3000 and 6 more; eth1 is held by NIC 1, NIC 1001, NIC 2001, NIC 3001 and 6 more; eth2 is held by NIC 2, NIC 1002, NIC 2002, NIC 3002 and 6 more; eth3 is held by NIC 3, NIC 1003, NIC 2003, NIC 3003 and 6 more; eth4 is held by NIC 4, NIC 1004, NIC 2004, NIC 3004 and 6 more; eth5 is held by NIC 5, NIC 1005, NIC 2005, NIC 3005 and 6 more; eth6 is held by NIC 6, NIC 1006, NIC 2006, NIC 3006 and 6 more; eth7 is held by NIC 7, NIC 1007, NIC 2007, NIC 3007 and 6 more; and 992 more; detach those who hold one of them, or list more
    "#);
}

#[test]
fn whoever_holds_one_keeps_it() {
    let mut pool = pool(&[eth(0), eth(1)], &[eth(2)]);
    assert_eq!(pool.allocate(RED, id(1), Exclusive, anything), Ok(eth(0)));
    assert_eq!(pool.allocate(RED, id(2), Shared, anything), Ok(eth(1)));
    // Asking again, in whatever way, as long as nobody else has it; and giving back once is enough.
    for access in [Exclusive, Shared, Exclusive] {
        assert_eq!(pool.allocate(RED, id(1), access, anything), Ok(eth(0)));
    }
    assert_eq!(pool.take(id(1), &eth(0), Shared), Ok(()));
    assert_eq!(pool.allocate(RED, id(3), Shared, anything), Ok(eth(0)));
    assert!(pool.allocate(RED, id(1), Exclusive, anything).is_err());
    // A move: the old one is held until it is given back.
    assert_eq!(pool.allocate(BLUE, id(1), Exclusive, anything), Ok(eth(2)));
    assert_eq!(pool.held_by(id(1)).collect::<Vec<_>>(), [&eth(0), &eth(2)]);
    // Nor does a device that became unusable keep its holder.
    assert_eq!(
        pool.allocate(RED, id(2), Shared, |d| if *d == eth(1) { Err(Unusable::Absent) } else { Ok(()) }),
        Ok(eth(0))
    );
    pool.release(id(2));
    assert_eq!(pool.held_by(id(2)).next(), None);
}

#[test]
fn lists_come_and_go_and_holders_stay() {
    let mut pool = pool(&[eth(0), eth(0), eth(1)], &[eth(1)]);
    assert_eq!(pool.allocate(RED, id(1), Exclusive, anything), Ok(eth(0)));
    assert_eq!(pool.allocate(RED, id(2), Shared, anything), Ok(eth(1)));
    let usage = |pool: &Pool| {
        pool.usage().fold(String::new(), |mut all, u| {
            let ids = |ids: &[Uuid]| ids.iter().map(|i| i.as_u128().to_string()).collect::<Vec<_>>().join(",");
            writeln!(all, "{} lists={} holders={} {}", u.device, ids(&u.lists), ids(&u.holders), u.exclusive).unwrap();
            all
        })
    };
    let mut all = usage(&pool);
    pool.unregister(RED);
    pool.register(BLUE, [eth(3), eth(1), vf(0)]);
    writeln!(all, "--\n{}--", usage(&pool)).unwrap();
    pool.release(id(1));
    pool.register(RED, [eth(1), eth(0)]);
    all += &usage(&pool);
    insta::assert_snapshot!(all, @r#"
    eth0 lists=1001 holders=1 true
    eth1 lists=1001,1002 holders=2 false
    --
    eth0 lists= holders=1 true
    eth1 lists=1002 holders=2 false
    eth3 lists=1002 holders= false
    0000:03:10.0 lists=1002 holders= false
    --
    eth0 lists=1001 holders= false
    eth1 lists=1001,1002 holders=2 false
    eth3 lists=1002 holders= false
    0000:03:10.0 lists=1002 holders= false
    "#);
    // eth1 has a holder, that is known to the new list too.
    assert_eq!(pool.allocate(RED, id(3), Exclusive, anything), Ok(eth(0)));
    pool.release(id(2));
    pool.release(id(3));
    pool.unregister(RED);
    pool.unregister(BLUE);
    assert_eq!(pool, Pool::default());
}

#[test]
fn nothing_leaks() {
    let mut pool = pool(&(0..50).map(eth).collect::<Vec<_>>(), &(25..75).map(eth).collect::<Vec<_>>());
    let before = pool.clone();
    for n in 0..10_000 {
        let list = if n % 3 == 0 { RED } else { BLUE };
        let access = if n % 2 == 0 { Shared } else { Exclusive };
        pool.allocate(list, id(n), access, anything).unwrap();
        // Some thirty are held at any time.
        pool.release(id(n.wrapping_sub(30)));
    }
    for n in 9_000..10_000 {
        pool.release(id(n));
    }
    assert_eq!(pool.usage().filter(|u| u.exclusive || !u.holders.is_empty()).count(), 0);
    assert_eq!(pool, before);
}

/// However loads change elsewhere, one look finds the next device of a long list.
#[test]
fn giving_out_looks_at_one_device() {
    let all: Vec<_> = (0..1000).map(eth).collect();
    let mut pool = pool(&all, &all);
    let looks = Cell::new(0);
    let count = |_: &Device| {
        looks.set(looks.get() + 1);
        Ok(())
    };
    for n in 0..4000 {
        pool.take(id(n), &eth((n * 7 % 1000) as usize), Shared).unwrap();
        pool.allocate(RED, id(10_000 + n), Shared, count).unwrap();
    }
    assert_eq!(looks.get(), 4000);
    for n in 0..4000 {
        pool.release(id(n));
        pool.release(id(10_000 + n));
    }
    (0..1000).for_each(|n| drop(pool.allocate(RED, id(n), Exclusive, count).unwrap()));
    assert_eq!(looks.get(), 5000);
}

// Random histories.

/// The same rules, without an index: every question looks at everything.
#[derive(Default)]
struct Naive {
    lists: Vec<(Uuid, Vec<Device>)>,
    held: Vec<(Device, Uuid)>,
    exclusive: BTreeSet<Device>,
}

impl Naive {
    fn list(&self, list: Uuid) -> Vec<Device> {
        self.lists.iter().find(|(id, _)| *id == list).map(|(_, d)| d.clone()).unwrap_or_default()
    }

    fn holders(&self, device: &Device) -> Vec<Uuid> {
        let mut holders: Vec<_> = self.held.iter().filter(|(d, _)| d == device).map(|(_, h)| *h).collect();
        holders.sort();
        holders
    }

    fn fits(&self, device: &Device, holder: Uuid, access: Access) -> bool {
        let holders = self.holders(device);
        if holders.iter().all(|h| *h == holder) {
            return true;
        }
        match (access, self.exclusive.contains(device)) {
            (Shared, exclusive) => !exclusive,
            (Exclusive, exclusive) => exclusive && holders.contains(&holder),
        }
    }

    fn hold(&mut self, device: &Device, holder: Uuid, exclusive: bool) {
        if !self.holders(device).contains(&holder) {
            self.held.push((device.clone(), holder));
        }
        self.exclusive.remove(device);
        if exclusive {
            self.exclusive.insert(device.clone());
        }
    }

    fn choose(&self, list: Uuid, holder: Uuid, access: Access, absent: &BTreeSet<Device>) -> Option<Device> {
        let devices: Vec<_> = self.list(list).into_iter().filter(|d| !absent.contains(d)).collect();
        let devices: Vec<_> = devices.into_iter().filter(|d| self.fits(d, holder, access)).collect();
        let own = devices.iter().find(|d| self.holders(d).contains(&holder));
        // `min_by_key` gives the first of several.
        own.or_else(|| devices.iter().min_by_key(|d| self.holders(d).len())).cloned()
    }

    fn release(&mut self, holder: Uuid, device: Option<&Device>) {
        self.held.retain(|(d, h)| *h != holder || device.is_some_and(|only| only != d));
        let held = &self.held;
        self.exclusive.retain(|d| held.iter().any(|(h, _)| h == d));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Register(u128, Vec<usize>),
    Unregister(u128),
    Allocate(u128, u128, bool),
    Take(u128, usize, bool),
    Release(u128),
    /// Comes or goes.
    Toggle(usize),
}

const DEVICES: usize = 6;

fn device(n: usize) -> Device {
    if n.is_multiple_of(2) { eth(n) } else { vf(n as u8) }
}

fn op() -> impl Strategy<Value = Op> {
    let list = || 1000u128..1003;
    let holder = || 0u128..8;
    let places = proptest::collection::vec(0..DEVICES, 0..2 * DEVICES);
    prop_oneof![
        2 => (list(), places).prop_map(|(l, d)| Op::Register(l, d)),
        1 => list().prop_map(Op::Unregister),
        12 => (list(), holder(), any::<bool>()).prop_map(|(l, h, x)| Op::Allocate(l, h, x)),
        3 => (holder(), 0..DEVICES, any::<bool>()).prop_map(|(h, d, x)| Op::Take(h, d, x)),
        5 => holder().prop_map(Op::Release),
        2 => (0..DEVICES).prop_map(Op::Toggle),
    ]
}

const fn access(exclusive: bool) -> Access {
    if exclusive { Exclusive } else { Shared }
}

/// Each device of a refusal must be one that can't be had, with those who hold it.
fn check_refusal(naive: &Naive, refusal: &Refusal, devices: &[Device], holder: Uuid, absent: &BTreeSet<Device>) {
    let named: Vec<_> = refusal.reasons.iter().map(|(d, _)| d.clone()).collect();
    assert_eq!(named, devices, "each device of the list, in order");
    for (device, reason) in &refusal.reasons {
        match reason {
            Reason::Unusable(Unusable::Absent) => assert!(absent.contains(device), "{device}"),
            Reason::Held { holders, more, exclusive } => {
                let others: Vec<_> = naive.holders(device).into_iter().filter(|h| *h != holder).collect();
                assert_eq!(*holders, others[..others.len().min(4)]);
                assert_eq!((*more, *exclusive), (others.len().saturating_sub(4), naive.exclusive.contains(device)));
                assert!(!others.is_empty(), "{device} is free");
            }
            other => panic!("{device}: {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_a_pool_without_an_index_does(ops in proptest::collection::vec(op(), 1..80)) {
        let (mut pool, mut naive, mut absent) = (Pool::default(), Naive::default(), BTreeSet::new());
        for op in ops {
            match op {
                Op::Register(list, places) => {
                    let mut devices = Vec::new();
                    for n in places {
                        if !devices.contains(&device(n)) {
                            devices.push(device(n));
                        }
                    }
                    pool.register(id(list), devices.clone());
                    naive.lists.retain(|(l, _)| *l != id(list));
                    naive.lists.push((id(list), devices));
                }
                Op::Unregister(list) => {
                    pool.unregister(id(list));
                    naive.lists.retain(|(l, _)| *l != id(list));
                }
                Op::Allocate(list, holder, exclusive) => {
                    let usable = |d: &Device| if absent.contains(d) { Err(Unusable::Absent) } else { Ok(()) };
                    let got = pool.allocate(id(list), id(holder), access(exclusive), usable);
                    let want = naive.choose(id(list), id(holder), access(exclusive), &absent);
                    if let Err(refusal) = &got {
                        check_refusal(&naive, refusal, &naive.list(id(list)), id(holder), &absent);
                    }
                    prop_assert_eq!(got.ok(), want.clone());
                    want.iter().for_each(|d| naive.hold(d, id(holder), exclusive));
                }
                Op::Take(holder, n, exclusive) => {
                    let got = pool.take(id(holder), &device(n), access(exclusive));
                    let fits = naive.fits(&device(n), id(holder), access(exclusive));
                    if let Err(refusal) = &got {
                        check_refusal(&naive, refusal, &[device(n)], id(holder), &BTreeSet::new());
                    }
                    prop_assert_eq!(got.is_ok(), fits);
                    if fits {
                        naive.hold(&device(n), id(holder), exclusive);
                    }
                }
                Op::Release(holder) => {
                    pool.release(id(holder));
                    naive.release(id(holder), None);
                }
                Op::Toggle(n) => {
                    if !absent.remove(&device(n)) {
                        absent.insert(device(n));
                    }
                }
            }
            let mut known: Vec<_> = (0..DEVICES).map(device).collect();
            known.sort();
            let want: Vec<_> = known
                .into_iter()
                .map(|d| {
                    let lists: BTreeSet<_> = naive.lists.iter().filter(|(_, l)| l.contains(&d)).map(|(id, _)| *id).collect();
                    (lists.into_iter().collect::<Vec<_>>(), naive.holders(&d), naive.exclusive.contains(&d), d)
                })
                .filter(|(lists, holders, ..)| !lists.is_empty() || !holders.is_empty())
                .collect();
            let got: Vec<_> =
                pool.usage().map(|u| (u.lists, u.holders, u.exclusive, u.device.clone())).collect();
            prop_assert_eq!(got, want);
        }
    }
}
