//! Cords: a tap joined to a macvlan on a device, so that what comes in at either end goes out by the other.

use std::num::NonZeroU16;

use patchcord_core::model::{DirectMode, MacAddr};
use patchcord_core::plan::{GROUP_LIVE, Index, Link, LinkKind, MacvlanSpec, Sysctl};
use patchcord_netlink as netlink;
use patchcord_netlink::tc::Redirect;
use patchcord_netlink::{MacvlanMode, Request};
use rustix::io::Errno;

use crate::cause::Cause;
use crate::kernel::Kernel;
use crate::ops::{gone_is_done, set_sysctl};
use crate::{Result, shaping};

/// The priority of our filters; a link of ours has no others.
pub(crate) const PRIORITY: NonZeroU16 = NonZeroU16::MIN;

impl Kernel {
    /// Makes a macvlan, or a macvtap for a `tap`, down, that gets all multicast frames and keeps out of IPv6.
    pub(crate) fn make_on_device(&mut self, spec: &MacvlanSpec, tap: bool) -> Result<Index, Cause> {
        let new = netlink::MacvlanSpec {
            name: spec.name.to_string(),
            lower: spec.lower.0,
            mode: kernel_mode(spec.mode),
            tap,
            mac: Some(spec.mac.0),
            mtu: Some(spec.mtu),
            group: GROUP_LIVE,
            alias: Some(spec.mark.to_string()),
        };
        let refused = |error: &netlink::Error| is_any(error, [Errno::BUSY, Errno::INVAL]);
        let made = match self.route.make_macvlan(&new) {
            // Passthrough mode suffers no neighbour, not even one that is about to be deleted.
            Err(error) if refused(&error) && self.delete_doomed_on(spec.lower, |_| true) => {
                self.route.make_macvlan(&new)
            }
            made => made,
        };
        let index = Index(made?);
        match self.finish_macvlan(index, spec) {
            Ok(()) => Ok(index),
            Err(cause) => Err(self.unmake(index, cause)),
        }
    }

    /// Takes back a link that could not be finished; gives why, and whether it stays.
    pub(crate) fn unmake(&mut self, index: Index, cause: Cause) -> Cause {
        match self.doom(index, Vec::new()) {
            Ok(()) => cause,
            Err(more) => Cause { text: format!("{}; and it stays: {}", cause.text, more.text), ..cause },
        }
    }

    fn finish_macvlan(&mut self, index: Index, spec: &MacvlanSpec) -> Result<(), Cause> {
        let does_ipv6 = self.does_ipv6(spec.mtu);
        if does_ipv6 {
            set_sysctl(&Sysctl::DisableIpv6(spec.name.to_string()), "1")?;
        }
        // In passthrough mode the address given at its making is not heeded.
        let mac = (spec.mode == DirectMode::Passthrough).then_some(spec.mac.0);
        let change = netlink::LinkChange {
            mac,
            addr_gen_none: does_ipv6.then_some(true),
            all_multicast: Some(true),
            ..netlink::LinkChange::default()
        };
        Ok(self.route.set_link(index.0, &change)?)
    }

    /// Takes a macvlan out of use without taking it down. Taken down, it would have us wait for the kernel's readers
    /// (`synchronize_rcu` in `macvlan_stop` of its drivers/net/macvlan.c); when it is deleted while it is up, nobody waits for
    /// them. False when it has to be taken down: in passthrough mode while its frames still get somewhere, and where the
    /// kernel renames no link that is up.
    pub(crate) fn doom_up(&mut self, index: Index, away: &netlink::LinkChange) -> Result<bool, Cause> {
        let ours = |link: &&Link| link.kind == LinkKind::Macvlan && link.mark.is_some();
        let Some(link) = self.observed.link(index).filter(ours).cloned() else { return Ok(false) };
        // That mode can't be left. Such a macvlan has no neighbours, and hears all that its device does: who takes it in
        // instead of the guest must be nobody.
        let stays = link.mode == Some(DirectMode::Passthrough);
        if stays && !self.leads_nowhere(&link).unwrap_or(false) {
            return Ok(false);
        }
        // For its neighbours it is not there in this mode, as if it were down: it hears those whom it is told to, and that
        // is nobody.
        let deaf = (!stays).then(|| Request::set_macvlan_mode(index.0, false, MacvlanMode::Source));
        let away = netlink::LinkChange { no_arp: Some(true), ..away.clone() };
        let requests: Vec<Request> = deaf.into_iter().chain(Request::set_link(index.0, &away)).collect();
        let away = self.route.execute_all(&requests)?.iter().all(Result::is_ok);
        // It gets broadcasts with its own address even so, when they come back. The guest, whose tap may be plugged in
        // elsewhere by now, must not hear them; the host may, who doesn't answer.
        Ok(away && (stays || self.end_redirect(index).is_ok()))
    }

    /// Whether what comes in at a link of ours is handed to one that is down or gone. What is handed to nobody the host
    /// itself would hear.
    fn leads_nowhere(&mut self, link: &Link) -> Result<bool> {
        Ok(match shaping::read_incoming(&mut self.route, link, self.instance)?.redirect {
            Some(Some(to)) => self.route.link_by_index(to.0)?.is_none_or(|to| !to.up),
            Some(None) => true,
            None => false,
        })
    }

    /// Deletes doomed macvlans that a change of this one is refused for: they have the address still that it is to have.
    /// False when there are none.
    pub(crate) fn make_way_for(&mut self, index: Index, change: &netlink::LinkChange) -> Result<bool, Cause> {
        let Some(link) = self.route.link_by_index(index.0)?.filter(|link| link.macvlan.is_some()) else {
            return Ok(false);
        };
        let mac = change.mac.or(link.mac).map(MacAddr);
        Ok(link.lower.is_some_and(|lower| self.delete_doomed_on(Index(lower), |doomed| doomed.mac == mac)))
    }

    /// Deletes those of ours that are on a device only until somebody has the time to delete them. False when there are
    /// none.
    fn delete_doomed_on(&mut self, lower: Index, in_the_way: impl Fn(&Link) -> bool) -> bool {
        let ours = |link: &&Link| link.is_doomed() && link.mark.is_some() && in_the_way(link);
        let doomed: Vec<Index> = self.observed.macvlans_on(lower).filter(ours).map(|link| link.index).collect();
        // What was deleted meanwhile is out of the way, too.
        doomed.iter().filter(|index| gone_is_done(self.route.delete_link(index.0)).is_ok()).count() > 0
    }

    /// Changes a macvlan's or macvtap's mode in place.
    pub(crate) fn set_mode(&mut self, index: Index, mode: DirectMode) -> Result<(), Cause> {
        let tap = self.observed.link(index).is_some_and(|link| link.kind == LinkKind::Macvtap);
        Ok(self.route.set_macvlan_mode(index.0, tap, kernel_mode(mode))?)
    }

    /// Has what comes in at one link go out by another, in place of where it went; no frame falls between.
    pub(crate) fn redirect(&mut self, link: Index, to: Index) -> Result<(), Cause> {
        let redirect = Redirect { link: link.0, priority: PRIORITY, to: to.0, cookie: self.instance.into_bytes() };
        let requests = [Request::add_ingress(link.0), Request::redirect(&redirect)];
        let mut results = self.route.execute_all(&requests)?.into_iter();
        match results.next() {
            Some(Err(error)) if !error.is_exists() => return Err(error.into()),
            _ => {}
        }
        Ok(results.collect::<Result<(), _>>()?)
    }

    /// Ends that.
    pub(crate) fn end_redirect(&mut self, link: Index) -> Result<(), Cause> {
        gone_is_done(self.route.delete_redirect(link.0, PRIORITY))
    }
}

/// Whether a refusal is that an address is another macvlan's on the same device; older kernels say EBUSY.
pub(crate) fn address_is_taken(error: &netlink::Error) -> bool {
    is_any(error, [Errno::ADDRINUSE, Errno::BUSY])
}

fn is_any(error: &netlink::Error, errnos: [Errno; 2]) -> bool {
    errnos.iter().any(|errno| error.errno() == Some(errno.raw_os_error()))
}

fn kernel_mode(mode: DirectMode) -> MacvlanMode {
    match mode {
        DirectMode::Vepa => MacvlanMode::Vepa,
        DirectMode::Bridge => MacvlanMode::Bridge,
        DirectMode::Private => MacvlanMode::Private,
        DirectMode::Passthrough => MacvlanMode::Passthru,
    }
}
