//! Whoever decides about ports, played by a script: lldpad, or a device's driver in the kernel's place.

use patchcord_testkit::NetlinkPeer;
use uuid::Uuid;

pub(crate) const INSTANCE: Uuid = Uuid::from_u128(0xfa9b_7fff_b0a0_4893_8e0e_beef_4ff1_8f8f);

const NLMSG_HEADER: usize = 16;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;

// Of linux/if_link.h.
const IFLA_VF_PORTS: u16 = 24;
const IFLA_PORT_SELF: u16 = 25;
const IFLA_VF_PORT: u16 = 1;
const IFLA_PORT_VF: u16 = 1;
const IFLA_PORT_INSTANCE_UUID: u16 = 4;
const IFLA_PORT_RESPONSE: u16 = 7;
const PORT_VDP_RESPONSE_INVALID_VSI_TYPE: u16 = 4;
const PORT_PROFILE_RESPONSE_SUCCESS: u16 = 0x100;
const PORT_PROFILE_RESPONSE_INPROGRESS: u16 = 0x101;

/// What the script has no answer for.
const UNEXPECTED: &str = "errno:71";
const EPROTO: i32 = 71;

/// Who is played.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// lldpad, which has another's port and ours.
    Lldpad,
    /// The driver of a device with a port of its own and one for each of its virtual functions, one of which is ours.
    Driver { vf: Option<u32> },
}

/// Answers each message by the next word of the script, questions all by `waiting` while that is the next, and tells `log`
/// what it received, without sequence number and port. A message too short for any ends it.
pub(crate) fn play(peer: &NetlinkPeer, role: Role, script: &str, mut log: impl FnMut(String)) {
    let mut words = script.split_whitespace().peekable();
    loop {
        let (message, from) = peer.receive();
        if message.len() < NLMSG_HEADER {
            return;
        }
        let told = [&message[..8], &message[NLMSG_HEADER..]].concat();
        let told: String = told.iter().map(|byte| format!("{byte:02x}")).collect();
        log(told);
        if let Role::Lldpad = role {
            assert_eq!(message[12..16], from.to_ne_bytes(), "lldpad keeps the port that is written in a request");
        }
        let question = message[4..6] == RTM_GETLINK.to_ne_bytes();
        let answer = |known: Known| match role {
            Role::Lldpad => peer.answer(from, &message, NLMSG_DONE, &listed(known)),
            Role::Driver { vf } => {
                peer.answer(from, &message, RTM_NEWLINK, &link(vf, known));
                peer.acknowledge(from, &message, 0);
            }
        };
        if words.peek() == Some(&"waiting") {
            if question {
                answer(Known::InProgress);
                continue;
            }
            words.next();
        }
        // The kernel never says nothing, and isn't waited for with a deadline.
        let at_the_end = if let Role::Lldpad = role { "silence" } else { UNEXPECTED };
        let word = words.next().unwrap_or(at_the_end);
        let (word, number) = word.split_once(':').unwrap_or((word, "0"));
        match (word, question) {
            ("ack", false) => peer.acknowledge(from, &message, 0),
            ("errno", _) => peer.acknowledge(from, &message, number.parse().unwrap()),
            ("progress", true) => answer(Known::InProgress),
            ("code", true) => answer(Known::Decided(number.parse().unwrap())),
            ("none", true) => answer(Known::Nothing),
            ("silence", _) => {}
            // Whoever asks fails, instead of waiting for what doesn't come.
            _ => peer.acknowledge(from, &message, EPROTO),
        }
    }
}

/// What is known of our port.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    InProgress,
    Decided(u16),
}

/// One attribute.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn response(code: u16) -> Vec<u8> {
    attribute(IFLA_PORT_RESPONSE, &code.to_ne_bytes())
}

/// A message about link 2.
fn about_link(attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut header = vec![0; 16];
    header[4] = 2;
    [header, attributes.concat()].concat()
}

/// What lldpad answers: it lists another's port, and then ours, which has no response while that is under way.
fn listed(known: Known) -> Vec<u8> {
    let port = |instance: Uuid, response: Vec<u8>| {
        let parts = [
            attribute(IFLA_PORT_INSTANCE_UUID, instance.as_bytes()),
            attribute(IFLA_PORT_VF, &u32::MAX.to_ne_bytes()),
            response,
        ];
        attribute(IFLA_VF_PORT, &parts.concat())
    };
    let mut ports = port(Uuid::from_u128(7), response(PORT_VDP_RESPONSE_INVALID_VSI_TYPE));
    ports.extend(match known {
        Known::Nothing => Vec::new(),
        Known::InProgress => port(INSTANCE, Vec::new()),
        Known::Decided(code) => port(INSTANCE, response(code)),
    });
    about_link(&[attribute(IFLA_VF_PORTS, &ports)])
}

/// What the kernel says of a link: the ports of its virtual functions and its own. All but ours have got what they asked
/// for; ours has no response as long as nothing was asked for.
fn link(vf: Option<u32>, known: Known) -> Vec<u8> {
    let ours = match known {
        Known::Nothing => Vec::new(),
        Known::InProgress => response(PORT_PROFILE_RESPONSE_INPROGRESS),
        Known::Decided(code) => response(code),
    };
    let of = |who: Option<u32>| if who == vf { ours.clone() } else { response(PORT_PROFILE_RESPONSE_SUCCESS) };
    let of_function = |number: u32| {
        let parts = [attribute(IFLA_PORT_VF, &number.to_ne_bytes()), of(Some(number))];
        attribute(IFLA_VF_PORT, &parts.concat())
    };
    let functions: Vec<u8> = (0..5).flat_map(of_function).collect();
    about_link(&[attribute(IFLA_VF_PORTS, &functions), attribute(IFLA_PORT_SELF, &of(None))])
}
