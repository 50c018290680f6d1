/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* From a frame to addresses, ports and the fields of the transport header, checked in the order in which the
 * portable engine checks them.
 *
 * A front defines `context_t`, `struct frame` and `frame_of`, and `context_load` (offset from the Ethernet header),
 * before it includes this.
 */
#ifndef CONVEY_PARSE_H
#define CONVEY_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>

#include "tables.h"

/* A function of its own for the verifier too: verified once, whatever its callers know. */
#define APART __attribute__((noinline))

/* The verifier wants a bound on offsets into a packet. */
#define DIRECT 0x7ff

/* Reads `*to` at `offset` of the frame, directly where it can. */
#define frame_load(f, offset, to)                                                                          \
	({                                                                                                 \
		__u32 at_ = (offset);                                                                      \
		typeof(to) from_ = (typeof(to))((f)->data + at_);                                          \
		long error_ = 0;                                                                           \
		if (at_ <= DIRECT && (void *)(from_ + 1) <= (f)->end)                                                      \
			*(to) = *from_;                                                                    \
		else                                                                                       \
			error_ = context_load((f)->context, at_, (to), sizeof(*(to)));                     \
		!error_;                                                                                   \
	})

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

struct packet {
	struct address src, dst; /* IPv4: the last word alone */
	__be16 src_port, dst_port;
	__u32 l4;                /* offsets from the start of the frame */
	__u32 end;
	__u8 protocol;
	__u8 ttl;
	bool later_fragment : 1, first_fragment : 1, unchecked : 1; /* UDP without a checksum */
	__u8 broken;             /* how the transport header is: REASON(), or 0 */
	/* TCP; of UDP only `payload` */
	__u8 flags;
	__u8 scale;              /* of a SYN, NO_SCALE: none */
	__u16 window;
	union {
		__u32 seq;
		__u32 datagram; /* of a fragment: the identification, as in the packet */
	};
	__u32 ack, payload;
	__u32 now;               /* tick */
	__u32 gso_size;          /* of the frame; 0: none */
};

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 check;
	__be32 src;
	__be32 dst;
};

struct ipv6 {
	__be32 version_flow;
	__be16 payload;
	__u8 next;
	__u8 hop_limit;
	struct address src;
	struct address dst;
};

struct tcp_header {
	__be16 src_port, dst_port;
	__be32 seq, ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__u16 check;
	__be16 urgent;
};

struct udp_header {
	__be16 src_port, dst_port;
	__be16 len;
	__u16 check;
};

/* The one's complement sum of the halves, twice: added to itself with its halves exchanged, the carry comes back. */
static __always_inline __u16 fold(__u64 sum)
{
	sum += sum << 32 | sum >> 32;
	__u32 half = sum >> 32;

	half += half << 16 | half >> 16;
	return half >> 16;
}

enum verdict { FORWARD, PASS, DROP, UP, COPY /* passes, and is handed up as well */ };

#define VERDICT(kind, reason) ((kind) | (reason) << 8)
#define VERDICT_KIND(v) ((v) & 0xff)
#define VERDICT_REASON(v) ((v) >> 8)

/* Gives 0, or the reason to pass or drop, plus one. */
#define REASON(r) ((r) + 1)

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

struct option_walk {
	context_t *context;
	__u32 at, end;
	__u8 scale;
};

static long next_option(__u32 i, struct option_walk *w)
{
	__u8 kind, len, shift;

	(void)i;
	if (w->at >= w->end || context_load(w->context, w->at, &kind, 1) || kind == 0)
		return 1;
	if (kind == 1) {
		w->at += 1;
		return 0;
	}
	if (w->at + 2 > w->end || context_load(w->context, w->at + 1, &len, 1) || len < 2)
		return 1;
	if (kind == 3 && len == 3) {
		if (w->at + 3 <= w->end && !context_load(w->context, w->at + 2, &shift, 1))
			w->scale = shift > 14 ? 14 : shift;
		return 1;
	}
	w->at += len;
	return 0;
}

/* The window scale among the options of a SYN. Options that make no sense end the search. */
APART __u32 window_scale(context_t *context, __u32 from, __u32 end)
{
	struct option_walk walk = { .context = context, .at = from, .end = end, .scale = NO_SCALE };

	bpf_loop(40, next_option, &walk, 0);
	return walk.scale;
}

static __always_inline __u32 parse_tcp(const struct frame *f, struct packet *p)
{
	struct tcp_header tcp;

	if (p->l4 + sizeof(tcp) > p->end || !frame_load(f, p->l4, &tcp))
		return REASON(DROP_TRUNCATED);
	__u32 header = (tcp.offset >> 4) * 4;
	if (header < sizeof(tcp) || p->l4 + header > p->end)
		return REASON(DROP_BAD_TCP_HEADER);
	if (!(tcp.flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) ||
	    (tcp.flags & TCP_SYN && tcp.flags & (TCP_FIN | TCP_RST)))
		return REASON(DROP_BAD_TCP_FLAGS);
	p->flags = tcp.flags;
	p->seq = bpf_ntohl(tcp.seq);
	p->ack = bpf_ntohl(tcp.ack);
	p->window = bpf_ntohs(tcp.window);
	p->payload = p->end - p->l4 - header;
	p->scale = NO_SCALE;
	if (tcp.flags & TCP_SYN && header > sizeof(tcp))
		p->scale = window_scale(f->context, p->l4 + sizeof(tcp), p->l4 + header);
	return 0;
}

static __always_inline __u32 parse_udp(const struct frame *f, struct packet *p)
{
	struct udp_header udp;

	if (p->l4 + sizeof(udp) > p->end || !frame_load(f, p->l4, &udp))
		return REASON(DROP_TRUNCATED);
	__u32 len = bpf_ntohs(udp.len);
	/* Of a GSO frame the field may hold one segment's length, or what is left of a longer one. */
	if (f->gso_size)
		len = p->end - p->l4;
	else if (len < sizeof(udp) || p->l4 + len > p->end)
		return REASON(DROP_BAD_UDP_LENGTH);
	p->payload = len - sizeof(udp);
	p->unchecked = !udp.check;
	return 0;
}

/* The sequence number behind the segment: payload, SYN and FIN counted. */
static __always_inline __u32 end_seq(const struct packet *p)
{
	return p->seq + p->payload + !!(p->flags & TCP_SYN) + !!(p->flags & TCP_FIN);
}

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
