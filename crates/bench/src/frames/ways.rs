//! The ways to join a guest's descriptor to a device, each made on a veth pair of its own.

use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::Path;

use patchcord_netlink::tc::Redirect;
use patchcord_netlink::{BridgeSpec, LinkChange, MacvlanMode, MacvlanSpec, Request, Socket, VethSpec};
use patchcord_testkit::{Frames, Namespace, RedirectProgram, open_tap, send_on};
use rustix::net::netdevice::name_to_index;

use crate::Result;
use crate::raw::open_macvtap;

/// What is between the descriptor and the device.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// The kernel's own link of both.
    Macvtap,
    /// A tap and a macvlan, redirected to each other.
    Cord(Hook, Queue),
    /// A tap and the device itself, redirected to each other.
    Straight(Hook, Queue),
    /// A tap and the device as ports of a bridge.
    Bridge,
}

/// What redirects the frames that come in at a link.
#[derive(Clone, Copy)]
pub(super) enum Hook {
    /// A filter at clsact, as what follows except the last.
    U32,
    /// A filter at the qdisc `ingress`, which has no place for filters on what goes out.
    Ingress,
    ClsBpf,
    Matchall,
    Tcx,
}

/// Whether the tap has a queueing discipline, as the kernel gives every tap one. Frames never wait in it: a tap takes
/// them at any time, and drops those for which its guest has no room.
#[derive(Clone, Copy)]
pub(super) enum Queue {
    Kept,
    Removed,
}

/// All of them; ratios are over the first.
pub(super) const WAYS: [Way; 15] = [
    Way::Macvtap,
    Way::Cord(Hook::U32, Queue::Kept),
    Way::Cord(Hook::U32, Queue::Removed),
    Way::Cord(Hook::Ingress, Queue::Kept),
    Way::Cord(Hook::Ingress, Queue::Removed),
    Way::Cord(Hook::ClsBpf, Queue::Kept),
    Way::Cord(Hook::Matchall, Queue::Kept),
    Way::Cord(Hook::Tcx, Queue::Kept),
    Way::Cord(Hook::Tcx, Queue::Removed),
    Way::Straight(Hook::U32, Queue::Kept),
    Way::Straight(Hook::Ingress, Queue::Removed),
    Way::Straight(Hook::ClsBpf, Queue::Kept),
    Way::Straight(Hook::Matchall, Queue::Kept),
    Way::Straight(Hook::Tcx, Queue::Kept),
    Way::Bridge,
];

impl Way {
    /// What it is called in a table.
    pub(super) fn label(self) -> String {
        let without = |queue| if matches!(queue, Queue::Removed) { ", no qdisc" } else { "" };
        match self {
            Self::Macvtap => "macvtap".to_owned(),
            Self::Cord(Hook::U32, Queue::Kept) => "**the cord: macvlan, u32**".to_owned(),
            Self::Cord(hook, queue) => format!("macvlan, {}{}", hook.name(), without(queue)),
            Self::Straight(hook, queue) => format!("no macvlan, {}{}", hook.name(), without(queue)),
            Self::Bridge => "a bridge".to_owned(),
        }
    }

    /// What the kernel needs for it that it may lack.
    pub(super) fn needs(self) -> &'static str {
        match self {
            Self::Macvtap => "macvtap",
            Self::Cord(hook, _) | Self::Straight(hook, _) => hook.name(),
            Self::Bridge => "bridge",
        }
    }
}

impl Hook {
    fn name(self) -> &'static str {
        match self {
            Self::U32 => "u32",
            Self::Ingress => "u32 at ingress",
            Self::ClsBpf => "cls_bpf",
            Self::Matchall => "matchall",
            Self::Tcx => "tcx",
        }
    }
}

/// A guest's descriptor and a wire, joined.
pub(super) struct Joined {
    /// The guest's descriptor.
    pub(super) guest: Frames,
    /// A socket that sends at the far end of the veth pair.
    pub(super) wire: OwnedFd,
    /// The name of that end.
    pub(super) far: String,
    /// The guest's address.
    pub(super) mac: [u8; 6],
    /// What ends the redirects when it is closed.
    _held: Vec<OwnedFd>,
}

/// Makes them, one after the other.
pub(super) struct Maker<'a> {
    pub(super) socket: Socket,
    pub(super) ns: &'a Namespace,
    /// A file system of type bpf.
    pub(super) programs: &'a Path,
    pub(super) made: u8,
}

impl Maker<'_> {
    /// Makes one; the kernel may lack what it takes.
    pub(super) fn join(&mut self, way: Way) -> Result<Joined> {
        self.made += 1;
        let n = self.made;
        let (near, far) = (format!("near{n}"), format!("far{n}"));
        let device = self.socket.make_veth(&VethSpec { name: near, peer: far.clone(), ..VethSpec::default() })?;
        let end = name_to_index(&self.socket, &far)?;
        for link in [device, end] {
            self.up(link)?;
        }
        let mac = [0x52, 0x54, 0, 3, 0, n];
        let mut held = Vec::new();
        let queue = match way {
            Way::Macvtap => {
                let link = self.macvlan(device, mac, true)?;
                let queue = open_macvtap(&format!("mac{n}"), link)?;
                self.up(link)?;
                queue
            }
            _ => {
                let queue = open_tap(&format!("tap{n}"))?;
                let tap = name_to_index(&self.socket, &format!("tap{n}"))?;
                if matches!(way, Way::Cord(_, Queue::Removed) | Way::Straight(_, Queue::Removed)) {
                    self.socket.execute(&Request::no_queue(tap))?;
                }
                self.up(tap)?;
                held = self.plug(way, tap, device, mac)?;
                queue
            }
        };
        let (guest, wire) = (Frames::new(queue)?, send_on(end)?);
        Ok(Joined { guest, wire, far, mac, _held: held })
    }

    fn plug(&mut self, way: Way, tap: u32, device: u32, mac: [u8; 6]) -> Result<Vec<OwnedFd>> {
        let (hook, to) = match way {
            Way::Cord(hook, _) => (hook, self.macvlan(device, mac, false)?),
            Way::Straight(hook, _) => (hook, device),
            Way::Bridge => {
                let name = format!("bridge{}", self.made);
                let bridge = self.socket.make_bridge(&BridgeSpec { name, up: true, ..BridgeSpec::default() })?;
                let port = LinkChange { controller: Some(Some(bridge)), ..LinkChange::default() };
                self.socket.set_link(tap, &port)?;
                self.socket.set_link(device, &port)?;
                return Ok(Vec::new());
            }
            Way::Macvtap => return Ok(Vec::new()),
        };
        let held = [self.redirect(hook, tap, to)?, self.redirect(hook, to, tap)?];
        if to != device {
            self.up(to)?;
        }
        Ok(held.into_iter().flatten().collect())
    }

    fn up(&mut self, link: u32) -> Result<()> {
        Ok(self.socket.set_link(link, &LinkChange { up: Some(true), ..LinkChange::default() })?)
    }

    fn macvlan(&mut self, device: u32, mac: [u8; 6], tap: bool) -> Result<u32> {
        Ok(self.socket.make_macvlan(&MacvlanSpec {
            name: format!("mac{}", self.made),
            lower: device,
            mode: MacvlanMode::Bridge,
            tap,
            mac: Some(mac),
            mtu: None,
            group: 0,
            alias: None,
        })?)
    }

    /// Has what comes in at one link go out by another.
    fn redirect(&mut self, hook: Hook, link: u32, to: u32) -> Result<Option<OwnedFd>> {
        match hook {
            Hook::Ingress => self.socket.execute(&Request::add_ingress(link))?,
            Hook::U32 | Hook::ClsBpf | Hook::Matchall => self.socket.add_clsact(link)?,
            Hook::Tcx => {}
        }
        // By number, as `ip` and `tc` take them where they know no name.
        let filter = |what: &str| format!("tc filter add dev if{link} ingress prio 1 protocol all {what}");
        match hook {
            Hook::U32 | Hook::Ingress => {
                self.socket.redirect(&Redirect { link, priority: NonZeroU16::MIN, to, cookie: [1; 16] })?;
            }
            Hook::ClsBpf => {
                let path = self.programs.join(format!("from{link}"));
                RedirectProgram::load(to)?.pin(&path)?;
                self.ns.try_run(&filter(&format!("bpf direct-action object-pinned {}", path.display())))?;
            }
            Hook::Matchall => {
                self.ns.try_run(&filter(&format!("matchall action mirred egress redirect dev if{to}")))?;
            }
            Hook::Tcx => return Ok(Some(RedirectProgram::load(to)?.attach_tcx(link)?)),
        }
        Ok(None)
    }
}
