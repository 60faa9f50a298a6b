//! How each guest gets its NIC: by descriptor, by the tap's name, or by QEMU's helper.

use std::collections::BTreeMap;
use std::process::Command;

use super::guest::Guest;
use super::machine::Image;
use super::stage::Stage;
use crate::Result;

/// The user that guests run as which need no privilege: Debian's for nobody.
const NOBODY: &str = "nobody";

/// The daemon's configuration: that user may plug guests into the network 'nat'.
const ACCESS: &str = "[[access]]\nusers = ['nobody']\nnetworks = ['nat']\nallow = ['attach', 'show']\n";

/// The guests, by name.
pub(super) struct Cast {
    guests: BTreeMap<String, Guest>,
    /// For guests that are machines.
    image: Option<Image>,
}

impl Cast {
    /// Nobody yet. `machines` says whether guests are QEMU's.
    pub(super) fn set(stage: &Stage<'_>, machines: bool) -> Result<Self> {
        std::fs::write(stage.root.join("etc/patchcord/patchcord.toml"), ACCESS)?;
        let image = if machines { Some(Image::set(stage.ws, &stage.bin)?) } else { None };
        Ok(Self { guests: BTreeMap::new(), image })
    }

    /// A guest that is there.
    pub(super) fn guest(&mut self, name: &str) -> Result<&mut Guest> {
        self.guests.get_mut(name).ok_or_else(|| format!("there is no guest {name}").into())
    }

    /// A guest's address.
    pub(super) fn address(&mut self, name: &str) -> Result<String> {
        Ok(self.guest(name)?.address.clone())
    }

    /// `patchcord run`: the program inherits the tap's descriptor, and the NIC ends with it. `options` are of
    /// patchcord-guest.
    pub(super) fn by_descriptor(&mut self, stage: &Stage<'_>, name: &str, network: &str, options: &str) -> Result<()> {
        let run = format!("run --guest {name} --nic network={network} --");
        let program = match &self.image {
            Some(image) => {
                println!(
                    "$ patchcord {run} qemu-system-x86_64 ... -netdev tap,fd={{fd0}},id=n0 \\\n    \
                          -device virtio-net-pci,netdev=n0,mac={{mac0}} &"
                );
                image.qemu(name, ping(options), "tap,fd={fd0}", "{mac0}")
            }
            None => {
                let line = format!("patchcord-guest {{fd0}} {{mac0}} --name {name} {options}");
                println!("$ patchcord {run} {} &", line.trim());
                self.program(stage, &line)
            }
        };
        let mut command = stage.patchcord(&run.split(' ').collect::<Vec<_>>());
        self.start(name, command.args(program))
    }

    /// `nic attach --by-name`: the tap persists, and whoever runs as its user opens it by its name. Once the program
    /// runs, the NIC is made to end with it.
    pub(super) fn by_name(&mut self, stage: &Stage<'_>, name: &str, interface: &str, options: &str) -> Result<()> {
        let uid = stage.quiet(&format!("id -u {NOBODY}"))?;
        let attach = format!("nic attach --guest {name} --by-name --uid {} {interface}", uid.trim());
        let id = stage.show(&attach)?.trim().to_owned();
        let nic = stage.nic(name)?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).ok_or("the NIC has no tap or no MAC");
        let (tap, mac) = (text(&nic["actual"]["tap"])?, text(&nic["mac"])?);
        let program = match &self.image {
            Some(image) => {
                println!(
                    "(as {NOBODY}) $ qemu-system-x86_64 ... -netdev tap,ifname={tap},script=no,downscript=no,id=n0 \\\n    \
                          -device virtio-net-pci,netdev=n0,mac={mac} &"
                );
                image.qemu(name, ping(options), &format!("tap,ifname={tap},script=no,downscript=no"), &mac)
            }
            None => {
                let line = format!("patchcord-guest {tap} {mac} --name {name} {options}");
                println!("(as {NOBODY}) $ {} &", line.trim());
                self.program(stage, &line)
            }
        };
        self.start(name, unprivileged(stage).args(program))?;
        let pid = self.guest(name)?.pid();
        stage.show(&format!("nic own {id} --pid {pid}"))?;
        Ok(())
    }

    /// QEMU's own way to a bridge: it calls the helper, which attaches a NIC as the user that QEMU runs as. The guest's
    /// MAC is QEMU's business.
    pub(super) fn by_helper(&mut self, stage: &Stage<'_>, name: &str, network: &str, mac: &str) -> Result<()> {
        let image = self.image.as_ref().ok_or("only QEMU calls its helper")?;
        println!(
            "(as {NOBODY}) $ qemu-system-x86_64 ... -netdev bridge,helper=patchcord-qemu-helper,br={network},id=n0 \\\n    \
                  -device virtio-net-pci,netdev=n0,mac={mac} &"
        );
        let helper = format!("{}/patchcord-qemu-helper --root {}", stage.bin.display(), stage.root.display());
        let program = image.qemu(name, "", &format!("bridge,helper={helper},br={network}"), mac);
        self.start(name, unprivileged(stage).args(program))
    }

    /// Waits until every guest has its address.
    pub(super) fn leased(&mut self) -> Result<()> {
        self.guests.values_mut().try_for_each(Guest::leased)
    }

    /// Ends every guest.
    pub(super) fn quit(&mut self) -> Result<()> {
        std::mem::take(&mut self.guests).into_values().try_for_each(Guest::quit)
    }

    fn start(&mut self, name: &str, command: &mut Command) -> Result<()> {
        self.guests.insert(name.to_owned(), Guest::start(name, command)?);
        Ok(())
    }

    /// The words of a line whose program is one of ours.
    fn program(&self, stage: &Stage<'_>, line: &str) -> Vec<String> {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if let Some(program) = words.first_mut() {
            *program = stage.bin.join(&*program).display().to_string();
        }
        words
    }
}

/// A command as nobody.
fn unprivileged(stage: &Stage<'_>) -> Command {
    let mut command = stage.ws.command("setpriv");
    command.args(["--reuid", NOBODY, "--regid", "nogroup", "--clear-groups"]).current_dir("/");
    command
}

/// The value of `--ping` in a guest's options.
fn ping(options: &str) -> &str {
    let mut words = options.split_whitespace().skip_while(|word| *word != "--ping");
    words.nth(1).unwrap_or_default()
}
