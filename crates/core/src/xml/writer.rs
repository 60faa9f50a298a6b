//! Printing as libvirt prints: two spaces a level, single quotes, libvirt's escapes.

use std::fmt::{self, Display, Write as _};

/// Builds a document, one element after the other.
#[derive(Debug, Default)]
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
}

impl Tag<'_> {
    /// Adds an attribute.
    pub fn attr(self, name: &str, value: impl Display) -> Self {
        let out = &mut self.writer.out;
        // Writing to a String can't fail.
        let _ = write!(out, " {name}='{}'", Escaped { value, attribute: true });
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
        let _ = writeln!(self.writer.out, ">{}</{}>", Escaped { value: text, attribute: false }, self.name);
    }

    /// Ends an element with children; both tags are written even if there are none.
    pub fn body(self, children: impl FnOnce(&mut Writer)) {
        self.writer.out.push_str(">\n");
        self.writer.level += 1;
        children(self.writer);
        self.writer.level -= 1;
        self.writer.indent();
        let _ = writeln!(self.writer.out, "</{}>", self.name);
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
            let _ = writeln!(self.writer.out, "</{}>", self.name);
        }
    }
}

/// A value with libvirt's escapes: the five that XML names. White space that an XML reader would change is written
/// as a character reference, and control characters, which XML can't hold, are left out.
struct Escaped<T> {
    value: T,
    attribute: bool,
}

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaper { out: f, attribute: self.attribute }, "{}", self.value)
    }
}

struct Escaper<'f, 'b> {
    out: &'f mut fmt::Formatter<'b>,
    attribute: bool,
}

impl fmt::Write for Escaper<'_, '_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            match c {
                '<' => self.out.write_str("&lt;")?,
                '>' => self.out.write_str("&gt;")?,
                '&' => self.out.write_str("&amp;")?,
                '"' => self.out.write_str("&quot;")?,
                '\'' => self.out.write_str("&apos;")?,
                '\r' => self.out.write_str("&#13;")?,
                '\n' if self.attribute => self.out.write_str("&#10;")?,
                '\t' if self.attribute => self.out.write_str("&#9;")?,
                '\n' | '\t' => self.out.write_char(c)?,
                '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {}
                c => self.out.write_char(c)?,
            }
        }
        Ok(())
    }
}
