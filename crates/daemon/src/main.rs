//! `patchcordd`, in the foreground; ready when its sockets accept.
#![forbid(unsafe_code)]

use clap::{CommandFactory, Parser};
use patchcord_core::model::DevicePlug;
use patchcord_daemon::access::{Access, GROUPS, PASSWD};
use patchcord_daemon::config::{Config, LogLevel};
use patchcord_daemon::confine::{Uses, confine};
use patchcord_daemon::import::Importer;
use patchcord_daemon::jobs::phrase;
use patchcord_daemon::libvirt;
use patchcord_daemon::native;
use patchcord_daemon::service::{SPAWNER, Service, make_directories, reclaim, start_spawner};
use patchcord_daemon::systemd;
use patchcord_host::macvtap::device_major;
use patchcord_host::root::Root;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{Level, warn};

/// Jobs that block at once: dnsmasq's starts and ends.
const BLOCKING: usize = 8;

/// The Patchcord daemon: networks that guests name, and what each is on this host.
///
/// It stays in the foreground, is ready when its sockets accept, logs to the standard error, and ends at SIGTERM or SIGINT.
/// Networks and NICs stay as they are without it.
#[derive(Debug, Parser)]
#[command(name = "patchcordd", version, max_term_width = 100)]
struct Args {
    /// Put everything below DIR.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Read this configuration file instead of etc/patchcord/patchcord.toml below the root.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the man page to DIR instead of serving.
    #[arg(long, value_name = "DIR", hide = true)]
    man: Option<PathBuf>,
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == SPAWNER) {
        return patchcord_host::spawner::spawner_main();
    }
    let args = Args::parse();
    let done = match &args.man {
        None => run(&args),
        Some(directory) => man_page(directory),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There may be nobody to read it.
            let _ = writeln!(std::io::stderr(), "patchcordd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let root = std::path::absolute(&args.root).map_err(|e| format!("--root {}: {e}", args.root.display()))?;
    let root = Root::new(root);
    let file = args.config.clone().unwrap_or_else(|| root.config());
    let config = Config::load(&file, args.config.is_some()).map_err(|e| phrase(&e))?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(level(config.log))
        // Whoever reads the log may be gone, or the disk full: that is no reason to end.
        .log_internal_errors(false)
        .init();
    let executable = std::env::current_exe().map_err(|e| format!("this program's own path is unknown: {e}"))?;
    let spawner = start_spawner(&executable, &config.dnsmasq, &root).map_err(|e| phrase(&e))?;
    // After the spawner was started: programs that close all descriptors there could be would take long.
    allow_descriptors();
    make_directories(&root).map_err(|e| phrase(&e))?;
    let reclaimed = reclaim(&root).map_err(|e| phrase(&e))?;
    // Before there are other threads: they would keep what this one gives up.
    let macvtaps = config.devices.plug == DevicePlug::Macvtap || device_major().is_some();
    confine(&root, Uses { macvtaps, drivers: config.devices.bind_drivers });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING)
        .build()
        .map_err(|e| format!("the event loop can't start: {e}"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let service = Service::open(&root, &config, spawner, reclaimed).await.map_err(|e| phrase(&e))?;
        let listener = systemd::native_listener(&root.native_socket()).map_err(|e| phrase(&e))?;
        let doors = libvirt::open(&root, config.libvirt).map_err(|e| e.to_string())?;
        let access = Arc::new(Access::new(config.access));
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        for stranger in access.strangers(&read(PASSWD), &read(GROUPS)) {
            warn!("{stranger}");
        }
        let importer = Arc::new(Importer::new(root.base()));
        let clients = tokio::task::spawn_local(libvirt::serve(
            doors,
            root.clone(),
            config.libvirt,
            service.handle(),
            service.heard(),
        ));
        let door = tokio::task::spawn_local(native::serve(listener, service.handle(), access, importer));
        systemd::ready();
        let terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        service.run(stop(terminate, interrupt)).await;
        door.abort();
        clients.abort();
        Ok(())
    })
}

/// Writes the man page of this program, among those of system administration.
fn man_page(directory: &Path) -> Result<(), String> {
    let failed = |error| format!("can't write a man page to {}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::Man::new(Args::command()).section("8").generate_to(directory).map_err(failed)?;
    Ok(())
}

const fn level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}

/// As many descriptors as we may have: one for each tap, owner, dnsmasq and client.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit on descriptors can't be raised");
    }
}

async fn stop(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
