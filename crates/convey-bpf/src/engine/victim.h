/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Who gives way to a new flow. By rank: closed, the oldest half-open, idle UDP conversations; in DSR, where the Maglev
 * table still knows the server, the least recently used of all. In passthrough an open TCP connection and a busy UDP
 * conversation never do. No more than a quarter of the entries are half-open: a flood of first packets costs other
 * first packets.
 */
#ifndef CONVEY_VICTIM_H
#define CONVEY_VICTIM_H

#include "newcomer.h"

#define RANK_SHIFT 24
#define RANK_ANY 1U
#define RANK_IDLE 2U
#define RANK_HALF_OPEN 3U
#define RANK_CLOSED 4U

#define VICTIM_ATTEMPTS 4
/* Sets outside of its chain in which a newcomer looks for a half-open flow that ends for it. */
#define VICTIM_SETS 256

struct victim_search {
	struct newcomer *new;
	__u32 from;     /* the place in the chain, or behind it, of the first set */
	__u32 crowded;  /* half-open flows alone, and the first set that has any */
	__u32 best;     /* rank and idle ticks; 0: none yet */
	__u32 index, control, passed;
};

static __always_inline __u32 rank_of(const bool v6, void *e, __u32 state, __u32 idle, bool crowded)
{
	__u32 datagrams;

	if (half_open(state))
		return RANK_HALF_OPEN;
	if (crowded)
		return 0;
	if (state == STATE_CLOSED)
		return RANK_CLOSED;
	if (state == STATE_UDP_STREAM) {
		datagrams = *FIELD(e, v6, __u32, next);
		if (idle >= (datagrams < BRIEF ? BRIEF_IDLE : STREAM_IDLE))
			return RANK_IDLE;
	}
	return passthrough ? 0 : RANK_ANY;
}

/* One step an entry, which the verifier goes through once. */
static __always_inline long victim_step(const bool v6, __u32 step, struct victim_search *s)
{
	const __u32 sets = v6 ? sets6 : sets4;
	__u32 place = s->from + step / WAYS(v6), way = step % WAYS(v6), set, control, idle, rank;
	__u64 hash = s->new->key.hash;
	char *e;

	if (s->crowded && s->best && !way)
		return 1;
	set = place ? further_set(hash, sets, place) : first_set(hash, sets);
	/* Met twice, it counts as met first. */
	if (place && place < CHAIN(v6) && set == first_set(hash, sets))
		return 0;
	e = entry_at(v6, set * WAYS(v6) + way);
	if (!e)
		return 0;
	control = CONTROL(e);
	if (!in_use(control))
		return 0;
	idle = age(SEEN(e), s->new->now);
	rank = rank_of(v6, e, control & STATE_MASK, idle, s->crowded) << RANK_SHIFT;
	/* Of equal ones the first: it is passed by the fewest lookups. */
	if (rank && (rank | idle) > s->best) {
		s->best = rank | idle;
		s->index = set * WAYS(v6) + way;
		s->control = control;
		s->passed = place;
	}
	return 0;
}

static long victim_step4(__u32 step, struct victim_search *s)
{
	return victim_step(false, step, s);
}

static long victim_step6(__u32 step, struct victim_search *s)
{
	return victim_step(true, step, s);
}

static __always_inline void count_victim(const struct victim_search *s)
{
	__u32 rank = s->best >> RANK_SHIFT;
	const struct config *c = the_config();

	if (rank == RANK_CLOSED || !c || (s->best & TICK_MASK) > c->lifetimes[s->control & STATE_MASK])
		return;
	count(rank == RANK_HALF_OPEN ? NOTE_HALF_OPEN_EVICTED : NOTE_FLOW_EVICTED);
}

#define VICTIM_TAKEN 0
#define VICTIM_LOST 1 /* to somebody else */
#define VICTIM_NONE 2

static __always_inline __u32 try_victim(const bool v6, struct newcomer *new, bool crowded)
{
	struct victim_search s = { .new = new, .crowded = crowded };
	__u32 *e, claimed;

	bpf_loop(CHAIN(v6) * WAYS(v6), v6 ? (void *)victim_step6 : (void *)victim_step4, &s, 0);
	if (!s.best)
		return VICTIM_NONE;
	e = entry_at(v6, s.index);
	claimed = ((s.control >> SEQ_SHIFT) + 1) << SEQ_SHIFT | STATE_CLAIMED;
	if (!e || __sync_val_compare_and_swap(e, s.control, claimed) != s.control)
		return VICTIM_LOST;
	new->index = s.index;
	new->was = s.control;
	new->passed = s.passed;
	respill(v6, new->key.hash, s.passed, 1);
	count_victim(&s);
	return VICTIM_TAKEN;
}

APART __u32 try_victim4(struct newcomer *new, bool crowded)
{
	return new ? try_victim(false, new, crowded) : VICTIM_NONE;
}

APART __u32 try_victim6(struct newcomer *new, bool crowded)
{
	return new ? try_victim(true, new, crowded) : VICTIM_NONE;
}

/* Takes the entry of a flow that gives way, in the newcomer's chain. Gives 0, or the reason why there is none.
 * `crowded`: half-open flows are as many as may be. */
static __always_inline __u32 claim_victim(const bool v6, struct newcomer *new, bool crowded)
{
	__u32 outcome = VICTIM_LOST;

	for (int i = 0; i < VICTIM_ATTEMPTS && outcome == VICTIM_LOST; i++)
		outcome = v6 ? try_victim6(new, crowded) : try_victim4(new, crowded);
	return outcome == VICTIM_TAKEN ? 0 : REASON(DROP_FLOW_TABLE_FULL);
}

/* As many half-open flows as may be are there. */
static __always_inline bool is_crowded(const bool v6)
{
	const __u32 quarter = (v6 ? sets6 : sets4) * WAYS(v6) / 4;
	const struct config *c = the_config();
	__u32 zero = 0;
	struct shared *all = bpf_map_lookup_elem(&shared, &zero);

	/* Below zero is none. */
	return c && all && (__s64)all->half_open >= (__s64)(c->half_open_max < quarter ? c->half_open_max : quarter);
}

/* Ends a half-open flow somewhere, where the newcomer's chain has none. */
static __always_inline void end_half_open(const bool v6, struct newcomer *new)
{
	struct victim_search s = { .new = new, .crowded = true, .from = CHAIN(v6) };

	bpf_loop(VICTIM_SETS * WAYS(v6), v6 ? (void *)victim_step6 : (void *)victim_step4, &s, 0);
	if (!s.best)
		return;
	v6 ? end_flow6(s.index, new->now) : end_flow4(s.index, new->now);
	count_victim(&s);
}

APART __u32 end_half_open4(struct newcomer *new)
{
	if (new)
		end_half_open(false, new);
	return 0;
}

APART __u32 end_half_open6(struct newcomer *new)
{
	if (new)
		end_half_open(true, new);
	return 0;
}

#endif
