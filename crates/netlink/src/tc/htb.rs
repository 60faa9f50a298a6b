//! Hierarchical token buckets (`htb`): classes of a link's outgoing frames with guaranteed and highest rates.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::TcAttribute;

use super::rate::{self, SPEC, SPEC_RATE};
use super::{HEADER, Handle, Header, RTM_NEWTCLASS, TCA_KIND, TCA_OPTIONS};
use crate::attr::{Attrs, Writer};
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL};
use crate::error::Error;
use crate::socket::{Dump, Request, Socket};

const HTB: &str = "htb";

const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;

/// The version that `struct tc_htb_glob` has to name.
const VERSION: u32 = 3;
/// How the kernel derives a class's quantum from its rate where none is given.
const RATE_TO_QUANTUM: u32 = 10;
/// Bounds of a quantum: a whole Ethernet frame, and what the kernel itself calls big.
const QUANTUM: (u64, u64) = (1_514, 200_000);

/// Where `struct tc_htb_opt` has its parts: two rates, then numbers of 32 bits.
const OPT_CEIL: usize = SPEC;
const OPT_BUFFER: usize = 2 * SPEC;
const OPT_CBUFFER: usize = OPT_BUFFER + 4;
const OPT_PRIORITY: usize = OPT_CBUFFER + 12;

/// A root qdisc that sorts a link's outgoing frames into classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Htb {
    /// Index of the link.
    pub link: u32,
    /// The major number of its handle and of its classes, 1 to 0x7fff; the kernel gives those above by itself.
    pub major: u16,
    /// The minor number of the class for frames that no filter puts elsewhere; 0: they leave unshaped.
    pub default: u16,
}

/// A class of an htb qdisc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HtbClass {
    /// Index of the link.
    pub link: u32,
    /// What it is called; the major number is the qdisc's, the minor number not 0.
    pub handle: Handle,
    /// The class that it borrows from, or the qdisc. It can't be changed.
    pub parent: Handle,
    /// Classes of a lower number, 0 to 7, are served first with what is left over. It can't be changed once others
    /// borrow from the class.
    pub priority: u8,
    /// The guaranteed rate in bytes per second, at least 1.
    pub rate: u64,
    /// The highest rate, borrowed parts included, in bytes per second; at least `rate`.
    pub ceil: u64,
    /// How many bytes may leave at once at the guaranteed rate. Read back it may be more; see
    /// [`rounded_burst`](super::rounded_burst).
    pub burst: u64,
    /// How many bytes may leave at once at the highest rate; read back likewise.
    pub cburst: u64,
    /// The qdisc that somebody put below it, as far as it is read: setting a class leaves that as it is.
    pub leaf: Option<Handle>,
}

/// Reads the payload of an `RTM_NEWTCLASS`; `None` for classes of other kinds. Numbers that the kernel did not tell are 0.
pub(super) fn read(payload: &[u8]) -> Option<HtbClass> {
    let (header, attributes) = Header::read(payload)?;
    if Attrs::find(attributes, TCA_KIND)?.bytes_to_nul() != HTB.as_bytes() {
        return None;
    }
    let handle = Handle::read(header.handle);
    // A class that borrows from no other is told to be at the root.
    let parent = if header.parent == Handle::ROOT { Handle { minor: 0, ..handle } } else { header.parent };
    let options = Attrs::find(attributes, TCA_OPTIONS).map(|options| options.value).unwrap_or_default();
    let parameters = Attrs::find(options, TCA_HTB_PARMS);
    let word = |at| parameters.and_then(|parameters| parameters.u32_at(at)).unwrap_or(0);
    let wide = |kind| Attrs::find(options, kind).and_then(|rate| rate.u64());
    let rate = wide(TCA_HTB_RATE64).unwrap_or(word(SPEC_RATE).into());
    let ceil = wide(TCA_HTB_CEIL64).unwrap_or(word(OPT_CEIL + SPEC_RATE).into());
    Some(HtbClass {
        link: header.link,
        handle,
        parent,
        priority: word(OPT_PRIORITY) as u8,
        rate,
        ceil,
        burst: rate::bytes(word(OPT_BUFFER), rate),
        cburst: rate::bytes(word(OPT_CBUFFER), ceil),
        // The queue that the kernel makes by itself is called nothing.
        leaf: (header.info != 0).then(|| Handle::read(header.info)),
    })
}

fn attributes(options: Writer) -> Vec<TcAttribute> {
    let options = TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options.into_bytes()));
    vec![TcAttribute::Kind(HTB.to_owned()), options]
}

fn class_options(class: &HtbClass) -> Writer {
    let mut parameters = Writer::new();
    let quantum = (class.rate / u64::from(RATE_TO_QUANTUM)).clamp(QUANTUM.0, QUANTUM.1) as u32;
    // The fourth number is the level in the tree, which the kernel finds out by itself.
    let numbers = [
        rate::ticks(class.burst, class.rate),
        rate::ticks(class.cburst, class.ceil),
        quantum,
        0,
        class.priority.into(),
    ];
    parameters.raw(&rate::spec(class.rate, 0)).raw(&rate::spec(class.ceil, 0));
    for number in numbers {
        parameters.raw(&number.to_ne_bytes());
    }
    let mut options = Writer::new();
    for (kind, rate) in [(TCA_HTB_RATE64, class.rate), (TCA_HTB_CEIL64, class.ceil)] {
        if let Some(rate) = rate::wide(rate) {
            options.ne64(kind, rate);
        }
    }
    options.put(TCA_HTB_PARMS, &parameters.into_bytes());
    options
}

impl Request {
    /// Makes an htb the link's root qdisc, without classes yet; the kernel refuses it (EEXIST) where the root is not the
    /// kernel's own choice.
    pub fn add_htb(htb: &Htb) -> Self {
        let mut options = Writer::new();
        let mut global = Writer::new();
        // The last two are for debugging and for reading.
        for number in [VERSION, RATE_TO_QUANTUM, htb.default.into(), 0, 0] {
            global.raw(&number.to_ne_bytes());
        }
        options.put(TCA_HTB_INIT, &global.into_bytes());
        let handle = Handle { major: htb.major, minor: 0 };
        let header = Header { link: htb.link, handle: handle.number(), parent: Handle::ROOT, info: 0 };
        let message = RouteNetlinkMessage::NewQueueDiscipline(header.message(attributes(options)));
        Request::new("add the htb qdisc", NLM_F_CREATE | NLM_F_EXCL, HEADER, &message)
    }

    /// Adds a class, or changes its rates, bursts and priority in place.
    pub fn set_htb_class(class: &HtbClass) -> Self {
        let header = Header { link: class.link, handle: class.handle.number(), parent: class.parent, info: 0 };
        let message = header.message(attributes(class_options(class)));
        Request::new("set the htb class", NLM_F_CREATE, HEADER, &RouteNetlinkMessage::NewTrafficClass(message))
    }

    /// Deletes a class with the qdisc below it. The kernel refuses it (EBUSY) while others borrow from the class or a
    /// filter leads to it.
    pub fn delete_htb_class(link: u32, class: Handle) -> Self {
        let header = Header { link, handle: class.number(), parent: Handle::default(), info: 0 };
        let message = RouteNetlinkMessage::DelTrafficClass(header.message(Vec::new()));
        Request::new("delete the htb class", 0, HEADER, &message)
    }
}

impl Socket {
    /// Lists the htb classes of a link; none when it has no htb qdisc or is not there.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn htb_classes(&mut self, link: u32) -> Result<Dump<HtbClass>, Error> {
        let header = Header { link, handle: 0, parent: Handle::default(), info: 0 };
        let message = RouteNetlinkMessage::GetTrafficClass(header.message(Vec::new()));
        self.dump(&Request::new("list classes", 0, HEADER, &message), RTM_NEWTCLASS, read)
    }

    /// Makes an htb the link's root qdisc.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EEXIST where the root is not the kernel's own choice, and the socket's own errors.
    pub fn add_htb(&mut self, htb: &Htb) -> Result<(), Error> {
        self.execute(&Request::add_htb(htb))
    }

    /// Adds a class, or changes its rates, bursts and priority in place.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EINVAL for a rate of 0, and the socket's own errors.
    pub fn set_htb_class(&mut self, class: &HtbClass) -> Result<(), Error> {
        self.execute(&Request::set_htb_class(class))
    }

    /// Deletes a class with the qdisc below it.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENOENT when there is none, EBUSY while it is used, and the socket's own errors.
    pub fn delete_htb_class(&mut self, link: u32, class: Handle) -> Result<(), Error> {
        self.execute(&Request::delete_htb_class(link, class))
    }
}
