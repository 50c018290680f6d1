/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* How a flow begins and ends: a server for it, a place in the table, a port. */
#ifndef CONVEY_BEGIN_H
#define CONVEY_BEGIN_H

#include "nat.h"

/* The server that a client of the frontend gets by its hash, or NO_SERVER. */
static __always_inline __u32 select_server(const bool v6, const struct frontend *f, const struct packet *p)
{
	__u64 h = mix_address(mix_address(HASH_START, v6, &p->src), v6, &p->dst);
	__u32 backend = f->backend, zero = 0;

	h = mix_end(mix(h, (__u64)bpf_ntohs(p->src_port) << 32 | (__u32)bpf_ntohs(p->dst_port) << 16 | p->protocol));
	void *inner = bpf_map_lookup_elem(&tables, &backend);
	if (!inner)
		return NO_SERVER;
	struct maglev *table = bpf_map_lookup_elem(inner, &zero);
	if (!table)
		return NO_SERVER;
	__u64 slot = ((h >> 32) * MAGLEV_SLOTS) >> 32;
	if (slot >= MAGLEV_SLOTS)
		return NO_SERVER;
	return table->slot[slot];
}

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
	__u32 path;
	__u32 index;    /* out: where it is */
	__u32 nat;      /* out */
	union {
		__u32 begins; /* out of the selection: there is to be a flow */
		__u32 port;   /* the place of its port */
	};
	__u32 was;      /* out: control of the flow whose entry it was, 0: of none */
	__u32 passed;   /* out: sets of its chain that it passed */
};

/* Ends a flow at once. */
static __always_inline __u32 end_flow(const bool v6, __u32 index, __u32 now)
{
	char *e = entry_at(v6, index);
	__u32 control, claimed;

	if (!e)
		return 0;
	control = CONTROL(e);
	if (!in_use(control))
		return 0;
	claimed = ((control >> SEQ_SHIFT) + 1) << SEQ_SHIFT | STATE_CLAIMED;
	if (__sync_val_compare_and_swap((__u32 *)e, control, claimed) != control)
		return 0;
	v6 ? settle6(index, control, now) : settle4(index, control, now);
	__sync_lock_test_and_set((__u32 *)e, claimed & ~STATE_MASK);
	return 0;
}

APART __u32 end_flow4(__u32 index, __u32 now)
{
	return end_flow(false, index, now);
}

APART __u32 end_flow6(__u32 index, __u32 now)
{
	return end_flow(true, index, now);
}

/* Takes away the spills of a newcomer that passed the first `sets_passed` sets of its chain. */
static __always_inline void unspill(const bool v6, __u64 hash, __u32 sets_passed)
{
	const __u32 sets = v6 ? sets6 : sets4;
	__u32 set = first_set(hash, sets);

	for (__u32 n = 1; n <= CHAIN(v6) && n <= sets_passed; n++) {
		spill(v6, set, -1);
		set = further_set(hash, sets, n);
	}
}

/* Claims an entry for the newcomer: the first in its chain that is free or whose flow's time is over. Gives 0, or the
 * reason why there is none. */
static __always_inline __u32 claim(const bool v6, struct newcomer *new)
{
	const __u32 sets = v6 ? sets6 : sets4;
	const struct config *c = the_config();
	__u32 set = first_set(new->key.hash, sets);

	if (!c)
		return REASON(DROP_FLOW_TABLE_FULL);
	for (__u32 n = 0; n < CHAIN(v6); n++) {
		char *s;

		if (n)
			set = further_set(new->key.hash, sets, n);
		s = set_at(v6, set);
		if (!s)
			break;
#pragma unroll
		for (__u32 way = 0; way < WAYS(v6); way++) {
			char *at = s + way * WAY_BYTES(v6);
			__u32 was = CONTROL(at);
			__u32 state = was & STATE_MASK;

			if (state == STATE_CLAIMED || (state != STATE_FREE && !is_expired(was, SEEN(at), c, new->now)))
				continue;
			if (__sync_val_compare_and_swap((__u32 *)at, was,
							((was >> SEQ_SHIFT) + 1) << SEQ_SHIFT | STATE_CLAIMED) == was) {
				new->index = set * WAYS(v6) + way;
				new->was = state == STATE_FREE ? 0 : was;
				new->passed = n;
				return 0;
			}
		}
		spill(v6, set, 1);
	}
	unspill(v6, new->key.hash, CHAIN(v6));
	return REASON(DROP_FLOW_TABLE_FULL);
}

APART __u32 claim4(struct newcomer *new)
{
	return new ? claim(false, new) : REASON(DROP_FLOW_TABLE_FULL);
}

APART __u32 claim6(struct newcomer *new)
{
	return new ? claim(true, new) : REASON(DROP_FLOW_TABLE_FULL);
}

#define PORT_RANDOM(new) ((__u32)((new)->key.hash * 0x9e3779b9))

/* Fills the claimed entry and publishes it. Gives 0, or the reason why the newcomer has no port. */
static __always_inline __u32 fill(const bool v6, struct newcomer *new, const struct packet *p)
{
	char *e = entry_at(v6, new->index);
	struct flow flow = {};
	__u32 control, *next;

	if (!e)
		return REASON(DROP_FLOW_TABLE_FULL);
	control = CONTROL(e);
	if (passthrough) {
		if (new->port == NO_PORT) {
			unspill(v6, new->key.hash, new->passed);
			__sync_lock_test_and_set((__u32 *)e, control & ~STATE_MASK);
			return REASON(DROP_PORTS_EXHAUSTED);
		}
		new->nat = NAT(nat_first + new->port, new->path);
		flow.flags = FLAG_HAS_PORT;
	}
	begin(&flow, p);
	if (p->protocol == IPPROTO_UDP) {
		flow.flags |= FLAG_COUNTED;
		gauge_opened(new->key.frontend, new->server, false);
	}
	if (v6) {
		struct entry6 *entry = (void *)e;

		for (int i = 0; i < 4; i++)
			entry->client[i] = bpf_ntohl(new->key.client.word[i]);
	} else {
		struct entry4 *entry = (void *)e;

		entry->client = bpf_ntohl(new->key.client.word[3]);
	}
	*FIELD(e, v6, __u32, client_port) = new->key.client_port | (__u32)new->key.port << 16;
	*FIELD(e, v6, __u32, frontend) = new->key.frontend | new->server << 16;
	*FIELD(e, v6, __u32, nat_port) = new->nat;
	next = FIELD(e, v6, __u32, next);
	next[0] = flow.next[0];
	next[1] = flow.next[1];
	SEEN(e) = seen_of(&flow, new->now);
	/* Publishes it: an exchange orders what comes before. */
	__sync_lock_test_and_set((__u32 *)e, control_of(&flow, control >> SEQ_SHIFT));
	if (half_open(flow.state))
		half_open_changed(1);
	count(NOTE_FLOW_BEGUN);
	return 0;
}

APART __u32 fill4(struct newcomer *new, struct packet *p)
{
	return new && p ? fill(false, new, p) : REASON(DROP_FLOW_TABLE_FULL);
}

APART __u32 fill6(struct newcomer *new, struct packet *p)
{
	return new && p ? fill(true, new, p) : REASON(DROP_FLOW_TABLE_FULL);
}

static __always_inline __u32 claim_and_fill(const bool v6, struct newcomer *new, struct packet *p)
{
	__u32 reason = v6 ? claim6(new) : claim4(new);

	if (reason)
		return reason;
	if (new->was)
		v6 ? settle6(new->index, new->was, new->now) : settle4(new->index, new->was, new->now);
	if (passthrough)
		new->port = take_port(new->path, PORT_RANDOM(new), new->index | (v6 ? FLOW_V6 : 0), new->now);
	return v6 ? fill6(new, p) : fill4(new, p);
}

/* One after the other, because each has a stack of its own. Gives 0, or the reason why there is no flow. */
static __always_inline __u32 begin_flow(const bool v6, struct newcomer *new, struct packet *p)
{
	__u32 reason = claim_and_fill(v6, new, p), victim, id;
	__u64 *word;

	if (!passthrough || reason != REASON(DROP_PORTS_EXHAUSTED))
		return reason;
	victim = port_victim(new->path, PORT_RANDOM(new), new->now);
	word = victim == NO_PORT ? 0 : port_word(new->path, victim);
	if (!word)
		return reason;
	id = word_owner(*(volatile __u64 *)word) - 1;
	if (id & FLOW_V6)
		end_flow6(id & ~FLOW_V6, new->now);
	else
		end_flow4(id, new->now);
	/* It may have been held for no flow. */
	release_port(NAT(nat_first + victim, new->path), id, new->now);
	count(NOTE_PORT_TAKEN_OVER);
	return claim_and_fill(v6, new, p);
}

#endif
