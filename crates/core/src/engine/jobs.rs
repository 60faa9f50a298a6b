//! Slow work: which job an object needs, and how it ended.

use super::effect::Effect;
use super::effect::{Job, JobId};
use super::hooks::Moment;
use super::input::JobOutcome;
use super::work::Flight;
use super::{Engine, Object};
use crate::plan::{Zone, dnsmasq};
use crate::{Error, ErrorKind};

impl Engine {
    /// The job that an object needs before its kernel objects are changed.
    pub(super) fn job_before(&mut self, object: Object) -> Option<Job> {
        let at = Moment::Before;
        self.hook_job(object, at).or_else(|| self.ovs_job(object, at)).or_else(|| self.function_job(object, at))
    }

    /// The job that an object needs when all else is done.
    pub(super) fn job_after(&mut self, object: Object) -> Option<Job> {
        let at = Moment::After;
        self.function_job(object, at).or_else(|| self.ovs_job(object, at)).or_else(|| self.hook_job(object, at))
    }

    /// The job that an object needs, whose kernel objects are there.
    pub(super) fn slow_job(&mut self, object: Object) -> Result<Option<Job>, Error> {
        let first = self.service_to_end(object).or_else(|| self.zone_job(object));
        match first.or_else(|| self.association_job(object)) {
            Some(job) => Ok(Some(job)),
            None => Ok(self.service_job(object)?.or_else(|| self.rules_to_remove(object))),
        }
    }

    pub(super) fn start_job(&mut self, object: Object, job: Job) {
        let id = JobId(self.fresh());
        self.jobs.insert(id, (object, job.clone()));
        let work = self.work.entry(object).or_default();
        work.flight = Some(Flight::Job(id));
        work.touch();
        work.port_doubted &= !matches!(job, Job::SetOvsPort(_));
        self.out.push(Effect::Start(id, job));
    }

    /// Slow work ended.
    pub(super) fn finished(&mut self, id: JobId, outcome: JobOutcome) {
        let Some((object, job)) = self.jobs.remove(&id) else { return };
        match job {
            Job::WatchOwner(owner) => return self.owner_gone(owner),
            Job::LookFor(_) => return self.looked(id),
            Job::SetOvsPort(_) | Job::RemoveOvsPort(..) => return self.ovs_done(object, job, outcome),
            Job::Hook(call) => return self.hooks_called(object, *call, outcome),
            Job::EndLibvirtService { .. } | Job::RemoveLibvirtRules { .. } => {
                return self.taken_over(object, &job, outcome);
            }
            Job::TryShaping => return self.shaping_tried(object, &outcome),
            Job::Associate(_) | Job::Disassociate(_) => return self.association_done(object, job, outcome),
            Job::ReadFunction(_) | Job::SetFunction(_) | Job::RestoreFunction(..) => {
                return self.function_done(object, job, outcome);
            }
            _ => {}
        }
        let Object::Network(uuid) = object else { return };
        self.work.entry(object).or_default().flight = None;
        match (job, outcome) {
            (_, JobOutcome::Running(service)) => {
                self.observed.services.insert(uuid, service);
                self.may_serve.remove(&uuid);
                self.advance(object);
            }
            (Job::StopService(..), JobOutcome::Done) => {
                self.observed.services.remove(&uuid);
                self.may_serve.remove(&uuid);
                self.advance(object);
            }
            (Job::SetZone { bridge, zone, present: true, table, .. }, JobOutcome::Done) => {
                let what = format!("firewalld had forgotten that {bridge} is in zone '{zone}'");
                let before = self.observed.zones.insert(uuid, Zone { bridge, zone, table });
                if before.is_some_and(|before| before.table.is_some()) {
                    self.drift(object, what, true);
                }
                self.advance(object);
            }
            // A bridge that is gone is in no zone, whatever firewalld still notes under its name.
            (Job::SetZone { present: false, .. }, _) => {
                self.observed.zones.remove(&uuid);
                self.advance(object);
            }
            (Job::SetZone { zone, .. }, JobOutcome::Failed(cause)) => {
                let cause = format!("the bridge can't be put into firewalld's zone '{zone}': {cause}");
                let error = Error::new(ErrorKind::HostFailed, self.describe(object), cause);
                self.failed(object, error.field("<bridge zone>").hint("leave the zone out, or start firewalld"));
            }
            (_, JobOutcome::Done | JobOutcome::Unchanged | JobOutcome::Function(_)) => self.advance(object),
            (job, JobOutcome::Failed(cause)) => {
                // Whether one runs is found out by looking, not by the failure.
                self.observed.services.remove(&uuid);
                self.may_serve.insert(uuid);
                let what = match job {
                    Job::StopService(..) => "dnsmasq did not stop",
                    Job::ReloadService(..) => "dnsmasq could not be told to read its files again",
                    _ => "dnsmasq did not start",
                };
                let hint = what_helps_dnsmasq(&cause);
                let error = Error::new(ErrorKind::HostFailed, self.describe(object), format!("{what}: {cause}"))
                    .field("DHCP and DNS");
                self.failed(object, hint.into_iter().fold(error, Error::hint));
            }
        }
    }

    /// Whether a job starts a dnsmasq in place of one that ended by itself.
    pub(super) fn starts_again(&self, object: Object, job: &Job) -> bool {
        let Job::StartService(network, _) = job else { return false };
        let asked_for = self.work.get(&object).is_some_and(|work| work.operation.is_some());
        self.started && !asked_for && !self.observed.services.contains_key(network)
    }

    /// The job that a network's firewalld zone needs.
    fn zone_job(&self, object: Object) -> Option<Job> {
        let Object::Network(network) = object else { return None };
        let active = self.intent.network(network).and_then(|n| n.active.as_ref());
        let wanted = active.and_then(|n| Some((n.bridge.name.as_ref()?.to_string(), n.bridge.zone.clone()?)));
        // While firewalld is not there nothing can be told to it; and what it was told before it came is forgotten.
        let table = self.observed.firewalls.firewalld;
        let there = self.observed.zones.get(&network).filter(|z| table.is_none() || z.table == table);
        let there = there.map(|z| (z.bridge.clone(), z.zone.clone()));
        let ((bridge, zone), present) = match (wanted, there) {
            (wanted, Some(there)) if wanted.as_ref() != Some(&there) => (there, false),
            (Some(wanted), None) => (wanted, true),
            _ => return None,
        };
        Some(Job::SetZone { network, bridge, zone, present, table })
    }

    /// The job that a network's dnsmasq needs.
    fn service_job(&self, object: Object) -> Result<Option<Job>, Error> {
        let Object::Network(uuid) = object else { return Ok(None) };
        let active = self.intent.network(uuid).and_then(|n| n.active.as_ref());
        let running = self.observed.services.get(&uuid);
        let wanted = match active.and_then(|n| n.bridge.name.as_ref().map(|b| (n, b))) {
            Some((network, bridge)) if dnsmasq::Config::needed(network) => {
                let upstream = self.observed.resolvers.clone();
                let settings = dnsmasq::Settings { upstream, ..self.config.dnsmasq.clone() };
                Some(dnsmasq::Config::of(network, uuid, bridge, &settings)?)
            }
            _ => None,
        };
        Ok(match (wanted, running) {
            (None, None) if !self.may_serve.contains(&uuid) => None,
            (None, _) => Some(Job::StopService(uuid)),
            (Some(config), None) => Some(Job::StartService(uuid, Box::new(config))),
            (Some(config), Some(service)) => match dnsmasq::refresh_needed(&service.files, &config) {
                dnsmasq::Refresh::Nothing => None,
                dnsmasq::Refresh::Reload => Some(Job::ReloadService(uuid, service.pid, Box::new(config))),
                dnsmasq::Refresh::Restart => Some(Job::StartService(uuid, Box::new(config))),
            },
        })
    }
}

/// What would help against what dnsmasq says in its way.
fn what_helps_dnsmasq(cause: &str) -> Option<&'static str> {
    let known = [
        (
            "Address already in use",
            "another server listens there: make it listen on addresses of its own (dnsmasq: bind-interfaces; unbound: \
             interface:), or set <dns enable='no'/>",
        ),
        ("TFTP directory", "make the directory of <tftp root> first, readable by dnsmasq's user"),
        ("at line", "it is a line of the file that was made of the network: see what <dnsmasq:option> says"),
    ];
    known.into_iter().find(|(words, _)| cause.contains(words)).map(|(_, hint)| hint)
}
