//! Names: of kernel links, and of networks, portgroups, guests and tags.

use std::fmt;

/// A kernel link's name: 1 to 15 bytes, no `/`, `:`, `%` or white space, not `.` or `..`
/// (`dev_valid_name` in the kernel's `net/core/dev.c`; `%` because the kernel would take it as a pattern).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkName(String);

/// Bytes in a link name at most: `IFNAMSIZ` less the NUL.
const LINK_NAME_MAX: usize = 15;

impl LinkName {
    /// Checks the kernel's rules. The error says which one is broken.
    pub fn new(name: impl Into<String>) -> Result<Self, String> {
        let name = name.into();
        if name.is_empty() {
            return Err("a link name can't be empty".into());
        }
        if name.len() > LINK_NAME_MAX {
            return Err(format!("'{name}' has {} bytes, and a link name has at most {LINK_NAME_MAX}", name.len()));
        }
        if name == "." || name == ".." {
            return Err(format!("'{name}' can't be a link name"));
        }
        if let Some(c) = name.chars().find(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control()) {
            return Err(format!("{c:?} can't be in a link name"));
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a network, portgroup or guest: UTF-8, no `/`, no control characters, 1 to 200 bytes, not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// Bytes in a name at most, so that `NAME.xml` and the like fit into a file name.
const NAME_MAX: usize = 200;

impl Name {
    /// Checks the rules. The error says which one is broken.
    pub fn new(name: impl Into<String>) -> Result<Self, String> {
        let name = name.into();
        if name.trim().is_empty() {
            return Err("a name can't be empty".into());
        }
        if name.len() > NAME_MAX {
            return Err(format!("the name has {} bytes, and may have {NAME_MAX}", name.len()));
        }
        if name == "." || name == ".." {
            return Err(format!("'{name}' can't be a name"));
        }
        if let Some(c) = name.chars().find(|c| *c == '/' || c.is_control()) {
            return Err(format!("{c:?} can't be in a name"));
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user's label; the rules of [`Name`].
pub type Tag = Name;
