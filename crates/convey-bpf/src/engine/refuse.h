/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Limits, and what becomes of what cannot be served. */
#ifndef CONVEY_REFUSE_H
#define CONVEY_REFUSE_H

#include "flow.h"

static __always_inline bool at_limit(const struct gauge *g, __u64 limit, bool replaced)
{
	return limit && g && g->open >= limit + replaced;
}

/* Whether another connection to `server` keeps to the limits, the one it replaces (its index plus one) not counted. */
static __always_inline __u32 check_limits(const bool v6, const struct frontend *f, const struct server *s, __u32 frontend,
					  __u32 server, __u32 replaces, const struct config *c)
{
	char *e = replaces ? entry_at(v6, replaces - 1) : 0;
	bool counted = e && CONTROL(e) >> FLAGS_SHIFT & FLAG_COUNTED;
	__u32 zero = 0;

	if (c->max_connections) {
		struct shared *all = bpf_map_lookup_elem(&shared, &zero);

		if (all && at_limit(&all->total, c->max_connections, counted))
			return REASON(DROP_LIMIT_TOTAL);
	}
	if (f->max_connections &&
	    at_limit(bpf_map_lookup_elem(&frontend_gauges, &frontend), f->max_connections, counted))
		return REASON(DROP_LIMIT_FRONTEND);
	if (s->max_connections) {
		counted = counted && FIELD(e, v6, __u16, frontend)[1] == server;
		if (at_limit(bpf_map_lookup_elem(&server_gauges, &server), s->max_connections, counted))
			return REASON(DROP_LIMIT_SERVER);
	}
	return 0;
}

static __always_inline __u32 refusal_of(__u32 reason)
{
	switch (reason - 1) {
	case DROP_NO_SERVER: return 0;
	case DROP_PORTS_EXHAUSTED: return 1;
	case DROP_LIMIT_TOTAL: return 2;
	case DROP_LIMIT_FRONTEND: return 3;
	case DROP_LIMIT_SERVER: return 4;
	case DROP_DENIED: return 5;
	default: return REFUSALS;
	}
}

/* Counts for its frontend what is dropped here. */
APART __u32 count_refusal(__u32 slot, __u32 verdict)
{
	__u32 which = refusal_of(VERDICT_REASON(verdict) + 1);
	struct refusals *r;

	if (VERDICT_KIND(verdict) != DROP || which >= REFUSALS)
		return verdict;
	r = bpf_map_lookup_elem(&refusals, &slot);
	if (r)
		r->of[which] += 1;
	return verdict;
}

/* What cannot be served: Rust answers what is to be answered. */
static __always_inline __u32 refuse(const struct packet *p, __u32 reason, const struct config *c)
{
	if (p->protocol == IPPROTO_TCP && c->resets && !(p->flags & TCP_RST))
		return VERDICT(UP, reason - 1);
	return VERDICT(DROP, reason - 1);
}

#endif
