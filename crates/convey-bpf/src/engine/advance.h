/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What a packet of a flow changes: its entry, and with its state gauges and ports. */
#ifndef CONVEY_ADVANCE_H
#define CONVEY_ADVANCE_H

#include "newcomer.h"

static __always_inline __u32 class_after(__u32 change)
{
	if (change & CHANGE_CLOSED)
		return CLASS_CLOSED;
	if (change & CHANGE_RESTARTED)
		return CLASS_UNCONFIRMED;
	if (change & (CHANGE_ESTABLISHED | CHANGE_REVIVED))
		return CLASS_CONNECTION;
	return CLASS_FREE;
}

/* Whether the flow is one of those that are open, after this change. */
static __always_inline void count_change(struct flow *w, __u32 change)
{
	if (change & (CHANGE_RESTARTED | CHANGE_CLOSED))
		w->flags &= ~FLAG_COUNTED;
	else if (!minimal && change & (CHANGE_ESTABLISHED | CHANGE_REVIVED))
		w->flags |= FLAG_COUNTED;
}

/* Writes the flow's control word, and what its change means to gauges and ports. Where another CPU has taken the flow
 * further, that one counts what comes of it. */
static __always_inline void settle_change(const bool v6, void *e, __u32 index, const struct flow *w, __u32 change,
					  const struct packet *p, __u32 now)
{
	/* Afterwards the entry may be another flow's. */
	__u32 slots = *FIELD(e, v6, __u32, frontend), nat = *FIELD(e, v6, __u32, nat_port);
	__u32 control = control_of(w, w->control >> SEQ_SHIFT);
	__u8 counted = (w->control >> FLAGS_SHIFT ^ w->flags) & FLAG_COUNTED;

	if (control != w->control && __sync_val_compare_and_swap((__u32 *)e, w->control, control) != w->control)
		return;
	if (counted && w->flags & FLAG_COUNTED)
		gauge_opened(slots & 0xffff, slots >> 16, change & CHANGE_REVIVED);
	else if (counted)
		gauge_closed(slots & 0xffff, slots >> 16);
	if (half_open(w->control & STATE_MASK) != half_open(w->state))
		half_open_changed(half_open(w->state) ? 1 : -1);
	if (passthrough) {
		__u32 class = class_after(change);

		if (p->protocol == IPPROTO_UDP)
			class = w->state != STATE_UDP_STREAM ? CLASS_FREE : w->next[0] < BRIEF ? CLASS_BRIEF : CLASS_STREAM;
		if (class && w->flags & FLAG_HAS_PORT)
			port_class(nat, index | (v6 ? FLOW_V6 : 0), class, now);
	}
}

/* Takes a packet that may change the flow's state into account. */
static __always_inline __u32 advance_state(const bool v6, __u32 index, const int me, const struct packet *p, __u32 now)
{
	__u32 id = index | (v6 ? FLOW_V6 : 0), at = LATER_SYN_OF(id);
	void *e = entry_at(v6, index);
	struct later_syn later = {};
	struct flow w;
	__u32 change, control;

	if (!e)
		return 0;
	load_flow(v6, e, &w);
	if (p->protocol == IPPROTO_TCP) {
		if (me == FROM_SERVER && p->flags & (TCP_SYN | TCP_RST)) {
			__u64 *known = bpf_map_lookup_elem(&later_syns, &at);

			if (known && (__u32)(*known >> 32) == id + 1) {
				later.known = true;
				later.seq = *known;
			}
		}
		change = advance_tcp(&w, me, p, &later);
	} else {
		change = advance_udp(&w, me);
	}
	/* One that began the flow anew was known. */
	if (change & (CHANGE_LATER_SYN | CHANGE_RESTARTED)) {
		__u64 *known = bpf_map_lookup_elem(&later_syns, &at);

		if (known)
			*known = change & CHANGE_RESTARTED ? 0 : (__u64)(id + 1) << 32 | p->seq;
	}
	if (change & CHANGE_OUT_OF_WINDOW)
		count(NOTE_OUT_OF_WINDOW);
	store_numbers(v6, e, &w);
	if (change & CHANGE_COUNTS)
		SEEN(e) = seen_of(&w, now);
	count_change(&w, change);
	control = control_of(&w, w.control >> SEQ_SHIFT);
	if (change & ~(CHANGE_COUNTS | CHANGE_OUT_OF_WINDOW | CHANGE_LATER_SYN) || w.state != (w.control & STATE_MASK) ||
	    (p->protocol == IPPROTO_UDP && w.next[0] == BRIEF))
		settle_change(v6, e, index, &w, change, p, now);
	else if (control != w.control)
		__sync_val_compare_and_swap((__u32 *)e, w.control, control);
	return 0;
}

#define ADVANCE(name, v6, me)                                                                              \
	APART __u32 name(__u32 index, struct packet *p, __u32 now)                                         \
	{                                                                                                  \
		return p ? advance_state(v6, index, me, p, now) : 0;                                       \
	}

ADVANCE(client_advances4, false, FROM_CLIENT)
ADVANCE(client_advances6, true, FROM_CLIENT)
ADVANCE(server_advances4, false, FROM_SERVER)
ADVANCE(server_advances6, true, FROM_SERVER)

/* Takes a packet of a flow into account: here what moves an open connection on, elsewhere whatever else. */
static __always_inline void advance(const bool v6, void *e, __u32 index, const int me, struct packet *p, __u32 now)
{
	const __u32 resets = (FLAG_RST_CLIENT | FLAG_RST_SERVER) << FLAGS_SHIFT;
	struct flow w;

	if (p->protocol == IPPROTO_TCP && !(p->flags & (TCP_SYN | TCP_RST | TCP_FIN)) &&
	    (CONTROL(e) & (STATE_MASK | resets)) == STATE_ESTABLISHED) {
		load_flow(v6, e, &w);
		if (!counts(&w, me, p)) {
			count(NOTE_OUT_OF_WINDOW);
			return;
		}
		move_on(&w, me, p);
		store_numbers(v6, e, &w);
		SEEN(e) = seen_of(&w, now);
		if (control_of(&w, w.control >> SEQ_SHIFT) != w.control)
			__sync_val_compare_and_swap((__u32 *)e, w.control, control_of(&w, w.control >> SEQ_SHIFT));
		return;
	}
	if (me == FROM_CLIENT)
		v6 ? client_advances6(index, p, now) : client_advances4(index, p, now);
	else
		v6 ? server_advances6(index, p, now) : server_advances4(index, p, now);
}

static __always_inline void account(const int from, __u32 frontend, __u32 server, __u32 bytes)
{
	struct traffic *f = bpf_map_lookup_elem(&frontend_traffic, &frontend);
	struct traffic *s = bpf_map_lookup_elem(&server_traffic, &server);

	if (!f || !s)
		return;
	if (from == FROM_CLIENT) {
		f->tx_packets += 1;
		f->tx_bytes += bytes;
		s->tx_packets += 1;
		s->tx_bytes += bytes;
	} else {
		f->rx_packets += 1;
		f->rx_bytes += bytes;
		s->rx_packets += 1;
		s->rx_bytes += bytes;
	}
}

#endif
