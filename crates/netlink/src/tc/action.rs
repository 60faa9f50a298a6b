//! What a filter does with the frames that it matches.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType, TcMirror, TcMirrorActionType,
};

use super::rate;
use crate::attr::{Attr, Attrs};

const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_ACT_COOKIE: u16 = 6;

const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
/// Where `struct tc_mirred` has its direction and its target, behind five general fields of 32 bits.
const MIRRED_EACTION: usize = 20;
const MIRRED_IFINDEX: usize = 24;

const TCA_POLICE_TBF: u16 = 1;
const TCA_POLICE_RATE: u16 = 2;
const TCA_POLICE_RESULT: u16 = 5;
const TCA_POLICE_RATE64: u16 = 8;
/// Where `struct tc_police` has its parts, and its length.
const POLICE_ACTION: usize = 4;
const POLICE_BURST: usize = 12;
const POLICE_MTU: usize = 16;
const POLICE_RATE: usize = 20;
const POLICE: usize = 56;
/// The kernel asks for a table of times and, in front of it, for a step that is not 0, and has not looked at either
/// since Linux 3.9 (`qdisc_get_rtab`).
const TABLE: [u8; 1024] = [0; 1024];
const TABLE_STEP: u8 = 9;

/// Verdicts: the next filter decides; the frame is dropped.
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;

/// An action of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What it does.
    pub kind: ActionKind,
    /// The mark that its maker gave it, at most 16 bytes.
    pub cookie: Option<Vec<u8>>,
}

/// What an action does, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// The frame is sent out of another link instead.
    Redirect {
        /// Index of that link; 0 when it is gone.
        to: u32,
    },
    /// Frames are dropped above a rate.
    Police {
        /// In bytes per second; 0 if there is none.
        rate: u64,
        /// In bytes; see [`rounded_burst`](super::rounded_burst).
        burst: u64,
        /// The longest frame, in bytes.
        mtu: u32,
    },
    /// Anything else, by the kernel's name for it, such as `gact`; `mirred` for a mirror, empty if it is not told.
    Other(String),
}

/// Sends frames out of `to` and ends their way here.
pub(super) fn redirect(to: u32, cookie: [u8; 16]) -> TcAction {
    let mut parameters = TcMirror::default();
    parameters.generic.action = TcActionType::Stolen;
    parameters.eaction = TcMirrorActionType::EgressRedir;
    parameters.ifindex = to;
    let options = vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(parameters))];
    action("mirred", options, cookie)
}

/// Drops frames above a rate or longer than `mtu`, and leaves the others to the filters behind.
pub(super) fn police(rate: u64, burst: u64, mtu: u32, cookie: [u8; 16]) -> TcAction {
    let mut parameters = [0; POLICE];
    let mut put = |at: usize, bytes: &[u8]| parameters[at..at + bytes.len()].copy_from_slice(bytes);
    put(POLICE_ACTION, &TC_ACT_SHOT.to_ne_bytes());
    put(POLICE_BURST, &rate::ticks(burst, rate).to_ne_bytes());
    put(POLICE_MTU, &mtu.to_ne_bytes());
    put(POLICE_RATE, &rate::spec(rate, TABLE_STEP));
    let other = |kind, value: &[u8]| TcActionOption::Other(DefaultNla::new(kind, value.to_vec()));
    let mut options = vec![other(TCA_POLICE_TBF, &parameters), other(TCA_POLICE_RATE, &TABLE)];
    options.extend(rate::wide(rate).map(|rate| other(TCA_POLICE_RATE64, &rate.to_ne_bytes())));
    options.push(other(TCA_POLICE_RESULT, &TC_ACT_UNSPEC.to_ne_bytes()));
    action("police", options, cookie)
}

fn action(kind: &str, options: Vec<TcActionOption>, cookie: [u8; 16]) -> TcAction {
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(kind.to_owned()),
        TcActionAttribute::Options(options),
        TcActionAttribute::Cookie(cookie.to_vec()),
    ];
    action
}

/// Reads a filter's actions, in their order.
pub(super) fn read_all(bytes: &[u8]) -> Vec<Action> {
    Attrs::new(bytes).map(|attr| read(&attr)).collect()
}

fn read(action: &Attr<'_>) -> Action {
    let name = Attrs::find(action.value, TCA_ACT_KIND).map(|kind| kind.text()).unwrap_or_default();
    let options = Attrs::find(action.value, TCA_ACT_OPTIONS);
    let kind = options.and_then(|options| match name.as_str() {
        "mirred" => read_redirect(&options),
        "police" => read_police(&options),
        _ => None,
    });
    let cookie = Attrs::find(action.value, TCA_ACT_COOKIE).map(|cookie| cookie.value.to_vec());
    Action { kind: kind.unwrap_or(ActionKind::Other(name)), cookie }
}

fn read_redirect(options: &Attr<'_>) -> Option<ActionKind> {
    let parameters = Attrs::find(options.value, TCA_MIRRED_PARMS)?;
    let direction = parameters.u32_at(MIRRED_EACTION)?;
    let to = parameters.u32_at(MIRRED_IFINDEX)?;
    (direction == TCA_EGRESS_REDIR).then_some(ActionKind::Redirect { to })
}

fn read_police(options: &Attr<'_>) -> Option<ActionKind> {
    let parameters = Attrs::find(options.value, TCA_POLICE_TBF)?;
    let narrow = parameters.u32_at(POLICE_RATE + rate::SPEC_RATE)?;
    let wide = Attrs::find(options.value, TCA_POLICE_RATE64).and_then(|rate| rate.u64());
    let rate = wide.unwrap_or(narrow.into());
    let burst = rate::bytes(parameters.u32_at(POLICE_BURST)?, rate);
    Some(ActionKind::Police { rate, burst, mtu: parameters.u32_at(POLICE_MTU)? })
}
