//! Why a kernel program could not be put to work.

use aya::programs::ProgramError;

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
        /// What the kernel said; of the verifier the last words.
        reason: String,
        /// Its errno, where it was the kernel.
        errno: Option<i32>,
        /// All that the verifier said.
        log: Option<String>,
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
        /// The same, with its errno among the causes.
        source: Option<Box<ProgramError>>,
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

/// Characters of a verifier's log that an error holds.
const LAST_WORDS: usize = 600;

impl XdpError {
    /// A program that the kernel, or aya, does not load.
    pub(crate) fn load(program: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        let (mut errno, mut log, mut cause) = (None, None, Some(error));
        while let Some(error) = cause {
            if let Some(ProgramError::LoadError { verifier_log, .. }) = error.downcast_ref() {
                log = Some(verifier_log.to_string()).filter(|log| !log.is_empty());
            }
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                errno = errno.or(error.raw_os_error());
            }
            cause = error.source();
        }
        // The verifier tells the whole way; what stopped it comes last.
        let all = reason(error);
        let from = all.char_indices().rev().nth(LAST_WORDS).map_or(0, |(at, _)| at);
        Self::Load { program, reason: all[from..].trim().to_owned(), errno, log }
    }

    /// The object is not what it should be.
    pub(crate) fn object(program: &'static str, reason: impl Into<String>) -> Self {
        Self::Load { program, reason: reason.into(), errno: None, log: None }
    }
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

#[cfg(test)]
mod tests {
    use aya::EbpfLoader;
    use aya::programs::Xdp;

    use super::*;

    #[test]
    #[ignore = "needs root: loads a kernel program"]
    fn a_refused_program_is_told_by_errno_and_last_words_and_the_verifiers_log_is_kept_whole() {
        // A program for tc that says it is one for XDP: what it reads is not there.
        let mut object = convey_bpf::guard().to_vec();
        let (from, to) = (b"classifier", b"xdp\0\0\0\0\0\0\0");
        let places: Vec<usize> =
            (0..object.len() - from.len()).filter(|&at| object[at..].starts_with(from)).collect();
        for at in places {
            object[at..at + to.len()].copy_from_slice(to);
        }
        let mut ebpf = EbpfLoader::new().btf(None).load(&object).expect("an object");
        let program: &mut Xdp =
            ebpf.program_mut("convey_guard").and_then(|p| p.try_into().ok()).expect("a program");
        let error = program.load().expect_err("the verifier looks");
        let XdpError::Load { reason, errno, log: Some(log), .. } = XdpError::load("convey_guard", &error)
        else {
            panic!("another error: {error}");
        };
        assert!(matches!(errno, Some(13 | 22)), "{errno:?}");
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).expect("a line");
        assert!(reason.len() < 700 && reason.contains(last), "{reason}\nof\n{log}");
        assert!(log.contains("invalid bpf_context access"), "{log}");
    }
}
