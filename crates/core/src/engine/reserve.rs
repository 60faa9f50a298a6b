//! Reservations: the answer to a question, held for a while. Whoever asked may attach the NIC as it was promised; nobody
//! else gets its device or its address meanwhile. They end with the daemon.

use super::Engine;
use super::effect::{Answer, Body, Effect};
use super::input::{Attach, Now, RequestId};
use super::view::{NicState, NicView};
use crate::intent::NicIntent;
use crate::{Error, ErrorKind};
use uuid::Uuid;

/// Reservations at once.
const MOST: usize = 1024;

/// The longest reservation, in seconds.
pub const LONGEST_RESERVATION: u32 = 3600;

impl Engine {
    /// Says what would happen, and with `reserve` (seconds) holds it.
    pub(super) fn check(
        &mut self,
        request: RequestId,
        attach: &Attach,
        reserve: Option<u32>,
        random: u128,
    ) -> Result<(), Error> {
        let object = format!("NIC of guest '{}'", attach.guest);
        if let Some(seconds) = reserve.filter(|s| !(1..=LONGEST_RESERVATION).contains(s)) {
            let cause = format!("{seconds} is not between 1 and {LONGEST_RESERVATION} seconds");
            return Err(Error::new(ErrorKind::InvalidArgument, object, cause).field("reserve"));
        }
        let (mut nic, warnings) = self.admit(attach, random)?;
        let view = NicView { state: NicState::Pending, ..self.nic_view(&nic) };
        if let Some(seconds) = reserve {
            if self.intent.reservations().count() >= MOST {
                let cause = format!("there are {MOST} reservations already");
                return Err(Error::new(ErrorKind::Busy, object, cause).hint("wait until some have expired"));
            }
            let until = self.now + Now::from(seconds) * 1000;
            // A tap's name is found when there is a tap to name.
            nic.nic.target.clone_from(&attach.nic.target);
            self.intent.reserve(nic, until);
            self.out.push(Effect::Wake(until));
        }
        self.out.push(Effect::Reply(request, Ok(Answer { body: Body::Nic(Box::new(view)), warnings })));
        Ok(())
    }

    /// The reservation that an attach claims: the one it names, or that of its guest's UUID and MAC.
    pub(super) fn claimed(&self, attach: &Attach) -> Result<Option<NicIntent>, Error> {
        if let Some(id) = attach.reservation {
            let reserved = self.intent.reserved(id).filter(|r| r.uid == attach.uid || attach.uid == 0);
            return reserved.cloned().map(Some).ok_or_else(|| {
                let object = format!("NIC of guest '{}'", attach.guest);
                Error::new(ErrorKind::NoNic, object, format!("there is no reservation {id} (any more)"))
                    .field("reservation")
                    .hint("ask again, and attach in time; a restart of the daemon ends reservations")
            });
        }
        let (Some(guest), Some(mac)) = (attach.guest_uuid, attach.nic.mac) else { return Ok(None) };
        let mut all = self.intent.reservations();
        let mine = all.find(|r| (r.guest_uuid, r.nic.mac, r.uid) == (Some(guest), Some(mac), attach.uid));
        Ok(mine.cloned())
    }

    /// A NIC was not attached after all: what was reserved for it is so again.
    pub(super) fn reserve_again(&mut self, id: Uuid) {
        if let Some((nic, until)) = self.redeemed.remove(&id).filter(|(_, until)| *until > self.now) {
            self.intent.reserve(nic, until);
        }
    }

    /// Ends those whose time is over.
    pub(super) fn expire_reservations(&mut self) {
        let now = self.now;
        let over: Vec<Uuid> = self.intent.expired(now).collect();
        for id in over {
            let reserved = self.intent.unreserve(id);
            if let Some(allocation) = reserved.and_then(|(nic, _)| nic.allocation) {
                self.offer(&allocation.device());
            }
        }
    }
}
