//! Router solicitation and advertisement (RFC 4861) and addresses made from them (RFC 4862).

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet,
    Ipv6Repr, NdiscOption, NdiscOptionType, NdiscPrefixInfoFlags, NdiscRepr, NdiscRouterFlags,
};

use super::{Guest, GuestError};

const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_ROUTERS_MAC: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 2]);
const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;
/// The length in bytes of an advertisement before its options.
const ADVERTISEMENT_LEN: usize = 16;
/// The option of an advertisement that names DNS servers.
const DNS_SERVERS: u8 = 25;

/// A prefix in a router advertisement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix.
    pub prefix: Ipv6Addr,
    /// Its length in bits.
    pub len: u8,
    /// Flag L: addresses of this prefix are on this link.
    pub on_link: bool,
    /// Flag A: hosts make their addresses from it.
    pub autonomous: bool,
    /// How long it is valid.
    pub valid: Duration,
}

/// A router advertisement that a guest heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// The router's link-local address.
    pub router: Ipv6Addr,
    /// For how long it is a default router; zero: it is none.
    pub lifetime: Duration,
    /// Flag M: addresses come by DHCPv6.
    pub managed: bool,
    /// Flag O: other configuration comes by DHCPv6.
    pub other: bool,
    /// The prefixes, in the message's order.
    pub prefixes: Vec<Prefix>,
    /// The link's MTU, if it says so.
    pub mtu: Option<u32>,
    /// DNS servers (RFC 8106).
    pub dns: Vec<Ipv6Addr>,
}

impl Guest {
    /// Solicits routers, once a second, until one advertises itself; takes an address from each autonomous /64 prefix
    /// and the router as gateway, as a host does.
    ///
    /// # Errors
    /// `Timeout`.
    pub fn solicit_router(&mut self, deadline: Duration) -> Result<RouterAdvertisement, GuestError> {
        // Only what comes from now on counts.
        self.device.icmpv6.clear();
        let mut asked: Option<Instant> = None;
        let heard = self.until(
            || "router advertisement".to_owned(),
            deadline,
            |guest| {
                if asked.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                    asked = Some(Instant::now());
                    let frame = guest.solicitation();
                    guest.send_frame(&frame);
                }
                guest.device.icmpv6.iter().find_map(|frame| parse(frame))
            },
        )?;
        for prefix in heard.prefixes.iter().filter(|p| p.autonomous && p.len == 64) {
            self.add_address(self.eui64(prefix.prefix).into(), 64);
        }
        if !heard.lifetime.is_zero() {
            self.set_gateway(heard.router.into());
        }
        Ok(heard)
    }

    /// A router solicitation from the guest's link-local address.
    fn solicitation(&self) -> Vec<u8> {
        let source = self.eui64(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0));
        let solicit = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: Some(EthernetAddress(self.mac).into()) });
        let mut frame = vec![0; ETHERNET_LEN + IPV6_LEN + solicit.buffer_len()];
        EthernetRepr {
            src_addr: EthernetAddress(self.mac),
            dst_addr: ALL_ROUTERS_MAC,
            ethertype: EthernetProtocol::Ipv6,
        }
        .emit(&mut EthernetFrame::new_unchecked(&mut frame));
        Ipv6Repr {
            src_addr: source,
            dst_addr: ALL_ROUTERS,
            next_header: IpProtocol::Icmpv6,
            payload_len: solicit.buffer_len(),
            hop_limit: 255,
        }
        .emit(&mut Ipv6Packet::new_unchecked(&mut frame[ETHERNET_LEN..]));
        let mut packet = Icmpv6Packet::new_unchecked(&mut frame[ETHERNET_LEN + IPV6_LEN..]);
        solicit.emit(&source, &ALL_ROUTERS, &mut packet, &ChecksumCapabilities::default());
        frame
    }
}

fn parse(frame: &[u8]) -> Option<RouterAdvertisement> {
    let ip = Ipv6Packet::new_checked(frame.get(ETHERNET_LEN..)?).ok()?;
    let packet = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    let icmp = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &packet, &ChecksumCapabilities::default());
    let Ok(Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert { flags, router_lifetime, mtu, .. })) = icmp else {
        return None;
    };
    // That reader keeps one prefix only, so the options are read again here.
    let (mut prefixes, mut dns) = (Vec::new(), Vec::new());
    let mut rest = ip.payload().get(ADVERTISEMENT_LEN..)?;
    while let Some(len) = rest.get(1).map(|len| usize::from(*len) * 8).filter(|len| *len > 0) {
        let bytes = rest.get(..len)?;
        let option = NdiscOption::new_checked(bytes).ok()?;
        rest = &rest[len..];
        if bytes[0] == DNS_SERVERS {
            let (addresses, _) = bytes[8..].as_chunks::<16>();
            dns.extend(addresses.iter().copied().map(Ipv6Addr::from));
        }
        if option.option_type() == NdiscOptionType::PrefixInformation {
            let flags = option.prefix_flags();
            prefixes.push(Prefix {
                prefix: option.prefix(),
                len: option.prefix_len(),
                on_link: flags.contains(NdiscPrefixInfoFlags::ON_LINK),
                autonomous: flags.contains(NdiscPrefixInfoFlags::ADDRCONF),
                valid: option.valid_lifetime().into(),
            });
        }
    }
    Some(RouterAdvertisement {
        router: ip.src_addr(),
        lifetime: router_lifetime.into(),
        managed: flags.contains(NdiscRouterFlags::MANAGED),
        other: flags.contains(NdiscRouterFlags::OTHER),
        prefixes,
        mtu,
        dns,
    })
}
