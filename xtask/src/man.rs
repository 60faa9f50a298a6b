//! `cargo xtask man`: man pages and shell completions, from the definitions of the command lines themselves.

use crate::Result;
use crate::workspace::{Workspace, capture, run as run_command, write};

/// Shells, and what each calls the file with a command's completions.
const SHELLS: [(&str, &str); 3] = [("bash", "patchcord"), ("zsh", "_patchcord"), ("fish", "patchcord.fish")];

/// Writes both below `target`.
pub(crate) fn run(ws: &Workspace) -> Result<()> {
    run_command(&mut ws.cargo(["build", "--release", "--locked", "-p", "patchcord-cli", "-p", "patchcord-daemon"]))?;
    let patchcord = ws.target.join("release/patchcord");
    let pages = ws.target.join("man");
    std::fs::create_dir_all(&pages)?;
    run_command(ws.command(&patchcord).arg("man").arg(&pages))?;
    run_command(ws.command(ws.target.join("release/patchcordd")).arg("--man").arg(&pages))?;
    let completions = ws.target.join("completions");
    for (shell, file) in SHELLS {
        let text = capture(ws.command(&patchcord).args(["completions", shell]))?;
        std::fs::create_dir_all(completions.join(shell))?;
        write(&completions.join(shell).join(file), text)?;
    }
    println!("man pages are in {}, completions in {}", pages.display(), completions.display());
    Ok(())
}
