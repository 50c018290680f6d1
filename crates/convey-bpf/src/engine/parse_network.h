/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* IP headers and IPv6 extension headers, checked in the order in which the portable engine checks them. */
#ifndef CONVEY_PARSE_NETWORK_H
#define CONVEY_PARSE_NETWORK_H

#include "headers.h"

static __always_inline __u32 parse_v4(const struct frame *f, struct packet *p)
{
	struct ipv4 ip;

	if (!frame_load(f, ETH_HLEN, &ip))
		return REASON(DROP_TRUNCATED);
	__u32 header = (ip.version_ihl & 15) * 4;
	__u32 total = bpf_ntohs(ip.total);
	if (ip.version_ihl >> 4 != 4 || header < sizeof(ip))
		return REASON(DROP_BAD_IP_HEADER);
	if (total == 0 && f->gso_size)
		total = f->len - ETH_HLEN;
	if (total < header)
		return REASON(DROP_BAD_IP_HEADER);
	p->end = ETH_HLEN + total;
	p->l4 = ETH_HLEN + header;
	if (p->end > f->len)
		return REASON(DROP_TRUNCATED);

	__u32 *words = (__u32 *)&ip;
	__u64 sum = (__u64)words[0] + words[1] + words[2] + words[3] + words[4];
	if (header > sizeof(ip)) {
		for (__u32 at = ETH_HLEN + sizeof(ip); at < ETH_HLEN + 60; at += 4) {
			__u32 word;

			if (at >= p->l4)
				break;
			if (!frame_load(f, at, &word))
				return REASON(DROP_TRUNCATED);
			sum += word;
		}
	}
	if (fold(sum) != 0xffff)
		return REASON(DROP_BAD_IP_CHECKSUM);
	if (ip.fragment & bpf_htons(0x3fff)) {
		p->first_fragment = !(ip.fragment & bpf_htons(0x1fff));
		p->later_fragment = !p->first_fragment;
		p->datagram = ip.id;
	}
	p->src.word[3] = ip.src;
	p->dst.word[3] = ip.dst;
	p->protocol = ip.protocol;
	p->ttl = ip.ttl;
	return 0;
}

static __always_inline bool is_mapped(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

#define PROTO_HOP_BY_HOP 0
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_AUTHENTICATION 51
#define PROTO_ICMPV6 58
#define PROTO_DESTINATION_OPTIONS 60
#define EXTENSION_HEADERS_MAX 8

static __always_inline bool is_extension(__u8 next)
{
	return next == PROTO_HOP_BY_HOP || next == PROTO_ROUTING || next == PROTO_FRAGMENT ||
	       next == PROTO_DESTINATION_OPTIONS || next == PROTO_AUTHENTICATION;
}

/* Apart, because nearly no packet has any. */
APART __u32 walk_extensions(context_t *context, struct packet *p)
{
	if (!context || !p)
		return REASON(DROP_TRUNCATED);
	for (int i = 0; i <= EXTENSION_HEADERS_MAX; i++) {
		struct {
			__u8 next;
			__u8 length;
			__be16 fragment; /* of a routing header: its type and how many segments are left */
		} ext;

		if (p->protocol == PROTO_AUTHENTICATION)
			return REASON(PASS_OPAQUE_EXTENSION);
		if (!is_extension(p->protocol))
			return p->l4 <= p->end ? 0 : REASON(DROP_TRUNCATED);
		if (p->l4 + sizeof(ext) > p->end || context_load(context, p->l4, &ext, sizeof(ext)))
			return REASON(DROP_TRUNCATED);
		/* With segments left the destination is not the final one. */
		if (p->protocol == PROTO_ROUTING && ext.fragment & bpf_htons(0xff))
			return REASON(PASS_OPAQUE_EXTENSION);
		if (p->protocol == PROTO_FRAGMENT) {
			if (ext.fragment & bpf_htons(0xfff9) &&
			    (p->l4 + 8 > p->end || context_load(context, p->l4 + 4, &p->datagram, sizeof(p->datagram))))
				return REASON(DROP_TRUNCATED);
			p->l4 += 8;
			p->protocol = ext.next;
			if (ext.fragment & bpf_htons(0xfff8)) {
				p->later_fragment = true;
				p->first_fragment = false;
				return 0;
			}
			if (ext.fragment & bpf_htons(1))
				p->first_fragment = true;
		} else {
			p->l4 += (ext.length + 1) * 8;
			p->protocol = ext.next;
		}
	}
	return REASON(DROP_EXTENSION_CHAIN);
}

static __always_inline __u32 parse_v6(const struct frame *f, struct packet *p)
{
	struct ipv6 ip;

	if (!frame_load(f, ETH_HLEN, &ip))
		return REASON(DROP_TRUNCATED);
	if ((bpf_ntohl(ip.version_flow) >> 28) != 6)
		return REASON(DROP_BAD_IP_HEADER);
	__u32 payload = bpf_ntohs(ip.payload);
	p->l4 = ETH_HLEN + sizeof(ip);
	p->end = payload == 0 && f->gso_size ? f->len : p->l4 + payload;
	if (p->end > f->len)
		return REASON(DROP_TRUNCATED);
	p->src = ip.src;
	p->dst = ip.dst;
	p->protocol = ip.next;
	p->ttl = ip.hop_limit;
	if (is_extension(ip.next)) {
		__u32 reason = walk_extensions(f->context, p);

		if (reason)
			return reason;
	}
	/* An IPv6 packet must not pass for an IPv4 one. */
	if (is_mapped(&ip.src) || is_mapped(&ip.dst))
		return REASON(DROP_BAD_IP_HEADER);
	return 0;
}

#endif
