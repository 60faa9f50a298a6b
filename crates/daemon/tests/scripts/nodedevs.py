"""libvirt's Python binding against a daemon of node devices: nodedevs.py WHOSE SECTION URI READ_ONLY_URI [ARGUMENT...]

WHOSE is `ours` or `libvirts`: what holds of both daemons is said once, and where they differ it is said for whom.
"""

import subprocess
import sys
import threading
import time

import libvirt
from forms import form

WHOSE, SECTION, URI, READ_ONLY_URI, *ARGUMENTS = sys.argv[1:]
PATIENCE = 60
NODEDEV = libvirt.VIR_FROM_NODEDEV
MISSING = (libvirt.VIR_ERR_NO_NODE_DEVICE, NODEDEV, "Node device not found: %s")
INVALID = (libvirt.VIR_ERR_OPERATION_INVALID, NODEDEV, "Requested operation is not valid: %s")
UNSUPPORTED = (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, NODEDEV, "Operation not supported: %s")
UNCONFIGURABLE = (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, NODEDEV, "unsupported configuration: %s")
FORBIDDEN = (libvirt.VIR_ERR_OPERATION_DENIED, NODEDEV, "operation forbidden: %s")
OTHERS = (libvirt.VIR_ERR_NO_SUPPORT, NODEDEV, "this function is not supported by the connection driver: %s")
# What is wrong of an argument libvirt puts elsewhere.
BAD_FLAGS = (libvirt.VIR_ERR_INVALID_ARG, NODEDEV)
VETH = "net_veth7_02_00_00_00_00_07"

# What is refused is looked at, not printed.
libvirt.registerErrorHandler(lambda _, error: None, None)


def same(what, found, expected):
    assert found == expected, f"{what}: {found!r} instead of {expected!r}"


def refusal(action, *arguments):
    """Code, domain and form of an error, or nothing."""
    try:
        action(*arguments)
    except libvirt.libvirtError as error:
        return error.get_error_code(), error.get_error_domain(), form(error)
    return None


def refused(expected, action, *arguments):
    found = refusal(action, *arguments)
    same(f"{getattr(action, '__name__', action)}{arguments}", found and found[: len(expected)], expected)


def until(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.01)


def ip(command):
    subprocess.run(["ip", *command.split()], check=True)


def names(devices):
    return sorted(device.name() for device in devices)


def connection():
    with libvirt.open(URI) as conn:
        same("type", conn.getType(), "nodedev")
        same("URI", conn.getURI(), URI)
        assert conn.getLibVersion() in (9_000_000, libvirt.getVersion())
        same("secure", (conn.isSecure(), conn.isEncrypted(), conn.isAlive()), (1, 0, 1))
        for action in [conn.listAllDomains, conn.listAllNetworks, conn.listAllInterfaces, conn.getCapabilities]:
            same(action.__name__, refusal(action)[0], libvirt.VIR_ERR_NO_SUPPORT)
    with libvirt.openReadOnly(READ_ONLY_URI) as reader, libvirt.open(READ_ONLY_URI) as pretender:
        same("devices", names(pretender.listAllDevices()), names(reader.listAllDevices()))
        device = pretender.nodeDeviceLookupByName("computer")
        assert "<name>computer</name>" in device.XMLDesc()
        for action in [device.destroy, device.undefine, device.create, device.dettach, device.reAttach, device.reset]:
            refused(FORBIDDEN, action)
        refused(FORBIDDEN, device.setAutostart, 1)
        refused(FORBIDDEN, pretender.nodeDeviceCreateXML, "<device/>", 0)
        refused(FORBIDDEN, pretender.nodeDeviceDefineXML, "<device/>", 0)


def lists():
    """There are lo, veth7 and veth8, and whatever PCI devices the host has."""
    with libvirt.open(URI) as conn:
        links = [name for name in names(conn.listAllDevices()) if name.startswith("net_")]
        assert VETH in links and "net_lo_00_00_00_00_00_00" in links, links
        devices = [name for name in names(conn.listAllDevices()) if name.startswith("pci_")]
        flag = lambda name: getattr(libvirt, f"VIR_CONNECT_LIST_NODE_DEVICES_{name}")
        for capability, expected in [("net", links), ("pci", devices), ("system", ["computer"]), ("nonsense", [])]:
            same(capability, conn.numOfDevices(capability), len(expected))
            same(capability, sorted(conn.listDevices(capability)), expected)
        for flags, expected in [
            (flag("CAP_NET"), links),
            (flag("CAP_PCI_DEV"), devices),
            (flag("CAP_SYSTEM"), ["computer"]),
            (flag("CAP_NET") | flag("CAP_SYSTEM"), ["computer"] + links),
            (flag("CAP_NET") | flag("ACTIVE"), links),
            (flag("CAP_NET") | flag("ACTIVE") | flag("INACTIVE"), links),
            (flag("INACTIVE"), []),
            (flag("CAP_USB_DEV"), []),
            (flag("CAP_VPD"), []),
        ]:
            same(f"{flags:#x}", names(conn.listAllDevices(flags)), expected)
        every = sorted(conn.listDevices(None))
        same("all", (conn.numOfDevices(None), names(conn.listAllDevices())), (len(every), every))
        if WHOSE == "ours":
            same("all", every, sorted(["computer"] + links + devices))


def devices():
    with libvirt.open(URI) as conn:
        # Parent, persistence and autostart.
        for name, capability, parent, kept in [(VETH, "net", "computer", 0), ("computer", "system", None, 1)]:
            device = conn.nodeDeviceLookupByName(name)
            same("name", device.name(), name)
            same("parent", device.parent(), parent)
            same("capabilities", (device.numOfCaps(), device.listCaps()), (1, [capability]))
            same("life", (device.isActive(), device.isPersistent(), device.autostart()), (1, kept, kept))
            assert f"<name>{name}</name>" in device.XMLDesc() and f"type='{capability}'" in device.XMLDesc()
            refused(UNSUPPORTED, device.setAutostart, 1)
            refused(INVALID, device.create)
            refused(UNCONFIGURABLE if kept else INVALID, device.undefine)
            refused(UNCONFIGURABLE, device.destroy)
            for action in [device.dettach, device.reAttach, device.reset]:
                refused(OTHERS, action)
            refused(OTHERS, device.detachFlags, "vfio", 0)
            refused(BAD_FLAGS, device.XMLDesc, 1 << 10)


def mistakes():
    with libvirt.open(URI) as conn:
        refused(MISSING, conn.nodeDeviceLookupByName, "nonsense")
        refused(MISSING, conn.nodeDeviceLookupByName, "")
        refused(BAD_FLAGS, conn.numOfDevices, None, 1)
        refused(BAD_FLAGS, conn.listDevices, None, 1)
        refused(BAD_FLAGS, conn.listAllDevices, 1 << 26)
        # What later versions of libvirt know; and its own daemon fails without saying why.
        if WHOSE == "ours":
            refused(BAD_FLAGS, conn.listAllDevices, 1 << 23)
            refused(MISSING, conn.nodeDeviceLookupSCSIHostByWWN, "2000", "1000")
        refused(BAD_FLAGS, conn.nodeDeviceLookupSCSIHostByWWN, "2000", "1000", 1)
        document = conn.nodeDeviceLookupByName(VETH).XMLDesc()
        for make in [conn.nodeDeviceCreateXML, conn.nodeDeviceDefineXML]:
            refused(UNCONFIGURABLE, make, document, 0)
            refused(BAD_FLAGS, make, document, 2)
            refused((libvirt.VIR_ERR_XML_DETAIL, NODEDEV), make, "<device", 0)
            same("root", refusal(make, "<network/>", 0)[0], libvirt.VIR_ERR_XML_ERROR)
        device = conn.nodeDeviceLookupByName(VETH)
        ip("link del veth7")
        if WHOSE == "ours":
            until("end of the device", lambda: VETH not in names(conn.listAllDevices()))
            for action in [device.XMLDesc, device.listCaps, device.isActive, device.destroy]:
                refused(MISSING, action)


def events():
    libvirt.virEventRegisterDefaultImpl()
    running = True

    def loop():
        while running:
            libvirt.virEventRunDefaultImpl()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    with libvirt.open(URI) as conn:
        heard, of_veth, updates = [], [], []
        lifecycle = libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE
        names_of = {libvirt.VIR_NODE_DEVICE_EVENT_CREATED: "created", libvirt.VIR_NODE_DEVICE_EVENT_DELETED: "deleted"}
        note = lambda conn, device, event, detail, to: to.append((device.name(), names_of[event], detail))
        everything = conn.nodeDeviceEventRegisterAny(None, lifecycle, note, heard)
        veth = conn.nodeDeviceLookupByName(VETH)
        conn.nodeDeviceEventRegisterAny(veth, lifecycle, note, of_veth)
        conn.nodeDeviceEventRegisterAny(
            veth, libvirt.VIR_NODE_DEVICE_EVENT_ID_UPDATE, lambda conn, device, to: to.append(device.name()), updates
        )
        ip("link set veth8 up")
        ip("link set veth7 up")
        until("update", lambda: VETH in updates)
        assert "state='up'" in veth.XMLDesc()
        expected = []

        def step(command, *events):
            ip(command)
            expected.extend(events)
            # Those at both ends of a pair come in either order.
            until(command, lambda: sorted(heard) == sorted(expected))

        other, renamed = "net_veth8_02_00_00_00_00_08", "net_veth9_02_00_00_00_00_08"
        changed = "net_veth7_02_00_00_00_00_17"
        step("link set veth8 name veth9", (other, "deleted", 0), (renamed, "created", 0))
        step("link set veth7 address 02:00:00:00:00:17", (VETH, "deleted", 0), (changed, "created", 0))
        step("link del veth9", (renamed, "deleted", 0), (changed, "deleted", 0))
        same("its events", of_veth, [(VETH, "deleted", 0)])
        conn.nodeDeviceEventDeregisterAny(everything)
        ip("link add veth7 address 02:00:00:00:00:07 type veth peer name veth8")
        until("its return", lambda: (VETH, "created", 0) in of_veth)
        same("what comes to who left", len(heard), 6)
        running = False
        ip("link del veth7")
        thread.join(PATIENCE)


def threads():
    """Several at one connection, while links come and go."""
    with libvirt.open(URI) as conn:
        failures = []

        def look():
            try:
                for _ in range(50):
                    for device in conn.listAllDevices():
                        try:
                            same("document", f"<name>{device.name()}</name>" in device.XMLDesc(), True)
                        except libvirt.libvirtError as error:
                            same("error", error.get_error_code(), libvirt.VIR_ERR_NO_NODE_DEVICE)
            except Exception as error:
                failures.append(error)

        lookers = [threading.Thread(target=look) for _ in range(4)]
        [looker.start() for looker in lookers]
        for _ in range(20):
            ip("link add veth1 type veth peer name veth2")
            ip("link del veth1")
        [looker.join(PATIENCE) for looker in lookers]
        same("failures", failures, [])


globals()[SECTION](*ARGUMENTS)
