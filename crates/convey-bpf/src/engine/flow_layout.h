/* SPDX-License-Identifier: MIT OR GPL-2.0 */
#ifndef CONVEY_FLOW_LAYOUT_H
#define CONVEY_FLOW_LAYOUT_H

#include <linux/types.h>
#include <stddef.h>

#include "flow_numbers.h"

#define MAGLEV_SLOTS 65537
#define MAGLEV_PADDING 7
#define NO_SERVER 0xffff
#define LATER_SYNS 1024
/* When slots were used, in steps of 2^STEP_SHIFT ticks. There are fewer such places than slots of all frontends: two may
 * share one. */
#define STEP_SHIFT 8
#define USES_A_LINE 64
#define USE_LINES 16384
#define CLIENT_HOPS 4096
#define PROBE_CLASSES 6
#define SPILLS 16

struct address {
	__be32 word[4];
};

/* Whose an IPv4 packet may be, by its addresses and the port that is ours or the server's: four of them in a line,
 * placed by a hash of the key. A key that finds its line full makes user space choose another seed, whose lowest bit
 * tells which half of the lines is in force. */
#define DIRECTORY_WAYS 4
#define DIRECTORY_LINES 16384

struct direction4 {
	__u64 addresses; /* VIP, or NAT address and, in the upper half, server; as in the packet */
	__u64 rest;      /* port, protocol, DIRECTION_*; from bit 32 the slot or path */
};

struct directory4 {
	struct direction4 way[DIRECTORY_WAYS];
};

#define DIRECTION_FREE 0
#define DIRECTION_VIP 1
#define DIRECTION_PATH 2

/* A VIP of port 0 has every port. Padding is part of a key: always zero. */
struct vip6 {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

/* Where a frontend listened that has left: those of one address are numbered. */
#define FORMER_MAX 32

struct former_vip {
	struct address address; /* IPv4: the last word */
	__be16 port;
	__u8 protocol;
	__u8 number;
};

/* What the fragments of a datagram have in common; zeros are part of a key. */
struct datagram {
	struct address src, dst;
	__u32 id;
	__u8 protocol;
	__u8 zero[3];
};

/* How long the portable engine follows a datagram: 2 s. */
#define DATAGRAM_TICKS 119

struct path6 {
	struct address nat;
	struct address server;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

/* The first bits of an address, IPv4 mapped into IPv6. */
struct network {
	__u32 bits;
	struct address address;
};

struct __attribute__((aligned(8))) entry4 {
	__u32 control;
	__u32 seen;
	__u32 client;
	__u16 client_port, port;
	__u16 frontend, server;
	__u16 nat_port, pool; /* with FLAG_HAS_PORT */
	__u32 next[2];
};

struct set4 {
	struct entry4 way[4];
};

struct entry6 {
	__u32 control;
	__u32 seen;
	__u32 client[4]; /* as numbers, the upper word first */
	__u16 client_port, port;
	__u16 frontend, server;
	__u16 nat_port, pool; /* with FLAG_HAS_PORT */
	__u32 next[2];
	__u32 spare[5];
};

struct set6 {
	struct entry6 way[2];
};

struct spills {
	__u32 of[SPILLS];
};

#define IS_LAID_OUT(entry, NAME)                                                                           \
	_Static_assert(sizeof(struct entry) == NAME##_BYTES && offsetof(struct entry, control) == NAME##_CONTROL && \
			       offsetof(struct entry, seen) == NAME##_SEEN &&                              \
			       offsetof(struct entry, client) == NAME##_CLIENT &&                          \
			       offsetof(struct entry, client_port) == NAME##_CLIENT_PORT &&                \
			       offsetof(struct entry, frontend) == NAME##_FRONTEND &&                      \
			       offsetof(struct entry, nat_port) == NAME##_NAT &&                           \
			       offsetof(struct entry, next) == NAME##_NEXT,                                \
		       #entry)
IS_LAID_OUT(entry4, ENTRY4);
IS_LAID_OUT(entry6, ENTRY6);
_Static_assert(sizeof(struct set4) == SET_BYTES && sizeof(struct set6) == SET_BYTES, "sets");

/* What a slot of a Maglev table holds with minimal tracking. */
struct place {
	__u16 server;
	__u16 previous; /* NO_SERVER: the slot has settled */
};

#define STATES 16

#define METHOD_NAT 0
#define METHOD_REWRITE 1
#define METHOD_L2 2

#define STANDING_UP 0
#define STANDING_DRAINING 1
#define STANDING_DOWN 2
#define STANDING_REMOVED 3

struct hop {
	__u32 ifindex; /* 0: not known */
	__u16 mtu;
	__u8 on_link;
	__u8 zero;
	__u8 destination[6];
	__u8 source[6];
};

/* DROP_NO_SERVER, DROP_PORTS_EXHAUSTED, DROP_LIMIT_TOTAL, _FRONTEND, _SERVER, DROP_DENIED. */
#define REFUSALS 6

struct refusals {
	__u64 of[REFUSALS];
};

/* In place of a generation: a client's next hop depends on more than its address. */
#define NOT_REMEMBERED 0xffffffff

struct client_hop {
	struct address address;
	struct hop hop;
	__u32 generation;
};

#define NAT_SOURCES 8

struct frontend {
	struct address address;
	__be16 port; /* 0: any */
	__u8 protocol;
	__u8 left; /* the configuration */
	__u16 backend;
	__u8 nat_sources : 7;
	__u8 access : 1; /* it has lists of networks */
	__u8 source_prefix; /* 0: by flow; else by the client's address alone, of IPv6 so many bits */
	__u64 max_connections;
	struct address nat_source[NAT_SOURCES];
};

struct server {
	struct address address;
	__be16 port;
	__u8 method;
	__u8 standing;
	__u32 zero;
	__u64 max_connections;
	struct hop hop;
	__u32 spare[3];
};

struct config {
	__u64 seed;
	__u64 directory_seed; /* the lowest bit: which half */
	__u64 max_connections;
	__u32 lifetimes[STATES];
	__u32 half_open_max;
	__u32 hop_generation;
	__u8 any_port;
	__u8 resets; /* refused TCP is answered */
	__u8 one;    /* 1, which the verifier does not know */
	__u8 former; /* there are former VIPs */
	__u8 zero[4];
	__u32 watched; /* there are watches; its eight bytes are not written with the rest */
	__u32 zero_too;
};

/* Watches at a time. */
#define WATCHES 4
/* Ticks after which nobody reads what is told: a second. */
#define WATCH_TICKS 60
#define WATCH_V4 1
#define WATCH_V6 2

/* What is told of; ports of 0 are any, IPv4 is in the last word. */
struct watch {
	struct address client, client_mask;
	struct address vip, vip_mask;
	__be16 client_port, vip_port;
	__u8 protocol; /* 0: any */
	__u8 families; /* 0: none is watched */
	__u16 zero;
};

struct watches {
	__s64 leave;   /* records that may be written */
	__u32 renewed; /* tick when it was given last */
	__u32 zero;
	__u64 lost[WATCHES];
	struct watch of[WATCHES];
};

struct gauge {
	__u64 open;
	__u64 total;
};

struct shared {
	struct gauge total;
	__u64 half_open;
};

struct traffic {
	__u64 tx_bytes, tx_packets;
	__u64 rx_bytes, rx_packets;
};

enum reason {
	PASS_NOT_IP, PASS_VLAN, PASS_NOT_VIP, PASS_OTHER_PROTOCOL, PASS_ICMP_OTHER, PASS_ICMP_UNRELATED,
	PASS_FRAGMENT, PASS_OPAQUE_EXTENSION, PASS_MULTICAST,
	DROP_TRUNCATED, DROP_BAD_IP_HEADER, DROP_BAD_TCP_HEADER, DROP_BAD_UDP_LENGTH, DROP_BAD_IP_CHECKSUM,
	DROP_EXTENSION_CHAIN, DROP_FRAGMENT_REFUSED, DROP_FRAGMENT_OVERLAP, DROP_FRAGMENT_BAD,
	DROP_DENIED, DROP_BAD_SOURCE, DROP_BAD_TCP_FLAGS, DROP_TTL_EXCEEDED,
	DROP_TOO_BIG, DROP_NO_SERVER, DROP_FRONTEND_LEFT, DROP_NO_FLOW, DROP_FLOW_TABLE_FULL, DROP_PORTS_EXHAUSTED,
	DROP_LIMIT_TOTAL, DROP_LIMIT_FRONTEND, DROP_LIMIT_SERVER, DROP_NO_NEXT_HOP, DROP_ROUTE_REJECTED,
	DROP_SERVER_NOT_ON_LINK, DROP_SERVER_IS_CLIENT, DROP_NO_ROOM,
	NOTE_FLOW_BEGUN, NOTE_HASH_ROUTED, NOTE_OUT_OF_WINDOW, NOTE_HALF_OPEN_EVICTED, NOTE_FLOW_EVICTED,
	NOTE_PORT_TAKEN_OVER, NOTE_HANDED_UP, NOTE_RING_FULL, NOTE_TWIN,
	REASONS,
};

/* Records have room for one or the other. */
#define UP_SHORT 2048
#define UP_LONG 9728

struct handed_up {
	__u32 ingress;
	__u32 len;     /* of the frame; more than UP_LONG are cut */
	__u32 gso_size;
	__u32 reason;  /* why: enum reason */
	__u8 frame[];
};

/* In place of a reason: the record is no frame but this. */
#define UP_DECIDED 0xffffffff
/* In `met`: it comes from a server. */
#define MET_REPLY 0x80

/* What was decided on a packet that is watched. Its addresses and ports, and what they become if it is forwarded. */
struct decided {
	__u32 verdict;
	__u32 slots; /* of a frontend and, in the upper half, a server */
	__u8 protocol;
	__u8 v6;
	__u8 met; /* state of its flow, MET_REPLY */
	__u8 zero;
	__u32 reason; /* UP_DECIDED, where `handed_up` has its reason */
	struct address src, dst, new_src, new_dst;
	__be16 src_port, dst_port, new_src_port, new_dst_port;
};

/* tables.rs writes these. */
_Static_assert(sizeof(struct decided) == 88, "decided");
_Static_assert(offsetof(struct decided, reason) == offsetof(struct handed_up, reason), "decided");
_Static_assert(sizeof(struct watch) == 72 && sizeof(struct watches) == 48 + WATCHES * 72, "watches");
_Static_assert(sizeof(struct handed_up) == 16, "handed_up");
_Static_assert(sizeof(struct hop) == 20, "hop");
_Static_assert(sizeof(struct client_hop) == 40, "client_hop");
_Static_assert(sizeof(struct frontend) == 32 + 16 * NAT_SOURCES, "frontend");
_Static_assert(sizeof(struct server) == 64, "server");
_Static_assert(sizeof(struct config) == 112 && sizeof(struct config) % 8 == 0, "config");
_Static_assert(sizeof(struct directory4) == 64, "directory4");

#endif
