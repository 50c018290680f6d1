/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Whether an ICMP error is about a packet of ours. Rust translates it: they are few, and there are many ways to
 * quote a packet.
 */
#ifndef CONVEY_ICMP_H
#define CONVEY_ICMP_H

#include "directory.h"

#define ICMP_ERROR_HEADER 8

/* The packet that an error is about, as far as it tells whose it is. */
struct quoted {
	struct address src, dst;
	__be16 src_port, dst_port;
	__u8 protocol;
};

/* The caller's, because the stack is small. */
struct icmp_work {
	struct quoted quoted;
};

static __always_inline bool read_quoted(const bool v6, context_t *context, const struct packet *p, struct quoted *q)
{
	__u32 l3 = p->l4 + ICMP_ERROR_HEADER, l4;
	struct {
		__be16 src, dst;
		__be32 rest;
	} ports;

	if (v6) {
		struct ipv6 ip;

		if (l3 + sizeof(ip) > p->end || context_load(context, l3, &ip, sizeof(ip)) ||
		    (bpf_ntohl(ip.version_flow) >> 28) != 6)
			return false;
		q->src = ip.src;
		q->dst = ip.dst;
		q->protocol = ip.next;
		/* User space walks the chain. */
		if (is_extension(ip.next))
			return true;
		l4 = l3 + sizeof(ip);
	} else {
		struct ipv4 ip;

		if (l3 + sizeof(ip) > p->end || context_load(context, l3, &ip, sizeof(ip)) ||
		    ip.version_ihl >> 4 != 4 || (ip.version_ihl & 15) < 5 || ip.fragment & bpf_htons(0x1fff))
			return false;
		q->src.word[3] = ip.src;
		q->dst.word[3] = ip.dst;
		q->protocol = ip.protocol;
		l4 = l3 + (ip.version_ihl & 15) * 4;
	}
	if (q->protocol != IPPROTO_TCP && q->protocol != IPPROTO_UDP)
		return false;
	if (l4 + sizeof(ports) > p->end || context_load(context, l4, &ports, sizeof(ports)))
		return false;
	q->src_port = ports.src;
	q->dst_port = ports.dst;
	return true;
}

/* Whether the packet, sent from here, is one that we send. Whether its flow still is, user space sees. */
static __always_inline bool is_ours(const bool v6, const struct quoted *q, const struct config *c)
{
	if (match_vip(v6, &q->src, q->src_port, q->protocol, c))
		return true;
	if (!passthrough || bpf_ntohs(q->src_port) - nat_first >= nat_width)
		return false;
	return match_path(v6, &q->src, &q->dst, q->dst_port, q->protocol, c);
}

static __always_inline __u32 decide_icmp(const bool v6, context_t *context, struct packet *p, struct icmp_work *work)
{
	const struct config *c = the_config();
	struct quoted *q = &work->quoted;
	__u8 type;

	if (!c || context_load(context, p->l4, &type, sizeof(type)))
		return VERDICT(PASS, PASS_ICMP_OTHER);
	if (v6 ? type < 1 || type > 4 : type != 3 && type != 11 && type != 12)
		return VERDICT(PASS, PASS_ICMP_OTHER);
	if (p->first_fragment || p->later_fragment || !read_quoted(v6, context, p, q) ||
	    !same_address(v6, &q->src, &p->dst))
		return VERDICT(PASS, PASS_ICMP_UNRELATED);
	/* It may be about anybody's packet, and the kernel makes nothing of what is about ours. */
	if (v6 && is_extension(q->protocol))
		return VERDICT(bpf_map_lookup_elem(&addresses, &q->src) ? COPY : PASS, PASS_ICMP_UNRELATED);
	if (!is_ours(v6, q, c))
		return VERDICT(PASS, PASS_ICMP_UNRELATED);
	return VERDICT(UP, PASS_ICMP_UNRELATED);
}

APART __u32 icmp4(context_t *context, struct packet *p, struct icmp_work *work)
{
	return context && p && work ? decide_icmp(false, context, p, work) : VERDICT(PASS, PASS_ICMP_OTHER);
}

APART __u32 icmp6(context_t *context, struct packet *p, struct icmp_work *work)
{
	return context && p && work ? decide_icmp(true, context, p, work) : VERDICT(PASS, PASS_ICMP_OTHER);
}

#endif
