//! Filters that sort frames into the classes of a root qdisc, by where they go.

use std::num::NonZeroU16;

use netlink_packet_route::tc::{TcFilterU32Option, TcU32Key};

use super::filter::{delete, u32_header, u32_message};
use super::{HEADER, Handle, Header};
use crate::attr::Attr;
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL};
use crate::error::Error;
use crate::socket::{Request, Socket};

/// Where the Ethernet destination is, from the network header on: its two bytes from -14 and its four from -12, as words
/// whose places are multiples of four, each with the bits that count.
const DESTINATION: [(i32, u32); 2] = [(-16, 0x0000_ffff), (-12, 0xffff_ffff)];

/// Where `struct tc_u32_sel` has the number of its keys and the keys, and where a key has its parts.
const SELECTOR_COUNT: usize = 2;
const SELECTOR_KEYS: usize = 16;
const KEY: usize = 16;
const KEY_VALUE: usize = 4;
const KEY_PLACE: usize = 8;

/// The minor number of a class with a filter of its own, 1 to 4095: so many filters of kind u32 have numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassNumber(u16);

impl ClassNumber {
    /// `None` for a number that no filter can have.
    pub fn new(number: u16) -> Option<Self> {
        (1..=0xfff).contains(&number).then_some(ClassNumber(number))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// Frames to one Ethernet address that leave by a link belong to one class of its root qdisc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassFilter {
    /// Index of the link.
    pub link: u32,
    /// The major number of the root qdisc.
    pub major: u16,
    /// Filters of a lower number see a frame first. All filters that we put on a qdisc have the same, for the reason at
    /// [`Redirect::priority`](super::Redirect::priority).
    pub priority: NonZeroU16,
    /// The class, which is there already; each has one filter.
    pub class: ClassNumber,
    /// The Ethernet address that the frames go to.
    pub destination: [u8; 6],
}

/// The destination as the two words of [`DESTINATION`], unused bits 0.
fn words([a, b, c, d, e, f]: [u8; 6]) -> [u32; 2] {
    [u32::from_be_bytes([0, 0, a, b]), u32::from_be_bytes([c, d, e, f])]
}

/// Reads the destination that a selector asks for, if that is all it asks for.
pub(super) fn read_destination(selector: &Attr<'_>) -> Option<[u8; 6]> {
    if usize::from(*selector.value.get(SELECTOR_COUNT)?) != DESTINATION.len() {
        return None;
    }
    let mut values = [0; 2];
    for (number, (place, mask)) in DESTINATION.into_iter().enumerate() {
        let start = SELECTOR_KEYS + number * KEY;
        let told = (selector.u32_at(start + KEY_PLACE)?, u32::from_be(selector.u32_at(start)?));
        if told != (place.cast_unsigned(), mask) {
            return None;
        }
        values[number] = u32::from_be(selector.u32_at(start + KEY_VALUE)?);
    }
    let [[_, _, a, b], [c, d, e, f]] = values.map(u32::to_be_bytes);
    Some([a, b, c, d, e, f])
}

fn header(link: u32, major: u16, priority: NonZeroU16, class: ClassNumber) -> Header {
    u32_header(link, Handle { major, minor: 0 }, priority.get(), class.0)
}

impl Request {
    /// Adds the filter of a class. For another destination it has to be deleted first: the kernel changes in place what a
    /// u32 filter does, but never what it matches.
    pub fn add_class_filter(filter: &ClassFilter) -> Self {
        let header = header(filter.link, filter.major, filter.priority, filter.class);
        let class = Handle { major: filter.major, minor: filter.class.0 };
        let keys = DESTINATION.into_iter().zip(words(filter.destination)).map(|((place, mask), value)| {
            let mut key = TcU32Key::default();
            (key.off, key.mask, key.val) = (place, mask, value);
            key
        });
        let message = u32_message(header, TcFilterU32Option::ClassId(class.into()), keys.collect());
        Request::new("add the class's filter", NLM_F_CREATE | NLM_F_EXCL, HEADER, &message)
    }

    /// Deletes the filter of a class.
    pub fn delete_class_filter(link: u32, major: u16, priority: NonZeroU16, class: ClassNumber) -> Self {
        delete("delete the class's filter", header(link, major, priority, class))
    }
}

impl Socket {
    /// Adds the filter of a class; see [`Request::add_class_filter`].
    ///
    /// # Errors
    /// [`Error::Kernel`], with EEXIST when the class has one, EINVAL when there is no such qdisc, and the socket's own
    /// errors.
    pub fn add_class_filter(&mut self, filter: &ClassFilter) -> Result<(), Error> {
        self.execute(&Request::add_class_filter(filter))
    }

    /// Deletes the filter of a class.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENOENT when there is none, and the socket's own errors.
    pub fn delete_class_filter(
        &mut self,
        link: u32,
        major: u16,
        priority: NonZeroU16,
        class: ClassNumber,
    ) -> Result<(), Error> {
        self.execute(&Request::delete_class_filter(link, major, priority, class))
    }
}
