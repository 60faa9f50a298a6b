//! The part of the story about devices: a pool is shared, another runs out, and a guest moves.

use super::cast::Cast;
use super::stage::Stage;
use crate::Result;

/// The host's devices, which lead to a switch with a server behind it (RFC 5737).
pub(super) const DEVICES: [&str; 4] = ["eth1", "eth2", "eth3", "eth4"];
const SERVER: &str = "192.0.2.1";

/// The switch, in a namespace of its own.
fn switch(stage: &Stage<'_>) -> Result<()> {
    stage.other("ip netns add lan")?;
    stage.quiet("ip -n lan link add fabric address 52:54:00:99:00:01 type bridge")?;
    stage.quiet("ip -n lan link set fabric up")?;
    stage.quiet(&format!("ip -n lan address add {SERVER}/24 dev fabric"))?;
    for (n, device) in DEVICES.iter().enumerate() {
        stage.other(&format!("ip link add {device} type veth peer name p{n} netns lan"))?;
        stage.quiet(&format!("ip link set {device} up"))?;
        stage.quiet(&format!("ip -n lan link set p{n} up master fabric"))?;
    }
    Ok(())
}

/// Tells it; gives the networks that it started, with their files.
pub(super) fn tell(stage: &mut Stage<'_>, cast: &mut Cast) -> Result<Vec<(String, String)>> {
    stage.act("Devices of the host's are shared out, and run out");
    switch(stage)?;
    let mut networks = Vec::new();
    for (name, file) in [("pool", "examples/pool.xml"), ("alone", "examples/passthrough.xml")] {
        stage.show(&format!("network define {file}"))?;
        stage.show(&format!("network start {name}"))?;
        networks.push((name.to_owned(), file.to_owned()));
    }
    for (n, guest) in (11..).zip(["one", "two", "three"]) {
        cast.by_descriptor(stage, guest, "pool", &format!("--static 192.0.2.{n}/24,{SERVER}"))?;
    }
    for (n, guest) in (21..).zip(["four", "five"]) {
        cast.by_descriptor(stage, guest, "alone", &format!("--static 192.0.2.{n}/24,{SERVER}"))?;
    }
    stage.show("device list")?;
    let devices = stage.json("device list")?;
    let loads: Vec<usize> = devices.as_array().into_iter().flatten().map(held_by).collect();
    stage.check(loads == [2, 1, 1, 1], "the pool is shared evenly, and each of the others has a device for itself")?;
    for guest in ["one", "five"] {
        let answers = cast.guest(guest)?.ask(&format!("ping {SERVER}"))?.is_ok();
        stage.check(answers, &format!("{guest} reaches the server by its device"))?;
    }
    let refused = stage.refused("nic attach --guest six examples/nic-alone.xml")?;
    let names_all = ["eth3", "eth4", "four", "five"].iter().all(|word| refused.contains(word));
    stage.check(names_all, "a sixth guest gets none, and is told who has them")?;
    let nic = stage.nic("one")?;
    let id = nic["id"].as_str().unwrap_or_default();
    let elsewhere = stage.root.join("elsewhere.xml");
    std::fs::write(&elsewhere, "<interface type='network'><source network='office'/></interface>\n")?;
    stage.show(&format!("nic modify {id} {}", elsewhere.display()))?;
    let moved = stage.nic("one")?;
    stage.check(moved["actual"]["bridge"] == "br0", "a guest moves from its device into a bridge")?;
    stage.check(moved["actual"]["tap"] == nic["actual"]["tap"], "with the tap that it had")?;
    Ok(networks)
}

fn held_by(device: &serde_json::Value) -> usize {
    device["holders"].as_array().map_or(0, Vec::len)
}
