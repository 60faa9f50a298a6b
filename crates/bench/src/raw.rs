//! The kernel's own cost: the objects of a plugged NIC made and taken away with nothing around them.

use std::fs;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use patchcord_netlink::tc::Redirect;
use patchcord_netlink::{BridgeSpec, LinkChange, MacvlanMode, MacvlanSpec, Request, Socket};
use patchcord_testkit::{keep_tap, open_node, open_tap};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::net::netdevice::name_to_index;

use crate::Result;
use crate::stats::timed;

/// Groups of this program's own links: those that live and those that are to be deleted.
const LIVE: u32 = 4711;
const DOOMED: u32 = 4712;
const PATIENCE: Duration = Duration::from_secs(30);

/// What NICs are plugged into, and a socket to work on it.
pub(crate) struct Raw {
    pub(crate) socket: Socket,
    pub(crate) place: Place,
    /// NICs so far.
    made: u32,
    /// Cords' other ends so far.
    ends: u32,
}

/// What a NIC is plugged into, by its index.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// A tap into a bridge.
    Bridge(u32),
    /// A tap on a device, by a cord: joined to a macvlan of its own in mode vepa.
    Cord(u32),
    /// A macvtap in mode vepa on a device.
    Macvtap(u32),
}

/// A NIC that was plugged in.
pub(crate) struct RawNic {
    /// The tap, or the macvtap.
    pub(crate) tap: u32,
    /// A cord's other end.
    pub(crate) macvlan: Option<u32>,
    pub(crate) queue: Option<OwnedFd>,
}

impl Raw {
    /// With a bridge of its own.
    pub(crate) fn new() -> Result<Self> {
        let mut raw = Self { socket: Socket::open()?, place: Place::Bridge(0), made: 0, ends: 0 };
        raw.place = Place::Bridge(raw.bridge("raw")?);
        Ok(raw)
    }

    /// Makes a bridge.
    pub(crate) fn bridge(&mut self, name: &str) -> Result<u32> {
        Ok(self.socket.make_bridge(&BridgeSpec {
            name: name.to_owned(),
            mac: Some([0x52, 0x54, 0, 0, 0, 1]),
            mtu: Some(1500),
            addr_gen_none: true,
            up: true,
            ..BridgeSpec::default()
        })?)
    }

    /// Makes and plugs in what the daemon makes and plugs in for a NIC: a tap with alias, group, MAC, MTU and without
    /// IPv6, into a bridge or by a cord, or a macvtap, up. By name a tap is made persistent and let go once it has all
    /// that, as one must that is not to be left behind without a mark, and a macvtap's node is not opened.
    pub(crate) fn attach(&mut self, by_name: bool) -> Result<(Duration, RawNic)> {
        timed(|| match self.place {
            Place::Bridge(bridge) => {
                let (tap, queue) = self.tap()?;
                self.settle_tap(tap)?;
                let queue = hand_over(queue, by_name)?;
                self.socket.set_link(tap, &LinkChange { controller: Some(Some(bridge)), ..up() })?;
                Ok(RawNic { tap, macvlan: None, queue })
            }
            Place::Cord(device) => {
                let (tap, queue) = self.tap()?;
                self.settle_tap(tap)?;
                let queue = hand_over(queue, by_name)?;
                let macvlan = self.far_end(tap, device)?;
                self.redirect(tap, macvlan)?;
                self.socket.set_link(tap, &up())?;
                Ok(RawNic { tap, macvlan: Some(macvlan), queue })
            }
            Place::Macvtap(device) => {
                let tap = self.macvlan(device, true)?;
                self.settle_macvlan(tap)?;
                let queue = (!by_name).then(|| open_macvtap(&self.name(), tap)).transpose()?;
                self.socket.set_link(tap, &up())?;
                Ok(RawNic { tap, macvlan: None, queue })
            }
        })
    }

    /// A new NIC's tap.
    pub(crate) fn tap(&mut self) -> Result<(u32, OwnedFd)> {
        self.made += 1;
        let queue = open_tap(&self.name())?;
        Ok((name_to_index(&self.socket, &self.name())?, queue))
    }

    fn name(&self) -> String {
        format!("raw{}", self.made)
    }

    fn alias(&self, kind: &str) -> String {
        format!("raw:00000000-0000-0000-0000-000000000000:{kind}:{:036}", self.made)
    }

    /// The last NIC's tap as it should be before it is plugged in.
    pub(crate) fn settle_tap(&mut self, tap: u32) -> Result<()> {
        no_ipv6(&self.name())?;
        let [.., a, b] = self.made.to_be_bytes();
        let marked = LinkChange {
            alias: Some(self.alias("tap")),
            group: Some(LIVE),
            mac: Some([0xfe, 0x54, 0, 1, a, b]),
            mtu: Some(1500),
            addr_gen_none: Some(true),
            ..LinkChange::default()
        };
        Ok(self.socket.set_link(tap, &marked)?)
    }

    /// A macvlan on a device, or a new NIC's macvtap.
    pub(crate) fn macvlan(&mut self, device: u32, tap: bool) -> Result<u32> {
        let made = if tap { &mut self.made } else { &mut self.ends };
        *made += 1;
        let [.., a, b] = made.to_be_bytes();
        Ok(self.socket.make_macvlan(&MacvlanSpec {
            name: if tap { self.name() } else { self.macvlan_name() },
            lower: device,
            mode: MacvlanMode::Vepa,
            tap,
            mac: Some([0x52, 0x54, 0, 2, a, b]),
            mtu: Some(1500),
            group: LIVE,
            alias: Some(self.alias("macvlan")),
        })?)
    }

    fn macvlan_name(&self) -> String {
        format!("rawm{}", self.ends)
    }

    /// The last NIC's macvlan or macvtap as it should be before it comes up.
    pub(crate) fn settle_macvlan(&mut self, macvlan: u32) -> Result<()> {
        let tap = matches!(self.place, Place::Macvtap(_));
        no_ipv6(&if tap { self.name() } else { self.macvlan_name() })?;
        let quiet = LinkChange { addr_gen_none: Some(true), all_multicast: Some(true), ..LinkChange::default() };
        Ok(self.socket.set_link(macvlan, &quiet)?)
    }

    /// A macvlan on a device, up, whose frames go to a tap.
    pub(crate) fn far_end(&mut self, tap: u32, device: u32) -> Result<u32> {
        let macvlan = self.macvlan(device, false)?;
        self.settle_macvlan(macvlan)?;
        self.redirect(macvlan, tap)?;
        self.socket.set_link(macvlan, &up())?;
        Ok(macvlan)
    }

    /// Has what comes in at a link without a place for filters go out by another.
    pub(crate) fn redirect(&mut self, link: u32, to: u32) -> Result<()> {
        self.all(&[Request::add_ingress(link), redirect(link, to)])
    }

    /// Requests that all succeed.
    pub(crate) fn all(&mut self, requests: &[Request]) -> Result<()> {
        Ok(self.socket.execute_all(requests)?.into_iter().collect::<std::result::Result<(), _>>()?)
    }

    /// Takes a NIC out of use as the daemon does, the deletion left for later, and says how long that took; then
    /// deletes it.
    pub(crate) fn detach(&mut self, nic: RawNic) -> Result<Duration> {
        let controller = matches!(self.place, Place::Bridge(_)).then_some(None);
        let (time, ()) = timed(|| {
            let mut requests = doom(nic.tap, controller);
            requests.extend(nic.macvlan.into_iter().flat_map(doom_macvlan));
            self.all(&requests)
        })?;
        for link in [Some(nic.tap), nic.macvlan].into_iter().flatten() {
            self.socket.delete_link(link)?;
        }
        Ok(time)
    }

    /// Deletes all NICs that were made and what was taken out of use.
    pub(crate) fn clear(&mut self) -> Result<()> {
        for group in [LIVE, DOOMED] {
            self.socket.delete_group(group)?;
        }
        Ok(())
    }

    /// The index of the link with that name.
    pub(crate) fn index_of(&mut self, name: &str) -> Result<u32> {
        Ok(self.socket.link_by_name(name)?.ok_or_else(|| format!("there is no link {name}"))?.index)
    }

    /// Waits until a link is gone from the kernel, and says how long that took.
    pub(crate) fn wait_gone(&mut self, index: u32) -> Result<Duration> {
        let begun = Instant::now();
        while self.socket.link_by_index(index)?.is_some() {
            if begun.elapsed() > PATIENCE {
                return Err(format!("link {index} stays").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(begun.elapsed())
    }
}

/// Keeps a tap's queue, or makes the tap one that is opened by its name.
pub(crate) fn hand_over(queue: OwnedFd, by_name: bool) -> Result<Option<OwnedFd>> {
    if by_name {
        keep_tap(&queue, 0)?;
    }
    Ok((!by_name).then_some(queue))
}

/// Up.
pub(crate) fn up() -> LinkChange {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

/// The filter by which what comes in at a link goes out by another, new or in place of the one before.
pub(crate) fn redirect(link: u32, to: u32) -> Request {
    Request::redirect(&Redirect { link, priority: NonZeroU16::MIN, to, cookie: [1; 16] })
}

/// What takes a link out of use: down, out of its bridge where that is asked, under another name in the group of those to
/// be deleted.
pub(crate) fn doom(link: u32, controller: Option<Option<u32>>) -> Vec<Request> {
    let out = LinkChange { up: Some(false), controller, ..LinkChange::default() };
    [out, away(link)].iter().flat_map(|change| Request::set_link(link, change)).collect()
}

/// The same for a cord's macvlan, which is not taken down: it gets no frames any more, and hands none on.
pub(crate) fn doom_macvlan(link: u32) -> Vec<Request> {
    let mut requests = vec![Request::set_macvlan_mode(link, false, MacvlanMode::Source)];
    requests.extend(Request::set_link(link, &LinkChange { no_arp: Some(true), ..away(link) }));
    requests.push(Request::delete_redirect(link, NonZeroU16::MIN));
    requests
}

fn away(link: u32) -> LinkChange {
    LinkChange { name: Some(format!("rawdel{link}")), group: Some(DOOMED), ..LinkChange::default() }
}

fn no_ipv6(name: &str) -> Result<()> {
    Ok(fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")?)
}

/// Opens a macvtap by its device node: the kernel's, or where that is another namespace's one of our own.
pub(crate) fn open_macvtap(name: &str, index: u32) -> Result<OwnedFd> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/macvtap/tap{index}/dev"))?;
    let (major, minor) = text.trim().split_once(':').ok_or("no device number")?;
    let number = makedev(major.parse()?, minor.parse()?);
    let node = PathBuf::from(format!("/dev/tap{index}"));
    if fs::metadata(&node).is_ok_and(|file| file.rdev() == number) {
        return Ok(open_node(&node)?);
    }
    let directory = tempfile::tempdir()?;
    let node = directory.path().join("node");
    mknodat(CWD, &node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, number)?;
    Ok(open_node(&node)?)
}
