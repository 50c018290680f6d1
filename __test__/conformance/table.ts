/**
 * What a load balancer owes its users, and the tests that hold Convey to it. C and F are what must hold in which mode
 * (P proxy, N passthrough, D direct server return, A all), S is security. A piece of a title is enough to name a test;
 * it may stand in any file. `open` says what of a row is not tested, and why.
 */
export interface Row {
  mode: string;
  says: string;
  /** Pieces of titles. */
  tests: readonly string[];
  open?: string;
}

const LATER = "not in this version";

export const CONFORMANCE: Readonly<Record<string, Row>> = {
  C1: {
    mode: "A",
    says: "50 MiB each way in random chunks arrive, counters exact, offloads on and off",
    tests: [
      "50 MiB each way in random chunks",
      "50 MiB each way over",
      "50 MiB each way with every offload off",
      "curl and nginx exchange 50 MiB each way",
    ],
  },
  C2: {
    mode: "A",
    says: "server speaks first; 50 connections open, write and close at random; gauges return to 0",
    tests: ["the server speaks first, and 300 connections", "50 connections at a time open, write"],
  },
  C3: {
    mode: "A",
    says: "half-close from either side",
    tests: [
      "half-close from either side",
      "after the client's FIN the server's",
      "after the server's FIN the client",
    ],
  },
  C4: {
    mode: "P",
    says: "slow reader, then FIN: all arrives, memory bounded",
    tests: ["a slow reader gets everything"],
  },
  C5: {
    mode: "P",
    says: "a peer that never reads is ended by the idle timer",
    tests: ["a peer that never reads is ended"],
  },
  C6: {
    mode: "P",
    says: "connect refused, timed out, black-holed: another server, at most N, never after bytes flowed",
    tests: [
      "a refused connect goes to another server",
      "a black-holed connect is given up",
      "further servers are tried, none twice",
      "after a byte has flowed no other server is tried",
    ],
  },
  C7: {
    mode: "A",
    says: "no server available: prompt close, reset or drop; counted",
    tests: [
      "with no server available the client is closed",
      "with no server to give it to a connection is reset",
    ],
  },
  C8: {
    mode: "A",
    says: "distribution: exact round robin by weight; zero weight gets none, and comes back",
    tests: ["shares_by_weight_are_exact", "15 and 15", "connections are spread by weight"],
  },
  C9: {
    mode: "A",
    says: "Maglev: no holes, deterministic, independent of order, shares within 1 %, at most 2 % move",
    tests: [
      "equal_weights_differ_by_at_most_one_slot",
      "the_order_of_servers_does_not_matter",
      "shares_follow_weights_within_one_percent",
      "removing_one_server_of_100",
    ],
  },
  C10: {
    mode: "N/D",
    says: "a tuple stays with its server across reload, add and drain",
    tests: ["flows stay with their server across reload", "flows_stay_with_their_server_across_add"],
  },
  C11: {
    mode: "N/D",
    says: "fixtures: exact bytes and verdict; user space and kernel program agree",
    tests: [
      "every_fixture_ends_with_its_verdict",
      "every_fixture_is_kept_from_the_kernel",
      "tc_decides_every_fixture_as_the_portable_engine_does",
      "xdp_decides_every_fixture_as_the_portable_engine_does",
    ],
  },
  C12: {
    mode: "N",
    says: "rewriting both ways; incremental checksum equals a full one; corrupted stays corrupted",
    tests: [
      "addresses, ports, TTL and checksum on the wire",
      "a corrupted checksum leaves as corrupted",
      "incremental_checksums_equal_a_full",
    ],
  },
  C13: {
    mode: "N/D",
    says: "ICMP errors with only eight bytes of the transport",
    tests: ["an ICMP error with eight bytes of TCP", "eight transport bytes quoted"],
  },
  C14: { mode: "N/D", says: "path MTU 1280 behind the router", tests: ["through a path MTU of 1280"] },
  C15: {
    mode: "N/D",
    says: "fragments: the documented policy, never misdelivered",
    tests: [
      "datagrams in fragments are answered in fragments",
      "in any order make the datagram that was sent",
      "later_fragments_of_what_was_dropped_are_dropped",
      "a_flood_of_first_fragments_evicts",
    ],
  },
  C16: {
    mode: "N/D",
    says: "IP options, VLAN, ARP, other protocols, non-VIP: by table; the host stays reachable",
    tests: ["TCP behind the longest IP options", "what is neither TCP nor UDP", "the host stays itself"],
  },
  C17: {
    mode: "N/D",
    says: "TTL 1",
    tests: ["a packet whose TTL ends here", "TTL 1 is answered with Time Exceeded"],
  },
  C18: { mode: "N/D", says: "a segment without state", tests: ["a segment of no known flow is reset"] },
  C19: {
    mode: "D",
    says: "by MAC address only MACs change; answers bypass the balancer",
    tests: [
      "answers pass the balancer by",
      "what the servers see of the client",
      "nothing but the MACs changes",
    ],
  },
  C20: {
    mode: "A",
    says: "UDP: empty, 0, 1 and N answers, oversize, idle expiry",
    tests: ["an empty datagram, 0, 1 and 20 answers", "datagrams_after_a_conversation_expired"],
  },
  C21: { mode: "P", says: "PROXY protocol in and out", tests: [], open: `the PROXY protocol is ${LATER}` },
  C22: {
    mode: "A",
    says: "health: rise and fall, timeouts, parallel, flapping; no descriptor leaks",
    tests: [
      "a server that dies leaves selection once",
      "goes down at exactly the fall-th failure",
      "one blip shorter than `fall` checks",
      "checks leak no file descriptors",
      "every server still has its turn",
    ],
  },
  C23: {
    mode: "A",
    says: "100 reloads under 1,000 connections a second: none fails",
    tests: ["100 reloads under 1,000 connections a second"],
    open: "in the packet modes a reload meets open flows (C10), not a thousand new ones a second",
  },
  C24: {
    mode: "A",
    says: "SIGTERM stops accepting, drains, exits 0 by the deadline; a second one is hard",
    tests: [
      "after SIGTERM nothing new is accepted",
      "the deadline ends a drain",
      "a second signal cuts open connections",
      "SIGTERM takes no new flows",
      "a second SIGTERM ends it at once",
    ],
  },
  C25: {
    mode: "A",
    says: "limits by client, frontend and in total; idle and longest duration",
    tests: [
      "the_limit_of_a_client_address_is_held",
      "limits_hold_and_are_counted_apart",
      "an idle connection ends at the idle timeout",
      "a busy connection ends at its maximum duration",
    ],
  },
  C26: {
    mode: "N/D",
    says: "AF_XDP rings: run-out, teardown, invalid descriptors, more to send than a batch",
    tests: [
      "frames_are_conserved_while_rings_run_out",
      "a_frame_that_is_too_long_or_leaves_by_an_interface_that_is_gone",
      "a_frame_is_in_one_place",
      "interfaces_come_and_go_and_nothing_is_left",
    ],
  },
  C27: {
    mode: "N/D",
    says: "a closed or expired flow's tuple is used again at any later time",
    tests: [
      "one source port used over and over",
      "a_tuple_is_answered_at_once_however_long",
      "a_tuple_whose_flow_expired_open",
      "in_dsr_a_tuple_used_again",
    ],
  },
  C28: {
    mode: "N/D",
    says: "UDP to a server that went down; a SYN whose flow is pinned to one that is down or gone",
    tests: [
      "of a server that goes silent, a client's next datagrams",
      "a_syn_whose_flow_is_pinned",
      "datagrams_leave_a_server_that_went_down",
    ],
  },
  C29: {
    mode: "N",
    says: "more UDP conversations with a server than NAT ports; a half-open flood likewise",
    tests: [
      "forty_thousand_conversations",
      "a_busy_conversation_is_never_broken",
      "a_half_open_flood_with_guessed",
    ],
  },
  C30: {
    mode: "N/D",
    says: "busy flows over SIGKILL and restart, keep_forwarding, upgrade",
    tests: [
      "busy flows go on over SIGKILL",
      "flows go on over three kills",
      "a conversation of datagrams goes on over SIGKILL",
    ],
    open: `shutdown.keep_forwarding is ${LATER}`,
  },
  C31: {
    mode: "N/D",
    says: "ICMP errors: eight bytes, quoted options, quoted fragment, from a router in the middle, another balancer's flow",
    tests: [
      "an ICMP error with eight bytes of TCP",
      "quoted IP options are kept",
      "quotes a later fragment",
      "an error without state goes where the hash says",
      "the_budget_for_icmp_errors",
    ],
  },
  C32: {
    mode: "D",
    says: "the VIP is checked on each server: its address missing means down, with the cause",
    tests: [
      "a server without the loopback address is down over",
      'with check = "vip" a server whose answers do not bear the VIP is down over',
    ],
  },
  C33: {
    mode: "P",
    says: "a server answers and closes while the client still sends",
    tests: ["a server's early answer to an upload"],
  },
  C34: {
    mode: "P",
    says: "slow but steady reader; process stopped longer than the idle timeout",
    tests: [
      "a_slow_but_steady_reader_is_not_idle",
      "a process that was stopped for longer than the idle timeout",
    ],
  },
  C35: {
    mode: "A",
    says: "draining, then a health change, a reload, a second SIGTERM: stays shut",
    tests: [
      "a health change during the drain admits no new flow",
      "a health change during the drain opens nothing",
      "close does not wait for a reload",
      "a second SIGTERM ends it at once",
    ],
  },
  C36: {
    mode: "A",
    says: "listeners move to overlapping addresses, ports are exchanged, by reload",
    tests: [
      "a frontend takes the port that another one leaves",
      "two frontends exchange their ports",
      "the statistics server and a frontend exchange",
    ],
  },
  C37: {
    mode: "A",
    says: "counters, events and weights over reload, restart and upgrade",
    tests: [
      "open connections and counters of surviving names go on",
      "each is counted once, and nothing is left",
    ],
    open: "counters of a killed process are not carried over",
  },
  F1: { mode: "P", says: "64 file descriptors", tests: ["without file descriptors accepting backs off"] },
  F2: { mode: "P", says: "source ports exhausted", tests: ["without source ports clients are closed"] },
  F3: {
    mode: "N",
    says: "one source port in a loop; never another client's data",
    tests: ["one source port used over and over", "no client ever gets another's bytes"],
  },
  F4: { mode: "N", says: "flow table full", tests: ["a full flow table costs new flows"] },
  F5: {
    mode: "A",
    says: "SYN flood beside real clients",
    tests: [
      "beside a SYN flood, forged acknowledgements and datagrams",
      "a_syn_flood_leaves_conversations_alone",
    ],
    open: "in proxy mode SYN cookies are the kernel's",
  },
  F6: {
    mode: "N/D",
    says: "every truncation, bad lengths, bad checksums, fuzz",
    tests: ["every truncation, wrong lengths", "any_bytes_end_in_a_counted_verdict"],
  },
  F7: {
    mode: "N",
    says: "out-of-window data, blind resets, replies of the wrong host",
    tests: ["data out of window and blind resets"],
  },
  F8: {
    mode: "A",
    says: "server killed or black-holed mid-flow",
    tests: [
      "a server that is killed ends its flows within a second",
      "a server killed mid-flow ends its clients",
      "a server black-holed mid-flow is bounded",
    ],
  },
  F9: {
    mode: "A",
    says: "every server at its limit",
    tests: ["with every server at its limit", "servers_that_are_all_at_their_limit"],
  },
  F10: {
    mode: "A",
    says: "file half-written, invalid, empty, removed, renamed over, ..data swapped",
    tests: [
      "invalid, empty and removed: one error each",
      "a file that is half written for a while",
      "a file renamed over the old one",
      "a swapped ..data link is followed",
    ],
  },
  F11: {
    mode: "A",
    says: "SIGKILL, start again: own state reclaimed, nobody else's touched",
    tests: [
      "after SIGKILL `convey cleanup` takes back",
      "what_a_killed_balancer_left_is_reclaimed",
      "busy flows go on over SIGKILL",
    ],
  },
  F12: {
    mode: "A",
    says: "a panic in a data thread is reported and survived",
    tests: ["a panic in a data thread is reported", "work_that_panics_is_reported"],
  },
  F13: {
    mode: "A",
    says: "Node blocked for 10 s",
    tests: ["with Node blocked for 10 s", "with the program's event loop blocked for 10 s"],
  },
  F14: {
    mode: "D",
    says: "stale state and a second VIP",
    tests: ["in_dsr_a_busy_port_gets_a_new_server", "one server port behind two addresses is told"],
  },
  F15: {
    mode: "A",
    says: "50 reloads a second are coalesced",
    tests: ["fifty reloads a second cost a few reads"],
  },
  F16: {
    mode: "A",
    says: "a server removed with live flows: counters never negative",
    tests: ["a_server_that_is_removed_and_comes_back_with_flows_open"],
  },
  F17: {
    mode: "A",
    says: "a second instance is refused",
    tests: ["a second instance is refused by the address", "a second instance on the same address"],
    open: `XDP is ${LATER}`,
  },
  F18: {
    mode: "N/D",
    says: "link flap, MTU change, server MAC change",
    tests: ["a link that went down forwards again", "a server that changes its MAC address"],
    open: "an MTU that changes while running",
  },
  F19: {
    mode: "N/D",
    says: "jumbo frames, GSO",
    tests: ["a_coalesced_frame_of_64_kilobytes", "GSO: segments that fit"],
    open: "links with an MTU above 1500",
  },
  F20: {
    mode: "N/D",
    says: "rp_filter, asymmetric path",
    tests: ["an_answer_from_a_vip_leaves_by_the_uplink"],
    open: "the tap comes before rp_filter on the balancer; a router's own is not diagnosed",
  },
  F21: {
    mode: "A",
    says: "loss of 1, 10 and 30 %, reordering",
    tests: ["every_segment_of_a_real_conversation_counts_whatever_is_lost"],
    open: "loss on real links",
  },
  F22: { mode: "A", says: "the clock steps", tests: ["a_clock_that_steps_back_ends_no_flow"] },
  F23: {
    mode: "P",
    says: "slow clients, 10,000 idle ones: memory documented",
    tests: ["headers that never end are cut off"],
    open: "memory of an idle pair is a figure of the bench",
  },
  F24: {
    mode: "A",
    says: "no flood of log lines",
    tests: ["reports_of_a_dead_server_are_thinned", "every transition is logged once"],
  },
  F25: {
    mode: "A",
    says: "stdout blocked, disk full",
    tests: ["a reader that stops reading costs log lines", "a log on a full disk goes on"],
  },
  F26: {
    mode: "A",
    says: "control characters are escaped",
    tests: ["control characters are escaped", "cannot drive the terminal or forge a line"],
  },
  F27: {
    mode: "A",
    says: "DNS fails",
    tests: [],
    open: "servers are addresses; there are no names to look up",
  },
  F28: {
    mode: "A",
    says: "10⁷ connections: nothing grows",
    tests: ["a_thousand_short_connections_at_once_leave_nothing_behind"],
    open: "takes hours",
  },
  F29: {
    mode: "N/D",
    says: "native or zero-copy refused",
    tests: [
      "nft_stands_in_where_bpf_is_refused",
      "what_is_too_long_or_lacks_native_xdp_is_refused",
      "a_foreign_xdp_program_is_refused",
    ],
    open: `XDP is ${LATER}; a card with zero-copy was not at hand`,
  },
  F30: {
    mode: "A",
    says: "a frontend that is its own server is refused",
    tests: [
      "a wildcard with one of this host's own addresses is a circle",
      "a longer circle names the frontends",
      "a reload that would make a frontend its own server",
      "a server on the balancer's own address is refused",
    ],
  },
  F31: {
    mode: "A",
    says: "3,000 black-holed servers beside a living one",
    tests: ["servers that do not answer, a server that dies is noticed"],
  },
  F32: {
    mode: "A",
    says: "too few descriptors, at start and at reload",
    tests: ["with any limit on open files a start serves", "a reload that lacks descriptors is refused"],
  },
  F33: {
    mode: "A",
    says: "log on a full disk; signals in the first 300 ms; FIFO as configuration; terminal closed",
    tests: [
      "a log on a full disk goes on",
      "after signals are caught",
      "a named pipe may get its writer later",
      "a closed terminal ends it",
    ],
  },
  F34: {
    mode: "N/D",
    says: "routes, gateways, interfaces and addresses come, go and change: forwards within a second of the news",
    tests: [
      "a server that changes its MAC address",
      "a router that changes its MAC address",
      "a link that went down forwards again",
      "a client on a third network of the balancer",
      "follows an address that comes and goes",
      "answers leave by the uplink that a rule names",
      "changes_of_rules_routes_addresses_and_links_are_followed",
      "a_named_interface_that_is_missing_is_told_once",
    ],
  },
  F35: {
    mode: "N/D",
    says: "gateways that share an address; blackhole routes; full routing table; VIPs by the thousand",
    tests: [
      "a_frame_whose_gateway_has_a_twin",
      "a_server_behind_a_blackhole_route",
      "a_thousand_scattered_addresses_are_served",
      "beside_a_full_table",
    ],
  },
  S1: {
    mode: "A",
    says: "HTTP on loopback unless told otherwise, elsewhere with a token",
    tests: [
      "it listens on loopback unless told",
      "another address without a token is refused",
      "beyond loopback a browser is asked for the token",
    ],
  },
  S2: {
    mode: "A",
    says: "a foreign Host is refused",
    tests: [
      "a foreign Host is refused on every route",
      "every change wants the token, and refuses another site",
    ],
  },
  S3: {
    mode: "A",
    says: "changes with a token, never by GET, Origin checked; over the Unix socket by who may connect",
    tests: [
      "changes want a token even on loopback",
      "every change wants the token, and refuses another site",
      "where there is no token, nobody changes anything",
      "a member of stats.socket_group may command",
    ],
  },
  S4: {
    mode: "A",
    says: "the token comes from a private file or the environment, never into a log",
    tests: ["the token may come from the environment", "a token file that others can read"],
  },
  S5: {
    mode: "A",
    says: "the page runs nothing but its own script; names are inert",
    tests: ["the page shows every server, runs nothing but"],
  },
  S6: {
    mode: "A",
    says: "HTTP caps: body, headers, connections, time",
    tests: [
      "headers beyond 16 KB are refused",
      "a body beyond 64 KB",
      "headers that never end",
      "connections beyond 128",
      "bodies that are too large, before they are read",
      "keep no probe out",
      "streams of one listener are bounded",
    ],
  },
  S7: { mode: "A", says: "metrics labels", tests: [], open: `metrics in Prometheus' format are ${LATER}` },
  S8: {
    mode: "A",
    says: "configuration or socket paths that others can write",
    tests: [
      "a file that others can write is taken with a warning",
      "folders that others can write, links and too long paths",
      "a_state_folder_that_others_can_write_is_refused",
    ],
  },
  S9: {
    mode: "P",
    says: "PROXY only from listed networks",
    tests: [],
    open: `the PROXY protocol is ${LATER}`,
  },
  S10: {
    mode: "A",
    says: "lock files, advisories, no install scripts",
    tests: ["is not published itself"],
    open: "locks and advisories are steps of .ci/run",
  },
  S11: {
    mode: "A",
    says: "VIPs against the host's own, loopback and link-local addresses",
    tests: ["a loopback listener is refused", "a frontend on an address that nobody holds"],
  },
  S12: {
    mode: "N/D",
    says: "capabilities dropped on every thread",
    tests: ["no thread keeps a capability", "every_thread_and_every_child_keeps"],
  },
  S13: { mode: "A", says: "hardened systemd unit", tests: [], open: `a unit is ${LATER}` },
};
