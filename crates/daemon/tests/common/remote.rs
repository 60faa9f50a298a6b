//! libvirt's clients: virsh, and one of our own that may say what it likes.

use super::{Host, SOON};
use patchcord_libvirt_wire::frame::{REMOTE, VERSION};
use patchcord_libvirt_wire::xdr::{Reader, Writer};
use patchcord_libvirt_wire::{Decoder, Frame, Header, Kind, Procedure, Status};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) fn socket(host: &Host<'_>, read_only: bool) -> PathBuf {
    host.root.join(if read_only { "run/libvirt/virtnetworkd-sock-ro" } else { "run/libvirt/virtnetworkd-sock" })
}

pub(crate) fn virsh(host: &Host<'_>, read_only: bool, arguments: &[&str]) -> Command {
    let mut virsh = Command::new("virsh");
    let uri = format!("network+unix:///system?socket={}", socket(host, read_only).display());
    virsh.args(["-c", &uri]).args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
    virsh
}

/// What virsh prints of something that works.
pub(crate) fn says(host: &Host<'_>, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = virsh(host, false, arguments).output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(status.success(), "virsh {arguments:?}: {stdout}{stderr}\n{}", host.log());
    stdout
}

/// A client of our own, which may say what it likes.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
}

impl Client {
    pub(crate) fn new(host: &Host<'_>) -> Self {
        Self::at(host, false)
    }

    pub(crate) fn at(host: &Host<'_>, read_only: bool) -> Self {
        Self::on(&socket(host, read_only))
    }

    pub(crate) fn on(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self { stream, decoder: Decoder::default() }
    }

    pub(crate) fn opened(host: &Host<'_>) -> Self {
        Self::opened_at(host, false)
    }

    pub(crate) fn opened_at(host: &Host<'_>, read_only: bool) -> Self {
        let mut client = Self::at(host, read_only);
        client.say(&call(Procedure::ConnectOpen, 0, Writer::default().u32(0).u32(0)));
        assert_eq!(client.hears().unwrap().header.status, Status::Ok);
        client
    }

    pub(crate) fn say(&mut self, frame: &Frame) {
        self.stream.write_all(&frame.encode()).unwrap();
    }

    /// The next packet; none when the server has closed the connection.
    pub(crate) fn hears(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&bytes[..count]),
                // What it had not read of what we sent it lets us know.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The code and the message of the refusal that comes next.
    pub(crate) fn hears_refusal(&mut self) -> (i32, String) {
        let Frame { header, payload } = self.hears().unwrap();
        assert_eq!(header.status, Status::Error);
        let mut r = Reader::new(&payload);
        let (code, _domain) = (r.i32("").unwrap(), r.i32("").unwrap());
        (code, r.option("", |r| r.string("")).unwrap().unwrap())
    }
}

pub(crate) fn bytes(uuid: &str) -> [u8; 16] {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    std::array::from_fn(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).unwrap())
}

pub(crate) fn call(procedure: Procedure, serial: u32, arguments: &Writer) -> Frame {
    let procedure = procedure.number();
    let header = Header { program: REMOTE, version: VERSION, procedure, kind: Kind::Call, serial, status: Status::Ok };
    Frame { header, payload: arguments.clone().into_bytes() }
}
