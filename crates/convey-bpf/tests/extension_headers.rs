//! The guard drops what the engine forwards: both must look equally far behind IPv6 extension headers.

#[test]
fn the_guard_walks_as_many_extension_headers_as_the_engine() {
    let header = include_str!("../src/packet.h");
    let line = header.lines().find_map(|l| l.strip_prefix("#define EXTENSION_HEADERS_MAX "));
    assert_eq!(line, Some(convey_packet::MAX_EXTENSION_HEADERS.to_string().as_str()));
}
