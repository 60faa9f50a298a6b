//! The part that decides: one value, one door.
//!
//! [`Engine::handle`] takes one input and gives effects in order. Whatever happened (a request, a restart, a link
//! that went away), the same follows for each object it concerns: what should be, what is, and a plan for the
//! difference, one at a time for each object.
//!
//! | file | what |
//! |---|---|
//! | `input`, `effect` | what comes in, what goes out |
//! | `work` | each object's plan or job in flight, its operation, and what waits |
//! | `ovs` | ports of Open vSwitch bridges |
//! | `reconcile` | from an object to its next plan or job, until it is settled |
//! | `followers` | NICs that follow their network, and that its operation waits for |
//! | `settings` | the host's own settings: what they were before us, and when they go back |
//! | `jobs` | which slow work an object needs, and how it ended |
//! | `networks`, `nics`, `live`, `reserve`, `read` | requests |
//! | `journal` | what a request changed, so that it can be put back when its records can't be written |
//! | `admit`, `admit_nic`, `admit_macvtap`, `admit_vlan` | whether a network or NIC may be, and what its document leaves to us |
//! | `undisturbed` | whether a network may change under its NICs |
//! | `adopt` | networks that come from libvirt's daemon, and go back |
//! | `associations` | when switches are asked for profiles |
//! | `functions` | virtual functions: which of them networks have, and what is done about those that NICs have |
//! | `hooks`, `hook_call` | when hooks are called, and with what |
//! | `ports`, `port_rates` | ports of libvirt's, and the rates at their taps |
//! | `promise` | guaranteed rates: who may be promised what, and the classes for that |
//! | `uplinks` | which VLANs ports of host bridges carry for NICs |
//! | `waiting` | NICs that wait for a device, and get one that can be had |
//! | `observe` | which objects a change concerns |
//! | `startup` | the first look after a start |
//! | `view`, `devices`, `interfaces` | what users see |

mod admit;
mod admit_macvtap;
mod admit_nic;
mod admit_vlan;
mod adopt;
mod associations;
mod devices;
mod effect;
mod followers;
mod functions;
mod hook_call;
mod hooks;
mod input;
mod interfaces;
mod jobs;
mod journal;
mod live;
mod networks;
mod nics;
mod observe;
mod ovs;
mod port_rates;
mod ports;
mod promise;
mod read;
mod reconcile;
mod reserve;
mod settings;
mod startup;
mod undisturbed;
mod uplinks;
mod view;
mod waiting;
mod work;

pub use devices::{DeviceHolder, DeviceView, Free};
pub use effect::{
    Answer, Body, DeviceEvent, Effect, Event, Job, JobId, LeaseEvent, NetworkEvent, NicEvent, PlanId, Record, RecordKey,
};
pub use hook_call::{HookCall, HookOperation};
pub use input::{Adoption, Attach, Command, Input, JobOutcome, Now, PortAttach, RequestId, Startup, Text};
pub use interfaces::InterfaceView;
pub use reserve::LONGEST_RESERVATION;
pub use view::{LeaseView, NetworkView, NicState, NicView};

use crate::intent::Intent;
use crate::model::{DevicePlug, Nic, NicSource, PciAddress};
use crate::plan::uplink::Uplinks;
use crate::plan::{Observed, Plan, dnsmasq};
use crate::pool::Device;
use crate::{Error, ErrorKind, xml};
use journal::Journal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;
use work::Work;

/// What the engine is told once, and keeps.
#[derive(Clone, Debug)]
pub struct Config {
    /// This installation.
    pub instance: Uuid,
    /// Boot and network namespace: run state of others is gone.
    pub stamp: xml::Stamp,
    /// Whether devices without a carrier are passed over when NICs get one.
    pub needs_carrier: bool,
    /// Whether PCI devices are bound to other drivers for their guests, for networks that want that.
    pub binds_drivers: bool,
    /// How NICs are plugged into devices that don't say so themselves.
    pub plug: DevicePlug,
    /// Whether the rates of ports' taps are ours to see to, and not of those who make them.
    pub shapes_ports: bool,
    /// Ports of host bridges that are to carry the VLANs of NICs there.
    pub uplinks: Uplinks,
    /// The directory with the device nodes of macvtaps that are opened by name, each called like its link.
    pub nodes: String,
    /// Where dnsmasq keeps its files, and as whom it runs; the name servers are observed.
    pub dnsmasq: dnsmasq::Settings,
}

/// An object that plans and jobs are about, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Object {
    /// The host's settings, and what belongs to nobody any more.
    Host,
    /// A network.
    Network(Uuid),
    /// A NIC.
    Nic(Uuid),
}

/// The engine. See the module.
pub struct Engine {
    config: Config,
    intent: Intent,
    observed: Observed,
    work: BTreeMap<Object, Work>,
    line: work::Line,
    plans: BTreeMap<PlanId, (Object, Arc<Plan>)>,
    repairs: BTreeMap<Object, work::Repairs>,
    contests: BTreeMap<Object, work::Contest>,
    jobs: BTreeMap<JobId, (Object, Job)>,
    /// Requests about links that we have not heard of, while the host looks for them.
    looking: BTreeMap<JobId, (RequestId, Command, u128)>,
    watched: BTreeSet<crate::intent::Owner>,
    numbers: Numbers,
    /// When to look at which object again.
    alarms: BTreeMap<Now, BTreeSet<Object>>,
    /// Networks of which a NIC has just taken the last VLAN away.
    without_vlans: BTreeSet<Uuid>,
    /// NICs that networks' operations wait for, each with the network: it may belong to another one by the time it settles,
    /// or be gone.
    followers: BTreeSet<(Uuid, Uuid)>,
    /// Networks of which a dnsmasq may run that is not known of: a change of it failed.
    may_serve: BTreeSet<Uuid>,
    /// Records that couldn't be written, and are to be written again.
    unwritten: BTreeSet<RecordKey>,
    /// What this call changed, in case its records can't be written.
    journal: Journal,
    /// What this call wants done.
    out: Vec<Effect>,
    now: Now,
    started: bool,
    /// Networks that start by themselves, and the link each waits for.
    waiting_for_uplink: BTreeMap<Uuid, String>,
    /// Objects whose run state can't be read. They are left alone, and so is what belongs to them.
    damaged: startup::Damaged,
    /// Objects of which hooks don't know yet what is intended.
    untold: BTreeMap<Object, hooks::Untold>,
    concerned: Concerned,
    /// Devices that NICs are leaving, or have just left.
    left: BTreeMap<Uuid, BTreeSet<Device>>,
    /// NICs by descriptor that had no tap when the daemon started: it went with the one before, so that nobody has it open.
    untapped: BTreeSet<Uuid>,
    /// The reservations that NICs under way claimed, by NIC, and until when they hold.
    redeemed: BTreeMap<Uuid, (crate::intent::NicIntent, Now)>,
    /// What switches were asked for, by NIC.
    associations: BTreeMap<Uuid, associations::Known>,
    /// Virtual functions that NICs have, or had and that are not yet what they were.
    functions: BTreeMap<(Uuid, PciAddress), functions::Taken>,
    ports: ports::Ports,
    /// What others did to ports of Open vSwitch bridges, by NIC.
    meddlings: BTreeMap<Uuid, ovs::Meddling>,
    /// Networks whose bridge others made, and how far they were taken over since the daemon started.
    takeovers: BTreeMap<Uuid, adopt::Takeover>,
    /// Who changed our packet rules last, while their repair is being planned.
    culprit: Option<String>,
}

/// The numbers that come next.
#[derive(Debug, Default)]
struct Numbers {
    /// Of plans and jobs.
    any: u64,
    /// In taps' names.
    tap: u32,
    /// In macvlans' names.
    macvlan: u32,
    /// Of NICs that wait for a device, in the order in which they came.
    turn: u64,
}

/// What is to be looked at when this call is through.
#[derive(Debug, Default)]
struct Concerned {
    /// Whether uplinks may have to carry other VLANs.
    uplinks: bool,
    /// Networks that promise other rates than before.
    promises: BTreeSet<Uuid>,
    /// Networks with a device that somebody who waits may have.
    offers: BTreeSet<Uuid>,
}

impl Engine {
    /// An engine that knows nothing yet; [`Input::Start`] comes first.
    pub fn new(config: Config) -> Self {
        Self {
            intent: Intent::new(config.instance),
            config,
            observed: Observed::default(),
            work: BTreeMap::new(),
            line: work::Line::default(),
            plans: BTreeMap::new(),
            repairs: BTreeMap::new(),
            contests: BTreeMap::new(),
            jobs: BTreeMap::new(),
            looking: BTreeMap::new(),
            watched: BTreeSet::new(),
            numbers: Numbers { turn: 1, ..Numbers::default() },
            alarms: BTreeMap::new(),
            without_vlans: BTreeSet::new(),
            followers: BTreeSet::new(),
            may_serve: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            journal: Journal::default(),
            out: Vec::new(),
            now: 0,
            started: false,
            waiting_for_uplink: BTreeMap::new(),
            damaged: startup::Damaged::default(),
            untold: BTreeMap::new(),
            concerned: Concerned::default(),
            left: BTreeMap::new(),
            untapped: BTreeSet::new(),
            redeemed: BTreeMap::new(),
            associations: BTreeMap::new(),
            functions: BTreeMap::new(),
            ports: ports::Ports::default(),
            meddlings: BTreeMap::new(),
            takeovers: BTreeMap::new(),
            culprit: None,
        }
    }

    /// Takes one input; gives what is to be done, in order. `now` never goes back.
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.now = self.now.max(now);
        let journal = std::mem::take(&mut self.journal);
        match input {
            Input::Start(startup) => self.start_up(*startup),
            Input::Request(id, command, random) => self.request(id, command, random),
            Input::Observed(change) => self.observe(change),
            Input::Applied(id, outcome) => self.applied(id, &outcome),
            Input::Finished(id, outcome) => self.finished(id, outcome),
            Input::NotPersisted { key, cause, dropped } => self.not_persisted(key, &cause, dropped, journal),
            Input::Tick => self.tick(),
        }
        self.give_out();
        self.keep_promises();
        self.keep_uplinks();
        self.take_effects()
    }

    /// What is intended, for those who only read.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// What was observed, for those who only read.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    fn request(&mut self, id: RequestId, command: Command, random: u128) {
        match self.unheard_of(&command) {
            Some(link) => {
                let (job, what) = (JobId(self.fresh()), Job::LookFor(link));
                self.looking.insert(job, (id, command, random));
                self.jobs.insert(job, (Object::Host, what.clone()));
                self.out.push(Effect::Start(job, what));
            }
            None => self.request_now(id, command, random),
        }
    }

    /// The host bridge or device that a request needs and that we have not heard of.
    fn unheard_of(&self, command: &Command) -> Option<String> {
        use crate::model::ForwardMode;
        let on_host = |network: &crate::model::Network| {
            let bridge = network.bridge.name.as_ref().filter(|_| network.forward.mode == ForwardMode::Bridge);
            let pool =
                network.forward.devices.iter().filter(|_| !network.forward.mode.has_own_bridge()).map(|d| &d.dev);
            // Of a pool of which nothing is known; of one that is known in part, NICs get that part.
            let unknown = pool.clone().all(|d| self.observed.link_named(d.as_str()).is_none());
            let pf = network.forward.pf.as_ref();
            bridge.or_else(|| pool.clone().next().filter(|_| unknown)).or(pf).map(ToString::to_string)
        };
        let of_nic = |nic: &crate::model::Nic| match &nic.source {
            NicSource::Bridge { bridge } => Some(bridge.to_string()),
            NicSource::Network { network, .. } => {
                self.intent.network(self.intent.named(network)?)?.active.as_ref().and_then(on_host)
            }
            NicSource::Direct { dev, .. } => Some(dev.to_string()),
            NicSource::None => None,
        };
        let link = match command {
            Command::Attach(attach) | Command::Check(attach, _) => of_nic(&attach.nic),
            Command::Modify(_, nic, _) => of_nic(nic),
            Command::Create(network) => on_host(network),
            Command::Start(name) => {
                self.find(name).ok().and_then(|uuid| self.intent.network(uuid)?.definition.as_ref()).and_then(on_host)
            }
            _ => None,
        };
        link.filter(|name| self.observed.link_named(name).is_none())
    }

    /// The host has looked.
    fn looked(&mut self, job: JobId) {
        if let Some((id, command, random)) = self.looking.remove(&job) {
            self.request_now(id, command, random);
        }
    }

    fn request_now(&mut self, id: RequestId, command: Command, random: u128) {
        self.within_request(|engine| {
            if let Err(error) = engine.dispatch(id, command, random) {
                engine.out.push(Effect::refuse(id, error));
            }
        });
    }

    /// Carries a request out, or makes it wait behind what its object is doing.
    fn dispatch(&mut self, id: RequestId, command: Command, random: u128) -> Result<(), Error> {
        if let Some(object) = self.object_of(&command)? {
            if self.is_damaged(object) {
                return Err(self.unreadable(object));
            }
            let mended = self.is_being_mended(object);
            if let Some(work) = self.work.get_mut(&object).filter(|work| work.operation.is_some() || mended) {
                return work.wait(id, command, random);
            }
        }
        match command {
            Command::Define(network) => self.define(id, *network, random),
            Command::Create(network) => self.create(id, *network, random),
            Command::Start(name) => self.start(id, &name),
            Command::Stop(name) => self.stop(id, &name),
            Command::Undefine(name) => self.undefine(id, &name),
            Command::Autostart(name, on) => self.autostart(id, &name, on),
            Command::Adopt(adoption) => self.adopt(id, *adoption, random),
            Command::HandBack { network, effect } => self.hand_back(id, &network, effect),
            Command::Update { network, command, section, parent, xml, live, config } => {
                self.update(id, &network, live::Part { command, section, parent, xml: &xml }, live, config)
            }
            Command::Annotate { network, part, key, value, live, config } => {
                let value = live::Annotation { part, key, value };
                self.annotate(id, &network, value, (live, config))
            }
            Command::Attach(attach) => self.attach(id, *attach, random),
            Command::Detach(nic) => self.detach(id, nic),
            Command::Modify(nic, given, precedence) => self.modify(id, nic, *given, precedence),
            Command::Link(nic, up) => self.link(id, nic, up),
            Command::Own(nic, owner) => self.own(id, nic, owner),
            Command::Check(attach, reserve) => self.check(id, &attach, reserve, random),
            read => {
                let answer = self.read(read)?;
                self.out.push(Effect::Reply(id, Ok(answer)));
                Ok(())
            }
        }
    }

    /// What whoever asks for something of a damaged object is told.
    fn unreadable(&self, object: Object) -> Error {
        let cause = "its run state can't be read, so it is left as it is";
        Error::new(ErrorKind::InvalidState, self.describe(object), cause)
            .hint("the daemon's log says which file; repair or remove it, and restart the daemon")
    }

    /// Whether somebody took away a network's own bridge, and it is being put back.
    fn is_being_mended(&self, object: Object) -> bool {
        let Object::Network(uuid) = object else { return false };
        if self.work.get(&object).is_none_or(|work| work.flight.is_none()) {
            return false;
        }
        let active = self.intent.network(uuid).and_then(|network| network.active.as_ref());
        let own = active.filter(|active| active.forward.mode.has_own_bridge()).and_then(|n| n.bridge.name.as_ref());
        own.is_some_and(|bridge| self.observed.link_named(bridge.as_str()).is_none())
    }

    /// The network that a NIC's document names.
    fn network_of_source(&self, nic: &Nic) -> Option<Object> {
        let NicSource::Network { network, .. } = &nic.source else { return None };
        self.intent.named(network).map(Object::Network)
    }

    /// The object whose operations a request must wait for; reading waits for none.
    fn object_of(&self, command: &Command) -> Result<Option<Object>, Error> {
        Ok(match command {
            Command::Define(network) | Command::Create(network) => {
                let named = || self.intent.named(&network.name).map(Object::Network);
                network
                    .uuid
                    .map(Object::Network)
                    .filter(|o| self.work.contains_key(o))
                    .or_else(named)
                    .or_else(|| self.leaving_as(&network.name))
            }
            Command::Start(name)
            | Command::Stop(name)
            | Command::Undefine(name)
            | Command::Autostart(name, _)
            | Command::HandBack { network: name, .. }
            | Command::Update { network: name, .. }
            | Command::Annotate { network: name, .. } => Some(Object::Network(self.find(name)?)),
            Command::Adopt(adoption) => {
                let uuid = adoption.current().and_then(|network| network.uuid).map(Object::Network);
                uuid.filter(|object| self.work.contains_key(object))
            }
            Command::Attach(attach) => {
                // A port of that id may be on its way out.
                let same = attach.port.as_ref().map(|port| Object::Nic(port.id));
                let same = same.filter(|port| self.work.get(port).is_some_and(|work| work.operation.is_some()));
                same.or_else(|| self.network_of_source(&attach.nic))
            }
            Command::Modify(id, nic, _) => {
                let object = Object::Nic(*id);
                let busy = |object: &Object| self.work.get(object).is_some_and(|work| work.operation.is_some());
                // What its network is about to be may not come to be.
                Some(self.network_of_source(nic).filter(|network| !busy(&object) && busy(network)).unwrap_or(object))
            }
            Command::Detach(id) | Command::Link(id, _) | Command::Own(id, _) => Some(Object::Nic(*id)),
            _ => None,
        })
    }

    /// Networks under change, as they were: should the change fail they come back, so what they had is not free yet.
    fn leaving(&self) -> impl Iterator<Item = (Uuid, &crate::intent::NetworkIntent)> {
        self.work.iter().filter_map(|(object, work)| match object {
            Object::Network(uuid) => Some((*uuid, work.network_before()?)),
            _ => None,
        })
    }

    /// NICs under change, likewise.
    fn leaving_nics(&self) -> impl Iterator<Item = &crate::intent::NicIntent> {
        self.work.values().filter_map(Work::nic_before)
    }

    /// Whether a network of that name is on its way out.
    fn leaving_as(&self, name: &crate::model::Name) -> Option<Object> {
        let leaves = self.leaving().find(|(_, n)| n.current().is_some_and(|n| n.name == *name));
        leaves.map(|(uuid, _)| Object::Network(uuid))
    }

    /// The UUID of the network that a user names, by name or by UUID.
    fn find(&self, network: &str) -> Result<Uuid, Error> {
        let by_uuid = Uuid::try_parse(network).ok().filter(|uuid| self.intent.network(*uuid).is_some());
        // Whoever says a UUID means that network, though somebody may have called another one so.
        let named = || crate::model::Name::new(network).ok().and_then(|name| self.intent.named(&name));
        by_uuid.or_else(named).ok_or_else(|| {
            Error::new(ErrorKind::NoNetwork, format!("network '{network}'"), "there is no such network")
                .hint("'patchcord network list' shows those there are")
        })
    }

    /// The NIC that a user names.
    fn find_nic(&self, id: Uuid) -> Result<&crate::intent::NicIntent, Error> {
        if self.damaged.nics.contains(&id) {
            return Err(self.unreadable(Object::Nic(id)));
        }
        self.intent.nic(id).ok_or_else(|| {
            Error::new(ErrorKind::NoNic, format!("NIC {id}"), "there is no such NIC")
                .hint("'patchcord nic list' shows those there are")
        })
    }

    fn fresh(&mut self) -> u64 {
        self.numbers.any += 1;
        self.numbers.any
    }

    /// Asks to look at an object again at that time.
    fn wake(&mut self, at: Now, object: Object) {
        self.alarms.entry(at).or_default().insert(object);
        self.out.push(Effect::Wake(at));
    }

    fn tick(&mut self) {
        let later = self.alarms.split_off(&(self.now + 1));
        for object in std::mem::replace(&mut self.alarms, later).into_values().flatten() {
            self.advance(object);
        }
        self.expire_reservations();
        self.write_again();
        if let Some(at) = self.alarms.keys().next() {
            self.out.push(Effect::Wake(*at));
        }
    }
}
