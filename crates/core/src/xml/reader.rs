//! Reading: limits first, then a parse, then a cursor that remembers what it was asked for.
//!
//! Whoever reads an element asks the [`Cursor`] for the attributes and children that the grammar has. What nobody
//! asked for is left over, and in [`Mode::Strict`] that is an error which names it and says where it stands: the
//! grammar is written down once, in the code that reads it.

use crate::{Error, ErrorKind, Position, Result};
use roxmltree::{Document, Node, NodeType, ParsingOptions};
use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Bytes of a document at most.
pub const MAX_BYTES: usize = 1 << 20;
/// Elements inside each other at most. libvirt's own documents need eight.
pub const MAX_DEPTH: usize = 64;
/// Attributes of one element at most: looking for doubles among them is quadratic.
const MAX_ATTRIBUTES: usize = 128;
/// Namespace declarations in a document at most: each element with one copies those in force.
const MAX_NAMESPACES: usize = 256;
/// Nodes of a document at most.
const MAX_NODES: u32 = 200_000;

/// What happens to elements and attributes that the grammar does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are errors.
    Strict,
    /// They are dropped, as libvirt drops them.
    Lenient,
}

/// What one reading of a document has in common.
pub(crate) struct Reading<'a> {
    text: &'a str,
    object: RefCell<String>,
    elements: RefCell<HashSet<usize>>,
    texts: RefCell<HashSet<usize>>,
    kept: RefCell<HashSet<usize>>,
    attributes: RefCell<HashSet<usize>>,
}

/// One element, and what was asked of it.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a, 'i> {
    node: Node<'a, 'i>,
    reading: &'a Reading<'a>,
}

/// Reads a document whose root element is `root` with `read`; `object` is what errors call it.
pub(crate) fn read_document<T>(
    text: &str,
    mode: Mode,
    object: &str,
    root: &str,
    read: impl FnOnce(&Cursor<'_, '_>) -> Result<T>,
) -> Result<T> {
    check_limits(text, object)?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|e| not_well_formed(text, object, &e))?;
    let reading = Reading {
        text,
        object: RefCell::new(object.to_owned()),
        elements: RefCell::default(),
        texts: RefCell::default(),
        kept: RefCell::default(),
        attributes: RefCell::default(),
    };
    let cursor = Cursor { node: document.root_element(), reading: &reading };
    if cursor.node.tag_name().name() != root {
        return Err(cursor
            .error(format!("the document's element is <{}>", cursor.name()))
            .hint(format!("write <{root}>")));
    }
    let value = read(&cursor)?;
    if mode == Mode::Strict {
        cursor.refuse_leftovers()?;
    }
    Ok(value)
}

/// The name of a document's root element, for callers that take more than one kind.
pub fn root_name(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        rest = &rest[rest.find('<')? + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = &comment[comment.find("-->")?..];
        } else if !rest.starts_with(['?', '!']) {
            let end = rest.find(|c: char| c.is_whitespace() || c == '/' || c == '>')?;
            return Some(&rest[..end]);
        }
    }
}

impl<'a, 'i> Cursor<'a, 'i> {
    /// The element's name, without its prefix.
    pub(crate) fn name(&self) -> &'a str {
        self.node.tag_name().name()
    }

    /// The node underneath, for what is kept as it is.
    pub(crate) fn node(&self) -> Node<'a, 'i> {
        self.node
    }

    /// What errors call the thing that the document describes, from now on.
    pub(crate) fn set_object(&self, object: String) {
        *self.reading.object.borrow_mut() = object;
    }

    /// An attribute.
    pub(crate) fn attr(&self, name: &str) -> Option<&'a str> {
        let attribute = self.node.attribute_node(name)?;
        self.reading.attributes.borrow_mut().insert(attribute.range().start);
        Some(attribute.value())
    }

    /// An attribute that may be read and means nothing: libvirt prints it, and readers ignore it.
    pub(crate) fn ignore_attr(&self, name: &str) {
        let _ = self.attr(name);
    }

    /// An attribute's value as `parse` reads it.
    pub(crate) fn parsed<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>> {
        self.attr(name).map(|text| parse(text).map_err(|cause| self.attr_error(name, cause))).transpose()
    }

    /// An attribute that must be there.
    pub(crate) fn required<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T> {
        self.parsed(name, parse)?.ok_or_else(|| self.missing(name))
    }

    /// The error for an attribute that is not there.
    pub(crate) fn missing(&self, name: &str) -> Error {
        self.error(format!("the attribute '{name}' is missing"))
    }

    /// A text attribute: no control characters, and not empty.
    pub(crate) fn string(&self, name: &str) -> Result<Option<String>> {
        self.parsed(name, plain_text)
    }

    /// `yes` or `no`.
    pub(crate) fn yes_no(&self, name: &str) -> Result<Option<bool>> {
        self.choice(name, &[("yes", true), ("no", false)])
    }

    /// One of the given words.
    pub(crate) fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        self.parsed(name, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let known: Vec<_> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
                format!("'{text}' is none of {}", known.join(", "))
            })
        })
    }

    /// A decimal number within `range`.
    pub(crate) fn number<T>(&self, name: &str, range: RangeInclusive<T>) -> Result<Option<T>>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        self.parsed(name, |text| number_in(text, range))
    }

    /// The first child of that name.
    pub(crate) fn child(&self, name: &str) -> Option<Self> {
        self.children(name).next()
    }

    /// The children of that name. A child counts as asked for when the iterator reaches it.
    pub(crate) fn children<'n>(&self, name: &'n str) -> impl Iterator<Item = Self> + use<'a, 'i, 'n> {
        self.children_in(None, name)
    }

    /// The children of that namespace and name.
    pub(crate) fn children_in<'n>(
        &self,
        namespace: Option<&'n str>,
        name: &'n str,
    ) -> impl Iterator<Item = Self> + use<'a, 'i, 'n> {
        let reading = self.reading;
        self.node
            .children()
            .filter(move |n| n.is_element() && n.tag_name().name() == name && n.tag_name().namespace() == namespace)
            .map(move |node| {
                reading.elements.borrow_mut().insert(node.id().get_usize());
                Cursor { node, reading }
            })
    }

    /// All element children, none of which counts as asked for yet.
    pub(crate) fn elements(&self) -> impl Iterator<Item = Self> + use<'a, 'i> {
        let reading = self.reading;
        self.node.children().filter(Node::is_element).map(move |node| Cursor { node, reading })
    }

    /// The namespace of the element.
    pub(crate) fn namespace(&self) -> Option<&'a str> {
        self.node.tag_name().namespace()
    }

    /// The element's text.
    pub(crate) fn text(&self) -> String {
        self.reading.texts.borrow_mut().insert(self.node.id().get_usize());
        self.node.children().filter(Node::is_text).filter_map(|n| n.text()).collect()
    }

    /// Takes the element as it is, with all that is in it.
    pub(crate) fn keep(&self) {
        self.reading.elements.borrow_mut().insert(self.node.id().get_usize());
        self.reading.kept.borrow_mut().insert(self.node.id().get_usize());
    }

    /// The element as it was written. Prefixes declared further out are not declared in it.
    pub(crate) fn source(&self) -> &'a str {
        &self.reading.text[self.node.range()]
    }

    /// An error about this element.
    pub(crate) fn error(&self, cause: impl Into<String>) -> Error {
        let start = self.node.range().start;
        let name = &self.reading.text[start + 1..];
        let end = name.find(|c: char| c.is_whitespace() || c == '/' || c == '>').unwrap_or(name.len());
        self.reading.error(cause.into(), format!("<{}>", &name[..end]), start..start + 1 + end)
    }

    /// An error about an attribute of this element.
    pub(crate) fn attr_error(&self, name: &str, cause: impl Into<String>) -> Error {
        match self.node.attribute_node(name) {
            Some(a) => self.reading.error(cause.into(), format!("<{} {name}>", self.name()), a.range()),
            None => self.error(cause).field(format!("<{} {name}>", self.name())),
        }
    }

    fn refuse_leftovers(&self) -> Result<()> {
        let (elements, texts) = (self.reading.elements.borrow(), self.reading.texts.borrow());
        let (kept, attributes) = (self.reading.kept.borrow(), self.reading.attributes.borrow());
        let mut open = vec![self.node];
        while let Some(node) = open.pop() {
            let cursor = Cursor { node, reading: self.reading };
            if kept.contains(&node.id().get_usize()) {
                continue;
            }
            if let Some(a) = node.attributes().find(|a| !attributes.contains(&a.range().start)) {
                let name = &self.reading.text[a.range_qname()];
                let field = format!("<{} {name}>", cursor.name());
                return Err(self.reading.error(
                    format!("<{}> has no attribute '{name}'", cursor.name()),
                    field,
                    a.range(),
                ));
            }
            for child in node.children() {
                let inner = Cursor { node: child, reading: self.reading };
                match child.node_type() {
                    NodeType::Element if elements.contains(&child.id().get_usize()) => {}
                    NodeType::Element => {
                        let second = node
                            .children()
                            .take_while(|n| *n != child)
                            .any(|n| n.tag_name() == child.tag_name() && elements.contains(&n.id().get_usize()));
                        let cause = if second {
                            format!("there can be only one in <{}>", cursor.name())
                        } else {
                            format!("there is no such element in <{}>", cursor.name())
                        };
                        return Err(inner.error(cause));
                    }
                    NodeType::Text
                        if !texts.contains(&node.id().get_usize())
                            && child.text().is_some_and(|t| !t.trim().is_empty()) =>
                    {
                        let cause = format!("<{}> has no text of its own", cursor.name());
                        return Err(self.reading.error(cause, format!("<{}>", cursor.name()), child.range()));
                    }
                    _ => {}
                }
            }
            // In the document's order, so that the first fault is the one named.
            let first = open.len();
            open.extend(node.children().filter(Node::is_element));
            open[first..].reverse();
        }
        Ok(())
    }
}

impl Reading<'_> {
    fn error(&self, cause: String, field: String, range: std::ops::Range<usize>) -> Error {
        Error::new(ErrorKind::InvalidXml, self.object.borrow().clone(), cause).field(field).at(position(
            self.text,
            range.start,
            range.end,
        ))
    }
}

/// A number in decimal digits within `range`.
pub(crate) fn number_in<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let wrong = || format!("'{text}' is not a number from {} to {}", range.start(), range.end());
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    text.parse().ok().filter(|n| range.contains(n)).ok_or_else(wrong)
}

/// Text that may end up in a line of somebody's configuration: not empty, no control characters.
pub(crate) fn plain_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the value is empty".into());
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("the control character {c:?} can't be in it")),
        None => Ok(text.to_owned()),
    }
}

/// Where a byte range of a text is.
pub(crate) fn position(text: &str, start: usize, end: usize) -> Position {
    let mut start = start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = text[line_start..start].chars().count() + 1;
    let saturate = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { start, end: end.min(text.len()).max(start), line: saturate(line), column: saturate(column) }
}

/// Refuses what would cost too much to parse, by one look at each byte.
fn check_limits(text: &str, object: &str) -> Result<()> {
    let refuse =
        |at: usize, cause: String| Err(Error::new(ErrorKind::BadXml, object, cause).at(position(text, at, at + 1)));
    if text.len() > MAX_BYTES {
        let cause = format!("the document has {} bytes, and may have {MAX_BYTES}", text.len());
        return Err(Error::new(ErrorKind::BadXml, object, cause));
    }
    let bytes = text.as_bytes();
    // The end of what starts at `from` and ends with `mark`; a document that ends first is the parser's to refuse.
    let skip = |from: usize, mark: &str| text[from..].find(mark).map_or(bytes.len(), |at| from + at + mark.len());
    let (mut at, mut depth, mut namespaces) = (0, 0_usize, 0);
    while let Some(found) = text[at..].find('<') {
        let start = at + found;
        let rest = &text[start..];
        if rest.starts_with("<!--") {
            at = skip(start, "-->");
        } else if rest.starts_with("<![CDATA[") {
            at = skip(start, "]]>");
        } else if rest.starts_with("<?") {
            at = skip(start, "?>");
        } else if rest.starts_with("<!") {
            return refuse(start, "document types (<!DOCTYPE …>) are not accepted".into());
        } else if rest.starts_with("</") {
            depth = depth.saturating_sub(1);
            at = start + 2;
        } else {
            let (mut quote, mut values, mut end) = (None, 0, start + 1);
            while end < bytes.len() {
                match (quote, bytes[end]) {
                    (Some(q), b) if b == q => quote = None,
                    (Some(_), _) => {}
                    (None, b @ (b'"' | b'\'')) => {
                        quote = Some(b);
                        values += 1;
                    }
                    (None, b'>') => break,
                    (None, b'x') if bytes[end..].starts_with(b"xmlns") => namespaces += 1,
                    (None, _) => {}
                }
                end += 1;
            }
            if values > MAX_ATTRIBUTES {
                return refuse(start, format!("the element has more than {MAX_ATTRIBUTES} attributes"));
            }
            if namespaces > MAX_NAMESPACES {
                return refuse(start, format!("there are more than {MAX_NAMESPACES} namespace declarations"));
            }
            if bytes.get(end.wrapping_sub(1)) != Some(&b'/') {
                depth += 1;
            }
            if depth > MAX_DEPTH {
                return refuse(start, format!("elements are nested more than {MAX_DEPTH} deep"));
            }
            at = (end + 1).min(bytes.len());
        }
    }
    Ok(())
}

fn not_well_formed(text: &str, object: &str, error: &roxmltree::Error) -> Error {
    let at = error.pos();
    let line_start = text.split_inclusive('\n').take(at.row.saturating_sub(1) as usize).map(str::len).sum::<usize>();
    let line = text.get(line_start..).unwrap_or_default();
    let start = line_start + line.chars().take(at.col.saturating_sub(1) as usize).map(char::len_utf8).sum::<usize>();
    let cause = error.to_string();
    let cause = cause.strip_suffix(&format!(" at {at}")).unwrap_or(&cause);
    Error::new(ErrorKind::BadXml, object, format!("not well-formed XML: {cause}")).at(position(text, start, start + 1))
}
