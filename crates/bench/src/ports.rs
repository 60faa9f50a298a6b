//! libvirt's network ports, by its wire protocol: what one more costs beside many.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use patchcord_api::methods::CreateNetwork;
use patchcord_libvirt_wire::frame::{REMOTE, VERSION};
use patchcord_libvirt_wire::xdr::Writer;
use patchcord_libvirt_wire::{Decoder, Frame, Header, Kind, Procedure, Status};
use patchcord_testkit::Namespace;
use rustix::thread::CpuSet;

use crate::daemon::Daemon;
use crate::stats::{Samples, table, timed};
use crate::{Result, Setup};

/// How many are made and deleted beside those that there are, at a time.
const ROUNDS: usize = 400;
/// How often the host is brought to each number of ports.
const PASSES: usize = 5;

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

/// Makes and deletes ports until there are so many.
fn bring_to(client: &mut Client, there: &mut u32, count: u32) -> Result<()> {
    while *there < count {
        *there += 1;
        create(client, *there)?;
    }
    while *there > count {
        delete(client, *there)?;
        *there -= 1;
    }
    Ok(())
}

/// Has this thread and all that it starts share one processor. Where the scheduler puts a client and a daemon that wait for each
/// other makes a factor of two to four in what a call takes, and changes from one second to the next.
fn stay_on_one_processor() -> Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)).ok_or("there is no processor to run on")?;
    let mut one = CpuSet::new();
    one.set(last);
    Ok(rustix::thread::sched_setaffinity(None, &one)?)
}

/// Creating, looking up, describing and deleting one port beside many.
pub(crate) fn run(setup: &Setup, _: &Namespace) -> Result<()> {
    let (counts, passes): (&[u32], _) = if setup.quick { (&[100], 1) } else { (&[100, 1_000, 10_000], PASSES) };
    stay_on_one_processor()?;
    let mut daemon = Daemon::start(&setup.program)?;
    let uuid = "07070707-0707-0707-0707-070707070707";
    daemon.call(&CreateNetwork { xml: format!("<network><name>ports</name><uuid>{uuid}</uuid></network>") })?;
    let mut client = Client::open(&daemon)?;
    let mut times = vec![<[Samples; 5]>::default(); counts.len()];
    let mut there = 0;
    // In turn, so that what else the machine does tells at each number alike.
    for _ in 0..passes {
        for (&count, times) in counts.iter().zip(&mut times) {
            bring_to(&mut client, &mut there, count)?;
            for number in (count + 1..).take(ROUNDS) {
                let port = network().uuid(id(number)).clone();
                times[0].push(timed(|| create(&mut client, number))?.0);
                times[1].push(timed(|| client.call(Procedure::NetworkPortLookupByUuid, &port))?.0);
                times[2].push(timed(|| client.call(Procedure::NetworkPortGetXmlDesc, port.clone().u32(0)))?.0);
                times[3].push(timed(|| delete(&mut client, number))?.0);
            }
            times[4].push(timed(|| client.call(Procedure::NetworkListAllPorts, network().u32(1).u32(0)))?.0);
        }
    }
    let rows: Vec<Vec<String>> = counts
        .iter()
        .zip(&times)
        .map(|(count, of)| {
            let ratio = |what: usize| crate::stats::ratio(of[what].p50(), times[0][what].p50());
            vec![
                count.to_string(),
                of[0].cell(),
                ratio(0),
                of[1].cell(),
                of[2].cell(),
                of[3].cell(),
                ratio(3),
                crate::stats::show(of[4].p50()),
            ]
        })
        .collect();
    let title = format!(
        "libvirt's network ports, over its wire protocol ({} round trips at each number, client and daemon on one processor)",
        passes * ROUNDS
    );
    let head = [
        "ports",
        "create",
        "against the first row",
        "look up",
        "describe",
        "delete",
        "against the first row",
        "list all",
    ];
    table(&title, &head, &rows);
    Ok(())
}
