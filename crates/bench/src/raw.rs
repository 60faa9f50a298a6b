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

/// What taps are plugged into, and a socket to work on it.
pub(crate) struct Raw {
    pub(crate) socket: Socket,
    place: Place,
    made: u32,
}

/// What a tap is plugged into, by its index.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// A bridge.
    Bridge(u32),
    /// A device, by a cord: joined to a macvlan of its own in mode vepa.
    Device(u32),
}

/// A tap that was plugged in.
pub(crate) struct RawTap {
    index: u32,
    macvlan: Option<u32>,
    _queue: Option<OwnedFd>,
}

impl Raw {
    /// With a bridge of its own.
    pub(crate) fn new() -> Result<Self> {
        let mut socket = Socket::open()?;
        let bridge = socket.make_bridge(&BridgeSpec {
            name: "raw".to_owned(),
            mac: Some([0x52, 0x54, 0, 0, 0, 1]),
            mtu: Some(1500),
            addr_gen_none: true,
            up: true,
            ..BridgeSpec::default()
        })?;
        Ok(Self { socket, place: Place::Bridge(bridge), made: 0 })
    }

    /// On a device.
    pub(crate) fn on_device(device: &str) -> Result<Self> {
        let mut raw = Self { socket: Socket::open()?, place: Place::Device(0), made: 0 };
        raw.place = Place::Device(raw.index_of(device)?);
        Ok(raw)
    }

    /// Makes and plugs in what the daemon makes and plugs in for a NIC: a tap with alias, group, MAC, MTU and without
    /// IPv6, into a bridge or by a cord, up. By name the tap is made persistent and let go.
    pub(crate) fn attach(&mut self, by_name: bool) -> Result<(Duration, RawTap)> {
        self.made += 1;
        let name = format!("raw{}", self.made);
        let alias = format!("raw:00000000-0000-0000-0000-000000000000:tap:{:036}", self.made);
        let [.., a, b] = self.made.to_be_bytes();
        let mac = [0xfe, 0x54, 0, 1, a, b];
        timed(|| {
            let queue = open_tap(&name)?;
            if by_name {
                keep_tap(&queue, 0)?;
            }
            let queue = (!by_name).then_some(queue);
            let index = name_to_index(&self.socket, &name)?;
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")?;
            let marked = LinkChange {
                alias: Some(alias),
                group: Some(LIVE),
                mac: Some(mac),
                mtu: Some(1500),
                addr_gen_none: Some(true),
                ..LinkChange::default()
            };
            self.socket.set_link(index, &marked)?;
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            let macvlan = match self.place {
                Place::Bridge(bridge) => {
                    self.socket.set_link(index, &LinkChange { controller: Some(Some(bridge)), ..up })?;
                    None
                }
                Place::Device(device) => {
                    let macvlan = self.far_end(index, device)?;
                    self.socket.set_link(macvlan, &up)?;
                    self.socket.set_link(index, &up)?;
                    Some(macvlan)
                }
            };
            Ok(RawTap { index, macvlan, _queue: queue })
        })
    }

    /// A macvlan on a device, joined to a tap in both directions.
    fn far_end(&mut self, tap: u32, device: u32) -> Result<u32> {
        let name = format!("rawm{}", self.made);
        let [.., a, b] = self.made.to_be_bytes();
        let macvlan = self.socket.make_macvlan(&MacvlanSpec {
            name: name.clone(),
            lower: device,
            mode: MacvlanMode::Vepa,
            tap: false,
            mac: Some([0x52, 0x54, 0, 2, a, b]),
            mtu: Some(1500),
            group: LIVE,
            alias: Some(format!("raw:00000000-0000-0000-0000-000000000000:macvlan:{:032}", self.made)),
        })?;
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")?;
        let quiet = LinkChange { addr_gen_none: Some(true), all_multicast: Some(true), ..LinkChange::default() };
        self.socket.set_link(macvlan, &quiet)?;
        for (link, to) in [(macvlan, tap), (tap, macvlan)] {
            let redirect = Redirect { link, priority: NonZeroU16::MIN, to, cookie: [1; 16] };
            let requests = [Request::add_clsact(link), Request::redirect(&redirect)];
            self.socket.execute_all(&requests)?.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
        }
        Ok(macvlan)
    }

    /// Takes a tap out of use as the daemon does, the deletion left for later, and says how long that took; then
    /// deletes it.
    pub(crate) fn detach(&mut self, tap: RawTap) -> Result<Duration> {
        let controller = matches!(self.place, Place::Bridge(_)).then_some(None);
        let out = LinkChange { up: Some(false), controller, ..LinkChange::default() };
        let away =
            |link| LinkChange { name: Some(format!("rawdel{link}")), group: Some(DOOMED), ..LinkChange::default() };
        let links = || [Some(tap.index), tap.macvlan].into_iter().flatten();
        let (time, ()) = timed(|| {
            let requests: Vec<Request> = links()
                .flat_map(|link| [out.clone(), away(link)].map(|change| Request::set_link(link, &change)))
                .flatten()
                .collect();
            for result in self.socket.execute_all(&requests)? {
                result?;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        for link in links() {
            self.socket.delete_link(link)?;
        }
        Ok(time)
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
