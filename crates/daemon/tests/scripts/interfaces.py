"""libvirt's Python binding against a daemon of interfaces: interfaces.py WHOSE SECTION URI READ_ONLY_URI

WHOSE is `ours` or `libvirts`: what holds of both daemons is said once, and where they differ `differs` says how. The links are
those of the test that runs this.
"""

import sys
import threading
import time

import libvirt
from forms import form
from libvirt import (
    VIR_CONNECT_LIST_INTERFACES_ACTIVE as ACTIVE,
    VIR_CONNECT_LIST_INTERFACES_INACTIVE as INACTIVE,
    VIR_INTERFACE_XML_INACTIVE as CONFIGURED,
)

WHOSE, SECTION, URI, READ_ONLY_URI = sys.argv[1:]
PATIENCE = 60
INTERFACE = libvirt.VIR_FROM_INTERFACE
MISSING = (libvirt.VIR_ERR_NO_INTERFACE, INTERFACE, "Interface not found: %s")
SEVERAL = (libvirt.VIR_ERR_MULTIPLE_INTERFACES, INTERFACE, "multiple matching interfaces found: %s")
BAD_ARGUMENT = libvirt.VIR_ERR_INVALID_ARG
UNSUPPORTED = (libvirt.VIR_ERR_NO_SUPPORT, INTERFACE, "this function is not supported by the connection driver: %s")
DENIED = (libvirt.VIR_ERR_OPERATION_DENIED, INTERFACE, "operation forbidden: %s")
MAC = "52:54:00:00:00:%02x"

libvirt.registerErrorHandler(lambda _, error: None, None)


def differs(ours, libvirts):
    return ours if WHOSE == "ours" else libvirts


def same(what, found, expected):
    assert found == expected, f"{what}: {found!r} instead of {expected!r}"


def refusal(action, *arguments):
    """Code, domain and form of an error, or nothing."""
    try:
        action(*arguments)
    except libvirt.libvirtError as error:
        prefix = form(error).partition("%s")[0]
        assert WHOSE != "ours" or error.get_error_message().startswith(prefix), (prefix, error.get_error_message())
        same("level", error.get_error_level(), libvirt.VIR_ERR_ERROR)
        return error.get_error_code(), error.get_error_domain(), form(error)
    return None


def refused(expected, action, *arguments):
    same(f"{getattr(action, '__name__', action)}{arguments}", refusal(action, *arguments), expected)


def names(interfaces):
    return sorted(interface.name() for interface in interfaces)


def ready(conn):
    """The links' states come a moment after the links."""
    end = time.monotonic() + PATIENCE
    while not {"br0", "eth1", "far0", "far1"} <= set(conn.listInterfaces()):
        assert time.monotonic() < end, f"no bridge that runs: {conn.listInterfaces()}"
        time.sleep(0.01)
    return conn


def connection():
    with libvirt.open(URI) as conn:
        same("type", conn.getType(), "interface")
        same("URI", conn.getURI(), URI)
        same("version", conn.getLibVersion(), differs(9_000_000, libvirt.getVersion()))
        same("secure", (conn.isSecure(), conn.isEncrypted(), conn.isAlive()), (1, 0, 1))
        if WHOSE == "ours":
            assert conn.getHostname()
        # Other drivers' functions are not there, and that is no reason to go.
        for action in [conn.listAllDomains, conn.listAllNetworks, conn.listAllDevices, conn.getCapabilities]:
            same(action.__name__, refusal(action)[0], libvirt.VIR_ERR_NO_SUPPORT)
        ready(conn)
        with libvirt.openReadOnly(READ_ONLY_URI) as reader:
            same("document", reader.interfaceLookupByName("eth1").XMLDesc(), conn.interfaceLookupByName("eth1").XMLDesc())
            same("interfaces", names(reader.listAllInterfaces()), names(conn.listAllInterfaces()))
        with libvirt.open(READ_ONLY_URI) as pretender:
            found = pretender.interfaceLookupByName("eth1")
            for action in [found.create, found.destroy, found.undefine, pretender.changeBegin, pretender.changeCommit]:
                refused(DENIED, action)
            refused(DENIED, pretender.changeRollback)
            refused(DENIED, pretender.interfaceDefineXML, found.XMLDesc())


def shows():
    conn = ready(libvirt.open(URI))
    # Links that are neither up nor down are neither active nor defined to libvirt's own daemon, and inactive in its other list.
    neither = differs([], ["eth2", "lo"])
    active = ["br0", "eth1", "far0", "far1", *differs(["lo"], [])]
    inactive = ["br1", "eth2", "far2", *differs([], ["guest0"]), "host0", *differs([], ["lo"])]
    same("active", sorted(conn.listInterfaces()), sorted(active))
    same("how many are", conn.numOfInterfaces(), len(active))
    same("inactive", sorted(conn.listDefinedInterfaces()), [n for n in inactive if n not in neither])
    same("how many are not", conn.numOfDefinedInterfaces(), len(inactive) - len(neither))
    for flags, expected in [
        (0, active + inactive),
        (ACTIVE, active),
        (INACTIVE, inactive),
        (ACTIVE | INACTIVE, active + inactive),
    ]:
        same(f"list {flags}", names(conn.listAllInterfaces(flags)), sorted(expected))
    for interface in conn.listAllInterfaces():
        same(interface.name(), interface.isActive(), int(interface.name() in active))
        found = conn.interfaceLookupByName(interface.name())
        same(interface.name(), found.MACString(), interface.MACString())
        assert f" name='{interface.name()}'>" in interface.XMLDesc()
    for name, number in [("br0", 0x30), ("eth1", 0x11), ("far2", 0x22)]:
        same(name, conn.interfaceLookupByMACString(MAC % number).name(), name)
    # Parts of others and guests' are found as well, if by name only by libvirt's own daemon.
    for name, number in [("eth0", 0x10), ("vnet0", None)]:
        interface = conn.interfaceLookupByName(name)
        mac = interface.MACString()
        same(name, mac, MAC % number if number else "fe:54:00:00:00:01")
        if WHOSE == "ours":
            same(name, conn.interfaceLookupByMACString(mac).name(), name)
    same("active", conn.interfaceLookupByName("eth0").isActive(), 1)
    eth1 = conn.interfaceLookupByName("eth1")
    same("addresses", "192.0.2.1" in eth1.XMLDesc(), differs(True, False))
    # libvirt's own daemon shows the same, whatever was asked for.
    same("link", "<link" in eth1.XMLDesc(CONFIGURED), differs(False, True))
    if WHOSE == "ours":
        same("letters", conn.interfaceLookupByMACString((MAC % 0x2a).upper().replace("2A", "11")).name(), "eth1")


def mistakes():
    conn = ready(libvirt.open(URI))
    eth1 = conn.interfaceLookupByName("eth1")
    refused(MISSING, conn.interfaceLookupByName, "nope")
    refused(MISSING, conn.interfaceLookupByName, "a name that is too long for a link")
    refused(MISSING, conn.interfaceLookupByName, "")
    for mac in [MAC % 0x99, "here", "", "52:54:00:00:00"]:
        refused(MISSING, conn.interfaceLookupByMACString, mac)
    for action, flags in [(conn.listAllInterfaces, 4), (eth1.XMLDesc, 2)]:
        same(action.__name__, (refusal(action, flags) or [None])[0], BAD_ARGUMENT)


def refusals():
    conn = ready(libvirt.open(URI))
    eth1 = conn.interfaceLookupByName("eth1")
    document = eth1.XMLDesc(CONFIGURED)
    for action, *arguments in [
        (conn.interfaceDefineXML, document),
        (conn.interfaceDefineXML, document, libvirt.VIR_INTERFACE_DEFINE_VALIDATE),
        (conn.interfaceDefineXML, "<interface"),
        (eth1.undefine,),
        (eth1.create,),
        (eth1.destroy,),
        (conn.changeBegin,),
        (conn.changeCommit,),
        (conn.changeRollback,),
    ]:
        refused(UNSUPPORTED, action, *arguments)
    same("document", eth1.XMLDesc(CONFIGURED), document)


def threads():
    shared, failures = ready(libvirt.open(URI)), []
    expected = names(shared.listAllInterfaces())

    def work(conn):
        try:
            for _ in range(10):
                same("interfaces", names(conn.listAllInterfaces()), expected)
                for interface in conn.listAllInterfaces(ACTIVE):
                    same(interface.name(), interface.isActive(), 1)
                    assert interface.name() in interface.XMLDesc()
        except Exception as failure:  # the thread's, which nobody would see
            failures.append(repr(failure))

    workers = [threading.Thread(target=work, args=(conn,)) for conn in [shared] * 4 + [libvirt.open(URI) for _ in range(4)]]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE * 2)
        assert not worker.is_alive(), "a call hangs"
    assert not failures, "\n".join(failures)


globals()[SECTION]()
