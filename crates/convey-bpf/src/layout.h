/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Map keys and values shared with Rust (lib.rs has the same layouts and a test that compares the sizes).
 *
 * Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, so that one map serves both families.
 * Ports in keys are in network byte order, as they stand in the packet; ranges are in host order.
 */
#ifndef CONVEY_LAYOUT_H
#define CONVEY_LAYOUT_H

#include <linux/types.h>

struct address {
	__be32 word[4];
};

/* Where a packet comes from or goes to. The padding is part of the key: always zero. */
struct endpoint {
	struct address addr;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

/* A local address from whose ports connections to servers are made. */
struct nat_address {
	struct address addr;
	__u8 protocol;
	__u8 zero[3];
};

#define NAT_RANGES 4

/* Inclusive port ranges, host byte order; unused ones are { 1, 0 }, which contains nothing. */
struct nat_ports {
	__u16 from[NAT_RANGES];
	__u16 to[NAT_RANGES];
};

/* A datagram whose fragments are in flight; the id is 16 bits wide in IPv4. */
struct datagram {
	struct address src;
	struct address dst;
	__be32 id;
	__u8 protocol;
	__u8 zero[3];
};

_Static_assert(sizeof(struct endpoint) == 20, "endpoint");
_Static_assert(sizeof(struct nat_address) == 20, "nat_address");
_Static_assert(sizeof(struct nat_ports) == 16, "nat_ports");
_Static_assert(sizeof(struct datagram) == 40, "datagram");

#endif
