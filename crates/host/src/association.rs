//! Associating a guest's port with a profile of the switch, and ending that: slow work, for a job's thread.
//!
//! For 802.1Qbg lldpad is asked, for 802.1Qbh the device's driver. Both take a request at once and decide later, so
//! they are asked until they have: within seconds as a rule, when the switch is there.

use std::fmt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use patchcord_core::model::{LinkName, MacAddr, VirtualPort, VirtualPortType};
use patchcord_netlink::portprofile::{Failure, Lldpad, Operation, Profile, ProfileName, Response, TypeId, Vsi};
use patchcord_netlink::{Error as NetlinkError, Request, Socket};
use rustix::io::Errno;
use uuid::Uuid;

use crate::lldpad::{self, PidFile};
use crate::{Error, Result};

/// Between two questions whether it is decided.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long taking a request back may take, when its own time is over.
const GRACE: Duration = Duration::from_secs(2);

/// The link that leads to the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: LinkName,
    /// Its index.
    pub index: u32,
    /// The number of the virtual function that is the guest's, when the link is its PF; 802.1Qbh only.
    pub vf: Option<u32>,
}

/// What the switch is told about a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// Its NIC's address.
    pub mac: MacAddr,
    /// The VLAN of its frames, 1 to 4094; 0 for none. 802.1Qbg only.
    pub vlan: u16,
    /// Its UUID; 802.1Qbh only.
    pub uuid: Uuid,
    /// Its host's UUID; 802.1Qbh only.
    pub host: Uuid,
}

/// A guest's port and the profile that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    uplink: Uplink,
    wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Qbg(Vsi),
    Qbh(Profile),
}

impl Association {
    /// The association that a complete virtualport of type 802.1Qbg or 802.1Qbh asks for.
    ///
    /// # Errors
    /// [`Error::Association`] names the parameter that is missing or out of its range.
    pub fn new(uplink: Uplink, port: &VirtualPort, guest: &Guest) -> Result<Self> {
        let wanted = match port.kind {
            Some(VirtualPortType::Qbg) => vsi(port, guest).map(Wanted::Qbg),
            Some(VirtualPortType::Qbh) => profile(port, guest).map(Wanted::Qbh),
            _ => Err("type"),
        };
        let invalid = |parameter| Error::Association {
            device: uplink.name.clone(),
            profile: format!("virtualport {}", port.kind.map_or("without a type", VirtualPortType::as_str)),
            problem: format!("its {parameter} is missing, or can't be asked of a switch"),
            help: "set it in the NIC, its portgroup or its network",
            left: None,
            source: None,
        };
        let wanted = wanted.map_err(invalid)?;
        Ok(Self { uplink, wanted })
    }
}

fn vsi(port: &VirtualPort, guest: &Guest) -> Result<Vsi, &'static str> {
    Ok(Vsi {
        manager_id: port.manager_id.ok_or("managerid")?,
        type_id: port.type_id.and_then(TypeId::new).ok_or("typeid")?,
        type_id_version: port.type_id_version.ok_or("typeidversion")?,
        instance: port.instance_id.ok_or("instanceid")?.into_bytes(),
        mac: guest.mac.0,
        vlan: guest.vlan,
    })
}

fn profile(port: &VirtualPort, guest: &Guest) -> Result<Profile, &'static str> {
    Ok(Profile {
        name: port.profile_id.as_deref().and_then(ProfileName::new).ok_or("profileid")?,
        instance: guest.uuid.into_bytes(),
        host: guest.host.into_bytes(),
        mac: guest.mac.0,
    })
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qbg(vsi) => write!(
                f,
                "802.1Qbg type {} version {} of manager {}, instance {}",
                vsi.type_id.get(),
                vsi.type_id_version,
                vsi.manager_id,
                Uuid::from_bytes(vsi.instance)
            ),
            Self::Qbh(profile) => write!(f, "802.1Qbh profile '{}'", profile.name),
        }
    }
}

/// Where those can be asked who speak with switches.
#[derive(Debug, Clone, Copy)]
pub struct Peers<'a> {
    /// lldpad's pid file; see [`PID_FILE`](lldpad::PID_FILE).
    pub lldpad: PidFile<'a>,
    /// The netlink port of devices' drivers: the kernel's, or that of a process that plays a driver.
    pub drivers: u32,
}

impl<'a> From<PidFile<'a>> for Peers<'a> {
    fn from(lldpad: PidFile<'a>) -> Self {
        Self { lldpad, drivers: Socket::KERNEL }
    }
}

impl<'a> From<&'a PathBuf> for Peers<'a> {
    fn from(lldpad: &'a PathBuf) -> Self {
        PidFile::from(lldpad).into()
    }
}

/// Has the switch give the port its profile. Blocks until that is done or has failed, at most until the deadline and two
/// seconds more, in which a request that has failed is taken back. Of `peers` lldpad's pid file is enough.
///
/// # Errors
/// [`Error::Association`] says what was answered, what would help, and whether anything could not be taken back;
/// [`Error::NoLldpad`] and the errors of opening a socket.
pub fn associate<'a>(port: &Association, peers: impl Into<Peers<'a>>, deadline: Instant) -> Result<()> {
    ask_for(port, peers.into(), Operation::Associate, deadline)
}

/// Has the switch keep ready what the port will take, as [`associate`] has it give that; which follows, or [`disassociate`].
/// 802.1Qbg only.
///
/// # Errors
/// As [`associate`].
pub fn reserve<'a>(port: &Association, peers: impl Into<Peers<'a>>, deadline: Instant) -> Result<()> {
    ask_for(port, peers.into(), Operation::PreAssociateReserving, deadline)
}

fn ask_for(port: &Association, peers: Peers<'_>, operation: Operation, deadline: Instant) -> Result<()> {
    let mut agent = Agent::open(port, peers)?;
    let Err(trouble) = agent.carry_out(operation, deadline) else { return Ok(()) };
    let left = if trouble.is_refusal() { None } else { agent.take_back().err() };
    Err(agent.error(trouble, left))
}

/// Has the switch end what [`associate`] began. That there is nothing to end is no error. Blocks until it is done or has
/// failed, at most until the deadline.
///
/// # Errors
/// As [`associate`].
pub fn disassociate<'a>(port: &Association, peers: impl Into<Peers<'a>>, deadline: Instant) -> Result<()> {
    let mut agent = Agent::open(port, peers.into())?;
    let ended = match agent.knows_of_it(deadline) {
        Ok(false) => Ok(()),
        Ok(true) => agent.carry_out(Operation::Disassociate, deadline),
        Err(error) => Err(Trouble::Netlink(error)),
    };
    match ended {
        // No such link, or lldpad has nothing to do with it.
        Err(Trouble::Netlink(error)) if has_errno(&error, Errno::NODEV) => Ok(()),
        ended => ended.map_err(|trouble| agent.error(trouble, None)),
    }
}

fn has_errno(error: &NetlinkError, errno: Errno) -> bool {
    error.errno() == Some(errno.raw_os_error())
}

/// Whoever decides about the port.
struct Agent<'a> {
    port: &'a Association,
    peer: Peer<'a>,
}

enum Peer<'a> {
    Lldpad(Lldpad, &'a Vsi),
    Driver(Socket, &'a Profile),
}

/// Why a request was not carried out.
enum Trouble {
    /// It was refused, or asking failed.
    Netlink(NetlinkError),
    /// It was taken, and is not known any more.
    Forgotten,
    /// It was not decided in time.
    Late,
    /// It was decided against.
    Failed(Failure),
}

impl Trouble {
    /// Whether the request was not taken, or whoever took it has gone: nothing can be taken back.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Netlink(NetlinkError::Kernel { .. } | NetlinkError::Send { .. }))
    }
}

impl<'a> Agent<'a> {
    fn open(port: &'a Association, peers: Peers<'_>) -> Result<Self> {
        let peer = match &port.wanted {
            Wanted::Qbg(vsi) => Peer::Lldpad(Lldpad::open(lldpad::netlink_port(peers.lldpad)?)?, vsi),
            Wanted::Qbh(profile) => Peer::Driver(Socket::open_to(peers.drivers)?, profile),
        };
        Ok(Self { port, peer })
    }

    fn request(&mut self, operation: Operation, deadline: Instant) -> Result<(), NetlinkError> {
        let uplink = &self.port.uplink;
        match &mut self.peer {
            Peer::Lldpad(lldpad, vsi) => lldpad.request((uplink.index, uplink.name.as_str()), operation, vsi, deadline),
            Peer::Driver(socket, profile) => {
                socket.execute(&Request::port_profile(uplink.index, uplink.vf, operation, profile))
            }
        }
    }

    fn response(&mut self, deadline: Instant) -> Result<Option<Response>, NetlinkError> {
        let uplink = &self.port.uplink;
        match &mut self.peer {
            Peer::Lldpad(lldpad, vsi) => lldpad.response(uplink.index, &vsi.instance, deadline),
            Peer::Driver(socket, _) => socket.port_profile(uplink.index, uplink.vf),
        }
    }

    /// Whether there is something to end. lldpad must not be asked to end what it doesn't know: it would keep a record of
    /// that for good. A driver is asked anyhow.
    fn knows_of_it(&mut self, deadline: Instant) -> Result<bool, NetlinkError> {
        match self.peer {
            Peer::Lldpad(..) => Ok(self.response(deadline)?.is_some()),
            Peer::Driver(..) => Ok(true),
        }
    }

    /// Asks for it, and then whether it is done.
    fn carry_out(&mut self, operation: Operation, deadline: Instant) -> Result<(), Trouble> {
        self.request(operation, deadline).map_err(Trouble::Netlink)?;
        loop {
            match self.response(deadline).map_err(Trouble::Netlink)? {
                Some(Response::Success) => return Ok(()),
                Some(Response::Failed(failure)) => return Err(Trouble::Failed(failure)),
                None if operation == Operation::Disassociate => return Ok(()),
                None => return Err(Trouble::Forgotten),
                Some(Response::InProgress) => {}
            }
            // The next question needs some time, too.
            if deadline.saturating_duration_since(Instant::now()) < 2 * INTERVAL {
                return Err(Trouble::Late);
            }
            sleep(INTERVAL);
        }
    }

    /// Ends what was asked for, without waiting until that is done.
    fn take_back(&mut self) -> Result<(), NetlinkError> {
        let deadline = Instant::now() + GRACE;
        match self.knows_of_it(deadline)? {
            true => self.request(Operation::Disassociate, deadline),
            false => Ok(()),
        }
    }

    fn error(&self, trouble: Trouble, left: Option<NetlinkError>) -> Error {
        let lldpad = matches!(self.peer, Peer::Lldpad(..));
        let said = if lldpad { lldpad_said } else { driver_said };
        let (problem, help) = match &trouble {
            Trouble::Failed(failure) => (failure.to_string(), help(*failure)),
            Trouble::Netlink(error) => {
                let (problem, help) = said(error);
                (problem.to_owned(), help)
            }
            Trouble::Forgotten if lldpad => (
                "lldpad has dropped it: the switch did not answer, or another program was told of its refusal"
                    .to_owned(),
                SEE_SWITCH,
            ),
            Trouble::Forgotten => ("the driver has dropped it".to_owned(), SEE_KERNEL),
            Trouble::Late => ("the switch did not decide in time".to_owned(), SEE_SWITCH),
        };
        let source = match trouble {
            Trouble::Netlink(error) => Some(error),
            _ => None,
        };
        Error::Association {
            device: self.port.uplink.name.clone(),
            profile: self.port.wanted.to_string(),
            problem,
            help,
            left: left.map(|error| said(&error).0.to_owned()),
            source,
        }
    }
}

const SEE_SWITCH: &str = "see that the profile's protocol is on at the switch's port, and what the switch logs";
const SEE_LLDPAD: &str = "see whether lldpad runs and what it logs";
const SEE_KERNEL: &str = "see what the driver says in the kernel's log";
const VDP_ON: &str = "its link must be up, the switch must offer VDP, and lldpad must be told to speak it there, by lldptool \
    -T -g ncb -i LINK with -V vdp -c enableTx=yes, with -V evbCfg -c enableTx=yes and with -V evbCfg -c \
    capabilities=rte,ecp,vdp, and lldptool -L -g ncb -i LINK adminStatus=rxtx; then it must be started again";

/// What an error of asking lldpad means, and what would help.
fn lldpad_said(error: &NetlinkError) -> (&'static str, &'static str) {
    if let NetlinkError::Kernel { .. } = error {
        let no_vdp = has_errno(error, Errno::NXIO) || has_errno(error, Errno::NODEV);
        return if no_vdp { ("lldpad does not speak VDP there", VDP_ON) } else { ("lldpad refuses it", SEE_LLDPAD) };
    }
    if has_errno(error, Errno::CONNREFUSED) {
        return ("lldpad does not listen in this network namespace", "run it where the link is");
    }
    ("lldpad does not answer", SEE_LLDPAD)
}

/// What an error of asking the driver means, and what would help.
fn driver_said(error: &NetlinkError) -> (&'static str, &'static str) {
    if has_errno(error, Errno::OPNOTSUPP) {
        return ("its driver has no port profiles", "802.1Qbh needs a device whose driver has (Cisco's enic)");
    }
    ("its driver refuses it", SEE_KERNEL)
}

/// What helps against a failure.
fn help(failure: Failure) -> &'static str {
    match failure.code() {
        1 => "see that the switch speaks the same version of VDP as lldpad",
        2 | 0x104 => "free some, or use another device",
        3..=5 | 0x102 => "compare the virtualport's parameters with the profiles of the switch",
        0x103 | 0x105 => SEE_KERNEL,
        _ => SEE_SWITCH,
    }
}
