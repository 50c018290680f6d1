/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What becomes of a frame: parse, flow, server, plan. Nothing of the frame is changed here; a front carries the
 * plan out.
 */
#ifndef CONVEY_CORE_H
#define CONVEY_CORE_H

#include "former.h"
#include "fragment.h"
#include "icmp.h"
#include "hops.h"
#include "refuse.h"
#include "advance.h"
#include "admit.h"
#include "plan.h"
#include "watch.h"

/* A newcomer is dealt with before there is a plan, and the stack is small. */
union work {
	struct newcomer new;
	struct icmp_work icmp;
	struct plan plan;
};

static __always_inline bool is_valid_source(const bool v6, const struct address *a)
{
	if (v6) {
		if (!a->word[0] && !a->word[1] && !a->word[2])
			return bpf_ntohl(a->word[3]) > 1;
		return *(__u8 *)a != 0xff;
	}
	__u8 first = *(const __u8 *)&a->word[3];
	/* 127 and 255; 224 to 239. */
	return first && (first & 0x7f) != 0x7f && (first & 0xf0) != 0xe0;
}

static __always_inline void copy_address(const bool v6, struct address *to, const struct address *from)
{
	if (v6)
		*to = *from;
	else
		to->word[3] = from->word[3];
}

/* A slot that has settled says it all, and no flow is remembered. */
#define IS_SETTLED(new) (minimal && PLACE_PREVIOUS((new)->place) == NO_SERVER)

static __always_inline __u32 from_client(const bool v6, struct packet *p, __u32 slot,
					 const struct config *c, union work *work, const struct hop **hop)
{
	__u32 now = p->now;
	struct newcomer *new = &work->new;
	struct plan *plan = &work->plan;
	struct server *server = 0;
	__u32 index = 0, number = 0, nat = 0, reason;
	bool begins = true;
	char *e = 0;

	if (minimal)
		new->place = v6 ? find_place6(p, slot) : find_place4(p, slot);
	if (!IS_SETTLED(new) || c->former) {
		new->key.client = p->src;
		new->key.client_port = bpf_ntohs(p->src_port);
		new->key.port = passthrough ? 0 : bpf_ntohs(p->dst_port);
		new->key.frontend = slot;
		new->key.hash = flow_hash(c->seed, v6, &p->src, new->key.client_port, new->key.port, slot);
		if (!IS_SETTLED(new))
			e = lookup(v6, &new->key, c, now, &index);
		if (!e && c->former) {
			index = v6 ? find_former6(p, &new->key) : find_former4(p, &new->key);
			e = index ? entry_at(v6, --index) : 0;
			slot = new->key.frontend;
		}
	}
	if (IS_SETTLED(new) && !e) {
		number = PLACE_SERVER(new->place);
		/* Flows of a frontend that left are looked for in more than one way. */
		if (number == NO_SERVER)
			return VERDICT(UP, DROP_NO_SERVER);
		struct frontend *frontend = bpf_map_lookup_elem(&frontends, &slot);

		if (frontend && frontend->access && (v6 ? is_denied6(p, slot) : is_denied4(p, slot)))
			return count_refusal(slot, VERDICT(DROP, DROP_DENIED));
		server = bpf_map_lookup_elem(&servers, &number);
		begins = false;
	}
	if (e) {
		number = FIELD(e, v6, __u16, frontend)[1];
		nat = *FIELD(e, v6, __u32, nat_port);
		server = bpf_map_lookup_elem(&servers, &number);
		if (!server)
			return VERDICT(DROP, DROP_NO_SERVER);
		begins = begins_anew(v6, e, p, server->standing);
	}
	if (begins) {
		new->replaces = e ? index + 1 : 0;
		new->now = now;
		new->nat = new->known = new->server = new->index = new->begins = 0;
		if (!minimal)
			new->path = 0;
		__u32 verdict = v6 ? begin_client6(p, new) : begin_client4(p, new);

		if (VERDICT_KIND(verdict) != FORWARD)
			return count_refusal(slot, verdict);
		if (new->begins) {
			if (passthrough) {
				__u32 path = v6 ? nth_path6(p, new, 0) : nth_path4(p, new, 0);

				if (!path)
					return VERDICT(DROP, DROP_NO_NEXT_HOP);
				new->path = path - 1;
			}
			if (new->replaces)
				v6 ? end_flow6(index, now) : end_flow4(index, now);
			reason = begin_flow(v6, new, p);
			if (reason && passthrough)
				return count_refusal(slot, refuse(p, reason, c));
			if (reason)
				count(NOTE_HASH_ROUTED);
		} else if (minimal && new->replaces && !new->known) {
			v6 ? end_flow6(index, now) : end_flow4(index, now);
		}
		if (!new->known) {
			number = new->server;
			nat = new->nat;
			server = bpf_map_lookup_elem(&servers, &number);
			if (!server)
				return VERDICT(DROP, DROP_NO_SERVER);
			e = 0;
		}
	}
	if (!server)
		return VERDICT(DROP, DROP_NO_SERVER);
	if (e || IS_SETTLED(new)) {
		reason = check_server(v6, p, server);
		if (reason)
			return reason == REASON(DROP_SERVER_IS_CLIENT) ? refuse(p, reason, c) : VERDICT(UP, reason - 1);
	}
	if (e) {
		p->met = CONTROL(e) & STATE_MASK;
		advance(v6, e, index, FROM_CLIENT, p, now);
	}
	if (minimal && !IS_SETTLED(new) && number != PLACE_SERVER(new->place))
		v6 ? note_use6(p, slot) : note_use4(p, slot);
	account(FROM_CLIENT, slot, number, p->payload);
	p->slots = slot | number << 16;
	plan->method = server->method;
	*hop = &server->hop;
	copy_address(v6, &plan->src, &p->src);
	plan->src_port = p->src_port;
	copy_address(v6, &plan->dst, &server->address);
	plan->dst_port = p->dst_port;
	if (passthrough) {
		__u32 path = NAT_POOL(nat);
		struct address *source = bpf_map_lookup_elem(&path_sources, &path);

		if (!source)
			return VERDICT(DROP, DROP_NO_FLOW);
		copy_address(v6, &plan->src, source);
		plan->src_port = bpf_htons(nat & 0xffff);
		plan->dst_port = server->port;
	}
	return VERDICT(FORWARD, 0);
}

static __always_inline __u32 from_server(const bool v6, context_t *context, __u32 ingress, struct packet *p, __u32 path,
					 const struct config *c, struct plan *plan, const struct hop **hop)
{
	__u32 now = p->now, id = 0, reason;
	char *e = flow_of_port(v6, path, bpf_ntohs(p->dst_port), c, now, &id);

	if (!e)
		return refuse(p, REASON(DROP_NO_FLOW), c);
	__u16 *slots = FIELD(e, v6, __u16, frontend);
	__u32 slot = slots[0], server = slots[1];
	struct frontend *frontend = bpf_map_lookup_elem(&frontends, &slot);
	if (!frontend)
		return VERDICT(DROP, DROP_NO_FLOW);
	__u32 *client = FIELD(e, v6, __u32, client);
	for (int i = 0; i < 4; i++)
		plan->dst.word[i] = v6 ? bpf_htonl(client[i]) : i == 3 ? bpf_htonl(client[0]) : 0;
	plan->dst_port = bpf_htons(*FIELD(e, v6, __u16, client_port));
	copy_address(v6, &plan->src, &frontend->address);
	plan->src_port = frontend->port;
	plan->method = METHOD_NAT;
	reason = client_hop(v6, context, ingress, c, &frontend->address, &plan->dst, hop);
	if (reason)
		return VERDICT(UP, reason - 1);
	reason = check_route(p, METHOD_NAT, *hop);
	if (reason)
		return VERDICT(UP, reason - 1);
	p->met = (CONTROL(e) & STATE_MASK) | MET_REPLY;
	advance(v6, e, id, FROM_SERVER, p, now);
	account(FROM_SERVER, slot, server, p->payload);
	p->slots = slot | server << 16;
	return VERDICT(FORWARD, 0);
}

/* The tick of now. The coarse clock stands still between two jiffies, which are read without a call: a call of the clock
 * costs as much as finding a flow. */
static __always_inline __u32 the_tick(void)
{
	__u64 jiffies = bpf_jiffies64() << TICK_SHIFT, last = *(volatile __u64 *)&last_tick;

	if ((last ^ jiffies) <= TICK_MASK)
		return last & TICK_MASK;
	last = jiffies | (bpf_ktime_get_coarse_ns() >> TICK_SHIFT & TICK_MASK);
	*(volatile __u64 *)&last_tick = last;
	return last & TICK_MASK;
}

static __always_inline __u32 judge(const bool v6, context_t *context, __u32 ingress, struct packet *p, union work *work,
				   const struct config *c, const struct hop **hop)
{
	__u32 reason, slot, path = 0;

	p->now = the_tick();
	struct frame f = frame_of(context, p->gso_size);
	reason = v6 ? parse6(context, p) : parse_segment(&f, p) ? 0 : parse4(context, p);
	if (reason == REASON(PASS_ICMP_OTHER)) {
		__builtin_memset(&work->icmp, 0, sizeof(work->icmp));
		return v6 ? icmp6(context, p, &work->icmp) : icmp4(context, p, &work->icmp);
	}
	if (reason == REASON(PASS_FRAGMENT))
		return later_fragment(p, v6);
	if (reason)
		return VERDICT(reason - 1 < DROP_TRUNCATED ? PASS : DROP, reason - 1);
	slot = match_vip(v6, &p->dst, p->dst_port, p->protocol, c);
	if (!slot) {
		__u32 port = bpf_ntohs(p->dst_port) - nat_first;

		if (passthrough && port < nat_width)
			path = match_path(v6, &p->dst, &p->src, p->src_port, p->protocol, c);
		if (!path)
			return p->first_fragment ? first_fragment(p, v6, false) : VERDICT(PASS, PASS_NOT_VIP);
	}
	if (!is_valid_source(v6, &p->src) || same_address(v6, &p->src, &p->dst))
		return VERDICT(DROP, DROP_BAD_SOURCE);
	if (p->first_fragment)
		return first_fragment(p, v6, true);
	if (p->broken)
		return VERDICT(DROP, p->broken - 1);
	if (has_open_sum(v6, &f, p))
		return VERDICT(UP, NOTE_HANDED_UP);
	if (slot)
		return from_client(v6, p, slot - 1, c, work, hop);
	return from_server(v6, context, ingress, p, path - 1, c, &work->plan, hop);
}

static __always_inline __u32 decide(const bool v6, context_t *context, __u32 ingress, struct packet *p, union work *work,
				    const struct hop **hop)
{
	const struct config *c = the_config();
	__u32 verdict;

	if (!c)
		return VERDICT(PASS, PASS_NOT_VIP);
	verdict = judge(v6, context, ingress, p, work, c, hop);
	/* Whoever decides about the others tells of them. */
	if (c->watched && (VERDICT_KIND(verdict) == FORWARD || VERDICT_KIND(verdict) == DROP)) {
		if (VERDICT_KIND(verdict) == DROP)
			__builtin_memset(&work->plan, 0, sizeof(work->plan));
		v6 ? tell6(p, &work->plan, verdict) : tell4(p, &work->plan, verdict);
	}
	return verdict;
}

#endif
