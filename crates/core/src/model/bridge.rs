//! The bridge of a network.

use super::LinkName;

/// Who keeps the bridge's forwarding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacTableManager {
    /// The kernel learns and floods, as bridges do.
    Kernel,
    /// We write each NIC's address and turn learning and flooding off.
    Libvirt,
}

/// `<bridge>`: the network's own bridge, or the host's in forward mode bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// The link's name. A trailing `%d` is not a name: see `auto_name`.
    pub name: Option<LinkName>,
    /// The pattern given instead of a name (`virbr%d`): the first free number is taken.
    pub pattern: Option<String>,
    /// Spanning tree (IEEE 802.1D); on unless said otherwise, for a network's own bridge.
    pub stp: Option<bool>,
    /// Forwarding delay in seconds; 0 unless said otherwise.
    pub delay: Option<u32>,
    /// firewalld zone to put the bridge in.
    pub zone: Option<String>,
    /// Who keeps the forwarding table; the kernel unless said otherwise.
    pub mac_table_manager: Option<MacTableManager>,
}
