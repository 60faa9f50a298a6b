//! `patchcord import`, as its users meet it.

#![allow(clippy::unwrap_used)]

mod common;

use common::TestEnv;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

const UUID: &str = "2073f403-bca6-40a6-8b64-0ba2977708dc";

/// libvirt's files, of one network that is stopped and one that nobody can read.
fn with_libvirts_files() -> TestEnv {
    let env = TestEnv::new();
    fs::create_dir_all(env.path("etc/libvirt/qemu/networks/autostart")).unwrap();
    let definition = format!(
        "<network><name>old</name><uuid>{UUID}</uuid><bridge name='virbr0' stp='on' delay='0'/>\
         <mac address='52:54:00:18:6f:74'/><ip address='192.168.122.1' netmask='255.255.255.0'/></network>"
    );
    let file = env.write("etc/libvirt/qemu/networks/old.xml", &definition);
    symlink(file, env.path("etc/libvirt/qemu/networks/autostart/old.xml")).unwrap();
    env
}

#[test]
fn networks_come_and_go_as_the_table_says() {
    let env = with_libvirts_files();
    let autostart = env.path("etc/libvirt/qemu/networks/autostart/old.xml");
    assert!(env.ok(&["import", "libvirt", "--dry-run"]).contains("would be taken over"));
    assert!(env.ok(&["network", "list"]).lines().count() == 1 && autostart.exists(), "nothing was done");

    let done = env.json(&["import", "libvirt"]);
    let expected = json!([{
        "name": "old", "uuid": UUID, "done": true, "cause": null, "active": false, "autostart": true,
        "bridge": "virbr0", "ports": 0, "warnings": []
    }]);
    assert_eq!(done, expected);
    let networks = env.json(&["network", "list"]);
    assert_eq!((&networks[0]["uuid"], &networks[0]["autostart"]), (&json!(UUID), &json!(true)));
    assert!(!autostart.exists(), "libvirt's daemon must not start it as well");
    assert!(env.ok(&["import", "libvirt"]).contains("taken over"), "a second time is as good");

    // What was changed since goes back as it is now.
    env.ok(&["network", "autostart", "old", "--off"]);
    env.lab();
    let back = env.ok(&["import", "libvirt", "--undo"]);
    assert!(back.lines().filter(|line| line.ends_with("handed back")).count() == 2, "{back}");
    assert_eq!(env.json(&["network", "list"]), json!([]));
    assert!(fs::read_to_string(env.path("etc/libvirt/qemu/networks/lab.xml")).unwrap().contains("<name>lab</name>"));
    assert!(fs::read_to_string(env.path("run/libvirt/network/lab.xml")).unwrap().contains("<networkstatus>"));
    assert!(!autostart.exists());
    assert_eq!(env.ok(&["import", "libvirt", "--undo"]), "there are no networks\n");
}

#[test]
fn what_is_left_is_named_with_its_cause() {
    let env = with_libvirts_files();
    env.write("etc/libvirt/qemu/networks/broken.xml", "<network><name>broken</name>");
    env.ok(&["network", "define", common::path(&env.write("n.xml", "<network><name>old</name></network>"))]);
    let ended = env.run(&["import", "libvirt"]);
    assert_eq!(ended.status, 1);
    assert!(ended.stderr.contains("2 of 2 networks were not taken over"), "{}", ended.stderr);
    assert!(ended.stdout.contains("left: it is defined already, with UUID"), "{}", ended.stdout);
    assert!(ended.stdout.lines().any(|line| line.starts_with("broken") && line.contains("left: ")), "{}", ended.stdout);

    let held = TestEnv::new();
    held.lab();
    let nic = held.write("nic.xml", "<interface type='network'><source network='lab'/></interface>");
    held.ok(&["nic", "attach", "--guest", "web", common::path(&nic)]);
    let ended = held.run(&["import", "libvirt", "--undo"]);
    assert!(ended.status == 1 && ended.stdout.contains("nothing of the NICs that are attached to it, of web"));
    assert!(held.ok(&["network", "list"]).contains("active"), "it is there still");
}

/// Commands of ours that a page of the documents shows, without comments.
fn shown(page: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap_or_default());
    let lines = blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("patchcord "));
    lines.map(|line| line.split('#').next().unwrap_or_default().trim().to_owned()).collect()
}

#[test]
fn what_the_documents_show_takes_networks_over_and_hands_them_back() {
    for page in ["import-modular.md", "import-monolithic.md"] {
        let env = with_libvirts_files();
        let commands = shown(page);
        assert!(commands.len() == 4, "{page}: {commands:?}");
        let mut seen = Vec::new();
        for command in commands {
            env.ok(&command.split_whitespace().collect::<Vec<_>>());
            seen.push(env.json(&["network", "list"]).as_array().unwrap().len());
        }
        assert_eq!(seen, [0, 1, 1, 0], "{page}: networks after each command");
    }
}
