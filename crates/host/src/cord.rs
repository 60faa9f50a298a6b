//! Cords: a tap joined to a macvlan on a device, so that what comes in at either end goes out by the other.

use std::num::NonZeroU16;

use patchcord_core::model::DirectMode;
use patchcord_core::plan::{GROUP_LIVE, Index, LinkKind, MacvlanSpec, Sysctl};
use patchcord_netlink as netlink;
use patchcord_netlink::tc::Redirect;
use patchcord_netlink::{MacvlanMode, Request};
use rustix::io::Errno;

use crate::Result;
use crate::cause::Cause;
use crate::kernel::Kernel;
use crate::ops::{gone_is_done, set_sysctl};

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
        let refused = |error: &netlink::Error| {
            let errno = error.errno();
            [Errno::BUSY, Errno::INVAL].iter().any(|e| errno == Some(e.raw_os_error()))
        };
        let made = match self.route.make_macvlan(&new) {
            // Passthrough mode suffers no neighbour, not even one that is about to be deleted.
            Err(error) if refused(&error) && self.delete_doomed_on(spec.lower) => self.route.make_macvlan(&new),
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

    /// Deletes what of ours is on a device only until somebody has the time to delete it. False when there is none.
    fn delete_doomed_on(&mut self, lower: Index) -> bool {
        let ours = self.observed.macvlans_on(lower).filter(|link| link.is_doomed() && link.mark.is_some());
        let doomed: Vec<Index> = ours.map(|link| link.index).collect();
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
        let requests = [Request::add_clsact(link.0), Request::redirect(&redirect)];
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

fn kernel_mode(mode: DirectMode) -> MacvlanMode {
    match mode {
        DirectMode::Vepa => MacvlanMode::Vepa,
        DirectMode::Bridge => MacvlanMode::Bridge,
        DirectMode::Private => MacvlanMode::Private,
        DirectMode::Passthrough => MacvlanMode::Passthru,
    }
}
