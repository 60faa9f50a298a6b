//! The program that QEMU's `-netdev bridge,helper=` and `-netdev tap,helper=` call for a tap (docs/system of QEMU,
//! "qemu-bridge-helper"): QEMU gives it one end of a socket pair, and it sends the tap's descriptor there.
#![allow(rustdoc::broken_intra_doc_links, reason = "clap prints these comments, where [] means what may be left out")]

use crate::args::Place;
use crate::daemon::Daemon;
use crate::error::CommandError;
use crate::run::NicOption;
use clap::Parser;
use patchcord_api::methods::{AttachNIC, DetachNIC, ShowNetwork};
use patchcord_api::{ClientError, socket};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use std::os::fd::{AsFd, OwnedFd};

/// Attach a NIC of QEMU's to a network
///
/// As -netdev bridge,helper=PATH,br=NETWORK[:PORTGROUP], or as -netdev tap,helper="PATH --network=NET --portgroup=PG
/// --mac=MAC". Without --mac the guest's address is not known to the daemon, none is recorded, and only networks with a
/// bridge can be used. The NIC ends with QEMU.
#[derive(Debug, Parser)]
#[command(name = "patchcord-qemu-helper", version)]
pub struct Arguments {
    /// Where the daemon is.
    #[command(flatten)]
    place: Place,
    /// The network, by its name
    #[arg(long, value_name = "NET")]
    network: Option<String>,
    /// The portgroup
    #[arg(long, value_name = "PG", requires = "network")]
    portgroup: Option<String>,
    /// The MAC address that the guest is given too
    #[arg(long)]
    mac: Option<String>,
    /// The guest's name [default: qemu- and QEMU's process id]
    #[arg(long)]
    guest: Option<String>,
    /// QEMU says so; taps have the header in any case
    #[arg(long, hide = true)]
    use_vnet: bool,
    /// The socket to QEMU
    #[arg(long, value_name = "N")]
    fd: u32,
    /// What QEMU was told as br=: NETWORK or NETWORK:PORTGROUP
    #[arg(long, value_name = "NAME")]
    br: Option<String>,
}

/// Attaches the NIC and hands its tap to QEMU.
///
/// # Errors
/// What QEMU prints before it gives up.
pub fn execute(arguments: &Arguments) -> Result<(), CommandError> {
    let qemu = inherited(arguments.fd)?;
    let pid = rustix::net::sockopt::socket_peercred(&qemu)
        .map_err(|error| failed(arguments.fd, error.into()))?
        .pid
        .as_raw_nonzero()
        .get();
    let mut daemon = Daemon::connect(&arguments.place)?;
    let (network, portgroup) = place(arguments, &mut daemon)?;
    let nic = NicOption::new(&network, portgroup.as_deref(), arguments.mac.as_deref());
    let attach = AttachNIC {
        guest: arguments.guest.clone().unwrap_or_else(|| format!("qemu-{pid}")),
        xml: nic.xml(),
        owner_pid: u32::try_from(pid).ok(),
        fetch: Some(true),
        mac_unknown: Some(arguments.mac.is_none()),
        ..AttachNIC::default()
    };
    let (reply, fds) = daemon.call_with_fds(&attach, |reply| reply.fds.clone().unwrap_or_default())?;
    for warning in &reply.warnings {
        anstream::eprintln!("warning: {warning}");
    }
    if arguments.mac.is_none() {
        anstream::eprintln!("note: without --mac the NIC's address is not recorded, and bridges only can be used");
    }
    let sent = match &fds[..] {
        // QEMU reads one byte, whatever it is, and takes the descriptor beside it.
        [tap] => socket::send(&qemu, &[0], &[tap.as_fd()]).map_err(|error| failed(arguments.fd, error)),
        _ => Err(CommandError::new(format!("QEMU takes one descriptor, and the NIC has {}", fds.len()))),
    };
    if sent.is_err() {
        // The error that is on its way to the user is what matters; and the NIC ends with QEMU anyhow.
        let _ = daemon.call(&DetachNIC { id: reply.nic.id });
    }
    sent.map(drop)
}

/// Network and portgroup: those of the options; else the whole of `br` if there is such a network, else what is before
/// and behind its last colon.
fn place(arguments: &Arguments, daemon: &mut Daemon) -> Result<(String, Option<String>), CommandError> {
    if let Some(network) = &arguments.network {
        return Ok((network.clone(), arguments.portgroup.clone()));
    }
    let Some(br) = &arguments.br else {
        return Err(CommandError::usage("neither --network nor --br says which network"));
    };
    let Some((network, portgroup)) = br.rsplit_once(':') else { return Ok((br.clone(), None)) };
    match daemon.try_call(&ShowNetwork { name: br.clone() }) {
        Err(ClientError::Refused { name, .. }) if name == "NotFound" => {
            Ok((network.to_owned(), Some(portgroup.to_owned())))
        }
        Err(ClientError::Refused { .. }) | Ok(_) => Ok((br.clone(), None)),
        Err(error) => Err(error.into()),
    }
}

/// A descriptor that was inherited under that number, duplicated by way of our own pidfd: to take the number itself
/// would need unsafe code.
fn inherited(number: u32) -> Result<OwnedFd, CommandError> {
    let fd = i32::try_from(number).map_err(|_| CommandError::usage(format!("there is no descriptor {number}")))?;
    let myself = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    myself
        .and_then(|myself| rustix::process::pidfd_getfd(myself, fd, PidfdGetfdFlags::empty()))
        .map_err(|error| failed(number, error.into()))
}

fn failed(number: u32, error: std::io::Error) -> CommandError {
    CommandError::io(format!("can't use the descriptor {number} that QEMU should have passed"), &error)
}
