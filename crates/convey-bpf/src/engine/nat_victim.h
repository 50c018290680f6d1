/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Whose NAT port is taken when none is free. */
#ifndef CONVEY_NAT_VICTIM_H
#define CONVEY_NAT_VICTIM_H

#include "nat.h"

/* Behind all of `readiness`. */
#define RANK_EXPIRED 1U

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

/* Notes when the flow was used last, so that the next search need not look for it before it may be idle. */
APART __u32 was_used(__u32 pool, __u32 at, __u64 word, __u32 idle, __u32 now)
{
	if (word_class(word) != CLASS_CLOSED && idle < word_age(word, now))
		change_word(pool, at, word, (word & ((1ULL << STAMP_SHIFT) - 1)) | stamp_of(now - idle));
	return 0;
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
	rank = readiness(old, s->now, word_age(old, s->now) + 1);
	s->looks += rank != 0;
	if (rank > s->best_rank) {
		idle = idle_ticks(word_owner(old) - 1, s->now);
		rank = readiness(old, s->now, idle);
		if (idle != NO_FLOW_THERE || word_age(old, s->now) >= PORT_NOT_YET) {
			if (rank > s->best_rank) {
				s->best = at;
				s->best_rank = rank;
			}
			was_used(s->pool, at, old, idle, s->now);
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

/* The port whose flow is none, or over, of the next few. */
static long look_at_expired(__u32 step, struct port_search *s)
{
	__u32 at = (s->group + step) % nat_width;
	__u64 *word = port_word(s->pool, at), old;

	if (!word)
		return 1;
	old = *(volatile __u64 *)word;
	if (!word_owner(old) || word_class(old) == CLASS_RESERVED || word_age(old, s->now) < PORT_NOT_YET ||
	    idle_ticks(word_owner(old) - 1, s->now) != NO_FLOW_THERE)
		return 0;
	s->best = at;
	s->best_rank = RANK_EXPIRED << 24 | TICK_MASK;
	return 1;
}

/* Whose port of the pool may be taken over when none is free: its place, and in the upper half how readily; 0: nobody's. */
APART __u64 port_victim(__u32 pool, __u32 random, __u32 now)
{
	__u64 *hand = extra_word(pool, PORT_HAND);
	const struct config *c = the_config();

	if (!c || !hand)
		return 0;
	struct port_search s = begin_search(pool, random, now, c->one - 1);
	bpf_loop(nat_groups, victim_in_group, &s, 0);
	if (s.best == NO_PORT) {
		__u32 looks = PORT_LOOKS < nat_width ? PORT_LOOKS : nat_width;

		s.group = __sync_fetch_and_add(hand, looks) % nat_width;
		bpf_loop(looks, look_at_expired, &s, 0);
	}
	return s.best == NO_PORT ? 0 : (__u64)s.best_rank << 32 | s.best;
}

#endif
