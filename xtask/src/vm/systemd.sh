#!/bin/bash
# The units of dist/systemd under a running systemd. As PID 1 of the virtual machine this script hands over to systemd,
# which runs it again as a service; then it installs the daemon as docs/install.md says, and looks.
# @DIR@ is the lane's directory, @ROOT@ the workspace, @PROGRAMS@ where its programs were built.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
dir='@DIR@' root='@ROOT@' programs='@PROGRAMS@'

if [ $$ -eq 1 ]; then
    mkdir -p /lib/modules
    ln -sfn "$dir/kernel/lib/modules/$(uname -r)" "/lib/modules/$(uname -r)"
    # What the host has enabled is out of sight, and of what comes with systemd only its log is started.
    mount -t tmpfs tmpfs /etc/systemd
    mount -t tmpfs tmpfs /lib/systemd/system-generators
    mkdir -p /etc/systemd/system
    for unit in /lib/systemd/system/{sysinit,local-fs,timers}.target.wants/*; do
        case $unit in
        *journald*) ;;
        *) ln -s /dev/null "/etc/systemd/system/${unit##*/}" ;;
        esac
    done
    cat >/etc/systemd/system/default.target <<UNIT
[Unit]
Requires=lane.service
UNIT
    cat >/etc/systemd/system/lane.service <<UNIT
[Service]
Type=oneshot
ExecStart=/bin/bash $dir/guest.sh
StandardOutput=tty
TTYPath=/dev/ttyS0
UNIT
    # A first boot asks questions; and this is no container, whatever the host is.
    [ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
    rm -f /.dockerenv
    exec /lib/systemd/systemd --show-status=no
fi

passed=0 failed=0
# check WHAT COMMAND...: what COMMAND says is shown if it fails.
check() {
    local what=$1
    shift
    if "$@" >/run/output 2>&1; then
        passed=$((passed + 1))
        echo "VM PASS systemd: $what ($SECONDS s)"
    else
        failed=$((failed + 1))
        echo "VM FAIL systemd: $what: $*"
        tail -c 4000 /run/output
    fi
}
is() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'" && false; }; }
quiet() {
    local said
    said=$("$@" 2>&1) && [ -z "$said" ] || { echo "$said" && false; }
}
state() { systemctl is-active "patchcordd.$1"; }
property() { systemctl show --value -p "$1" patchcordd.service; }
# What has to outlive the daemon: the bridge, its ports, and dnsmasq, by their numbers.
kept() {
    cat /sys/class/net/virbr0/ifindex
    pidof dnsmasq
    ip -o link show master virbr0 | cut -d: -f1,2
}
restarted() {
    local end=$((SECONDS + 60))
    until [ "$(state service)" = active ] && [ "$(property MainPID)" != "$1" ]; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.5
    done
}
guest_reaches_its_gateway() {
    local answer
    echo 'ping 192.0.2.1' >&"${guest[1]}"
    IFS= read -r -t 20 answer <&"${guest[0]}" && echo "$answer" && [[ $answer == *answered* ]]
}
plugged() { patchcord nic list | tee /dev/stderr | grep -q "$1.*plugged"; }

# Installation
modprobe -a tun nf_tables bridge
install -m 755 "$programs/patchcordd" /usr/sbin/
install -m 755 "$programs/patchcord" /usr/bin/
install -D -m 644 "$root/dist/systemd/patchcord.sysusers" /usr/lib/sysusers.d/patchcord.conf
install -D -m 644 "$root/dist/systemd/patchcord.tmpfiles" /usr/lib/tmpfiles.d/patchcord.conf
install -D -m 644 -t /usr/lib/systemd/system "$root"/dist/systemd/patchcordd*.{service,socket}
units=(patchcordd.service patchcordd.socket patchcordd-libvirt{,-interface,-nodedev}{,-ro}.socket)
check 'sysusers knows the group' systemd-sysusers patchcord.conf
check 'the group is there' getent group patchcord
check 'tmpfiles knows the directories' systemd-tmpfiles --create patchcord.conf
check 'the units have no fault' quiet systemd-analyze verify "${units[@]}"
check 'the units are enabled' systemctl --no-reload -q enable "${units[@]}"
systemctl daemon-reload

# Socket activation
check 'the sockets are started' systemctl start "${units[@]:1}"
check 'the daemon is not' is "$(state service)" inactive
check 'a client starts it' setpriv --reuid=65534 --regid=65534 --clear-groups patchcord network list
check 'the daemon runs' is "$(state service)" active
check 'libvirt.s clients find it' virsh -q -c network:///system net-list --all
check 'they find node devices' virsh -q -c nodedev:///system nodedev-dumpxml computer
check 'and interfaces' is "$(virsh -c interface:///system uri)" interface:///system
check 'they may write as its group' is "$(stat -c '%a %G' /run/libvirt/virtnetworkd-sock)" '660 patchcord'
check 'everybody may read' setpriv --reuid=65534 --regid=65534 --clear-groups virsh -q -r -c network:///system net-list --all
check 'with two capabilities' grep -q '^CapEff:.*0000003000$' "/proc/$(property MainPID)/status"

# A guest that holds its tap, and a NIC whose tap only the daemon holds
cat >/run/lab.xml <<XML
<network><name>lab</name><forward mode='nat'/><bridge name='virbr0' stp='off'/><ip address='192.0.2.1' prefix='24'>
<dhcp><range start='192.0.2.50' end='192.0.2.99'/></dhcp></ip></network>
XML
echo "<interface type='network'><source network='lab'/></interface>" >/run/nic.xml
check 'a network is defined' patchcord network define /run/lab.xml
check 'a network is started' patchcord network start lab
coproc guest { exec patchcord run --guest web --nic network=lab -- "$programs/patchcord-guest" '{fd0}' '{mac0}' --name web; }
IFS= read -r -t 60 lease <&"${guest[0]}"
check 'a guest has a lease' grep -F 192.0.2. <<<"$lease"
check 'a NIC is attached' patchcord nic attach --guest idle /run/nic.xml
check 'systemd keeps a descriptor of each' is "$(property NFileDescriptorStore)" 2

before=$(kept) daemon=$(property MainPID)
check 'a restart' systemctl restart patchcordd.service
check 'is another process' restarted "$daemon"
check 'bridge, taps and dnsmasq are the same' is "$(kept)" "$before"
check 'the guest reaches its gateway' guest_reaches_its_gateway
check 'the other NIC is plugged' plugged idle
check 'both descriptors are kept' is "$(property NFileDescriptorStore)" 2

daemon=$(property MainPID)
kill -KILL "$daemon"
check 'a daemon that is killed is started again' restarted "$daemon"
check 'bridge, taps and dnsmasq are still the same' is "$(kept)" "$before"

before=$(head -n 2 <<<"$before") # systemd keeps nothing over a stop
check 'a stop' systemctl stop "${units[@]}"
check 'ends the daemon and its helper' is "$(pidof patchcordd)" ''
check 'bridge and dnsmasq outlive it' is "$(kept | sed -n 1,2p)" "$before"
check 'the guest reaches its gateway meanwhile' guest_reaches_its_gateway
check 'a start' systemctl start patchcordd.service
check 'bridge and dnsmasq are taken over' is "$(kept | sed -n 1,2p)" "$before"
check 'the guest is plugged' plugged web
check 'the guest reaches its gateway afterwards' guest_reaches_its_gateway
echo quit >&"${guest[1]}"
check 'a network is stopped' patchcord network stop lab
check 'its dnsmasq ends' is "$(pidof dnsmasq)" ''
check 'nothing was complained of' quiet sh -c 'journalctl -u patchcordd.service -o cat | grep -E " (WARN|ERROR) " || true'
check 'the exposure is known' systemd-analyze security --no-pager patchcordd.service
tail -n 1 /run/output
[ $failed -eq 0 ] || journalctl -u patchcordd.service --no-pager | tail -n 100

echo "LANE passed=$passed failed=$failed"
echo "LANE rc=$((failed > 0))"
echo o >/proc/sysrq-trigger
sleep 60
