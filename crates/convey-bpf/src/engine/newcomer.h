/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What a flow that begins or ends changes besides its entry: gauges, spills, its port. */
#ifndef CONVEY_NEWCOMER_H
#define CONVEY_NEWCOMER_H

#include "nat.h"

static __always_inline void gauge_opened(__u32 frontend, __u32 server, bool again)
{
	__u32 zero = 0;
	struct shared *all = bpf_map_lookup_elem(&shared, &zero);
	struct gauge *f = bpf_map_lookup_elem(&frontend_gauges, &frontend);
	struct gauge *s = bpf_map_lookup_elem(&server_gauges, &server);

	if (!all || !f || !s)
		return;
	__sync_fetch_and_add(&all->total.open, 1);
	__sync_fetch_and_add(&f->open, 1);
	__sync_fetch_and_add(&s->open, 1);
	if (again)
		return;
	__sync_fetch_and_add(&all->total.total, 1);
	__sync_fetch_and_add(&f->total, 1);
	__sync_fetch_and_add(&s->total, 1);
}

static __always_inline void gauge_closed(__u32 frontend, __u32 server)
{
	__u32 zero = 0;
	struct shared *all = bpf_map_lookup_elem(&shared, &zero);
	struct gauge *f = bpf_map_lookup_elem(&frontend_gauges, &frontend);
	struct gauge *s = bpf_map_lookup_elem(&server_gauges, &server);

	if (!all || !f || !s)
		return;
	__sync_fetch_and_add(&all->total.open, -1);
	__sync_fetch_and_add(&f->open, -1);
	__sync_fetch_and_add(&s->open, -1);
}

static __always_inline void half_open_changed(__s64 by)
{
	__u32 zero = 0;
	struct shared *all = bpf_map_lookup_elem(&shared, &zero);

	if (all)
		__sync_fetch_and_add(&all->half_open, by);
}

static __always_inline __u64 hash_of_entry(const bool v6, void *e, const struct config *c)
{
	__u16 *ports = FIELD(e, v6, __u16, client_port);
	__u64 h = c->seed ^ HASH_START;

	const __u32 *client = FIELD(e, v6, __u32, client);
	h = v6 ? mix(mix(h, (__u64)client[0] << 32 | client[1]), (__u64)client[2] << 32 | client[3]) :
		 mix_v4(h, client[0]);
	return mix_ports(h, ports[0], passthrough ? 0 : ports[1], *FIELD(e, v6, __u16, frontend));
}

static __always_inline void spill(const bool v6, __u32 set, __s32 by)
{
	__u32 *spilled = spills_of(v6, set);

	if (spilled)
		__sync_fetch_and_add(spilled, by);
}

#define LATER_SYN_OF(id) ((id) % LATER_SYNS)

/* Another flow lies there now, or the SYN was answered. */
static __always_inline void forget_later_syn(__u32 id)
{
	__u32 at = LATER_SYN_OF(id);
	__u64 *known = bpf_map_lookup_elem(&later_syns, &at);

	if (known && (__u32)(*known >> 32) == id + 1)
		*known = 0;
}

/* Gives back what a flow that has been claimed from its place held. `control`: as it was before. */
static __always_inline __u32 settle(const bool v6, __u32 index, __u32 control, __u32 now)
{
	const struct config *c = the_config();
	void *e = entry_at(v6, index);
	__u32 id = index | (v6 ? FLOW_V6 : 0);
	const __u32 sets = v6 ? sets6 : sets4;
	__u32 state = control & STATE_MASK, mine = index / WAYS(v6), nat, set;
	__u16 *slots;
	__u64 hash;

	if (!e || !c)
		return 0;
	nat = *FIELD(e, v6, __u32, nat_port);
	slots = FIELD(e, v6, __u16, frontend);
	hash = hash_of_entry(v6, e, c);
	set = first_set(hash, sets);

	if (passthrough && control >> FLAGS_SHIFT & FLAG_HAS_PORT)
		release_port(nat, id, now);
	if (control >> FLAGS_SHIFT & FLAG_COUNTED)
		gauge_closed(slots[0], slots[1]);
	if (half_open(state))
		half_open_changed(-1);
	for (__u32 n = 1; n < CHAIN(v6) && set != mine; n++) {
		spill(v6, set, -1);
		set = further_set(hash, sets, n);
	}
	return 0;
}

APART __u32 settle4(__u32 index, __u32 control, __u32 now)
{
	return settle(false, index, control, now);
}

APART __u32 settle6(__u32 index, __u32 control, __u32 now)
{
	return settle(true, index, control, now);
}

/* What a new flow is made of. */
struct newcomer {
	struct key key;
	__u32 now;
	__u32 replaces; /* index plus one of the flow that ends for it */
	__u32 known;    /* out: it goes on after all */
	__u32 server;   /* out */
	union {
		__u32 path;
		__u32 place; /* minimal tracking: PLACE of its slot */
	};
	__u32 index;    /* out: where it is */
	__u32 nat;      /* out */
	union {
		__u32 begins; /* out of the selection: there is to be a flow */
		__u32 port;   /* the place of its port */
	};
	__u32 was;      /* out: control of the flow whose entry it was, 0: of none */
	__u32 passed;   /* out: sets of its chain that it passed */
};

/* Ends a flow at once, if it still is as its control word says: whether it was. */
static __always_inline __u32 end_flow_as(const bool v6, __u32 index, __u32 control, __u32 now)
{
	char *e = entry_at(v6, index);
	__u32 claimed;

	if (!e || !in_use(control))
		return 0;
	claimed = ((control >> SEQ_SHIFT) + 1) << SEQ_SHIFT | STATE_CLAIMED;
	if (__sync_val_compare_and_swap((__u32 *)e, control, claimed) != control)
		return 0;
	v6 ? settle6(index, control, now) : settle4(index, control, now);
	__sync_lock_test_and_set((__u32 *)e, claimed & ~STATE_MASK);
	return 1;
}

APART __u32 end_flow_as4(__u32 index, __u32 control, __u32 now)
{
	return end_flow_as(false, index, control, now);
}

APART __u32 end_flow_as6(__u32 index, __u32 control, __u32 now)
{
	return end_flow_as(true, index, control, now);
}

/* Ends a flow at once. */
APART __u32 end_flow4(__u32 index, __u32 now)
{
	char *e = entry_at(false, index);

	return e ? end_flow_as(false, index, CONTROL(e), now) : 0;
}

APART __u32 end_flow6(__u32 index, __u32 now)
{
	char *e = entry_at(true, index);

	return e ? end_flow_as(true, index, CONTROL(e), now) : 0;
}

/* Changes the spills of a newcomer that passed the first `sets_passed` sets of its chain. */
static __always_inline void respill(const bool v6, __u64 hash, __u32 sets_passed, __s32 by)
{
	const __u32 sets = v6 ? sets6 : sets4;
	__u32 set = first_set(hash, sets);

	for (__u32 n = 1; n <= CHAIN(v6) && n <= sets_passed; n++) {
		spill(v6, set, by);
		set = further_set(hash, sets, n);
	}
}

#endif
