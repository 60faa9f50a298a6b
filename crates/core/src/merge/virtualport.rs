//! `<virtualport>`: one type, and each parameter from whoever gives it.

use super::{Place, Sides};
use crate::error::Reasons;
use crate::model::{ActualType, VIRTUALPORT_TYPES_HINT, VirtualPort, VirtualPortType};
use crate::{ErrorKind, Result};
use std::fmt::Display;

/// What helps against a disagreement.
const AGREE: &str = "give it in one of the two places only";

/// Who can say what is missing.
const WHO: &str = "give it in the <virtualport> of the NIC, its portgroup or its network";

/// A virtualport, and where it is given.
type Side<'a> = (Place<'a>, &'a VirtualPort);

impl<'a> Sides<'a> {
    /// The merged virtualport, and whether the NIC's generated id is in it. Of a refused one there is what all agree on;
    /// nothing, if that is not even the type.
    pub(super) fn virtualport(&self, reasons: &mut Reasons) -> Option<(Option<VirtualPort>, bool)> {
        // Nothing speaks for a NIC that is connected to nothing; its configuration waits until it is.
        if self.actual == ActualType::None {
            return None;
        }
        let ports: Vec<Side<'a>> = self.places().into_iter().zip(self.ports()).filter_map(|(a, b)| a.zip(b)).collect();
        let kind = reasons.note(self.kind(&ports))??;
        for (place, port) in &ports {
            if let Some(name) = (VirtualPort { kind: Some(kind), ..(*port).clone() }).foreign_parameter() {
                let cause = format!("{place} gives {name}, and a virtualport of type '{}' has none", kind.as_str());
                reasons.note::<()>(Err(self.refuse(ErrorKind::InvalidXml, &parameter(name), cause)));
            }
        }
        let mut merged = VirtualPort {
            kind: Some(kind),
            manager_id: self.parameter(reasons, &ports, "managerid", |p| p.manager_id.as_ref()),
            type_id: self.parameter(reasons, &ports, "typeid", |p| p.type_id.as_ref()),
            type_id_version: self.parameter(reasons, &ports, "typeidversion", |p| p.type_id_version.as_ref()),
            instance_id: self.parameter(reasons, &ports, "instanceid", |p| p.instance_id.as_ref()),
            profile_id: self.parameter(reasons, &ports, "profileid", |p| p.profile_id.as_ref()),
            interface_id: self.parameter(reasons, &ports, "interfaceid", |p| p.interface_id.as_ref()),
        };
        let id_used = match kind {
            VirtualPortType::Qbg => fill(&mut merged.instance_id, self.given.id),
            VirtualPortType::OpenVSwitch => fill(&mut merged.interface_id, self.given.id),
            VirtualPortType::Qbh | VirtualPortType::Midonet => false,
        };
        if let Some(missing) = missing(&merged, kind).filter(|_| !self.portgroup_unknown) {
            let cause = format!("a virtualport of type '{}' needs {missing}, which nobody gives", kind.as_str());
            let error = self.refuse(ErrorKind::InvalidXml, "<virtualport parameters>", cause);
            reasons.note::<()>(Err(error.hint(WHO)));
        }
        Some((Some(merged), id_used))
    }

    /// The type that the first to say one says, whether the others agree or not.
    pub(super) fn wanted_kind(&self) -> Option<VirtualPortType> {
        self.ports().into_iter().flatten().find_map(|port| port.kind)
    }

    /// The virtualports of the NIC, its portgroup and its network.
    fn ports(&self) -> [Option<&'a VirtualPort>; 3] {
        [
            self.given.nic.virtualport.as_ref(),
            self.portgroup.and_then(|p| p.virtualport.as_ref()),
            self.given.network.and_then(|n| n.virtualport.as_ref()),
        ]
    }

    /// The type on which all agree; none if nobody says anything.
    fn kind(&self, ports: &[Side<'a>]) -> Result<Option<VirtualPortType>> {
        let mut kinds = ports.iter().filter_map(|(place, port)| port.kind.map(|kind| (place, kind)));
        let Some((first, kind)) = kinds.next() else {
            let Some((place, _)) = ports.iter().find(|(_, port)| **port != VirtualPort::default()) else {
                return Ok(None);
            };
            if self.portgroup_unknown {
                return Ok(None);
            }
            let cause = format!("{place} gives parameters of a virtualport, and nobody its type");
            return Err(self.refuse(ErrorKind::InvalidXml, "<virtualport type>", cause).hint(WHO));
        };
        if let Some((second, other)) = kinds.find(|(_, other)| *other != kind) {
            let cause = format!("{first} says type '{}', {second} says '{}'", kind.as_str(), other.as_str());
            return Err(self.refuse(ErrorKind::InvalidXml, "<virtualport type>", cause).hint(AGREE));
        }
        if !self.actual.takes_virtualport(kind) {
            let cause =
                format!("{first} says type '{}', and {}, where it means nothing", kind.as_str(), self.connected());
            return Err(self.refuse(ErrorKind::Unsupported, "<virtualport type>", cause).hint(VIRTUALPORT_TYPES_HINT));
        }
        Ok(Some(kind))
    }

    /// A parameter: the portgroup's before the network's. The NIC may repeat what the host says, not contradict it; it is
    /// there all the same.
    fn parameter<T: Clone + PartialEq + Display + 'a>(
        &self,
        reasons: &mut Reasons,
        ports: &[Side<'a>],
        name: &str,
        get: impl Fn(&'a VirtualPort) -> Option<&'a T>,
    ) -> Option<T> {
        let mut given = ports.iter().filter_map(|(place, port)| get(port).map(|value| (*place, value)));
        let (place, value) = given.next()?;
        if place == Place::Nic
            && let Some((host, other)) = given.next().filter(|(_, other)| *other != value)
        {
            let cause = format!("{place} says {name} {value}, {host} says {other}");
            let error = self.refuse(ErrorKind::InvalidXml, &parameter(name), cause);
            reasons.note::<()>(Err(error.hint(AGREE)));
        }
        Some(value.clone())
    }
}

fn parameter(name: &str) -> String {
    format!("<parameters {name}>")
}

/// Sets what is not set, and says whether it did.
fn fill<T>(field: &mut Option<T>, value: T) -> bool {
    let empty = field.is_none();
    field.get_or_insert(value);
    empty
}

/// The parameters that a virtualport of that type still needs (libvirt's rules).
fn missing(port: &VirtualPort, kind: VirtualPortType) -> Option<String> {
    let needed: &[(&str, bool)] = match kind {
        VirtualPortType::Qbg => &[
            ("managerid", port.manager_id.is_some()),
            ("typeid", port.type_id.is_some()),
            ("typeidversion", port.type_id_version.is_some()),
        ],
        VirtualPortType::Qbh => &[("profileid", port.profile_id.is_some())],
        VirtualPortType::Midonet => &[("interfaceid", port.interface_id.is_some())],
        VirtualPortType::OpenVSwitch => &[],
    };
    let names: Vec<_> = needed.iter().filter(|(_, given)| !given).map(|(name, _)| *name).collect();
    (!names.is_empty()).then(|| names.join(" and "))
}
