/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Datagrams in fragments are user space's: the first one, which has the ports, is handed up where it is ours, and the
 * later ones follow it by the datagram's identification. Of one that comes before its first and may be ours a copy is
 * handed up, which waits there; the kernel never completes a datagram without its first fragment.
 */
#ifndef CONVEY_FRAGMENT_H
#define CONVEY_FRAGMENT_H

#include "flow.h"

static __always_inline struct datagram datagram_of(const struct packet *p, bool v6)
{
	struct datagram d = {
		.src = p->src,
		.dst = p->dst,
		.id = p->datagram,
		/* IPv6 identifies a datagram without it, and later fragments may name an extension header instead. */
		.protocol = v6 ? 0 : p->protocol,
	};

	return d;
}

/* Of a datagram that is not ours nothing is known: its identification may have been one of ours before. */
APART __u32 first_fragment(struct packet *p, bool v6, bool ours)
{
	if (!p)
		return VERDICT(PASS, PASS_FRAGMENT);
	struct datagram d = datagram_of(p, v6);

	if (!ours) {
		bpf_map_delete_elem(&fragments, &d);
		return VERDICT(PASS, PASS_NOT_VIP);
	}
	bpf_map_update_elem(&fragments, &d, &p->now, BPF_ANY);
	return VERDICT(UP, PASS_FRAGMENT);
}

APART __u32 later_fragment(struct packet *p, bool v6)
{
	__u32 *begun;

	if (!p)
		return VERDICT(PASS, PASS_FRAGMENT);
	struct datagram d = datagram_of(p, v6);

	begun = bpf_map_lookup_elem(&fragments, &d);
	if (begun && age(*begun, p->now) <= DATAGRAM_TICKS)
		return VERDICT(UP, PASS_FRAGMENT);
	if (!bpf_map_lookup_elem(&addresses, &d.dst))
		return VERDICT(PASS, PASS_FRAGMENT);
	/* A flood of them leaves room in the ring for what has to be answered. */
	if (bpf_ringbuf_query(&slow_path, BPF_RB_AVAIL_DATA) > bpf_ringbuf_query(&slow_path, BPF_RB_RING_SIZE) / 2) {
		count(NOTE_RING_FULL);
		return VERDICT(PASS, PASS_FRAGMENT);
	}
	return VERDICT(COPY, PASS_FRAGMENT);
}

#endif
