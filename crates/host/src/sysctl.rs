//! Network settings below /proc/sys/net, in the network namespace of the thread that calls.
//!
//! A setting is named by the components of its path, not by a dotted name: links have dots in theirs.

use std::fs;
use std::path::PathBuf;

use crate::{Error, Result};

/// Reads a setting, `["ipv4", "conf", "br.1", "forwarding"]`; white space at its ends is dropped.
///
/// # Errors
/// [`Error::Name`] for a component that is none; [`Error::File`], with ENOENT when there is no such link or the
/// kernel has no such setting.
pub fn read(setting: &[&str]) -> Result<String> {
    let path = path(setting)?;
    let text = fs::read_to_string(&path).map_err(Error::file("read", path))?;
    Ok(text.trim().to_owned())
}

/// Writes a setting.
///
/// # Errors
/// As [`read`]; also EROFS where a container's /proc/sys is read-only, and EINVAL for a value it can't have.
pub fn write(setting: &[&str], value: &str) -> Result<()> {
    let path = path(setting)?;
    fs::write(&path, value).map_err(Error::file("write", path))
}

fn path(setting: &[&str]) -> Result<PathBuf> {
    let mut path = PathBuf::from("/proc/sys/net");
    for component in setting {
        if matches!(*component, "" | "." | "..") || component.contains(['/', '\0']) {
            let name = setting.join("/");
            return Err(Error::Name { what: "sysctl", name, problem: "has a component that is no file's name" });
        }
        path.push(component);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_network_settings() {
        let good = path(&["ipv6", "conf", "br.1", "accept_ra"]).unwrap();
        assert_eq!(good.to_str(), Some("/proc/sys/net/ipv6/conf/br.1/accept_ra"));
        for bad in ["", ".", "..", "../kernel", "a/b", "/etc/passwd", "a\0"] {
            assert!(matches!(path(&["ipv4", bad]), Err(Error::Name { what: "sysctl", .. })), "{bad:?}");
        }
    }
}
