//! NICs that follow their network: they look again when its bridge is another one or none, and its operation waits for them.

use super::work::Work;
use super::{Engine, Object};
use crate::model::LinkName;
use std::collections::BTreeSet;
use uuid::Uuid;

impl Engine {
    /// A network's NICs look at where they belong now; an operation waits for them. So do those that know its bridge by
    /// name, themselves or through another network.
    pub(super) fn follow(&mut self, uuid: Uuid) {
        let object = Object::Network(uuid);
        let own: Vec<Uuid> = self.intent.nics_of(uuid).map(|n| n.id).collect();
        let bridges = self.bridges_of(uuid);
        let guests: Vec<Uuid> =
            bridges.iter().flat_map(|bridge| self.intent.nics_on_bridge(bridge)).map(|nic| nic.id).collect();
        for nic in &own {
            self.tap_may_come_back(*nic);
            self.advance(Object::Nic(*nic));
            let busy = self.work.get(&Object::Nic(*nic)).is_some_and(|w| w.flight.is_some() && w.operation.is_none());
            if let (true, Some(operation)) = (busy, self.work.get_mut(&object).and_then(|w| w.operation.as_mut())) {
                operation.nics.insert(*nic);
                self.followers.insert((*nic, uuid));
            }
        }
        for nic in guests {
            self.tap_may_come_back(nic);
            self.advance(Object::Nic(nic));
        }
    }

    /// The bridge that a network has of its own now, and the one that it had when its operation began.
    fn bridges_of(&self, uuid: Uuid) -> BTreeSet<LinkName> {
        let before = self.work.get(&Object::Network(uuid)).and_then(Work::network_before);
        let instances = [before, self.intent.network(uuid)].into_iter().flatten().filter_map(|n| n.active.as_ref());
        let own = instances.filter(|active| active.forward.mode.has_own_bridge());
        own.filter_map(|active| active.bridge.name.clone()).collect()
    }

    /// A NIC that a network's operation waits for is settled, or failed and will be looked at again.
    pub(super) fn follower_done(&mut self, object: Object) {
        let Object::Nic(id) = object else { return };
        let waited_for = self.followers.range((id, Uuid::nil())..=(id, Uuid::max()));
        for (_, uuid) in waited_for.copied().collect::<Vec<_>>() {
            self.followers.remove(&(id, uuid));
            let network = Object::Network(uuid);
            let Some(operation) = self.work.get_mut(&network).and_then(|w| w.operation.as_mut()) else { continue };
            if operation.nics.remove(&id) && operation.nics.is_empty() {
                self.finish(network);
            }
        }
    }
}
