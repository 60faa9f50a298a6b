# What users other than root get done: polkit.py SECTION DIRECTORY, where DIRECTORY has the daemon's sockets. Each line that it
# prints says what was tried, and the outcome: a value, or a refusal's code and domain.

import json
import select
import socket
import struct
import sys

section, directory = sys.argv[1:3]
PORT = """<networkport><uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid><owner><name>g</name>
<uuid>06578fc1-c686-46fa-bc2c-83893b466a6d</uuid></owner><mac address='52:54:00:7b:35:93'/></networkport>"""


def attempt(what, action):
    try:
        value = action()
    except libvirt.libvirtError as error:
        print(what, error.get_error_code(), error.get_error_domain(), flush=True)
        return None
    print(what, json.dumps(value if isinstance(value, (int, str, list)) else "done"), flush=True)
    return value


def path(read_only=False):
    return directory + ("/virtnetworkd-sock-ro" if read_only else "/virtnetworkd-sock")


def opened(what="open", read_only=False, driver="network", daemon="virtnetworkd"):
    uri = f"{driver}+unix:///system?socket={directory}/{daemon}-sock" + ("-ro" if read_only else "")
    return attempt(what, lambda: (libvirt.openReadOnly if read_only else libvirt.open)(uri))


def define(connection, name):
    return lambda: connection.networkDefineXML(f"<network><name>{name}</name></network>")


# A client without libvirt.
def raw():
    client = socket.socket(socket.AF_UNIX)
    client.connect(path())
    return client


def say(client, procedure, arguments=b""):
    client.sendall(struct.pack(">IIIiiIi", 28 + len(arguments), 0x20008086, 1, procedure, 0, 0, 0) + arguments)


def hear(client):
    header = client.recv(28, socket.MSG_WAITALL)
    if len(header) < 28:
        return "closed"
    length, _, _, _, _, _, status = struct.unpack(">IIIiiIi", header)
    payload = client.recv(length - 28, socket.MSG_WAITALL)
    words = struct.unpack_from(">ii", payload) if len(payload) >= 8 else struct.unpack_from(">i", payload)
    if status:
        size = struct.unpack_from(">I", payload, 12)[0]
        return [*words, payload[16:16 + size].decode()]
    return list(words)


if section == "strangers":
    client = raw()
    for what, procedure, arguments in [
        ("AUTH_LIST", 66, b""),
        ("CONNECT_OPEN", 1, bytes(8)),
        ("CONNECT_SUPPORTS_FEATURE", 60, struct.pack(">i", 10)),
        ("CONNECT_CLOSE", 2, b""),
        ("AUTH_LIST", 66, b""),
    ]:
        say(client, procedure, arguments)
        print(what, json.dumps(hear(client)))
    # Nobody believes how long a stranger's packet is.
    client.sendall(struct.pack(">I", 1 << 20))
    print("long", json.dumps(hear(client)))
    sys.exit()

if section == "many":
    clients = [raw() for _ in range(6)]
    for client in clients:
        say(client, 70)
    answered = []
    while len(answered) < 2:
        answered += [client for client in select.select(clients, [], [])[0] if client not in answered]
    for client in answered:
        print("AUTH_POLKIT", json.dumps(hear(client)[:2]))
    # And one that asks twice.
    waiting = next(client for client in clients if client not in answered)
    say(waiting, 70)
    print("twice", json.dumps(hear(waiting)[:2]), flush=True)
    sys.exit()

import libvirt

libvirt.registerErrorHandler(lambda *_: None, None)

if section == "open":
    writer = opened()
    if writer:
        attempt("define", define(writer, "made"))
    reader = opened("open to read", True)
    if reader:
        attempt("list", lambda: sorted(network.name() for network in reader.listAllNetworks()))

if section == "networks":
    connection = opened()
    attempt("list", lambda: sorted(network.name() for network in connection.listAllNetworks()))
    attempt("names", lambda: sorted(connection.listDefinedNetworks()))
    attempt("count", lambda: [connection.numOfNetworks(), connection.numOfDefinedNetworks()])
    attempt("none", lambda: connection.networkLookupByName("none"))
    attempt("hidden", lambda: connection.networkLookupByName("hidden"))
    for name in ["lab", "other"]:
        network = connection.networkLookupByName(name)
        print(name)
        attempt("active", network.isActive)
        attempt("start", network.create)
        attempt("autostart", lambda: network.setAutostart(1))
        attempt("save", lambda: network.update(3, 10, -1, "<host ip='10.0.0.9'><hostname>x</hostname></host>", 2))
        attempt("live", lambda: network.update(3, 10, -1, "<host ip='10.0.0.8'><hostname>y</hostname></host>", 1))
        attempt("port", lambda: network.portCreateXML(PORT, 0).UUIDString())
        attempt("ports", lambda: len(network.listAllPorts()))
        attempt("stop", network.destroy)
    attempt("define lab", define(connection, "lab"))
    attempt("define new", define(connection, "new"))
    attempt("undefine", connection.networkLookupByName("other").undefine)

if section == "events":
    libvirt.virEventRegisterDefaultImpl()
    connection = opened()
    heard = []
    connection.networkEventRegisterAny(
        None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, lambda _, network, event, *rest: heard.append(network.name()), None
    )
    print("listening", flush=True)
    while "lab" not in heard:
        libvirt.virEventRunDefaultImpl()
    print("heard", json.dumps(heard))

if section == "interfaces":
    connection = opened("open to read", True, "interface", "virtinterfaced")
    attempt("list", lambda: sorted(interface.name() for interface in connection.listAllInterfaces()))
    attempt("seen", lambda: connection.interfaceLookupByName("brseen").isActive())
    attempt("hidden", lambda: connection.interfaceLookupByName("brhidden"))
    attempt("none", lambda: connection.interfaceLookupByName("none"))

if section == "devices":
    connection = opened("open to read", True, "nodedev", "virtnodedevd")
    attempt("list", lambda: sorted(device.name() for device in connection.listAllDevices()))
    attempt("names", lambda: sorted(connection.listDevices(None)))
    attempt("count", lambda: connection.numOfDevices(None))
    attempt("computer", lambda: connection.nodeDeviceLookupByName("computer"))
    attempt("none", lambda: connection.nodeDeviceLookupByName("none"))
