//! From what should be and what is to what has to be done: pure functions.
//!
//! | file | what |
//! |---|---|
//! | `observed` | what is |
//! | `desired`, `ovs` | what should be, of one network or NIC |
//! | `diff`, `plug`, `shape` | the steps from one to the other; `plug` for a NIC, `shape` for rates |
//! | `macvtap` | both for a NIC that is a macvtap |
//! | `rates` | what `<bandwidth>` comes down to |
//! | `vlan` | which VLANs ports of bridges are in, and the steps for that |
//! | `step` | steps, plans and how they went |
//! | `absorb` | what a step changes about what is |
//! | `association` | what a switch is asked to give a NIC's port |
//! | `claim` | taps that others made for ports of ours |
//! | `adopt` | bridges that others made for networks of ours |
//! | `function` | virtual functions, and what each is told for the NIC that has it |
//! | `mark` | how what we make is told from what others made |
//! | `nft`, `dnsmasq`, `subnet` | packet rules, name and address service, overlapping subnets |

pub(crate) mod absorb;
pub mod adopt;
mod association;
pub mod claim;
pub mod desired;
pub mod diff;
pub mod dnsmasq;
mod function;
mod macvtap;
mod mark;
pub mod nft;
mod observed;
pub mod ovs;
pub mod plug;
pub mod rates;
pub mod shape;
mod step;
pub mod subnet;
pub mod uplink;
pub mod vlan;

pub use association::{Association, association, is_associated};
pub use desired::{Plug, Unplugged};
pub use function::{Cable, FunctionBefore, FunctionSetup, FunctionVlan, Functions, VirtualFunction, driver, function};
pub use macvtap::DesiredMacvtap;
pub use mark::{ADDRESS_PROTOCOL, GROUP_DOOMED, GROUP_LIVE, GROUP_NONE, Mark, MarkKind, ROUTE_PROTOCOL};
pub use observed::{
    BondState, BridgeState, Change, Index, Link, LinkKind, Observed, PortFlags, Route, Service, Sysctl, Zone,
};
pub use ovs::{OvsKnown, OvsPort, OvsState};
pub use step::{
    BridgeSpec, Handover, LinkChange, LinkRef, MacvlanSpec, MacvtapSpec, Op, Outcome, Plan, RouteSpec, Step,
    StepFailure, TapSpec,
};
pub use vlan::{PortVlans, VlanState};
