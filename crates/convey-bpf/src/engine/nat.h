/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* NAT ports: a word for each port of each pool, changed by compare-and-swap; behind the words of a pool two marks a
 * port, and what PORT_* names. The port pool of convey-core's nat_ports, which has the reasons.
 */
#ifndef CONVEY_NAT_H
#define CONVEY_NAT_H

#include "flow.h"

static __always_inline __u64 *pool_word(__u32 pool, __u32 at)
{
	__u32 index = pool * nat_words + at;

	return bpf_map_lookup_elem(&nat_ports, &index);
}

static __always_inline __u64 *port_word(__u32 pool, __u32 at)
{
	return at < nat_width ? pool_word(pool, at) : 0;
}

static __always_inline __u64 *extra_word(__u32 pool, __u32 which)
{
	return pool_word(pool, nat_width + nat_groups + which);
}

/* A flow's port and pool, as its entry has them. */
#define NAT(port, pool) ((port) | (pool) << 16)
#define NAT_AT(nat) (((nat) & 0xffff) - nat_first)
#define NAT_POOL(nat) ((nat) >> 16)

static __always_inline __u32 word_owner(__u64 word)
{
	return word;
}

static __always_inline __u32 word_class(__u64 word)
{
	return word >> CLASS_SHIFT & CLASS_MASK;
}

/* Ticks since the last change; more than any age when there was none. */
static __always_inline __u32 word_age(__u64 word, __u32 now)
{
	__u32 stamp = word >> STAMP_SHIFT;

	return stamp ? age(stamp, now) : PORT_UNUSED;
}

/* 0 stands for no moment: the tick 0 is told as the next one. */
static __always_inline __u64 make_word(__u32 owner, __u32 class, __u32 tick)
{
	__u64 stamp = tick & TICK_MASK;

	return owner | (__u64)class << CLASS_SHIFT | (stamp ? stamp : 1) << STAMP_SHIFT;
}

/* How long a free port has rested; `turn` is that of the port freed last. */
static __always_inline __u32 word_rest(__u64 word, __u32 now, __u32 turn)
{
	return word_age(word, now) << TURN_BITS | ((turn - (__u32)(word >> TURN_SHIFT)) & ((1U << TURN_BITS) - 1));
}

/* Held, and held by a connection. */
static __always_inline __u64 mark(__u32 class)
{
	if (class == CLASS_FREE)
		return 0;
	return class >= CLASS_CONNECTION ? 1ULL << PORT_GROUP | 1 : 1;
}

/* Changes the word of a port unless somebody else has. */
static __always_inline bool change_word(__u32 pool, __u32 at, __u64 old, __u64 new)
{
	__u64 *word = port_word(pool, at), *marks, *exhausted, difference;

	if (!word || __sync_val_compare_and_swap(word, old, new) != old)
		return false;
	difference = mark(word_class(old)) ^ mark(word_class(new));
	marks = pool_word(pool, nat_width + at / PORT_GROUP);
	if (difference && marks)
		__sync_fetch_and_xor(marks, difference << at % PORT_GROUP);
	if (!word_owner(new)) {
		exhausted = extra_word(pool, PORT_EXHAUSTED);
		if (exhausted && *(volatile __u64 *)exhausted)
			*(volatile __u64 *)exhausted = 0;
	}
	return true;
}

/* The flow's port is held for something else from now on. */
static __always_inline void port_class(__u32 nat, __u32 id, __u32 class, __u32 now)
{
	__u64 *word = port_word(NAT_POOL(nat), NAT_AT(nat));
	__u64 old;

	if (!word)
		return;
	old = *(volatile __u64 *)word;
	if (word_owner(old) == id + 1 && word_class(old) != class)
		change_word(NAT_POOL(nat), NAT_AT(nat), old, make_word(id + 1, class, now));
}

static __always_inline void release_port(__u32 nat, __u32 id, __u32 now)
{
	__u64 *word = port_word(NAT_POOL(nat), NAT_AT(nat));
	__u64 *turns = extra_word(NAT_POOL(nat), PORT_TURN);
	__u64 old, turn;

	if (!word || !turns)
		return;
	turn = *(volatile __u64 *)turns + 1;
	*(volatile __u64 *)turns = turn;
	old = *(volatile __u64 *)word;
	if (word_owner(old) == id + 1)
		change_word(NAT_POOL(nat), NAT_AT(nat), old,
			    make_word(0, CLASS_FREE, now) | (turn & ((1U << TURN_BITS) - 1)) << TURN_SHIFT);
}

#define NO_PORT (~0U)
#define PORT_ROUNDS 4

struct port_search {
	__u64 best_word, marks;
	__u32 group, enough;
	__u32 pool, random, now, turn;
	__u32 places, looks;
	__u32 best, best_rank;
};

static __always_inline __u32 group_from(__u32 random, __u32 step)
{
	__u32 group = (((__u64)random * nat_groups) >> 32) + step;

	return group >= nat_groups ? group - nat_groups : group;
}

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

static __always_inline bool open_group(struct port_search *s, __u32 step)
{
	__u64 *marks;

	s->group = group_from(s->random, step);
	marks = pool_word(s->pool, nat_width + s->group);
	if (marks)
		s->marks = *(volatile __u64 *)marks;
	return marks;
}

static long search_group(__u32 step, struct port_search *s)
{
	if (!open_group(s, step))
		return 1;
	if ((__u32)s->marks != ~0U)
		bpf_loop(PORT_GROUP, look_at_free, s, 0);
	s->places += 1;
	return s->enough & 1;
}

/* What the verifier knows of these it would follow step by step: they are 0, and it does not know. */
static __always_inline struct port_search begin_search(__u32 pool, __u32 random, __u32 now, __u32 zero)
{
	struct port_search s = {
		.pool = pool, .random = random, .now = now, .places = zero, .looks = zero, .enough = zero,
		.best = zero - 1, .best_rank = zero, .best_word = zero, .marks = zero, .group = zero, .turn = zero,
	};

	return s;
}

struct found_port {
	__u64 word;
	__u32 at; /* NO_PORT: none is free */
	__u32 padding;
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
	return 0;
}

/* Claims a port of the pool for a flow that is not confirmed yet: the first met that has rested, else the one of the
 * first PORT_LOOKS that has rested longest. Gives its place, or NO_PORT: none is free. */
APART __u32 take_port(__u32 pool, __u32 random, __u32 id, __u32 now)
{
	__u64 *exhausted = extra_word(pool, PORT_EXHAUSTED);
	bool told = false;

	if (!exhausted || *(volatile __u64 *)exhausted)
		return NO_PORT;
	for (int i = 0; i < PORT_ROUNDS; i++) {
		struct found_port found = { .at = NO_PORT };

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
		if (change_word(pool, found.at, found.word, make_word(id + 1, CLASS_UNCONFIRMED, now)))
			return found.at;
		random = random * 0x9e3779b1 + 1;
	}
	return NO_PORT;
}

/* How readily a port is taken from a flow idle for so many ticks, 0: not at all; the rank in the upper byte. */
static __always_inline __u32 readiness(__u64 word, __u32 now, __u32 idle)
{
	__u32 class = word_class(word);

	if (idle > TICK_MASK)
		idle = TICK_MASK;
	if (class == CLASS_CLOSED)
		return 5U << 24 | (word_age(word, now) & TICK_MASK);
	if (class == CLASS_UNCONFIRMED)
		return (idle >= UNCONFIRMED_IDLE ? 4U : 2U) << 24 | idle;
	if ((class == CLASS_BRIEF && idle >= BRIEF_IDLE) || (class == CLASS_STREAM && idle >= STREAM_IDLE))
		return 3U << 24 | idle;
	return 0;
}

#define NO_FLOW_THERE (~0U)

/* Ticks since the flow of this id was used; NO_FLOW_THERE: there is none whose time is not over. */
APART __u32 idle_ticks(__u32 id, __u32 now)
{
	const struct config *c = the_config();
	char *e = id & FLOW_V6 ? entry_at(true, id & ~FLOW_V6) : entry_at(false, id);
	__u32 control, seen;

	if (!e || !c)
		return NO_FLOW_THERE;
	control = CONTROL(e);
	seen = SEEN(e);
	if (!in_use(control) || is_expired(control, seen, c, now))
		return NO_FLOW_THERE;
	return age(seen, now);
}

static long look_at_held(__u32 step, struct port_search *s)
{
	__u32 bit = (step + s->random) % PORT_GROUP, at = s->group * PORT_GROUP + bit, idle, rank;
	__u64 *word, old;

	word = (s->marks >> PORT_GROUP | ~s->marks) >> bit & 1 ? 0 : port_word(s->pool, at);
	if (!word)
		return 0;
	old = *(volatile __u64 *)word;
	/* A flow is not idle for longer than its word is old: only then it is worth to look for it. */
	if (readiness(old, s->now, word_age(old, s->now) + 1) > s->best_rank) {
		s->looks += 1;
		idle = idle_ticks(word_owner(old) - 1, s->now);
		rank = readiness(old, s->now, idle);
		if (rank > s->best_rank && (idle != NO_FLOW_THERE || word_age(old, s->now) >= PORT_NOT_YET)) {
			s->best = at;
			s->best_rank = rank;
		}
	}
	s->places += 1;
	s->enough = s->looks >= PORT_LOOKS || s->places >= PORT_WORDS;
	return s->enough & 1;
}

static long victim_in_group(__u32 step, struct port_search *s)
{
	if (!open_group(s, step))
		return 1;
	if ((__u32)s->marks & ~(__u32)(s->marks >> PORT_GROUP))
		bpf_loop(PORT_GROUP, look_at_held, s, 0);
	return s->enough & 1;
}

/* Whose port of the pool may be taken over when none is free. Gives its place, or NO_PORT. */
APART __u32 port_victim(__u32 pool, __u32 random, __u32 now)
{
	const struct config *c = the_config();

	if (!c)
		return NO_PORT;
	struct port_search s = begin_search(pool, random, now, c->one - 1);
	bpf_loop(nat_groups, victim_in_group, &s, 0);
	return s.best;
}

#endif
