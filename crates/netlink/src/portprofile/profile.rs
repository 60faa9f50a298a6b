//! 802.1Qbh: asking the device's driver through the kernel.

use std::fmt;

use super::{
    ASK, IFLA_PORT_INSTANCE_UUID, IFLA_PORT_REQUEST, IFLA_PORT_VF, IFLA_VF_PORT, IFLA_VF_PORTS, Operation, Port,
    Response, SET,
};
use crate::attr::{Attrs, Writer};
use crate::error::Error;
use crate::link::HEADER;
use crate::socket::{Request, Socket};
use crate::vf::{self, IFLA_VFINFO_LIST};

const IFLA_PORT_SELF: u16 = 25;
const IFLA_PORT_PROFILE: u16 = 2;
const IFLA_PORT_HOST_UUID: u16 = 5;
/// `PORT_PROFILE_MAX`: room for a profile's name and its NUL.
const PROFILE_ROOM: usize = 40;

/// The name of an 802.1Qbh port profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileName([u8; PROFILE_ROOM]);

impl ProfileName {
    /// `None` for a name of none or of more than 39 bytes, or with a NUL in it.
    pub fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        let mut room = [0; PROFILE_ROOM];
        let fits = !bytes.is_empty() && bytes.len() < PROFILE_ROOM && !bytes.contains(&0);
        fits.then(|| {
            room[..bytes.len()].copy_from_slice(bytes);
            ProfileName(room)
        })
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It was made from text; the rest of the room is NULs.
        f.write_str(String::from_utf8_lossy(&self.0).trim_end_matches('\0'))
    }
}

/// A guest's port as 802.1Qbh sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The profile's name on the switch.
    pub name: ProfileName,
    /// The guest's UUID.
    pub instance: [u8; 16],
    /// The host's UUID.
    pub host: [u8; 16],
    /// The guest's Ethernet address, which a virtual function is given with the profile; a device of its own has it
    /// already.
    pub mac: [u8; 6],
}

impl Request {
    /// Asks the driver of the link with this index for a port profile: for the virtual function with that number when
    /// the link is a PF, else for the link itself.
    pub fn port_profile(index: u32, vf: Option<u32>, operation: Operation, profile: &Profile) -> Self {
        let disassociate = operation == Operation::Disassociate;
        let mut port = Writer::new();
        if !disassociate {
            // All of the room: the only driver that has port profiles, enic, refuses shorter names since Linux 6.10, and
            // read behind their end before that.
            port.put(IFLA_PORT_PROFILE, &profile.name.0);
            port.put(IFLA_PORT_INSTANCE_UUID, &profile.instance);
            port.put(IFLA_PORT_HOST_UUID, &profile.host);
        }
        let Some(number) = vf else {
            // No IFLA_VF_MAC here: kernels refuse it for a device itself by now, and the driver takes the device's address.
            port.put(IFLA_PORT_REQUEST, &[operation.number()]);
            return vf::set_link(SET, index, [(IFLA_PORT_SELF, port.into_bytes())]);
        };
        port.put(IFLA_PORT_VF, &number.to_ne_bytes());
        port.put(IFLA_PORT_REQUEST, &[operation.number()]);
        let mut ports = Writer::new();
        ports.put(IFLA_VF_PORT, &port.into_bytes());
        let mac = (!disassociate).then(|| {
            let mut info = Writer::new();
            vf::put_mac(&mut info, number, profile.mac);
            (IFLA_VFINFO_LIST, vf::info_list(info))
        });
        vf::set_link(SET, index, mac.into_iter().chain([(IFLA_VF_PORTS, ports.into_bytes())]))
    }
}

impl Socket {
    /// How the last request went for the link with this index, or for its virtual function with that number. `None`
    /// when the driver knows of none, or there is no such link.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn port_profile(&mut self, index: u32, vf: Option<u32>) -> Result<Option<Response>, Error> {
        let payload = self.link_with_vfs(ASK, index)?;
        Ok(payload.and_then(|payload| read(&payload, vf)))
    }
}

/// In the kernel's answer a port that nothing was asked for is there without a response, or isn't there.
pub(crate) fn read(payload: &[u8], vf: Option<u32>) -> Option<Response> {
    match vf {
        Some(number) => super::ports(payload).find(|port| port.vf == Some(number))?.response,
        None => {
            let port = Attrs::after(payload, HEADER).find(|attr| attr.kind == IFLA_PORT_SELF)?;
            Port::read(port.nested()).response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portprofile::IFLA_PORT_RESPONSE;

    fn profile() -> Profile {
        let name = ProfileName::new("gold").unwrap();
        Profile { name, instance: [0x11; 16], host: [0x22; 16], mac: [0x52, 0x54, 0, 1, 2, 3] }
    }

    fn body(vf: Option<u32>, operation: Operation) -> String {
        let request = Request::port_profile(3, vf, operation, &profile());
        request.body.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_driver_is_asked_with_these_bytes() {
        let header = "00000000030000000000000000000000";
        let details =
            format!("2c000200676f6c64{}14000400{}14000500{}", "00".repeat(36), "11".repeat(16), "22".repeat(16));
        // IFLA_PORT_SELF with details and request.
        let own = body(None, Operation::Associate);
        assert_eq!(own, format!("{header}60001900{details}0500060002000000"));
        assert_eq!(body(None, Operation::Disassociate), format!("{header}0c0019000500060003000000"));
        // The VF's MAC in IFLA_VFINFO_LIST, then IFLA_VF_PORTS with details, number and request.
        let mac = format!("300016002c0001002800010005000000525400010203{}", "00".repeat(26));
        let vf = body(Some(5), Operation::PreAssociateReserving);
        assert_eq!(vf, format!("{header}{mac}6c00180068000100{details}08000100050000000500060001000000"));
        let off = body(Some(5), Operation::Disassociate);
        assert_eq!(off, format!("{header}180018001400010008000100050000000500060003000000"));
    }

    #[test]
    fn names_fit_the_room() {
        let longest = "x".repeat(39);
        assert_eq!(ProfileName::new(&longest).unwrap().to_string(), longest);
        assert_eq!(ProfileName::new("goldé").unwrap().to_string(), "goldé");
        for bad in ["", "a\0b", &"x".repeat(40)] {
            assert_eq!(ProfileName::new(bad), None, "{bad:?}");
        }
    }

    /// One port as enic tells it: request and response of 16 bits, name and UUIDs of their whole room.
    fn port(vf: Option<u32>, response: Option<u16>) -> Vec<u8> {
        let mut port = Writer::new();
        if let Some(number) = vf {
            port.put(IFLA_PORT_VF, &number.to_ne_bytes());
        }
        port.put(IFLA_PORT_REQUEST, &2u16.to_ne_bytes());
        if let Some(response) = response {
            port.put(IFLA_PORT_RESPONSE, &response.to_ne_bytes());
        }
        port.put(IFLA_PORT_PROFILE, &profile().name.0).put(IFLA_PORT_INSTANCE_UUID, &[0x11; 16]);
        port.into_bytes()
    }

    #[test]
    fn answers_of_the_driver_are_read() {
        let mut ports = Writer::new();
        for (number, response) in [(0, Some(0x100)), (1, Some(0x101)), (2, Some(0x103)), (3, None)] {
            ports.put(IFLA_VF_PORT, &port(Some(number), response));
        }
        let mut message = Writer::new();
        message.raw(&[0; HEADER]).put(3, b"eth0\0").put(IFLA_VF_PORTS, &ports.into_bytes());
        let message = message.put(IFLA_PORT_SELF, &port(None, Some(0x104))).clone().into_bytes();
        assert_eq!(read(&message, Some(0)), Some(Response::Success));
        assert_eq!(read(&message, Some(1)), Some(Response::InProgress));
        let words = |response| match response {
            Some(Response::Failed(failure)) => failure.to_string(),
            other => panic!("{other:?}"),
        };
        let bad_state = "the driver can't do that in the port's present state (response 259)";
        assert_eq!(words(read(&message, Some(2))), bad_state);
        let exhausted = "the switch or the device has no resources left for it (response 260)";
        assert_eq!(words(read(&message, None)), exhausted);
        assert_eq!(read(&message, Some(3)), None);
        assert_eq!(read(&message, Some(4)), None);
        assert_eq!(read(&message[..HEADER], None), None);
    }
}
