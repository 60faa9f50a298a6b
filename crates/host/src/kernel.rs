//! Carries out plans on the kernel: in order, and backwards again when a step is refused.
//!
//! One [`Kernel`] belongs to one thread, which keeps its sockets open: closing an nfnetlink socket costs more than
//! fifty transactions. What each operation does is in `ops`.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use patchcord_core::plan::nft::foreign::{Firewalls, detect};
use patchcord_core::plan::nft::{NftChange, NftOp, ObservedTable};
use patchcord_core::plan::{
    Change, GROUP_LIVE, Index, Link, LinkKind, LinkRef, Observed, Op, Outcome, Plan, Step, StepFailure, Sysctl,
};
use patchcord_netlink::tc::Leaf;
use patchcord_netlink::{Socket, nft};
use uuid::Uuid;

use crate::announce::Announcer;
use crate::cause::Cause;
use crate::macvtap::Nodes;
use crate::observe::{self, Snapshot};
use crate::reaper::Reaper;
use crate::sriov::Sriov;
use crate::{Result, firewalls};

/// What a [`Kernel`] is told once.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// This installation, which marks what is ours to delete.
    pub instance: Uuid,
    /// Where the host's name servers are, usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The directory that sysfs is in, usually `/`.
    pub root: PathBuf,
    /// The directory for the device nodes of macvtaps that are opened by name.
    pub nodes: PathBuf,
}

/// The kernel's network side, of the network namespace in which this was opened.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) route: Socket,
    pub(crate) nft: Option<nft::Socket>,
    pub(crate) announcer: Option<Announcer>,
    pub(crate) reaper: Reaper,
    /// One queue of each tap that is handed over by descriptor, for announcements.
    pub(crate) held: HashMap<Index, OwnedFd>,
    /// The nodes of macvtaps that are handed over by name.
    pub(crate) nodes: Nodes,
    /// This installation.
    pub(crate) instance: Uuid,
    /// Whether this kernel does IPv6.
    pub(crate) ipv6: bool,
    /// The best queue for a class that this kernel has, once one was needed.
    pub(crate) leaf: Option<Leaf>,
    /// What whoever gets our reports believes to be there. Packet rules have their handles here.
    pub(crate) observed: Observed,
    /// Which virtual functions there are.
    pub(crate) sriov: Sriov,
    resolv_conf: PathBuf,
}

/// How a plan went.
#[derive(Debug, Default)]
pub struct Applied {
    /// For the engine.
    pub outcome: Outcome,
    /// Descriptors of new taps that are handed over by descriptor, one for each queue, by the NIC's id.
    pub taps: Vec<(Uuid, Vec<OwnedFd>)>,
    /// What went wrong without the plan failing, as phrases.
    pub notes: Vec<String>,
}

/// A plan under way.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// What each step done so far made.
    pub(crate) made: Vec<Option<Index>>,
    /// Queues of new taps, with the NIC's id.
    pub(crate) taps: Vec<(Index, Uuid, Vec<OwnedFd>)>,
    pub(crate) notes: Vec<String>,
}

impl Run {
    /// The link that a reference stands for.
    pub(crate) fn resolve(&self, link: LinkRef) -> Result<Index, Cause> {
        let index = match link {
            LinkRef::Index(index) => Some(index),
            LinkRef::MadeBy(step) => self.made.get(step).copied().flatten(),
        };
        index.ok_or_else(|| Cause::ours(format!("{link} is no link")))
    }

    /// Whether the plan made it.
    fn made(&self, link: LinkRef) -> bool {
        match link {
            LinkRef::MadeBy(_) => true,
            LinkRef::Index(index) => self.made.contains(&Some(index)),
        }
    }
}

impl Kernel {
    /// Opens the sockets and starts the thread that deletes links, in the caller's network namespace. A kernel without
    /// nftables is found out by the first plan that needs it.
    ///
    /// # Errors
    /// When rtnetlink can't be opened or the thread can't be started.
    pub fn open(options: &KernelOptions) -> Result<Self> {
        Ok(Self {
            route: Socket::open()?,
            nft: nft::Socket::open().ok(),
            announcer: None,
            reaper: Reaper::start(options.instance)?,
            held: HashMap::new(),
            nodes: Nodes::new(options.nodes.clone()),
            instance: options.instance,
            ipv6: std::path::Path::new("/proc/sys/net/ipv6/conf").exists(),
            leaf: None,
            observed: Observed::default(),
            sriov: Sriov::new(&options.root),
            resolv_conf: options.resolv_conf.clone(),
        })
    }

    /// What is known to be there: the last snapshot, plans carried out since, and what was read again.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The port of the socket that our packet rules go through, if it is open.
    pub(crate) fn nft_port(&self) -> Option<u32> {
        self.nft.as_ref().map(nft::Socket::port)
    }

    /// Keeps a queue of a tap, for announcements, until its link is doomed or gone.
    pub fn hold(&mut self, link: Index, queue: OwnedFd) {
        if let Some(old) = self.held.insert(link, queue) {
            self.reaper.close(vec![old]);
        }
    }

    /// Closes descriptors on a thread that has the time: a tap's last one takes the kernel long.
    pub fn close(&self, fds: Vec<OwnedFd>) {
        self.reaper.close(fds);
    }

    /// Carries out a plan. When a step is refused, those before it are taken back, the last one first.
    pub fn apply(&mut self, plan: &Plan) -> Applied {
        let mut run = Run::default();
        for (number, step) in plan.steps.iter().enumerate() {
            match self.carry_out(&step.op, &mut run) {
                Ok(made) => run.made.push(made),
                Err(cause) => {
                    let left = self.take_back(&plan.steps[..=number], &mut run);
                    let failed = StepFailure { step: number, cause: cause.text, errno: cause.errno, left };
                    let outcome = Outcome { made: Vec::new(), failed: Some(failed) };
                    return Applied { outcome, taps: Vec::new(), notes: run.notes };
                }
            }
        }
        let outcome = Outcome { made: run.made, failed: None };
        // Our table was kept up to date by each transaction, with what only those know.
        let rules = std::mem::take(&mut self.observed.nft);
        self.observed.absorb(plan, &outcome);
        self.observed.nft = rules;
        let taps = run.taps.into_iter().map(|(_, nic, fds)| (nic, fds)).collect();
        Applied { outcome, taps, notes: run.notes }
    }

    /// Takes back steps, the last of which was refused; says what is left.
    fn take_back(&mut self, steps: &[Step], run: &mut Run) -> Vec<String> {
        let mut left = Vec::new();
        for (number, step) in steps.iter().enumerate().rev() {
            let refused = number + 1 == steps.len();
            if refused && !may_be_half_done(&step.op) {
                continue;
            }
            if let Some(index) = run.made.get(number).copied().flatten() {
                let fds = run.taps.iter_mut().filter(|(tap, ..)| *tap == index).flat_map(|(.., fds)| fds.drain(..));
                let fds = fds.collect();
                if let Err(cause) = self.doom(index, fds) {
                    left.push(format!("link {} of {}: {}", index.0, step.op, cause.text));
                }
                continue;
            }
            // What was done to a link that the plan made goes with it.
            if target(&step.op).is_some_and(|link| run.made(link)) {
                continue;
            }
            match &step.undo {
                Some(undo) => {
                    if let Err(cause) = self.carry_out(undo, run) {
                        left.push(format!("{undo}: {}", cause.text));
                    }
                }
                None if !refused && stays(&step.op) => left.push(format!("{} was done", step.op)),
                None => {}
            }
        }
        left
    }

    /// Reads everything, and hands links that a predecessor left behind to the thread that deletes them.
    ///
    /// # Errors
    /// See [`observe::snapshot`].
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        let support = self.observed.shaping;
        let mut snapshot =
            observe::snapshot(&mut self.route, self.nft.as_mut(), &self.resolv_conf, self.instance, support)?;
        self.delete_half_made(&mut snapshot.observed);
        snapshot.observed.shaping = support;
        snapshot.observed.functions = self.sriov.all()?;
        self.observed = snapshot.observed.clone();
        self.nodes.sweep(&self.observed);
        for link in self.observed.links().filter(|link| link.is_doomed() && link.mark.is_some()) {
            let fds = self.held.remove(&link.index).into_iter().collect();
            self.reaper.reap(link.index, fds);
        }
        Ok(snapshot)
    }

    /// Deletes what a predecessor had made when it was killed, but not marked and brought up yet: bridges, ifbs, macvlans
    /// and macvtaps are in our group from the first moment, down and without a mark. Nobody uses them, and their names and
    /// devices are wanted.
    fn delete_half_made(&mut self, observed: &mut Observed) {
        let ifb = LinkKind::Other("ifb".to_owned());
        let half_made = |link: &&Link| {
            let kind = link.kind == LinkKind::Bridge || link.kind == ifb || link.is_macvlan();
            kind && link.group == GROUP_LIVE && link.mark.is_none() && !link.up
        };
        let links: Vec<Index> = observed.links().filter(half_made).map(|link| link.index).collect();
        for index in links {
            // One that can't be deleted is reported by whoever wants its name.
            if self.route.delete_link(index.0).is_ok() {
                observed.set_link(index, None);
            }
        }
    }

    /// Reads a link again; see [`observe::read_link`].
    ///
    /// # Errors
    /// The socket's.
    pub fn read_link(&mut self, index: Index) -> Result<Option<Link>> {
        observe::read_link(&mut self.route, index)
    }

    /// Reads our packet rules again.
    ///
    /// # Errors
    /// The socket's.
    pub fn read_nft(&mut self) -> Result<ObservedTable> {
        match self.nft.as_mut() {
            Some(socket) => Ok(crate::nft::read(socket)?),
            None => Ok(ObservedTable::default()),
        }
    }

    /// Other firewalls.
    ///
    /// # Errors
    /// The socket's.
    pub fn foreign_firewalls(&mut self) -> Result<Firewalls> {
        let Some(socket) = self.nft.as_mut() else { return Ok(Firewalls::default()) };
        let rules = firewalls::read(socket)?;
        Ok(Firewalls { dropping: detect(&rules), firewalld: rules.firewalld })
    }

    /// Takes on what was read and reported.
    pub(crate) fn take(&mut self, change: Change) {
        if let Change::Link(index, None) = &change {
            self.nodes.remove(*index);
            self.reaper.close(self.held.remove(index).into_iter().collect());
        }
        self.observed.take(change);
    }

    /// Commits a change of our packet rules. Handles that it lacks are looked up in what is known, and should that
    /// be out of date, in what is read then.
    pub(crate) fn change_rules(&mut self, change: &NftChange) -> Result<(), Cause> {
        let socket = match &mut self.nft {
            Some(socket) => socket,
            none => none.insert(nft::Socket::open()?),
        };
        let table = &mut self.observed.nft;
        let looked_up = change.ops.iter().any(|op| {
            matches!(op, NftOp::DeleteRule { rule, .. } if rule.handle.is_none())
                || matches!(op, NftOp::AddRule { at: patchcord_core::plan::nft::At::Before(next), .. }
                    if next.handle.is_none())
        });
        match crate::nft::commit(socket, &change.resolve(table), table) {
            Err(error) if looked_up && error.is_not_found() => {
                *table = crate::nft::read(socket)?;
                Ok(crate::nft::commit(socket, &change.resolve(table), table)?)
            }
            result => Ok(result?),
        }
    }
}

/// The link that an operation is about, where it is about one that a plan may have made.
fn target(op: &Op) -> Option<LinkRef> {
    match op {
        Op::SetLink(link, _)
        | Op::SetBridge(link, _)
        | Op::SetPort(link, _)
        | Op::SetFiltering(link, _)
        | Op::SetVlans { link, .. }
        | Op::AddAddress(link, _)
        | Op::RemoveAddress(link, _)
        | Op::AddRoute(link, _)
        | Op::RemoveRoute(link, _)
        | Op::SetForwarding { port: link, .. }
        | Op::SetMode(link, _)
        | Op::Redirect(link, _)
        | Op::EndRedirect(link)
        | Op::AddHtb(link, _)
        | Op::EndHtb(link)
        | Op::SetClass(link, ..)
        | Op::EndClass(link, _)
        | Op::Police(link, _)
        | Op::EndPolice(link)
        | Op::LeaveLimits(link, ..)
        | Op::Announce(link, _) => Some(*link),
        Op::MakeBridge(_)
        | Op::MakeTap(_)
        | Op::MakeMacvlan(_)
        | Op::MakeMacvtap(_)
        | Op::MakeIfb(_)
        | Op::Carry { .. }
        | Op::Doom(_)
        | Op::Claim(..)
        | Op::Release(_)
        | Op::Delete(_)
        | Op::Nft(_)
        | Op::SetSysctl(..) => None,
    }
}

/// Whether something may be done of an operation that was refused: the kernel refuses a message about a link when it is
/// through with some of it, and classes take several.
fn may_be_half_done(op: &Op) -> bool {
    matches!(
        op,
        Op::Carry { .. }
            | Op::SetLink(..)
            | Op::SetBridge(..)
            | Op::SetPort(..)
            | Op::AddHtb(..)
            | Op::SetClass(..)
            | Op::LeaveLimits(..)
    )
}

/// Whether an operation without an undo leaves something behind that people should know of. A port's settings go
/// when it leaves its bridge, and a link's with a link that the plan made. A macvlan that had to go before another could
/// come is made anew by the plan that restores the NIC.
fn stays(op: &Op) -> bool {
    !matches!(
        op,
        Op::Announce(..)
            | Op::Delete(_)
            | Op::SetPort(..)
            | Op::SetVlans { .. }
            | Op::SetForwarding { .. }
            | Op::SetSysctl(Sysctl::AcceptRa(_) | Sysctl::DisableIpv6(_) | Sysctl::Autoconf(_), _)
    )
}
