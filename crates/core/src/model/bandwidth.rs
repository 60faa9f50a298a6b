//! Bandwidth, with libvirt's words. Inbound and outbound are seen from the guest.

/// `<bandwidth>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Towards the guest.
    pub inbound: Option<Rate>,
    /// From the guest.
    pub outbound: Option<Rate>,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// KiB a second on average (libvirt writes "kilobytes" and counts 1024 bytes).
    pub average: Option<u64>,
    /// KiB a second at most, for as long as `burst` lasts.
    pub peak: Option<u64>,
    /// KiB that may go at `peak`.
    pub burst: Option<u64>,
    /// KiB a second that are guaranteed; inbound only.
    pub floor: Option<u64>,
}
