//! polkit: whether the host's policy lets a process do something (polkit's D-Bus interface
//! `org.freedesktop.PolicyKit1.Authority`).
//!
//! Each conversation has a connection of its own to the system's bus: whoever gives up waiting closes it, and polkit takes
//! back the question that it may have on somebody's screen.

mod message;

use message::{Answer, Arguments, Malformed, PREFIX, Target};
use patchcord_host::process::ProcessId;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long somebody has to type a password.
const FOR_PEOPLE: Duration = Duration::from_secs(120);
/// How long polkit has for what it asks nobody about. Its rules may start programs, which it ends after ten seconds.
const FOR_RULES: Duration = Duration::from_secs(25);
/// Questions that may wait for people at once, and of one user.
const MAX_WAITING: usize = 20;
const MAX_WAITING_OF_ONE: usize = 4;
/// Conversations at once in which nobody is asked, and about one user, so that nobody keeps others waiting; more wait.
const MAX_TALKING: usize = 16;
const MAX_TALKING_OF_ONE: usize = 4;
/// Bytes of a line while the bus is told who we are.
const MAX_LINE: usize = 512;
/// Messages that are passed over while an answer is waited for: the bus tells us our name.
const MAX_OTHERS: usize = 16;

const BUS: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "Hello",
};
const AUTHORITY: Target = Target {
    destination: "org.freedesktop.PolicyKit1",
    path: "/org/freedesktop/PolicyKit1/Authority",
    interface: "org.freedesktop.PolicyKit1.Authority",
    member: "CheckAuthorization",
};
/// `AllowUserInteraction` among the call's flags.
const ASK_PEOPLE: u32 = 1;

/// Whom a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The process.
    pub process: ProcessId,
    /// Its user.
    pub uid: u32,
}

/// What polkit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Yes,
    /// It may not.
    No,
    /// It might, if there were somebody to be asked.
    NobodyToAsk,
    /// Somebody was asked, and did not want to answer.
    Dismissed,
}

/// Why polkit says nothing.
#[derive(Debug, thiserror::Error)]
pub enum PolkitError {
    /// The bus can't be talked to.
    #[error("the system's bus at {0}: {1}")]
    Bus(PathBuf, io::Error),
    /// What came is not what belongs there.
    #[error("the system's bus: {0}")]
    Malformed(&'static str),
    /// The bus, or polkit, refuses to answer.
    #[error("{said} ({name})")]
    Refused {
        /// D-Bus's name for the error.
        name: String,
        /// What it says.
        said: String,
    },
    /// It takes too long.
    #[error("polkit did not answer within {} seconds", .0.as_secs())]
    Late(Duration),
    /// Too many are being asked already.
    #[error("too many others wait for a password")]
    TooMany,
}

impl From<Malformed> for PolkitError {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Malformed(what)
    }
}

/// The way to polkit.
#[derive(Debug)]
pub struct Polkit {
    bus: PathBuf,
    /// How many questions of each user wait for people.
    waiting: RefCell<HashMap<u32, usize>>,
    talking: Semaphore,
    /// The turns of users about whom rules are being asked.
    turns: RefCell<HashMap<u32, Rc<Semaphore>>>,
}

impl Polkit {
    /// By the bus whose socket that is. Nothing is asked yet.
    pub fn new(bus: PathBuf) -> Self {
        let (waiting, turns) = (RefCell::default(), RefCell::default());
        Self { bus, waiting, talking: Semaphore::new(MAX_TALKING), turns }
    }

    /// The turns of a user. Those of users about whom nobody asks any more are forgotten.
    fn turns_of(&self, uid: u32) -> Rc<Semaphore> {
        let mut turns = self.turns.borrow_mut();
        turns.retain(|_, turns| Rc::strong_count(turns) > 1);
        Rc::clone(turns.entry(uid).or_insert_with(|| Rc::new(Semaphore::new(MAX_TALKING_OF_ONE))))
    }

    /// Whether somebody may do something; polkit may have people asked for a password. Who drops the future takes the
    /// question back.
    ///
    /// # Errors
    /// [`PolkitError`]: then nobody knows, and it must not be done.
    pub async fn ask_people(&self, subject: Subject, action: &str) -> Result<Verdict, PolkitError> {
        let _waiting = Waiting::begin(&self.waiting, subject.uid).ok_or(PolkitError::TooMany)?;
        let asked = async {
            let mut bus = Bus::connect(&self.bus).await?;
            bus.check(subject, action, &[], ASK_PEOPLE).await
        };
        within(FOR_PEOPLE, asked).await
    }

    /// Which of some things somebody may do by the rules alone: an action each, and what rules may look at besides, by
    /// name.
    ///
    /// # Errors
    /// As [`Polkit::ask_people`].
    pub async fn ask_rules(&self, subject: Subject, questions: &[Question]) -> Result<Vec<bool>, PolkitError> {
        let turns = self.turns_of(subject.uid);
        let _turn = turns.acquire().await.map_err(|_| PolkitError::TooMany)?;
        let _permit = self.talking.acquire().await.map_err(|_| PolkitError::TooMany)?;
        let mut bus = within(FOR_RULES, Bus::connect(&self.bus)).await?;
        let mut may = Vec::with_capacity(questions.len());
        for Question { action, details } in questions {
            may.push(within(FOR_RULES, bus.check(subject, action, details, 0)).await? == Verdict::Yes);
        }
        Ok(may)
    }
}

async fn within<T>(time: Duration, asked: impl Future<Output = Result<T, PolkitError>>) -> Result<T, PolkitError> {
    timeout(time, asked).await.map_err(|_| PolkitError::Late(time))?
}

/// What somebody wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// polkit's name for it.
    pub action: String,
    /// What rules may look at besides (`action.lookup`). Those with a NUL are left out, since D-Bus has no such texts.
    pub details: Vec<(&'static str, String)>,
}

/// A place among those who wait for people.
struct Waiting<'a> {
    all: &'a RefCell<HashMap<u32, usize>>,
    uid: u32,
}

impl<'a> Waiting<'a> {
    fn begin(all: &'a RefCell<HashMap<u32, usize>>, uid: u32) -> Option<Self> {
        let mut counts = all.borrow_mut();
        let full = counts.values().sum::<usize>() >= MAX_WAITING;
        if full || counts.get(&uid).is_some_and(|count| *count >= MAX_WAITING_OF_ONE) {
            return None;
        }
        *counts.entry(uid).or_default() += 1;
        Some(Self { all, uid })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut counts = self.all.borrow_mut();
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// A connection to the bus.
struct Bus<'a> {
    path: &'a Path,
    stream: UnixStream,
    serial: u32,
}

impl<'a> Bus<'a> {
    /// Connects, and says who we are (D-Bus specification, "Authentication Protocol").
    async fn connect(path: &'a Path) -> Result<Self, PolkitError> {
        let failed = |error| PolkitError::Bus(path.to_owned(), error);
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let mut bus = Self { path, stream, serial: 0 };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.send(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).await?;
        let line = bus.line().await?;
        if !line.starts_with(b"OK ") {
            return Err(PolkitError::Malformed("it does not believe who we are"));
        }
        bus.send(b"BEGIN\r\n").await?;
        bus.call(BUS, &Arguments::default(), |_, _| Ok(())).await?;
        Ok(bus)
    }

    async fn check(
        &mut self,
        subject: Subject,
        action: &str,
        details: &[(&str, String)],
        flags: u32,
    ) -> Result<Verdict, PolkitError> {
        let mut arguments = Arguments { signature: "(sa{sv})sa{ss}us", ..Arguments::default() };
        let w = &mut arguments.bytes;
        w.string("unix-process").array(8, |w| {
            w.align(8).string("pid").signature("u").u32(subject.process.pid);
            w.align(8).string("start-time").signature("t").u64(subject.process.start_time);
            // Its type is signed, as the interface has it.
            w.align(8).string("uid").signature("i").i32(subject.uid.cast_signed());
        });
        w.string(action);
        w.array(8, |w| {
            for (name, value) in details.iter().filter(|(_, value)| !value.contains('\0')) {
                w.align(8).string(name).string(value);
            }
        });
        w.u32(flags).string("");
        self.call(AUTHORITY, &arguments, |signature, r| {
            if signature != "(bba{ss})" {
                return Err(Malformed("polkit answers in a strange way"));
            }
            let (may, challenged, details) = (r.boolean()?, r.boolean()?, r.pairs()?);
            let dismissed = details.iter().any(|(key, _)| *key == "polkit.dismissed");
            Ok(match (may, dismissed, challenged) {
                (true, ..) => Verdict::Yes,
                (_, true, _) => Verdict::Dismissed,
                (.., true) => Verdict::NobodyToAsk,
                _ => Verdict::No,
            })
        })
        .await
    }

    /// Calls a method, and reads what it returns.
    async fn call<T>(
        &mut self,
        target: Target,
        arguments: &Arguments,
        read: impl FnOnce(&str, &mut message::Reader<'_>) -> Result<T, Malformed>,
    ) -> Result<T, PolkitError> {
        self.serial += 1;
        self.send(&message::call(self.serial, target, arguments)).await?;
        for _ in 0..=MAX_OTHERS {
            let message = self.message().await?;
            match message::answer(&message, self.serial)? {
                Some(Answer::Return(signature, mut r)) => return Ok(read(signature, &mut r)?),
                Some(Answer::Error(name, said)) => {
                    return Err(PolkitError::Refused { name: name.to_owned(), said: said.to_owned() });
                }
                None => {}
            }
        }
        Err(PolkitError::Malformed("it talks of something else"))
    }

    async fn message(&mut self) -> Result<Vec<u8>, PolkitError> {
        let mut prefix = [0; PREFIX];
        let failed = |error| PolkitError::Bus(self.path.to_owned(), error);
        self.stream.read_exact(&mut prefix).await.map_err(failed)?;
        let mut message = vec![0; message::size(&prefix)?];
        let (begin, rest) = message.split_at_mut(PREFIX);
        begin.copy_from_slice(&prefix);
        self.stream.read_exact(rest).await.map_err(failed)?;
        Ok(message)
    }

    async fn line(&mut self) -> Result<Vec<u8>, PolkitError> {
        let mut line = Vec::new();
        // Byte by byte, since no more may be taken than that: it is short, and asked for once.
        while !line.ends_with(b"\r\n") {
            if line.len() >= MAX_LINE {
                return Err(PolkitError::Malformed("it says too much"));
            }
            let byte = self.stream.read_u8().await.map_err(|error| PolkitError::Bus(self.path.to_owned(), error))?;
            line.push(byte);
        }
        Ok(line)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), PolkitError> {
        self.stream.write_all(bytes).await.map_err(|error| PolkitError::Bus(self.path.to_owned(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use tokio::runtime::Builder;
    use tokio::task::{LocalSet, yield_now};

    #[test]
    fn who_asks_a_lot_keeps_nobody_else_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let bus = UnixListener::bind(&socket).unwrap();
        bus.set_nonblocking(true).unwrap();
        let polkit = Rc::new(Polkit::new(socket));
        let local = LocalSet::new();
        local.block_on(&Builder::new_current_thread().enable_all().build().unwrap(), async {
            let ask = |uid| {
                let polkit = Rc::clone(&polkit);
                let subject = Subject { process: ProcessId { pid: 1, start_time: 1 }, uid };
                let question = Question { action: "a".into(), details: Vec::new() };
                tokio::task::spawn_local(async move { polkit.ask_rules(subject, &[question]).await })
            };
            let conversations = async || {
                for _ in 0..100 {
                    yield_now().await;
                }
                std::iter::from_fn(|| bus.accept().ok()).map(|(stream, _)| stream).collect::<Vec<_>>()
            };
            let asked: Vec<_> = (0..3 * MAX_TALKING).map(|_| ask(1)).collect();
            let first = conversations().await;
            assert_eq!(first.len(), MAX_TALKING_OF_ONE);
            let other = ask(2);
            assert_eq!(conversations().await.len(), 1);
            // The bus hangs up.
            assert!(matches!(other.await, Ok(Err(PolkitError::Bus(..)))));
            drop(first);
            assert_eq!(conversations().await.len(), MAX_TALKING_OF_ONE, "others have their turn");
            asked.iter().for_each(|asked| asked.abort());
            for _ in 0..100 {
                yield_now().await;
            }
            drop(polkit.turns_of(3));
            assert_eq!(polkit.turns.borrow().keys().collect::<Vec<_>>(), [&3]);
        });
    }
}
