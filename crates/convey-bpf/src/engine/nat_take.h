/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* A free NAT port for a new flow. */
#ifndef CONVEY_NAT_TAKE_H
#define CONVEY_NAT_TAKE_H

#include "nat.h"

#define PORT_ROUNDS 4

/* One step of a loop, which the verifier goes through once. */
static long look_at_free(__u32 step, struct port_search *s)
{
	__u32 bit = (step + s->random) % PORT_GROUP, at = s->group * PORT_GROUP + bit, rest;
	__u64 *word, old;

	word = s->marks >> bit & 1 ? 0 : port_word(s->pool, at);
	if (!word)
		return 0;
	old = *(volatile __u64 *)word;
	s->places += 1;
	rest = word_rest(old, s->now, s->turn);
	if (!word_owner(old) && (s->best == NO_PORT || rest > s->best_rank)) {
		s->best = at;
		s->best_rank = rest;
		s->best_word = old;
	}
	s->enough = s->best != NO_PORT && (s->best_rank >= PORT_RESTED || s->places >= PORT_LOOKS);
	return s->enough & 1;
}

static long search_group(__u32 step, struct port_search *s)
{
	if (!open_group(s, step))
		return 1;
	if ((__u32)s->marks != ~0U)
		bpf_loop(PORT_GROUP, look_at_free, s, 0);
	if (!s->enough)
		s->places += 1;
	return s->enough & 1;
}

struct found_port {
	__u64 word;
	__u32 at; /* NO_PORT: none is free */
	__u32 looks;
};

/* Apart: verified once, however often it is called. */
APART __u32 find_free(__u32 pool, __u32 random, __u32 now, struct found_port *found)
{
	__u64 *turn = extra_word(pool, PORT_TURN);
	const struct config *c = the_config();

	if (!found || !turn || !c)
		return 0;
	struct port_search s = begin_search(pool, random, now, c->one - 1);
	s.turn = *(volatile __u64 *)turn;
	bpf_loop(nat_groups, search_group, &s, 0);
	found->at = s.best;
	found->word = s.best_word;
	found->looks += s.places;
	return 0;
}

/* Places that were looked at for a port: 1, 2-3, 4-7, 8-15, 16-24, more. */
static __always_inline void count_probes(__u32 looks)
{
	__u32 class = looks < 2 ? 0 : looks < 4 ? 1 : looks < 8 ? 2 : looks < 16 ? 3 : looks <= PORT_LOOKS ? 4 : 5;
	__u64 *n = bpf_map_lookup_elem(&nat_port_probes, &class);

	if (n)
		*n += 1;
}

/* Claims a port of the pool for a flow that is not confirmed yet: the first met that has rested, else the one of the
 * first PORT_LOOKS that has rested longest. Gives its place, or NO_PORT: none is free. */
APART __u32 take_port(__u32 pool, __u32 random, __u32 id, __u32 now)
{
	__u64 *exhausted = extra_word(pool, PORT_EXHAUSTED);
	struct found_port found = {};
	bool told = false;

	if (!exhausted || *(volatile __u64 *)exhausted)
		return NO_PORT;
	for (int i = 0; i < PORT_ROUNDS; i++) {
		found.at = NO_PORT;
		find_free(pool, random, now, &found);
		if (found.at == NO_PORT) {
			if (told)
				return NO_PORT;
			/* Told before the last search: a port that comes free meanwhile is met by it, or takes this back. */
			__sync_lock_test_and_set(exhausted, 1);
			told = true;
			continue;
		}
		if (told)
			*(volatile __u64 *)exhausted = 0;
		if (change_word(pool, found.at, found.word, make_word(id + 1, CLASS_UNCONFIRMED, now))) {
			count_probes(found.looks);
			return found.at;
		}
		random = random * 0x9e3779b1 + 1;
	}
	return NO_PORT;
}

#endif
