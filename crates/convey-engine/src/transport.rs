//! What lies above IP: a checked TCP or UDP header.

use convey_packet::transport::parse_udp;
use convey_packet::{Fragment, Ip, TCP, Tcp, TransportError};

use crate::meta::FrameMeta;
use crate::verdict::DropReason;

/// What lies above IP.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    Tcp(Tcp),
    Udp { payload_len: u32 },
}

impl Transport {
    pub(crate) fn parse(frame: &[u8], ip: &Ip, meta: &FrameMeta) -> Result<Self, DropReason> {
        if ip.fragment == Fragment::First && ip.protocol == TCP {
            return Err(DropReason::FragmentRefused);
        }
        let parsed = if ip.protocol == TCP {
            Tcp::parse(frame, ip).map(Self::Tcp)
        } else {
            parse_udp(frame, ip, meta.gso.is_some()).map(|payload_len| Self::Udp { payload_len })
        };
        parsed.map_err(|e| match e {
            TransportError::Truncated => DropReason::Truncated,
            TransportError::BadTcpHeader => DropReason::BadTcpHeader,
            TransportError::BadTcpFlags => DropReason::BadTcpFlags,
            TransportError::BadUdpLength => DropReason::BadUdpLength,
        })
    }

    pub(crate) fn payload_len(&self) -> u32 {
        match self {
            Self::Tcp(tcp) => tcp.payload_len,
            Self::Udp { payload_len } => *payload_len,
        }
    }
}
