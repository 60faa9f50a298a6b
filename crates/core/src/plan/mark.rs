//! Marks: how a kernel object shows that it is ours, and what for.

use std::{fmt, str::FromStr};
use uuid::Uuid;

/// Link group of links that live, of none but ours. The number spells `pc`.
pub const GROUP_LIVE: u32 = 0x7063;
/// Link group of links that are about to be deleted, all at once. Nothing else may be in it.
pub const GROUP_DOOMED: u32 = 0x7064;
/// Link group of links that nobody put into another one, and so that of a claimed bridge.
pub const GROUP_NONE: u32 = 0;
/// Protocol number of our routes (`rtm_protocol`; numbers above 63 are free for routing daemons).
pub const ROUTE_PROTOCOL: u8 = 112;
/// Protocol number of our addresses (`IFA_PROTO`, kernel 5.18 and later; older kernels ignore it).
pub const ADDRESS_PROTOCOL: u8 = 112;

/// What a marked link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MarkKind {
    /// The bridge of the network with that UUID.
    Bridge,
    /// The tap of the NIC with that id.
    Tap,
    /// The macvlan of the NIC with that id.
    Macvlan,
    /// The ifb in which what comes in at the tap or macvtap of the NIC with that id waits.
    Ifb,
    /// The ifb in which what comes in at the bridge of the network with that UUID waits.
    NetworkIfb,
}

impl MarkKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Bridge, Self::Tap, Self::Macvlan, Self::Ifb, Self::NetworkIfb];

    /// The word in a mark.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Tap => "tap",
            Self::Macvlan => "macvlan",
            Self::Ifb => "ifb",
            Self::NetworkIfb => "network-ifb",
        }
    }
}

/// `patchcord:INSTANCE:KIND:UUID`, the link alias of what we made; a bridge that has it and is not in our link group is
/// one that others made and a network of ours has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// The installation that made it.
    pub instance: Uuid,
    /// What it is.
    pub kind: MarkKind,
    /// Which network or NIC it belongs to.
    pub id: Uuid,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "patchcord:{}:{}:{}", self.instance, self.kind.as_str(), self.id)
    }
}

impl FromStr for Mark {
    type Err = ();

    /// Anything that isn't exactly a mark is somebody else's alias.
    fn from_str(s: &str) -> Result<Self, ()> {
        let mut parts = s.split(':');
        if parts.next() != Some("patchcord") {
            return Err(());
        }
        let mut uuid = || parts.next().and_then(|p| Uuid::try_parse(p).ok()).ok_or(());
        let instance = uuid()?;
        let word = parts.next().ok_or(())?;
        let kind = MarkKind::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or(())?;
        let id = parts.next().and_then(|p| Uuid::try_parse(p).ok()).ok_or(())?;
        if parts.next().is_some() { Err(()) } else { Ok(Self { instance, kind, id }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let mark = Mark { instance: Uuid::from_u128(1), kind: MarkKind::Tap, id: Uuid::from_u128(2) };
        for kind in MarkKind::ALL {
            let mark = Mark { kind, ..mark };
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        for other in ["", "patchcord", "uplink of rack 4", "patchcord:x:tap:y", &format!("{mark}:more")] {
            assert_eq!(other.parse::<Mark>(), Err(()), "{other}");
        }
    }
}
