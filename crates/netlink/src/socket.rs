//! The rtnetlink socket: single requests, batches and dumps.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NetlinkSerializable;
use netlink_packet_route::RouteNetlinkMessage;

use crate::channel::{self, Channel, Consistency, NLM_F_ACK, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use crate::error::Error;
use crate::{extack, frame};

/// Messages in one system call. Their acknowledgements must fit the socket's receive buffer, also an unprivileged one.
const BATCH_MESSAGES: usize = 128;
/// Bytes in one system call, below the default send buffer.
const BATCH_BYTES: usize = 64 * 1024;
/// How often a dump is repeated that changed under our eyes.
const DUMP_ATTEMPTS: u32 = 5;

/// One change that rtnetlink is asked for. Made by the constructors beside the objects (such as
/// [`Request::set_link`]), carried out by [`Socket::execute`] or, many at once, by [`Socket::execute_all`].
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) name: &'static str,
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) body: Vec<u8>,
    fixed_header: usize,
}

impl Request {
    /// Encodes a message. `name` is a verb phrase for errors, `fixed_header` the length of the message's own header,
    /// from which attributes are counted.
    pub(crate) fn new(name: &'static str, flags: u16, fixed_header: usize, message: &RouteNetlinkMessage) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Request { name, kind: message.message_type(), flags, body, fixed_header }
    }

    /// A message that the packet crates don't know; `body` begins with the message's own header.
    pub(crate) fn encoded(name: &'static str, kind: u16, fixed_header: usize, body: Vec<u8>) -> Self {
        Request { name, kind, flags: 0, body, fixed_header }
    }

    /// Appends the message as it goes to the kernel.
    pub(crate) fn append(&self, bytes: &mut Vec<u8>, sequence: u32) {
        frame::append(bytes, self.kind, self.flags | NLM_F_REQUEST | NLM_F_ACK, sequence, &self.body);
    }

    /// The verb phrase that errors about this request begin with.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// The answer to a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump<T> {
    /// What the kernel listed.
    pub entries: Vec<T>,
    /// False when the table changed during each of several attempts: entries may be missing or twice in it. Act on it, and
    /// read again later.
    pub consistent: bool,
}

impl<T> IntoIterator for Dump<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

/// A blocking rtnetlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    channel: Channel,
}

impl Socket {
    /// The kernel's own port.
    pub const KERNEL: u32 = channel::KERNEL;

    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        Self::open_to(Self::KERNEL)
    }

    /// The same to whoever has that port: the kernel, or a process that plays it.
    ///
    /// # Errors
    /// [`Error::Open`], with EPERM for a process's port without CAP_NET_ADMIN.
    pub fn open_to(port: u32) -> Result<Self, Error> {
        Ok(Socket { channel: Channel::open(netlink_sys::protocols::NETLINK_ROUTE, port)? })
    }

    /// One of this netlink protocol, whose requests are answered alike.
    pub(crate) fn on(protocol: isize) -> Result<Self, Error> {
        Ok(Socket { channel: Channel::open(protocol, Self::KERNEL)? })
    }

    /// Carries out one request and waits for the kernel's acknowledgement.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the kernel refuses; what it says besides its errno is part of the error.
    pub fn execute(&mut self, request: &Request) -> Result<(), Error> {
        self.ask(request).map(drop)
    }

    /// Carries out requests in order with as few system calls as possible and gives each one's result. A refused request
    /// does not stop the ones behind it.
    ///
    /// # Errors
    /// Only when the socket itself fails: then it is unknown which requests took effect.
    pub fn execute_all(&mut self, requests: &[Request]) -> Result<Vec<Result<(), Error>>, Error> {
        let mut results = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |request: &&Request| {
                bytes += frame::HEADER + request.body.len() + 3;
                bytes <= BATCH_BYTES
            };
            let count = rest.iter().take(BATCH_MESSAGES).take_while(fits).count().max(1);
            let (chunk, later) = rest.split_at(count);
            self.exchange(chunk, &mut results, |_, _| {})?;
            rest = later;
        }
        Ok(results)
    }

    /// Carries out one request and returns the payloads that came with its acknowledgement.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Vec<Vec<u8>>, Error> {
        let mut results = Vec::with_capacity(1);
        let mut replies = Vec::new();
        let single = std::slice::from_ref(request);
        self.exchange(single, &mut results, |_, payload| replies.push(payload.to_vec()))?;
        results.into_iter().collect::<Result<(), Error>>()?;
        Ok(replies)
    }

    fn exchange(
        &mut self,
        requests: &[Request],
        results: &mut Vec<Result<(), Error>>,
        mut reply: impl FnMut(usize, &[u8]),
    ) -> Result<(), Error> {
        let name = requests.first().map_or("do nothing", |r| r.name);
        let first = self.channel.sequences(requests.len() as u32);
        let mut bytes = Vec::new();
        let mut starts = Vec::with_capacity(requests.len() + 1);
        for (request, sequence) in requests.iter().zip(first..) {
            starts.push(bytes.len());
            request.append(&mut bytes, sequence);
        }
        starts.push(bytes.len());
        self.channel.send(name, &bytes)?;
        let mut answers: Vec<Option<Result<(), Error>>> = requests.iter().map(|_| None).collect();
        let mut open = requests.len();
        self.channel.receive(name, |frame| {
            // An answer to an earlier request that was given up counts for nothing here.
            let Some(at) = frame.sequence.checked_sub(first).map(|n| n as usize).filter(|n| *n < requests.len()) else {
                return Ok(false);
            };
            if frame.kind != NLMSG_ERROR {
                if frame.kind != NLMSG_DONE {
                    reply(at, frame.payload);
                }
                return Ok(false);
            }
            let answer = extack::read_error(frame.payload, frame.flags).map_err(|mut source| {
                let request = &requests[at];
                extack::locate(&mut source, &bytes[starts[at]..starts[at + 1]], request.fixed_header);
                Error::Kernel { request: request.name, source }
            });
            if answers[at].replace(answer).is_none() {
                open -= 1;
            }
            Ok(open == 0)
        })?;
        results.extend(answers.into_iter().flatten());
        Ok(())
    }

    /// Dumps a table: every payload of the wanted message type goes through `read`, and what it gives is collected. A dump
    /// that the kernel marks as interrupted is repeated a few times.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        wanted: u16,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Dump<T>, Error> {
        let mut attempt = 1;
        loop {
            let mut entries = Vec::new();
            let collect = |kind, payload: &[u8]| {
                if kind == wanted {
                    entries.extend(read(payload));
                }
            };
            let consistency =
                self.channel.dump(request.name, request.kind, &request.body, request.fixed_header, collect)?;
            let consistent = consistency == Consistency::Whole;
            if consistent || attempt == DUMP_ATTEMPTS {
                return Ok(Dump { entries, consistent });
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
