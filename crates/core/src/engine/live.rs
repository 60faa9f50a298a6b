//! Changes of a part of a network, of its definition and while it runs; and of what is kept with it.

use super::effect::{Body, Effect, NetworkEvent};
use super::functions::without_found_functions;
use super::input::RequestId;
use super::{Engine, Object};
use crate::intent::NetworkIntent;
use crate::model::{MetadataPart, Network, UpdateCommand, UpdateSection};
use crate::{Error, ErrorKind, xml};
use uuid::Uuid;

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

/// A part of what is kept with a network, and what it is to be.
pub(super) struct Annotation {
    /// Which part.
    pub(super) part: MetadataPart,
    /// The prefix of an element's namespace.
    pub(super) key: Option<String>,
    /// The part; none removes it.
    pub(super) value: Option<String>,
}

/// What of a network a request is about.
struct Sides {
    uuid: Uuid,
    known: NetworkIntent,
    definition: Option<Network>,
    active: Option<Network>,
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
        let Sides { uuid, known, definition, active } = self.sides(name, live, config)?;
        let mut intent = known.clone();
        let both = definition.is_some() && active.is_some();
        let of = |what: &'static str| {
            move |error: Error| match both && error.hint.is_none() {
                true => error.hint(what),
                false => error,
            }
        };
        if let Some(definition) = definition {
            let changed = definition.update(part.command, part.section, part.parent, part.xml);
            let changed =
                changed.map_err(of("that is its definition's; with --live alone only what runs is changed"))?;
            if changed.bridge.name != definition.bridge.name {
                self.bridge_is_nobodys(uuid, &changed)?;
            }
            intent.definition = Some(changed);
        }
        if let Some(active) = active {
            let mut given = active.clone();
            without_found_functions(&mut given);
            let changed = given.update(part.command, part.section, part.parent, part.xml);
            let mut changed =
                changed.map_err(of("that is what runs; with --config alone only its definition is changed"))?;
            self.list_functions(&mut changed);
            if changed.bridge.name != active.bridge.name {
                self.bridge_is_nobodys(uuid, &changed)?;
                self.bridge_may_be_left(uuid, &active, &changed)?;
            }
            let warnings = self.may_start(uuid, &changed)?;
            // Who changed something else was told when it started.
            let concerns =
                changed.ips != active.ips || changed.forward != active.forward || changed.bridge != active.bridge;
            self.nics_stay(uuid, &active, &changed)?;
            intent.active = Some(changed);
            let warnings = if concerns { warnings } else { Vec::new() };
            self.begin(Some(id), uuid, Some(known), intent, NetworkEvent::Updated, warnings);
        } else {
            self.put_network(uuid, Some(intent));
            self.out.push(Effect::answer(id, Body::Done));
        }
        Ok(())
    }

    /// Changes a part of what is kept with a network; of what, is chosen as in [`Engine::update`].
    pub(super) fn annotate(
        &mut self,
        id: RequestId,
        name: &str,
        Annotation { part, key, value }: Annotation,
        (live, config): (bool, bool),
    ) -> Result<(), Error> {
        let Sides { uuid, known, definition, active } = self.sides(name, live, config)?;
        let changed = |network: Network| xml::annotate(&network, &part, key.as_deref(), value.as_deref());
        let (definition, active) = (definition.map(changed).transpose()?, active.map(changed).transpose()?);
        let is_live = active.is_some();
        let intent = NetworkIntent {
            definition: definition.or_else(|| known.definition.clone()),
            active: active.or_else(|| known.active.clone()),
            ..known
        };
        let event = NetworkEvent::Annotated(part);
        if is_live {
            self.begin(Some(id), uuid, Some(known), intent, event, Vec::new());
        } else {
            self.put_network(uuid, Some(intent));
            self.publish_network(uuid, event);
            self.out.push(Effect::answer(id, Body::Done));
        }
        Ok(())
    }

    /// A part of what is kept with a network.
    pub(super) fn annotation(&self, name: &str, part: &MetadataPart, live: bool, config: bool) -> Result<Body, Error> {
        let Sides { uuid, definition, active, .. } = self.sides(name, live, config)?;
        let found = active.or(definition).and_then(|network| xml::annotation(&network, part));
        found.map(Body::Xml).ok_or_else(|| {
            let what = match part {
                MetadataPart::Description => "it has no description".to_owned(),
                MetadataPart::Title => "it has no title".to_owned(),
                MetadataPart::Element(uri) => format!("its metadata has nothing in namespace '{uri}'"),
            };
            Error::new(ErrorKind::NoMetadata, self.describe(Object::Network(uuid)), what)
        })
    }

    /// What of a network a request is about: the active instance, the definition, or both.
    ///
    /// # Errors
    /// One that is asked for and not there.
    fn sides(&self, name: &str, live: bool, config: bool) -> Result<Sides, Error> {
        let uuid = self.find(name)?;
        let object = self.describe(Object::Network(uuid));
        let known = self.intent.network(uuid).cloned().unwrap_or_default();
        let (live, config) = match (live, config) {
            (false, false) => (known.active.is_some(), known.active.is_none()),
            chosen => chosen,
        };
        let definition = config.then(|| known.definition.clone()).map(|definition| {
            let transient =
                Error::new(ErrorKind::InvalidState, object.as_str(), "it is transient: it has no definition to change");
            definition.ok_or_else(|| transient.hint("leave --config out"))
        });
        let active = live.then(|| known.active.clone()).map(|active| {
            let idle = Error::new(ErrorKind::NotActive, object.as_str(), "the network is not active");
            active.ok_or_else(|| idle.hint("leave --live out"))
        });
        // Whether there is what is to change comes before what is wrong with the change.
        let (definition, active) = (definition.transpose()?, active.transpose()?);
        Ok(Sides { uuid, known, definition, active })
    }
}
