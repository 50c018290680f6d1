//! Which clients a frontend takes: by their address ([`AccessList`]) and by how often they come ([`Rate`]).

mod access;
mod client_rates;
mod prefix;
mod rate;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

pub use access::{AccessList, Conflict, Judgement};
pub use client_rates::ClientRates;
pub use prefix::{BadPrefix, Prefix};
pub use rate::{Rate, TokenBucket};

/// The IPv6 prefix that counts as one client unless configured: what a subscriber is given at least.
pub const CLIENT_IPV6_PREFIX: u8 = 64;

/// What a frontend asks of its clients, as configured. The default asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdmissionSpec {
    /// Who may come; `None`: everybody.
    pub access: Option<Arc<AccessList>>,
    /// New connections in total; `None`: any number.
    pub rate: Option<Rate>,
    /// New connections of one client; `None`: any number.
    pub client_rate: Option<Rate>,
}

/// The same in service, with what has been counted.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Who may come; `None`: everybody.
    pub access: Option<Arc<AccessList>>,
    /// Limits of new connections; `None`: there are none.
    pub rates: Option<Rates>,
}

/// How many new connections a frontend takes, and how many came.
#[derive(Debug, Clone)]
pub struct Rates {
    total: Option<(Rate, Arc<TokenBucket>)>,
    client: Option<(Rate, Arc<ClientRates>)>,
}

/// Which of the rates was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// That of the frontend.
    Total,
    /// That of the client.
    Client,
}

impl Admission {
    /// What `spec` asks; what `previous` has counted goes on.
    pub fn new(spec: &AdmissionSpec, previous: Option<&Self>) -> Self {
        let old = previous.and_then(|p| p.rates.as_ref());
        let total = spec.rate.map(|rate| {
            let bucket = old.and_then(|o| Some(o.total.as_ref()?.1.clone()));
            (rate, bucket.unwrap_or_default())
        });
        let client = spec.client_rate.map(|rate| {
            let clients = old.and_then(|o| Some(o.client.as_ref()?.1.clone()));
            (rate, clients.unwrap_or_default())
        });
        let has_rates = total.is_some() || client.is_some();
        Self { access: spec.access.clone(), rates: has_rates.then_some(Rates { total, client }) }
    }
}

impl Rates {
    /// Counts a connection of `client` (see [`client_of`]) that comes `now`, in nanoseconds from any fixed moment, or
    /// names the rate that it would exceed: a connection that is refused counts for neither.
    ///
    /// # Errors
    /// Which rate was exceeded.
    pub fn take(&self, client: IpAddr, now: u64) -> Result<(), Exceeded> {
        if let Some((rate, clients)) = &self.client
            && !clients.take(client, *rate, now)
        {
            return Err(Exceeded::Client);
        }
        if let Some((rate, bucket)) = &self.total
            && !bucket.take(*rate, now)
        {
            if let Some((rate, clients)) = &self.client {
                clients.give_back(client, *rate);
            }
            return Err(Exceeded::Total);
        }
        Ok(())
    }
}

/// Who `ip` counts as: an IPv4 address as itself, an IPv6 address as the network of its first `ipv6_prefix` bits. An IPv4
/// address mapped into IPv6 is the IPv4 address.
pub fn client_of(ip: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let host_bits = 128 - u32::from(ipv6_prefix.min(128));
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client_and_ipv4_addresses_are_one_each() {
        let of = |ip: &str, bits| client_of(ip.parse().unwrap(), bits).to_string();
        assert_eq!(of("2001:db8:0:1:ffff::9", 64), "2001:db8:0:1::");
        assert_eq!(of("2001:db8:0:1:ffff::9", 128), "2001:db8:0:1:ffff::9");
        assert_eq!(of("ffff::9", 1), "8000::");
        assert_eq!(of("192.0.2.7", 1), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7", 64), "192.0.2.7");
    }

    #[test]
    fn a_connection_that_the_frontends_rate_refuses_does_not_count_for_its_client() {
        let rate = |per_second, burst| Some(Rate::new(per_second, burst));
        let spec = AdmissionSpec { access: None, rate: rate(1, 1), client_rate: rate(1, 2) };
        let rates = Admission::new(&spec, None).rates.unwrap();
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        assert_eq!(rates.take(one, 0), Ok(()));
        for _ in 0..5 {
            assert_eq!(rates.take(other, 1), Err(Exceeded::Total));
        }
        assert_eq!(rates.take(other, 1_000_000_000), Ok(()));
        assert_eq!(rates.take(other, 2_000_000_000), Ok(()));
    }

    #[test]
    fn a_client_beyond_its_rate_takes_nothing_from_that_of_the_frontend() {
        let rate = |per_second, burst| Some(Rate::new(per_second, burst));
        let spec = AdmissionSpec { access: None, rate: rate(1, 2), client_rate: rate(1, 1) };
        let rates = Admission::new(&spec, None).rates.unwrap();
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        assert_eq!(rates.take(one, 0), Ok(()));
        for _ in 0..5 {
            assert_eq!(rates.take(one, 0), Err(Exceeded::Client));
        }
        assert_eq!(rates.take(other, 0), Ok(()));
    }

    #[test]
    fn what_was_counted_goes_on_in_the_next_configuration() {
        let spec = AdmissionSpec { rate: Some(Rate::new(1, 1)), ..AdmissionSpec::default() };
        let first = Admission::new(&spec, None);
        let ip = "192.0.2.1".parse().unwrap();
        assert_eq!(first.rates.as_ref().unwrap().take(ip, 0), Ok(()));
        let next = Admission::new(&spec, Some(&first));
        assert_eq!(next.rates.unwrap().take(ip, 0), Err(Exceeded::Total));
    }
}
