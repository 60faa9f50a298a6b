//! The nfnetlink socket: commits transactions and reads the ruleset.

use std::os::fd::{AsFd, BorrowedFd};

use super::batch::Batch;
use super::read::{self, Chain, Generation, Rule, Table};
use super::set::{self, Element, KeyKind};
use super::{
    Family, GETCHAIN, GETGEN, GETRULE, GETSET, GETSETELEM, GETTABLE, HEADER, NEWCHAIN, NEWGEN, NEWRULE, NEWSET,
    NEWSETELEM, NEWTABLE, SUBSYSTEM,
};
use crate::attr::{Attrs, Writer};
use crate::channel::{self, Channel, Consistency, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR};
use crate::error::{Error, KernelError};
use crate::{extack, frame};

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const BATCH_GENID: u16 = 1;
/// A transaction is one message to the socket, so its buffer bounds it: this holds about 20,000 rules.
const SEND_BUFFER: usize = 8 * 1024 * 1024;
const DUMP_ATTEMPTS: u32 = 5;
const COMMIT: &str = "change the nftables ruleset";

/// An nfnetlink socket for nftables, of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    channel: Channel,
}

/// What a committed transaction brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    handles: Vec<Option<u64>>,
}

impl Committed {
    /// The handle of the rule that was added by the message at this position.
    pub fn rule_handle(&self, message: usize) -> Option<u64> {
        self.handles.get(message).copied().flatten()
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        let channel = Channel::open(netlink_sys::protocols::NETLINK_NETFILTER, channel::KERNEL)?;
        // Without CAP_NET_ADMIN the default is enough for reading, and nothing else is allowed.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&channel, SEND_BUFFER);
        Ok(Socket { channel })
    }

    /// The socket's port, by which [`Monitor`](super::Monitor) tells our own changes from others'.
    pub fn port(&self) -> u32 {
        self.channel.port()
    }

    /// Commits a transaction: all of it takes effect, or nothing.
    ///
    /// # Errors
    /// [`Error::Transaction`] names the first message that was refused, or none when the kernel refused the transaction
    /// as a whole: with ERESTART (85) when the ruleset is of another generation than the batch asks for.
    pub fn commit(&mut self, batch: &Batch) -> Result<Committed, Error> {
        if let Some((message, why)) = batch.fault {
            let source = KernelError {
                errno: rustix::io::Errno::TOOBIG.raw_os_error(),
                ext_ack: Some(why.to_owned()),
                offset: None,
                attribute: Vec::new(),
                missing: None,
            };
            return Err(refused(batch, Some(message), source));
        }
        if batch.is_empty() {
            return Ok(Committed::default());
        }
        let count = batch.messages.len();
        let first = self.channel.sequences(count as u32 + 2);
        let mut bytes = Vec::new();
        frame::append(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, first, &batch_header(batch.generation));
        let mut starts = vec![0];
        for (message, sequence) in batch.messages.iter().zip(first + 1..) {
            starts.push(bytes.len());
            // One acknowledgement tells that the kernel is through; errors come unasked.
            let last = sequence as usize == first as usize + count;
            let ack = if last { NLM_F_ACK } else { 0 };
            frame::append(&mut bytes, message.kind, message.flags | NLM_F_REQUEST | ack, sequence, &message.body);
        }
        starts.push(bytes.len());
        frame::append(&mut bytes, BATCH_END, NLM_F_REQUEST, first + count as u32 + 1, &batch_header(None));
        self.channel.send(COMMIT, &bytes)?;

        let mut committed = Committed { handles: vec![None; count] };
        let mut refusal = None;
        self.channel.receive(COMMIT, |frame| {
            let Some(at) = frame.sequence.checked_sub(first).map(|n| n as usize).filter(|n| *n <= count) else {
                return Ok(false);
            };
            if frame.kind != NLMSG_ERROR {
                if let (NEWRULE, Some(rule), 1..) = (frame.kind, read::rule(frame.payload), at) {
                    committed.handles[at - 1] = Some(rule.handle);
                }
                return Ok(false);
            }
            if let Err(mut source) = extack::read_error(frame.payload, frame.flags)
                && refusal.is_none()
            {
                if at > 0 {
                    extack::locate(&mut source, &bytes[starts[at]..starts[at + 1]], HEADER);
                }
                refusal = Some(refused(batch, at.checked_sub(1), source));
            }
            // An error about the beginning is about the whole, and the last one that comes.
            Ok(at == 0 || at == count)
        })?;
        match refusal {
            Some(error) => Err(error),
            None => Ok(committed),
        }
    }

    /// The ruleset's generation, and who made it.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn generation(&mut self) -> Result<Generation, Error> {
        const WHAT: &str = "read the nftables generation";
        let sequence = self.channel.sequences(1);
        let mut bytes = Vec::new();
        frame::append(&mut bytes, GETGEN, NLM_F_REQUEST | NLM_F_ACK, sequence, &[0; HEADER]);
        self.channel.send(WHAT, &bytes)?;
        let mut generation = None;
        self.channel.receive(WHAT, |frame| {
            if frame.sequence != sequence {
                return Ok(false);
            }
            match frame.kind {
                NLMSG_ERROR => extack::read_error(frame.payload, frame.flags)
                    .map(|()| true)
                    .map_err(|source| Error::Kernel { request: WHAT, source }),
                NEWGEN => {
                    generation = read::generation(frame.payload);
                    Ok(false)
                }
                _ => Ok(false),
            }
        })?;
        generation.ok_or(Error::Answer { request: WHAT, what: "without a generation" })
    }

    /// All tables of the namespace, others' too.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn tables(&mut self) -> Result<Vec<Table>, Error> {
        let request = request(None, |_| {});
        self.dump("list nftables tables", GETTABLE, &request, NEWTABLE, |payload| read::table(payload).into_iter())
    }

    /// All chains of the namespace, others' too.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn chains(&mut self) -> Result<Vec<Chain>, Error> {
        let request = request(None, |_| {});
        self.dump("list nftables chains", GETCHAIN, &request, NEWCHAIN, |payload| read::chain(payload).into_iter())
    }

    /// The rules of a table, or of one chain of it, in order. A table or chain that does not exist has none.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn rules(&mut self, family: Family, table: &str, chain: Option<&str>) -> Result<Vec<Rule>, Error> {
        let request = request(Some(family), |attrs| {
            attrs.text(1, table);
            if let Some(chain) = chain {
                attrs.text(2, chain);
            }
        });
        let wanted = |rule: &Rule| rule.table == table && chain.is_none_or(|chain| rule.chain == chain);
        let read = |payload: &[u8]| read::rule(payload).filter(wanted).into_iter();
        absent_is_empty(self.dump("list nftables rules", GETRULE, &request, NEWRULE, read))
    }

    /// The names of a table's sets and maps. A table that does not exist has none.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn set_names(&mut self, family: Family, table: &str) -> Result<Vec<String>, Error> {
        const SET_NAME: u16 = 2;
        let request = request(Some(family), |attrs| {
            attrs.text(1, table);
        });
        let read = |payload: &[u8]| {
            let name = Attrs::after(payload, HEADER).find(|attr| attr.kind == SET_NAME);
            name.map(|attr| attr.text()).into_iter()
        };
        absent_is_empty(self.dump("list nftables sets", GETSET, &request, NEWSET, read))
    }

    /// The elements of a set or map with keys of this kind. One that does not exist has none.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn elements(&mut self, family: Family, table: &str, name: &str, key: KeyKind) -> Result<Vec<Element>, Error> {
        let request = request(Some(family), |attrs| {
            attrs.text(1, table).text(2, name);
        });
        let read = |payload: &[u8]| set::read(payload).into_iter();
        let raw = absent_is_empty(self.dump("list nftables elements", GETSETELEM, &request, NEWSETELEM, read))?;
        Ok(set::combine(key, raw))
    }

    /// Dumps, and repeats it when the ruleset changed meanwhile; the last attempt counts as it is, since the change
    /// itself is announced by the generation.
    fn dump<T, I: Iterator<Item = T>>(
        &mut self,
        what: &'static str,
        kind: u16,
        body: &[u8],
        wanted: u16,
        mut read: impl FnMut(&[u8]) -> I,
    ) -> Result<Vec<T>, Error> {
        let mut attempt = 1;
        loop {
            let mut entries = Vec::new();
            let collect = |kind, payload: &[u8]| {
                if kind == wanted {
                    entries.extend(read(payload));
                }
            };
            let consistency = self.channel.dump(what, kind, body, HEADER, collect)?;
            if consistency == Consistency::Whole || attempt == DUMP_ATTEMPTS {
                return Ok(entries);
            }
            attempt += 1;
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn request(family: Option<Family>, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut body = Writer::new();
    body.raw(&[family.map_or(0, Family::number), 0, 0, 0]);
    fill(&mut body);
    body.into_bytes()
}

/// The `nfgenmsg` of a batch's first and last message: the subsystem where others have a resource, big-endian.
fn batch_header(generation: Option<u32>) -> Vec<u8> {
    let mut body = Writer::new();
    let [high, low] = SUBSYSTEM.to_be_bytes();
    body.raw(&[0, 0, high, low]);
    if let Some(generation) = generation {
        body.be32(BATCH_GENID, generation);
    }
    body.into_bytes()
}

fn refused(batch: &Batch, message: Option<usize>, source: KernelError) -> Error {
    let object = message
        .and_then(|at| batch.messages.get(at))
        .map_or_else(|| "the transaction".to_owned(), |message| message.object.clone());
    Error::Transaction { object, message, source }
}

fn absent_is_empty<T>(result: Result<Vec<T>, Error>) -> Result<Vec<T>, Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        result => result,
    }
}
