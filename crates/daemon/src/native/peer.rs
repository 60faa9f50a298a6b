//! Who is at the other end of a connection: the kernel's word for the user, the host's files for its groups.
//!
//! The groups are those of `/etc/group`: what `SO_PEERGROUPS` says could only be read with unsafe code, and `/proc` may
//! speak of another process by now. Groups that come from elsewhere (LDAP) are not seen.

use crate::access::{GROUPS, PASSWD, Peer};
use std::collections::BTreeSet;
use std::io;
use tokio::net::UnixStream;

/// The peer of a connection (unix(7), SO_PEERCRED: as it was when it connected).
pub(super) fn of(stream: &UnixStream) -> io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    // Root needs no names, and a host without these files has no others.
    let read = |path: &str| if credentials.uid() == 0 { None } else { std::fs::read_to_string(path).ok() };
    let (passwd, group) = (read(PASSWD), read(GROUPS));
    Ok(look_up(
        credentials.uid(),
        credentials.gid(),
        passwd.as_deref().unwrap_or_default(),
        group.as_deref().unwrap_or_default(),
    ))
}

/// The user of that id, by the content of passwd(5) and group(5).
fn look_up(uid: u32, gid: u32, passwd: &str, group: &str) -> Peer {
    let user = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    let mut groups = BTreeSet::new();
    for line in group.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(id), Some(members)) = (fields.next(), fields.nth(1), fields.next()) else { continue };
        let is_member = user.as_deref().is_some_and(|user| members.split(',').any(|member| member == user));
        if is_member || id.parse() == Ok(gid) {
            groups.insert(name.to_owned());
        }
    }
    Peer { uid, user, groups }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_hosts_files() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n+::::::\nalice:x:1000:1000:,,,:/home/alice:/bin/sh\n";
        let group = "root:x:0:\npatchcord:x:108:bob,alice\nusers:x:100:alicia\nalice:x:1000:\nbroken\nx:x:zz:\n";
        let peer = look_up(1000, 1000, passwd, group);
        assert_eq!(peer.user.as_deref(), Some("alice"));
        assert_eq!(peer.groups.iter().collect::<Vec<_>>(), ["alice", "patchcord"]);
        assert!(peer.is_full());
        let stranger = look_up(4711, 100, passwd, group);
        assert_eq!((stranger.user.as_deref(), stranger.is_full()), (None, false));
        assert_eq!(stranger.groups.iter().collect::<Vec<_>>(), ["users"]);
    }
}
