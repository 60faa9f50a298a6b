"""virt-manager's library against the daemon of networks: virt_manager.py URI

It lists networks as its window does, reads what they are, and makes one as its assistant does.
"""

import sys

import virtinst
from virtinst import pollhelpers


class NetworksVirtinstConnection(virtinst.VirtinstConnection):
    """One to a daemon that runs no guests: virt-manager reaches it through one that does. The library looks at its name."""

    def _get_caps(self):
        return None


def same(what, found, expected):
    assert found == expected, f"{what}: {found!r} instead of {expected!r}"


def networks(conn, known):
    gone, new, now = pollhelpers.fetch_nets(conn, dict(known), lambda network, _: network)
    return {network.name(): network for network in now}, [n.name() for n in gone], sorted(n.name() for n in new)


conn = NetworksVirtinstConnection(sys.argv[1])
conn.open(None, None)
assert conn.support.conn_network()

known, gone, new = networks(conn, {})
same("at first", (gone, new), ([], ["lab", "pool"]))

lab = virtinst.Network(conn, known["lab"].XMLDesc(0))
same("lab", (lab.name, lab.forward.mode, lab.bridge, lab.can_pxe()), ("lab", "nat", "virbr7", False))
same("its addresses", [(ip.address, ip.netmask) for ip in lab.ips], [("10.77.0.1", "255.255.255.0")])
same("its range", [(r.start, r.end) for r in lab.ips[0].ranges], [("10.77.0.2", "10.77.0.99")])
pool = virtinst.Network(conn, known["pool"].XMLDesc(0))
same("pool", (pool.forward.mode, pool.forward.dev, pool.bridge), ("vepa", "wire0", None))

# What the assistant for new networks does.
fresh = virtinst.Network(conn)
fresh.name = "fresh"
fresh.domain_name = "fresh"
fresh.forward.mode = "route"
ip = fresh.ips.add_new()
ip.address, ip.netmask = "10.78.0.1", "255.255.255.0"
dhcp = ip.ranges.add_new()
dhcp.start, dhcp.end = "10.78.0.128", "10.78.0.254"
made = conn.networkDefineXML(fresh.get_xml())
made.create()
made.setAutostart(True)
known, gone, new = networks(conn, known)
same("then", (gone, new), ([], ["fresh"]))
shown = virtinst.Network(conn, known["fresh"].XMLDesc(0))
same("fresh", (shown.forward.mode, shown.domain_name, shown.bridge), ("route", "fresh", made.bridgeName()))

# A name that is taken is found out before a guest is made.
interface = virtinst.DeviceInterface(conn)
interface.type = "network"
interface.source = "fresh"
assert "<source network=\"fresh\"/>" in interface.get_xml(), interface.get_xml()

made.destroy()
made.undefine()
_, gone, new = networks(conn, known)
same("at last", (gone, new), (["fresh"], []))
