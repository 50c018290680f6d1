//! Which backend a TLS connection goes to by what its ClientHello says, without ending TLS.
//!
//! Precedence: the whole name, the longest wildcard, the first protocol that the client offers and that has a route,
//! the frontend's backend. A client that offers nothing but `acme-tls/1` comes to check a certificate for a name
//! (RFC 8737) and goes by that protocol before its name, where it has a route.

use std::collections::HashMap;
use std::time::Duration;

use crate::snapshot::SpecError;

/// The protocol of certificate authorities that check a name, alone in its list.
const ACME: &[u8] = b"acme-tls/1";

/// A frontend's routes before they are checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HelloRoutesSpec {
    /// Name, or `*.` and a suffix, in ASCII; and the name of its backend.
    pub sni: Vec<(String, String)>,
    /// Protocol of ALPN, and the name of its backend.
    pub alpn: Vec<(String, String)>,
    /// How long a client may take to say its hello.
    pub timeout: Duration,
}

/// A frontend's routes in service; values are indices of backends.
#[derive(Debug, Default)]
pub struct HelloRoutes {
    names: HashMap<Box<str>, usize>,
    /// By what stands behind `*.`.
    suffixes: HashMap<Box<str>, usize>,
    alpn: HashMap<Box<[u8]>, usize>,
    /// How long a client may take to say its hello.
    pub timeout: Duration,
}

/// A route that a hello has met, by the key of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloRoute<'a> {
    /// The whole name.
    Name(&'a str),
    /// A wildcard, by what stands behind its `*.`.
    Suffix(&'a str),
    /// A protocol of ALPN.
    Protocol(&'a [u8]),
}

/// As names are compared: lower case, without the dot at the end.
fn canonical(name: &str) -> Box<str> {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()
}

impl HelloRoutes {
    /// The routes of `spec`, a frontend's.
    ///
    /// # Errors
    /// The first route twice or to a backend that is not in `backends`.
    pub(crate) fn new(
        frontend: &str,
        spec: &HelloRoutesSpec,
        backends: &HashMap<String, usize>,
    ) -> Result<Self, SpecError> {
        let mut routes = Self { timeout: spec.timeout, ..Self::default() };
        let invalid = |table: &str, key: &str, message: String| SpecError {
            field: format!("frontends.{frontend}.{table}.{key}"),
            message,
        };
        let index = |table: &str, (key, backend): &(String, String)| {
            let unknown = || invalid(table, key, format!("no backend is named \"{backend}\""));
            backends.get(backend).copied().ok_or_else(unknown)
        };
        for route in &spec.sni {
            let name = canonical(&route.0);
            let (table, key) = match name.strip_prefix("*.") {
                Some(suffix) => (&mut routes.suffixes, suffix.into()),
                None => (&mut routes.names, name),
            };
            if table.insert(key, index("sni", route)?).is_some() {
                return Err(invalid("sni", &route.0, "this name is routed twice".into()));
            }
        }
        for route in &spec.alpn {
            let protocol: Box<[u8]> = route.0.as_bytes().into();
            if routes.alpn.insert(protocol, index("alpn", route)?).is_some() {
                return Err(invalid("alpn", &route.0, "this protocol is routed twice".into()));
            }
        }
        Ok(routes)
    }

    /// The backend for a client that names `sni` and offers `alpn`, the one it likes best first; `None`: the
    /// frontend's own.
    pub fn choose<'a>(
        &self,
        sni: Option<&str>,
        alpn: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Option<usize> {
        self.route(sni, alpn).map(|(_, backend)| backend)
    }

    /// As [`HelloRoutes::choose`], with the route that says so.
    pub fn route<'a>(
        &self,
        sni: Option<&str>,
        mut alpn: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Option<(HelloRoute<'_>, usize)> {
        let by_protocol = |protocol: &[u8]| {
            self.alpn.get_key_value(protocol).map(|(key, &backend)| (HelloRoute::Protocol(key), backend))
        };
        if let Some(acme) = by_protocol(ACME)
            && alpn.clone().eq([ACME])
        {
            return Some(acme);
        }
        let by_name = sni.and_then(|name| self.by_name(&canonical(name)));
        by_name.or_else(|| alpn.find_map(by_protocol))
    }

    fn by_name(&self, name: &str) -> Option<(HelloRoute<'_>, usize)> {
        if let Some((key, &exact)) = self.names.get_key_value(name) {
            return Some((HelloRoute::Name(key), exact));
        }
        if self.suffixes.is_empty() {
            return None;
        }
        // The longest suffix is what follows the first label. That label must not be empty.
        let mut rest = name;
        while let Some((label, suffix)) = rest.split_once('.') {
            if label.is_empty() {
                return None;
            }
            if let Some((key, &wild)) = self.suffixes.get_key_value(suffix) {
                return Some((HelloRoute::Suffix(key), wild));
            }
            rest = suffix;
        }
        None
    }

    /// All backends that have a route, each as often as it has one.
    pub fn backends(&self) -> impl Iterator<Item = usize> + '_ {
        self.names.values().chain(self.suffixes.values()).chain(self.alpn.values()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(sni: &[(&str, &str)], alpn: &[(&str, &str)]) -> Result<HelloRoutes, SpecError> {
        let owned = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let spec = HelloRoutesSpec { sni: owned(sni), alpn: owned(alpn), timeout: Duration::ZERO };
        HelloRoutes::new("web", &spec, &(0..4).map(|i| (i.to_string(), i)).collect())
    }

    fn none() -> std::iter::Empty<&'static [u8]> {
        std::iter::empty()
    }

    #[test]
    fn the_whole_name_comes_before_the_longest_wildcard_and_that_before_protocols() {
        let routes = routes(
            &[("app.example.com", "0"), ("*.example.com", "1"), ("*.b.Example.com.", "2")],
            &[("h2", "3")],
        )
        .unwrap();
        let h2 = || [b"http/1.1".as_slice(), b"h2"].into_iter();
        assert_eq!(routes.choose(Some("APP.example.com."), h2()), Some(0));
        assert_eq!(routes.choose(Some("x.example.com"), h2()), Some(1));
        assert_eq!(routes.choose(Some("x.app.example.com"), none()), Some(1), "a wildcard is any depth");
        assert_eq!(routes.choose(Some("x.y.b.example.com"), h2()), Some(2));
        assert_eq!(routes.choose(Some("example.com"), h2()), Some(3), "a wildcard is not its suffix itself");
        assert_eq!(routes.choose(None, h2()), Some(3));
        assert_eq!(routes.choose(Some("example.org"), none()), None);
        let wildcard = (HelloRoute::Suffix("b.example.com"), 2);
        assert_eq!(
            routes.route(Some("x.y.B.example.com"), h2()),
            Some(wildcard),
            "the route is told as compared"
        );
        for odd in [".example.com", "", ".", "..", "*.example.org", "a..example.com"] {
            assert_eq!(routes.choose(Some(odd), none()), None, "{odd:?}");
        }
    }

    #[test]
    fn a_check_of_a_certificate_authority_goes_by_its_protocol_before_its_name() {
        let routes = routes(&[("a.test", "0")], &[("acme-tls/1", "1")]).unwrap();
        assert_eq!(routes.choose(Some("a.test"), [ACME].into_iter()), Some(1));
        assert_eq!(routes.choose(Some("a.test"), [ACME, b"h2"].into_iter()), Some(0));
    }

    #[test]
    fn a_route_twice_or_to_no_backend_is_refused_by_its_place() {
        let twice = routes(&[("a.test", "0"), ("A.test.", "1")], &[]).unwrap_err();
        assert_eq!(twice.field, "frontends.web.sni.A.test.");
        let unknown = routes(&[], &[("h2", "9")]).unwrap_err();
        assert_eq!(unknown.to_string(), "frontends.web.alpn.h2: no backend is named \"9\"");
    }
}
