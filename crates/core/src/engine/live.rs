//! Changes of a part of a network, of its definition and while it runs.

use super::effect::{Body, Effect, NetworkEvent};
use super::input::RequestId;
use super::{Engine, Object};
use crate::model::{UpdateCommand, UpdateSection};
use crate::{Error, ErrorKind};

/// The part and what to do with it.
pub(super) struct Part<'a> {
    /// What to do.
    pub(super) command: UpdateCommand,
    /// Which part.
    pub(super) section: UpdateSection,
    /// Which of several parents.
    pub(super) parent: Option<u32>,
    /// The part's document.
    pub(super) xml: &'a str,
}

impl Engine {
    /// Changes a part of a network. Without `live` and `config` it changes what there is: the active instance of an
    /// active network, else the definition.
    pub(super) fn update(
        &mut self,
        id: RequestId,
        name: &str,
        part: Part<'_>,
        live: bool,
        config: bool,
    ) -> Result<(), Error> {
        let uuid = self.find(name)?;
        let object = self.describe(Object::Network(uuid));
        let Some(known) = self.intent.network(uuid).cloned() else { return Ok(()) };
        let (live, config) = match (live, config) {
            (false, false) => (known.active.is_some(), known.active.is_none()),
            chosen => chosen,
        };
        // Whether there is what is to change comes before what is wrong with the change.
        let definition = config.then_some(known.definition.as_ref()).map(|definition| {
            let transient =
                Error::new(ErrorKind::InvalidState, object.as_str(), "it is transient: it has no definition to change");
            definition.ok_or_else(|| transient.hint("leave --config out"))
        });
        let active = live.then_some(known.active.as_ref()).map(|active| {
            let idle = Error::new(ErrorKind::NotActive, object.as_str(), "the network is not active");
            active.ok_or_else(|| idle.hint("leave --live out"))
        });
        let (definition, active) = (definition.transpose()?, active.transpose()?);
        let mut intent = known.clone();
        if let Some(definition) = definition {
            intent.definition = Some(definition.update(part.command, part.section, part.parent, part.xml)?);
        }
        if let Some(active) = active {
            let mut changed = active.update(part.command, part.section, part.parent, part.xml)?;
            self.list_functions(&mut changed);
            if changed.forward.mode != active.forward.mode {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    object,
                    "the mode of an active network can't be changed",
                )
                .field("<forward mode>")
                .hint("change the definition with --config, then stop and start the network"));
            }
            self.may_start(uuid, &changed)?;
            self.nics_stay(uuid, &changed)?;
            intent.active = Some(changed);
        }
        if live {
            self.begin(Some(id), uuid, Some(known), intent, NetworkEvent::Updated, Vec::new());
        } else {
            self.put_network(uuid, Some(intent));
            self.out.push(Effect::answer(id, Body::Done));
        }
        Ok(())
    }
}
