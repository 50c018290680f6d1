/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Where a packet goes next, and what a router checks before it goes there. */
#ifndef CONVEY_HOPS_H
#define CONVEY_HOPS_H

#include "directory.h"

#define AF_INET 2
#define AF_INET6 10

struct ends {
	struct address from, to;
};

/* The next hop of a packet between these, asked of the kernel. */
APART __u32 ask_hop(context_t *context, __u32 ingress, const struct ends *ends, __u32 v6, struct hop *hop)
{
	struct bpf_fib_lookup fib = {};
	long rc;

	if (!context || !ends || !hop)
		return REASON(DROP_NO_NEXT_HOP);
	fib.ifindex = ingress;
	/* Any length has the helper tell the route's MTU and not the interface's. */
	fib.tot_len = 1;
	if (v6) {
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_src, &ends->from, 16);
		__builtin_memcpy(fib.ipv6_dst, &ends->to, 16);
	} else {
		fib.family = AF_INET;
		fib.ipv4_src = ends->from.word[3];
		fib.ipv4_dst = ends->to.word[3];
	}
	rc = bpf_fib_lookup(context, &fib, sizeof(fib), 0);
	if (rc == BPF_FIB_LKUP_RET_BLACKHOLE)
		return REASON(DROP_ROUTE_REJECTED);
	if (rc)
		return REASON(DROP_NO_NEXT_HOP);
	hop->ifindex = fib.ifindex;
	hop->mtu = fib.mtu_result;
	hop->on_link = v6 ? !__builtin_memcmp(fib.ipv6_dst, &ends->to, 16) : fib.ipv4_dst == ends->to.word[3];
	__builtin_memcpy(hop->destination, fib.dmac, 6);
	__builtin_memcpy(hop->source, fib.smac, 6);
	return 0;
}

/* The next hop towards a client, remembered by its address. */
static __always_inline __u32 client_hop(const bool v6, context_t *context, __u32 ingress, const struct config *c,
					const struct address *from, const struct address *client, const struct hop **hop)
{
	__u32 at = (v6 ? mix(lower_half(client), upper_half(client)) : mix(0, client->word[3])) % CLIENT_HOPS;
	struct client_hop *known = bpf_map_lookup_elem(&client_hops, &at);

	if (!known)
		return REASON(DROP_NO_NEXT_HOP);
	*hop = &known->hop;
	/* User space renews what is remembered before it puts the next generation in force. */
	if (c->hop_generation != NOT_REMEMBERED && known->generation - c->hop_generation <= 1 &&
	    same_address(v6, &known->address, client) && (v6 || !known->address.word[0]))
		return 0;
	struct ends ends = { .from = *from, .to = *client };
	known->generation = c->hop_generation - 1;
	__u32 reason = ask_hop(context, ingress, &ends, v6, &known->hop);
	if (reason)
		return reason;
	known->address = *client;
	known->generation = c->hop_generation;
	return 0;
}

/* TTL and size: what a router checks. 0, or the reason. */
static __always_inline __u32 check_route(const struct packet *p, __u8 method,
					 const struct hop *hop)
{
	__u32 longest = p->end - ETH_HLEN;

	if (method == METHOD_L2 && !hop->on_link)
		return REASON(DROP_SERVER_NOT_ON_LINK);
	if (method != METHOD_L2 && p->ttl <= 1)
		return REASON(DROP_TTL_EXCEEDED);
	if (p->gso_size) {
		__u32 segment = longest - p->payload + p->gso_size;

		if (segment < longest)
			longest = segment;
	}
	return longest > hop->mtu ? REASON(DROP_TOO_BIG) : 0;
}

/* Whether the server can be sent to. 0, or the reason. */
static __always_inline __u32 check_server(const bool v6, const struct packet *p,
					  const struct server *server)
{
	if (server->method == METHOD_REWRITE && same_address(v6, &server->address, &p->src))
		return REASON(DROP_SERVER_IS_CLIENT);
	if (!server->hop.ifindex)
		return REASON(DROP_NO_NEXT_HOP);
	return check_route(p, server->method, &server->hop);
}

#endif
