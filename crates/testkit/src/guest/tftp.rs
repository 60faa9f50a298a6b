//! A TFTP client (RFC 1350), as firmware has one that boots from the network.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::socket::udp;
use smoltcp::wire::IpEndpoint;

use super::{Guest, GuestError};

/// Bytes of a block; the last one has fewer.
const BLOCK: usize = 512;

impl Guest {
    /// Reads a file from `server`.
    ///
    /// # Errors
    /// `Timeout`; `Tftp` for a file that the server refuses.
    pub fn tftp_read(&mut self, file: &str, server: IpAddr, deadline: Duration) -> Result<Vec<u8>, GuestError> {
        self.source(server)?;
        let (handle, _) = self.udp_socket();
        // A read request goes to the port that is known, and what follows to the one that answered.
        let mut to = IpEndpoint::new(server.into(), 69);
        let mut packet = [b"\0\x01", file.as_bytes(), b"\0octet\0"].concat();
        let mut content = Vec::new();
        let mut block: u16 = 1;
        let mut sent: Option<Instant> = None;
        let ended = self.until(
            || format!("file {file} from TFTP server {server}"),
            deadline,
            |guest| {
                let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
                let mut ended = None;
                while let Ok((bytes, from)) = socket.recv() {
                    match bytes {
                        [0, 3, high, low, data @ ..] if [*high, *low] == block.to_be_bytes() => {
                            content.extend(data);
                            ended = ended.or((data.len() < BLOCK).then_some(Ok(())));
                            (packet, to) = (vec![0, 4, *high, *low], from.endpoint);
                            block = block.wrapping_add(1);
                            sent = None;
                        }
                        [0, 5, _, _, said @ ..] => {
                            let said = String::from_utf8_lossy(said).trim_end_matches('\0').to_owned();
                            ended = Some(Err(GuestError::Tftp { file: file.to_owned(), said }));
                        }
                        _ => {}
                    }
                }
                if sent.is_none_or(|at| at.elapsed() >= Duration::from_millis(500)) {
                    sent = Some(Instant::now());
                    // A full queue is a lost packet: it is sent again.
                    let _ = socket.send_slice(&packet, to);
                }
                ended
            },
        );
        // The last acknowledgement leaves before its socket goes.
        self.step(Instant::now());
        self.sockets.remove(handle);
        ended?.map(|()| content)
    }
}
