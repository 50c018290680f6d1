//! Which packet engine serves: candidates tried in order, the first that starts, and why the others were refused.
//!
//! An engine decides itself whether it suits this host, and refuses with an [`EngineError`] before it has changed
//! anything; the order here and what is done with a refusal are data, tested without an engine. A further engine is
//! one more name in [`BUILT`] and one more arm where the runtime starts them.

use convey_engine::{EngineError, EngineErrorKind, EngineKind};

use crate::RuntimeError;

/// The engines of this version.
const BUILT: &[EngineKind] = &EngineKind::ALL;

/// The order in which "auto" tries engines, the fastest first. AF_XDP is taken on request alone: it pays only where
/// policy in user space is wanted.
const AUTO: [EngineKind; 3] = [EngineKind::Xdp, EngineKind::Tc, EngineKind::AfPacket];

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
    ///
    /// # Errors
    /// [`EngineError`]: this version does not have the engine asked for.
    pub(crate) fn new(choice: EngineChoice) -> Result<Self, EngineError> {
        Self::of(choice, BUILT)
    }

    fn of(choice: EngineChoice, built: &[EngineKind]) -> Result<Self, EngineError> {
        let wanted = match &choice {
            EngineChoice::Auto => &AUTO[..],
            EngineChoice::Only(kind) => std::slice::from_ref(kind),
        };
        let (candidates, absent): (Vec<_>, Vec<_>) =
            wanted.iter().copied().partition(|kind| built.contains(kind));
        let mut refused: Vec<_> = absent
            .into_iter()
            .map(|engine| RefusedEngine { engine, error: lacking(engine, built) })
            .collect();
        match refused.pop() {
            Some(last) if candidates.is_empty() => Err(last.error),
            last => {
                refused.extend(last);
                Ok(Self { candidates, refused })
            }
        }
    }

    /// The candidate that is tried first.
    pub(crate) fn first(&self) -> EngineKind {
        // There is one, see `of`.
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

/// Why an engine that this version does not have cannot be started.
pub(crate) fn not_built(engine: EngineKind) -> EngineError {
    lacking(engine, BUILT)
}

fn lacking(engine: EngineKind, built: &[EngineKind]) -> EngineError {
    let known: Vec<String> = built.iter().map(|kind| format!("\"{kind}\"")).collect();
    EngineError::new(
        EngineErrorKind::NotBuilt,
        format!("engine \"{engine}\" is not in this version"),
        format!("use {} or \"auto\"", known.join(", ")),
    )
}

/// The error of the last, which also tells those of candidates before it.
fn none_left(mut refused: Vec<RefusedEngine>) -> EngineError {
    let Some(RefusedEngine { mut error, .. }) = refused.pop() else {
        return EngineError::new(EngineErrorKind::Failed, "there is no engine to try", "");
    };
    for before in refused.iter().rev().filter(|r| r.error.kind != EngineErrorKind::NotBuilt) {
        error.cause =
            format!("{}; engine {} was refused before: {}", error.cause, before.engine, before.error.cause);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use EngineKind::{AfPacket, AfXdp, Tc, Xdp};

    fn refusal(cause: &str) -> RuntimeError {
        EngineError::new(EngineErrorKind::Unsupported, cause, "do this").into()
    }

    fn engines(refused: &[RefusedEngine]) -> Vec<EngineKind> {
        refused.iter().map(|r| r.engine).collect()
    }

    #[test]
    fn auto_takes_the_portable_engine_of_this_version_and_names_those_it_lacks() {
        let (started, refused) = Ladder::new(EngineChoice::Auto).unwrap().climb(Ok).unwrap();
        assert_eq!((started, engines(&refused)), (AfPacket, vec![Xdp, Tc]));
        assert!(refused.iter().all(|r| r.error.kind == EngineErrorKind::NotBuilt));
    }

    #[test]
    fn an_engine_that_this_version_lacks_is_an_error_that_names_those_it_has() {
        for kind in [Tc, Xdp] {
            let error = Ladder::new(EngineChoice::Only(kind)).unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::NotBuilt);
            let expected = format!(
                "engine \"{kind}\" is not in this version; use \"af_xdp\", \"af_packet\" or \"auto\""
            );
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn auto_tries_the_next_engine_when_one_refuses_and_remembers_why() {
        let ladder = Ladder::of(EngineChoice::Auto, &[AfPacket, Tc, Xdp, AfXdp]).unwrap();
        let mut tried = Vec::new();
        let (started, refused) = ladder
            .climb(|kind| {
                tried.push(kind);
                if kind == Xdp { Err(refusal("eth0 is a veth")) } else { Ok(kind) }
            })
            .unwrap();
        assert_eq!((started, tried), (Tc, vec![Xdp, Tc]));
        assert_eq!(engines(&refused), [Xdp]);
        assert_eq!(refused[0].error.to_string(), "eth0 is a veth; do this");
    }

    #[test]
    fn an_engine_that_was_asked_for_by_name_is_the_only_one_tried() {
        let ladder = Ladder::of(EngineChoice::Only(Tc), &[AfPacket, Tc]).unwrap();
        let mut tried = Vec::new();
        let error = ladder
            .climb(|kind| {
                tried.push(kind);
                Err::<(), _>(refusal("no BPF here"))
            })
            .unwrap_err();
        assert_eq!(tried, [Tc]);
        assert_eq!(error.to_string(), "no BPF here; do this");
    }

    #[test]
    fn when_every_engine_refuses_the_error_tells_all_causes() {
        let ladder = Ladder::of(EngineChoice::Auto, &[AfPacket, Tc]).unwrap();
        let error = ladder.climb(|kind| Err::<(), _>(refusal(&format!("{kind} cannot")))).unwrap_err();
        assert_eq!(error.to_string(), "af_packet cannot; engine tc was refused before: tc cannot; do this");
    }

    #[test]
    fn an_error_that_is_not_the_engines_own_ends_the_search() {
        let ladder = Ladder::of(EngineChoice::Auto, &[AfPacket, Tc]).unwrap();
        let mut tried = Vec::new();
        let error = ladder
            .climb(|kind| {
                tried.push(kind);
                Err::<(), _>(RuntimeError::Closed)
            })
            .unwrap_err();
        assert_eq!(tried, [Tc]);
        assert!(matches!(error, RuntimeError::Closed));
    }
}
