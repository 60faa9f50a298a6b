//! Whether a NIC is plugged into its device by a cord or is a macvtap: decided when it is attached, for its whole life.

use super::Engine;
use crate::intent::{Allocation, NicIntent};
use crate::model::{ActualType, DevicePlug, DirectMode};
use crate::plan::{Handover, MarkKind, plug};
use crate::{Error, ErrorKind};

const PLUG: &str = "<pc:driver plug>";
const ANEW: &str = "detach the NIC and attach a new one";

impl Engine {
    /// How a NIC is plugged in that comes down to `actual`: as it is from its attach on, and else as its document or the
    /// configuration says. None where that says nothing, and nothing depends on it.
    pub(super) fn settle_plug(
        &self,
        object: &str,
        nic: &NicIntent,
        actual: ActualType,
    ) -> Result<Option<DevicePlug>, Error> {
        let refuse = |cause: &str, hint: &str| {
            Err(Error::new(ErrorKind::Unsupported, object, cause).field(PLUG).hint(hint.to_owned()))
        };
        let on_device = matches!(actual, ActualType::Direct(_));
        let asked = nic.nic.plug;
        match self.intent.nic(nic.id).map(NicIntent::is_macvtap) {
            None if asked == Some(DevicePlug::Macvtap) && !on_device => {
                let cause =
                    format!("a macvtap sits on a device of the host's, and this NIC would get {}", actual.noun());
                refuse(&cause, "leave it out, or use a network on devices")
            }
            None => {
                let macvtap = on_device && asked.unwrap_or(self.config.plug) == DevicePlug::Macvtap;
                Ok(if macvtap { Some(DevicePlug::Macvtap) } else { asked })
            }
            Some(true) if asked == Some(DevicePlug::Cord) => {
                refuse("the NIC is a macvtap, and can't be plugged in by a cord while it lives", ANEW)
            }
            Some(true) if !on_device => {
                let cause = format!("the NIC is a macvtap, and can't be moved from its device to {}", actual.noun());
                let pull = "pull its cable instead: patchcord nic link ID down";
                let hint = if actual == ActualType::None { pull } else { ANEW };
                refuse(&cause, hint).map_err(|error| error.field("<source>"))
            }
            Some(true) => Ok(Some(DevicePlug::Macvtap)),
            Some(false) if asked == Some(DevicePlug::Macvtap) => {
                refuse("the NIC has a tap, and can't become a macvtap while it lives", ANEW)
            }
            Some(false) => Ok(asked),
        }
    }

    /// Whether a macvtap can be on the device that it was given, in that mode: a new one if the device is there or may be
    /// waited for, one that lives on none but its own.
    pub(super) fn macvtap_fits(
        &self,
        object: &str,
        nic: &NicIntent,
        mode: DirectMode,
        allocation: Option<&Allocation>,
    ) -> Result<(), Error> {
        let refuse = |kind, cause: String| Err(Error::new(kind, object, cause).field("<source>"));
        let device = allocation.and_then(Allocation::link);
        let Some(was) = self.intent.nic(nic.id) else {
            let there = device.is_some_and(|d| self.observed.link_named(d.as_str()).is_some());
            if !there && nic.handover == Handover::Descriptor {
                let cause =
                    "its device is not there, and without it there is no macvtap to be handed over by descriptor";
                return refuse(ErrorKind::NoDevice, cause.into())
                    .map_err(|e| e.hint("attach it by name, or plug it in by a cord, which can wait for a device"));
            }
            return Ok(());
        };
        let Some(link) = self.observed.link_marked(MarkKind::Tap, nic.id) else {
            if nic.handover == Handover::Descriptor {
                let cause = "its macvtap went with its device, and its guest's descriptors with that";
                return refuse(ErrorKind::Unsupported, cause.into()).map_err(|e| e.hint(ANEW));
            }
            return Ok(());
        };
        let sits_on = was.device();
        if device != sits_on {
            let name = |d: Option<&crate::model::LinkName>| d.map_or_else(|| "no device".into(), ToString::to_string);
            let cause = format!("the NIC is a macvtap on {}, and can't be moved to {}", name(sits_on), name(device));
            return refuse(ErrorKind::Unsupported, cause).map_err(|e| e.hint(ANEW));
        }
        if link.mode != Some(mode) && !plug::changes_in_place(link.mode, mode) {
            let was = link.mode.map_or("an unknown mode", DirectMode::as_str);
            let cause =
                format!("the NIC is a macvtap in mode {was}, which the kernel can't change to {}", mode.as_str());
            return refuse(ErrorKind::Unsupported, cause).map_err(|e| e.hint(ANEW));
        }
        Ok(())
    }
}
