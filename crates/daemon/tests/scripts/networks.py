"""libvirt's Python binding against a daemon of networks: networks.py WHOSE SECTION URI READ_ONLY_URI [ARGUMENT...]

WHOSE is `ours` or `libvirts`: what holds of both daemons is said once, and where they differ `differs` says how.
"""

import sys
import threading
import time

import libvirt
from forms import form
from libvirt import (
    VIR_CONNECT_LIST_NETWORKS_ACTIVE as ACTIVE,
    VIR_CONNECT_LIST_NETWORKS_AUTOSTART as AUTOSTART,
    VIR_CONNECT_LIST_NETWORKS_INACTIVE as INACTIVE,
    VIR_CONNECT_LIST_NETWORKS_NO_AUTOSTART as NO_AUTOSTART,
    VIR_CONNECT_LIST_NETWORKS_PERSISTENT as PERSISTENT,
    VIR_CONNECT_LIST_NETWORKS_TRANSIENT as TRANSIENT,
)

WHOSE, SECTION, URI, READ_ONLY_URI, *ARGUMENTS = sys.argv[1:]
PATIENCE = 60
NETWORK = libvirt.VIR_FROM_NETWORK
INVALID = (libvirt.VIR_ERR_OPERATION_INVALID, NETWORK, "Requested operation is not valid: %s")
MISSING = (libvirt.VIR_ERR_NO_NETWORK, NETWORK, "Network not found: %s")
NO_PORT = (libvirt.VIR_ERR_NO_NETWORK_PORT, NETWORK, "network port not found: %s")
EXISTS = (libvirt.VIR_ERR_OPERATION_FAILED, NETWORK, "operation failed: %s")
NO_XML = (libvirt.VIR_ERR_XML_DETAIL, NETWORK, "%s")
BAD_ARGUMENT = (libvirt.VIR_ERR_INVALID_ARG, NETWORK, "invalid argument: %s")
BAD_XML = (libvirt.VIR_ERR_XML_ERROR, NETWORK, "XML error: %s")
UNSUPPORTED = (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, NETWORK, "Operation not supported: %s")
INTERNAL = (libvirt.VIR_ERR_INTERNAL_ERROR, NETWORK, "internal error: %s")
OF_NOBODY = (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_NONE, "internal error: %s")

# What is refused is looked at, not printed.
libvirt.registerErrorHandler(lambda _, error: None, None)


def differs(ours, libvirts):
    return ours if WHOSE == "ours" else libvirts


PORT_EXISTS = (
    libvirt.VIR_ERR_NETWORK_PORT_EXIST,
    NETWORK,
    differs("network port already exists: %s", "network port %s exists already"),
)


def same(what, found, expected):
    assert found == expected, f"{what}: {found!r} instead of {expected!r}"


def refusal(action, *arguments):
    """Code, domain and form of an error, or nothing."""
    try:
        action(*arguments)
    except libvirt.libvirtError as error:
        # The form, and what is put there; of libvirt's own errors only some have that.
        prefix = form(error).partition("%s")[0]
        assert WHOSE != "ours" or error.get_error_message().startswith(prefix), (prefix, error.get_error_message())
        same("level", error.get_error_level(), libvirt.VIR_ERR_ERROR)
        return error.get_error_code(), error.get_error_domain(), form(error)
    return None


def refused(expected, action, *arguments):
    same(f"{getattr(action, '__name__', action)}{arguments}", refusal(action, *arguments), expected)


def until(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.01)


def uuid(number):
    return f"00000000-0000-4000-8000-{number:012}"


def xml(name, number, more="", inside=""):
    """A network of that name; the number makes its UUID, bridge, MAC and subnet."""
    return (
        f"<network><name>{name}</name><uuid>{uuid(number)}</uuid>{more}<bridge name='br{number}'/>"
        f"<mac address='52:54:00:00:00:{number:02}'/><ip address='10.{number}.0.1' netmask='255.255.255.0'>"
        f"{inside}</ip></network>"
    )


def names(networks):
    return sorted(network.name() for network in networks)


def connection():
    with libvirt.open(URI) as conn:
        same("type", conn.getType(), "network")
        same("URI", conn.getURI(), URI)
        same("version", conn.getLibVersion(), differs(9_000_000, libvirt.getVersion()))
        same("secure", (conn.isSecure(), conn.isEncrypted(), conn.isAlive()), (1, 0, 1))
        if WHOSE == "ours":
            same("version", conn.getVersion(), 9_000_000)
            assert conn.getHostname()
        # Nobody watches the connection, so nobody could keep it alive.
        same("keepalive", refusal(conn.setKeepAlive, 5, 3), (1, libvirt.VIR_FROM_REMOTE, "internal error: %s"))
        # Other drivers' functions are not there, and that is no reason to go.
        for action in [conn.listAllDomains, conn.listAllInterfaces, conn.listAllStoragePools, conn.getCapabilities]:
            same(action.__name__, refusal(action)[0], libvirt.VIR_ERR_NO_SUPPORT)
        same("networks", conn.listAllNetworks(), [])
    # Of whom nobody waits to be let go.
    for _ in range(50):
        libvirt.open(URI)

    with libvirt.open(URI) as conn, libvirt.openReadOnly(READ_ONLY_URI) as reader:
        network = conn.networkDefineXML(xml("lab", 1))
        read = reader.networkLookupByName("lab")
        same("document", read.XMLDesc(), network.XMLDesc())
        same("networks", names(reader.listAllNetworks()), ["lab"])
        # Its own library says so.
        refused((libvirt.VIR_ERR_OPERATION_DENIED, NETWORK, "operation forbidden: %s"), read.create)
        with libvirt.open(READ_ONLY_URI) as pretender:
            # The daemon does.
            found = pretender.networkLookupByName("lab")
            for action in [found.create, found.destroy, found.undefine, lambda: found.setAutostart(1)]:
                refused((libvirt.VIR_ERR_OPERATION_DENIED, NETWORK, "operation forbidden: %s"), action)
            for action in [pretender.networkDefineXML, pretender.networkCreateXML]:
                refused((libvirt.VIR_ERR_OPERATION_DENIED, NETWORK, "operation forbidden: %s"), action, xml("x", 2))
        network.undefine()


def lives():
    conn = libvirt.open(URI)

    def state(network):
        return network.isActive(), network.isPersistent(), network.autostart()

    lab = conn.networkDefineXML(xml("lab", 1))
    same("state", state(lab), (0, 1, 0))
    same("UUID", (lab.UUIDString(), lab.UUID().hex()), (uuid(1), uuid(1).replace("-", "")))
    same("bridge", lab.bridgeName(), "br1")
    for look, known in [
        (conn.networkLookupByName, "lab"),
        (conn.networkLookupByUUIDString, uuid(1)),
        (conn.networkLookupByUUID, lab.UUID()),
    ]:
        found = look(known)
        same("found", (found.name(), found.UUIDString()), ("lab", uuid(1)))
    lab.setAutostart(1)
    same("state", state(lab), (0, 1, 1))
    lab.create()
    same("state", state(lab), (1, 1, 1))
    lab.setAutostart(0)
    gone = conn.networkCreateXML(xml("gone", 2))
    same("state", state(gone), (1, 0, 0))
    conn.networkDefineXML(xml("idle", 3)).setAutostart(1)
    conn.networkDefineXML(xml("slow", 4))

    everything = {"gone": ACTIVE | TRANSIENT | NO_AUTOSTART, "idle": INACTIVE | PERSISTENT | AUTOSTART}
    everything |= {"lab": ACTIVE | PERSISTENT | NO_AUTOSTART, "slow": INACTIVE | PERSISTENT | NO_AUTOSTART}
    groups = [ACTIVE | INACTIVE, PERSISTENT | TRANSIENT, AUTOSTART | NO_AUTOSTART]
    for flags in range(64):
        expected = [n for n, is_ in everything.items() if all(not flags & g or flags & g & is_ for g in groups)]
        same(f"list {flags}", names(conn.listAllNetworks(flags)), expected)
    same("active", (sorted(conn.listNetworks()), conn.numOfNetworks()), (["gone", "lab"], 2))
    same("inactive", (sorted(conn.listDefinedNetworks()), conn.numOfDefinedNetworks()), (["idle", "slow"], 2))

    # A definition for the next start; what runs goes on as it is.
    conn.networkDefineXML(xml("lab", 1, inside="<dhcp><range start='10.1.0.2' end='10.1.0.9'/></dhcp>"))
    assert "dhcp" not in lab.XMLDesc() and "dhcp" in lab.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
    same("state", state(lab), (1, 1, 0))
    # One without a definition gets one, and keeps running.
    conn.networkDefineXML(xml("gone", 2))
    same("state", state(gone), (1, 1, 0))
    # One that runs and loses it is there until it stops.
    gone.undefine()
    same("state", state(gone), (1, 0, 0))
    gone.destroy()
    refused(MISSING, conn.networkLookupByName, "gone")
    lab.destroy()
    same("state", state(lab), (0, 1, 0))
    assert "dhcp" in lab.XMLDesc()
    for network in conn.listAllNetworks():
        network.undefine()
    same("networks", conn.listAllNetworks(), [])


def mistakes():
    conn = libvirt.open(URI)
    idle = conn.networkDefineXML(xml("idle", 1))
    runs = conn.networkCreateXML(xml("runs", 2))
    past = conn.networkDefineXML(xml("past", 3))
    past.undefine()
    odd, free = xml("odd", 4), xml("other", 4)
    bad_uuid = odd.replace(uuid(4), "4")
    # libvirt has more codes for what is wrong with a document, and domains.
    bad_name = differs(BAD_XML, (libvirt.VIR_ERR_XML_DETAIL, libvirt.VIR_FROM_XML, "%s"))
    no_network = differs(BAD_XML, (libvirt.VIR_ERR_XML_ERROR, libvirt.VIR_FROM_XML, "XML error: %s"))
    no_name = differs(BAD_XML, (libvirt.VIR_ERR_NO_NAME, NETWORK, "missing name information"))
    no_uuid = differs(BAD_XML, INTERNAL)
    no_sense = differs(BAD_XML, (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, NETWORK, "unsupported configuration: %s"))
    table = [
        (MISSING, conn.networkLookupByName, "nope"),
        (MISSING, conn.networkLookupByName, uuid(1)),
        (MISSING, conn.networkLookupByUUIDString, uuid(9)),
        *((MISSING, action) for action in [past.create, past.destroy, past.undefine, past.XMLDesc, past.autostart]),
        *((MISSING, action) for action in [past.isActive, past.isPersistent, past.bridgeName, past.DHCPLeases]),
        (MISSING, past.setAutostart, 1),
        (INVALID, runs.create),
        (INVALID, idle.destroy),
        (INVALID, runs.undefine),
        (INVALID, runs.setAutostart, 1),
        (INVALID, conn.networkCreateXML, xml("runs", 2)),
        # A name or a UUID that is another's.
        (EXISTS, conn.networkDefineXML, xml("idle", 5)),
        (EXISTS, conn.networkDefineXML, free.replace(uuid(4), uuid(1))),
        (EXISTS, conn.networkCreateXML, free.replace(uuid(4), uuid(2))),
        (INTERNAL, conn.networkDefineXML, odd.replace("br4", "br2")),
        # What is wrong by itself.
        (NO_XML, conn.networkDefineXML, "<network><name>x"),
        (no_network, conn.networkDefineXML, "<domain/>"),
        (no_name, conn.networkDefineXML, "<network/>"),
        (no_uuid, conn.networkDefineXML, bad_uuid),
        (no_sense, conn.networkDefineXML, xml("odd", 4, more="<forward mode='teleport'/>")),
        (bad_name, conn.networkDefineXML, xml("odd/odd", 4)),
        (BAD_XML, conn.networkDefineXML, odd.replace("10.4.0.1", "here")),
        (BAD_XML, conn.networkDefineXML, odd.replace("52:54:00:00:00:04", "53:54:00:00:00:04")),
        (no_sense, conn.networkDefineXML, odd.replace("<ip", "<ip family='ipv6'")),
        # libvirt takes it for a network of 16 bits.
        (differs(BAD_XML, None), conn.networkDefineXML, odd.replace("255.255.255.0", "255.0.255.0")),
    ]
    wrong = []
    for expected, action, *arguments in table:
        found = refusal(action, *arguments)
        if found != expected:
            wrong.append(f"{action.__name__}{arguments}: {found} instead of {expected}")
    # Flags that nobody knows may mean that nothing is to be done.
    for action, *arguments in [
        (conn.listAllNetworks, 64),
        (idle.XMLDesc, 2),
        (idle.DHCPLeases, None, 1),
        (conn.networkDefineXMLFlags, odd, 2),
        (conn.networkCreateXMLFlags, odd, 2),
        (idle.update, ADD_LAST, libvirt.VIR_NETWORK_SECTION_PORTGROUP, -1, "<portgroup name='x'/>", 4),
    ]:
        found = refusal(action, *arguments)
        if not found or found[0] != libvirt.VIR_ERR_INVALID_ARG:
            wrong.append(f"{action.__name__}{arguments}: {found}")
    # libvirt's own driver for tests makes some of these checks too.
    test = libvirt.open("test:///default")
    theirs = test.networkDefineXML(xml("idle", 1))
    started = test.networkCreateXML(xml("runs", 2))
    for ours, action, *arguments in [
        (refusal(conn.networkLookupByName, "nope"), test.networkLookupByName, "nope"),
        (refusal(conn.networkLookupByUUIDString, uuid(9)), test.networkLookupByUUIDString, uuid(9)),
        (refusal(runs.create), started.create),
        (refusal(conn.networkDefineXML, xml("idle", 5)), test.networkDefineXML, xml("idle", 5)),
        (EXISTS, test.networkDefineXML, xml("other", 1)),
        (MISSING, test.networkLookupByName, uuid(1)),
        (BAD_XML, test.networkDefineXML, odd.replace("10.4.0.1", "here")),
    ]:
        found = refusal(action, *arguments)
        if (ours and (ours[0], ours[2])) != (found and (found[0], found[2])):
            wrong.append(f"{action.__name__}{arguments} of the test driver: {found} and not {ours}")
    for network in conn.listAllNetworks(ACTIVE):
        if network.isActive(): network.destroy()
    for network in conn.listAllNetworks():
        network.undefine()
    assert not wrong, "\n".join(wrong)


LAB = """<network>
  <name>lab</name>
  <uuid>00000000-0000-4000-8000-000000000001</uuid>
  <forward mode='open'/>
  <bridge name='br1'/>
  <mac address='52:54:00:00:00:01'/>
  <dns>
    <txt name='old' value='text'/>
    <host ip='10.1.0.9'><hostname>old</hostname></host>
  </dns>
  <ip address='10.1.0.1' netmask='255.255.255.0'>
    <dhcp><range start='10.1.0.100' end='10.1.0.200'/><host mac='52:54:00:00:00:99' name='old' ip='10.1.0.9'/></dhcp>
  </ip>
  <ip address='10.2.0.1' netmask='255.255.255.0'/>
  <ip family='ipv6' address='fd00:1::1' prefix='64'/>
  <portgroup name='old'/>
</network>"""
POOL = """<network>
  <name>pool</name>
  <uuid>00000000-0000-4000-8000-000000000002</uuid>
  <forward mode='private'><interface dev='old'/></forward>
</network>"""
FRAGMENTS = {
    "BRIDGE": "<bridge name='br1'/>",
    "DOMAIN": "<domain name='example.org'/>",
    "IP": "<ip address='10.9.0.1' netmask='255.255.255.0'/>",
    "IP_DHCP_HOST": "<host mac='52:54:00:00:00:05' name='new' ip='10.1.0.5'/>",
    "IP_DHCP_RANGE": "<range start='10.1.0.10' end='10.1.0.20'/>",
    "FORWARD": "<forward mode='open'/>",
    "FORWARD_INTERFACE": "<interface dev='new'/>",
    "FORWARD_PF": "<pf dev='lo'/>",
    "PORTGROUP": "<portgroup name='new'/>",
    "DNS_HOST": "<host ip='10.1.0.5'><hostname>new</hostname></host>",
    "DNS_TXT": "<txt name='new' value='text'/>",
    "DNS_SRV": "<srv service='new' protocol='tcp' target='new' port='1024'/>",
}
MODIFY, DELETE, ADD_LAST, ADD_FIRST = range(1, 5)


def updates():
    conn = libvirt.open(URI)
    # libvirt's daemon does nothing to these parts, and little to others.
    fixed = differs([], ["BRIDGE", "DOMAIN", "IP", "FORWARD", "FORWARD_PF"])
    modified = ["IP_DHCP_HOST", "PORTGROUP", "DOMAIN", "IP"]
    # libvirt's own daemon modifies names only in later versions.
    if WHOSE == "ours" or libvirt.getVersion() >= 11_000_000:
        modified += ["DNS_HOST", "DNS_TXT"]
    # What there always is one of, what there is, and what does not go with the mode.
    special = {
        "BRIDGE": [UNSUPPORTED, UNSUPPORTED, None, *[UNSUPPORTED] * 4],
        "FORWARD": [INVALID, INVALID, None, None, INVALID, None, None],
        "FORWARD_PF": [INVALID] * 7,
    }
    live, config = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE, libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    wrong = []
    for state in ["inactive", "active", "transient"]:
        make = conn.networkCreateXML if state == "transient" else conn.networkDefineXML
        networks = lab, pool = make(LAB), make(POOL)
        if state == "active":
            lab.create()
            pool.create()
        for flags in [0, live, config, live | config]:
            for section, fragment in FRAGMENTS.items():
                network = pool if section == "FORWARD_INTERFACE" else lab

                def update(command):
                    number = getattr(libvirt, f"VIR_NETWORK_SECTION_{section}")
                    return refusal(network.update, command, number, -1, fragment, flags)

                before = network.XMLDesc(), network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
                added = update(ADD_LAST)
                between = network.XMLDesc(), network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
                found = [added, *map(update, [ADD_LAST, MODIFY, DELETE, DELETE, ADD_FIRST, DELETE])]
                expected = [None, INVALID, None if section in modified else UNSUPPORTED, None, INVALID, None, None]
                if (flags & live and state == "inactive") or (flags & config and state == "transient"):
                    expected = [INVALID] * 7
                elif section in fixed:
                    expected = [UNSUPPORTED] * 7
                elif section in special:
                    expected = special[section]
                if section == "FORWARD" and found[-1] is None:
                    update(ADD_LAST)
                if found != expected:
                    wrong.append(f"{state}, {flags}, {section}: {found} instead of {expected}")
                if (network.XMLDesc(), network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)) != before:
                    wrong.append(f"{state}, {flags}, {section}: it is not what it was")
                # What was asked to change did, and nothing else.
                is_live = flags & live or (flags == 0 and state != "inactive")
                is_config = flags & config or (flags == 0 and state == "inactive")
                places = [is_live or state == "inactive", is_config or state == "transient"]
                places = [bool(place and expected[0] is None) for place in places]
                if [x != y for x, y in zip(before, between)] != places:
                    wrong.append(f"{state}, {flags}, {section}: changed {before} to {between}")
        if state == "active":
            wrong += filter(None, (wrong_update(lab, *case) for case in UPDATES))
        for network in networks:
            if network.isActive():
                network.destroy()
            if state != "transient":
                network.undefine()
    assert not wrong, "\n".join(wrong)


H, R, P, D, T = (
    getattr(libvirt, f"VIR_NETWORK_SECTION_{name}")
    for name in ["IP_DHCP_HOST", "IP_DHCP_RANGE", "PORTGROUP", "DNS_HOST", "DNS_TXT"]
)
# Each upon those before it.
UPDATES = [
    (differs(BAD_ARGUMENT, BAD_XML), 0, H, -1, "<x/>"),
    (differs(BAD_ARGUMENT, BAD_XML), 5, H, -1, "<host/>"),
    (UNSUPPORTED, ADD_LAST, 0, -1, "<x/>"),
    (UNSUPPORTED, ADD_LAST, 13, -1, "<x/>"),
    (NO_XML, ADD_LAST, H, -1, "<host"),
    (BAD_XML, ADD_LAST, H, -1, "<x/>"),
    (BAD_XML, ADD_LAST, H, -1, "<host mac='52:54:00:00:00:05'/>"),
    # There is no such <ip>, or it serves no addresses.
    (INVALID, ADD_LAST, H, 3, FRAGMENTS["IP_DHCP_HOST"]),
    (differs(BAD_XML, INVALID), ADD_LAST, H, 1, "<host mac='52:54:00:00:00:05' ip='10.2.0.5'/>"),
    (BAD_XML, ADD_LAST, H, 2, "<host mac='52:54:00:00:00:05' ip='fd00:1::5'/>"),
    (None, ADD_LAST, H, 2, "<host id='0:1:0:1:18' ip='fd00:1::5'/>"),
    # An address that nobody there can use.
    (differs(BAD_XML, None), ADD_LAST, H, 0, "<host mac='52:54:00:00:00:05' ip='10.7.0.5'/>"),
    (differs(BAD_XML, OF_NOBODY), ADD_LAST, R, -1, "<range start='10.7.0.1' end='10.7.0.2'/>"),
    (None, ADD_LAST, R, 0, "<range start='10.1.0.1' end='10.1.0.2'/>"),
    # Within another.
    (differs(BAD_XML, None), ADD_LAST, R, 0, "<range start='10.1.0.150' end='10.1.0.152'/>"),
    (None, MODIFY, H, -1, "<host mac='52:54:00:00:00:99' name='newer' ip='10.1.0.8'/>"),
    (None, MODIFY, H, -1, "<host mac='52:54:00:00:00:77' name='newer' ip='10.1.0.8'/>"),
    (INVALID, DELETE, H, -1, "<host mac='52:54:00:00:00:99'/>"),
    (None, ADD_LAST, P, -1, "<portgroup name='d1' default='yes'/>"),
    (differs(BAD_XML, INVALID), ADD_LAST, P, -1, "<portgroup name='d2' default='yes'/>"),
    (None, DELETE, P, -1, "<portgroup name='d1'/>"),
    (INVALID, ADD_LAST, D, -1, "<host ip='10.1.0.9'><hostname>old</hostname></host>"),
    (INVALID, ADD_LAST, D, -1, "<host ip='10.1.0.9'><hostname>more</hostname></host>"),
    (None, ADD_LAST, D, -1, "<host ip='10.1.0.7'><hostname>old</hostname></host>"),
    (None, DELETE, D, -1, "<host ip='10.1.0.9'/>"),
    (INVALID, ADD_LAST, T, -1, "<txt name='old' value='other'/>"),
    (INVALID, ADD_LAST, T, -1, "<txt name='old' value='text'/>"),
    (None, DELETE, T, -1, "<txt name='old'/>"),
]


def wrong_update(network, expected, *case):
    both = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    found = refusal(network.update, *case, both)
    return None if found == expected else f"{case}: {found} instead of {expected}"


def leases():
    """ARGUMENTS: the network, and the MAC of a guest that has a lease there."""
    name, mac = ARGUMENTS
    conn = libvirt.open(URI)
    network = conn.networkLookupByName(name)
    (lease,) = network.DHCPLeases()
    same("lease of that MAC", network.DHCPLeases(mac), [lease])
    same("leases of another", network.DHCPLeases("52:54:00:00:00:99"), [])
    same("bridge", lease["iface"], network.bridgeName())
    same("guest", (lease["mac"], lease["type"], lease["prefix"]), (mac, libvirt.VIR_IP_ADDR_TYPE_IPV4, 24))
    assert lease["ipaddr"].startswith("10.77.0.") and lease["expirytime"] > time.time(), lease
    refused(BAD_ARGUMENT, network.DHCPLeases, "no MAC")


def ports():
    conn = libvirt.open(URI)
    network = conn.networkDefineXML(xml("one", 1, inside="<dhcp><range start='10.1.0.2' end='10.1.0.9'/></dhcp>"))
    owner = "<owner><name>web</name><uuid>06578fc1-c686-46fa-bc2c-83893b466a6d</uuid></owner>"
    plug = "<plug type='network' bridge='br1'/>"

    def document(number, more=""):
        return f"<networkport><uuid>{uuid(number)}</uuid>{owner}<mac address='52:54:00:00:01:{number}'/>{more}</networkport>"

    reclaim, validate = libvirt.VIR_NETWORK_PORT_CREATE_RECLAIM, libvirt.VIR_NETWORK_PORT_CREATE_VALIDATE
    refused(INVALID, network.portCreateXML, document(10))
    network.create()
    port = network.portCreateXML(document(10))
    same("who it is", (port.UUIDString(), port.UUID().hex()), (uuid(10), uuid(10).replace("-", "")))
    found = "".join(line.strip() for line in port.XMLDesc().splitlines())
    same("document", found, document(10, plug))
    same("its network", port.network().name(), "one")
    network.portCreateXML(document(11, "<port isolated='yes'/>"), validate)
    same("all", sorted(port.UUIDString() for port in network.listAllPorts()), [uuid(10), uuid(11)])
    same("found", network.portLookupByUUIDString(uuid(11)).UUIDString(), uuid(11))

    rates = {f"{way}bound.{what}": 0 for way in ["in", "out"] for what in ["average", "peak", "burst"]}
    rates["inbound.floor"] = 0
    same("no rates", port.parameters(), differs(rates, {}))
    limited = network.portCreateXML(document(13, "<bandwidth><inbound average='10'/><outbound average='20'/></bandwidth>"))
    rates = {**rates, "outbound.average": 20}
    same("rates", limited.parameters(), {**rates, "inbound.average": 10})
    # What is said counts whole.
    limited.setParameters({"inbound.average": 1000, "inbound.peak": 2000, "inbound.burst": 512})
    inbound = {"inbound.average": 1000, "inbound.peak": 2000, "inbound.burst": 512, "inbound.floor": 0}
    outbound = {"outbound.average": 0, "outbound.peak": 0, "outbound.burst": 0}
    same("one direction's", limited.parameters(), differs({**inbound, **outbound}, inbound))
    limited.delete()

    refused(PORT_EXISTS, network.portCreateXML, document(10))
    refused(differs(BAD_XML, INTERNAL), network.portCreateXML, f"<networkport>{owner}</networkport>")
    refused(BAD_ARGUMENT, network.portCreateXML, document(12, plug))
    refused(BAD_ARGUMENT, network.portCreateXML, document(12), reclaim)
    network.portCreateXML(document(12, plug), reclaim).delete()
    port.delete()
    refused(NO_PORT, port.delete)
    refused(NO_PORT, port.XMLDesc)
    refused(NO_PORT, network.portLookupByUUIDString, uuid(10))
    same("the last", [port.UUIDString() for port in network.listAllPorts()], [uuid(11)])
    network.destroy()
    network.undefine()


def in_background():
    """An event loop, as programs have one."""
    libvirt.virEventRegisterDefaultImpl()

    def run():
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


def events():
    in_background()
    conn, other = libvirt.open(URI), libvirt.open(URI)
    same("keepalive", conn.setKeepAlive(1, 3), 0)
    heard = {"all": [], "one": [], "none": []}

    def hear(_, network, event, detail, who):
        same("detail", detail, 0)
        heard[who].append((network.name(), event))

    one, three = conn.networkDefineXML(xml("one", 1)), conn.networkDefineXML(xml("three", 4))
    lifecycle = libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE
    ids = {
        who: conn.networkEventRegisterAny(network, lifecycle, hear, who)
        for who, network in [("all", None), ("one", one), ("none", three)]
    }
    conn.networkEventDeregisterAny(ids["none"])
    # What another connection does.
    other.networkLookupByName("three").undefine()
    two = other.networkDefineXML(xml("two", 2))
    for network in [other.networkLookupByName("one"), two]:
        network.create()
        if network.isActive(): network.destroy()
        network.undefine()
    other.networkCreateXML(xml("brief", 3)).destroy()
    defined, undefined, started, stopped = range(4)
    life = [started, stopped, undefined]
    of_one, of_two = [("one", event) for event in life], [("two", event) for event in life]
    brief = [("brief", started), ("brief", stopped)]
    expected = [("three", undefined), ("two", defined), *of_one, *of_two, *brief]
    until("end of events", lambda: len(heard["all"]) >= len(expected))
    same("events", heard, {"all": expected, "one": of_one, "none": []})
    # Signs of life go both ways meanwhile.
    time.sleep(2.5)
    same("alive", conn.isAlive(), 1)
    conn.networkEventDeregisterAny(ids["all"])
    conn.networkEventDeregisterAny(ids["one"])
    assert refusal(conn.networkEventDeregisterAny, ids["one"])
    other.networkCreateXML(xml("brief", 3)).destroy()
    # Once more, to know when nothing more can come.
    again = conn.networkEventRegisterAny(None, lifecycle, hear, "none")
    other.networkCreateXML(xml("brief", 3)).destroy()
    until("events", lambda: len(heard["none"]) >= 2)
    same("events", heard["all"], expected)
    conn.networkEventDeregisterAny(again)


def threads():
    in_background()
    shared, failures = libvirt.open(URI), []

    def work(conn, number):
        try:
            for _ in range(5):
                network = conn.networkDefineXML(xml(f"n{number}", number))
                network.create()
                same("active", (network.isActive(), network.bridgeName()), (1, f"br{number}"))
                assert f"10.{number}.0.1" in network.XMLDesc()
                assert network.name() in names(conn.listAllNetworks())
                network.destroy()
                network.undefine()
        except Exception as failure:  # the thread's, which nobody would see
            failures.append(f"{number}: {failure!r}")

    workers = [threading.Thread(target=work, args=(shared, n)) for n in range(10, 16)]
    workers += [threading.Thread(target=work, args=(libvirt.open(URI), n)) for n in range(20, 26)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE * 2)
        assert not worker.is_alive(), "a call hangs"
    assert not failures, "\n".join(failures)
    same("networks", shared.listAllNetworks(), [])


def closing():
    """Says when the daemon may go, and waits until it has gone."""
    in_background()
    conn, reasons = libvirt.open(URI), []
    conn.registerCloseCallback(lambda _, reason, __: reasons.append(reason), None)
    refusal(conn.registerCloseCallback, lambda *_: None, None)
    print("ready", flush=True)
    until("close", lambda: reasons)
    # The client's library finds the end of the stream by reading or by being told, whichever comes first.
    assert reasons[0] in (libvirt.VIR_CONNECT_CLOSE_REASON_ERROR, libvirt.VIR_CONNECT_CLOSE_REASON_EOF), reasons
    same("reasons", len(reasons), 1)
    same("alive", conn.isAlive(), 0)
    assert refusal(conn.listAllNetworks)


globals()[SECTION]()
