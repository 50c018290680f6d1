/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What the programs tell those who watch: of a packet that a filter takes, what was decided, by the ring that packets
 * are handed up by. The packet itself goes on as ever. User space writes the filters, and gives leave for so many
 * records from time to time: when it has not done so for a second it is dead or ends, and the programs stop telling.
 */
#ifndef CONVEY_WATCH_H
#define CONVEY_WATCH_H

#include "flow.h"
#include "plan.h"

static __always_inline bool is_in_net(const bool v6, const struct address *a, const struct address *net,
				      const struct address *mask)
{
	__u32 differs = (a->word[3] ^ net->word[3]) & mask->word[3];

	if (v6)
		for (int i = 0; i < 3; i++)
			differs |= (a->word[i] ^ net->word[i]) & mask->word[i];
	return !differs;
}

/* Whether a watch may take what goes on between these ends. User space looks closer. */
static __always_inline bool may_take(const bool v6, const struct watch *w, const struct address *client, __be16 port,
				     const struct address *vip, __be16 vip_port)
{
	return (!w->client_port || w->client_port == port) && (!w->vip_port || !vip_port || w->vip_port == vip_port) &&
	       is_in_net(v6, client, &w->client, &w->client_mask) && is_in_net(v6, vip, &w->vip, &w->vip_mask);
}

static __always_inline __u32 watchers_of(const bool v6, struct watches *all, const struct packet *p,
					 const struct plan *plan, const bool forwarded)
{
	const __u8 family = v6 ? WATCH_V6 : WATCH_V4;
	__u32 bits = 0;

#pragma unroll
	for (int i = 0; i < WATCHES; i++) {
		struct watch *w = &all->of[i];

		if (!(w->families & family) || (w->protocol && w->protocol != p->protocol))
			continue;
		if (may_take(v6, w, &p->src, p->src_port, &p->dst, p->dst_port) ||
		    (forwarded && may_take(v6, w, &plan->dst, plan->dst_port, &plan->src, plan->src_port)))
			bits |= 1 << i;
	}
	return bits;
}

/* Tells of the packet, or counts for whom there was no room. */
static __always_inline __u32 tell(const bool v6, const struct packet *p, const struct plan *plan, __u32 verdict)
{
	bool forwarded = VERDICT_KIND(verdict) == FORWARD;
	__u32 zero = 0, bits;
	struct watches *all = bpf_map_lookup_elem(&watches, &zero);
	struct config *c = bpf_map_lookup_elem(&config, &zero);
	struct decided *told = 0;

	if (!all || !c || (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP))
		return 0;
	/* It was not read so far that its ports are known, and so whose it is. */
	if (!forwarded && VERDICT_REASON(verdict) < DROP_FRAGMENT_REFUSED && !p->broken)
		return 0;
	if (age(all->renewed, p->now) > WATCH_TICKS) {
		/* Whoever lives sets it again. */
		c->watched = 0;
		return 0;
	}
	bits = watchers_of(v6, all, p, plan, forwarded);
	if (!bits)
		return 0;
	/* What has to be answered finds room in the ring, whatever is watched. */
	if (all->leave > 0 &&
	    bpf_ringbuf_query(&slow_path, BPF_RB_AVAIL_DATA) <= bpf_ringbuf_query(&slow_path, BPF_RB_RING_SIZE) / 2) {
		__sync_fetch_and_add(&all->leave, -1);
		told = bpf_ringbuf_reserve(&slow_path, sizeof(*told), 0);
	}
	if (!told) {
		for (int i = 0; i < WATCHES; i++)
			if (bits & 1 << i)
				__sync_fetch_and_add(&all->lost[i], 1);
		return 0;
	}
	__builtin_memset(told, 0, sizeof(*told));
	told->verdict = verdict;
	told->reason = UP_DECIDED;
	told->protocol = p->protocol;
	told->v6 = v6;
	told->src = p->src;
	told->dst = p->dst;
	told->src_port = p->src_port;
	told->dst_port = p->dst_port;
	if (forwarded) {
		told->slots = p->slots;
		told->met = p->met;
		for (int i = v6 ? 0 : 3; i < 4; i++) {
			told->new_src.word[i] = plan->src.word[i];
			told->new_dst.word[i] = plan->dst.word[i];
		}
		told->new_src_port = plan->src_port;
		told->new_dst_port = plan->dst_port;
	}
	bpf_ringbuf_submit(told, 0);
	return 0;
}

APART __u32 tell4(struct packet *p, struct plan *plan, __u32 verdict)
{
	return p && plan ? tell(false, p, plan, verdict) : 0;
}

APART __u32 tell6(struct packet *p, struct plan *plan, __u32 verdict)
{
	return p && plan ? tell(true, p, plan, verdict) : 0;
}

#endif
