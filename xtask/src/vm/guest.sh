#!/bin/bash
# PID 1 of the virtual machine: runs each test of the list in a process of its own, as nextest does,
# and reports on the console. PID 1 must not return: the last lines power the machine off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export STRICT=1 RUST_BACKTRACE=1 NEXTEST=1
dir='@DIR@'

mkdir -p /lib/modules /run/netns /run/lock /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Before any modprobe: the kernel loads on demand only what it finds below this link.
ln -sfn "$dir/kernel/lib/modules/$(uname -r)" "/lib/modules/$(uname -r)"
# Nothing can load these two on demand: their device nodes come with them.
modprobe -a tun vhost_net
# The rest would be loaded on demand; by name it costs no test its time, and a missing one is seen.
modprobe -a crc32c_generic libcrc32c nfnetlink nf_tables
modprobe -a 8021q bridge veth dummy macvtap ifb sch_htb sch_ingress cls_u32 cls_matchall cls_flower
modprobe -a act_mirred act_police
modprobe bonding max_bonds=0
modprobe netdevsim
ip link set lo up

passed=0 failed=0
while IFS=$'\t' read -r binary directory id name; do
    export CARGO_MANIFEST_DIR=$directory NEXTEST_BINARY_ID=$id NEXTEST_TEST_NAME=$name
    start=$SECONDS
    (cd "$directory" && exec timeout -k 5 300 "$binary" --exact "$name" --nocapture) \
        </dev/null >/run/output 2>&1
    rc=$?
    # A name that matches no test would pass otherwise.
    if [ $rc -eq 0 ] && grep -q '^test result: ok. 1 passed' /run/output; then
        passed=$((passed + 1))
        echo "VM PASS $id $name ($((SECONDS - start)) s)"
    else
        failed=$((failed + 1))
        echo "VM FAIL $id $name (exit status $rc, $((SECONDS - start)) s)"
        tail -c 20000 /run/output
    fi
done <"$dir/tests"

echo "LANE passed=$passed failed=$failed"
echo "LANE rc=$((failed > 0))"
echo o >/proc/sysrq-trigger
sleep 60
