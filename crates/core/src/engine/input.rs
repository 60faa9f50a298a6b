//! What comes into the engine: requests, what was observed, how plans and jobs went, and the time.

use super::effect::{JobId, PlanId};
use crate::intent::Owner;
use crate::merge::Precedence;
use crate::model::{MacAddr, MetadataPart, Name, Network, Nic, UpdateCommand, UpdateSection};
use crate::plan::{Change, FunctionBefore, Handover, Observed, Outcome, Service};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Milliseconds on a clock that never goes back.
pub type Now = u64;

/// Which request an answer belongs to; the daemon counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What the engine is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// The daemon starts: what was stored, and what is there.
    Start(Box<Startup>),
    /// A client wants something. The random bits become UUIDs and MAC addresses.
    Request(RequestId, Command, u128),
    /// Something is different from before.
    Observed(Change),
    /// A plan was carried out, or how far.
    Applied(PlanId, Outcome),
    /// Slow work ended.
    Finished(JobId, JobOutcome),
    /// A record couldn't be written, so nothing after it in the same list of effects was done.
    NotPersisted {
        /// The record.
        key: super::effect::RecordKey,
        /// Why, as a phrase with the path in it.
        cause: String,
        /// The effects that were not done.
        dropped: Vec<super::effect::Effect>,
    },
    /// The time that was asked for has come.
    Tick,
}

/// A stored document, or why it can't be read, as a phrase.
pub type Text = Result<String, String>;

/// What the daemon found when it started.
#[derive(Clone, Debug, Default)]
pub struct Startup {
    /// Stored documents by file stem: definitions.
    pub definitions: BTreeMap<String, Text>,
    /// File stems of definitions that start by themselves.
    pub autostart: Vec<String>,
    /// Run state of networks, by file stem.
    pub networks: BTreeMap<String, Text>,
    /// Run state of NICs, by file stem.
    pub nics: BTreeMap<String, Text>,
    /// Run state of NICs whose attach was not answered, by file stem. What can't be read was never written whole.
    pub pending_nics: BTreeMap<String, Text>,
    /// What switches were asked for, by file stem.
    pub associations: BTreeMap<String, Text>,
    /// What virtual functions were before NICs got them, by file stem.
    pub functions: BTreeMap<String, Text>,
    /// Settings of the host as they were before us.
    pub host: Option<Text>,
    /// What is there.
    pub observed: Observed,
    /// Which owners still live; what is missing is gone.
    pub owners: Vec<Owner>,
    /// Random bits, for definitions that somebody wrote by hand and left the UUID out of.
    pub random: u128,
    /// Ids of NICs whose tap is there, and of those whose macvtap's descriptors somebody holds.
    pub held: Vec<Uuid>,
}

/// How slow work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// A dnsmasq runs, with this configuration.
    Running(Service),
    /// What a virtual function is set to.
    Function(Box<FunctionBefore>),
    /// Done; nothing to tell.
    Done,
    /// There was nothing to do: all was as it should be.
    Unchanged,
    /// It failed, and why, as a phrase.
    Failed(String),
}

/// What clients want. Names of networks may be UUIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Store a definition; a network of that name and UUID gets a new one.
    Define(Box<Network>),
    /// Start a network that is not stored.
    Create(Box<Network>),
    /// Start a stored one.
    Start(String),
    /// Stop one; its NICs are parked.
    Stop(String),
    /// Forget the definition; an active network becomes transient.
    Undefine(String),
    /// Whether it starts by itself.
    Autostart(String, bool),
    /// Take a network over from libvirt's daemon, as it is there.
    Adopt(Box<Adoption>),
    /// Leave a network and its ports to libvirt's daemon; without `effect` it is only found out whether that can be.
    HandBack {
        /// Which network.
        network: String,
        /// Whether to do it.
        effect: bool,
    },
    /// Change a part of a network.
    Update {
        /// Which network.
        network: String,
        /// What to do.
        command: UpdateCommand,
        /// With which part.
        section: UpdateSection,
        /// Which of several parents, where there are such.
        parent: Option<u32>,
        /// The part.
        xml: String,
        /// Change the active instance.
        live: bool,
        /// Change the definition.
        config: bool,
    },
    /// Change a part of what is kept with a network.
    Annotate {
        /// Which network.
        network: String,
        /// Which part.
        part: MetadataPart,
        /// The prefix of an element's namespace.
        key: Option<String>,
        /// The part; none removes it.
        value: Option<String>,
        /// Change the active instance.
        live: bool,
        /// Change the definition.
        config: bool,
    },
    /// A part of what is kept with a network.
    Annotation {
        /// Which network.
        network: String,
        /// Which part.
        part: MetadataPart,
        /// That of the active instance.
        live: bool,
        /// That of the definition.
        config: bool,
    },
    /// All networks.
    ListNetworks,
    /// One network.
    ShowNetwork(String),
    /// A network's document: the live one, or with `inactive` the definition.
    NetworkXml {
        /// Which network.
        network: String,
        /// The definition instead of the active instance.
        inactive: bool,
    },
    /// A network's leases.
    Leases(String),
    /// Attach a NIC.
    Attach(Box<Attach>),
    /// Detach it.
    Detach(Uuid),
    /// Configure it anew, while it runs; whose values count is for whoever asks to say.
    Modify(Uuid, Box<Nic>, Precedence),
    /// Pull or plug its cable.
    Link(Uuid, bool),
    /// Give it another owner, or none.
    Own(Uuid, Option<Owner>),
    /// All NICs, or those of one network.
    ListNics(Option<String>),
    /// The guests of a network with their addresses, for who needs no more: it costs a fraction of [`Self::ListNics`].
    ListAddresses(String),
    /// One NIC.
    ShowNic(Uuid),
    /// A NIC's document: the live one, or as given.
    NicXml {
        /// Which NIC.
        id: Uuid,
        /// As given.
        inactive: bool,
    },
    /// Would this NIC attach, and what would it get? With a number of seconds, what it would get is held for so long.
    Check(Box<Attach>, Option<u32>),
    /// All devices that networks list or NICs hold.
    ListDevices,
    /// A port's document.
    PortXml {
        /// Which one.
        id: Uuid,
        /// As whoever makes the guest's link is to read it: without rates that are ours to see to.
        for_driver: bool,
    },
    /// All interfaces of the host, without those that are parts of others or guests'.
    ListInterfaces,
    /// One, whatever it is.
    ShowInterface(String),
    /// What it is.
    DescribeInterface(String),
    /// The one with that address.
    InterfaceWith(MacAddr),
}

/// A network of libvirt's daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// Its definition.
    pub definition: Option<Network>,
    /// Whether it starts by itself.
    pub autostart: bool,
    /// As it runs, if it does: its bridge is there.
    pub active: Option<Network>,
    /// Whether to take it over; otherwise it is only found out whether that can be.
    pub effect: bool,
}

impl Adoption {
    /// As it runs if it does, else as defined.
    pub fn current(&self) -> Option<&Network> {
        self.active.as_ref().or(self.definition.as_ref())
    }
}

/// What is special about a port of libvirt's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortAttach {
    /// Its id, which its client chooses.
    pub id: Uuid,
    /// What its guest is plugged into already, when it claims back a port that it had.
    pub plug: Option<crate::model::Plug>,
}

/// A NIC to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The guest, as its owner calls it.
    pub guest: Name,
    /// The guest's UUID.
    pub guest_uuid: Option<Uuid>,
    /// The NIC.
    pub nic: Nic,
    /// Its owner.
    pub owner: Option<Owner>,
    /// How the tap is handed over.
    pub handover: Handover,
    /// Who attaches it.
    pub uid: u32,
    /// Whose values count where the NIC and its network both give some.
    pub precedence: Precedence,
    /// The reservation that it claims.
    pub reservation: Option<Uuid>,
    /// That it is a port of libvirt's.
    pub port: Option<PortAttach>,
    /// Leave out the MAC when none is given: the VMM chooses it and tells nobody (QEMU's helper).
    pub mac_unknown: bool,
}
