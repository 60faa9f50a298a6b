//! Simulated physical functions, as `ip` sees them.

use patchcord_testkit::{NetdevSim, has_netdevsim, in_namespace};

#[test]
fn a_simulated_pf_has_its_vfs_and_goes() {
    in_namespace(|ns| {
        let Some(pf) = NetdevSim::start("eth0", 3) else { return assert!(!has_netdevsim()) };
        assert!(has_netdevsim());
        let Some(_other) = NetdevSim::start("eth1", 70) else { return };
        let vfs =
            |link: &str| ns.json(&format!("ip -j link show {link}"))[0]["vfinfo_list"].as_array().map_or(0, Vec::len);
        assert_eq!((vfs("eth0"), vfs("eth1")), (3, 70));

        ns.run("ip link set eth0 vf 1 mac 52:54:00:01:02:03 vlan 5");
        pf.enable(2);
        assert_eq!(vfs("eth0"), 2);
        let vf = &ns.json("ip -j link show eth0")[0]["vfinfo_list"][1];
        assert_eq!((&vf["address"], &vf["vlan_list"]), (&"00:00:00:00:00:00".into(), &serde_json::json!([{}])));

        drop(pf);
        assert!(ns.try_run("ip link show eth0").is_err());
        assert_eq!(vfs("eth1"), 70);
    });
}
