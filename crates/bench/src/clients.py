"""The same work through libvirt's Python binding, on two daemons in turn: clients.py ROUNDS NETWORKS PORTS,... URI URI

Prints a line for each kind of work: its name, a tab, and how long each round took with the one and with the other, in
microseconds.
"""

import sys
import time

import libvirt

ROUNDS, NETWORKS = int(sys.argv[1]), int(sys.argv[2])
PORTS = [int(count) for count in sys.argv[3].split(",")]
DAEMONS = [libvirt.open(uri) for uri in sys.argv[4:6]]


def timed(action, *arguments):
    begun = time.perf_counter_ns()
    value = action(*arguments)
    return (time.perf_counter_ns() - begun) / 1e3, value


def tell(work, times):
    print(work, *(" ".join(f"{t:.1f}" for t in of) for of in times), sep="\t", flush=True)


def in_turn(rounds, *works):
    """Works are names and what is done, with the daemon's number and the round's; each is done on both in each round."""
    times = {name: ([], []) for name, _ in works}
    for number in range(rounds):
        for daemon in (0, 1):
            for name, action in works:
                took, _ = action(daemon, number)
                times[name][daemon].append(took)
    for name, _ in works:
        tell(name, times[name])


def isolated(name, number):
    return (
        f"<network><name>{name}</name><bridge name='br{number}'/><dns enable='no'/>"
        f"<ip address='10.{number // 200}.{number % 200}.1' netmask='255.255.255.0'/></network>"
    )


def nat(name, number):
    subnet = f"10.{number // 200}.{number % 200}"
    return (
        f"<network><name>{name}</name><forward mode='nat'/><bridge name='br{number}'/>"
        f"<ip address='{subnet}.1' netmask='255.255.255.0'>"
        f"<dhcp><range start='{subnet}.2' end='{subnet}.254'/></dhcp></ip></network>"
    )


def port(number):
    a, b, c = number.to_bytes(3, "big")
    return (
        f"<networkport><uuid>{uuid(number)}</uuid><owner><name>g{number}</name><uuid>{uuid(number)}</uuid></owner>"
        f"<mac address='52:54:00:{a:02x}:{b:02x}:{c:02x}'/></networkport>"
    )


def uuid(number):
    return f"5a5a5a5a-0000-4000-8000-{number:012}"


def lives():
    for kind, xml in [("isolated", isolated), ("NAT with DHCP", nat)]:
        networks = [None, None]

        def define(daemon, number):
            took, networks[daemon] = timed(DAEMONS[daemon].networkDefineXML, xml(f"n{daemon}", 10 + daemon))
            return took, None

        of = lambda name: lambda daemon, _: timed(getattr(networks[daemon], name))
        works = [(f"define, {kind}", define), (f"start, {kind}", of("create"))]
        works += [(f"XML of one that runs, {kind}", of("XMLDesc"))]
        works += [(f"stop, {kind}", of("destroy")), (f"undefine, {kind}", of("undefine"))]
        in_turn(ROUNDS, *works)


def lists():
    networks = [[conn.networkDefineXML(isolated(f"l{n}", 100 + n)) for n in range(NETWORKS)] for conn in DAEMONS]
    in_turn(
        ROUNDS,
        (f"list {NETWORKS} networks", lambda daemon, _: timed(DAEMONS[daemon].listAllNetworks)),
        (f"look up one of {NETWORKS}", lambda daemon, n: timed(DAEMONS[daemon].networkLookupByName, f"l{n % NETWORKS}")),
        (f"XML of one of {NETWORKS}", lambda daemon, n: timed(networks[daemon][n % NETWORKS].XMLDesc)),
    )
    for network in networks[0] + networks[1]:
        network.undefine()


def ports():
    networks = [conn.networkCreateXML(isolated("ports", 9)) for conn in DAEMONS]
    there = 0
    for count in PORTS:
        for network in networks:
            for number in range(there, count):
                network.portCreateXML(port(number))
        there = count
        made = [None, None]

        def create(daemon, number):
            took, made[daemon] = timed(networks[daemon].portCreateXML, port(count + number))
            return took, None

        works = [(f"create a port beside {count}", create)]
        works += [(f"XML of a port beside {count}", lambda daemon, _: timed(made[daemon].XMLDesc))]
        works += [(f"delete a port beside {count}", lambda daemon, _: timed(made[daemon].delete))]
        in_turn(ROUNDS * 10, *works)
    for network in networks:
        network.destroy()


lives()
lists()
ports()
