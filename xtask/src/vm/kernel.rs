//! Debian's kernel, unpacked beside the build output and never installed, and its initramfs.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::netdevsim;
use crate::Result;
use crate::workspace::{Workspace, capture, run, write};

/// A kernel that can be booted.
pub(crate) struct Kernel {
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// What it takes to mount the host's root: the modules' closure is found by modprobe.
const BOOT_MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

const INIT: &str = include_str!("init");

/// Fetches and unpacks the packages unless they are there, and makes the initramfs.
pub(super) fn prepare(ws: &Workspace, dir: &Path) -> Result<Kernel> {
    let version = fetch(ws, dir)?;
    if let Err(reason) = netdevsim::add(ws, dir, &version) {
        println!("vm: tests that need netdevsim will fail, since it can't be built: {reason}");
    }
    let initramfs = dir.join("initramfs");
    let init = INIT.replace("@DIR@", &dir.to_string_lossy());
    make_initramfs(ws, dir, &version, &BOOT_MODULES, &init, &initramfs)?;
    Ok(Kernel { image: image(dir, &version), version, initramfs })
}

/// Fetches and unpacks the packages into `dir` unless they are there, and returns the kernel's version.
pub(crate) fn fetch(ws: &Workspace, dir: &Path) -> Result<String> {
    let kernel = dir.join("kernel");
    if !kernel.exists() {
        fetch_kernel(ws, dir, &kernel)?;
    }
    let busybox = dir.join("busybox");
    if !busybox.exists() {
        unpack(ws, dir, &["busybox-static"], &busybox)?;
    }
    only_entry(&kernel.join("lib/modules"))
}

/// The kernel's image, where [`fetch`] put it.
pub(crate) fn image(dir: &Path, version: &str) -> PathBuf {
    dir.join("kernel/boot").join(format!("vmlinuz-{version}"))
}

/// The packages that stand for the present kernel of Debian and of Ubuntu.
const KERNELS: [&str; 2] = ["linux-image-amd64", "linux-image-virtual"];

/// The kernel that one of them stands for at present.
fn fetch_kernel(ws: &Workspace, dir: &Path, kernel: &Path) -> Result<()> {
    let find = || {
        let mut known = KERNELS.iter().filter_map(|package| apt_depends(ws, package));
        known.find_map(|depends| depends.into_iter().find(|name| name.starts_with("linux-image-")))
    };
    let package = updated(ws, find)?;
    let package = package.ok_or("apt knows no kernel for a machine: this needs Debian or Ubuntu on x86-64")?;
    println!("vm: fetching {package}");
    let unpacked = dir.join("kernel.new");
    unpack(ws, dir, &[&package], &unpacked)?;
    // Ubuntu keeps the modules in a package of their own.
    let modules = package.replacen("linux-image-", "linux-modules-", 1);
    if !unpacked.join("lib/modules").exists() && !unpacked.join("usr/lib/modules").exists() {
        let beside = dir.join("modules.new");
        unpack(ws, dir, &[&modules], &beside)?;
        run(ws.command("cp").arg("-a").arg(beside.join(".")).arg(&unpacked))?;
        std::fs::remove_dir_all(beside)?;
    }
    // Debian 12 ships lib/modules, later ones usr/lib/modules; which of the two depmod and modprobe
    // read is compiled into them.
    let (old, new) = (unpacked.join("lib"), unpacked.join("usr/lib"));
    if !old.join("modules").exists() {
        symlink("usr/lib", &old)?;
    } else if !new.join("modules").exists() {
        std::fs::create_dir_all(&new)?;
        symlink("../../lib/modules", new.join("modules"))?;
    }
    let version = only_entry(&unpacked.join("lib/modules"))?;
    // The package leaves the index files to its install script.
    run(ws.command("depmod").arg("-b").arg(&unpacked).arg(&version))?;
    std::fs::rename(&unpacked, kernel)?;
    Ok(())
}

/// Downloads packages and unpacks them into a directory that appears only when complete.
pub(super) fn unpack(ws: &Workspace, dir: &Path, packages: &[&str], into: &Path) -> Result<()> {
    let scratch = dir.join("package");
    empty(&scratch)?;
    let download = || {
        let mut apt = ws.command("apt-get");
        // Its sandbox user could not write here.
        apt.args(["-qq", "-o", "APT::Sandbox::User=root", "download"]).args(packages);
        run(apt.current_dir(&scratch))
    };
    if download().is_err() {
        update(ws)?;
        download()?;
    }
    let partial = dir.join("partial");
    empty(&partial)?;
    for archive in std::fs::read_dir(&scratch)? {
        run(ws.command("dpkg").arg("-x").arg(archive?.path()).arg(&partial))?;
    }
    std::fs::remove_dir_all(&scratch)?;
    if into.exists() {
        std::fs::remove_dir_all(into)?;
    }
    std::fs::rename(&partial, into)?;
    Ok(())
}

/// What a package depends on; `None` if apt does not know it, which it complains of.
pub(super) fn apt_depends(ws: &Workspace, package: &str) -> Option<Vec<String>> {
    let text = capture(ws.command("apt-cache").args(["-q", "depends", package])).ok()?;
    let depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Some(depends.map(str::to_owned).collect())
}

/// What is found in apt's lists, if need be once they are refreshed.
pub(super) fn updated<T>(ws: &Workspace, find: impl Fn() -> Option<T>) -> Result<Option<T>> {
    let found = find();
    if found.is_some() {
        return Ok(found);
    }
    update(ws)?;
    Ok(find())
}

/// Refreshes apt's lists, which a fresh container does not have.
fn update(ws: &Workspace) -> Result<()> {
    let root = capture(Command::new("id").arg("-u"))?.trim() == "0";
    let mut update = ws.command(if root { "env" } else { "sudo" });
    run(update.args(["apt-get", "-qq", "update"]))
}

/// Packs busybox of the packages in `dir`, the modules with those that they need, and the init script.
pub(crate) fn make_initramfs(
    ws: &Workspace,
    dir: &Path,
    version: &str,
    modules: &[&str],
    init: &str,
    archive: &Path,
) -> Result<()> {
    let tree = archive.with_extension("d");
    empty(&tree)?;
    std::fs::create_dir_all(tree.join("bin"))?;
    std::fs::create_dir_all(tree.join("mods"))?;
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| dir.join("busybox").join(path));
    let busybox = busybox.iter().find(|path| path.exists()).ok_or("the package has no busybox")?;
    std::fs::copy(busybox, tree.join("bin/busybox"))?;
    for (index, module) in closure(ws, dir, version, modules)?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.trim_end_matches(".xz").trim_end_matches(".zst");
        let target = tree.join("mods").join(format!("{index:02}-{plain}"));
        let unpacker = match module.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => Some("xz"),
            Some("zst") => Some("zstd"),
            _ => None,
        };
        if let Some(unpacker) = unpacker {
            let output = std::fs::File::create(target)?;
            run(ws.command(unpacker).arg("-dc").arg(module).stdout(output))?;
        } else {
            std::fs::copy(module, target)?;
        }
    }
    let script = tree.join("init");
    write(&script, init)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let mut pack = ws.command("sh");
    pack.args(["-c", "find . | cpio --quiet -o -H newc"]).current_dir(&tree);
    run(pack.stdin(Stdio::null()).stdout(std::fs::File::create(archive)?))
}

/// The modules to load, each after those that it needs.
fn closure(ws: &Workspace, dir: &Path, version: &str, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let mut modules = Vec::new();
    for module in wanted {
        let mut modprobe = ws.command("modprobe");
        modprobe.arg("-d").arg(dir.join("kernel")).args(["-S", version, "--show-depends", module]);
        for path in insmod_paths(&capture(&mut modprobe)?) {
            if !modules.contains(&path) {
                modules.push(path);
            }
        }
    }
    Ok(modules)
}

/// The paths of `modprobe --show-depends`, without the modules that are built in.
fn insmod_paths(depends: &str) -> Vec<PathBuf> {
    let paths = depends.lines().filter_map(|line| line.strip_prefix("insmod "));
    paths.map(|path| PathBuf::from(path.trim())).collect()
}

/// The name of the one entry of a directory.
fn only_entry(dir: &Path) -> Result<String> {
    let mut entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    match (entries.next().transpose()?, entries.next()) {
        (Some(entry), None) => Ok(entry.file_name().to_string_lossy().into_owned()),
        _ => Err(format!("{} should have one entry", dir.display()).into()),
    }
}

/// Makes a directory that has nothing in it.
fn empty(dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(std::fs::create_dir_all(dir)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_modules_have_no_path() {
        let depends = "builtin virtio\ninsmod /m/9pnet.ko.xz \ninsmod /m/9p.ko\n";
        let paths = ["/m/9pnet.ko.xz", "/m/9p.ko"].map(PathBuf::from);
        assert_eq!(insmod_paths(depends), paths);
    }
}
