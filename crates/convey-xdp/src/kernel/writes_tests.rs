use std::net::SocketAddr;

use convey_bpf::tables::{Hop, Method, Standing};

use super::super::image::{Image, Path};
use super::*;

/// Frontends by slot: whether they listen on IPv6, and their backend; `servers` by backend.
fn image(frontends: &[Option<(bool, u16)>], servers: &[&[u16]]) -> Image {
    let address = |v6: bool, n: u16, port: u16| -> SocketAddr {
        if v6 { format!("[2001:db8::{n}]:{port}") } else { format!("10.0.{}.{}:{port}", n / 256, n % 256) }
            .parse()
            .unwrap()
    };
    let last = servers.iter().flat_map(|s| s.iter()).max().map_or(0, |n| n + 1);
    let used = |n: &u16| servers.iter().any(|s| s.contains(n));
    let server = |n: u16| Server {
        address: address(n % 2 == 1, 1000 + n, 80),
        method: Method::Nat,
        standing: Standing::Up,
        max_connections: 0,
        hop: Hop::default(),
    };
    let nat = |v6| address(v6, 9, 0).ip();
    Image {
        config: Config { seed: 1, directory_seed: 5, ..Config::default() },
        frontends: (1..)
            .zip(frontends)
            .map(|(n, f)| {
                f.map(|(v6, backend)| Frontend {
                    listen: address(v6, n, if n % 5 == 0 { 0 } else { 80 }),
                    protocol: 6,
                    left: false,
                    backend,
                    max_connections: 0,
                    source_prefix: 0,
                    access: false,
                    nat_sources: vec![nat(v6)],
                })
            })
            .collect(),
        servers: (0..last).map(|n| used(&n).then(|| server(n))).collect(),
        paths: (0..last)
            .map(|n| {
                used(&n).then(|| {
                    let to = server(n).address;
                    Path { nat: nat(to.is_ipv6()), server: to.ip(), port: to.port(), protocol: 6 }
                })
            })
            .collect(),
        access: Vec::new(),
        tables: servers.iter().map(|s| (!s.is_empty()).then(|| s.to_vec())).collect(),
    }
}

/// What a packet may come by: from an address to a frontend, to its table, to a server, to its path and source.
fn assert_complete(contents: &Contents) {
    let vips = contents.directory.iter().filter(|(d, _)| matches!(d, Direction::Vip { .. }));
    for slot in vips.map(|(_, slot)| slot).chain(contents.vips6.values()) {
        assert_frontend(contents, *slot);
    }
    let paths = contents.directory.iter().filter(|(d, _)| matches!(d, Direction::Path { .. }));
    for number in paths.map(|(_, n)| n).chain(contents.paths6.values()) {
        assert!(contents.path_sources.contains_key(number), "a path without its address");
    }
}

fn assert_frontend(contents: &Contents, slot: u32) {
    let frontend = &contents.frontends[&slot];
    assert!(
        frontend[22] >> 7 == 0 || contents.access.contains_key(&slot),
        "lists that are not there are asked"
    );
    let backend = u16::from_ne_bytes([frontend[20], frontend[21]]).into();
    for server in contents.tables.get(&backend).map(|t| t.as_ref()).unwrap_or_default() {
        let server = contents.servers[&u32::from(*server)];
        let (ip, port) = (&server[..16], u16::from_be_bytes([server[16], server[17]]));
        let has_path = contents.paths6.keys().any(|key| key[16..32] == *ip)
            || contents.directory.keys().any(|d| match d {
                Direction::Path { server, port: p, .. } => server.octets() == ip[12..] && *p == port,
                Direction::Vip { .. } => false,
            });
        assert!(has_path, "a server that may be selected has no path");
    }
}

#[test]
fn whatever_follows_whatever_no_name_is_written_before_what_it_names_and_none_outlives_it() {
    let mut random = 88_172_645_463_325_252u64;
    let mut below = |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % n
    };
    let mut contents = Contents::default();
    for _ in 0..2000 {
        // Odd servers are IPv6, and so is the backend that has them.
        let servers: Vec<Vec<u16>> =
            (0..2u16).map(|v6| (0..4).filter(|_| below(2) == 0).map(|n| 2 * n + v6).collect()).collect();
        let frontends: Vec<_> =
            (0..6).map(|_| (below(3) != 0).then(|| below(2) == 1).map(|v6| (v6, v6.into()))).collect();
        let servers: Vec<&[u16]> = servers.iter().map(Vec::as_slice).collect();
        let mut image = image(&frontends, &servers);
        for frontend in &mut image.frontends {
            let networks = ["10.0.0.0/8".parse().unwrap(), "10.0.0.0/9".parse().unwrap()];
            let list = AccessList::new(&[], &networks[..below(3) as usize]).unwrap().map(Arc::new);
            if let Some(frontend) = frontend {
                frontend.access = list.is_some();
            }
            image.access.push(list.filter(|_| frontend.is_some()));
        }
        let new = Contents::of(&image);
        for write in diff(&contents, &new) {
            contents.apply(&write);
            assert_complete(&contents);
            let any_port = contents.frontends.iter().any(|(slot, f)| {
                let mut listed =
                    contents.directory.iter().filter(|(d, _)| matches!(d, Direction::Vip { .. }));
                f[16..18] == [0, 0] && listed.any(|(_, listed)| listed == slot)
            });
            assert!(contents.config.any_port || !any_port);
        }
        assert_eq!(contents, new);
    }
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let before = Contents::of(&image(&[Some((false, 0)), Some((true, 1))], &[&[0, 2], &[1]]));
    assert_eq!(diff(&before, &before), []);
    // Server 4 comes to the first backend.
    let after = Contents::of(&image(&[Some((false, 0)), Some((true, 1))], &[&[0, 2, 4], &[1]]));
    let writes = diff(&before, &after);
    let short: Vec<_> = writes
        .iter()
        .map(|write| match write {
            Write::Server(n, Some(_)) => format!("server {n}"),
            Write::PathSource(n, Some(_)) => format!("source {n}"),
            Write::Directory(_) => "directory".into(),
            Write::Table(n, Some(_)) => format!("table {n}"),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(short, ["server 4", "source 4", "directory", "table 0"]);
    let back: Vec<_> = diff(&after, &before);
    assert!(matches!(
        back.as_slice(),
        [Write::Table(0, _), Write::Directory(_), Write::PathSource(4, None), Write::Server(4, None)]
    ));
}
