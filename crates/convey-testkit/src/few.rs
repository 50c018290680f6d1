//! Short runs of long tests, for whoever only wants to know whether they can run at all.

/// Whether `CONVEY_TEST_BRIEF` asks for a short run: the tests have run at length elsewhere, under the same
/// restrictions, and what they need to run is needed by their first case, too.
#[must_use]
pub fn is_brief() -> bool {
    std::env::var_os("CONVEY_TEST_BRIEF").is_some()
}

/// The cases to run: all of them, in a short run the first.
#[must_use]
pub fn few<T>(all: &[T]) -> &[T] {
    if is_brief() { all.get(..1).unwrap_or(all) } else { all }
}
