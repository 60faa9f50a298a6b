//! Printing as libvirt prints: two spaces a level, single quotes, libvirt's escapes.

use std::fmt::{Display, Write as _};

/// Builds a document, one element after the other.
#[derive(Debug)]
pub struct Writer {
    out: String,
    level: usize,
}

/// An element whose start tag is being written. It is finished by [`Tag::close`], [`Tag::text`] or [`Tag::body`].
#[derive(Debug)]
#[must_use = "an element must be finished"]
pub struct Tag<'w> {
    writer: &'w mut Writer,
    name: &'w str,
}

impl Default for Writer {
    fn default() -> Self {
        // Room for a NIC and its state.
        Self { out: String::with_capacity(1024), level: 0 }
    }
}

impl Writer {
    /// An empty document.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    pub fn finish(self) -> String {
        self.out
    }

    /// How far the next element is indented, in levels of two spaces.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Starts an element.
    pub fn element<'w>(&'w mut self, name: &'w str) -> Tag<'w> {
        self.indent();
        self.out.push('<');
        self.out.push_str(name);
        Tag { writer: self, name }
    }

    /// Writes an element with nothing but text.
    pub fn text(&mut self, name: &str, text: impl Display) {
        self.element(name).text(text);
    }

    /// Writes lines that are XML already, as they are.
    pub fn raw(&mut self, xml: &str) {
        self.indent();
        self.out.push_str(xml);
        self.out.push('\n');
    }

    fn indent(&mut self) {
        for _ in 0..self.level {
            self.out.push_str("  ");
        }
    }

    fn end(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push_str(">\n");
    }
}

impl Tag<'_> {
    /// Adds an attribute.
    pub fn attr(self, name: &str, value: impl Display) -> Self {
        let out = &mut self.writer.out;
        out.push(' ');
        out.push_str(name);
        out.push_str("='");
        append(out, value, true);
        out.push('\'');
        self
    }

    /// Adds an attribute if there is a value.
    pub fn opt(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    /// Adds `name='yes'` or `name='no'` if there is a value.
    pub fn yes_no(self, name: &str, value: Option<bool>) -> Self {
        self.opt(name, value.map(|v| if v { "yes" } else { "no" }))
    }

    /// Ends an element without content.
    pub fn close(self) {
        self.writer.out.push_str("/>\n");
    }

    /// Ends an element with text.
    pub fn text(self, text: impl Display) {
        self.writer.out.push('>');
        append(&mut self.writer.out, text, false);
        self.writer.end(self.name);
    }

    /// Ends an element with children; both tags are written even if there are none.
    pub fn body(self, children: impl FnOnce(&mut Writer)) {
        self.writer.out.push_str(">\n");
        self.writer.level += 1;
        children(self.writer);
        self.writer.level -= 1;
        self.writer.indent();
        self.writer.end(self.name);
    }

    /// Ends an element with children, or closes it at once if `children` writes none.
    pub fn body_or_close(self, children: impl FnOnce(&mut Writer)) {
        let before = self.writer.out.len();
        self.writer.out.push_str(">\n");
        let content = self.writer.out.len();
        self.writer.level += 1;
        children(self.writer);
        self.writer.level -= 1;
        if self.writer.out.len() == content {
            self.writer.out.truncate(before);
            self.writer.out.push_str("/>\n");
        } else {
            self.writer.indent();
            self.writer.end(self.name);
        }
    }
}

/// Appends a value with libvirt's escapes: the five that XML names. White space that an XML reader would change is
/// written as a character reference, and control characters, which XML can't hold, are left out.
fn append(out: &mut String, value: impl Display, attribute: bool) {
    let begin = out.len();
    // Writing to a String can't fail.
    let _ = write!(out, "{value}");
    // Most values are as they are written, and this is on the way of each attach.
    if out[begin..]
        .bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'<' | b'>' | b'&' | b'"' | b'\''))
    {
        return;
    }
    let plain = out.split_off(begin);
    for c in plain.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\r' => out.push_str("&#13;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            '\n' | '\t' => out.push(c),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {}
            c => out.push(c),
        }
    }
}
