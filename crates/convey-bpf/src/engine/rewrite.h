/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What both fronts write into a frame that goes on, and by how much it changes the checksums. */
#ifndef CONVEY_REWRITE_H
#define CONVEY_REWRITE_H

#include "plan.h"

/* Adds to a one's complement sum what it changes by when one word takes another's place. */
static __always_inline __u64 change(__u64 sum, __u32 old, __u32 new)
{
	return sum + (__u32)~old + new;
}

/* A checksum field when what it covers has changed by `sum`. */
static __always_inline __u16 applied(__u16 field, __u64 sum)
{
	return ~fold((__u16)~field + sum);
}

static __always_inline __u64 address_change(const bool v6, const struct packet *p, const struct plan *plan)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = v6 ? 0 : 3; i < 4; i++) {
		sum = change(sum, p->src.word[i], plan->src.word[i]);
		sum = change(sum, p->dst.word[i], plan->dst.word[i]);
	}
	/* The addresses are read once more when they are written, which costs less than room on the stack. */
	asm volatile("" : "+r"(sum) : : "memory");
	return sum;
}

static __always_inline __u64 port_change(const struct packet *p, const struct plan *plan)
{
	return change(change(0, p->src_port, plan->src_port), p->dst_port, plan->dst_port);
}

/* What a router's step changes a sum over the header by; IPv6 has no checksum that makes up for it. */
static __always_inline __u64 hop_change(const bool v6, const struct packet *p)
{
	const __u32 shift = v6 ? 0 : 8;

	return change(0, bpf_htons((__u16)p->ttl << shift), bpf_htons((__u16)(p->ttl - 1) << shift));
}

/* Addresses, hop count and IPv4's checksum. */
static __always_inline void write_network(const bool v6, char *l3, const struct packet *p, const struct plan *plan,
					  __u64 addresses)
{
	if (v6) {
		struct ipv6 *ip = (void *)l3;

		ip->src = plan->src;
		ip->dst = plan->dst;
		ip->hop_limit = p->ttl - 1;
	} else {
		struct ipv4 *ip = (void *)l3;

		ip->src = plan->src.word[3];
		ip->dst = plan->dst.word[3];
		ip->ttl = p->ttl - 1;
		ip->check = applied(ip->check, addresses + hop_change(false, p));
	}
}

static __always_inline void write_ports(void *l4, const struct plan *plan)
{
	((__be16 *)l4)[0] = plan->src_port;
	((__be16 *)l4)[1] = plan->dst_port;
}

/* A UDP checksum of 0 means that there is none: one that becomes 0 is sent as 0xffff. */
static __always_inline void apply_transport(bool udp, __u16 *check, __u64 sum)
{
	__u16 now;

	if (udp && !*check)
		return;
	now = applied(*check, sum);
	*check = udp && !now ? 0xffff : now;
}

/* Both addresses, of which source and destination stand side by side. */
static __always_inline void write_link(char *data, const struct hop *hop)
{
	*(__u64 *)data = *(const __u64 *)&hop->destination[0];
	*(__u32 *)(data + 8) = *(const __u32 *)&hop->source[2];
}

#endif
