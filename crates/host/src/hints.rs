//! What the watcher heard and the executor has not looked at yet: each object once, however often it changed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use patchcord_netlink::Link;
use patchcord_netlink::nft;

/// An object to look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Everything: announcements were lost.
    Everything(&'static str),
    /// The link of that index, and what the kernel told about it last, if it told all.
    Link(u32, Option<Box<Link>>),
    /// The addresses of the link of that index.
    Addresses(u32),
    /// What the link of that index hands on.
    Traffic(u32),
    /// The main table.
    Routes,
    /// Whether the host forwards.
    Settings,
    /// Virtual functions of devices.
    Functions,
    /// Packet rules that somebody else changed; who, where known.
    Rules(Option<String>),
}

#[derive(Debug, Default)]
struct Pending {
    everything: Option<&'static str>,
    links: BTreeMap<u32, Option<Box<Link>>>,
    addresses: BTreeSet<u32>,
    traffic: BTreeSet<u32>,
    routes: bool,
    settings: bool,
    functions: bool,
    /// Transactions since, by the port they came through, with who made them; the last of each port.
    rules: BTreeMap<u32, Option<String>>,
    told: Told,
}

/// What whoever looks knows of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    /// Nothing.
    #[default]
    Nothing,
    /// Of what is read whole, and it waits for the time of that.
    Heavy,
    /// There is something to look at.
    Something,
}

impl Pending {
    fn light(&self) -> bool {
        let objects = self.links.len() + self.addresses.len() + self.traffic.len();
        objects > 0 || self.settings
    }

    fn heavy(&self) -> bool {
        self.everything.is_some() || self.functions || self.routes || !self.rules.is_empty()
    }
}

/// The hints between watcher and executor. There are never more than one for each object.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    pending: Mutex<Pending>,
}

impl Hints {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing panics while it holds the lock.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what rtnetlink announced.
    pub(crate) fn add_route(&self, heard: Vec<patchcord_netlink::Hint>) {
        use patchcord_netlink::Hint as Heard;
        let mut pending = self.lock();
        for hint in heard {
            match hint {
                Heard::Link { index, gone, link } => {
                    // Where one announcement told only a part, what an earlier one told is out of date, and a later one
                    // doesn't tell that part.
                    let link = link.filter(|_| !gone);
                    match pending.links.entry(index) {
                        Entry::Vacant(new) => {
                            new.insert(link);
                        }
                        Entry::Occupied(mut known) if known.get().is_some() => {
                            known.insert(link);
                        }
                        Entry::Occupied(_) => {}
                    }
                }
                Heard::Address { index } => {
                    pending.addresses.insert(index);
                }
                Heard::Route => pending.routes = true,
                Heard::Settings => pending.settings = true,
                Heard::Traffic { index } => {
                    pending.traffic.insert(index);
                }
                Heard::Neighbour { .. } => {}
                Heard::Resync { reason } => pending.everything = Some(reason),
            }
        }
    }

    /// Takes up what nftables announced.
    pub(crate) fn add_rules(&self, heard: Vec<nft::Change>) {
        let mut pending = self.lock();
        for change in heard {
            match change {
                nft::Change::Committed { generation, port } => {
                    let who = (!generation.process.is_empty())
                        .then(|| format!("{} (pid {})", generation.process, generation.pid));
                    pending.rules.insert(port, who);
                }
                nft::Change::Resync { reason } => pending.everything = Some(reason),
            }
        }
    }

    /// The routes may be different, though nothing was announced.
    pub(crate) fn add_routes(&self) {
        self.lock().routes = true;
    }

    /// Devices may have other virtual functions, or those other links.
    pub(crate) fn add_functions(&self) {
        self.lock().functions = true;
    }

    /// Everything is to be read again.
    pub(crate) fn add_everything(&self, reason: &'static str) {
        self.lock().everything = Some(reason);
    }

    /// Forgets all: everything is about to be read.
    pub(crate) fn clear(&self) {
        *self.lock() = Pending::default();
    }

    /// Whether whoever looks is to be told that there is something: once, until it found nothing any more. It is not woken
    /// again while it waits for a better time, by more of what that is for.
    pub(crate) fn ring(&self) -> bool {
        let mut pending = self.lock();
        match pending.told {
            Told::Something => return false,
            Told::Heavy if !pending.light() => return false,
            Told::Heavy | Told::Nothing => {}
        }
        pending.told = Told::Something;
        true
    }

    /// The next object to look at, links first; functions, routes and rules, which are read whole, and everything only when
    /// `heavy` ones may be.
    /// Changes of packet rules through `own_port` are our own.
    pub(crate) fn next(&self, own_port: Option<u32>, heavy: bool) -> Option<Hint> {
        let mut pending = self.lock();
        if let (Some(reason), true) = (pending.everything, heavy) {
            *pending = Pending::default();
            return Some(Hint::Everything(reason));
        }
        if let Some((index, link)) = pending.links.pop_first() {
            return Some(Hint::Link(index, link));
        }
        if let Some(index) = pending.addresses.pop_first() {
            return Some(Hint::Addresses(index));
        }
        if let Some(index) = pending.traffic.pop_first() {
            return Some(Hint::Traffic(index));
        }
        if std::mem::take(&mut pending.settings) {
            return Some(Hint::Settings);
        }
        if !heavy {
            pending.told = if pending.heavy() { Told::Heavy } else { Told::Nothing };
            return None;
        }
        if std::mem::take(&mut pending.functions) {
            return Some(Hint::Functions);
        }
        if std::mem::take(&mut pending.routes) {
            return Some(Hint::Routes);
        }
        let changed = std::mem::take(&mut pending.rules);
        let mut others = changed.into_iter().filter(|(port, _)| Some(*port) != own_port).map(|(_, who)| who);
        let rules = others.next_back().map(Hint::Rules);
        if rules.is_none() {
            pending.told = Told::Nothing;
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use patchcord_netlink::Hint as Heard;

    fn told(index: u32, name: &str) -> Heard {
        let link = Link { index, name: name.to_owned(), ..Link::default() };
        Heard::Link { index, gone: false, link: Some(Box::new(link)) }
    }

    #[test]
    fn each_object_is_looked_at_once_with_what_was_told_last() {
        let hints = Hints::default();
        hints.add_route(vec![told(7, "a"), Heard::Route, told(7, "b"), Heard::Route, Heard::Address { index: 7 }]);
        let Some(Hint::Link(7, Some(link))) = hints.next(None, true) else { panic!("no link") };
        assert_eq!(link.name, "b");
        assert_eq!(hints.next(None, true), Some(Hint::Addresses(7)));
        assert_eq!(hints.next(None, false), None);
        assert_eq!(hints.next(None, true), Some(Hint::Routes));
        assert_eq!(hints.next(None, true), None);
        hints.add_route(vec![told(7, "a"), Heard::Link { index: 7, gone: false, link: None }]);
        assert_eq!(hints.next(None, true), Some(Hint::Link(7, None)));
        hints.add_route(vec![Heard::Link { index: 7, gone: false, link: None }, told(7, "a")]);
        assert_eq!(hints.next(None, true), Some(Hint::Link(7, None)), "what was told in part is read");
    }

    #[test]
    fn who_looks_is_told_once_until_it_found_nothing() {
        let hints = Hints::default();
        hints.add_route(vec![told(7, "a"), Heard::Route]);
        assert!(hints.ring());
        hints.add_route(vec![told(8, "b")]);
        assert!(!hints.ring());
        while hints.next(None, false).is_some() {}
        // The routes wait for their time, and more routes with them; a link does not.
        hints.add_route(vec![Heard::Route]);
        assert!(!hints.ring());
        hints.add_route(vec![told(7, "a")]);
        assert!(hints.ring());
        while hints.next(None, false).is_some() {}
        assert!(!hints.ring());
        while hints.next(None, true).is_some() {}
        assert!(hints.ring());
    }

    #[test]
    fn our_own_transactions_are_no_news_and_a_loss_covers_all() {
        let hints = Hints::default();
        let by = |port, process: &str, pid| nft::Change::Committed {
            generation: nft::Generation { number: 1, pid, process: process.to_owned() },
            port,
        };
        hints.add_rules(vec![by(5, "patchcordd", 1)]);
        assert_eq!(hints.next(Some(5), true), None);
        hints.add_rules(vec![by(9, "nft", 1234), by(5, "patchcordd", 1)]);
        assert_eq!(hints.next(Some(5), true), Some(Hint::Rules(Some("nft (pid 1234)".into()))));
        hints.add_route(vec![told(7, "a"), told(8, "b"), Heard::Resync { reason: "lost" }]);
        assert!(matches!(hints.next(Some(5), false), Some(Hint::Link(7, _))));
        assert_eq!(hints.next(Some(5), true), Some(Hint::Everything("lost")));
        assert_eq!(hints.next(Some(5), true), None);
    }
}
