//! The command line, as its users meet it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{TestEnv, ended, path};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

#[test]
fn help_is_what_it_was() {
    let env = TestEnv::new();
    insta::assert_snapshot!(env.ok(&["--help"]), @r"
    Logical switches for virtual machines: networks that guests name, and the NICs plugged into them

    Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 not found, 4 in conflict or in use, 5 failed and not put back entirely.

    Usage: patchcord [OPTIONS] <COMMAND>

    Commands:
      network      Define, start, change and show networks [alias: net]
      nic          Attach, change and show guests' NICs
      device       Show the host's devices that networks share out
      run          Run a program with NICs that live as long as it does
      import       Take networks over from other programs, as they run
      events       Show what there is, and with --follow what happens
      topology     Show what is plugged where
      completions  Print a shell's completions
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Global options:
          --root <DIR>
              The daemon's root directory [default: /]

          --socket <PATH>
              The daemon's socket [default: run/patchcord/patchcord.sock below the root]

          --json
              Print one JSON document instead of text
    ");
    insta::assert_snapshot!(env.ok(&["network", "--help"]), @r"
    Define, start, change and show networks

    Usage: patchcord network [OPTIONS] <COMMAND>

    Commands:
      define     Store a network's definition
      list       List networks; with options, those that fit all of them
      show       Print a network's XML, or with --json what is known of it
      start      Start a network
      stop       Stop a network; its NICs stay and are plugged in again when it starts
      undefine   Forget a network's definition
      autostart  Start a network whenever the daemon starts
      update     Change one part of a network
      edit       Edit a network's definition with $VISUAL or $EDITOR
      ports      List the NICs on a network
      leases     List a network's leases
      check      Tell whether a NIC would attach to a network, and what it would get
      help       Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help

    Global options:
          --root <DIR>     The daemon's root directory [default: /]
          --socket <PATH>  The daemon's socket [default: run/patchcord/patchcord.sock below the root]
          --json           Print one JSON document instead of text
    ");
    insta::assert_snapshot!(env.ok(&["nic", "attach", "--help"]), @r"
    Attach a NIC and print its id

    Without --by-name the daemon keeps the tap until its owner fetches the descriptor through the API.

    Usage: patchcord nic attach [OPTIONS] --guest <GUEST> <FILE>

    Arguments:
      <FILE>
              File with a guest's <interface>, or - for the standard input

    Options:
          --guest <GUEST>
              The guest's name

          --guest-uuid <UUID>
              The guest's UUID

          --pid <PID>
              The process that the NIC ends with

          --by-name
              Make a tap that persists and is opened by its name

          --uid <UID>
              Who may open it

          --reservation <ID>
              The reservation that it claims

      -h, --help
              Print help (see a summary with '-h')

    Global options:
          --root <DIR>
              The daemon's root directory [default: /]

          --socket <PATH>
              The daemon's socket [default: run/patchcord/patchcord.sock below the root]

          --json
              Print one JSON document instead of text
    ");
    insta::assert_snapshot!(env.ok(&["run", "--help"]), @r"
    Run a program with NICs that live as long as it does

    The program gets open descriptors of the NICs' taps. In its arguments, {fd0} stands for the descriptor of the first NIC (several with colons between them if it has several queues), {tap0} for its tap's name, {mac0} for its MAC address, {pci0} for its PCI address where it is a virtual function, and {fd1} and so on for the others'.

    Usage: patchcord run [OPTIONS] --nic <network=NET[,portgroup=PG][,mac=MAC][,queues=N]> -- <PROGRAM> [ARGS]...

    Arguments:
      <PROGRAM> [ARGS]...
              The program and its arguments

    Options:
          --guest <GUEST>
              The guest's name [default: the program's name and process id]

          --nic <network=NET[,portgroup=PG][,mac=MAC][,queues=N]>
              A NIC; commas in a value are doubled

      -h, --help
              Print help (see a summary with '-h')

    Global options:
          --root <DIR>
              The daemon's root directory [default: /]

          --socket <PATH>
              The daemon's socket [default: run/patchcord/patchcord.sock below the root]

          --json
              Print one JSON document instead of text

    Example:
      patchcord run --nic network=lab -- qemu-system-x86_64 -netdev tap,id=n0,fd={fd0} -device virtio-net-pci,netdev=n0,mac={mac0}
    ");
}

#[test]
fn a_network_from_its_definition_to_its_end() {
    let env = TestEnv::new();
    let file = env.write(
        "lab.xml",
        "<network><name>lab</name><tag name='blue'/><bridge name='virbr7'/>\
         <ip address='192.0.2.1' netmask='255.255.255.0'/></network>",
    );
    assert_eq!(env.ok(&["network", "define", path(&file)]), "network 'lab' is defined\n");
    assert_eq!(env.ok(&["net", "start", "lab"]), "network 'lab' is started\n");
    env.ok(&["network", "autostart", "lab"]);
    insta::assert_snapshot!(env.ok(&["network", "list"]), @r"
    NAME  STATE   AUTOSTART  MODE      BRIDGE  DEVICES  ADDRESSES     NICS  TAGS
    lab   active  yes        isolated  virbr7  -        192.0.2.1/24  0     blue
    ");
    let networks = env.json(&["network", "list"]);
    assert_eq!(networks[0]["name"], "lab");
    assert_eq!(networks[0]["bridge"], "virbr7");
    assert_eq!(networks[0]["tags"][0], "blue");
    assert!(env.ok(&["network", "show", "lab"]).starts_with("<network>"));
    let shown = env.json(&["network", "show", "lab", "--inactive"]);
    assert_eq!(shown["autostart"], true);
    assert!(shown["xml"].as_str().unwrap().contains("virbr7"));
    env.ok(&["network", "autostart", "--off", "lab"]);
    env.ok(&["network", "update", "lab", "add", "portgroup", "<portgroup name='new'/>", "--live", "--config"]);
    assert_eq!(env.json(&["network", "show", "lab"])["portgroups"][0], "new");
    assert_eq!(env.json(&["network", "leases", "lab"]), serde_json::json!([]));
    env.ok(&["network", "stop", "lab"]);
    assert_eq!(env.json(&["network", "undefine", "lab"])["name"], "lab");
    assert_eq!(env.json(&["network", "list"]), serde_json::json!([]));
}

#[test]
fn refusals_say_why_and_have_their_status() {
    let env = TestEnv::new();
    let bad = env.write("bad.xml", "<network>\n  <name>x</name>\n  <bridge nam='br0'/>\n</network>\n");
    let drawn = env.run(&["network", "define", path(&bad)]);
    assert_eq!((drawn.status, drawn.stdout.as_str()), (1, ""));
    insta::assert_snapshot!(drawn.stderr.replace(path(&bad), "bad.xml"), @r"
    error: network 'x', <bridge nam>: <bridge> has no attribute 'nam'
     --> bad.xml:3:11
      |
    3 |   <bridge nam='br0'/>
      |           ^^^^^^^^^
    ");
    let missing = env.run(&["network", "start", "nowhere"]);
    assert_eq!(missing.status, 3);
    insta::assert_snapshot!(missing.stderr, @r"
    error: network 'nowhere': there is no such network
    hint: 'patchcord network list' shows those there are
    ");
    env.lab();
    assert_eq!(env.run(&["network", "start", "lab"]).status, 4);
    assert_eq!(env.run(&["network", "begin", "lab"]).status, 2);
    assert_eq!(env.run(&["network", "define", "nothing.xml"]).status, 1);
    assert_eq!(env.run(&["nic", "show", "1"]).status, 3);
    assert_eq!(ended(env.patchcord(&["run", "--nic", "lab", "--", "true"]).output().unwrap()).status, 2);
}

#[test]
fn documents_come_from_the_standard_input_too() {
    let env = TestEnv::new();
    let mut child = env.patchcord(&["network", "define", "-"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"<network><name>in</name><x/></network>").unwrap();
    let ended = ended(child.wait_with_output().unwrap());
    assert!(ended.stderr.contains("<stdin>:1:"), "{}", ended.stderr);
}

#[test]
fn documents_that_are_too_large_or_no_text() {
    let env = TestEnv::new();
    let title = "x".repeat(3 << 20);
    let file = env.write("large.xml", &format!("<network><name>n</name><title>{title}</title></network>"));
    let limit = "it has more than 1048576 bytes, and a document may have no more";
    // The last one has no end.
    for large in [path(&file), "/dev/zero"] {
        let refused = env.run(&["network", "define", large]);
        assert_eq!((refused.status, refused.stderr.contains(&format!("can't read {large}: {limit}"))), (1, true));
    }
    let zeros = std::fs::File::open("/dev/zero").unwrap();
    let refused = ended(env.patchcord(&["network", "define", "-"]).stdin(zeros).output().unwrap());
    assert!(refused.stderr.contains(&format!("can't read the standard input: {limit}")), "{}", refused.stderr);
    let latin = env.path("latin.xml");
    std::fs::write(&latin, b"<network>\n<title>caf\xe9</title></network>").unwrap();
    for (document, name) in [(path(&latin), path(&latin)), ("-", "the standard input")] {
        let mut command = env.patchcord(&["network", "define", document]);
        let refused = ended(command.stdin(std::fs::File::open(&latin).unwrap()).output().unwrap());
        let cause = format!("can't read {name}: it is not UTF-8: byte 0xe9 in line 2, at offset 20");
        assert!(refused.stderr.contains(&cause), "{}", refused.stderr);
    }
}

#[test]
fn a_nic_from_its_attachment_to_its_end() {
    let env = TestEnv::new();
    env.lab();
    let xml = "<interface type='network'><source network='lab'/><mac address='52:54:00:00:00:09'/></interface>";
    let file = env.write("nic.xml", xml);
    assert!(env.ok(&["network", "check", "lab", path(&file)]).starts_with("the NIC would attach: "));
    assert_eq!(env.json(&["nic", "list"]), serde_json::json!([]));
    let attached = env.ok(&["nic", "attach", "--guest", "web", "--by-name", "--uid", "1000", path(&file)]);
    let id = attached.trim();
    let nic = env.json(&["nic", "show", id]);
    assert_eq!((&nic["id"], &nic["guest"], &nic["handover"]), (&id.into(), &"web".into(), &"name".into()));
    assert_eq!((&nic["actual"]["type"], &nic["state"]), (&"network".into(), &"plugged".into()));
    assert!(env.ok(&["nic", "show", id]).starts_with("<interface"));
    assert_eq!(env.json(&["network", "ports", "lab"])[0]["id"], id);
    insta::assert_snapshot!(env.ok(&["network", "ports", "lab"]).replace(id, "ID"), @r"
    ID                                    GUEST  MAC                STATE    NETWORK  PORTGROUP  ON      TAP   TAGS
    ID  web    52:54:00:00:00:09  plugged  lab      -          virbr0  pct1  -
    ");
    insta::assert_snapshot!(env.ok(&["topology"]), @r"
    lab  isolated  virbr0
    └─ web  52:54:00:00:00:09  pct1  plugged  -
    ");
    env.ok(&["topology", "--svg", "picture.svg"]);
    assert!(std::fs::read_to_string(env.path("picture.svg")).unwrap().contains("52:54:00:00:00:09"));
    env.ok(&["nic", "link", id, "down"]);
    env.ok(&["nic", "own", id, "--pid", &std::process::id().to_string()]);
    assert_eq!(env.json(&["nic", "show", id])["owner"]["pid"], std::process::id());
    let none = env.write("none.xml", "<interface type='none'/>");
    assert_eq!(env.json(&["nic", "modify", id, path(&none)])["state"], "unplugged");
    env.ok(&["nic", "detach", id]);
    assert_eq!(env.run(&["nic", "detach", id]).status, 3);
}

#[test]
fn run_becomes_the_program_with_the_taps_open() {
    let env = TestEnv::new();
    env.lab();
    let script = "echo pid $$; cat <&$1; cat <&${2%%:*}; cat <&${2##*:}; echo; echo $3 $4";
    let mut command =
        env.patchcord(&["run", "--guest", "vm", "--nic", "network=lab,portgroup=a,,b,mac=52:54:00:00:00:07"]);
    command.args([
        "--nic",
        "network=lab,queues=2",
        "--",
        "sh",
        "-c",
        script,
        "sh",
        "{fd0}",
        "{fd1}",
        "{mac0}",
        "{tap1}",
    ]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let ended = ended(child.wait_with_output().unwrap());
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[..2], [format!("pid {pid}").as_str(), "queue 0;queue 0;queue 1;"]);
    assert!(lines[2].starts_with("52:54:00:00:00:07 pct"), "{lines:?}");
    let nics = env.json(&["nic", "list"]);
    assert!(nics.as_array().unwrap().iter().all(|nic| nic["owner"]["pid"] == pid && nic["guest"] == "vm"));
}

#[test]
fn run_leaves_nothing_behind_when_it_fails() {
    let env = TestEnv::new();
    env.lab();
    for (arguments, status) in [
        (&["run", "--nic", "network=lab", "--", "/no/such/program"][..], 1),
        (&["run", "--nic", "network=lab", "--nic", "network=nowhere", "--", "true"][..], 3),
        (&["run", "--nic", "network=lab", "--", "true", "{fd1}"][..], 2),
    ] {
        let ended = env.run(arguments);
        assert_eq!(ended.status, status, "{arguments:?}: {}", ended.stderr);
        assert_eq!(env.json(&["nic", "list"]), serde_json::json!([]), "{arguments:?}");
    }
}

#[test]
fn events_are_followed() {
    let env = TestEnv::new();
    env.lab();
    assert_eq!(env.json(&["events"])["networks"][0]["name"], "lab");
    let mut child = env.patchcord(&["--json", "events", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["kind"], "snapshot");
    env.ok(&["network", "stop", "lab"]);
    let event = next();
    assert_eq!((&event["kind"], &event["event"]["what"]), (&"event".into(), &"stopped".into()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn edit_submits_what_the_editor_leaves() {
    let env = TestEnv::new();
    env.lab();
    let edit = |editor: &str| ended(env.patchcord(&["network", "edit", "lab"]).env("EDITOR", editor).output().unwrap());
    assert_eq!(edit("true").stdout, "network 'lab' is unchanged\n");
    assert_eq!(edit("sed -i s/a,b/staff/").stdout, "network 'lab' is defined\n");
    assert!(env.ok(&["network", "show", "--inactive", "lab"]).contains("<portgroup name='staff'"));
    let bad = edit("sed -i s/portgroup/portgrup/");
    assert_eq!(bad.status, 1);
    assert!(bad.stderr.contains("<portgrup"), "{}", bad.stderr);
    let (_, kept) = bad.stderr.split_once("what you wrote is kept in ").expect(&bad.stderr);
    let kept = std::path::Path::new(kept.lines().next().unwrap());
    assert!(bad.stderr.contains(&format!("{}:", kept.display())), "the error points into it: {}", bad.stderr);
    assert!(std::fs::read_to_string(kept).unwrap().contains("<portgrup"));
    std::fs::remove_file(kept).unwrap();
    assert_eq!(edit("false").status, 1);
    let left: Vec<_> = std::fs::read_dir(env.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("patchcord-")), "{left:?}");
}

#[test]
fn edit_takes_nothing_back_that_somebody_else_changed_meanwhile() {
    let env = TestEnv::new();
    env.lab();
    let program = env!("CARGO_BIN_EXE_patchcord");
    let root = env.path("");
    let late = format!(
        "{program} --root {} network update lab add portgroup '<portgroup name=\"late\"/>' --config",
        root.display()
    );
    let editor = format!("{late} && sed -i s/a,b/staff/");
    let refused = ended(env.patchcord(&["network", "edit", "lab"]).env("EDITOR", editor).output().unwrap());
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("somebody else changed it") && refused.stderr.contains("is kept in"),
        "{}",
        refused.stderr
    );
    let now = env.ok(&["network", "show", "--inactive", "lab"]);
    assert!(now.contains("late") && !now.contains("staff"), "{now}");
}

#[test]
fn what_is_refused_is_a_document_too() {
    let env = TestEnv::new();
    let refused = env.run(&["--json", "network", "start", "nosuch"]);
    assert_eq!(refused.status, 3);
    let document: serde_json::Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(document["error"]["name"], "NotFound");
    assert_eq!(document["error"]["object"], "network 'nosuch'");
    assert_eq!(document["error"]["exit"], 3);
    assert!(refused.stderr.contains("there is no such network"), "{}", refused.stderr);
    let unread = env.run(&["--json", "network", "define", "nosuch.xml"]);
    let document: serde_json::Value = serde_json::from_str(&unread.stdout).unwrap();
    assert!(document["error"]["cause"].as_str().unwrap().contains("nosuch.xml"), "{document}");
}

#[test]
fn a_full_disk_under_what_it_prints_is_no_reason_to_break() {
    let env = TestEnv::new();
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = env.patchcord(&["network", "start", "nosuch"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(3));
    env.lab();
    let nic = env.write("nic.xml", "<interface type='network'><source network='lab'/></interface>");
    let attached = env.patchcord(&["nic", "attach", "--guest", "g", path(&nic)]).stdout(full()).output().unwrap();
    let said = String::from_utf8(attached.stderr).unwrap();
    assert_eq!(attached.status.code(), Some(1));
    let id = env.json(&["nic", "list"])[0]["id"].as_str().unwrap().to_owned();
    assert!(said.contains(&id), "{said}");
}

#[test]
fn completions_and_man_pages_come_from_the_same_source() {
    let env = TestEnv::new();
    assert!(env.ok(&["completions", "bash"]).contains("undefine"));
    env.ok(&["man", "pages"]);
    let page = std::fs::read_to_string(env.path("pages/patchcord-network-update.1")).unwrap();
    assert!(page.contains("ip\\-dhcp\\-host"), "{page}");
    let title = concat!(".TH patchcord-network-update 1  \"patchcord ", env!("CARGO_PKG_VERSION"), "\"");
    assert!(page.contains(title), "{page}");
    assert!(env.path("pages/patchcord-qemu-helper.1").exists());
}

#[test]
fn without_a_daemon_it_says_so() {
    let env = TestEnv::new();
    let ended = env.run(&["--socket", "nothing.sock", "network", "list"]);
    assert_eq!(ended.status, 2, "a root and a socket");
    let mut command = env.program(env!("CARGO_BIN_EXE_patchcord"));
    let ended = common::ended(command.args(["--socket", "nothing.sock", "network", "list"]).output().unwrap());
    assert_eq!(ended.status, 1);
    assert!(ended.stderr.contains("is patchcordd running?"), "{}", ended.stderr);
}

#[test]
fn run_gives_the_program_a_pci_device() {
    let env = TestEnv::new();
    env.sriov();
    let run = |nic: &str, argument: &str| env.run(&["run", "--nic", nic, "--", "/bin/echo", argument]);
    let echoed = run("network=sriov,mac=52:54:00:00:00:07", "vfio-pci,host={pci0},{mac0}").stdout;
    assert_eq!(echoed, "vfio-pci,host=0000:3b:02.0,52:54:00:00:00:07\n");
    let refused = run("network=sriov", "fd={fd0}");
    assert_eq!(refused.status, 2);
    let says = "NIC 0 has no fd: it is PCI device 0000:3b:02.1, which {pci0} stands for";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
    assert!(env.ok(&["nic", "list"]).contains("0000:3b:02.0"));
    assert!(!env.ok(&["nic", "list"]).contains("0000:3b:02.1"), "what can't be run leaves nothing");
    assert!(env.ok(&["device", "list"]).contains("0000:3b:02.0"));
}
