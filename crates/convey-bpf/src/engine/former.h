/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Flows of frontends that have left: they go on, though another may listen there by now. */
#ifndef CONVEY_FORMER_H
#define CONVEY_FORMER_H

#include "begin.h"

/* Whether a client's packet ends the live flow it belongs to and begins another with the same key. */
static __always_inline bool begins_anew(const bool v6, void *e, const struct packet *p, __u8 standing)
{
	bool gone = standing >= STANDING_DOWN;
	struct flow w;

	if (p->protocol == IPPROTO_UDP)
		return gone;
	if ((p->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return false;
	load_flow(v6, e, &w);
	if (w.state == STATE_CLOSED || gone)
		return true;
	bool may_leave = half_open(w.state) && standing != STANDING_UP;
	return (!passthrough || may_leave) && !is_own_syn(&w, p);
}

struct former_search {
	struct packet *p;
	struct key key;
	struct former_vip vip;
	__u32 found; /* index plus one */
};

/* The flow of the frontend in `slot`, if it goes on. */
static __always_inline bool has_flow(const bool v6, struct former_search *s, __u32 slot)
{
	const struct config *c = the_config();
	struct packet *p = s->p;
	struct server *server;
	__u32 index = 0, number;
	char *e;

	if (!c)
		return false;
	s->key.frontend = slot;
	s->key.hash = flow_hash(c->seed, v6, &p->src, s->key.client_port, s->key.port, slot);
	e = lookup(v6, &s->key, c, p->now, &index);
	if (!e)
		return false;
	number = FIELD(e, v6, __u16, frontend)[1];
	server = bpf_map_lookup_elem(&servers, &number);
	if (!server || begins_anew(v6, e, p, server->standing))
		return false;
	s->found = index + 1;
	return true;
}

static __always_inline long former_step(const bool v6, struct former_search *s)
{
	__u32 *slot = bpf_map_lookup_elem(&former_vips, &s->vip);

	if (slot) {
		s->vip.number += 1;
		return has_flow(v6, s, *slot);
	}
	/* Behind those of the port those of every port. */
	if (!s->vip.port)
		return 1;
	s->vip.port = 0;
	s->vip.number = 0;
	return 0;
}

static long former_step4(__u32 step, struct former_search *s)
{
	(void)step;
	return former_step(false, s);
}

static long former_step6(__u32 step, struct former_search *s)
{
	(void)step;
	return former_step(true, s);
}

/* The flow of a client's packet that a former frontend has: its index plus one, and its key; or 0. */
static __always_inline __u32 find_former(const bool v6, struct packet *p, struct key *key)
{
	struct former_search s = {
		.p = p,
		.key = *key,
		.vip = { .address = p->dst, .port = p->dst_port, .protocol = p->protocol },
	};

	bpf_loop(2 * (FORMER_MAX + 1), v6 ? (void *)former_step6 : (void *)former_step4, &s, 0);
	if (s.found)
		*key = s.key;
	return s.found;
}

APART __u32 find_former4(struct packet *p, struct key *key)
{
	return p && key ? find_former(false, p, key) : 0;
}

APART __u32 find_former6(struct packet *p, struct key *key)
{
	return p && key ? find_former(true, p, key) : 0;
}

#endif
