//! A guest without a machine: a TCP/IP stack in user space behind a tap, driven by lines on its standard input.
//!
//! ```text
//! patchcord run --guest web --nic network=lab -- patchcord-guest {fd0} {mac0} --name web --ping gateway
//! patchcord-guest pct0 52:54:00:01:02:03        # a tap by its name
//! ```
//!
//! It gets a lease and says so in one line, answers echo requests, echoes what TCP connections to port 7 send, and
//! answers each line with one line that begins with its name.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{BufRead as _, Write as _};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use patchcord_testkit::{Background, Continuity, Guest, Lease};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

const USAGE: &str = "\
usage: patchcord-guest FD|TAP MAC [--name NAME] [--ping ADDRESS|gateway] [--static ADDRESS/LENGTH[,GATEWAY]]

FD or TAP   an open descriptor of a tap, or the name of a tap
--name      the host name sent to the DHCP server, and the first word of each line printed
--ping      an address to ping all the time, 50 times a second
--static    an address instead of a lease

Lines on the standard input, each answered by one line:
ping ADDRESS | resolve NAME | tcp ADDRESS PORT | router | addresses | watch ADDRESS | count | quit
watch begins to ping that address all the time; count says how it went since then, or since the last count.";

/// Long enough for a lease on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for an answer, and short enough to wait for one that should not come.
const ANSWER: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_millis(20);
/// RFC 862.
const ECHO_PORT: u16 = 7;

/// The size of the virtio-net header that QEMU uses, in bytes.
const VNET_HDR_LEN: usize = 12;

#[derive(Debug, PartialEq)]
struct Arguments {
    tap: String,
    mac: [u8; 6],
    name: String,
    ping: Option<String>,
    address: Option<Static>,
}

/// An address given rather than leased.
#[derive(Debug, PartialEq)]
struct Static {
    address: IpAddr,
    prefix_len: u8,
    gateway: Option<IpAddr>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let arguments = match Arguments::parse(&words) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("patchcord-guest: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&arguments.name, &error);
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn parse(words: &[String]) -> Result<Self, String> {
        let [tap, mac, options @ ..] = words else { return Err("a tap and a MAC are needed".into()) };
        let mut this = Self {
            tap: tap.clone(),
            mac: parse_mac(mac).ok_or_else(|| format!("'{mac}' is no MAC"))?,
            name: "guest".into(),
            ping: None,
            address: None,
        };
        for option in options.chunks(2) {
            let [option, value] = option else { return Err(format!("{} has no value", option[0])) };
            match option.as_str() {
                "--name" => this.name = value.clone(),
                "--ping" => this.ping = Some(value.clone()),
                "--static" => this.address = Some(parse_static(value).ok_or(format!("'{value}' is no address"))?),
                _ => return Err(format!("there is no option {option}")),
            }
        }
        Ok(this)
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// `ADDRESS/LENGTH[,GATEWAY]`
fn parse_static(text: &str) -> Option<Static> {
    let (address, gateway) = match text.split_once(',') {
        Some((address, gateway)) => (address, Some(gateway.parse().ok()?)),
        None => (text, None),
    };
    let (address, prefix_len) = address.split_once('/')?;
    Some(Static { address: address.parse().ok()?, prefix_len: prefix_len.parse().ok()?, gateway })
}

/// One line for whoever drives the guest.
fn say(name: &str, what: impl Display) {
    let mut output = std::io::stdout().lock();
    // Nobody listens any more: the end of the input follows.
    let _ = writeln!(output, "{name}: {what}").and_then(|()| output.flush());
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let name = &arguments.name;
    let mut guest = open(&arguments.tap, arguments.mac)?;
    guest.set_hostname(name);
    guest.tcp_server(ECHO_PORT);
    let mut lease = None;
    if let Some(Static { address, prefix_len, gateway }) = &arguments.address {
        guest.set_static(*address, *prefix_len, *gateway);
        say(name, format_args!("address {address}/{prefix_len}, gateway {}, DNS none", or_none(*gateway)));
    } else {
        let got = guest.dhcp(PATIENCE).map_err(|error| error.to_string())?;
        say(name, describe(&got));
        lease = Some(got);
    }
    let gateway = || match (&lease, &arguments.address) {
        (Some(lease), _) => lease.router.map(IpAddr::from),
        (None, Some(given)) => given.gateway,
        (None, None) => None,
    };
    let server = lease.as_ref().and_then(|lease| lease.dns.first().copied().map(IpAddr::from));
    let guest = guest.run_in_background();
    let mut watched = None;
    if let Some(target) = &arguments.ping {
        let target = if target == "gateway" { gateway() } else { target.parse().ok() };
        let target = target.ok_or("there is no such address to ping")?;
        guest.ping_every(target, INTERVAL, PATIENCE).map_err(|error| error.to_string())?;
        watched = Some(target);
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["quit"] {
            break;
        }
        match obey(&guest, &words, server, &mut watched) {
            Ok(answer) => say(name, format_args!("{line}: {answer}")),
            Err(error) => say(name, format_args!("{line}: failed: {error}")),
        }
    }
    Ok(())
}

/// A guest behind an inherited descriptor, or behind the tap of a name.
fn open(tap: &str, mac: [u8; 6]) -> Result<Guest, String> {
    let guest = match tap.parse() {
        Ok(number) => inherited(number).map_err(std::io::Error::from).and_then(|fd| Guest::new(fd, mac, VNET_HDR_LEN)),
        Err(_) => Guest::open_by_name(tap, mac),
    };
    guest.map_err(|error| format!("cannot use the tap {tap}: {error}"))
}

/// The open file behind a number: to take the number itself would need unsafe code, so it comes by way of our own
/// pidfd.
fn inherited(number: i32) -> rustix::io::Result<OwnedFd> {
    pidfd_getfd(pidfd_open(getpid(), PidfdFlags::empty())?, number, PidfdGetfdFlags::empty())
}

fn describe(lease: &Lease) -> String {
    let dns: Vec<String> = lease.dns.iter().map(ToString::to_string).collect();
    let dns = if dns.is_empty() { "none".into() } else { dns.join(" ") };
    format!("address {}/{}, gateway {}, DNS {dns}", lease.address, lease.prefix_len, or_none(lease.router))
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or("none".into(), |value| value.to_string())
}

/// Does what a line says; the answer is what to print behind it. `watched` is the address that is pinged all the time.
fn obey(
    guest: &Background,
    words: &[&str],
    server: Option<IpAddr>,
    watched: &mut Option<IpAddr>,
) -> Result<String, String> {
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("'{text}' is no address"));
    match *words {
        ["ping", target] => {
            let target = address(target)?;
            let time = guest.with(move |guest| guest.ping(target, ANSWER)).map_err(|error| error.to_string())?;
            Ok(format!("answered in {:.2} ms", time.as_secs_f64() * 1e3))
        }
        ["resolve", name] => {
            let server = server.ok_or("the lease names no DNS server")?;
            let name = name.to_owned();
            let found = guest.with(move |guest| {
                let four = guest.resolve(&name, server, ANSWER)?.into_iter().map(IpAddr::from);
                let six = guest.resolve_ipv6(&name, server, ANSWER)?.into_iter().map(IpAddr::from);
                Ok(four.chain(six).collect::<Vec<_>>())
            });
            let found = found.map_err(|error: patchcord_testkit::GuestError| error.to_string())?;
            if found.is_empty() { Err("no such record".into()) } else { Ok(join(&found)) }
        }
        ["tcp", target, port] => {
            let (target, port) = (address(target)?, port.parse().map_err(|_| format!("'{port}' is no port"))?);
            let payload = vec![b'p'; 10_000];
            let echoed = guest.with(move |guest| guest.tcp_echo_client(target, port, &payload, ANSWER));
            Ok(format!("{} bytes came back", echoed.map_err(|error| error.to_string())?.len()))
        }
        ["router"] => {
            let heard = guest.with(|guest| guest.solicit_router(ANSWER)).map_err(|error| error.to_string())?;
            Ok(heard.router.to_string())
        }
        ["addresses"] => {
            let all = guest.with(|guest| guest.addresses());
            Ok(join(&all.iter().map(|(address, len)| format!("{address}/{len}")).collect::<Vec<_>>()))
        }
        ["watch", target] => {
            let target = address(target)?;
            *watched = Some(target);
            guest.ping_every(target, INTERVAL, ANSWER).map_err(|error| error.to_string())?;
            Ok("answers".into())
        }
        ["count"] => {
            let seen = settled(guest);
            if let Some(target) = watched {
                // The count says how it went; the next one says it again.
                let _ = guest.ping_every(*target, INTERVAL, ANSWER);
            }
            Ok(format!("sent {}, lost {}, longest gap {} ms", seen.sent, seen.lost(), seen.longest_gap.as_millis()))
        }
        _ => Err("what? (ping, resolve, tcp, router, addresses, watch, count or quit)".into()),
    }
}

/// The count at a moment when no answer was on its way, if there is one soon.
fn settled(guest: &Background) -> Continuity {
    let mut best = guest.continuity();
    for _ in 0..10 {
        if best.lost() == 0 {
            break;
        }
        std::thread::sleep(INTERVAL / 4);
        let seen = guest.continuity();
        if seen.lost() < best.lost() {
            best = seen;
        }
    }
    best
}

fn join(all: &[impl Display]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn arguments() {
        let all = parse("7 52:54:00:01:02:03 --name web --ping gateway --static 192.0.2.9/24,192.0.2.1").unwrap();
        assert_eq!(all.mac, [0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!((all.tap.as_str(), all.name.as_str(), all.ping.as_deref()), ("7", "web", Some("gateway")));
        let address = all.address.unwrap();
        assert_eq!(address.gateway.map(|a| a.to_string()).as_deref(), Some("192.0.2.1"));
        assert_eq!((address.address.to_string().as_str(), address.prefix_len), ("192.0.2.9", 24));
        for (line, says) in [
            ("7", "a tap and a MAC are needed"),
            ("7 x", "'x' is no MAC"),
            ("7 52:54:00:01:02:03 --name", "--name has no value"),
            ("7 52:54:00:01:02:03 --static 192.0.2.9", "'192.0.2.9' is no address"),
            ("7 52:54:00:01:02:03 --mac 1", "there is no option --mac"),
        ] {
            assert_eq!(parse(line), Err(says.into()));
        }
    }
}
