#!/bin/sh
# Installs what a task needs and is not there yet: scripts/setup.sh build|demo|demo-vm|test
#
# Debian packages come by apt-get, cargo tools by `cargo install` into target/tools. Nothing that is
# already there is touched, so that a machine which has everything needs no network. None of the
# packages that are installed starts a service.
set -eu

NEXTEST=0.9.151
DENY=0.20.2

cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
tools=$target/tools
PATH=$tools/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

task=${1:?usage: scripts/setup.sh build|demo|demo-vm|test}
case $task in
build | demo | demo-vm | test) ;;
*) echo "setup: unknown task '$task' (build, demo, demo-vm or test)" >&2; exit 2 ;;
esac

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
fi

# Tasks other than a build work on network namespaces, which only root may create.
if [ "$task" != build ] && [ -n "$as_root" ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: 'make $task' creates network namespaces, so it needs root: run it as root, or install sudo" >&2
        exit 1
    fi
    if ! sudo -v; then
        echo "setup: 'make $task' creates network namespaces, so it needs root, and sudo refused" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "setup: cargo not found: install a Rust toolchain of at least 1.91 (https://rustup.rs)" >&2
    exit 1
fi

# need COMMAND PACKAGE...: the packages go onto the list if the command is missing.
missing=
need() {
    command -v "$1" >/dev/null && return 0
    shift
    missing="$missing $*"
}

need cc gcc libc6-dev
if [ "$task" != build ]; then
    need ip iproute2
    need nft nftables
    need dnsmasq dnsmasq-base
    need unshare util-linux
    need mount mount
    need setpriv util-linux
fi
if [ "$task" = test ] || [ "$task" = demo-vm ]; then
    need qemu-system-x86_64 qemu-system-x86
    need modprobe kmod
    need cpio cpio
    need xz xz-utils
    need zstd zstd
fi
if [ "$task" = test ]; then
    need git git
    need make make
    need ethtool ethtool
    need sysctl procps
    need /usr/bin/python3 python3
    # nft names protocols after it.
    [ -e /etc/protocols ] || missing="$missing netbase"
    need virsh libvirt-clients
fi

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: missing:$missing. Only Debian and Ubuntu are supported here: install them by hand" >&2
        exit 1
    fi
    echo "setup: installing$missing"
    # shellcheck disable=SC2086 # a list of package names
    install() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null; }
    install || { $as_root apt-get update -qq && install; }
fi

# unpack NAME PACKAGE...: puts packages that would change the machine if they were installed, and those they depend on
# and it lacks, into target/packages/NAME, where all is below usr.
unpack() {
    into=$target/packages/$1
    [ ! -d "$into" ] || return 0
    shift
    echo "setup: unpacking $*"
    # A directory that appears only when complete.
    new=$into.new
    rm -rf "$new"
    mkdir -p "$new/packages/partial" "$new/usr"
    download "$@" || { $as_root apt-get update -qq && download "$@"; }
    for package in "$new/packages"/*.deb; do
        dpkg -x "$package" "$new"
    done
    for directory in bin lib lib64 sbin; do
        [ ! -d "$new/$directory" ] || cp -a "$new/$directory" "$new/usr/"
        rm -rf "${new:?}/$directory"
    done
    rm -r "$new/packages"
    mv "$new" "$into"
}
download() {
    # apt's sandbox user could not write there, and nothing is changed that would need a lock.
    set -- -qq -y -o APT::Sandbox::User=root -o Debug::NoLocking=true -o Dir::Cache::archives="$new/packages" "$@"
    apt-get --no-install-recommends --download-only --reinstall install "$@" >/dev/null
}
if [ "$task" = test ]; then
    unpack dhclient isc-dhcp-client
    unpack firewalld firewalld
    unpack openvswitch openvswitch-switch openvswitch-common
    unpack lldpad lldpad
    unpack nss-libvirt libnss-libvirt
    unpack virt-qemu-run libvirt-daemon-driver-qemu
    unpack python3-libvirt python3-libvirt
    unpack sys-virt libsys-virt-perl
    unpack virtinst virtinst
    # From Debian 13 on each of its drivers is a package.
    drivers=$(apt-cache pkgnames libvirt-daemon-driver- 2>/dev/null | grep -E -- '-(network|nodedev|interface)$' || true)
    # shellcheck disable=SC2086 # a list of package names
    unpack libvirtd libvirt-daemon $drivers iptables
    unpack polkit polkitd dbus-daemon libvirt-daemon-system
fi

# The tools run for seconds and are built once: compile them quickly rather than well.
cargo_tool() {
    echo "setup: building $1, which takes some minutes"
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --profile dev --locked --root "$tools" "$@"
}
if [ "$task" = test ]; then
    command -v cargo-nextest >/dev/null ||
        cargo_tool cargo-nextest --version "$NEXTEST" --no-default-features --features default-no-update
    command -v cargo-deny >/dev/null ||
        cargo_tool cargo-deny --version "$DENY"
fi
