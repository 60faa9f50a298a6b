//! What libvirt's clients keep with a network, one part at a time. They hand an element of `<metadata>` over, and get it
//! back, without a prefix for its own namespace.

use super::PATCHCORD_NAMESPACE;
use super::metadata::{element_text, read_root};
use super::network::{metadata_tags, read_network_element, write_network};
use super::reader::{Mode, read_document, root_name};
use crate::model::{Metadata, MetadataElement, MetadataNode, MetadataPart, Network};
use crate::{Error, ErrorKind, Result};

/// A prefix and the namespace that it stands for.
type Prefix = (String, String);

/// A part of what is kept with a network; `None` where there is none. Our own element has the tags.
pub fn annotation(network: &Network, part: &MetadataPart) -> Option<String> {
    let uri = match part {
        MetadataPart::Description => return network.description.clone(),
        MetadataPart::Title => return network.title.clone(),
        MetadataPart::Element(uri) => uri,
    };
    let kept = network.metadata.as_ref();
    let found = kept.and_then(|m| m.elements.iter().find(|e| e.uri == *uri)).cloned();
    let element = found.or_else(|| metadata_tags(network).filter(|e| e.uri == *uri))?;
    let outer = kept.map_or(&[][..], |m| &m.namespaces);
    Some(element_text(&stand_alone(element, uri, outer)))
}

/// The network with that part changed to `value`, or without it. An element gets `key` as the prefix of its namespace.
/// Empty texts count as none, as in documents. The result is as it will be read again.
///
/// # Errors
/// What can't be in a document, or can't be found again in that namespace, is refused.
pub fn annotate(network: &Network, part: &MetadataPart, key: Option<&str>, value: Option<&str>) -> Result<Network> {
    let object = format!("network '{}'", network.name);
    let mut changed = network.clone();
    match part {
        MetadataPart::Description => changed.description = text(&object, "<description>", value)?,
        MetadataPart::Title => {
            changed.title = text(&object, "<title>", value)?;
            if changed.title.as_ref().is_some_and(|title| title.contains(['\n', '\r'])) {
                return Err(
                    refuse(&object, "<title>", "a title is one line").hint("keep what is longer as the description")
                );
            }
        }
        MetadataPart::Element(uri) => set_element(&mut changed, &object, uri, key, value)?,
    }
    // It must be readable again in run state, where there is one element more around it, and its attributes.
    let document = format!("<kept instead='{:1024}'>{}</kept>", "", write_network(&changed));
    let read = read_document(&document, Mode::Lenient, &object, "kept", |kept| {
        kept.child("network").map(|network| read_network_element(&network)).transpose()
    });
    match read {
        // The document of a definition lacks what was found for <pf>, so that not all is taken from it.
        Ok(Some(Network { tags, portgroups, metadata, .. })) => Ok(Network { tags, portgroups, metadata, ..changed }),
        Ok(None) => Err(refuse(&object, "<metadata>", "it can't be kept")),
        Err(error) => Err(refuse(&object, "<metadata>", format!("it can't be kept: {}", error.cause))),
    }
}

fn refuse(object: &str, field: &str, cause: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, object, cause).field(field)
}

/// A text that a document can hold (XML 1.0, production 2).
fn text(object: &str, field: &str, value: Option<&str>) -> Result<Option<String>> {
    let allowed = |c: char| !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    match value.unwrap_or_default() {
        "" => Ok(None),
        value => match value.chars().find(|c| !allowed(*c)) {
            Some(c) => Err(refuse(object, field, format!("{c:?} can't be in it"))),
            None => Ok(Some(value.to_owned())),
        },
    }
}

fn set_element(network: &mut Network, object: &str, uri: &str, key: Option<&str>, value: Option<&str>) -> Result<()> {
    if uri.is_empty() {
        return Err(refuse(object, "the namespace", "it is empty"));
    }
    let new = match (value, key) {
        (None, _) => None,
        (Some(_), None) => return Err(refuse(object, "the key", "an element needs one, as its namespace's prefix")),
        (Some(value), Some(key)) => Some(element_in(object, uri, key, value)?),
    };
    if uri == PATCHCORD_NAMESPACE {
        network.tags.clear();
        network.portgroups.iter_mut().for_each(|p| p.tags.clear());
    }
    let mut metadata = network.metadata.take().unwrap_or_default();
    let before = metadata.elements.len();
    metadata.elements.retain(|e| e.uri != uri);
    let removed = metadata.elements.len() < before;
    metadata.elements.extend(new);
    network.metadata = Some(metadata).filter(|m| !m.is_empty() || !removed && *m != Metadata::default());
    Ok(())
}

/// The element of a document; what in it is in no namespace is in that one.
fn element_in(object: &str, uri: &str, key: &str, document: &str) -> Result<MetadataElement> {
    if !is_prefix(key) {
        return Err(refuse(object, "the key", format!("'{key}' can't be a namespace's prefix")));
    }
    let root = root_name(document).unwrap_or_default();
    let root = root.rsplit(':').next().unwrap_or_default();
    let mut element =
        read_document(document, Mode::Lenient, &format!("{object}, <metadata>"), root, |c| Ok(read_root(c)))?;
    if !element.uri.is_empty() && element.uri != uri {
        let cause = format!("<{}> is in namespace '{}', not in '{uri}'", element.name, element.uri);
        return Err(refuse(object, "the namespace", cause));
    }
    if declares_otherwise(&element, key, uri) {
        return Err(refuse(object, "the key", format!("'{key}' stands for another namespace in the element")));
    }
    if !element.namespaces.iter().any(|(prefix, _)| prefix == key) {
        element.namespaces.push((key.to_owned(), uri.to_owned()));
    }
    put_into(&mut element, key, uri);
    Ok(element)
}

/// Whether that can be a prefix: a name without colons (Namespaces in XML 1.0, production 7) that XML keeps for nothing.
fn is_prefix(key: &str) -> bool {
    let mut chars = key.chars();
    let first = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_');
    let reserved = key.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("xml"));
    first && !reserved && chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn declares_otherwise(element: &MetadataElement, key: &str, uri: &str) -> bool {
    element.namespaces.iter().any(|(prefix, other)| prefix == key && other != uri)
        || elements(element).any(|child| declares_otherwise(child, key, uri))
}

fn elements(element: &MetadataElement) -> impl Iterator<Item = &MetadataElement> {
    element.children.iter().filter_map(|child| match child {
        MetadataNode::Element(element) => Some(element),
        _ => None,
    })
}

fn for_each_child(element: &mut MetadataElement, mut f: impl FnMut(&mut MetadataElement)) {
    for child in &mut element.children {
        if let MetadataNode::Element(element) = child {
            f(element);
        }
    }
}

/// Puts what is in no namespace into that one.
fn put_into(element: &mut MetadataElement, key: &str, uri: &str) {
    if element.uri.is_empty() {
        element.uri = uri.to_owned();
        element.name = format!("{key}:{}", element.name);
    }
    for_each_child(element, |child| put_into(child, key, uri));
}

/// The element as clients get it: nothing of its own namespace has a prefix, and what it uses of `<metadata>`'s prefixes
/// comes along.
fn stand_alone(mut element: MetadataElement, uri: &str, outer: &[Prefix]) -> MetadataElement {
    let own: Vec<String> = element.namespaces.iter().filter(|(_, u)| u == uri).map(|(p, _)| p.clone()).collect();
    let unused = own.into_iter().filter(|prefix| !names_by(&element, prefix)).collect::<Vec<_>>();
    element.namespaces.retain(|(prefix, _)| !unused.contains(prefix));
    take_out(&mut element, uri, outer, &mut Vec::new());
    element
}

/// Whether an attribute has that prefix.
fn names_by(element: &MetadataElement, prefix: &str) -> bool {
    element.attributes.iter().any(|(name, _)| name.split_once(':').is_some_and(|(p, _)| p == prefix))
        || elements(element).any(|child| names_by(child, prefix))
}

fn take_out(element: &mut MetadataElement, uri: &str, outer: &[Prefix], scope: &mut Vec<Prefix>) {
    let outside = scope.len();
    scope.extend(element.namespaces.iter().cloned());
    let mut used: Vec<&str> =
        element.attributes.iter().filter_map(|(n, _)| n.split_once(':')).map(|(p, _)| p).collect();
    if element.uri == uri {
        element.name = element.name.rsplit(':').next().unwrap_or_default().to_owned();
    } else if !element.uri.is_empty() {
        used.push(element.name.split_once(':').map_or("", |(prefix, _)| prefix));
    }
    used.retain(|prefix| *prefix != "xml" && !scope.iter().any(|(p, _)| p == prefix));
    let mut missing: Vec<Prefix> = outer.iter().filter(|(p, _)| used.contains(&p.as_str())).cloned().collect();
    scope.extend(missing.iter().cloned());
    element.namespaces.append(&mut missing);
    for_each_child(element, |child| take_out(child, uri, outer, scope));
    scope.truncate(outside);
}
