//! Rates: what limits links of ours in the kernel, and what this kernel can do about them.

use std::num::NonZeroU64;

use patchcord_core::model::MacAddr;
use patchcord_core::plan::rates::{self, Class, Classes, IfbSpec, Limit, Police, ShapingSupport};
use patchcord_core::plan::{GROUP_DOOMED, GROUP_LIVE, Index, Link, LinkKind, Mark, MarkKind, Sysctl};
use patchcord_netlink as netlink;
use patchcord_netlink::tc::{
    self, Action, ActionKind, ClassFilter, ClassNumber, Filter, Handle, Htb, HtbClass, Leaf, Qdisc,
};
use patchcord_netlink::{Error, Request, Socket};
use rustix::io::Errno;
use uuid::Uuid;

use crate::Result;
use crate::cause::Cause;
use crate::cord::PRIORITY;
use crate::kernel::Kernel;
use crate::observe::is_ours;
use crate::ops::{gone_is_done, set_sysctl};

/// The major number of our token buckets, by which they are known as ours. It spells `pc`.
const MAJOR: u16 = 0x7063;
/// That of the ones that libvirt's driver makes, and that we leave to it.
const LIBVIRTS: u16 = 1;
/// The longest frame that a limit lets pass, in bytes: more than any that a guest sends.
const MTU: u32 = 128 * 1024;
/// MTU of a link that nothing is said about, in bytes.
const DEFAULT_MTU: u32 = 1500;
/// Queues for classes, the best first. The last one every kernel has.
const LEAVES: [Leaf; 3] = [Leaf::FqCodel, Leaf::Sfq, Leaf::Pfifo { limit: 128 }];
/// What has frames leave a link at once. libvirt's driver puts that at the root of the taps that it does not limit.
const NO_QUEUE: &str = "noqueue";
/// What helps where the kernel lacks something. An ifb is only wanted where what comes in can't be dropped above a rate.
const NO_HTB: &str = "this kernel has no token buckets: load its module sch_htb";
const NO_IFB: &str = "this kernel can neither drop what comes in above a rate nor have it wait: load its module act_police, \
                      and start the daemon again, or ifb";
/// The link that things are tried on.
const TRIAL: &str = "pcdel-rates";

fn handle(minor: u16) -> Handle {
    Handle { major: MAJOR, minor }
}

/// Whether a qdisc is a token bucket of ours.
pub(crate) fn is_our_htb(qdisc: &Qdisc) -> bool {
    qdisc.kind == "htb" && qdisc.parent == Handle::ROOT && qdisc.handle == handle(0)
}

/// What of ours is done to what comes in at a link.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// What it is handed to, if it is; none when that is gone.
    pub(crate) redirect: Option<Option<Index>>,
    /// How it is limited.
    pub(crate) police: Option<Police>,
    /// Whether others limit it, or have a filter where ours would be.
    pub(crate) others: bool,
    /// Whether others have any filter, which asks for frames after ours.
    pub(crate) filtered: bool,
}

impl Incoming {
    /// Whether it is others' to limit. Filters behind ours see what passes, unless it is all handed to an ifb.
    pub(crate) fn is_others(&self, support: Option<ShapingSupport>) -> bool {
        self.others || self.filtered && support.is_some_and(|support| !support.police)
    }
}

/// Whether a link's rates may be ours: it is ours, or a tap that others made for a port.
pub(crate) fn may_be_limited(link: &Link) -> bool {
    is_ours(link) || is_others_tap(link)
}

/// Whether it is a tap that others made.
pub(crate) fn is_others_tap(link: &Link) -> bool {
    link.kind == LinkKind::Tap && link.mark.is_none() && !link.is_doomed()
}

/// Whether a qdisc at a link's root was put there by others to limit it: the kernel's own choice has no handle, and
/// libvirt's driver puts one there that limits nothing.
pub(crate) fn is_others_root(qdisc: &Qdisc) -> bool {
    let chosen = qdisc.parent == Handle::ROOT && qdisc.handle != Handle::default();
    chosen && qdisc.kind != NO_QUEUE && !is_our_htb(qdisc)
}

/// Whether a filter may be somebody's limit on what comes in. A u32 filter may have its limit beside its actions, where it
/// is not read, and of other kinds no actions are read; `matchall` and u32 are what limits are made of.
fn may_limit(filter: &Filter) -> bool {
    let limits = |action: &Action| matches!(action.kind, ActionKind::Police { .. });
    let unread = filter.actions.is_empty() && matches!(filter.kind.as_str(), "u32" | "matchall");
    unread || filter.actions.iter().any(limits)
}

/// Whether ours can't be beside a filter: the kernel finds u32 filters by their number, in the first table of a link's
/// whatever their priority is, and all of a priority are of one kind.
fn is_in_our_way(filter: &Filter) -> bool {
    const FIRST_TABLE: u32 = 0x800;
    filter.priority == PRIORITY.get() || filter.kind == "u32" && filter.handle >> 20 == FIRST_TABLE
}

/// Reads what of ours is done to what comes in at a link, and whether others limit it. What is ours is known by the
/// instance, since taps of others carry no mark.
pub(crate) fn read_incoming(route: &mut Socket, link: &Link, instance: Uuid) -> Result<Incoming> {
    let cookie = link.mark.map_or(instance, |mark| mark.instance).into_bytes();
    let filters = route.ingress_filters(link.index.0)?.entries;
    let ours = |action: &Action| action.cookie.as_deref() == Some(&cookie[..]);
    let others: Vec<_> = filters.iter().filter(|filter| !filter.actions.iter().any(ours)).collect();
    let in_the_way = others.iter().any(|filter| may_limit(filter) || is_in_our_way(filter));
    let mut incoming = Incoming { others: in_the_way, filtered: !others.is_empty(), ..Incoming::default() };
    for action in filters.iter().flat_map(|filter| &filter.actions) {
        if !ours(action) {
            continue;
        }
        match action.kind {
            ActionKind::Redirect { to } => incoming.redirect = Some((to != 0).then_some(Index(to))),
            ActionKind::Police { rate, burst, .. } => incoming.police = Some(Police { rate, burst }),
            ActionKind::Other(_) => {}
        }
    }
    Ok(incoming)
}

/// Reads our classes of a link.
pub(crate) fn read_classes(route: &mut Socket, index: Index) -> Result<Classes> {
    let told = route.htb_classes(index.0)?.entries;
    let filters = match told.is_empty() {
        true => Vec::new(),
        false => route.filters(index.0, handle(0))?.entries,
    };
    let ours = told.iter().filter(|class| class.handle.major == MAJOR);
    let read = |class: &HtbClass| {
        let filter = filters.iter().find(|filter| filter.class == Some(class.handle));
        Class {
            parent: (class.parent.minor != 0).then_some(class.parent.minor),
            limit: Limit { rate: class.rate, ceil: class.ceil, burst: class.burst, cburst: class.cburst },
            destination: filter.and_then(|filter| filter.destination).map(MacAddr),
            queue: class.leaf.is_some(),
        }
    };
    Ok(ours.map(|class| (class.handle.minor, read(class))).collect())
}

fn class_request(link: Index, number: u16, class: &Class) -> Request {
    let Limit { rate, ceil, burst, cburst } = class.limit;
    let parent = handle(class.parent.unwrap_or(0));
    let (link, handle) = (link.0, handle(number));
    Request::set_htb_class(&HtbClass { link, handle, parent, priority: 0, rate, ceil, burst, cburst, leaf: None })
}

fn filter(link: Index, number: u16, class: &Class) -> Option<ClassFilter> {
    let (class, MacAddr(destination)) = (ClassNumber::new(number)?, class.destination?);
    Some(ClassFilter { link: link.0, major: MAJOR, priority: PRIORITY, class, destination })
}

impl Kernel {
    /// Makes an ifb, down, that keeps out of IPv6.
    pub(crate) fn make_ifb(&mut self, spec: &IfbSpec) -> Result<Index, Cause> {
        let does_ipv6 = self.does_ipv6(DEFAULT_MTU);
        let made = self.route.make_ifb(&netlink::IfbSpec {
            name: spec.name.to_string(),
            group: GROUP_LIVE,
            alias: Some(spec.mark.to_string()),
            addr_gen_none: does_ipv6,
            up: false,
        });
        let index = Index(made.map_err(|error| missing(error.into(), Errno::OPNOTSUPP, NO_IFB))?);
        if does_ipv6 && let Err(cause) = set_sysctl(&Sysctl::DisableIpv6(spec.name.to_string()), "1") {
            return Err(match self.doom(index, Vec::new()) {
                Ok(()) => cause,
                Err(more) => Cause { text: format!("{}; and it stays: {}", cause.text, more.text), ..cause },
            });
        }
        Ok(index)
    }

    /// Gives a link a token bucket of ours, whatever was at its root.
    pub(crate) fn add_htb(&mut self, link: Index, classes: &Classes) -> Result<(), Cause> {
        let htb = Htb { link: link.0, major: MAJOR, default: rates::class_of_the_rest(classes) };
        match self.route.add_htb(&htb) {
            Err(error) if error.is_exists() => {
                let there = self.route.qdiscs(Some(link.0))?.entries;
                let root = there.iter().find(|qdisc| qdisc.parent == Handle::ROOT);
                if let Some(other) = root.filter(|root| !is_our_htb(root)) {
                    if self.is_others_tap(link) && is_others_root(other) {
                        return Err(Cause::ours("somebody else limits it"));
                    }
                    self.route.delete_root(link.0, other.handle.major)?;
                    self.route.add_htb(&htb)?;
                }
            }
            result => result.map_err(|error| missing(error.into(), Errno::NOENT, NO_HTB))?,
        }
        let requests: Vec<Request> =
            classes.iter().map(|(number, class)| class_request(link, *number, class)).collect();
        all(self.route.execute_all(&requests)?)?;
        self.set_leaves(link, classes.iter().filter(|(_, class)| class.queue).map(|(number, _)| *number))?;
        let filters = classes.iter().filter_map(|(number, class)| filter(link, *number, class));
        for filter in filters {
            self.set_filter(&filter)?;
        }
        Ok(())
    }

    /// Whether others put something at a link's root.
    pub(crate) fn has_others_root(&mut self, link: Index) -> Result<bool> {
        Ok(self.route.qdiscs(Some(link.0))?.entries.iter().any(is_others_root))
    }

    /// Takes our token bucket away. Another one at the root stays. A tap that others made is left as libvirt's driver has
    /// those that nothing limits.
    pub(crate) fn end_htb(&mut self, link: Index) -> Result<(), Cause> {
        match self.delete_htb(link)? && self.is_others_tap(link) {
            true => gone_is_done(self.route.execute(&Request::no_queue(link.0))),
            false => Ok(()),
        }
    }

    /// Whether a link had a token bucket of ours, which it has not any more.
    fn delete_htb(&mut self, link: Index) -> Result<bool, Cause> {
        match self.route.delete_root(link.0, MAJOR) {
            // So says the kernel when it is gone, or another one is there.
            Err(error) if error.errno() == Some(Errno::INVAL.raw_os_error()) => Ok(false),
            Err(error) if error.is_not_found() => Ok(false),
            result => Ok(result.map(|()| true)?),
        }
    }

    fn is_others_tap(&self, link: Index) -> bool {
        self.observed.link(link).is_some_and(is_others_tap)
    }

    /// Adds a class, or changes it in place.
    pub(crate) fn set_class(&mut self, link: Index, number: u16, class: &Class) -> Result<(), Cause> {
        let was = self.observed.shapes.get(&link).and_then(|shape| shape.classes.get(&number)).copied();
        self.route.execute(&class_request(link, number, class))?;
        if class.queue && !was.is_some_and(|was| was.queue) {
            self.set_leaves(link, [number])?;
        }
        match filter(link, number, class) {
            Some(filter) if was.is_none_or(|was| was.destination != class.destination) => self.set_filter(&filter),
            _ => Ok(()),
        }
    }

    /// Puts queues below classes: of the best kind that this kernel has, which the first one finds out.
    fn set_leaves(&mut self, link: Index, classes: impl IntoIterator<Item = u16>) -> Result<(), Cause> {
        let mut requests = Vec::new();
        for class in classes.into_iter().map(handle) {
            match self.leaf {
                Some(leaf) => requests.push(Request::set_leaf(link.0, class, leaf)),
                None => self.leaf = Some(self.set_best_leaf(link, class)?),
            }
        }
        all(self.route.execute_all(&requests)?)
    }

    fn set_best_leaf(&mut self, link: Index, class: Handle) -> Result<Leaf, Cause> {
        let mut refused = Cause::ours("there is no queue for a class");
        for leaf in LEAVES {
            match self.route.set_leaf(link.0, class, leaf) {
                Ok(()) => return Ok(leaf),
                Err(error) => refused = error.into(),
            }
        }
        Err(refused)
    }

    /// A filter's match can't be changed in place.
    fn set_filter(&mut self, filter: &ClassFilter) -> Result<(), Cause> {
        match self.route.add_class_filter(filter) {
            Err(error) if error.is_exists() => {
                gone_is_done(self.route.delete_class_filter(filter.link, MAJOR, filter.priority, filter.class))?;
                Ok(self.route.add_class_filter(filter)?)
            }
            result => Ok(result?),
        }
    }

    /// Takes a class away, and its filter.
    pub(crate) fn end_class(&mut self, link: Index, number: u16) -> Result<(), Cause> {
        if let Some(class) = ClassNumber::new(number) {
            gone_is_done(self.route.delete_class_filter(link.0, MAJOR, PRIORITY, class))?;
        }
        gone_is_done(self.route.delete_htb_class(link.0, handle(number)))
    }

    /// Limits what comes in at a link.
    pub(crate) fn police(&mut self, link: Index, police: Police) -> Result<(), Cause> {
        self.police_as(link, police, self.instance)
    }

    fn police_as(&mut self, link: Index, police: Police, instance: Uuid) -> Result<(), Cause> {
        let rate = NonZeroU64::new(police.rate).ok_or_else(|| Cause::ours("a rate of 0 is none"))?;
        let cookie = instance.into_bytes();
        let limit = tc::Police { link: link.0, priority: PRIORITY, rate, burst: police.burst, mtu: MTU, cookie };
        let mut results = self.route.execute_all(&[Request::add_ingress(link.0), Request::police(&limit)])?.into_iter();
        match results.next() {
            Some(Err(error)) if !error.is_exists() => Err(error.into()),
            _ => all(results.collect()),
        }
    }

    /// Limits it no longer.
    pub(crate) fn end_police(&mut self, link: Index) -> Result<(), Cause> {
        gone_is_done(self.route.delete_police(link.0, PRIORITY))
    }

    /// Leaves limits at a tap that others made to libvirt's driver: what leaves it waits as where that driver has it wait, and
    /// what comes in is limited by nobody in particular.
    pub(crate) fn leave_limits(&mut self, link: Index, classes: &Classes, police: Option<Police>) -> Result<(), Cause> {
        if self.route.link_by_index(link.0)?.is_none() {
            return Ok(());
        }
        if let Some(class) = classes.get(&rates::FIRST)
            && self.delete_htb(link)?
        {
            let Limit { rate, ceil, burst, cburst } = class.limit;
            let [parent, handle] = [0, rates::FIRST].map(|minor| Handle { major: LIBVIRTS, minor });
            let htb = HtbClass { link: link.0, handle, parent, priority: 0, rate, ceil, burst, cburst, leaf: None };
            self.route.add_htb(&Htb { link: link.0, major: LIBVIRTS, default: rates::FIRST })?;
            self.route.set_htb_class(&htb)?;
            self.set_best_leaf(link, handle)?;
        }
        police.map_or(Ok(()), |police| self.police_as(link, police, Uuid::nil()))
    }

    /// Finds out what this kernel can do about rates, on a link that is made for that and deleted.
    pub(crate) fn try_shaping(&mut self) -> ShapingSupport {
        // In the doomed group from its first moment, so that nobody takes it for a network's.
        let made = self.route.make_bridge(&netlink::BridgeSpec {
            name: TRIAL.to_owned(),
            alias: Some(Mark { instance: self.instance, kind: MarkKind::Bridge, id: Uuid::nil() }.to_string()),
            group: GROUP_DOOMED,
            addr_gen_none: self.does_ipv6(DEFAULT_MTU),
            ..netlink::BridgeSpec::default()
        });
        let Ok(index) = made.map(Index) else { return ShapingSupport::default() };
        let limit = Police { rate: 1 << 20, burst: 1 << 20 };
        let support = ShapingSupport { police: self.police(index, limit).is_ok() };
        self.reaper.reap(index, Vec::new());
        support
    }
}

/// Why something can't be had, with what would help if that is because the kernel does not know it.
fn missing(cause: Cause, unknown: Errno, hint: &str) -> Cause {
    match cause.errno == Some(unknown.raw_os_error()) {
        true => Cause { text: format!("{}; {hint}", cause.text), ..cause },
        false => cause,
    }
}

fn all(results: Vec<Result<(), Error>>) -> Result<(), Cause> {
    Ok(results.into_iter().collect::<Result<(), Error>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_named() {
        let refused = |errno: Errno| missing(errno.into(), Errno::OPNOTSUPP, NO_IFB).text;
        assert!(refused(Errno::OPNOTSUPP).ends_with("load its module act_police, and start the daemon again, or ifb"));
        assert_eq!(refused(Errno::EXIST), Cause::from(Errno::EXIST).text);
    }
}
