/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* TCP and UDP headers. */
#ifndef CONVEY_PARSE_TRANSPORT_H
#define CONVEY_PARSE_TRANSPORT_H

#include "headers.h"

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

#endif
