/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* The flow table: sets of 128 bytes, which the program, the sweeper and every other reader share.
 *
 * An entry is free by its state. It is claimed by compare-and-swap on its control word, filled, and published with
 * an exchange, so nobody sees half an entry and no two own one. `seen` and `next` are plain stores.
 * What an entry passed on its way to its place is counted in `spills`, so that a lookup knows where to stop.
 */
#ifndef CONVEY_FLOW_H
#define CONVEY_FLOW_H

#include "tcp.h"

/* Flow ids: FLOW_V6 and the index of the entry. */
#define WAYS(v6) ((v6) ? 2 : 4)
#define CHAIN(v6) ((v6) ? CHAIN6 : CHAIN4)
#define WAY_BYTES(v6) ((v6) ? sizeof(struct entry6) : sizeof(struct entry4))

/* A field of an entry of either family; `v6` is a constant wherever it counts. */
#define FIELD(e, v6, type, name)                                                                           \
	((type *)((char *)(e) + ((v6) ? offsetof(struct entry6, name) : offsetof(struct entry4, name))))

#define CONTROL(e) (*(volatile __u32 *)(e))
#define SEEN(e) (*(volatile __u32 *)((char *)(e) + 4))

struct key {
	__u64 hash;
	struct address client;  /* as in the packet; IPv4: the last word */
	__u16 client_port, port; /* host order; in passthrough `port` is 0: it is the frontend's */
	__u16 frontend;
};

static __always_inline __u64 mix(__u64 h, __u64 word)
{
	h = (h ^ word) * 0xff51afd7ed558ccdULL;
	return h ^ (h >> 32);
}

static __always_inline __u64 mix_end(__u64 h)
{
	h *= 0xc4ceb9fe1a85ec53ULL;
	return h ^ (h >> 29);
}

#define HASH_START 0x9e3779b97f4a7c15ULL

static __always_inline __u64 upper_half(const struct address *a)
{
	return (__u64)bpf_ntohl(a->word[0]) << 32 | bpf_ntohl(a->word[1]);
}

static __always_inline __u64 lower_half(const struct address *a)
{
	return (__u64)bpf_ntohl(a->word[2]) << 32 | bpf_ntohl(a->word[3]);
}

static __always_inline __u64 mix_v4(__u64 h, __u32 address)
{
	return mix(h, 0xffff00000000ULL | address);
}

static __always_inline __u64 mix_address(__u64 h, const bool v6, const struct address *a)
{
	return v6 ? mix(mix(h, upper_half(a)), lower_half(a)) : mix_v4(mix(h, 0), bpf_ntohl(a->word[3]));
}

static __always_inline __u64 mix_ports(__u64 h, __u16 client_port, __u16 port, __u16 frontend)
{
	return mix_end(mix(h, (__u64)client_port << 32 | (__u32)port << 16 | frontend));
}

static __always_inline __u64 flow_hash(__u64 seed, const bool v6, const struct address *client, __u16 client_port,
				       __u16 port, __u16 frontend)
{
	__u64 h = seed ^ HASH_START;

	h = v6 ? mix_address(h, true, client) : mix_v4(h, bpf_ntohl(client->word[3]));
	return mix_ports(h, client_port, port, frontend);
}

static __always_inline __u32 first_set(__u64 hash, __u32 sets)
{
	return ((hash >> 32) * sets) >> 32;
}

/* The set at place `n` of the chain, from 1. */
static __always_inline __u32 further_set(__u64 hash, __u32 sets, __u32 n)
{
	__u32 set = (((hash & 0xffffffff) * sets) >> 32) + n - 1;

	return set >= sets ? set - sets : set;
}

static __always_inline void *set_at(const bool v6, __u32 set)
{
	if (v6)
		return bpf_map_lookup_elem(&flows6, &set);
	return bpf_map_lookup_elem(&flows4, &set);
}

static __always_inline const struct config *the_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline void *entry_at(const bool v6, __u32 index)
{
	char *s = set_at(v6, index / WAYS(v6));

	return s ? s + index % WAYS(v6) * WAY_BYTES(v6) : 0;
}

static __always_inline __u32 *spills_of(const bool v6, __u32 set)
{
	__u32 line = set / SPILLS;
	struct spills *s = v6 ? bpf_map_lookup_elem(&spills6, &line) : bpf_map_lookup_elem(&spills4, &line);

	return s ? &s->of[set % SPILLS] : 0;
}

static __always_inline bool is_flow(const bool v6, void *e, const struct key *k)
{
	__u32 ports = k->client_port | (__u32)k->port << 16;
	__u32 mask = passthrough ? 0xffff : 0xffffffff;

	if (v6) {
		struct entry6 *entry = e;

		return entry->client[0] == bpf_ntohl(k->client.word[0]) &&
		       entry->client[1] == bpf_ntohl(k->client.word[1]) &&
		       entry->client[2] == bpf_ntohl(k->client.word[2]) &&
		       entry->client[3] == bpf_ntohl(k->client.word[3]) && (*(__u32 *)&entry->client_port & mask) == ports && entry->frontend == k->frontend;
	}
	struct entry4 *entry = e;
	__u64 want = (__u64)ports << 32 | bpf_ntohl(k->client.word[3]);

	return (*(__u64 *)&entry->client & ((__u64)mask << 32 | 0xffffffff)) == want &&
	       entry->frontend == k->frontend;
}

static __always_inline bool in_use(__u32 control)
{
	__u32 state = control & STATE_MASK;

	return state != STATE_FREE && state != STATE_CLAIMED;
}

/* Clocks are read on several CPUs and coarsely: what lies ahead is now. */
static __always_inline __u32 age(__u32 seen, __u32 now)
{
	__u32 ticks = (now - seen) & TICK_MASK;

	return ticks > TICK_MASK / 2 ? 0 : ticks;
}

static __always_inline bool is_expired(__u32 control, __u32 seen, const struct config *c, __u32 now)
{
	return age(seen, now) > c->lifetimes[control & STATE_MASK];
}

/* The live flow with this key in this set; its way, or none. */
static __always_inline char *find_in_set(const bool v6, __u32 set, const struct key *k, const struct config *c,
					 __u32 now, __u32 *index)
{
	char *s = set_at(v6, set);
	__u64 way = WAYS(v6);

	if (!s)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < WAYS(v6); i++) {
		if (is_flow(v6, s + i * WAY_BYTES(v6), k) && in_use(CONTROL(s + i * WAY_BYTES(v6)))) {
			way = i;
			break;
		}
	}
	if (way == WAYS(v6))
		return 0;
	/* An unknown factor, or the verifier would go through all that follows once for each way. */
	way = way * c->one & (WAYS(v6) - 1);
	s += way * WAY_BYTES(v6);
	if (is_expired(CONTROL(s), SEEN(s), c, now))
		return 0;
	*index = set * WAYS(v6) + way;
	return s;
}

/* The live flow with this key behind the first set of its chain: its index plus one, or 0. */
static __always_inline __u32 find_further(const bool v6, const struct key *k, __u32 now)
{
	const __u32 sets = v6 ? sets6 : sets4;
	const struct config *c = the_config();
	__u32 set = first_set(k->hash, sets), index;

	if (!c)
		return 0;
	for (__u32 n = 1; n < CHAIN(v6); n++) {
		__u32 *spilled = spills_of(v6, set);

		if (!spilled || !*(volatile __u32 *)spilled)
			return 0;
		set = further_set(k->hash, sets, n);
		if (find_in_set(v6, set, k, c, now, &index))
			return index + 1;
	}
	return 0;
}

APART __u32 find_further4(struct key *k, __u32 now)
{
	return k ? find_further(false, k, now) : 0;
}

APART __u32 find_further6(struct key *k, __u32 now)
{
	return k ? find_further(true, k, now) : 0;
}

/* The live flow with this key. Nearly all of them are met in the first set. */
static __always_inline char *lookup(const bool v6, struct key *k, const struct config *c, __u32 now, __u32 *index)
{
	__u32 set = first_set(k->hash, v6 ? sets6 : sets4), found;
	char *e = find_in_set(v6, set, k, c, now, index);
	__u32 *spilled;

	if (e)
		return e;
	spilled = spills_of(v6, set);
	if (!spilled || !*(volatile __u32 *)spilled)
		return 0;
	found = v6 ? find_further6(k, now) : find_further4(k, now);
	if (!found)
		return 0;
	*index = found - 1;
	return entry_at(v6, found - 1);
}

static __always_inline void load_flow(const bool v6, void *e, struct flow *w)
{
	__u32 *next = FIELD(e, v6, __u32, next);
	__u32 seen = SEEN(e);

	w->control = CONTROL(e);
	w->state = w->control & STATE_MASK;
	w->flags = w->control >> FLAGS_SHIFT & FLAGS_MASK;
	w->window[0] = w->control >> WINDOW_SHIFT_CLIENT & WINDOW_MASK;
	w->window[1] = w->control >> WINDOW_SHIFT_SERVER & WINDOW_MASK;
	w->scale[0] = seen >> SCALE_CLIENT_SHIFT & SCALE_MASK;
	w->scale[1] = seen >> SCALE_SERVER_SHIFT & SCALE_MASK;
	w->next[0] = next[0];
	w->next[1] = next[1];
	w->acked[0] = w->next[0];
	w->acked[1] = w->next[1];
	if (passthrough) {
		__u8 *flight = FIELD(e, v6, __u8, port);

		w->acked[0] = w->next[0] - unpack_flight(flight[0]);
		w->acked[1] = w->next[1] - unpack_flight(flight[1]);
	}
}

static __always_inline __u32 control_of(const struct flow *w, __u32 seq)
{
	return w->state | w->flags << FLAGS_SHIFT | w->window[0] << WINDOW_SHIFT_CLIENT |
	       w->window[1] << WINDOW_SHIFT_SERVER | seq << SEQ_SHIFT;
}

static __always_inline __u32 seen_of(const struct flow *w, __u32 now)
{
	return (now & TICK_MASK) | (__u32)w->scale[0] << SCALE_CLIENT_SHIFT | (__u32)w->scale[1] << SCALE_SERVER_SHIFT;
}

/* Everything but the control word. What was there is read once more, which costs less than room on the stack. */
static __always_inline void store_numbers(const bool v6, void *e, const struct flow *w)
{
	volatile __u32 *next = FIELD(e, v6, __u32, next);
	volatile __u8 *flight = FIELD(e, v6, __u8, port);

#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (w->next[i] != next[i])
			next[i] = w->next[i];
		if (passthrough && w->next[i] - w->acked[i] != unpack_flight(flight[i]))
			flight[i] = pack_flight(w->next[i] - w->acked[i]);
	}
}

#endif
