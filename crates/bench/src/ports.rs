//! libvirt's network ports, by its wire protocol: what one more costs beside many.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use patchcord_api::methods::CreateNetwork;
use patchcord_libvirt_wire::frame::{REMOTE, VERSION};
use patchcord_libvirt_wire::xdr::Writer;
use patchcord_libvirt_wire::{Decoder, Frame, Header, Kind, Procedure, Status};
use patchcord_testkit::Namespace;

use crate::daemon::Daemon;
use crate::stats::{Samples, table, timed};
use crate::{Result, Setup};

/// How many are made and deleted beside those that there are.
const ROUNDS: u32 = 200;

/// A client that asks one thing at a time.
struct Client {
    stream: UnixStream,
    decoder: Decoder,
    serial: u32,
}

impl Client {
    fn open(daemon: &Daemon) -> Result<Self> {
        let stream = UnixStream::connect(daemon.root().join("run/libvirt/virtnetworkd-sock"))?;
        let mut client = Self { stream, decoder: Decoder::default(), serial: 0 };
        client.call(Procedure::ConnectOpen, Writer::default().u32(0).u32(0))?;
        Ok(client)
    }

    fn call(&mut self, procedure: Procedure, arguments: &Writer) -> Result<Vec<u8>> {
        let (procedure, serial) = (procedure.number(), self.serial);
        let header =
            Header { program: REMOTE, version: VERSION, procedure, kind: Kind::Call, serial, status: Status::Ok };
        self.serial += 1;
        self.stream.write_all(&Frame { header, payload: arguments.clone().into_bytes() }.encode())?;
        loop {
            if let Some(Frame { header, payload }) = self.decoder.next_frame()? {
                let refused = || format!("procedure {procedure} is refused: {}", String::from_utf8_lossy(&payload));
                return if header.status == Status::Ok { Ok(payload) } else { Err(refused().into()) };
            }
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes)? {
                0 => return Err("the daemon has closed the connection".into()),
                count => self.decoder.push(&bytes[..count]),
            }
        }
    }
}

/// A network as calls name it.
fn network() -> Writer {
    let mut w = Writer::default();
    w.string("ports").uuid([7; 16]);
    w
}

/// Ports' ids and addresses are made of their number.
fn id(number: u32) -> [u8; 16] {
    let mut id = [0x5a; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    id
}

fn create(client: &mut Client, number: u32) -> Result<()> {
    let uuid: String = id(number).iter().map(|byte| format!("{byte:02x}")).collect();
    let [_, a, b, c] = number.to_be_bytes();
    let xml = format!(
        "<networkport><uuid>{uuid}</uuid><owner><name>g{number}</name><uuid>{uuid}</uuid></owner>\
         <mac address='52:54:00:{a:02x}:{b:02x}:{c:02x}'/></networkport>"
    );
    client.call(Procedure::NetworkPortCreateXml, network().string(&xml).u32(0)).map(drop)
}

fn delete(client: &mut Client, number: u32) -> Result<()> {
    client.call(Procedure::NetworkPortDelete, network().uuid(id(number)).u32(0)).map(drop)
}

/// Creating, looking up, describing and deleting one port beside many.
pub(crate) fn run(setup: &Setup, _: &Namespace) -> Result<()> {
    let counts: &[u32] = if setup.quick { &[100] } else { &[100, 1_000, 10_000] };
    let mut daemon = Daemon::start(&setup.program)?;
    let uuid = "07070707-0707-0707-0707-070707070707";
    daemon.call(&CreateNetwork { xml: format!("<network><name>ports</name><uuid>{uuid}</uuid></network>") })?;
    let mut client = Client::open(&daemon)?;
    let (mut rows, mut there) = (Vec::new(), 0);
    for &count in counts {
        while there < count {
            there += 1;
            create(&mut client, there)?;
        }
        let mut times = [Samples::default(), Samples::default(), Samples::default(), Samples::default()];
        for round in 0..ROUNDS {
            let number = count + 1 + round;
            times[0].push(timed(|| create(&mut client, number))?.0);
            times[1].push(timed(|| client.call(Procedure::NetworkPortLookupByUuid, network().uuid(id(number))))?.0);
            times[2]
                .push(timed(|| client.call(Procedure::NetworkPortGetXmlDesc, network().uuid(id(number)).u32(0)))?.0);
            times[3].push(timed(|| delete(&mut client, number))?.0);
        }
        let (list, _) = timed(|| client.call(Procedure::NetworkListAllPorts, network().u32(1).u32(0)))?;
        let cells = times.iter().map(Samples::cell).chain([crate::stats::show(list)]);
        rows.push([count.to_string()].into_iter().chain(cells).collect());
    }
    let title = "libvirt's network ports, over its wire protocol (a client's round trips)";
    table(title, &["ports", "create", "look up", "describe", "delete", "list all"], &rows);
    Ok(())
}
