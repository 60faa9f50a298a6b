//! The story: what is shown, in order.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::cast::Cast;
use super::devices::{self, DEVICES};
use super::stage::{Lines, SOON, Stage};
use crate::Result;
use crate::workspace::Workspace;

const PROGRAMS: [&str; 5] = ["patchcordd", "patchcord", "patchcord-qemu-helper", "patchcord-guest", "patchcord-xtask"];

/// The host's address on its uplink, and that of a host beyond (RFC 5737).
const UPLINK: &str = "203.0.113.1";
const OUTSIDE: &str = "203.0.113.2";
/// Where that host listens.
const PORT: &str = "7";

/// The third stage: tells the story, or says where it went wrong.
pub(super) fn tell(ws: &Workspace, machines: bool) -> Result<()> {
    let mut stage = Stage::set(ws, &PROGRAMS)?;
    let told = acts(&mut stage, machines);
    if told.is_err() {
        println!("\nThe daemon said:\n{}", std::fs::read_to_string(stage.log()).unwrap_or_default());
    }
    told
}

/// The world around the daemon, and what watches it.
struct World {
    cast: Cast,
    outside: Lines,
    /// The networks, by the files that define them.
    networks: Vec<(String, String)>,
    machines: bool,
}

fn acts(stage: &mut Stage<'_>, machines: bool) -> Result<()> {
    stage.act("A host with an uplink and a bridge of its own, in a private network namespace");
    println!("  (--root {} of each command is left out below)", stage.root.display());
    let outside = surroundings(stage)?;
    let mut world = World { cast: Cast::set(stage, machines)?, outside, networks: Vec::new(), machines };
    networks(stage, &mut world)?;
    guests(stage, &mut world)?;
    talk(stage, &mut world)?;
    if !world.machines {
        world.networks.extend(devices::tell(stage, &mut world.cast)?);
    }
    pictures(stage)?;
    crash(stage, &mut world)?;
    third_party(stage, &mut world)?;
    parking(stage, &mut world)?;
    end(stage, world)?;
    let (checks, seconds) = stage.score();
    println!("\nAll {checks} claims hold, shown in {seconds} s.");
    Ok(())
}

/// An uplink to a host outside, which says who connects to it, and a host bridge.
fn surroundings(stage: &mut Stage<'_>) -> Result<Lines> {
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{key}"), "0")?;
    }
    stage.other("ip netns add outside")?;
    stage.other("ip link add uplink0 type veth peer name eth0 netns outside")?;
    stage.other(&format!("ip address add {UPLINK}/24 dev uplink0"))?;
    stage.other("ip link set uplink0 up")?;
    stage.other(&format!("ip route add default via {OUTSIDE}"))?;
    stage.quiet(&format!("ip -n outside address add {OUTSIDE}/24 dev eth0"))?;
    stage.quiet("ip -n outside link set eth0 up")?;
    stage.other("ip link add br0 type bridge")?;
    stage.other("ip address add 198.51.100.1/24 dev br0")?;
    stage.other("ip link set br0 up")?;
    let mut server = stage.ws.command("ip");
    server.args(["netns", "exec", "outside"]).arg(stage.bin.join("patchcord-xtask"));
    server.args(["demo", "--outside", &format!("{OUTSIDE}:{PORT}")]);
    let mut server = server.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let lines = Lines::of(&mut server)?;
    lines.next("outside host", SOON, |line| (line == "ready").then_some(()))?;
    Ok(lines)
}

fn networks(stage: &mut Stage<'_>, world: &mut World) -> Result<()> {
    stage.act("The daemon, and networks from examples/");
    let time = stage.start_daemon()?;
    println!("  serves after {} ms", time.as_millis());
    // Machines under emulation take their time: they show the networks that matter to them.
    let files: &[&str] =
        if world.machines { &["nat", "isolated"] } else { &["nat", "isolated", "portgroups", "host-bridge"] };
    for file in files {
        let path = format!("examples/{file}.xml");
        stage.show(&format!("network define {path}"))?;
        let known: Vec<&String> = world.networks.iter().map(|(name, _)| name).collect();
        let list = stage.json("network list")?;
        let names = list.as_array().into_iter().flatten().filter_map(|network| network["name"].as_str());
        let new = names.map(str::to_owned).find(|name| !known.contains(&name)).ok_or("the network is not listed")?;
        stage.show(&format!("network start {new}"))?;
        world.networks.push((new, path));
    }
    stage.show("network list")?;
    let list = stage.json("network list")?;
    let active = list.as_array().is_some_and(|all| all.iter().all(|network| network["active"] == true));
    stage.check(active, "every network runs")
}

fn guests(stage: &mut Stage<'_>, world: &mut World) -> Result<()> {
    stage.act("Guests are plugged in");
    let cast = &mut world.cast;
    cast.by_name(stage, "web", "examples/nic-network.xml", "--ping gateway")?;
    cast.by_descriptor(stage, "db", "nat", "--ping gateway")?;
    if world.machines {
        cast.by_helper(stage, "cache", "nat", "52:54:00:00:15:03")?;
    } else {
        cast.by_descriptor(stage, "cache", "nat", "")?;
        cast.by_descriptor(stage, "ann", "lab", "")?;
        cast.by_descriptor(stage, "bob", "lab", "")?;
        cast.by_descriptor(stage, "desk", "office", "--static 198.51.100.9/24,198.51.100.1")?;
    }
    cast.by_descriptor(stage, "vault", "isolated", "")?;
    println!("...and get their addresses:");
    cast.leased()?;
    let web = cast.address("web")?;
    stage.check(web == "192.168.151.2", "web has the address that the network reserves for it")?;
    stage.show("network leases nat")?;
    Ok(())
}

fn talk(stage: &mut Stage<'_>, world: &mut World) -> Result<()> {
    stage.act("They reach what they should, and nothing else");
    let cast = &mut world.cast;
    let (db, cache, web) = (cast.address("db")?, cast.address("cache")?, cast.address("web")?);
    let answers = cast.guest("web")?.ask(&format!("ping {db}"))?.is_ok();
    stage.check(answers, "guests of a network reach each other")?;
    let answers = cast.guest("db")?.ask(&format!("ping {cache}"))?.is_ok();
    stage.check(answers, "however they were plugged in")?;
    let found = cast.guest("web")?.ask("resolve db.nat.example")?;
    stage.check(found == Ok(db), "and know each other by name")?;
    let found = cast.guest("db")?.ask("resolve web.nat.example")?;
    stage.check(found == Ok(web), "also by the name that a definition gives")?;
    translated(stage, world)?;

    let cast = &mut world.cast;
    let lost = cast.guest("vault")?.ask(&format!("ping {OUTSIDE}"))?.is_err();
    stage.check(lost, "an isolated network does not reach the outside")?;
    let answers = cast.guest("vault")?.ask("ping 192.168.150.1")?.is_ok();
    stage.check(answers, "but it reaches the host")?;
    if world.machines {
        return Ok(());
    }
    let bob = cast.address("bob")?;
    let lost = cast.guest("ann")?.ask(&format!("ping {bob}"))?.is_err();
    stage.check(lost, "isolated ports of one network do not reach each other")?;
    let answers = cast.guest("ann")?.ask(&format!("ping {OUTSIDE}"))?.is_ok();
    stage.check(answers, "but they reach the outside")?;
    let answers = cast.guest("desk")?.ask("ping 198.51.100.1")?.is_ok();
    stage.check(answers, "a guest on the host's own bridge reaches that")
}

/// A connection from db to the outside, which tells where it seems to come from.
fn translated(stage: &mut Stage<'_>, world: &mut World) -> Result<()> {
    let back = world.cast.guest("db")?.ask(&format!("tcp {OUTSIDE} {PORT}"))?;
    stage.check(back.is_ok(), "db talks to the host outside")?;
    let seen = world.outside.next("client outside", SOON, |line| Some(line.to_owned()))?;
    println!("  outside: a connection from {seen}");
    stage.check(seen == UPLINK, "which sees the host's address, not the guest's")
}

fn pictures(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("What is plugged where");
    stage.show("nic list")?;
    let picture = stage.ws.target.join("demo/topology.svg");
    stage.show(&format!("topology --svg {}", picture.display()))?;
    let drawn = std::fs::read_to_string(&picture)?.contains("<svg");
    stage.check(drawn, &format!("the same is drawn in {}", picture.display()))
}

fn crash(stage: &mut Stage<'_>, world: &mut World) -> Result<()> {
    stage.act("The daemon is killed in the middle");
    let before = stage.json("nic list")?;
    watch(stage, world)?;
    stage.end_daemon("KILL")?;
    let refused = stage.patchcord(&["network", "list"]).stderr(Stdio::null()).stdout(Stdio::null()).status()?;
    stage.check(!refused.success(), "nobody answers, and guests go on")?;
    std::thread::sleep(Duration::from_secs(1));
    let time = stage.start_daemon()?;
    println!("  serves after {} ms", time.as_millis());
    let after = stage.json("nic list")?;
    stage.check(places(&before) == places(&after), "it knows every NIC, and each is plugged where it was")?;
    std::thread::sleep(Duration::from_secs(1));
    for guest in ["web", "db"] {
        let count = world.cast.guest(guest)?.count()?;
        let claim =
            format!("{guest} lost {} of {} pings; the longest gap was {} ms", count.lost, count.sent, count.gap);
        stage.check(count.lost == 0 && count.sent > 20, &claim)?;
    }
    Ok(())
}

/// web pings its gateway and db the outside, all the time, from now on.
fn watch(stage: &mut Stage<'_>, world: &mut World) -> Result<()> {
    let gateway = world.cast.guest("web")?.ask("watch 192.168.151.1")?.is_ok();
    let outside = world.cast.guest("db")?.ask(&format!("watch {OUTSIDE}"))?.is_ok();
    stage.check(gateway && outside, "web pings its gateway and db the outside, all the time")
}

fn third_party(stage: &mut Stage<'_>, world: &mut World) -> Result<()> {
    stage.act("Somebody else removes what the networks need");
    let mut follow = stage.patchcord(&["events", "--follow"]);
    let mut follow = follow.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let events = Lines::of(&mut follow)?;
    // What it prints first is what there is; only then it has begun to listen.
    events.next("snapshot", SOON, |line| line.contains("networks,").then_some(()))?;
    stage.other("nft flush ruleset")?;
    let event = repair(&events, "rules", |line| line.contains("packet rules") && line.contains("(by nft"))?;
    println!("$ patchcord events --follow\n  {event}");
    let rules = stage.quiet("nft list ruleset")?;
    stage.check(rules.contains("table inet patchcord"), "the packet rules are back")?;
    translated(stage, world)?;

    let bridge = bridge(stage, "nat")?;
    stage.other(&format!("ip link delete {bridge}"))?;
    let event = repair(&events, "bridge", |line| line.contains("bridge") && line.contains("'nat'"))?;
    println!("$ patchcord events --follow\n  {event}");
    stage.check_soon("the bridge is back, with its NICs", |stage| {
        let ports = stage.quiet("ip -o link show")?;
        let ours = format!("master {bridge} ");
        Ok(ports.lines().filter(|line| line.contains(&ours)).count() == 3)
    })?;
    follow.kill()?;
    follow.wait()?;
    answer_again(stage, world)
}

/// The next line of the events that tells of a repair.
fn repair(events: &Lines, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let pick = |line: &str| (line.contains("repaired") && wanted(line)).then(|| line.to_owned());
    events.next(&format!("event that tells of the repair of the {what}"), SOON, pick)
}

fn parking(stage: &mut Stage<'_>, world: &mut World) -> Result<()> {
    stage.act("A network stops and starts under its guests");
    stage.show("network stop nat")?;
    stage.show("nic list")?;
    let parked = states(stage, "nat")?;
    stage.check(parked.len() == 3 && parked.iter().all(|state| state == "parked"), "its NICs are parked")?;
    let lost = world.cast.guest("db")?.ask("ping 192.168.151.1")?.is_err();
    stage.check(lost, "and its guests reach nothing")?;
    stage.show("network start nat")?;
    stage.check_soon("its NICs are plugged in again", |stage| {
        Ok(states(stage, "nat")?.iter().all(|state| state == "plugged"))
    })?;
    answer_again(stage, world)
}

/// Waits until the guests reach what they did, and says for how long one of them did not.
fn answer_again(stage: &mut Stage<'_>, world: &mut World) -> Result<()> {
    println!("  (a bridge with STP, as these have by default, lets traffic through four seconds after a port joins)");
    for (guest, target) in [("web", "192.168.151.1"), ("db", OUTSIDE)] {
        let guest_is_back = |world: &mut World| -> Result<bool> {
            for _ in 0..10 {
                if world.cast.guest(guest)?.ask(&format!("ping {target}"))?.is_ok() {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let back = guest_is_back(world)?;
        stage.check(back, &format!("{guest} reaches {target} again"))?;
    }
    world.cast.guest("db")?.count()?;
    Ok(())
}

fn end(stage: &mut Stage<'_>, mut world: World) -> Result<()> {
    stage.act("The end");
    println!("The guests' programs end, and their NICs with them:");
    world.cast.quit()?;
    stage.check_soon("no NIC is left", |stage| Ok(stage.json("nic list")?.as_array().is_some_and(Vec::is_empty)))?;
    for (name, _) in &world.networks {
        stage.show(&format!("network stop {name}"))?;
        stage.show(&format!("network undefine {name}"))?;
    }
    stage.check_soon("every link that was made is gone", |stage| {
        let links = stage.quiet("ip -o link show")?;
        let names = links.lines().filter_map(|line| line.split(": ").nth(1));
        let mut names: Vec<&str> = names.map(|name| name.split('@').next().unwrap_or(name)).collect();
        names.sort_unstable();
        let devices = DEVICES.iter().filter(|_| !world.machines).copied();
        let mut host: Vec<&str> = ["br0", "lo", "uplink0"].into_iter().chain(devices).collect();
        host.sort_unstable();
        Ok(names == host)
    })?;
    stage.end_daemon("TERM")?;
    stage.check_soon("no process is left", |_| Ok(processes()?.is_empty()))?;
    let rules = stage.quiet("nft list ruleset")?;
    stage.check(rules.trim().is_empty(), "no packet rule is left")?;
    let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?;
    stage.check(forwarding.trim() == "0", "forwarding is off, as it was")?;
    let left = ["networks", "nics", "ports"].iter().filter_map(|of| {
        std::fs::read_dir(stage.root.join("run/patchcord").join(of)).ok()?.flatten().map(|entry| entry.path()).next()
    });
    let left: Vec<_> = left.collect();
    stage.check(left.is_empty(), "and no record")
}

/// Which processes of ours there are.
fn processes() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        // A process may end meanwhile.
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        // The kernel keeps 15 bytes of it.
        if ["dnsmasq", "patchcordd", "patchcord-guest", "qemu-system-x86"].contains(&name.trim()) {
            found.push(name);
        }
    }
    Ok(found)
}

/// Who is plugged where, in the order of the list.
fn places(nics: &Value) -> Vec<[String; 4]> {
    let all = nics.as_array().into_iter().flatten();
    all.map(|nic| [&nic["id"], &nic["state"], &nic["actual"]["tap"], &nic["actual"]["bridge"]].map(Value::to_string))
        .collect()
}

/// The states of a network's NICs.
fn states(stage: &Stage<'_>, network: &str) -> Result<Vec<String>> {
    let nics = stage.json("nic list")?;
    let all = nics.as_array().into_iter().flatten().filter(|nic| nic["network"] == network);
    Ok(all.filter_map(|nic| nic["state"].as_str().map(str::to_owned)).collect())
}

/// The bridge of a network.
fn bridge(stage: &Stage<'_>, network: &str) -> Result<String> {
    let list = stage.json("network list")?;
    let found = list.as_array().and_then(|all| all.iter().find(|one| one["name"] == network));
    let bridge = found.and_then(|network| network["bridge"].as_str());
    bridge.map(str::to_owned).ok_or_else(|| format!("network '{network}' has no bridge").into())
}
