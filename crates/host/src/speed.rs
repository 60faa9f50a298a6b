//! How fast links are, which their drivers tell in sysfs alone.

use std::fs;
use std::path::Path;

use patchcord_core::model::LinkName;

use crate::root::Root;

/// A link's speed in megabits per second; nothing of one whose driver does not know it, or that is gone. A driver may ask
/// its hardware, and take its time.
pub fn read(root: &Root, link: &LinkName) -> Option<u32> {
    of(&root.base().join("sys/class/net").join(link.as_str()))
}

/// The same of a link's directory in sysfs.
pub(crate) fn of(link: &Path) -> Option<u32> {
    // It says -1 where it doesn't know, and so do some drivers with all bits set.
    let speed = fs::read_to_string(link.join("speed")).ok()?.trim().parse().ok()?;
    (speed != 0 && speed != u32::MAX).then_some(speed)
}
