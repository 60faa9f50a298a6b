//! Tests of the configuration: against libvirt's corpus (networkxml2confdata), dnsmasq's own check, and by hand.

use super::{Config, Refresh, Settings, refresh_needed};
use crate::model::{LinkName, Network};
use crate::xml::{Mode, read_network};
use patchcord_testkit::skip;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0x1234);

fn settings(dir: &str) -> Settings {
    Settings {
        dir: dir.into(),
        run_dir: dir.into(),
        user: None,
        group: None,
        instance: Uuid::from_u128(7),
        upstream: vec!["9.9.9.9".parse().unwrap(), "2620:fe::9".parse().unwrap()],
    }
}

fn config_of(network: &Network, dir: &str) -> crate::Result<Config> {
    let bridge = network.bridge.name.clone().unwrap_or_else(|| LinkName::new("virbr0").unwrap());
    Config::of(network, ID, &bridge, &settings(dir))
}

/// The configuration of `<network>` with these children.
fn config(children: &str) -> crate::Result<Config> {
    let text = format!(
        "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name>{children}</network>"
    );
    config_of(&read_network(&text, Mode::Strict).unwrap(), "/d")
}

/// The lines of one of the files, comments apart.
fn lines<'a>(config: &'a Config, kind: &str) -> Vec<&'a str> {
    let suffix = format!(".{kind}");
    let (_, text) = config.files.iter().find(|(path, _)| path.ends_with(&suffix)).unwrap();
    text.lines().filter(|l| !l.starts_with('#')).collect()
}

#[track_caller]
fn has(config: &Config, wanted: &[&str]) {
    let conf = lines(config, "conf");
    for line in wanted {
        assert!(conf.contains(line), "{line} is not in {conf:#?}");
    }
}

#[track_caller]
fn lacks(config: &Config, unwanted: &[&str]) {
    let conf = lines(config, "conf");
    for key in unwanted {
        assert!(!conf.iter().any(|l| l.starts_with(key)), "{key} is in {conf:#?}");
    }
}

/// What we write and libvirt doesn't, and why: see the module.
const OURS_ALONE: [&str; 7] = [
    "pid-file=",
    "no-resolv",
    "servers-file=",
    "bind-interfaces",
    "dhcp-leasefile=",
    "dhcp-option=option6:dns-server,",
    "dhcp-lease-max=",
];
/// What libvirt writes and we don't, or only where dnsmasq's own limit is too small.
const THEIRS_ALONE: [&str; 2] = ["bind-dynamic", "dhcp-lease-max="];

/// Directives without the comments, those that are allowed to differ, and the paths of files.
fn normal(text: &str, differing: &[&str]) -> BTreeSet<String> {
    let directives = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let same = directives.filter(|l| !differing.iter().any(|d| l.starts_with(d)));
    same.map(|l| match l.split_once('=') {
        Some((key @ ("dhcp-hostsfile" | "addn-hosts"), _)) => key.to_owned(),
        _ => l.to_owned(),
    })
    .collect()
}

fn corpus() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/libvirt-9.0.0");
    std::env::var_os("PATCHCORD_CORPUS").map_or_else(default, PathBuf::from).join("networkxml2confdata")
}

#[test]
fn libvirts_networks_get_libvirts_directives() {
    const NAME: &str = "libvirts_networks_get_libvirts_directives";
    let Ok(dir) = std::fs::read_dir(corpus()) else {
        return skip(NAME, &format!("{} is not there", corpus().display()));
    };
    let dnsmasq = Command::new("dnsmasq").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !dnsmasq {
        skip(NAME, "there is no dnsmasq to check the configuration");
    }
    let temporary = std::env::temp_dir().join(format!("patchcord-dnsmasq-{}", std::process::id()));
    std::fs::create_dir_all(&temporary).unwrap();
    let mut seen = 0;
    for path in dir.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "xml")) {
        seen += 1;
        let network = read_network(&std::fs::read_to_string(&path).unwrap(), Mode::Lenient).unwrap();
        let config = config_of(&network, temporary.to_str().unwrap()).unwrap();
        let theirs = std::fs::read_to_string(path.with_extension("conf")).unwrap();
        let ours = &config.files[&config.conf_path];
        assert_eq!(normal(ours, &OURS_ALONE), normal(&theirs, &THEIRS_ALONE), "{}", path.display());
        if let Ok(hosts) = std::fs::read_to_string(path.with_extension("hostsfile")) {
            assert_eq!(lines(&config, "hosts"), hosts.lines().collect::<Vec<_>>(), "{}", path.display());
        }
        if dnsmasq {
            for (path, text) in &config.files {
                std::fs::write(path, text).unwrap();
            }
            let out = Command::new("dnsmasq").arg("--test").args(&config.args).output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success(), "{}: {said}\n{ours}", path.display());
        }
    }
    std::fs::remove_dir_all(&temporary).unwrap();
    assert!(seen > 0, "no networks in {}", corpus().display());
}

const V4: &str = "<ip address='10.0.0.1' netmask='255.255.255.0'>
    <dhcp><range start='10.0.0.2' end='10.0.0.254'/></dhcp></ip>";

#[test]
fn an_isolated_network_has_no_way_out() {
    let isolated = config(V4).unwrap();
    has(&isolated, &["dhcp-option=3", "no-resolv"]);
    assert_eq!(lines(&isolated, "servers"), [""; 0]);
    let nat = config(&format!("<forward mode='nat'/>{V4}")).unwrap();
    lacks(&nat, &["dhcp-option"]);
    assert_eq!(lines(&nat, "servers"), ["server=9.9.9.9", "server=2620:fe::9"]);
}

#[test]
fn forwarders_replace_the_hosts_servers_unless_they_are_for_a_domain() {
    let domains = "<forward mode='nat'/><dns><forwarder domain='a.example' addr='10.9.9.9'/>
        <forwarder domain='b.example'/></dns>";
    let some = config(&format!("{domains}{V4}")).unwrap();
    has(&some, &["server=/a.example/10.9.9.9", "server=/b.example/#"]);
    assert_eq!(lines(&some, "servers").len(), 2);
    let all = config(&format!("{}{V4}", domains.replace("<dns>", "<dns><forwarder addr='10.8.8.8'/>"))).unwrap();
    has(&all, &["server=10.8.8.8"]);
    assert_eq!(lines(&all, "servers"), [""; 0]);
}

#[test]
fn a_server_that_is_the_network_itself_is_left_out() {
    let own = "<forward mode='nat'/><ip address='9.9.9.9' prefix='24'/>";
    assert_eq!(lines(&config(own).unwrap(), "servers"), ["server=2620:fe::9"]);
}

#[test]
fn names_and_records() {
    let c = config(
        "<domain name='lab.example' localOnly='yes'/>
         <dns forwardPlainNames='no'><txt name='t' value='v w'/>
         <srv service='sip' protocol='udp' domain='lab.example' target='pbx' port='5060' weight='4'/>
         <srv service='none' protocol='tcp'/>
         <host ip='10.0.0.9'><hostname>a</hostname><hostname>b</hostname></host></dns>
         <ip address='10.0.0.1' netmask='255.255.255.0' localPtr='yes'/>
         <ip family='ipv6' address='fd00:1:2:3::1' prefix='64' localPtr='yes'/>",
    )
    .unwrap();
    has(
        &c,
        &[
            "local=/lab.example/",
            "domain=lab.example",
            "expand-hosts",
            "domain-needed",
            "local=//",
            "local=/0.0.10.in-addr.arpa/",
            "local=/3.0.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa/",
            "txt-record=t,v w",
            "srv-host=_sip._udp.lab.example,pbx,5060,0,4",
            "srv-host=_none._tcp",
        ],
    );
    assert_eq!(lines(&c, "addnhosts"), ["10.0.0.9\ta\tb"]);
    assert_eq!(c.lease_path, None);
}

#[test]
fn both_families_lease_and_advertise() {
    let c = config(&format!(
        "{V4}<mtu size='9000'/><ip family='ipv6' address='fd00:1::1' prefix='64'><dhcp>
         <range start='fd00:1::10' end='fd00:1::1f'><lease expiry='90'/></range>
         <host id='0:3:0:1:0:16:3e:11:22:33' name='six' ip='fd00:1::11'/><host name='seven' ip='fd00:1::12'/>
         </dhcp></ip><ip family='ipv6' address='fd00:2::1' prefix='64'/>"
    ))
    .unwrap();
    has(
        &c,
        &[
            "dhcp-range=10.0.0.2,10.0.0.254,255.255.255.0",
            "dhcp-range=fd00:1::10,fd00:1::1f,64,90m",
            "enable-ra",
            "dhcp-option=option6:dns-server,[fd00:1::1]",
            "dhcp-option=option:mtu,9000",
        ],
    );
    lacks(&c, &["dhcp-lease-max"]);
    assert!(!lines(&c, "conf").iter().any(|l| l.contains("ra-only")));
    assert_eq!(lines(&c, "hosts"), ["id:0:3:0:1:0:16:3e:11:22:33,six,[fd00:1::11]", "seven,[fd00:1::12]"]);
}

#[test]
fn there_are_leases_for_all_that_ranges_and_reservations_have() {
    let c = config(
        "<ip address='10.0.0.1' prefix='16'><dhcp><range start='10.0.1.0' end='10.0.9.255'/>
         <host mac='52:54:00:00:00:01' ip='10.0.0.5'/></dhcp></ip>",
    );
    has(&c.unwrap(), &["dhcp-lease-max=2305"]);
}

#[test]
fn reservations_alone_make_a_static_range() {
    let c = config(
        "<ip address='10.0.0.1' prefix='24'><dhcp><host mac='52:54:00:00:00:01' ip='10.0.0.5'/>
         <host name='by-name' ip='10.0.0.6'/><bootp file='pxe.img' server='10.0.0.9'/></dhcp></ip>",
    )
    .unwrap();
    has(&c, &["dhcp-range=10.0.0.1,static", "dhcp-boot=pxe.img,,10.0.0.9"]);
    lacks(&c, &["dhcp-lease-max"]);
    assert_eq!(lines(&c, "hosts"), ["52:54:00:00:00:01,10.0.0.5", "by-name,10.0.0.6"]);
}

#[test]
fn without_names_there_is_no_dns() {
    let c = config(&format!("<dns enable='no'/>{V4}")).unwrap();
    has(&c, &["port=0"]);
    lacks(&c, &["addn-hosts", "servers-file"]);
    assert_eq!(c.files.len(), 2);
}

#[test]
fn who_needs_one() {
    let needed = |children: &str| {
        let text = format!("<network><name>n</name>{children}</network>");
        Config::needed(&read_network(&text, Mode::Strict).unwrap())
    };
    assert!(needed(V4));
    assert!(needed("<ip address='10.0.0.1' prefix='24'/>"));
    assert!(needed(&format!("<dns enable='no'/>{V4}")));
    assert!(!needed("<dns enable='no'/><ip address='10.0.0.1' prefix='24'/>"));
    assert!(!needed(""));
    assert!(!needed("<forward mode='bridge'/><bridge name='br0'/>"));
}

#[test]
fn options_come_last_as_they_are() {
    let options = "<dnsmasq:options><dnsmasq:option value='log-queries'/>
        <dnsmasq:option value='dhcp-option=6,10.0.0.53'/></dnsmasq:options>";
    let c = config(&format!("{V4}{options}")).unwrap();
    let conf = lines(&c, "conf");
    assert_eq!(conf[conf.len() - 2..], ["log-queries", "dhcp-option=6,10.0.0.53"]);
}

/// The reader of XML refuses control characters first; nothing depends on that.
#[test]
fn what_is_not_one_line_is_refused() {
    let good = read_network(&format!("<network><name>n</name>{V4}</network>"), Mode::Strict).unwrap();
    let refused = |spoil: &dyn Fn(&mut Network)| {
        let mut network = good.clone();
        spoil(&mut network);
        let error = config_of(&network, "/d").unwrap_err();
        assert_eq!(error.object, "network 'n'");
        (error.field.unwrap(), error.cause)
    };
    let option = |value: &str| refused(&|n| n.dnsmasq_options = vec![value.to_owned()]);
    assert_eq!(option("a\nuser=root").0, "<dnsmasq:option value>");
    assert_eq!(refused(&|n| n.ips[0].tftp_root = Some("/a\rb".into())).0, "<tftp root>");
    assert!(option(&"x".repeat(1001)).1.contains("1001 bytes"));
}

#[test]
fn a_change_of_hosts_reloads_and_one_of_ranges_restarts() {
    let host = |n: u8| format!("<host mac='52:54:00:00:00:01' ip='10.0.0.{n}'/></dhcp>");
    let with = |n: u8| config(&V4.replace("</dhcp>", &host(n))).unwrap();
    let was = with(5).files;
    assert_eq!(refresh_needed(&was, &with(5)), Refresh::Nothing);
    assert_eq!(refresh_needed(&was, &with(6)), Refresh::Reload);
    let wider = config(&V4.replace("</dhcp>", &host(5)).replace("10.0.0.254", "10.0.0.200")).unwrap();
    assert_eq!(refresh_needed(&was, &wider), Refresh::Restart);
    assert_eq!(refresh_needed(&std::collections::BTreeMap::new(), &wider), Refresh::Restart);
}

#[test]
fn paths_that_dnsmasq_would_misread_are_quoted() {
    let xml = format!("<network><name>n</name>{V4}</network>");
    let network = read_network(&xml, Mode::Strict).unwrap();
    let c = config_of(&network, "/d \"x\" #1").unwrap();
    assert!(lines(&c, "conf").contains(&r#"dhcp-hostsfile="/d \"x\" #1/00000000-0000-0000-0000-000000001234.hosts""#));
}

#[test]
fn values_that_dnsmasq_would_misread_are_quoted() {
    let value = |v: &str| {
        let v = v.replace('"', "&quot;");
        let c = config(&format!("<dns><txt name='t' value='{v}'/></dns>{V4}")).unwrap();
        let line = lines(&c, "conf").into_iter().find(|l| l.starts_with("txt-record=")).unwrap().to_owned();
        line["txt-record=t,".len()..].to_owned()
    };
    assert_eq!(value("v=spf1 -all"), "v=spf1 -all");
    assert_eq!(value("one,two"), "one,two");
    assert_eq!(value(r#"say "hi", \o/"#), r#""say \"hi\""," \\o/""#);
    assert_eq!(value(r#"a"b"#), r#""a\"b""#);
    assert_eq!(value("a #b"), r##""a #b""##);
    assert_eq!(value(" a"), r#"" a""#);
    // As libvirt's users write them.
    assert_eq!(value(r#""a, b",c"#), r#""a, b",c"#);
    assert_eq!(value(r#""a\", b""#), r#""a\", b""#);
    assert_eq!(value(r#""a" b"#), r#""\"a\" b""#);
    let boot = |file: &str| {
        let dhcp = format!("<bootp file='{file}'/></dhcp>");
        let c = config(&V4.replace("</dhcp>", &dhcp)).unwrap();
        lines(&c, "conf").into_iter().find(|l| l.starts_with("dhcp-boot=")).unwrap().to_owned()
    };
    assert_eq!(boot("http://boot.example/a.ipxe"), "dhcp-boot=http://boot.example/a.ipxe");
    assert_eq!(boot("a,b"), r#"dhcp-boot="a,b""#);
    assert_eq!(boot("tag:x"), r#"dhcp-boot="tag:x""#);
}
