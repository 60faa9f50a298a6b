//! Calls about NICs.

use super::session::{Outcome, Session, document, plain, unexpected};
use crate::access::Grant;
use crate::convert;
use crate::jobs::phrase;
use patchcord_api::methods::{
    AttachNIC, Attached, ChangedNic, CheckNIC, CheckedNic, Document, Fetched, Nics, OneNic, Request,
};
use patchcord_api::{MAX_FDS, Reservation};
use patchcord_core::engine::{Answer, Attach, Body, Command, NicView};
use patchcord_core::intent::Owner;
use patchcord_core::merge::Precedence;
use patchcord_core::model::{Name, Nic, NicSource};
use patchcord_core::plan::Handover;
use patchcord_core::xml::{self, Mode};
use patchcord_core::{Error, ErrorKind};
use patchcord_host::process::Process;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

impl Session {
    /// Carries out a call about NICs.
    pub(super) async fn carry_out_nic(&self, request: Request) -> Result<Outcome, Error> {
        match request {
            Request::AttachNIC(asked) => self.attach(asked).await,
            Request::CheckNIC(asked) => self.check(asked).await,
            Request::ListNICs(asked) => {
                let network = match asked.network {
                    Some(name) => Some(self.network(&name).await?.uuid.to_string()),
                    None => None,
                };
                plain(&Nics { nics: self.nics(network).await? })
            }
            Request::ShowNIC(asked) => plain(&OneNic { nic: convert::nic(self.visible(&asked.id).await?) }),
            Request::GetNICXML(asked) => {
                let id = self.visible(&asked.id).await?.id;
                let inactive = asked.inactive.unwrap_or(false);
                plain(&Document { xml: document(self.handle.call(Command::NicXml { id, inactive }).await?)? })
            }
            Request::FetchNIC(asked) => {
                let nic = self.own(&asked.id, "fetch its descriptors").await?;
                let fds = self.handle.descriptors(nic.id).await?;
                let reply = Fetched { nic: convert::nic(nic), fds: (0..fds.len()).collect() };
                Ok(Outcome { fds, ..plain(&reply)? })
            }
            Request::DetachNIC(asked) => {
                let nic = self.own(&asked.id, "detach it").await?;
                self.done(Command::Detach(nic.id)).await
            }
            Request::ModifyNIC(asked) => {
                let id = self.own(&asked.id, "modify it").await?.id;
                let mut nic = xml::read_nic(&asked.xml)?;
                let precedence = self.admit(&format!("NIC {id}"), &mut nic).await?;
                self.changed_nic(Command::Modify(id, Box::new(nic), precedence)).await
            }
            Request::SetNICLink(asked) => {
                let nic = self.own(&asked.id, "change its link").await?;
                self.changed_nic(Command::Link(nic.id, asked.up)).await
            }
            Request::OwnNIC(asked) => {
                let nic = self.own(&asked.id, "change its owner").await?;
                let owner = asked.pid.map(|pid| self.owner(&format!("NIC {}", nic.id), pid)).transpose()?;
                self.changed_nic(Command::Own(nic.id, owner)).await
            }
            _ => Err(unexpected()),
        }
    }

    /// The NICs that the peer may see, all or those of a network.
    pub(super) async fn nics(&self, network: Option<String>) -> Result<Vec<patchcord_api::Nic>, Error> {
        let Body::Nics(all) = self.handle.call(Command::ListNics(network)).await?.body else {
            return Err(unexpected());
        };
        Ok(all.into_iter().filter(|view| self.shows(view)).map(convert::nic).collect())
    }

    /// Whether the peer may see a NIC.
    pub(super) fn shows(&self, nic: &NicView) -> bool {
        self.access.shows_nic(self.peer(), nic.uid, nic.network.as_deref(), nic.portgroup.as_deref())
    }

    /// Detaches a NIC that nobody got to know of.
    pub(super) async fn take_back(&self, nic: Uuid) {
        if let Err(error) = self.handle.call(Command::Detach(nic)).await {
            tracing::warn!(%nic, %error, "a NIC whose client is gone can't be detached");
        }
    }

    async fn attach(&self, asked: AttachNIC) -> Result<Outcome, Error> {
        let object = format!("NIC of guest '{}'", asked.guest);
        let wrong = |field: &str, cause: String| Error::new(ErrorKind::InvalidArgument, &object, cause).field(field);
        let guest = Name::new(asked.guest.as_str()).map_err(|cause| wrong("guest", cause))?;
        let uuid = |field: &str, text: Option<&str>| {
            let parse = |text| Uuid::try_parse(text).map_err(|_| wrong(field, format!("'{text}' is no UUID")));
            text.map(parse).transpose()
        };
        let guest_uuid = uuid("guest_uuid", asked.guest_uuid.as_deref())?;
        let reservation = uuid("reservation", asked.reservation.as_deref())?;
        let mut nic = xml::read_nic(&asked.xml)?;
        let precedence = self.admit(&object, &mut nic).await?;
        let owner = asked.owner_pid.map(|pid| self.owner(&object, pid)).transpose()?;
        let (by_name, fetch) = (asked.by_name.unwrap_or(false), asked.fetch.unwrap_or(false));
        let full = self.peer().is_full();
        if by_name && fetch {
            return Err(wrong("fetch", "a tap that is opened by its name has no descriptors to fetch".into()));
        }
        if asked.uid.is_some() && !by_name {
            return Err(wrong("uid", "it says who may open a tap by its name".into()).hint("ask for it by name"));
        }
        if asked.uid.is_some_and(|uid| uid != self.peer().uid) && !full {
            return Err(self.denied(object, "make taps for other users").field("uid"));
        }
        if let Some(queues) = nic.queues.filter(|queues| !by_name && usize::from(*queues) > MAX_FDS) {
            let cause = format!("{queues} descriptors are more than the {MAX_FDS} that can be handed over at once");
            let error = Error::new(ErrorKind::Unsupported, object, cause).field("<driver queues>");
            return Err(error.hint("attach it by name, or with fewer queues"));
        }
        // The name of a bridge that is to come, or of an uplink, is not for everyone to take.
        if nic.target.is_some() && !full {
            return Err(self.denied(object, "choose the tap's name").field("<target dev>"));
        }
        let handover = if by_name {
            Handover::Name { uid: asked.uid.or((!full).then_some(self.peer().uid)) }
        } else {
            Handover::Descriptor
        };
        let mac_unknown = asked.mac_unknown.unwrap_or(false);
        let uid = self.peer().uid;
        let attach =
            Attach { guest, guest_uuid, nic, owner, handover, uid, precedence, reservation, port: None, mac_unknown };
        let Answer { body, warnings } = self.handle.call(Command::Attach(Box::new(attach))).await?;
        let warnings = self.warnings_for_peer(warnings);
        let Body::Nic(view) = body else { return Err(unexpected()) };
        let id = view.id;
        // A PCI device has no descriptors.
        let fds = if fetch && view.pci.is_none() {
            match self.handle.descriptors(id).await {
                Ok(fds) => fds,
                Err(error) => {
                    self.take_back(id).await;
                    return Err(error);
                }
            }
        } else {
            Vec::new()
        };
        let places = fetch.then(|| (0..fds.len()).collect());
        let reply = Attached { nic: convert::nic(*view), warnings, fds: places };
        Ok(Outcome { fds, attached: Some(id), ..plain(&reply)? })
    }

    async fn check(&self, asked: CheckNIC) -> Result<Outcome, Error> {
        let object = format!("NIC of guest '{}'", asked.guest);
        let wrong = |field: &str, cause: String| Error::new(ErrorKind::InvalidArgument, &object, cause).field(field);
        let guest = Name::new(asked.guest.as_str()).map_err(|cause| wrong("guest", cause))?;
        let uuid = |text: &str| Uuid::try_parse(text).map_err(|_| wrong("guest_uuid", format!("'{text}' is no UUID")));
        let guest_uuid = asked.guest_uuid.as_deref().map(uuid).transpose()?;
        let mut nic = xml::read_nic(&asked.xml)?;
        if let Some(network) = asked.network {
            let network = Name::new(self.network(&network).await?.name).map_err(|cause| wrong("network", cause))?;
            let named = match &nic.source {
                NicSource::None => None,
                NicSource::Network { network: named, .. } if *named == network => None,
                NicSource::Network { network: named, .. } => Some(format!("network '{named}'")),
                NicSource::Bridge { bridge } => Some(format!("bridge {bridge}")),
                NicSource::Direct { dev, .. } => Some(format!("device {dev}")),
            };
            if let Some(named) = named {
                let cause = format!("it names {named}, and network '{network}' is asked about");
                return Err(wrong("<source>", cause).hint("ask about what it names, or have it name that network"));
            }
            if nic.source == NicSource::None {
                nic.source = NicSource::Network { network, portgroup: None };
            }
        }
        let precedence = self.admit(&object, &mut nic).await?;
        let attach = Attach {
            guest,
            guest_uuid,
            nic,
            owner: None,
            handover: Handover::Descriptor,
            uid: self.peer().uid,
            precedence,
            reservation: None,
            port: None,
            mac_unknown: false,
        };
        // Looked up before, so that no more is promised than is held.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let Answer { body, warnings } = self.handle.call(Command::Check(Box::new(attach), asked.reserve)).await?;
        let Body::Nic(view) = body else { return Err(unexpected()) };
        let reservation = asked
            .reserve
            .map(|seconds| Reservation { id: view.id.to_string(), expires: now.saturating_add(seconds.into()) });
        plain(&CheckedNic { nic: convert::nic(*view), warnings: self.warnings_for_peer(warnings), reservation })
    }

    async fn changed_nic(&self, command: Command) -> Result<Outcome, Error> {
        let Answer { body, warnings } = self.handle.call(command).await?;
        let Body::Nic(view) = body else { return Err(unexpected()) };
        plain(&ChangedNic { nic: convert::nic(*view), warnings: self.warnings_for_peer(warnings) })
    }

    /// Warnings tell of other people's guests, on networks that the peer may not see: only for those who may do
    /// everything.
    fn warnings_for_peer(&self, warnings: Vec<String>) -> Vec<String> {
        if self.peer().is_full() { warnings } else { Vec::new() }
    }

    /// Refuses a NIC that the peer may not attach; says whose values count.
    async fn admit(&self, object: &str, nic: &mut Nic) -> Result<Precedence, Error> {
        if self.peer().is_full() {
            return Ok(Precedence::Nic);
        }
        let grant = match &mut nic.source {
            NicSource::Network { network, portgroup } => {
                if !self.access.shows_network(self.peer(), network.as_str()) {
                    // Nor is it said which portgroups it has.
                    return Err(self
                        .denied(object.to_owned(), &format!("attach to network '{network}'"))
                        .field("<source network>"));
                }
                if portgroup.is_none() {
                    // Named from now on, so that it is this one that is attached to, whatever becomes the default.
                    *portgroup = self.default_portgroup(network).await?;
                }
                let name = portgroup.as_ref().map(Name::as_str);
                self.access.grant(self.peer(), network.as_str(), name).ok_or_else(|| {
                    let place = match name {
                        Some(portgroup) => format!("portgroup '{portgroup}' of network '{network}'"),
                        None => format!("network '{network}'"),
                    };
                    self.denied(object.to_owned(), &format!("attach to {place}")).field("<source>")
                })?
            }
            NicSource::None if self.access.grants_any(self.peer()) => Grant { nic_policy: false },
            _ => {
                return Err(self
                    .denied(object.to_owned(), "attach to anything but the networks it was granted")
                    .field("<source>"));
            }
        };
        Ok(grant.precedence())
    }

    /// The portgroup that a NIC gets that names none. Of a network that is not there, none: the engine says so.
    async fn default_portgroup(&self, network: &Name) -> Result<Option<Name>, Error> {
        let command = Command::NetworkXml { network: network.to_string(), inactive: false };
        let text = match self.handle.call(command).await {
            Ok(answer) => document(answer)?,
            Err(error) if error.kind == ErrorKind::NoNetwork => return Ok(None),
            Err(error) => return Err(error),
        };
        let network = xml::read_network(&text, Mode::Lenient)?;
        Ok(network.portgroup(None).ok().flatten().map(|portgroup| portgroup.name.clone()))
    }

    /// A process that a NIC may belong to: one that runs, and is the peer's user's.
    fn owner(&self, object: &str, pid: u32) -> Result<Owner, Error> {
        let gone =
            || Error::new(ErrorKind::InvalidArgument, object, format!("there is no process {pid}")).field("owner");
        let unknown =
            |error: patchcord_host::Error| Error::new(ErrorKind::HostFailed, object, phrase(&error)).field("owner");
        let process = Process::open(pid).map_err(unknown)?.ok_or_else(gone)?;
        let info = process.info().map_err(unknown)?.ok_or_else(gone)?;
        if info.uid != self.peer().uid && !self.peer().is_full() {
            return Err(self.denied(object.to_owned(), &format!("make process {pid} the owner")).field("owner"));
        }
        Ok(Owner { pid, start_time: info.id.start_time })
    }

    /// A NIC that the peer may see.
    async fn visible(&self, id: &str) -> Result<NicView, Error> {
        let nic = self.find(id).await?;
        if self.shows(&nic) { Ok(nic) } else { Err(self.denied(format!("NIC {id}"), "see it")) }
    }

    /// A NIC that the peer attached, or may do everything with.
    async fn own(&self, id: &str, what: &str) -> Result<NicView, Error> {
        let nic = self.find(id).await?;
        if self.peer().is_full() || nic.uid == self.peer().uid {
            Ok(nic)
        } else {
            Err(self.denied(format!("NIC {id}"), what).hint("who attached it may, and root and the group patchcord"))
        }
    }

    async fn find(&self, id: &str) -> Result<NicView, Error> {
        let uuid = Uuid::try_parse(id).map_err(|_| {
            Error::new(ErrorKind::NoNic, format!("NIC '{id}'"), "there is no such NIC")
                .hint("NICs are named by their ids, which 'patchcord nic list' shows")
        })?;
        match self.handle.call(Command::ShowNic(uuid)).await?.body {
            Body::Nic(view) => Ok(*view),
            _ => Err(unexpected()),
        }
    }
}
