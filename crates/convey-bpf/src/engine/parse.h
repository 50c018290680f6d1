/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* From a frame to addresses, ports and the fields of the transport header. */
#ifndef CONVEY_PARSE_H
#define CONVEY_PARSE_H

#include "parse_network.h"
#include "parse_transport.h"

/* Reads everything but what a front has seen: 0, or why the packet is not looked at any further. */
static __always_inline __u32 parse(const bool v6, const struct frame *f, struct packet *p)
{
	__u32 reason = v6 ? parse_v6(f, p) : parse_v4(f, p);
	struct {
		__be16 src, dst;
	} ports;

	if (reason)
		return reason;
	if (p->protocol == (v6 ? PROTO_ICMPV6 : IPPROTO_ICMP))
		return REASON(PASS_ICMP_OTHER);
	/* Behind a later IPv6 fragment's header further ones may stand before the transport's. */
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP &&
	    !(v6 && p->later_fragment &&
	      (p->protocol == PROTO_HOP_BY_HOP || p->protocol == PROTO_ROUTING ||
	       p->protocol == PROTO_DESTINATION_OPTIONS)))
		return REASON(PASS_OTHER_PROTOCOL);
	if (p->later_fragment)
		return REASON(PASS_FRAGMENT);
	if (p->l4 + sizeof(ports) > p->end || !frame_load(f, p->l4, &ports))
		return REASON(DROP_TRUNCATED);
	p->src_port = ports.src;
	p->dst_port = ports.dst;
	if (!p->first_fragment)
		p->broken = p->protocol == IPPROTO_TCP ? parse_tcp(f, p) : parse_udp(f, p);
	return 0;
}

/* Reads what nearly all packets are: an IPv4 TCP segment without IP options that begins nothing and has nothing wrong.
 * False for all others, which parse4 reads: its call alone takes longer than this. */
static __always_inline bool parse_segment(const struct frame *f, struct packet *p)
{
	const struct ipv4 *ip = f->data + ETH_HLEN;
	const struct tcp_header *tcp = (void *)(ip + 1);
	const __u32 *words = (void *)ip;
	__u32 total, header;
	__u8 flags;

	if ((void *)(tcp + 1) > f->end)
		return false;
	total = bpf_ntohs(ip->total);
	header = (tcp->offset >> 4) * 4;
	flags = tcp->flags;
	if (ip->version_ihl != 0x45 || ip->protocol != IPPROTO_TCP || ip->fragment & bpf_htons(0x3fff) ||
	    flags & TCP_SYN || !(flags & (TCP_FIN | TCP_RST | TCP_ACK)) || header < sizeof(*tcp) ||
	    total < sizeof(*ip) + header || ETH_HLEN + total > f->len ||
	    fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0xffff)
		return false;
	p->src.word[3] = ip->src;
	p->dst.word[3] = ip->dst;
	p->src_port = tcp->src_port;
	p->dst_port = tcp->dst_port;
	p->l4 = ETH_HLEN + sizeof(*ip);
	p->end = ETH_HLEN + total;
	p->protocol = IPPROTO_TCP;
	p->ttl = ip->ttl;
	p->flags = flags;
	p->scale = NO_SCALE;
	p->window = bpf_ntohs(tcp->window);
	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack);
	p->payload = total - sizeof(*ip) - header;
	return true;
}

/* Apart, so that its stack is free again when the flow is looked for. */
APART __u32 parse4(context_t *context, struct packet *p)
{
	if (!context || !p)
		return REASON(DROP_TRUNCATED);
	struct frame f = frame_of(context, p->gso_size);
	return parse(false, &f, p);
}

APART __u32 parse6(context_t *context, struct packet *p)
{
	if (!context || !p)
		return REASON(DROP_TRUNCATED);
	struct frame f = frame_of(context, p->gso_size);
	return parse(true, &f, p);
}

#endif
