//! What people and programs keep with a network: `<title>`, `<description>`, and `<metadata>`, which is carried along and
//! never interpreted.

/// A part of what is kept with a network, as libvirt's clients ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataPart {
    /// `<description>`
    Description,
    /// `<title>`: one line.
    Title,
    /// The element of `<metadata>` in that namespace.
    Element(String),
}

/// `<metadata>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Prefixes declared on `<metadata>` itself, with their URIs; the empty prefix is the default namespace.
    pub namespaces: Vec<(String, String)>,
    /// One element per namespace; libvirt keeps no others.
    pub elements: Vec<MetadataElement>,
}

/// An element in `<metadata>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataElement {
    /// The namespace it belongs to.
    pub uri: String,
    /// Its name, as written: with its prefix.
    pub name: String,
    /// Prefixes declared on it, with their URIs.
    pub namespaces: Vec<(String, String)>,
    /// Its attributes; names as written.
    pub attributes: Vec<(String, String)>,
    /// What is in it.
    pub children: Vec<MetadataNode>,
}

/// Something in an element of `<metadata>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataNode {
    /// An element.
    Element(MetadataElement),
    /// Text.
    Text(String),
    /// A CDATA section.
    CData(String),
    /// A comment.
    Comment(String),
    /// A processing instruction: target and value.
    Instruction(String, Option<String>),
}

impl Metadata {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }
}
