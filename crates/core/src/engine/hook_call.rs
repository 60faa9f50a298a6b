//! One call of the hooks: arguments and document as libvirt gives them to its network hook, and a few variables.

use super::{Engine, Object};
use crate::intent::NicIntent;
use crate::model::{Name, Network, Tag};
use crate::xml::{self, PATCHCORD_NAMESPACE};
use std::fmt;
use uuid::Uuid;

/// What hooks are told of. The words are libvirt's (<https://libvirt.org/hooks.html>), save `port-updated`, which is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookOperation {
    /// A network is about to start; nothing is made yet.
    Start,
    /// It runs.
    Started,
    /// It runs, with another configuration than before.
    Updated,
    /// It does not run any more, or did not start after all.
    Stopped,
    /// A NIC is plugged in, and its owner does not know yet.
    PortCreated,
    /// A NIC is configured, or plugged in, otherwise than before.
    PortUpdated,
    /// A NIC is gone.
    PortDeleted,
}

impl HookOperation {
    /// The second argument.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Started => "started",
            Self::Updated => "updated",
            Self::Stopped => "stopped",
            Self::PortCreated => "port-created",
            Self::PortUpdated => "port-updated",
            Self::PortDeleted => "port-deleted",
        }
    }

    /// The third argument.
    const fn stage(self) -> &'static str {
        match self {
            Self::Stopped => "end",
            _ => "begin",
        }
    }

    /// Whether a hook's failure refuses what somebody asked for, which is taken back then.
    pub(super) const fn may_refuse(self) -> bool {
        match self {
            Self::Start | Self::Started | Self::PortCreated | Self::PortUpdated => true,
            Self::Updated | Self::Stopped | Self::PortDeleted => false,
        }
    }
}

impl fmt::Display for HookOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call of all hooks, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// The object, as users know it.
    pub object: String,
    /// What happened to it.
    pub operation: HookOperation,
    /// Absolute paths, in the order of the calls.
    pub programs: Vec<String>,
    /// What each is called with.
    pub arguments: [String; 4],
    /// Variables, beside those that are the same for every call.
    pub variables: Vec<(&'static str, String)>,
    /// What each reads on its standard input.
    pub document: String,
    /// Whether a failure refuses the operation. Then those that come after the one that failed are not called.
    pub refuses: bool,
}

/// Whom a call is about, as it is or was last.
pub(super) enum About<'a> {
    Network(&'a Network),
    Nic(&'a NicIntent),
}

impl Engine {
    /// The call that tells of an operation.
    pub(super) fn hook_call(
        &self,
        object: Object,
        operation: HookOperation,
        about: &About<'_>,
        refuses: bool,
    ) -> HookCall {
        let mut variables = vec![("PATCHCORD_OPERATION", operation.to_string())];
        let (described, name, document) = match about {
            About::Network(network) => {
                let uuid = match object {
                    Object::Network(uuid) => uuid,
                    Object::Host | Object::Nic(_) => Uuid::nil(),
                };
                variables.push(("PATCHCORD_OBJECT", "network".into()));
                variables.push(("PATCHCORD_TAGS", lines(&network.tags)));
                let document = self.live_network_xml(uuid, network);
                (format!("network '{}'", network.name), Some(&network.name), document)
            }
            About::Nic(nic) => {
                let view = self.nic_view(nic);
                variables.push(("PATCHCORD_OBJECT", "nic".into()));
                variables.push(("PATCHCORD_NIC", nic.id.to_string()));
                variables.push(("PATCHCORD_GUEST", nic.guest.to_string()));
                variables.extend(view.tap.map(|tap| ("PATCHCORD_TAP", tap)));
                variables.extend(nic.nic.mac.map(|mac| ("PATCHCORD_MAC", mac.to_string())));
                variables.push(("PATCHCORD_TAGS", view.tags.join("\n")));
                (format!("NIC {} of guest '{}'", nic.id, nic.guest), nic.network_name(), self.nic_documents(nic))
            }
        };
        variables.extend(name.map(|name| ("PATCHCORD_NETWORK", name.to_string())));
        HookCall {
            object: described,
            operation,
            programs: self.observed.hooks.clone(),
            arguments: [
                name.map_or_else(|| "-".into(), Name::to_string),
                operation.to_string(),
                operation.stage().into(),
                "-".into(),
            ],
            variables,
            document: format!("<hookData>\n{document}</hookData>\n"),
            refuses,
        }
    }

    /// A NIC's network and port, as libvirt has them, and the NIC itself. They are put side by side as they are printed
    /// elsewhere: indenting them would change text that spans lines.
    fn nic_documents(&self, nic: &NicIntent) -> String {
        let network = nic.network.and_then(|uuid| Some((uuid, self.intent.network(uuid)?.current()?)));
        let network = network.map(|(uuid, network)| self.live_network_xml(uuid, network)).unwrap_or_default();
        let port = self.networkport(nic).map(|port| xml::write_networkport(&port)).unwrap_or_default();
        let interface = self.live_nic_xml(nic);
        let mut w = xml::Writer::new();
        w.element("pc:nic")
            .attr("xmlns:pc", PATCHCORD_NAMESPACE)
            .attr("id", nic.id)
            .attr("guest", &nic.guest)
            .opt("guestuuid", nic.guest_uuid)
            .body(|w| w.raw(interface.trim_end()));
        network + &port + &w.finish()
    }
}

/// Labels, one on each line: they have no control characters.
fn lines(tags: &[Tag]) -> String {
    tags.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
