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
static __always_inline __u64 stamp_of(__u32 tick)
{
	__u64 stamp = tick & TICK_MASK;

	return (stamp ? stamp : 1) << STAMP_SHIFT;
}

static __always_inline __u64 make_word(__u32 owner, __u32 class, __u32 tick)
{
	return owner | (__u64)class << CLASS_SHIFT | stamp_of(tick);
}

/* How long a free port has rested; `turn` is that of the port freed last. */
static __always_inline __u32 word_rest(__u64 word, __u32 now, __u32 turn)
{
	return word_age(word, now) << TURN_BITS | ((turn - (__u32)(word >> TURN_SHIFT)) & ((1U << TURN_BITS) - 1));
}

/* Held, and held by what gives way to nothing. */
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

#define RELEASE_ATTEMPTS 8

static __always_inline void release_port(__u32 nat, __u32 id, __u32 now)
{
	__u64 *word = port_word(NAT_POOL(nat), NAT_AT(nat));
	__u64 *turns = extra_word(NAT_POOL(nat), PORT_TURN);
	__u64 old, turn;

	if (!word || !turns)
		return;
	turn = *(volatile __u64 *)turns + 1;
	*(volatile __u64 *)turns = turn;
	/* Others may note meanwhile what it is held for and when it was used. */
	for (int i = 0; i < RELEASE_ATTEMPTS; i++) {
		old = *(volatile __u64 *)word;
		if (word_owner(old) != id + 1 ||
		    change_word(NAT_POOL(nat), NAT_AT(nat), old,
				make_word(0, CLASS_FREE, now) | (turn & ((1U << TURN_BITS) - 1)) << TURN_SHIFT))
			return;
	}
}

#define NO_PORT (~0U)

/* Of both searches: for a free port, and for one that may be taken over. */
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

static __always_inline bool open_group(struct port_search *s, __u32 step)
{
	__u64 *marks;

	s->group = group_from(s->random, step);
	marks = pool_word(s->pool, nat_width + s->group);
	if (marks)
		s->marks = *(volatile __u64 *)marks;
	return marks;
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

#endif
