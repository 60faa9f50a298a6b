//! The kernel's acknowledgements and their extended text.
//!
//! `NLMSG_ERROR` carries a negative errno (0 acknowledges), the echoed request (its header alone when `NLM_F_CAPPED`), and,
//! when `NLM_F_ACK_TLVS` is set, attributes: text, offset into our request, a missing attribute's type. `NLMSG_DONE`
//! carries an errno and the same attributes directly (kernel: `enum nlmsgerr_attrs`).

use crate::attr::{Attrs, align};
use crate::error::KernelError;
use crate::frame::HEADER;

const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;

const ATTR_MSG: u16 = 1;
const ATTR_OFFS: u16 = 2;
const ATTR_MISS_TYPE: u16 = 5;

/// The reading of an `NLMSG_ERROR` payload: `Ok` is an acknowledgement.
pub(crate) fn read_error(payload: &[u8], flags: u16) -> Result<(), KernelError> {
    let Some(code) = payload.first_chunk::<4>() else {
        return Err(unreadable());
    };
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Ok(());
    }
    let mut error = with_errno(code);
    if flags & ACK_TLVS != 0 {
        let echoed = match payload.get(4..8) {
            Some(&[a, b, c, d]) if flags & CAPPED == 0 => u32::from_ne_bytes([a, b, c, d]) as usize,
            _ => HEADER,
        };
        read_attributes(Attrs::after(payload, align(echoed).saturating_add(4)), &mut error);
    }
    Err(error)
}

/// The reading of an `NLMSG_DONE` payload, which ends a dump and may carry its error.
pub(crate) fn read_done(payload: &[u8]) -> Result<(), KernelError> {
    let Some(code) = payload.first_chunk::<4>() else {
        return Ok(());
    };
    let code = i32::from_ne_bytes(*code);
    if code >= 0 {
        return Ok(());
    }
    let mut error = with_errno(code);
    read_attributes(Attrs::after(payload, 4), &mut error);
    Err(error)
}

/// Names the attributes of our own request (header included) that enclose the error's offset.
pub(crate) fn locate(error: &mut KernelError, request: &[u8], fixed_header: usize) {
    let Some(offset) = error.offset.map(|o| o as usize) else {
        return;
    };
    let mut start = HEADER + fixed_header;
    let mut end = request.len();
    // Deeper than any message that we send; a filter's action has its options at the fifth level.
    for _ in 0..6 {
        let mut at = start;
        let mut inside = None;
        for attr in Attrs::new(request.get(start..end).unwrap_or(&[])) {
            let length = 4 + attr.value.len();
            if offset >= at && offset < at + length {
                error.attribute.push(attr.kind);
                inside = Some((at + 4, at + length));
                break;
            }
            at += align(length);
        }
        match inside {
            Some((from, to)) if offset >= from => (start, end) = (from, to),
            _ => return,
        }
    }
}

fn read_attributes(attrs: Attrs<'_>, error: &mut KernelError) {
    for attr in attrs {
        match attr.kind {
            ATTR_MSG => error.ext_ack = Some(attr.text().trim_end_matches(['.', '\n']).to_owned()),
            ATTR_OFFS => error.offset = attr.u32(),
            ATTR_MISS_TYPE => error.missing = attr.u32(),
            _ => {}
        }
    }
}

fn with_errno(code: i32) -> KernelError {
    KernelError { errno: code.saturating_abs(), ext_ack: None, offset: None, attribute: Vec::new(), missing: None }
}

/// An error message without an errno: the kernel does not send one, so this is EBADMSG.
fn unreadable() -> KernelError {
    with_errno(rustix::io::Errno::BADMSG.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Writer;

    #[test]
    fn text_and_offset_follow_a_capped_and_a_whole_request() {
        for (flags, echoed) in [(ACK_TLVS | CAPPED, 16usize), (ACK_TLVS, 22)] {
            let mut payload = (-22i32).to_ne_bytes().to_vec();
            payload.extend_from_slice(&22u32.to_ne_bytes());
            payload.resize(4 + align(echoed), 0);
            let mut attrs = Writer::new();
            attrs.text(ATTR_MSG, "no such thing.").put(ATTR_OFFS, &40u32.to_ne_bytes());
            payload.extend(attrs.into_bytes());
            let error = read_error(&payload, flags).unwrap_err();
            assert_eq!(error.errno, 22);
            assert_eq!(error.ext_ack.as_deref(), Some("no such thing"));
            assert_eq!(error.offset, Some(40));
        }
    }

    #[test]
    fn the_offset_names_the_nested_attribute() {
        let mut info = Writer::new();
        info.put(1, b"bridge\0");
        let mut body = Writer::new();
        body.raw(&[0; 16]).put(3, b"x\0").put(18, &info.into_bytes());
        let mut request = Vec::new();
        crate::frame::append(&mut request, 16, 5, 1, &body.into_bytes());
        // Header 16, link header 16, name 8, then the nest's header.
        let mut error = with_errno(-22);
        error.offset = Some(44);
        locate(&mut error, &request, 16);
        assert_eq!(error.attribute, [18, 1]);
    }
}
