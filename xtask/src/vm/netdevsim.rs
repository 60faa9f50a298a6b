//! The kernel's simulated network device, which has virtual functions to set. Debian's kernel comes without it, so it is
//! built as a module: from Debian's source, by the headers that fit the kernel.

use std::path::Path;

use super::kernel::{apt_depends, unpack, updated};
use crate::Result;
use crate::workspace::{Workspace, read, run, write};

/// Where the driver is in the kernel's source.
const DRIVER: &str = "drivers/net/netdevsim";

/// Builds the module and puts it beside the kernel's own below `dir`, unless it is there.
pub(super) fn add(ws: &Workspace, dir: &Path, version: &str) -> Result<()> {
    let kernel = dir.join("kernel");
    let modules = kernel.join("lib/modules").join(version);
    if read(&modules.join("modules.dep"))?.contains("/netdevsim.ko") {
        return Ok(());
    }
    println!("vm: building netdevsim for {version}");
    let (headers, source) = (format!("linux-headers-{version}"), source(version)?);
    // The mirrors keep the present kernel's only.
    let depends = updated(ws, || apt_depends(ws, &headers))?.ok_or_else(|| {
        let old = kernel.display();
        format!("apt does not know {headers}; if that is because the kernel is an old one, remove {old}")
    })?;
    let parts =
        depends.iter().filter(|name| ["linux-headers-", "linux-kbuild-"].iter().any(|part| name.starts_with(part)));
    let packages: Vec<&str> = [&headers, &source].into_iter().chain(parts).map(String::as_str).collect();
    let build = dir.join("netdevsim");
    unpack(ws, dir, &packages, &build)?;

    // One part of the headers names the other by where it would be installed.
    let usr_src = build.join("usr/src");
    let makefile = usr_src.join(&headers).join("Makefile");
    write(&makefile, read(&makefile)?.replace("/usr/src/", &format!("{}/", usr_src.display())))?;
    let mut extract = ws.command("tar");
    extract.current_dir(&build).arg("-xf").arg(usr_src.join(format!("{source}.tar.xz")));
    run(extract.arg(format!("{source}/{DRIVER}")))?;
    let driver = build.join(&source).join(DRIVER);
    let mut make = ws.command("make");
    make.arg("-sC").arg(usr_src.join(&headers)).arg(format!("M={}", driver.display()));
    run(make.args(["CONFIG_NETDEVSIM=m", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]))?;

    std::fs::create_dir_all(modules.join("extra"))?;
    std::fs::copy(driver.join("netdevsim.ko"), modules.join("extra/netdevsim.ko"))?;
    run(ws.command("depmod").arg("-b").arg(&kernel).arg(version))?;
    Ok(std::fs::remove_dir_all(build)?)
}

/// The package with the source of a kernel of this version.
fn source(version: &str) -> Result<String> {
    let mut numbers = version.split('.');
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => Ok(format!("linux-source-{major}.{minor}")),
        _ => Err(format!("a kernel of version {version}").into()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sources_are_packaged_by_series() {
        for (version, package) in [("6.1.0-48-amd64", "linux-source-6.1"), ("6.12.43+deb13-amd64", "linux-source-6.12")]
        {
            assert_eq!(super::source(version).unwrap(), package);
        }
        assert!(super::source("6").is_err());
    }
}
