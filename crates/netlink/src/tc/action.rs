//! What a filter does with the frames that it matches.

use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType, TcMirror, TcMirrorActionType,
};

use crate::attr::{Attr, Attrs};

const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_ACT_COOKIE: u16 = 6;

const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: i32 = 1;
/// Where `struct tc_mirred` has its direction and its target, behind five general fields of 32 bits.
const MIRRED_EACTION: usize = 20;
const MIRRED_IFINDEX: usize = 24;

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
        _ => None,
    });
    let cookie = Attrs::find(action.value, TCA_ACT_COOKIE).map(|cookie| cookie.value.to_vec());
    Action { kind: kind.unwrap_or(ActionKind::Other(name)), cookie }
}

fn read_redirect(options: &Attr<'_>) -> Option<ActionKind> {
    let parameters = Attrs::find(options.value, TCA_MIRRED_PARMS)?.value;
    let word = |at: usize| parameters.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied();
    let direction = i32::from_ne_bytes(word(MIRRED_EACTION)?);
    let to = u32::from_ne_bytes(word(MIRRED_IFINDEX)?);
    (direction == TCA_EGRESS_REDIR).then_some(ActionKind::Redirect { to })
}
