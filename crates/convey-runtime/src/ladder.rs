//! Which packet engine serves: candidates tried in order, the first that starts, and why the others were refused.
//!
//! An engine decides itself whether it suits this host, and refuses with an [`EngineError`] before it has changed
//! anything; the order here and what is done with a refusal are data, tested without an engine.
//!
//! "auto" takes XDP where every interface is a network card whose driver has it. Everywhere else tc is as good or better:
//! on veth, virtio and bridges packets come as super-frames with open checksums, which XDP takes apart or cannot read.
//! AF_XDP is taken on request alone: it pays only where policy in user space is wanted. AF_PACKET comes last, and needs
//! no kernel program.

mod suits_xdp;

use convey_engine::{EngineError, EngineErrorKind, EngineKind};

use crate::RuntimeError;
pub(crate) use suits_xdp::LinkFacts;

/// Which packet engine a configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The best one that works here.
    #[default]
    Auto,
    /// This one or none.
    Only(EngineKind),
}

/// An engine that was not taken.
#[derive(Debug)]
pub struct RefusedEngine {
    /// Which one.
    pub engine: EngineKind,
    /// Why not.
    pub error: EngineError,
}

/// The engines to try, in order, and those refused so far.
#[derive(Debug)]
pub(crate) struct Ladder {
    candidates: Vec<EngineKind>,
    refused: Vec<RefusedEngine>,
}

impl Ladder {
    /// The ladder for this choice and these links. Has a candidate at least.
    pub(crate) fn new(choice: EngineChoice, links: &[LinkFacts]) -> Self {
        use EngineKind::{AfPacket, Tc, Xdp};
        match choice {
            EngineChoice::Only(kind) => Self { candidates: vec![kind], refused: Vec::new() },
            EngineChoice::Auto => match suits_xdp::check(links) {
                Ok(()) => Self { candidates: vec![Xdp, Tc, AfPacket], refused: Vec::new() },
                Err(cause) => {
                    let error = EngineError::new(EngineErrorKind::Unsupported, cause, "");
                    let refused = vec![RefusedEngine { engine: Xdp, error }];
                    Self { candidates: vec![Tc, AfPacket], refused }
                }
            },
        }
    }

    /// The candidate that is tried first.
    pub(crate) fn first(&self) -> EngineKind {
        // There is one, see `new`.
        self.candidates.first().copied().unwrap_or(EngineKind::AfPacket)
    }

    /// The candidate that is tried first, and those that are not tried at all.
    pub(crate) fn into_first(self) -> (EngineKind, Vec<RefusedEngine>) {
        (self.first(), self.refused)
    }

    /// Starts the first candidate that lets itself be started; returns it with what was refused before.
    ///
    /// # Errors
    /// What the last candidate said, and in its words what the others did; or, at once, an error that is not the
    /// engine's own.
    pub(crate) fn climb<E>(
        self,
        mut start: impl FnMut(EngineKind) -> Result<E, RuntimeError>,
    ) -> Result<(E, Vec<RefusedEngine>), RuntimeError> {
        let Self { candidates, mut refused } = self;
        for engine in candidates {
            match start(engine) {
                Ok(started) => return Ok((started, refused)),
                Err(RuntimeError::Engine(error)) => refused.push(RefusedEngine { engine, error }),
                Err(other) => return Err(other),
            }
        }
        Err(none_left(refused).into())
    }
}

/// The error of the last, which also tells those of candidates before it.
fn none_left(mut refused: Vec<RefusedEngine>) -> EngineError {
    let Some(RefusedEngine { mut error, .. }) = refused.pop() else {
        return EngineError::new(EngineErrorKind::Failed, "there is no engine to try", "");
    };
    for before in refused.iter().rev() {
        error.cause =
            format!("{}; engine {} was refused before: {}", error.cause, before.engine, before.error.cause);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use EngineKind::{AfPacket, Tc, Xdp};

    fn refusal(cause: &str) -> RuntimeError {
        EngineError::new(EngineErrorKind::Unsupported, cause, "do this").into()
    }

    #[test]
    fn auto_tries_the_next_engine_when_one_refuses_and_remembers_why() {
        let mut tried = Vec::new();
        let climbed = Ladder::new(EngineChoice::Auto, &[LinkFacts::card("eth0")]).climb(|kind| {
            tried.push(kind);
            if kind == AfPacket { Ok(kind) } else { Err(refusal("no BPF here")) }
        });
        let (started, refused) = climbed.unwrap();
        assert_eq!((started, tried), (AfPacket, vec![Xdp, Tc, AfPacket]));
        let refused: Vec<_> = refused.iter().map(|r| (r.engine, r.error.to_string())).collect();
        let why = "no BPF here; do this".to_owned();
        assert_eq!(refused, [(Xdp, why.clone()), (Tc, why)]);
    }

    #[test]
    fn auto_does_not_try_xdp_where_it_does_not_suit_and_says_why_in_a_line() {
        let mut tried = Vec::new();
        let climbed =
            Ladder::new(EngineChoice::Auto, &[LinkFacts::virtual_link("eth0", "veth")]).climb(|kind| {
                tried.push(kind);
                Ok(kind)
            });
        let (started, refused) = climbed.unwrap();
        assert_eq!((started, tried), (Tc, vec![Tc]));
        let refused: Vec<_> = refused.iter().map(|r| (r.engine, r.error.to_string())).collect();
        assert_eq!(refused, [(Xdp, "eth0 is a veth, on which tc is faster".to_owned())]);
    }

    #[test]
    fn an_engine_that_was_asked_for_by_name_is_the_only_one_tried() {
        let mut tried = Vec::new();
        let climbed = Ladder::new(EngineChoice::Only(Tc), &[]).climb(|kind| {
            tried.push(kind);
            Err::<(), _>(refusal("no BPF here"))
        });
        assert_eq!(tried, [Tc]);
        assert_eq!(climbed.unwrap_err().to_string(), "no BPF here; do this");
    }

    #[test]
    fn when_every_engine_refuses_the_error_tells_all_causes() {
        let ladder = Ladder::new(EngineChoice::Auto, &[LinkFacts::card("eth0")]);
        let error = ladder.climb(|kind| Err::<(), _>(refusal(&format!("{kind} cannot")))).unwrap_err();
        let before = "engine tc was refused before: tc cannot; engine xdp was refused before: xdp cannot";
        assert_eq!(error.to_string(), format!("af_packet cannot; {before}; do this"));
    }

    #[test]
    fn an_error_that_is_not_the_engines_own_ends_the_search() {
        let mut tried = Vec::new();
        let climbed = Ladder::new(EngineChoice::Auto, &[LinkFacts::card("eth0")]).climb(|kind| {
            tried.push(kind);
            Err::<(), _>(RuntimeError::Closed)
        });
        assert_eq!(tried, [Xdp]);
        assert!(matches!(climbed.unwrap_err(), RuntimeError::Closed));
    }
}
