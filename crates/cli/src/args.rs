//! The command line: help, completions and man pages come from here.
#![allow(rustdoc::invalid_html_tags, reason = "clap prints these comments to people, who know <network> as XML")]

use crate::run::NicOption;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// The heading of options that all commands have.
const GLOBAL: &str = "Global options";

/// Logical switches for virtual machines: networks that guests name, and the NICs plugged into them
///
/// Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 not found, 4 in conflict or in use, 5 failed and not put
/// back entirely.
#[derive(Debug, Parser)]
#[command(name = "patchcord", version)]
pub struct Cli {
    /// Where the daemon is.
    #[command(flatten)]
    pub place: Place,
    /// Print one JSON document instead of text
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the daemon is.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// The daemon's root directory [default: /]
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide_default_value = true)]
    #[arg(help_heading = GLOBAL)]
    pub root: PathBuf,
    /// The daemon's socket [default: run/patchcord/patchcord.sock below the root]
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "root", help_heading = GLOBAL)]
    pub socket: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Define, start, change and show networks
    #[command(subcommand, visible_alias = "net")]
    Network(NetworkCommand),
    /// Attach, change and show guests' NICs
    #[command(subcommand)]
    Nic(NicCommand),
    /// Show the host's devices that networks share out
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Run a program with NICs that live as long as it does
    ///
    /// The program gets open descriptors of the NICs' taps. In its arguments, {fd0} stands for the descriptor of the
    /// first NIC (several with colons between them if it has several queues), {tap0} for its tap's name, {mac0} for its
    /// MAC address, {pci0} for its PCI address where it is a virtual function, and {fd1} and so on for the others'.
    #[command(after_help = "Example:\n  patchcord run --nic network=lab -- \
        qemu-system-x86_64 -netdev tap,id=n0,fd={fd0} -device virtio-net-pci,netdev=n0,mac={mac0}")]
    Run(RunCommand),
    /// Take networks over from other programs, as they run
    #[command(subcommand)]
    Import(ImportCommand),
    /// Show what there is, and with --follow what happens
    Events(EventsCommand),
    /// Show what is plugged where
    Topology(TopologyCommand),
    /// Print a shell's completions
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    #[command(hide = true)]
    Man {
        /// Where to
        directory: PathBuf,
    },
}

/// `patchcord network`.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Store a network's definition
    Define {
        /// File with <network>, or - for the standard input
        file: PathBuf,
    },
    /// List networks; with options, those that fit all of them
    List(ListOptions),
    /// Print a network's XML, or with --json what is known of it
    Show {
        /// Name or UUID
        name: String,
        /// The stored definition instead of what runs
        #[arg(long)]
        inactive: bool,
    },
    /// Start a network
    Start {
        /// Name or UUID
        name: String,
    },
    /// Stop a network; its NICs stay and are plugged in again when it starts
    Stop {
        /// Name or UUID
        name: String,
    },
    /// Forget a network's definition
    Undefine {
        /// Name or UUID
        name: String,
    },
    /// Start a network whenever the daemon starts
    Autostart {
        /// Name or UUID
        name: String,
        /// Not any more
        #[arg(long)]
        off: bool,
    },
    /// Change one part of a network
    ///
    /// Without --live and --config, what runs is changed if it does, else the definition.
    Update {
        /// Name or UUID
        name: String,
        /// What to do with the part
        command: UpdateWord,
        /// Which part: bridge, domain, ip, ip-dhcp-host, ip-dhcp-range, forward, forward-interface, forward-pf, portgroup,
        /// dns-host, dns-txt, dns-srv or bandwidth
        section: String,
        /// The part's XML, a file with it, or - for the standard input
        xml: String,
        /// Which of several <ip> elements, counted from 0
        #[arg(long, value_name = "INDEX")]
        parent: Option<u32>,
        /// Change what runs
        #[arg(long)]
        live: bool,
        /// Change the definition
        #[arg(long)]
        config: bool,
    },
    /// Edit a network's definition with $VISUAL or $EDITOR
    Edit {
        /// Name or UUID
        name: String,
    },
    /// List the NICs on a network
    Ports {
        /// Name or UUID
        name: String,
    },
    /// List a network's leases
    Leases {
        /// Name or UUID
        name: String,
    },
    /// Tell whether a NIC would attach to a network, and what it would get
    ///
    /// The document's source names that network, or nothing (type='none'): then it is as if it did. One that names anything
    /// else is refused, as the answer would be about another NIC than the one that is attached with it.
    Check {
        /// Name or UUID
        name: String,
        /// File with a guest's <interface>, or - for the standard input
        file: PathBuf,
        /// The guest it would belong to
        #[arg(long, default_value = "(new guest)")]
        guest: String,
        /// The guest's UUID: with its MAC, it claims what is reserved
        #[arg(long, value_name = "UUID")]
        guest_uuid: Option<String>,
        /// Hold what it would get for so long, and print the reservation's id (with --json its end, too)
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
        reserve: Option<u32>,
    },
}

/// Which networks to list.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Of this forward mode: isolated, nat, route, open, bridge, private, vepa, passthrough or hostdev
    #[arg(long)]
    pub mode: Option<String>,
    /// With this label; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// With a portgroup of this name
    #[arg(long)]
    pub portgroup: Option<String>,
    /// With at least so many devices that nobody holds
    #[arg(long, value_name = "NUMBER")]
    pub free_devices: Option<usize>,
    /// Running
    #[arg(long)]
    pub active: bool,
}

/// `patchcord device`.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// List devices with their networks, who holds them, and whether there is room for more
    List,
    /// Tell of devices that come and go, until interrupted; with --json one document on each line
    Watch,
}

/// What to do with a part of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UpdateWord {
    /// Add it behind the others
    Add,
    /// Add it before the others
    AddFirst,
    /// Put it in place of the one it names
    Modify,
    /// Remove the one it names
    Delete,
}

/// `patchcord nic`.
#[derive(Debug, Subcommand)]
pub enum NicCommand {
    /// Attach a NIC and print its id
    ///
    /// Without --by-name the daemon keeps the tap until its owner fetches the descriptor through the API.
    Attach {
        /// The guest's name
        #[arg(long)]
        guest: String,
        /// The guest's UUID
        #[arg(long, value_name = "UUID")]
        guest_uuid: Option<String>,
        /// The process that the NIC ends with
        #[arg(long)]
        pid: Option<u32>,
        /// Make a tap that persists and is opened by its name
        #[arg(long)]
        by_name: bool,
        /// Who may open it
        #[arg(long, requires = "by_name")]
        uid: Option<u32>,
        /// The reservation that it claims
        #[arg(long, value_name = "ID")]
        reservation: Option<String>,
        /// File with a guest's <interface>, or - for the standard input
        file: PathBuf,
    },
    /// List NICs
    List,
    /// Print a NIC's XML, or with --json what is known of it
    Show {
        /// The NIC's id
        id: String,
        /// As it was given, instead of what it resolved to
        #[arg(long)]
        inactive: bool,
    },
    /// Give a NIC another configuration while it runs
    Modify {
        /// The NIC's id
        id: String,
        /// File with a guest's <interface>, or - for the standard input
        file: PathBuf,
    },
    /// Plug or pull a NIC's cable
    Link {
        /// The NIC's id
        id: String,
        /// Which
        state: LinkWord,
    },
    /// Give a NIC to another process
    Own {
        /// The NIC's id
        id: String,
        /// The process that the NIC ends with from now on
        #[arg(long)]
        pid: u32,
    },
    /// Detach a NIC
    Detach {
        /// The NIC's id
        id: String,
    },
}

/// Whether a cable is plugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LinkWord {
    /// Plugged
    Up,
    /// Pulled
    Down,
}

/// `patchcord run`.
#[derive(Debug, Args)]
pub struct RunCommand {
    /// The guest's name [default: the program's name and process id]
    #[arg(long)]
    pub guest: Option<String>,
    /// A NIC; commas in a value are doubled
    #[arg(long = "nic", required = true, value_name = "network=NET[,portgroup=PG][,mac=MAC][,queues=N]")]
    pub nics: Vec<NicOption>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_names = ["PROGRAM", "ARGS"])]
    pub program: Vec<std::ffi::OsString>,
}

/// `patchcord import`.
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Take over all networks of libvirt's daemon, which must not run; guests' traffic goes on
    ///
    /// Definitions come from etc/libvirt/qemu/networks. Networks that run keep their bridge, addresses, leases and guests'
    /// ports; dnsmasq and packet rules are replaced. What can't be taken over is left as it is, and the status is 1.
    Libvirt {
        /// Only tell what would be done
        #[arg(long)]
        dry_run: bool,
        /// Hand all networks back, for libvirt's daemon to be started then
        #[arg(long)]
        undo: bool,
    },
}

/// `patchcord events`.
#[derive(Debug, Args)]
pub struct EventsCommand {
    /// Go on with every event, with --json one document on each line
    #[arg(long)]
    pub follow: bool,
}

/// `patchcord topology`.
#[derive(Debug, Args)]
pub struct TopologyCommand {
    /// Draw a picture too
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}
