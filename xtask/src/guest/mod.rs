//! `cargo xtask guest-image`: a small Linux that QEMU boots as a guest: Debian's kernel, its virtio network driver and
//! busybox. It takes a lease and obeys the lines that `patchcord-guest` does, on its serial console.

use crate::Result;
use crate::vm::kernel;
use crate::workspace::Workspace;

const INIT: &str = include_str!("init");
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// Makes `target/guest/vmlinuz` and `target/guest/initramfs`. The kernel is the one of the
/// virtual machine for tests, and is fetched once.
pub(crate) fn image(ws: &Workspace) -> Result<()> {
    let packages = ws.target.join("vm");
    std::fs::create_dir_all(&packages)?;
    let version = kernel::fetch(ws, &packages)?;
    let dir = ws.target.join("guest");
    std::fs::create_dir_all(&dir)?;
    let image = dir.join("vmlinuz");
    // Unprivileged guests read it, and some packages let root alone.
    std::fs::write(&image, std::fs::read(kernel::image(&packages, &version))?)?;
    kernel::make_initramfs(ws, &packages, &version, &MODULES, INIT, &dir.join("initramfs"))
}
