//! What both XDP engines must know of an interface, check before they attach, and refuse.

mod facts;
mod features;
pub mod refusal;
mod refused;

pub use facts::{Facts, facts};
pub use features::{Features, features};
pub use refused::Refused;

use convey_engine::{EngineError, XdpMode};

/// Looks at an interface on which an XDP program is to be attached; one that is there may be `ours`.
///
/// # Errors
/// [`EngineError`] when another program is there, or there is no such interface.
pub fn admit(ifindex: u32, ours: bool) -> Result<Facts, EngineError> {
    let facts = facts(ifindex).map_err(|source| refusal::unknown(ifindex, source))?;
    if facts.xdp_program.is_some() && !ours {
        return Err(refusal::foreign_program(&facts));
    }
    Ok(facts)
}

/// As aya has it: never the one the kernel would choose.
pub fn flags(mode: XdpMode) -> aya::programs::XdpMode {
    match mode {
        XdpMode::Native => aya::programs::XdpMode::Driver,
        XdpMode::Generic => aya::programs::XdpMode::Skb,
    }
}

/// Whether frames that XDP sends by this interface get there; taken for granted where the kernel does not tell.
pub fn can_send(ifindex: u32) -> bool {
    features(ifindex).is_none_or(|features| features.sends)
}
