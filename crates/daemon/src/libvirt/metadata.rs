//! Calls about what is kept with networks: title, description, and elements of `<metadata>`.

use super::errors::{invalid, known_flags, unexpected};
use super::networks::{CONFIG, LIVE, id};
use super::session::Session;
use patchcord_core::engine::{Body, Command};
use patchcord_core::model::MetadataPart;
use patchcord_libvirt_wire::reply::RemoteError;
use patchcord_libvirt_wire::{Call, NetworkRef, Reply};

/// Kinds of metadata (libvirt's `virNetworkMetadataType`).
const DESCRIPTION: i32 = 0;
const TITLE: i32 = 1;
const ELEMENT: i32 = 2;

/// libvirt's number for a part, and an element's namespace.
pub(super) fn number(part: &MetadataPart) -> (i32, Option<&str>) {
    match part {
        MetadataPart::Description => (DESCRIPTION, None),
        MetadataPart::Title => (TITLE, None),
        MetadataPart::Element(uri) => (ELEMENT, Some(uri)),
    }
}

impl Session {
    /// Sets a part.
    pub(super) async fn set_metadata(&self, call: Call) -> Result<Reply, RemoteError> {
        let Call::NetworkSetMetadata { net, kind, metadata, key, uri, flags } = call else { return Err(unexpected()) };
        known_flags(flags, LIVE | CONFIG)?;
        let part = part(kind, uri)?;
        if key.is_some() && !matches!(part, MetadataPart::Element(_)) {
            return Err(invalid("the key", "it goes with an element of the metadata only"));
        }
        self.done(Command::Annotate {
            network: id(&net),
            part,
            key,
            value: metadata,
            live: flags & LIVE != 0,
            config: flags & CONFIG != 0,
        })
        .await
    }

    /// Reads a part.
    pub(super) async fn metadata(
        &self,
        net: &NetworkRef,
        kind: i32,
        uri: Option<String>,
        flags: u32,
    ) -> Result<Reply, RemoteError> {
        known_flags(flags, LIVE | CONFIG)?;
        if flags == LIVE | CONFIG {
            return Err(invalid("the flags", "what runs and the definition can't both be read in one call"));
        }
        let (live, config) = (flags & LIVE != 0, flags & CONFIG != 0);
        let command = Command::Annotation { network: id(net), part: part(kind, uri)?, live, config };
        match self.command(command).await?.body {
            Body::Xml(text) => Ok(Reply::Text(text)),
            _ => Err(unexpected()),
        }
    }
}

fn part(kind: i32, uri: Option<String>) -> Result<MetadataPart, RemoteError> {
    match (kind, uri) {
        (DESCRIPTION, None) => Ok(MetadataPart::Description),
        (TITLE, None) => Ok(MetadataPart::Title),
        (ELEMENT, Some(uri)) => Ok(MetadataPart::Element(uri)),
        (ELEMENT, None) => Err(invalid("the namespace", "an element of the metadata is found by one")),
        (DESCRIPTION | TITLE, Some(_)) => Err(invalid("the namespace", "it goes with an element of the metadata only")),
        (kind, _) => Err(invalid("the kind of metadata", format!("there is no {kind}"))),
    }
}
