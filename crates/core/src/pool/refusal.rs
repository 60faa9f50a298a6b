//! Why there is no device, for people.

use super::{Device, Unusable};
use crate::{Error, ErrorKind};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use uuid::Uuid;

/// Devices that a message speaks of at most; of the others it says how many they are.
const DEVICES: usize = 8;

/// Holders of one device that a message names at most.
const HOLDERS: usize = 4;

impl Unusable {
    /// Who uses it: NICs that have it or had it until just now, the host itself, or nobody.
    pub const fn used_by(&self) -> UsedBy {
        match self {
            Self::Leaving | Self::LinkHeld(_) | Self::GivenAway(_) => UsedBy::Nics,
            Self::PortOf(_) | Self::Carries(_) | Self::TakenBy(_) | Self::HostsOwn(..) => UsedBy::Host,
            Self::Absent | Self::Loopback | Self::NoCarrier | Self::NotRestored(_) | Self::NoFunction => UsedBy::Nobody,
        }
    }
}

impl fmt::Display for Unusable {
    /// The rest of a sentence that begins with the device.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("is not there"),
            Self::NoCarrier => f.write_str("has no carrier"),
            Self::Leaving => f.write_str("is being given back just now"),
            Self::NotRestored(cause) => {
                write!(f, "could not be made what it was before its last guest, which is tried again: {cause}")
            }
            Self::PortOf(controller) => write!(f, "is a port of {controller}, which takes all its frames"),
            Self::Carries(macvlan) => write!(f, "carries {macvlan}, which is not ours, and is wanted exclusively"),
            Self::Loopback => f.write_str("is the host's loopback, which leads nowhere"),
            Self::NoFunction => f.write_str("is no virtual function of a device of this host's"),
            Self::LinkHeld(link) => write!(f, "has the link {link}, which NICs sit on"),
            Self::HostsOwn(link, address) => write!(f, "has the link {link}, on which the host has {address}"),
            Self::GivenAway(address) => write!(f, "is the link of {address}, which a guest has"),
            Self::TakenBy(macvlan) => write!(f, "is taken by {macvlan}, which is not ours, in passthrough mode"),
        }
    }
}

/// Why a device was not given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It can't be used now.
    Unusable(Unusable),
    /// It is held by others.
    Held {
        /// Some of them.
        holders: Vec<Uuid>,
        /// How many there are besides.
        more: usize,
        /// Whether they have it exclusively. If not, it was to be given out exclusively.
        exclusive: bool,
    },
}

impl Reason {
    pub(super) fn held(all: &BTreeSet<Uuid>, but: Uuid, exclusive: bool) -> Self {
        let holders: Vec<Uuid> = all.iter().filter(|h| **h != but).take(HOLDERS).copied().collect();
        let more = all.len() - holders.len() - usize::from(all.contains(&but));
        Self::Held { holders, more, exclusive }
    }
}

/// Who uses a device that is not given out for that reason; the last of several devices' counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsedBy {
    /// Nobody: it is not there, or out of order.
    #[default]
    Nobody,
    /// The host, or programs of it that are not ours.
    Host,
    /// NICs, which might give it back.
    Nics,
}

/// That no device was given out, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Why not, for the first devices, in order.
    pub reasons: Vec<(Device, Reason)>,
    /// How many devices there are besides.
    pub more: usize,
    /// Who uses one of all devices.
    pub used_by: UsedBy,
}

impl Refusal {
    pub(super) fn new<'a>(all: impl IntoIterator<Item = (&'a Device, Reason)>) -> Self {
        let mut refusal = Self::default();
        for (device, reason) in all {
            refusal.used_by = refusal.used_by.max(match &reason {
                Reason::Held { .. } => UsedBy::Nics,
                Reason::Unusable(why) => why.used_by(),
            });
            if refusal.reasons.len() < DEVICES {
                refusal.reasons.push((device.clone(), reason));
            } else {
                refusal.more += 1;
            }
        }
        refusal
    }

    /// Whether devices are missing, and none is in the way of others.
    pub fn is_absence(&self) -> bool {
        let absent = |reason: &Reason| matches!(reason, Reason::Unusable(Unusable::Absent | Unusable::NoCarrier));
        self.used_by == UsedBy::Nobody && self.reasons.iter().all(|(_, reason)| absent(reason))
    }

    /// The error that users see: `InUse` if somebody uses a device, `NoDevice` if all are out of use, or there are none.
    /// `name` says what users call a holder.
    pub fn into_error(self, object: impl Into<String>, name: impl Fn(Uuid) -> String) -> Error {
        let mut cause = String::new();
        for (device, reason) in &self.reasons {
            let _ = write!(cause, "{}{device} ", if cause.is_empty() { "" } else { "; " });
            match reason {
                Reason::Unusable(why) => {
                    let _ = write!(cause, "{why}");
                }
                Reason::Held { holders, more, exclusive } => {
                    let mut names: Vec<_> = holders.iter().map(|holder| name(*holder)).collect();
                    if *more > 0 {
                        names.push(format!("{more} more"));
                    }
                    let last = names.pop().unwrap_or_default();
                    let names = if names.is_empty() { last } else { format!("{} and {last}", names.join(", ")) };
                    cause += if *exclusive { "is held exclusively by " } else { "is held by " };
                    cause += &names;
                }
            }
        }
        if self.more > 0 {
            let _ = write!(cause, "; and {} more", self.more);
        }
        let (kind, cause, hint) = match (self.used_by, self.reasons.len()) {
            (UsedBy::Nics, 1) => (ErrorKind::InUse, cause, "detach those who hold it, or use another"),
            (UsedBy::Host, 1) => (ErrorKind::InUse, cause, "free it on the host, or use another"),
            (UsedBy::Nics, _) => {
                let hint = "detach those who hold one of them, or list more";
                (ErrorKind::InUse, format!("no device is free: {cause}"), hint)
            }
            (UsedBy::Host, _) => {
                let hint = "free one of them on the host, or list more";
                (ErrorKind::InUse, format!("no device is free: {cause}"), hint)
            }
            (UsedBy::Nobody, 0) => {
                (ErrorKind::NoDevice, "no devices are listed".into(), "list some in the network's <forward>")
            }
            (UsedBy::Nobody, _) => {
                let hint = "list other devices, or wait for one to come with startupPolicy='optional' on <source>";
                (ErrorKind::NoDevice, format!("no device can be used: {cause}"), hint)
            }
        };
        Error::new(kind, object, cause).hint(hint)
    }
}
