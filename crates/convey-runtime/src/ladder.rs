//! Which packet engine serves: candidates tried in order, the first that starts, and why the others were refused.
//!
//! An engine decides itself whether it suits this host, and refuses with an [`EngineError`] before it has changed
//! anything; the order here and what is done with a refusal are data, tested without an engine.

use convey_engine::{EngineError, EngineErrorKind, EngineKind};

use crate::RuntimeError;

/// The order in which "auto" tries engines. AF_XDP is taken on request alone: it pays only where policy in user space is
/// wanted.
const AUTO: [EngineKind; 2] = [EngineKind::Tc, EngineKind::AfPacket];

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
    /// The ladder for this choice. Has a candidate at least.
    pub(crate) fn new(choice: EngineChoice) -> Self {
        let candidates = match choice {
            EngineChoice::Auto => AUTO.to_vec(),
            EngineChoice::Only(kind) => vec![kind],
        };
        Self { candidates, refused: Vec::new() }
    }

    /// The candidate that is tried first.
    pub(crate) fn first(&self) -> EngineKind {
        // There is one, see `new`.
        self.candidates.first().copied().unwrap_or(EngineKind::AfPacket)
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
    use EngineKind::{AfPacket, Tc};

    fn refusal(cause: &str) -> RuntimeError {
        EngineError::new(EngineErrorKind::Unsupported, cause, "do this").into()
    }

    #[test]
    fn auto_tries_the_next_engine_when_one_refuses_and_remembers_why() {
        let mut tried = Vec::new();
        let climbed = Ladder::new(EngineChoice::Auto).climb(|kind| {
            tried.push(kind);
            if kind == Tc { Err(refusal("no BPF here")) } else { Ok(kind) }
        });
        let (started, refused) = climbed.unwrap();
        assert_eq!((started, tried), (AfPacket, vec![Tc, AfPacket]));
        let refused: Vec<_> = refused.iter().map(|r| (r.engine, r.error.to_string())).collect();
        assert_eq!(refused, [(Tc, "no BPF here; do this".to_owned())]);
    }

    #[test]
    fn an_engine_that_was_asked_for_by_name_is_the_only_one_tried() {
        let mut tried = Vec::new();
        let climbed = Ladder::new(EngineChoice::Only(Tc)).climb(|kind| {
            tried.push(kind);
            Err::<(), _>(refusal("no BPF here"))
        });
        assert_eq!(tried, [Tc]);
        assert_eq!(climbed.unwrap_err().to_string(), "no BPF here; do this");
    }

    #[test]
    fn when_every_engine_refuses_the_error_tells_all_causes() {
        let ladder = Ladder::new(EngineChoice::Auto);
        let error = ladder.climb(|kind| Err::<(), _>(refusal(&format!("{kind} cannot")))).unwrap_err();
        assert_eq!(error.to_string(), "af_packet cannot; engine tc was refused before: tc cannot; do this");
    }

    #[test]
    fn an_error_that_is_not_the_engines_own_ends_the_search() {
        let mut tried = Vec::new();
        let climbed = Ladder::new(EngineChoice::Auto).climb(|kind| {
            tried.push(kind);
            Err::<(), _>(RuntimeError::Closed)
        });
        assert_eq!(tried, [Tc]);
        assert!(matches!(climbed.unwrap_err(), RuntimeError::Closed));
    }
}
