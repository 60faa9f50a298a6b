import json
import socket


class Patchcord:
    """Calls of org.patchcord.Switch: JSON with a NUL byte behind each message."""

    def __init__(self, path="/run/patchcord/patchcord.sock"):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.buffer = b""
        self.fds = []

    def send(self, method, more=False, **parameters):
        call = {"method": "org.patchcord.Switch." + method, "parameters": parameters}
        if more:
            call["more"] = True
        self.socket.sendall(json.dumps(call).encode() + b"\0")

    def reply(self):
        while b"\0" not in self.buffer:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 253)
            if not data:
                raise ConnectionError("the daemon closed the connection")
            self.buffer += data
            self.fds += fds
        message, self.buffer = self.buffer.split(b"\0", 1)
        answer = json.loads(message)
        if "error" in answer:
            raise RuntimeError(answer["error"], answer.get("parameters"))
        return answer["parameters"]

    def call(self, method, **parameters):
        self.send(method, **parameters)
        return self.reply()


if __name__ == "__main__":
    import sys

    switch = Patchcord(*sys.argv[1:])
    for network in switch.call("ListNetworks")["networks"]:
        print(network["name"], network["mode"], "active" if network["active"] else "inactive")

    nic = "<interface type='network'><source network='nat'/></interface>"
    reply = switch.call("AttachNIC", guest="python", xml=nic, fetch=True)
    tap = switch.fds[reply["fds"][0]]
    print(reply["nic"]["id"], reply["nic"]["state"], reply["nic"]["actual"]["tap"], "descriptor", tap)
    switch.call("DetachNIC", id=reply["nic"]["id"])

    try:
        switch.call("StartNetwork", name="nosuch")
    except RuntimeError as error:
        print(error)

    switch.send("Monitor", more=True)
    print(switch.reply()["kind"])
