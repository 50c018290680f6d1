/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Finds the addresses and ports of an IP packet.
 *
 * Whoever includes this defines `context_t` and `context_load` (offset from the IP header) first: skb_context.h for
 * programs at tc. Everything is read through a helper: the skb of a coalesced frame is not linear, and an offset that
 * is a plain number costs the verifier nothing where a moving packet pointer would.
 */
#ifndef CONVEY_PACKET_H
#define CONVEY_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

/* As many as convey-packet walks; a test compares. */
#define EXTENSION_HEADERS_MAX 8

#define PROTO_HOP_BY_HOP 0
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_ICMPV6 58
#define PROTO_DESTINATION_OPTIONS 60

struct packet {
	struct endpoint src;
	struct endpoint dst;
	__u32 l4;           /* offset of the layer-4 header from that of the packet handed to packet_parse */
	__be32 fragment_id; /* of a fragment */
	bool fragmented;
	bool first;         /* whether the layer-4 header is in this fragment */
	bool v6;
};

static __always_inline void set_v4(struct address *addr, __be32 v4)
{
	addr->word[0] = 0;
	addr->word[1] = 0;
	addr->word[2] = bpf_htonl(0xffff);
	addr->word[3] = v4;
}

static __always_inline bool parse_v4(context_t *context, __u32 offset, struct packet *p)
{
	struct {
		__u8 version_ihl;
		__u8 tos;
		__be16 total_length;
		__be16 id;
		__be16 fragment;
		__u8 ttl;
		__u8 protocol;
		__be16 checksum;
		__be32 src;
		__be32 dst;
	} ip;

	if (context_load(context, offset, &ip, sizeof(ip)))
		return false;
	__u32 header = (ip.version_ihl & 0xf) * 4;
	set_v4(&p->src.addr, ip.src);
	set_v4(&p->dst.addr, ip.dst);
	if (ip.version_ihl >> 4 != 4 || header < sizeof(ip))
		return false;
	p->src.protocol = p->dst.protocol = ip.protocol;
	p->fragmented = ip.fragment & bpf_htons(0x3fff);
	p->first = !(ip.fragment & bpf_htons(0x1fff));
	p->fragment_id = ip.id;
	p->l4 = offset + header;
	return true;
}

static __always_inline bool parse_v6(context_t *context, __u32 offset, struct packet *p)
{
	struct {
		__be32 version_flow;
		__be16 payload_length;
		__u8 next;
		__u8 hop_limit;
		struct address src;
		struct address dst;
	} ip;

	if (context_load(context, offset, &ip, sizeof(ip)))
		return false;
	if (bpf_ntohl(ip.version_flow) >> 28 != 6)
		return false;
	p->src.addr = ip.src;
	p->dst.addr = ip.dst;
	p->v6 = true;
	p->first = true;

	__u8 next = ip.next;
	offset += sizeof(ip);
#pragma unroll
	for (int i = 0; i < EXTENSION_HEADERS_MAX; i++) {
		struct {
			__u8 next;
			__u8 length;
			__be16 fragment; /* of a routing header: its type and how many segments are left */
			__be32 id;
		} ext;

		if (next != PROTO_HOP_BY_HOP && next != PROTO_ROUTING && next != PROTO_FRAGMENT &&
		    next != PROTO_DESTINATION_OPTIONS)
			break;
		/* Every extension header is at least eight bytes long. */
		if (context_load(context, offset, &ext, sizeof(ext)))
			return false;
		/* Its destination is not the one that the header names. */
		if (next == PROTO_ROUTING && ext.fragment & bpf_htons(0xff))
			return false;
		if (next == PROTO_FRAGMENT) {
			p->fragmented = true;
			p->fragment_id = ext.id;
			offset += 8;
			next = ext.next;
			if (ext.fragment & bpf_htons(0xfff8)) {
				p->first = false;
				break;
			}
		} else {
			offset += (ext.length + 1) * 8;
			next = ext.next;
		}
	}
	p->src.protocol = p->dst.protocol = next;
	p->l4 = offset;
	return true;
}

/* Reads the packet whose IP header is `offset` bytes behind that of the frame.
 * Ports are set for TCP and UDP with a layer-4 header in this packet, and 0 otherwise.
 * False: neither IPv4 nor IPv6, cut short, or on its way along a source route. */
static __always_inline bool packet_parse(context_t *context, __u32 offset, bool v6, struct packet *p)
{
	__builtin_memset(p, 0, sizeof(*p));
	if (!(v6 ? parse_v6(context, offset, p) : parse_v4(context, offset, p)))
		return false;
	if (p->first && (p->src.protocol == IPPROTO_TCP || p->src.protocol == IPPROTO_UDP)) {
		__be16 ports[2];

		if (context_load(context, p->l4, ports, sizeof(ports)))
			return false;
		p->src.port = ports[0];
		p->dst.port = ports[1];
	}
	return true;
}

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* Whether the packet is an ICMP error that carries the start of the packet it is about. */
static __always_inline bool is_icmp_error(context_t *context, const struct packet *p)
{
	__u8 type;

	if (!p->first || p->src.protocol != (p->v6 ? PROTO_ICMPV6 : IPPROTO_ICMP))
		return false;
	if (context_load(context, p->l4, &type, sizeof(type)))
		return false;
	if (p->v6) /* unreachable, too big, time exceeded, parameter problem */
		return type >= 1 && type <= 4;
	return type == 3 || type == 11 || type == 12;
}

#define ICMP_ERROR_HEADER 8

/* Reads the packet that an ICMP error is about. False when it is a later fragment or has fewer than the eight
 * bytes of layer 4 that every router quotes. */
static __always_inline bool packet_parse_embedded(context_t *context, const struct packet *error, struct packet *p)
{
	__u8 eighth;

	return packet_parse(context, error->l4 + ICMP_ERROR_HEADER, error->v6, p) && p->first &&
	       !context_load(context, p->l4 + 7, &eighth, sizeof(eighth));
}

#endif
