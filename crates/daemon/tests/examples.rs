//! The configuration among the examples is one that the daemon takes.

use patchcord_daemon::access::{Access, Peer};
use patchcord_daemon::config::Config;
use std::path::Path;

#[test]
fn the_example_configuration_is_accepted() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/patchcord.toml");
    let config = Config::load(&file, true).unwrap();
    assert_eq!((config.access.len(), config.hooks.timeout), (2, 30));
    let access = Access::new(config.access);
    let alice = Peer { uid: 1000, user: Some("alice".into()), groups: Default::default() };
    assert!(access.grant(&alice, "lab-1", Some("students")).is_some());
    assert!(access.grant(&alice, "lab-1", Some("staff")).is_none());
}
