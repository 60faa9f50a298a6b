//! `patchcord run`: attaches NICs to this very process, and becomes the program that uses them.

use crate::args::RunCommand;
use crate::daemon::Daemon;
use crate::error::CommandError;
use crate::ui::Ui;
use patchcord_api::methods::{AttachNIC, DetachNIC};
use patchcord_api::{MAX_FDS, Nic};
use rustix::io::FdFlags;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

/// The value of `--nic`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicOption {
    network: String,
    portgroup: Option<String>,
    mac: Option<String>,
    queues: Option<u16>,
}

impl FromStr for NicOption {
    type Err = String;

    /// `key=value` between commas; a comma in a value is doubled.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut option = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for part in split(text) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("'{part}' is no key=value"))?;
            if seen.iter().any(|other| other == key) {
                return Err(format!("'{key}' is given twice"));
            }
            seen.push(key.to_owned());
            if value.is_empty() {
                return Err(format!("'{key}' has no value"));
            }
            let value = value.to_owned();
            match key {
                "network" => option.network = value,
                "portgroup" => option.portgroup = Some(value),
                "mac" => option.mac = Some(value),
                "queues" => {
                    // The program gets a descriptor of each, and all in one message.
                    let queues = value.parse().ok().filter(|queues| (1..=MAX_FDS).contains(&usize::from(*queues)));
                    let wrong = || format!("'{value}' is not a number from 1 to {MAX_FDS}");
                    option.queues = Some(queues.ok_or_else(wrong)?);
                }
                _ => return Err(format!("there is no key '{key}'; there are network, portgroup, mac, queues")),
            }
        }
        if option.network.is_empty() { Err("'network' is missing".into()) } else { Ok(option) }
    }
}

/// Splits at single commas; double ones stand for one.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut chars) = (Vec::new(), String::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        if c != ',' {
            part.push(c);
        } else if chars.next_if_eq(&',').is_some() {
            part.push(',');
        } else {
            parts.push(std::mem::take(&mut part));
        }
    }
    parts.push(part);
    parts
}

impl NicOption {
    /// The NIC on that network.
    pub(crate) fn new(network: &str, portgroup: Option<&str>, mac: Option<&str>) -> Self {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Self { network: network.into(), portgroup: own(portgroup), mac: own(mac), queues: None }
    }

    /// The same as a guest's `<interface>`.
    pub(crate) fn xml(&self) -> String {
        let mut xml = format!("<interface type='network'><source network='{}'", escaped(&self.network));
        if let Some(portgroup) = &self.portgroup {
            xml += &format!(" portgroup='{}'", escaped(portgroup));
        }
        xml += "/>";
        if let Some(mac) = &self.mac {
            xml += &format!("<mac address='{}'/>", escaped(mac));
        }
        if let Some(queues) = self.queues {
            xml += &format!("<driver queues='{queues}'/>");
        }
        xml + "</interface>"
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

/// A NIC that the program gets.
struct Plugged {
    nic: Nic,
    fds: Vec<OwnedFd>,
}

/// Attaches the NICs and becomes the program. What was attached is detached again if that fails.
pub(crate) fn execute(command: RunCommand, mut daemon: Daemon, ui: Ui) -> Result<(), CommandError> {
    let mut plugged = Vec::new();
    let Err(error) = plug_and_become(&command, &mut daemon, ui, &mut plugged);
    for Plugged { nic, fds } in plugged {
        drop(fds);
        // The error that is on its way to the user is what matters; and the NIC ends with this process anyhow.
        let _ = daemon.call(&DetachNIC { id: nic.id });
    }
    Err(error)
}

fn plug_and_become(
    command: &RunCommand,
    daemon: &mut Daemon,
    ui: Ui,
    plugged: &mut Vec<Plugged>,
) -> Result<std::convert::Infallible, CommandError> {
    let Some((program, arguments)) = command.program.split_first() else {
        return Err(CommandError::usage("there is no program to run"));
    };
    // Before anything is attached.
    for argument in arguments {
        fill(argument, &mut |_, number| if number < command.nics.len() { Ok(String::new()) } else { Err(number) })
            .map_err(|number| {
                let cause = format!("'{}' names NIC {number}", argument.display());
                CommandError::usage(format!("{cause}, and there are {}", command.nics.len()))
                    .hint("they are counted from 0, in the order of the --nic options")
            })?;
    }
    let pid = std::process::id();
    let name = Path::new(program).file_name().unwrap_or(program);
    let guest = command.guest.clone().unwrap_or_else(|| format!("{}-{pid}", name.display()));
    for option in &command.nics {
        let attach = AttachNIC {
            guest: guest.clone(),
            xml: option.xml(),
            owner_pid: Some(pid),
            fetch: Some(true),
            ..AttachNIC::default()
        };
        let (reply, fds) = daemon.call_with_fds(&attach, |reply| reply.fds.clone().unwrap_or_default())?;
        ui.warnings(&reply.warnings);
        plugged.push(Plugged { nic: reply.nic, fds });
    }
    let arguments = arguments.iter().map(|argument| {
        fill(argument, &mut |what, number| {
            let Plugged { nic, fds } = plugged.get(number).ok_or_else(|| format!("there is no NIC {number}"))?;
            stands_for(what, nic, fds).ok_or_else(|| match &nic.actual.pci {
                Some(pci) => {
                    format!("NIC {number} has no {what}: it is PCI device {pci}, which {{pci{number}}} stands for")
                }
                None => format!("NIC {number} has no {what}"),
            })
        })
    });
    let arguments = arguments.collect::<Result<Vec<_>, String>>().map_err(CommandError::usage)?;
    for fd in plugged.iter().flat_map(|plugged| &plugged.fds) {
        rustix::io::fcntl_setfd(fd, FdFlags::empty())
            .map_err(|error| CommandError::io("can't hand a descriptor over".into(), &error.into()))?;
    }
    let error = Command::new(program).args(arguments).exec();
    Err(CommandError::io(format!("can't run {}", program.display()), &error))
}

/// What a placeholder's word stands for; nothing where the NIC has no such thing.
fn stands_for(what: &str, nic: &Nic, fds: &[OwnedFd]) -> Option<String> {
    match what {
        "fd" => {
            let numbers = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect::<Vec<_>>();
            (!numbers.is_empty()).then(|| numbers.join(":"))
        }
        "tap" => nic.actual.tap.clone(),
        "pci" => nic.actual.pci.clone(),
        _ => nic.mac.clone(),
    }
}

/// An argument with `{fdN}`, `{tapN}`, `{pciN}` and `{macN}` replaced by what `value` gives for the word and the number.
fn fill<E>(argument: &OsStr, value: &mut dyn FnMut(&str, usize) -> Result<String, E>) -> Result<OsString, E> {
    let (mut filled, mut rest) = (Vec::new(), argument.as_bytes());
    while let Some(at) = rest.iter().position(|byte| *byte == b'{') {
        filled.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        match placeholder(rest) {
            Some((what, number, length)) => {
                filled.extend_from_slice(value(what, number)?.as_bytes());
                rest = &rest[length..];
            }
            None => {
                filled.push(b'{');
                rest = &rest[1..];
            }
        }
    }
    filled.extend_from_slice(rest);
    Ok(OsString::from_vec(filled))
}

/// The placeholder that a text starts with: its word, its number and its length.
fn placeholder(text: &[u8]) -> Option<(&'static str, usize, usize)> {
    let end = text.iter().position(|byte| *byte == b'}')?;
    let inside = std::str::from_utf8(&text[1..end]).ok()?;
    let what = ["fd", "tap", "pci", "mac"].into_iter().find(|what| inside.starts_with(what))?;
    let digits = &inside[what.len()..];
    let number = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((what, number, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nic_options() {
        let full: NicOption = "network=lab,portgroup=a,,b,mac=52:54:00:1:2:3,queues=4".parse().unwrap();
        assert_eq!(full.portgroup.as_deref(), Some("a,b"));
        assert_eq!(
            full.xml(),
            "<interface type='network'><source network='lab' portgroup='a,b'/><mac address='52:54:00:1:2:3'/>\
             <driver queues='4'/></interface>"
        );
        let odd: NicOption = "network=a=b'<&,,".parse().unwrap();
        assert_eq!(odd.xml(), "<interface type='network'><source network='a=b&apos;&lt;&amp;,'/></interface>");
        for (text, says) in [
            ("lab", "'lab' is no key=value"),
            ("", "'' is no key=value"),
            ("network=", "'network' has no value"),
            ("portgroup=x", "'network' is missing"),
            ("network=a,network=b", "'network' is given twice"),
            ("network=a,queues=0", "'0' is not a number from 1 to 253"),
            ("network=a,queues=254", "'254' is not a number from 1 to 253"),
            ("network=a,vlan=1", "there is no key 'vlan'; there are network, portgroup, mac, queues"),
        ] {
            assert_eq!(text.parse::<NicOption>().unwrap_err(), says);
        }
    }

    #[test]
    fn placeholders() {
        let filled = |text: &str| {
            fill(text.as_ref(), &mut |what, number| {
                if number < 2 { Ok(format!("<{what} {number}>")) } else { Err(number) }
            })
        };
        for (text, want) in [
            ("tap,fd={fd0},x={mac1}{tap0}", "tap,fd=<fd 0>,x=<mac 1><tap 0>"),
            ("vfio-pci,host={pci1}", "vfio-pci,host=<pci 1>"),
            ("{fd}{fdx}{fd-1}{fd+1}{}{{fd0}}{", "{fd}{fdx}{fd-1}{fd+1}{}{<fd 0>}{"),
            ("{'qom-type':'x'}", "{'qom-type':'x'}"),
            ("", ""),
        ] {
            assert_eq!(filled(text), Ok(want.into()), "{text}");
        }
        assert_eq!(filled("{fd2}"), Err(2));
        let bytes = OsString::from_vec(b"\xff{fd0}\xfe".to_vec());
        let filled = fill(&bytes, &mut |_, _| Ok::<_, ()>("7".into())).unwrap();
        assert_eq!(filled.into_vec(), b"\xff7\xfe");
    }
}
