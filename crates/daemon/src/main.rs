//! `patchcordd`, in the foreground; ready when its sockets accept.
#![forbid(unsafe_code)]

use clap::Parser;
use patchcord_daemon::jobs::phrase;
use patchcord_daemon::service::{SPAWNER, Service, start_spawner};
use patchcord_host::root::Root;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// The Patchcord daemon: networks that guests name, and what each is on this host.
#[derive(Debug, Parser)]
#[command(name = "patchcordd", version, max_term_width = 100)]
struct Args {
    /// Put everything below DIR.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Read this configuration file instead of etc/patchcord/patchcord.toml below the root.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == SPAWNER) {
        return patchcord_host::spawner::spawner_main();
    }
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("patchcordd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let root = std::path::absolute(&args.root).map_err(|e| format!("--root {}: {e}", args.root.display()))?;
    let root = Root::new(root);
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let executable = std::env::current_exe().map_err(|e| format!("this program's own path is unknown: {e}"))?;
    let dnsmasq = Path::new("/usr/sbin/dnsmasq");
    let spawner = start_spawner(&executable, dnsmasq).map_err(|e| phrase(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .map_err(|e| format!("the event loop can't start: {e}"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let service = Service::open(&root, dnsmasq, spawner).await.map_err(|e| phrase(&e))?;
        let terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        service.run(stop(terminate, interrupt)).await;
        Ok(())
    })
}

async fn stop(mut terminate: tokio::signal::unix::Signal, mut interrupt: tokio::signal::unix::Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
