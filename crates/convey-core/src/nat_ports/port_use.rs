//! What a port is held for.

use crate::conntrack::tcp::Change;
use crate::conntrack::udp::BRIEF;
use crate::conntrack::{Flow, FlowState};

/// What a port is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PortUse {
    /// Nothing.
    Free = 0,
    /// A flow that is not confirmed yet.
    Unconfirmed = 1,
    /// A flow that has closed.
    Closed = 2,
    /// A UDP conversation of a few datagrams.
    Brief = 3,
    /// A UDP conversation of more.
    Stream = 4,
    /// A TCP connection: it gives way to nothing.
    Connection = 5,
    /// Nobody's flow: a frontend listens there.
    Reserved = 7,
}

impl PortUse {
    /// The use of this number; a number that is none stands for the use that is safest to keep.
    pub(super) const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Free,
            1 => Self::Unconfirmed,
            2 => Self::Closed,
            3 => Self::Brief,
            4 => Self::Stream,
            7 => Self::Reserved,
            _ => Self::Connection,
        }
    }

    /// What a flow holds its port for.
    pub const fn of(flow: &Flow) -> Self {
        match flow.state {
            FlowState::Free => Self::Free,
            FlowState::Closed => Self::Closed,
            FlowState::UdpStream if flow.next[0] < BRIEF => Self::Brief,
            FlowState::UdpStream => Self::Stream,
            FlowState::Established | FlowState::Closing => Self::Connection,
            _ => Self::Unconfirmed,
        }
    }

    /// What the port of a flow is held for after a TCP segment, where that has changed.
    pub const fn after_segment(change: Change) -> Option<Self> {
        match change {
            Change { closed: true, .. } => Some(Self::Closed),
            Change { restarted: true, .. } => Some(Self::Unconfirmed),
            Change { established: true, .. } | Change { revived: true, .. } => Some(Self::Connection),
            _ => None,
        }
    }

    /// What the port of a UDP flow is held for after a datagram, where that has changed.
    pub const fn after_datagram(flow: &Flow, change: Change) -> Option<Self> {
        if change.established || flow.next[0] == BRIEF { Some(Self::of(flow)) } else { None }
    }
}
