//! A host on the outside: says who connects to it, and sends back what it gets.

use std::io::Write as _;
use std::net::TcpListener;

use crate::Result;

/// Serves at `address` (with port) until somebody ends it; a line for the address of each client.
pub(super) fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).map_err(|e| format!("{address}: {e}"))?;
    let say = |line: &str| -> Result<()> {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{line}")?;
        Ok(output.flush()?)
    };
    say("ready")?;
    for stream in listener.incoming() {
        let stream = stream?;
        say(&stream.peer_addr()?.ip().to_string())?;
        // A client that leaves early is its own affair.
        let _ = std::io::copy(&mut &stream, &mut &stream);
    }
    Ok(())
}
