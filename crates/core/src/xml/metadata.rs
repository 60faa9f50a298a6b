//! `<metadata>`: read whole, printed as libxml2 prints it, which is what libvirt hands its copy to: double quotes,
//! declarations before attributes, and new lines only inside elements without text.

use super::{reader::Cursor, writer::Writer};
use crate::model::{Metadata, MetadataElement, MetadataNode};
use roxmltree::Node;
use std::fmt::Write as _;

/// Reads `<metadata>`. As libvirt does, keeps one element of each namespace and nothing without one.
/// `skip` names elements that are read elsewhere.
pub(crate) fn read_metadata(cursor: &Cursor<'_, '_>, skip: impl Fn(&Cursor<'_, '_>) -> bool) -> Option<Metadata> {
    let node = cursor.node();
    let mut metadata = Metadata { namespaces: declared(node), elements: Vec::new() };
    let (mut scope, mut skipped) = (Vec::new(), false);
    for child in cursor.elements() {
        if skip(&child) {
            skipped = true;
            continue;
        }
        child.keep();
        let Some(uri) = child.namespace() else { continue };
        if metadata.elements.iter().any(|e| e.uri == uri) {
            continue;
        }
        let element = read_element(child.node(), &mut metadata.namespaces, &mut scope);
        metadata.elements.push(element);
    }
    // libvirt prints <metadata/> even if nothing in it was worth keeping; what was only ours leaves no trace.
    (!skipped || !metadata.is_empty()).then_some(metadata)
}

/// The prefixes that `node` itself declares.
fn declared(node: Node<'_, '_>) -> Vec<(String, String)> {
    let outer = node.parent_element();
    node.namespaces()
        .filter(|n| n.name() != Some("xml"))
        .filter(|n| outer.is_none_or(|o| o.lookup_namespace_uri(n.name()) != Some(n.uri())))
        .map(|n| (n.name().unwrap_or_default().to_owned(), n.uri().to_owned()))
        .collect()
}

fn read_element(
    node: Node<'_, '_>,
    top: &mut Vec<(String, String)>,
    scope: &mut Vec<(String, String)>,
) -> MetadataElement {
    let source = node.document().input_text();
    let start = &source[node.range().start + 1..];
    let end = start.find(|c: char| c.is_whitespace() || c == '/' || c == '>').unwrap_or(start.len());
    let name = start[..end].to_owned();
    let namespaces = declared(node);
    let outside = scope.len();
    scope.extend(namespaces.iter().cloned());

    let mut attributes = Vec::new();
    let mut used = vec![(name.split_once(':').map_or("", |(p, _)| p), node.tag_name().namespace())];
    for a in node.attributes() {
        let qname = &source[a.range_qname()];
        if let Some((prefix, _)) = qname.split_once(':') {
            used.push((prefix, a.namespace()));
        }
        attributes.push((qname.to_owned(), a.value().to_owned()));
    }
    // What is declared further out than <metadata> must come along, or the copy would not stand alone.
    for (prefix, uri) in used {
        let Some(uri) = uri.filter(|_| prefix != "xml") else { continue };
        if !scope.iter().chain(top.iter()).any(|(p, u)| p == prefix && u == uri) {
            top.push((prefix.to_owned(), uri.to_owned()));
        }
    }

    let mut children = Vec::new();
    let texts = node.children().any(|n| n.is_text() && n.text().is_some_and(|t| !t.trim().is_empty()));
    for child in node.children() {
        if child.is_element() {
            children.push(MetadataNode::Element(read_element(child, top, scope)));
        } else if let Some(pi) = child.pi() {
            children.push(MetadataNode::Instruction(pi.target.to_owned(), pi.value.map(str::to_owned)));
        } else if child.is_comment() {
            children.push(MetadataNode::Comment(child.text().unwrap_or_default().to_owned()));
        } else if let Some(text) = child.text() {
            let written = &source[child.range()];
            if written.starts_with("<![CDATA[") && written.ends_with("]]>") && written.matches("<![").count() == 1 {
                children.push(MetadataNode::CData(text.to_owned()));
            } else if !text.trim().is_empty() || is_only_content(node) || (texts && follows_text(&children)) {
                children.push(MetadataNode::Text(text.to_owned()));
            }
        }
    }
    scope.truncate(outside);
    MetadataElement {
        uri: node.tag_name().namespace().unwrap_or_default().to_owned(),
        name,
        namespaces,
        attributes,
        children,
    }
}

/// libxml2 drops white space between elements unless the element begins with text or the white space follows some.
fn follows_text(children: &[MetadataNode]) -> bool {
    matches!(children.first(), Some(MetadataNode::Text(_))) || matches!(children.last(), Some(MetadataNode::Text(_)))
}

fn is_only_content(node: Node<'_, '_>) -> bool {
    node.children().count() == 1
}

/// Reads a document's root element as one of `<metadata>`.
pub(crate) fn read_root(cursor: &Cursor<'_, '_>) -> MetadataElement {
    read_element(cursor.node(), &mut Vec::new(), &mut Vec::new())
}

/// An element as a document of its own.
pub(crate) fn element_text(element: &MetadataElement) -> String {
    let mut out = String::new();
    write_element(&mut out, element, 0, true);
    out
}

/// Prints `<metadata>` at the writer's level.
pub(crate) fn write_metadata(w: &mut Writer, metadata: &Metadata) {
    let mut out = String::new();
    let whole = MetadataElement {
        name: "metadata".into(),
        namespaces: metadata.namespaces.clone(),
        children: metadata.elements.iter().cloned().map(MetadataNode::Element).collect(),
        ..MetadataElement::default()
    };
    write_element(&mut out, &whole, w.level(), true);
    w.raw(&out);
}

fn write_element(out: &mut String, element: &MetadataElement, level: usize, pretty: bool) {
    out.push('<');
    out.push_str(&element.name);
    for (prefix, uri) in &element.namespaces {
        let colon = if prefix.is_empty() { "" } else { ":" };
        let _ = write!(out, " xmlns{colon}{prefix}=\"");
        escape(out, uri, true);
        out.push('"');
    }
    for (name, value) in &element.attributes {
        let _ = write!(out, " {name}=\"");
        escape(out, value, true);
        out.push('"');
    }
    if element.children.is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    let pretty =
        pretty && !element.children.iter().any(|c| matches!(c, MetadataNode::Text(_) | MetadataNode::CData(_)));
    let new_line = |out: &mut String, level: usize| {
        if pretty {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", level));
        }
    };
    for child in &element.children {
        new_line(out, level + 1);
        match child {
            MetadataNode::Element(e) => write_element(out, e, level + 1, pretty),
            MetadataNode::Text(text) => escape(out, text, false),
            MetadataNode::CData(text) => {
                // "]]>" can't be inside a section: end it there and begin another.
                let _ = write!(out, "<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>"));
            }
            MetadataNode::Comment(text) => {
                let _ = write!(out, "<!--{text}-->");
            }
            MetadataNode::Instruction(target, value) => {
                let _ = write!(out, "<?{target}");
                if let Some(value) = value {
                    let _ = write!(out, " {value}");
                }
                out.push_str("?>");
            }
        }
    }
    new_line(out, level);
    let _ = write!(out, "</{}>", element.name);
}

fn escape(out: &mut String, text: &str, attribute: bool) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' if attribute => out.push_str("&quot;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            '\r' => out.push_str("&#13;"),
            c => out.push(c),
        }
    }
}
