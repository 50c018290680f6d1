/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* One flow a key, where several CPUs, or user space, begin some at once: two may both find a key absent. Neither can
 * know before both are published, so each searches the chain once more afterwards. At least one meets the other, for
 * publishing orders what comes before and after. It takes out the one further along, which a lookup would not reach.
 */
#ifndef CONVEY_TWINS_H
#define CONVEY_TWINS_H

#include "newcomer.h"

#define TWIN_ATTEMPTS 8

struct twin_search {
	struct newcomer *new;
	__u32 behind;  /* the newcomer was met */
	__u32 index;   /* plus one; 0: there is no other */
	__u32 control;
	__u32 over;    /* the other's time is over */
};

static __always_inline long twin_step(const bool v6, __u32 n, struct twin_search *s)
{
	const __u32 sets = v6 ? sets6 : sets4;
	__u64 hash = s->new->key.hash;
	const struct config *c = the_config();
	__u32 set = n ? further_set(hash, sets, n) : first_set(hash, sets), *spilled;
	char *first = set_at(v6, set);

	if (!first || !c)
		return 1;
#pragma unroll
	for (__u32 way = 0; way < WAYS(v6); way++) {
		char *e = first + way * WAY_BYTES(v6);
		__u32 index = set * WAYS(v6) + way, control = CONTROL(e);

		if (index == s->new->index) {
			s->behind = 1;
		} else if (is_flow(v6, e, &s->new->key) && in_use(control)) {
			s->index = index + 1;
			s->control = control;
			s->over = is_expired(control, SEEN(e), c, s->new->now);
			return 1;
		}
	}
	/* Whoever has passed this set was counted here before it was published. */
	spilled = spills_of(v6, set);
	return !spilled || !*(volatile __u32 *)spilled;
}

static long twin_step4(__u32 n, struct twin_search *s)
{
	return twin_step(false, n, s);
}

static long twin_step6(__u32 n, struct twin_search *s)
{
	return twin_step(true, n, s);
}

#define TWINS_NONE 0
#define TWINS_ONE_LESS 1
#define TWINS_OTHER 2 /* stays: it is first in the chain */

/* Looks for another flow with the newcomer's key, and ends the one of them that is further along. */
static __always_inline __u32 end_twin(const bool v6, struct newcomer *new)
{
	struct twin_search s = { .new = new };
	char *e;

	bpf_loop(CHAIN(v6), v6 ? (void *)twin_step6 : (void *)twin_step4, &s, 0);
	if (!s.index)
		return TWINS_NONE;
	if (s.behind || s.over) {
		if ((v6 ? end_flow_as6(s.index - 1, s.control, new->now) :
			  end_flow_as4(s.index - 1, s.control, new->now)) && !s.over)
			count(NOTE_TWIN);
		return TWINS_ONE_LESS;
	}
	e = entry_at(v6, s.index - 1);
	if (!e)
		return TWINS_NONE;
	new->server = FIELD(e, v6, __u16, frontend)[1];
	new->nat = *FIELD(e, v6, __u32, nat_port);
	/* Meanwhile it may have become a flow of another key. */
	return CONTROL(e) >> SEQ_SHIFT == s.control >> SEQ_SHIFT ? TWINS_OTHER : TWINS_ONE_LESS;
}

APART __u32 end_twin4(struct newcomer *new)
{
	return new ? end_twin(false, new) : TWINS_NONE;
}

APART __u32 end_twin6(struct newcomer *new)
{
	return new ? end_twin(true, new) : TWINS_NONE;
}

/* Leaves of all flows with the newcomer's key, which was published, the first of the chain: the newcomer's packet goes
 * where that one's do. */
static __always_inline void end_twins(const bool v6, struct newcomer *new)
{
	__u32 server = new->server, nat = new->nat;

	for (int i = 0; i < TWIN_ATTEMPTS; i++) {
		__u32 outcome = v6 ? end_twin6(new) : end_twin4(new);

		if (outcome == TWINS_OTHER) {
			if (v6 ? end_flow6(new->index, new->now) : end_flow4(new->index, new->now))
				count(NOTE_TWIN);
			return;
		}
		new->server = server;
		new->nat = nat;
		if (outcome == TWINS_NONE)
			return;
	}
}

#endif
