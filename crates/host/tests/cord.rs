//! Cords that are taken out of use: nobody hears of their guests any more, however long the kernel takes to delete them.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use std::time::Duration;

use common::{INSTANCE, apply, exists, kernel, name, plan, tap};
use patchcord_core::model::{DirectMode, MacAddr};
use patchcord_core::plan::{Handover, Index, LinkChange, LinkRef, MacvlanSpec, Mark, MarkKind, Op, Plan};
use patchcord_host::kernel::Kernel;
use patchcord_host::observe;
use patchcord_netlink::Socket;
use patchcord_testkit::{Frames, Namespace, frame, in_namespace, open_tap, wait_until};
use uuid::Uuid;

const MODES: [DirectMode; 4] = [DirectMode::Vepa, DirectMode::Private, DirectMode::Bridge, DirectMode::Passthrough];
const SOON: Duration = Duration::from_secs(10);
const BROADCAST: [u8; 6] = [0xff; 6];
const OUTSIDE: [u8; 6] = [0x52, 0x54, 0, 0x99, 0, 2];
const NEAR: [u8; 6] = [0x52, 0x54, 0, 0x99, 0, 3];
const LAST: [u8; 6] = [0x52, 0x54, 0, 0x99, 0, 4];
const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 3, 1];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 3, 2];
/// The host's address on the device.
const HOST: [u8; 4] = [10, 9, 0, 7];

/// A device of the host's, with an address, and what passes outside of it.
fn device(ns: &Namespace) -> (Index, Frames) {
    let wire = Frames::new(open_tap("eth10").unwrap()).unwrap();
    ns.run("sysctl -qw net.ipv6.conf.eth10.disable_ipv6=1");
    ns.run("ip addr add 10.9.0.7/24 dev eth10");
    ns.run("ip link set eth10 up");
    let index = ns.json("ip -j link show dev eth10")[0]["ifindex"].as_u64().unwrap();
    (Index(u32::try_from(index).unwrap()), wire)
}

/// A cord that is in use.
struct Cord {
    tap: Index,
    macvlan: Index,
    guest: Frames,
}

fn macvlan(id: u128, lower: Index, mode: DirectMode, mac: [u8; 6]) -> MacvlanSpec {
    let mark = Mark { instance: INSTANCE, kind: MarkKind::Macvlan, id: Uuid::from_u128(id) };
    MacvlanSpec { name: name(&format!("pcm{id}")), mark, lower, mode, mac: MacAddr(mac), mtu: 1500 }
}

fn up() -> LinkChange {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

fn cord(kernel: &mut Kernel, id: u128, lower: Index, mode: DirectMode, mac: [u8; 6]) -> Cord {
    let [tap_end, far_end] = [LinkRef::MadeBy(0), LinkRef::MadeBy(1)];
    let applied = apply(
        kernel,
        &plan([
            Op::MakeTap(tap(&format!("pct{id}"), id, Handover::Descriptor)),
            Op::MakeMacvlan(macvlan(id, lower, mode, mac)),
            Op::Redirect(far_end, tap_end),
            Op::SetLink(far_end, up()),
            Op::Redirect(tap_end, far_end),
            Op::SetLink(tap_end, up()),
        ]),
    );
    let made = applied.outcome.made;
    let [(_, mut fds)] = <[_; 1]>::try_from(applied.taps).unwrap();
    Cord { tap: made[0].unwrap(), macvlan: made[1].unwrap(), guest: Frames::new(fds.remove(0)).unwrap() }
}

/// As the planner detaches a NIC.
fn detached(cord: &Cord) -> Plan {
    plan([Op::Doom(cord.tap), Op::Doom(cord.macvlan)])
}

/// As the planner takes a NIC off its device: its tap lives on.
fn moved(cord: &Cord) -> Plan {
    plan([Op::EndRedirect(LinkRef::Index(cord.tap)), Op::Doom(cord.macvlan)])
}

/// The question who has the host's address.
fn who_has(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let arp = [0, 1, 8, 0, 6, 4, 0, 1];
    let mut frame = [&to[..], &from, &[8, 6], &arp, &from, &[10, 9, 0, 99], &[0; 6], &HOST].concat();
    frame.resize(60, 0);
    frame
}

fn source(frame: &[u8]) -> [u8; 6] {
    frame[6..12].try_into().unwrap()
}

fn gone(ns: &Namespace, link: &str) {
    wait_until("the doomed link's end", SOON, || if exists(ns, link) { Err("it is there") } else { Ok(()) });
}

/// Sends what a guest, or the host in its place, might hear or answer, right after the guest's cord was taken out of use;
/// false if it was deleted before that was over.
fn nobody_hears(ns: &Namespace, mode: DirectMode, out_of_use: fn(&Cord) -> Plan) -> bool {
    let (lower, mut wire) = device(ns);
    let (mut kernel, mut socket) = (kernel(), Socket::open().unwrap());
    let mut doomed = cord(&mut kernel, 1, lower, mode, GUEST);
    let mut other = (mode != DirectMode::Passthrough).then(|| cord(&mut kernel, 2, lower, mode, OTHER));
    let hello = frame(GUEST, OUTSIDE, None, 60, 1);
    wire.send(&hello);
    assert!(doomed.guest.read_until(SOON, |seen| seen.contains(&hello)), "{mode:?}");
    drop((wire.take(), doomed.guest.take()));

    apply(&mut kernel, &out_of_use(&doomed));
    wire.send(&frame(GUEST, OUTSIDE, None, 60, 2));
    for (to, from) in [(GUEST, OUTSIDE), (BROADCAST, NEAR), (BROADCAST, GUEST)] {
        wire.send(&who_has(to, from));
    }
    // Its neighbours' frames for that address go outside, where it may be by now.
    let away = frame(GUEST, OTHER, None, 60, 3);
    if let Some(other) = &other {
        other.guest.send(&away);
    }
    let read = observe::read_link(&mut socket, doomed.macvlan).unwrap();
    if let Some(read) = &read {
        assert_eq!(kernel.observed().link(doomed.macvlan), Some(read));
    }
    gone(ns, &format!("pcdel{}", doomed.macvlan.0));
    // All that was sent before has been looked at when this is answered.
    wire.send(&who_has(BROADCAST, LAST));
    assert!(wire.read_until(SOON, |seen| seen.iter().any(|frame| frame.starts_with(&LAST))), "{mode:?}");
    let seen = wire.take();
    // A device in passthrough mode has its guest's address, with which the host answers broadcasts.
    let host_is = |frame: &[u8]| mode == DirectMode::Passthrough && !frame.starts_with(&OUTSIDE);
    let answers = seen.iter().filter(|frame| source(frame) == GUEST && !host_is(frame)).count();
    assert_eq!((answers, doomed.guest.take()), (0, Vec::new()), "{mode:?}: {seen:x?}");
    if let Some(other) = &mut other {
        assert!(seen.contains(&away), "{mode:?}: {seen:x?}");
        drop(other.guest.take());
    }
    read.is_some()
}

/// Until it was looked at before it was deleted.
fn nobody_ever_hears(mode: DirectMode, out_of_use: fn(&Cord) -> Plan) {
    let in_time = (0..20).any(|_| {
        let (done, told) = std::sync::mpsc::channel();
        in_namespace(move |ns| done.send(nobody_hears(ns, mode, out_of_use)).unwrap());
        told.recv().unwrap()
    });
    assert!(in_time, "{mode:?}: it was always deleted before it could be looked at");
}

#[test]
fn a_doomed_cord_hears_nobody_and_nobody_answers_for_it() {
    for mode in MODES {
        nobody_ever_hears(mode, detached);
    }
}

/// A guest that moves keeps its tap: what still comes by the old way is not to reach it there.
#[test]
fn nor_does_one_whose_tap_lives_on() {
    for mode in MODES {
        nobody_ever_hears(mode, moved);
    }
}

#[test]
fn who_comes_back_to_a_device_at_once_waits_for_nobodys_deletion() {
    in_namespace(|ns| {
        let (lower, wire) = device(ns);
        let mut kernel = kernel();
        let modes = MODES.into_iter().cycle().take(13);
        for (id, mode) in (1..).zip(modes.chain([DirectMode::Vepa; 6])) {
            let mut again = cord(&mut kernel, id, lower, mode, GUEST);
            let hello = frame(GUEST, OUTSIDE, None, 60, id as u32);
            wire.send(&hello);
            assert!(again.guest.read_until(SOON, |seen| seen.contains(&hello)), "{mode:?}");
            apply(&mut kernel, &detached(&again));
        }
        // Or takes on that address.
        let other = cord(&mut kernel, 100, lower, DirectMode::Vepa, OTHER);
        let to = LinkChange { mac: Some(MacAddr(GUEST)), ..LinkChange::default() };
        apply(&mut kernel, &plan([Op::SetLink(LinkRef::Index(other.macvlan), to)]));
    });
}
