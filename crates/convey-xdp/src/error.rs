//! Why a kernel program could not be put to work.

/// What failed, on what, and what to try.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// A program was refused by the kernel.
    #[error(
        "cannot load the kernel program {program}: {reason}; it needs CAP_BPF and CAP_NET_ADMIN (or root)"
    )]
    Load {
        /// The program's name.
        program: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {interface}: {reason}")]
    Attach {
        /// The program's name.
        program: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        reason: String,
    },
    /// A map did not take an entry.
    #[error("cannot write to the map {map} of the kernel program: {reason}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// The maps of another process cannot be gone on with.
    #[error("the tables of a killed balancer cannot be gone on with: {0}")]
    Adopt(String),
    /// A link or a map could not be pinned.
    #[error("{program} cannot be made to outlive this process on {interface}: {reason}")]
    Pin {
        /// The program's name.
        program: &'static str,
        /// The interface.
        interface: String,
        /// What the system said.
        reason: String,
    },
    /// The rules cannot be expressed.
    #[error("{0}")]
    Rules(String),
    /// nft failed.
    #[error(
        "nft failed: {reason}; install nftables (package \"nftables\") or grant CAP_BPF so that it is not needed"
    )]
    Nft {
        /// What it printed.
        reason: String,
    },
    /// Neither way of keeping the kernel out works here.
    #[error("cannot keep the kernel from answering forwarded packets: {bpf}; {nft}")]
    NoGuard {
        /// Why not by a kernel program.
        bpf: String,
        /// Why not by nft.
        nft: String,
    },
    /// No such interface.
    #[error("no network interface has the index {0}; it may have been removed")]
    NoInterface(u32),
    /// A netlink request failed.
    #[error("{what} failed: {source}")]
    Netlink {
        /// The request in words.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// The whole chain of causes in one line; aya hides the reason of a failure in the second or third.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let next = e.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = e.source();
    }
    text
}
