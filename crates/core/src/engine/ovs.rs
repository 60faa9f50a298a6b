//! NICs on bridges of Open vSwitch: the port that a NIC should have, and the job that sees to it.

use super::effect::Job;
use super::hooks::Moment;
use super::input::JobOutcome;
use super::work::Goal;
use super::{Engine, Object};
use crate::model::LinkName;
use crate::plan::desired::{self, Plug, Resolved};
use crate::plan::{Handover, MarkKind, Op, OvsKnown, OvsPort, Plan};
use crate::{Error, ErrorKind};
use uuid::Uuid;

impl Engine {
    /// The job that a NIC's port needs: to go before the tap is plugged into something else, to be made or changed once
    /// the tap is there.
    pub(super) fn ovs_job(&self, object: Object, moment: Moment) -> Option<Job> {
        let Object::Nic(id) = object else { return None };
        let known = self.observed.ovs.get(&id);
        match moment {
            Moment::Before => {
                let known = known?;
                (!self.is_to_be_on_ovs(id)).then(|| Job::RemoveOvsPort(id, known.name.clone()))
            }
            Moment::After => {
                let wanted = self.wanted_port(id)?;
                (known.and_then(|k| k.port.as_ref()) != Some(&wanted)).then(|| Job::SetOvsPort(Box::new(wanted)))
            }
        }
    }

    fn is_to_be_on_ovs(&self, id: Uuid) -> bool {
        let desired = desired::nic(&self.intent, &self.observed, id);
        matches!(desired.map(|d| d.plug), Some(Plug::Ovs(_)))
    }

    /// The port that a NIC should have, with its bridge; none before its tap is there.
    fn wanted_port(&self, id: Uuid) -> Option<(LinkName, OvsPort)> {
        let nic = self.intent.nic(id)?;
        // Most NICs are on none: those are not looked at closer.
        if !matches!(desired::resolve(&self.intent, nic), Resolved::HostBridge(..)) {
            return None;
        }
        let Plug::Ovs(bridge) = desired::nic_as(&self.intent, &self.observed, nic)?.plug else { return None };
        let tap = self.observed.link_marked(MarkKind::Tap, id)?;
        let merged = desired::merged(&self.intent, nic).ok()?;
        let virtualport = merged.virtualport?;
        let port = OvsPort {
            name: nic.nic.target.clone()?,
            link: tap.index,
            nic: id,
            interface_id: virtualport.interface_id?,
            profile_id: virtualport.profile_id,
            mac: nic.nic.mac,
            guest: nic.guest_uuid,
            vlan: merged.vlan,
            bandwidth: merged.bandwidth,
        };
        Some((bridge, port))
    }

    /// A port was made, changed or removed, or could not be.
    pub(super) fn ovs_done(&mut self, object: Object, job: Job, outcome: JobOutcome) {
        if let Some(work) = self.work.get_mut(&object) {
            work.flight = None;
        }
        match (job, outcome) {
            (Job::SetOvsPort(_), JobOutcome::Failed(cause)) => {
                let error = Error::new(ErrorKind::HostFailed, self.describe(object), cause);
                self.failed(object, error.field("<virtualport>"));
            }
            (Job::SetOvsPort(set), _) => {
                let (name, nic) = (set.1.name.clone(), set.1.nic);
                self.observed.ovs.insert(nic, OvsKnown { name, port: Some(*set) });
                match self.announcement(object) {
                    Some(plan) => self.launch(object, plan),
                    None => self.advance(object),
                }
            }
            (Job::RemoveOvsPort(nic, name), outcome) => {
                self.observed.ovs.remove(&nic);
                if let JobOutcome::Failed(cause) = outcome {
                    // Nobody is kept waiting for it: the next daemon that starts removes what carries our mark.
                    self.drift(object, format!("port {name} stays in Open vSwitch's database: {cause}"), false);
                }
                self.advance(object);
            }
            _ => self.advance(object),
        }
    }

    /// What tells switches where a guest is now that was moved while it ran. There is no other way into a bridge of Open
    /// vSwitch than the guest's own: through a tap that we hold a descriptor of.
    fn announcement(&self, object: Object) -> Option<Plan> {
        let Object::Nic(id) = object else { return None };
        let goal = &self.work.get(&object)?.operation.as_ref()?.goal;
        let Goal::Nic { previous: Some(_), .. } = goal else { return None };
        let tap = self.observed.link_marked(MarkKind::Tap, id)?;
        let nic = self.intent.nic(id).filter(|nic| nic.handover == Handover::Descriptor)?;
        let mac = nic.nic.mac?;
        let mut plan = Plan::default();
        plan.push(Op::Announce(tap.index.into(), mac), None, "switches learn where the guest is now");
        Some(plan)
    }
}
