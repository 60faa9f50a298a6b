//! What the engine wants done, in order.

use super::devices::DeviceView;
use super::hook_call::HookCall;
use super::input::{Now, RequestId};
use super::interfaces::InterfaceView;
use super::view::{LeaseView, NetworkView, NicView};
use crate::intent::Owner;
use crate::model::{Interface, LinkName, MacAddr, MetadataPart, Name, PciAddress};
use crate::plan::{Association, FunctionBefore, FunctionSetup, OvsPort, Plan, dnsmasq};
use crate::{Error, Result};
use std::sync::Arc;
use uuid::Uuid;

/// Which plan an outcome belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlanId(pub u64);

/// Which job an outcome belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// One thing to do. A list of them is carried out in order, and ends at a record that can't be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write one record, or delete it. A reader sees the old or the new one; of a [`RecordKey::PendingNic`], which is
    /// new, nothing or all.
    Persist(Record),
    /// The record of a pending NIC is from now on that of the NIC; where it fails, the record is the NIC's.
    Confirm(Uuid),
    /// Carry out a plan.
    Apply(PlanId, Arc<Plan>),
    /// Begin slow work, off the executor.
    Start(JobId, Job),
    /// Answer a request.
    Reply(RequestId, Result<Answer>),
    /// Let go of what is kept of a NIC that is gone, or that never came to be: descriptors of its tap.
    Release(Uuid),
    /// Tell the watchers.
    Publish(Event),
    /// Send a tick at that time.
    Wake(Now),
}

/// Which record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKey {
    /// A network's definition, by name.
    Definition(String),
    /// Whether it starts by itself; the content says nothing.
    Autostart(String),
    /// An active network, by name.
    Network(String),
    /// A NIC.
    Nic(Uuid),
    /// A NIC whose attach is not answered yet.
    PendingNic(Uuid),
    /// What a switch was asked to give a NIC's port.
    Association(Uuid),
    /// What a virtual function was before a NIC got it.
    Function(Uuid, PciAddress),
    /// The host's settings as they were before us.
    Host,
}

/// A record and its new content; `None` deletes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub key: RecordKey,
    /// The document.
    pub content: Option<String>,
}

/// Slow work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Start a network's dnsmasq.
    StartService(Uuid, Box<dnsmasq::Config>),
    /// Make it read its files again.
    ReloadService(Uuid, u32, Box<dnsmasq::Config>),
    /// End it, if it runs.
    StopService(Uuid),
    /// End the dnsmasq that libvirt's daemon started for a network, and take over the leases that it gave.
    EndLibvirtService {
        /// The network.
        network: Uuid,
        /// Its name, by which libvirt's files are called.
        name: String,
        /// Its bridge.
        bridge: String,
    },
    /// Remove the packet rules that libvirt's daemon made for a network.
    RemoveLibvirtRules {
        /// The network.
        network: Uuid,
        /// What they know it by.
        signs: crate::plan::nft::libvirt::Signs,
    },
    /// Remove what dnsmasq kept of a network that is no more: its leases.
    ForgetService(Uuid),
    /// Put a bridge into a firewalld zone, or take it out.
    SetZone {
        /// The network.
        network: Uuid,
        /// Its bridge.
        bridge: String,
        /// The zone.
        zone: String,
        /// In, or out.
        present: bool,
        /// firewalld's table when that was decided, see
        /// [`Firewalls::firewalld`](crate::plan::nft::foreign::Firewalls::firewalld).
        table: Option<u64>,
    },
    /// Make a NIC's port on a bridge of Open vSwitch, or change it.
    SetOvsPort(Box<(LinkName, OvsPort)>),
    /// Remove a NIC's port of that name from Open vSwitch.
    RemoveOvsPort(Uuid, LinkName),
    /// Read the link of that name, if there is one, and tell before this job ends: a client that has just made it may be
    /// faster than the kernel's announcement.
    LookFor(String),
    /// Find out what the kernel can do about rates, and tell before this job ends.
    TryShaping,
    /// Say when that process is gone.
    WatchOwner(Owner),
    /// Have the switch give a NIC's port its profile. One that fails is taken back by whoever carries out the job.
    Associate(Box<Association>),
    /// End that. That there is nothing to end is no failure.
    Disassociate(Box<Association>),
    /// Find out what a virtual function is set to, before it is changed.
    ReadFunction(PciAddress),
    /// Set a virtual function for a NIC, given what it was before. One that fails is taken back by whoever carries out the
    /// job.
    SetFunction(Box<(FunctionSetup, FunctionBefore)>),
    /// Make a virtual function what it was before.
    RestoreFunction(PciAddress, Box<FunctionBefore>),
    /// Call the hooks about an object.
    Hook(Box<HookCall>),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked for.
    pub body: Body,
    /// What the client should know besides.
    pub warnings: Vec<String>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Done.
    Done,
    /// One network.
    Network(Box<NetworkView>),
    /// Networks.
    Networks(Vec<NetworkView>),
    /// One NIC.
    Nic(Box<NicView>),
    /// NICs.
    Nics(Vec<NicView>),
    /// Guests with their addresses, as often as they have some.
    Addresses(Vec<(Name, MacAddr)>),
    /// Leases.
    Leases(Vec<LeaseView>),
    /// Devices.
    Devices(Vec<DeviceView>),
    /// Interfaces of the host.
    Interfaces(Vec<InterfaceView>),
    /// One.
    Interface(InterfaceView),
    /// What one is.
    Description(Box<Interface>),
    /// A document.
    Xml(String),
}

impl From<Body> for Answer {
    fn from(body: Body) -> Self {
        Self { body, warnings: Vec::new() }
    }
}

/// What watchers are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something happened to a network.
    Network {
        /// Its name.
        name: String,
        /// Its UUID.
        uuid: Uuid,
        /// Its labels.
        tags: Vec<String>,
        /// What.
        what: NetworkEvent,
    },
    /// Something happened to a NIC.
    Nic {
        /// What it is now, or was last.
        nic: Box<NicView>,
        /// What.
        what: NicEvent,
    },
    /// A lease came, was renewed, or went.
    Lease {
        /// The network's name.
        network: String,
        /// The lease.
        lease: LeaseView,
        /// What.
        what: LeaseEvent,
    },
    /// A device that networks list or NICs sit on came or went.
    Device {
        /// Its name.
        device: String,
        /// The active networks that list it.
        networks: Vec<String>,
        /// What.
        what: DeviceEvent,
    },
    /// Something was not as it should be and was put back; or could not be.
    Drift {
        /// The object, as users know it.
        object: String,
        /// Why the steps were needed, or what failed.
        what: String,
        /// Who did it, where that is known.
        culprit: Option<String>,
        /// Whether it is as it should be again.
        repaired: bool,
    },
}

/// What happened to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkEvent {
    /// A definition was stored.
    Defined,
    /// The definition is gone.
    Undefined,
    /// It started.
    Started,
    /// It stopped.
    Stopped,
    /// It was changed while it ran, or its definition was.
    Updated,
    /// That of what is kept with it was changed.
    Annotated(MetadataPart),
}

/// What happened to a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicEvent {
    /// It was attached.
    Attached,
    /// It was detached.
    Detached,
    /// Its owner is gone, and so is it.
    OwnerGone,
    /// It was configured anew.
    Modified,
    /// It was plugged in.
    Plugged,
    /// It was plugged into nothing: its network stopped, its device went, or its cable was pulled.
    Unplugged,
}

/// What happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// It is there. Who waits for it is plugged in; who waits for any is not, until told so.
    Appeared,
    /// It is not there any more. Who sits on it waits.
    Gone,
}

/// What happened to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// It is new.
    Added,
    /// It lasts longer, or its name changed.
    Renewed,
    /// It ended.
    Removed,
}

impl Effect {
    /// An answer.
    pub fn answer(id: RequestId, body: Body) -> Self {
        Self::Reply(id, Ok(body.into()))
    }

    /// A refusal.
    pub fn refuse(id: RequestId, error: Error) -> Self {
        Self::Reply(id, Err(error))
    }
}
