/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What becomes of a frame: parse, flow, server, plan. Nothing of the frame is changed here; a front carries the
 * plan out.
 */
#ifndef CONVEY_CORE_H
#define CONVEY_CORE_H

#include "former.h"
#include "fragment.h"
#include "icmp.h"
#include "plan.h"

#define AF_INET 2
#define AF_INET6 10

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

static __always_inline void account(const int from, __u32 frontend, __u32 server, __u32 bytes)
{
	struct traffic *f = bpf_map_lookup_elem(&frontend_traffic, &frontend);
	struct traffic *s = bpf_map_lookup_elem(&server_traffic, &server);

	if (!f || !s)
		return;
	if (from == FROM_CLIENT) {
		f->tx_packets += 1;
		f->tx_bytes += bytes;
		s->tx_packets += 1;
		s->tx_bytes += bytes;
	} else {
		f->rx_packets += 1;
		f->rx_bytes += bytes;
		s->rx_packets += 1;
		s->rx_bytes += bytes;
	}
}

struct ends {
	struct address from, to;
};

/* The next hop of a packet between these, asked of the kernel. */
APART __u32 ask_hop(context_t *context, __u32 ingress, const struct ends *ends, __u32 v6, struct hop *hop)
{
	struct bpf_fib_lookup fib = {};
	long rc;

	if (!context || !ends || !hop)
		return REASON(DROP_NO_NEXT_HOP);
	fib.ifindex = ingress;
	/* Any length has the helper tell the route's MTU and not the interface's. */
	fib.tot_len = 1;
	if (v6) {
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_src, &ends->from, 16);
		__builtin_memcpy(fib.ipv6_dst, &ends->to, 16);
	} else {
		fib.family = AF_INET;
		fib.ipv4_src = ends->from.word[3];
		fib.ipv4_dst = ends->to.word[3];
	}
	rc = bpf_fib_lookup(context, &fib, sizeof(fib), 0);
	if (rc == BPF_FIB_LKUP_RET_BLACKHOLE)
		return REASON(DROP_ROUTE_REJECTED);
	if (rc)
		return REASON(DROP_NO_NEXT_HOP);
	hop->ifindex = fib.ifindex;
	hop->mtu = fib.mtu_result;
	hop->on_link = v6 ? !__builtin_memcmp(fib.ipv6_dst, &ends->to, 16) : fib.ipv4_dst == ends->to.word[3];
	__builtin_memcpy(hop->destination, fib.dmac, 6);
	__builtin_memcpy(hop->source, fib.smac, 6);
	return 0;
}

/* The next hop towards a client, remembered by its address. */
static __always_inline __u32 client_hop(const bool v6, context_t *context, __u32 ingress, const struct config *c,
					const struct address *from, const struct address *client, const struct hop **hop)
{
	__u32 at = (v6 ? mix(lower_half(client), upper_half(client)) : mix(0, client->word[3])) % CLIENT_HOPS;
	struct client_hop *known = bpf_map_lookup_elem(&client_hops, &at);

	if (!known)
		return REASON(DROP_NO_NEXT_HOP);
	*hop = &known->hop;
	/* User space renews what is remembered before it puts the next generation in force. */
	if (c->hop_generation != NOT_REMEMBERED && known->generation - c->hop_generation <= 1 &&
	    same_address(v6, &known->address, client) && (v6 || !known->address.word[0]))
		return 0;
	struct ends ends = { .from = *from, .to = *client };
	known->generation = c->hop_generation - 1;
	__u32 reason = ask_hop(context, ingress, &ends, v6, &known->hop);
	if (reason)
		return reason;
	known->address = *client;
	known->generation = c->hop_generation;
	return 0;
}

/* TTL and size: what a router checks. 0, or the reason. */
static __always_inline __u32 check_route(const struct packet *p, __u8 method,
					 const struct hop *hop)
{
	__u32 longest = p->end - ETH_HLEN;

	if (method == METHOD_L2 && !hop->on_link)
		return REASON(DROP_SERVER_NOT_ON_LINK);
	if (method != METHOD_L2 && p->ttl <= 1)
		return REASON(DROP_TTL_EXCEEDED);
	if (p->gso_size) {
		__u32 segment = longest - p->payload + p->gso_size;

		if (segment < longest)
			longest = segment;
	}
	return longest > hop->mtu ? REASON(DROP_TOO_BIG) : 0;
}

/* Whether the server can be sent to. 0, or the reason. */
static __always_inline __u32 check_server(const bool v6, const struct packet *p,
					  const struct server *server)
{
	if (server->method == METHOD_REWRITE && same_address(v6, &server->address, &p->src))
		return REASON(DROP_SERVER_IS_CLIENT);
	if (!server->hop.ifindex)
		return REASON(DROP_NO_NEXT_HOP);
	return check_route(p, server->method, &server->hop);
}

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
	default: return 5;
	}
}

/* Counts for its frontend what is dropped here. */
APART __u32 count_refusal(__u32 slot, __u32 verdict)
{
	__u32 which = refusal_of(VERDICT_REASON(verdict) + 1);
	struct refusals *r;

	if (VERDICT_KIND(verdict) != DROP || which > 4)
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

static __always_inline __u32 class_after(__u32 change)
{
	if (change & CHANGE_CLOSED)
		return CLASS_CLOSED;
	if (change & CHANGE_RESTARTED)
		return CLASS_UNCONFIRMED;
	if (change & (CHANGE_ESTABLISHED | CHANGE_REVIVED))
		return CLASS_CONNECTION;
	return CLASS_FREE;
}

/* Whether the flow is one of those that are open, after this change. */
static __always_inline void count_change(struct flow *w, __u32 change)
{
	if (change & (CHANGE_RESTARTED | CHANGE_CLOSED))
		w->flags &= ~FLAG_COUNTED;
	else if (!minimal && change & (CHANGE_ESTABLISHED | CHANGE_REVIVED))
		w->flags |= FLAG_COUNTED;
}

/* Writes the flow's control word, and what its change means to gauges and ports. Where another CPU has taken the flow
 * further, that one counts what comes of it. */
static __always_inline void settle_change(const bool v6, void *e, __u32 index, const struct flow *w, __u32 change,
					  const struct packet *p, __u32 now)
{
	/* Afterwards the entry may be another flow's. */
	__u32 slots = *FIELD(e, v6, __u32, frontend), nat = *FIELD(e, v6, __u32, nat_port);
	__u32 control = control_of(w, w->control >> SEQ_SHIFT);
	__u8 counted = (w->control >> FLAGS_SHIFT ^ w->flags) & FLAG_COUNTED;

	if (control != w->control && __sync_val_compare_and_swap((__u32 *)e, w->control, control) != w->control)
		return;
	if (counted && w->flags & FLAG_COUNTED)
		gauge_opened(slots & 0xffff, slots >> 16, change & CHANGE_REVIVED);
	else if (counted)
		gauge_closed(slots & 0xffff, slots >> 16);
	if (half_open(w->control & STATE_MASK) != half_open(w->state))
		half_open_changed(half_open(w->state) ? 1 : -1);
	if (passthrough) {
		__u32 class = class_after(change);

		if (p->protocol == IPPROTO_UDP)
			class = w->state != STATE_UDP_STREAM ? CLASS_FREE : w->next[0] < BRIEF ? CLASS_BRIEF : CLASS_STREAM;
		if (class && w->flags & FLAG_HAS_PORT)
			port_class(nat, index | (v6 ? FLOW_V6 : 0), class, now);
	}
}

/* Takes a packet that may change the flow's state into account. */
static __always_inline __u32 advance_state(const bool v6, __u32 index, const int me, const struct packet *p, __u32 now)
{
	__u32 id = index | (v6 ? FLOW_V6 : 0), at = LATER_SYN_OF(id);
	void *e = entry_at(v6, index);
	struct later_syn later = {};
	struct flow w;
	__u32 change, control;

	if (!e)
		return 0;
	load_flow(v6, e, &w);
	if (p->protocol == IPPROTO_TCP) {
		if (me == FROM_SERVER && p->flags & (TCP_SYN | TCP_RST)) {
			__u64 *known = bpf_map_lookup_elem(&later_syns, &at);

			if (known && (__u32)(*known >> 32) == id + 1) {
				later.known = true;
				later.seq = *known;
			}
		}
		change = advance_tcp(&w, me, p, &later);
	} else {
		change = advance_udp(&w, me);
	}
	/* One that began the flow anew was known. */
	if (change & (CHANGE_LATER_SYN | CHANGE_RESTARTED)) {
		__u64 *known = bpf_map_lookup_elem(&later_syns, &at);

		if (known)
			*known = change & CHANGE_RESTARTED ? 0 : (__u64)(id + 1) << 32 | p->seq;
	}
	if (change & CHANGE_OUT_OF_WINDOW)
		count(NOTE_OUT_OF_WINDOW);
	store_numbers(v6, e, &w);
	if (change & CHANGE_COUNTS)
		SEEN(e) = seen_of(&w, now);
	count_change(&w, change);
	control = control_of(&w, w.control >> SEQ_SHIFT);
	if (change & ~(CHANGE_COUNTS | CHANGE_OUT_OF_WINDOW | CHANGE_LATER_SYN) || w.state != (w.control & STATE_MASK) ||
	    (p->protocol == IPPROTO_UDP && w.next[0] == BRIEF))
		settle_change(v6, e, index, &w, change, p, now);
	else if (control != w.control)
		__sync_val_compare_and_swap((__u32 *)e, w.control, control);
	return 0;
}

#define ADVANCE(name, v6, me)                                                                              \
	APART __u32 name(__u32 index, struct packet *p, __u32 now)                                         \
	{                                                                                                  \
		return p ? advance_state(v6, index, me, p, now) : 0;                                       \
	}

ADVANCE(client_advances4, false, FROM_CLIENT)
ADVANCE(client_advances6, true, FROM_CLIENT)
ADVANCE(server_advances4, false, FROM_SERVER)
ADVANCE(server_advances6, true, FROM_SERVER)

/* Takes a packet of a flow into account: here what moves an open connection on, elsewhere whatever else. */
static __always_inline void advance(const bool v6, void *e, __u32 index, const int me, struct packet *p, __u32 now)
{
	const __u32 resets = (FLAG_RST_CLIENT | FLAG_RST_SERVER) << FLAGS_SHIFT;
	struct flow w;

	if (p->protocol == IPPROTO_TCP && !(p->flags & (TCP_SYN | TCP_RST | TCP_FIN)) &&
	    (CONTROL(e) & (STATE_MASK | resets)) == STATE_ESTABLISHED) {
		load_flow(v6, e, &w);
		if (!counts(&w, me, p)) {
			count(NOTE_OUT_OF_WINDOW);
			return;
		}
		move_on(&w, me, p);
		store_numbers(v6, e, &w);
		SEEN(e) = seen_of(&w, now);
		if (control_of(&w, w.control >> SEQ_SHIFT) != w.control)
			__sync_val_compare_and_swap((__u32 *)e, w.control, control_of(&w, w.control >> SEQ_SHIFT));
		return;
	}
	if (me == FROM_CLIENT)
		v6 ? client_advances6(index, p, now) : client_advances4(index, p, now);
	else
		v6 ? server_advances6(index, p, now) : server_advances4(index, p, now);
}

/* A client's packet that belongs to no flow, or ends its own: `new->replaces` is that one's index plus one. Gives a
 * verdict; FORWARD with `new->server`, `new->begins` where there is to be a flow, and `new->known` where the flow it was to end goes on. */
static __always_inline __u32 begin_client(const bool v6, struct packet *p, struct newcomer *new)
{
	bool tcp = p->protocol == IPPROTO_TCP, goes_on = new->replaces && !tcp;
	__u32 slot = new->key.frontend, reason;
	struct frontend *frontend = bpf_map_lookup_elem(&frontends, &slot);
	const struct config *c = the_config();
	struct server *server;

	if (!frontend || !c)
		return VERDICT(PASS, PASS_NOT_VIP);
	if (frontend->left) {
		new->known = goes_on;
		return goes_on ? FORWARD : refuse(p, REASON(DROP_FRONTEND_LEFT), c);
	}
	if (passthrough && tcp && (p->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return refuse(p, REASON(DROP_NO_FLOW), c);
	if (minimal) {
		/* Of datagrams nobody knows which begin something. */
		bool starts = new->replaces || (tcp && (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN);

		new->server = starts ? PLACE_SERVER(new->place) : PLACE_PREVIOUS(new->place);
		new->begins = PLACE_SERVER(new->place) != PLACE_PREVIOUS(new->place) && (starts || !tcp);
	} else {
		new->server = select_server(v6, frontend, p);
	}
	if (new->server == NO_SERVER) {
		new->begins = 0;
		new->known = goes_on;
		return goes_on ? FORWARD : refuse(p, REASON(DROP_NO_SERVER), c);
	}
	server = bpf_map_lookup_elem(&servers, &new->server);
	if (!server)
		return VERDICT(DROP, DROP_NO_SERVER);
	if (passthrough && !(p->flags & TCP_RST)) {
		reason = check_limits(v6, frontend, server, slot, new->server, new->replaces, c);
		if (reason)
			return refuse(p, reason, c);
	}
	/* What a router would send back begins no flow. */
	reason = check_server(v6, p, server);
	if (reason)
		return reason == REASON(DROP_SERVER_IS_CLIENT) ? refuse(p, reason, c) : VERDICT(UP, reason - 1);
	if (minimal)
		return FORWARD;
	if (tcp && p->flags & TCP_RST) {
		count(NOTE_HASH_ROUTED);
		return FORWARD;
	}
	new->begins = 1;
	return FORWARD;
}

#define BEGIN_CLIENT(name, v6)                                                                             \
	APART __u32 name(struct packet *p, struct newcomer *new)                                           \
	{                                                                                                  \
		return p && new ? begin_client(v6, p, new) : VERDICT(DROP, DROP_NO_FLOW);                  \
	}

BEGIN_CLIENT(begin_client4, false)
BEGIN_CLIENT(begin_client6, true)

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
	if (e)
		advance(v6, e, index, FROM_CLIENT, p, now);
	if (minimal && !IS_SETTLED(new) && number != PLACE_SERVER(new->place))
		v6 ? note_use6(p, slot) : note_use4(p, slot);
	account(FROM_CLIENT, slot, number, p->payload);
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
	advance(v6, e, id, FROM_SERVER, p, now);
	account(FROM_SERVER, slot, server, p->payload);
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

static __always_inline __u32 decide(const bool v6, context_t *context, __u32 ingress, struct packet *p, union work *work,
				    const struct hop **hop)
{
	const struct config *c = the_config();
	__u32 reason, slot, path = 0;

	if (!c)
		return VERDICT(PASS, PASS_NOT_VIP);
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

#endif
