//! Why an engine cannot do what it is asked to, as data: the runtime decides by it, people read it, `/stats` lists it.

use std::error::Error;
use std::fmt;
use std::io;

/// Of which kind an [`EngineError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// A privilege is missing.
    Permission,
    /// The configuration names no interface that is there.
    NoInterface,
    /// The kernel, a driver or a link cannot do it.
    Unsupported,
    /// Something else failed.
    Failed,
}

impl EngineErrorKind {
    /// The name under which `/stats` reports it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::NoInterface => "no_interface",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }
}

/// Why an engine cannot start or go on with a new configuration. Reads as "cause; remedy".
#[derive(Debug)]
pub struct EngineError {
    /// For callers that decide by it.
    pub kind: EngineErrorKind,
    /// What failed, on what, and how, as a sentence without its full stop.
    pub cause: String,
    /// What to try; empty where nobody knows.
    pub remedy: String,
    /// What fits no line, such as all that the kernel's verifier said of a program.
    pub log: Option<String>,
    source: Option<io::Error>,
}

impl EngineError {
    /// An error that no system call is behind.
    pub fn new(kind: EngineErrorKind, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, cause: cause.into(), remedy: remedy.into(), log: None, source: None }
    }

    /// The error with what the system answered.
    #[must_use]
    pub fn caused_by(self, source: io::Error) -> Self {
        Self { source: Some(source), ..self }
    }

    /// There is no link to work on, of those a configuration names or at all.
    pub fn no_interface(named: &[String]) -> Self {
        let why = match named {
            [] => "there is no Ethernet interface that is up".to_owned(),
            names => format!("none of {} is an Ethernet interface that is up", names.join(", ")),
        };
        let remedy = "bring one up, or name others with \"interfaces\"";
        Self::new(EngineErrorKind::NoInterface, format!("No interface to forward packets on: {why}"), remedy)
    }

    /// The network could not be read, or be listened on.
    pub fn links(source: io::Error) -> Self {
        let cause = format!(
            "Cannot read links, routes and neighbours from the kernel, or listen on the links: {source}"
        );
        Self::new(EngineErrorKind::Failed, cause, "").caused_by(source)
    }

    /// What the system answered, as in errno(3).
    pub fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl Error for EngineError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_cause_remedy_and_number() {
        let error = EngineError::new(EngineErrorKind::Unsupported, "no tcx on eth0", "use a newer kernel")
            .caused_by(io::Error::from_raw_os_error(95));
        assert_eq!(
            (error.to_string().as_str(), error.errno()),
            ("no tcx on eth0; use a newer kernel", Some(95))
        );
        let error = EngineError::no_interface(&["eth7".into(), "eth8".into()]);
        assert_eq!(
            error.to_string(),
            "No interface to forward packets on: none of eth7, eth8 is an Ethernet interface that is up; bring one up, or \
             name others with \"interfaces\""
        );
        assert_eq!(EngineError::new(EngineErrorKind::Failed, "it broke", "").to_string(), "it broke");
    }
}
