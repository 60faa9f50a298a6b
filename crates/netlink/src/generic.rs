//! Generic netlink: what a link's hardware does itself (`ethtool`), and whether a device is a switch of its own (`devlink`).
//!
//! Families have their numbers from the kernel, by name. Each message begins with a command, a version and two bytes that
//! mean nothing (kernel: `struct genlmsghdr`).

use netlink_sys::protocols::NETLINK_GENERIC;
use rustix::io::Errno;

use crate::attr::{Attr, Attrs, Writer};
use crate::error::Error;
use crate::socket::{Request, Socket};

/// Bytes of `struct genlmsghdr`.
const HEADER: usize = 4;
/// `NLA_F_NESTED`, without which some families take no attribute with others inside.
const NESTED: u16 = 0x8000;

/// `include/uapi/linux/genetlink.h`.
mod control {
    pub(super) const ID: u16 = 0x10;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const VERSION: u8 = 2;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
}

/// `include/uapi/linux/ethtool_netlink.h`.
mod ethtool {
    pub(super) const NAME: &str = "ethtool";
    pub(super) const FEATURES_GET: u8 = 11;
    pub(super) const FEATURES_HEADER: u16 = 1;
    pub(super) const HEADER_DEV_INDEX: u16 = 1;
    pub(super) const FEATURES_ACTIVE: u16 = 4;
    pub(super) const BITSET_BITS: u16 = 3;
    pub(super) const BITS_BIT: u16 = 1;
    pub(super) const BIT_NAME: u16 = 2;
}

/// `include/uapi/linux/devlink.h`.
mod devlink {
    pub(super) const NAME: &str = "devlink";
    pub(super) const ESWITCH_GET: u8 = 29;
    pub(super) const BUS_NAME: u16 = 1;
    pub(super) const DEV_NAME: u16 = 2;
    pub(super) const ESWITCH_MODE: u16 = 25;
    pub(super) const SWITCHDEV: u16 = 1;
}

/// A blocking generic netlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub struct GenericSocket {
    socket: Socket,
}

impl GenericSocket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::on(NETLINK_GENERIC)? })
    }

    /// The features of a link that are on, as the kernel calls them (`tx-scatter-gather`); none where the kernel has no
    /// such interface.
    ///
    /// # Errors
    /// [`Error::Kernel`] when there is no such link.
    pub fn features(&mut self, link: u32) -> Result<Vec<String>, Error> {
        const NAME: &str = "read the features of the link";
        let Some(family) = self.family(ethtool::NAME)? else { return Ok(Vec::new()) };
        let mut header = Writer::new();
        header.put(ethtool::HEADER_DEV_INDEX, &link.to_ne_bytes());
        let mut attrs = Writer::new();
        attrs.put(ethtool::FEATURES_HEADER | NESTED, &header.into_bytes());
        let answers = self.ask(NAME, family, ethtool::FEATURES_GET, 1, attrs)?;
        Ok(answers.iter().flat_map(|answer| read_features(answer)).collect())
    }

    /// Whether a device such as `pci/0000:3b:00.0` switches between its functions by rules of the host's; none where its
    /// driver has no such mode.
    ///
    /// # Errors
    /// [`Error::Receive`] and the like; that the kernel refuses to tell means that there is no such mode.
    pub fn is_switch(&mut self, bus: &str, device: &str) -> Result<Option<bool>, Error> {
        const NAME: &str = "read the mode of the device's switch";
        let Some(family) = self.family(devlink::NAME)? else { return Ok(None) };
        let mut attrs = Writer::new();
        attrs.text(devlink::BUS_NAME, bus).text(devlink::DEV_NAME, device);
        match self.ask(NAME, family, devlink::ESWITCH_GET, 1, attrs) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| read_mode(answer))),
            Err(Error::Kernel { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of a family; none when the kernel has none of that name.
    fn family(&mut self, name: &str) -> Result<Option<u16>, Error> {
        let mut attrs = Writer::new();
        attrs.text(control::FAMILY_NAME, name);
        match self.ask("find an interface of the kernel", control::ID, control::GET_FAMILY, control::VERSION, attrs) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| read_family(answer))),
            Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ask(
        &mut self,
        name: &'static str,
        family: u16,
        command: u8,
        version: u8,
        attrs: Writer,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let mut body = vec![command, version, 0, 0];
        body.extend(attrs.into_bytes());
        self.socket.ask(&Request::encoded(name, family, HEADER, body))
    }
}

fn read_family(payload: &[u8]) -> Option<u16> {
    Attrs::after(payload, HEADER).find(|attr| attr.kind == control::FAMILY_ID)?.u16()
}

/// Names of the bits in the set of active features: without a mask, those that are there are set.
fn read_features(payload: &[u8]) -> Vec<String> {
    let active = Attrs::after(payload, HEADER).filter(|attr| attr.kind == ethtool::FEATURES_ACTIVE);
    let lists = active.flat_map(|set| inside(set, ethtool::BITSET_BITS));
    let bits = lists.flat_map(|list| inside(list, ethtool::BITS_BIT));
    bits.flat_map(|bit| inside(bit, ethtool::BIT_NAME)).map(|name| name.text()).collect()
}

fn inside(attr: Attr<'_>, kind: u16) -> impl Iterator<Item = Attr<'_>> {
    attr.nested().filter(move |attr| attr.kind == kind)
}

fn read_mode(payload: &[u8]) -> Option<bool> {
    let mode = Attrs::after(payload, HEADER).find(|attr| attr.kind == devlink::ESWITCH_MODE)?.u16()?;
    Some(mode == devlink::SWITCHDEV)
}

/// Feeds bytes to every reader; for fuzzing.
pub(crate) fn fuzz_payload(payload: &[u8]) {
    let _ = read_family(payload);
    let _ = read_features(payload);
    let _ = read_mode(payload);
}
