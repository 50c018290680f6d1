/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* How a flow begins and ends: a server for it, a place in the table, a port. */
#ifndef CONVEY_BEGIN_H
#define CONVEY_BEGIN_H

#include "directory.h"
#include "nat_take.h"
#include "nat_victim.h"
#include "twins.h"
#include "victim.h"

static __always_inline __u64 slot_of_hash(__u64 h)
{
	return ((h >> 32) * MAGLEV_SLOTS) >> 32;
}

/* The slot of a client's flow in a Maglev table. */
static __always_inline __u64 slot_of(const bool v6, const struct packet *p)
{
	__u64 h = mix_address(mix_address(HASH_START, v6, &p->src), v6, &p->dst);

	h = mix(h, (__u64)bpf_ntohs(p->src_port) << 32 | (__u32)bpf_ntohs(p->dst_port) << 16 | p->protocol);
	return slot_of_hash(mix_end(h));
}

/* The slot of a client, of whose IPv6 address `bits` count. */
static __always_inline __u64 slot_of_source(const bool v6, const struct packet *p, __u32 bits)
{
	__u64 upper = bits >= 64 ? ~0ULL : ~(~0ULL >> bits);
	__u64 lower = bits >= 128 ? ~0ULL : bits > 64 ? ~(~0ULL >> (bits - 64)) : 0;

	if (!v6)
		return slot_of_hash(mix_end(mix_address(HASH_START, false, &p->src)));
	return slot_of_hash(mix_end(mix(mix(HASH_START, upper_half(&p->src) & upper), lower_half(&p->src) & lower)));
}

/* The server that a client of the frontend gets by its hash, or NO_SERVER. */
static __always_inline __u32 select_server(const bool v6, const struct frontend *f, const struct packet *p)
{
	__u32 backend = f->backend, zero = 0;
	void *inner = bpf_map_lookup_elem(&tables, &backend);
	if (!inner)
		return NO_SERVER;
	struct maglev *table = bpf_map_lookup_elem(inner, &zero);
	if (!table)
		return NO_SERVER;
	__u64 slot = f->source_prefix ? slot_of_source(v6, p, f->source_prefix) : slot_of(v6, p);
	if (slot >= MAGLEV_SLOTS)
		return NO_SERVER;
	return table->slot[slot];
}

#define PLACE(server, previous) ((server) | (__u32)(previous) << 16)
#define PLACE_SERVER(place) ((place) & 0xffff)
#define PLACE_PREVIOUS(place) ((place) >> 16)

/* Minimal tracking: what the slot of a client's flow holds. Without a frontend in service: no server, settled. */
static __always_inline __u32 find_place(const bool v6, const struct packet *p, __u32 number)
{
	struct frontend *frontend = bpf_map_lookup_elem(&frontends, &number);
	__u64 slot = slot_of(v6, p);
	__u32 backend, zero = 0;

	if (!frontend || frontend->left)
		return PLACE(NO_SERVER, NO_SERVER);
	backend = frontend->backend;
	void *inner = bpf_map_lookup_elem(&places, &backend);
	if (!inner)
		return PLACE(NO_SERVER, NO_SERVER);
	struct places *table = bpf_map_lookup_elem(inner, &zero);
	if (!table || slot >= MAGLEV_SLOTS)
		return PLACE(NO_SERVER, NO_SERVER);
	return PLACE(table->of[slot].server, table->of[slot].previous);
}

/* Minimal tracking: a packet went elsewhere than to its slot's server. */
static __always_inline __u32 note_use(const bool v6, const struct packet *p, __u32 frontend)
{
	__u32 at = frontend * MAGLEV_SLOTS + slot_of(v6, p), line = at / USES_A_LINE % USE_LINES;
	struct uses *uses = bpf_map_lookup_elem(&slot_uses, &line);
	__u16 step = p->now >> STEP_SHIFT;

	if (uses && uses->at[at % USES_A_LINE] != step)
		uses->at[at % USES_A_LINE] = step;
	return 0;
}

#define PLACES(find, note, v6)                                                                             \
	APART __u32 find(struct packet *p, __u32 frontend)                                                 \
	{                                                                                                  \
		return p ? find_place(v6, p, frontend) : PLACE(NO_SERVER, NO_SERVER);                      \
	}                                                                                                  \
	APART __u32 note(struct packet *p, __u32 frontend)                                                 \
	{                                                                                                  \
		return p ? note_use(v6, p, frontend) : 0;                                                  \
	}

PLACES(find_place4, note_use4, false)
PLACES(find_place6, note_use6, true)

/* Claims an entry for the newcomer: the first in its chain that is free or whose flow's time is over. Gives 0, or the
 * reason why there is none. */
static __always_inline __u32 claim(const bool v6, struct newcomer *new)
{
	const __u32 sets = v6 ? sets6 : sets4;
	const struct config *c = the_config();
	const __u32 first = first_set(new->key.hash, sets);
	__u32 set = first;

	if (!c)
		return REASON(DROP_FLOW_TABLE_FULL);
	for (__u32 n = 0; n < CHAIN(v6); n++) {
		char *s;

		if (n)
			set = further_set(new->key.hash, sets, n);
		/* Met twice, it was full the first time, which is what counts. */
		if (n && set == first) {
			spill(v6, set, 1);
			continue;
		}
		s = set_at(v6, set);
		if (!s)
			break;
#pragma unroll
		for (__u32 way = 0; way < WAYS(v6); way++) {
			char *at = s + way * WAY_BYTES(v6);
			__u32 was = CONTROL(at);
			__u32 state = was & STATE_MASK;

			if (state == STATE_CLAIMED || (state != STATE_FREE && !is_expired(was, SEEN(at), c, new->now)))
				continue;
			if (__sync_val_compare_and_swap((__u32 *)at, was,
							((was >> SEQ_SHIFT) + 1) << SEQ_SHIFT | STATE_CLAIMED) == was) {
				new->index = set * WAYS(v6) + way;
				new->was = state == STATE_FREE ? 0 : was;
				new->passed = n;
				return 0;
			}
		}
		spill(v6, set, 1);
	}
	respill(v6, new->key.hash, CHAIN(v6), -1);
	return REASON(DROP_FLOW_TABLE_FULL);
}

APART __u32 claim4(struct newcomer *new)
{
	return new ? claim(false, new) : REASON(DROP_FLOW_TABLE_FULL);
}

APART __u32 claim6(struct newcomer *new)
{
	return new ? claim(true, new) : REASON(DROP_FLOW_TABLE_FULL);
}

#define PORT_RANDOM(new) ((__u32)((new)->key.hash * 0x9e3779b9))

/* Fills the claimed entry and publishes it. Gives 0, or the reason why the newcomer has no port. */
static __always_inline __u32 fill(const bool v6, struct newcomer *new, const struct packet *p)
{
	char *e = entry_at(v6, new->index);
	struct flow flow = {};
	__u32 control, *next;

	if (!e)
		return REASON(DROP_FLOW_TABLE_FULL);
	control = CONTROL(e);
	if (passthrough) {
		if (new->port == NO_PORT) {
			respill(v6, new->key.hash, new->passed, -1);
			__sync_lock_test_and_set((__u32 *)e, control & ~STATE_MASK);
			return REASON(DROP_PORTS_EXHAUSTED);
		}
		new->nat = NAT(nat_first + new->port, new->path);
		flow.flags = FLAG_HAS_PORT;
	}
	begin(&flow, p);
	if (p->protocol == IPPROTO_UDP) {
		if (!minimal) {
			flow.flags |= FLAG_COUNTED;
			gauge_opened(new->key.frontend, new->server, false);
		}
	}
	if (v6) {
		struct entry6 *entry = (void *)e;

		for (int i = 0; i < 4; i++)
			entry->client[i] = bpf_ntohl(new->key.client.word[i]);
	} else {
		struct entry4 *entry = (void *)e;

		entry->client = bpf_ntohl(new->key.client.word[3]);
	}
	*FIELD(e, v6, __u32, client_port) = new->key.client_port | (__u32)new->key.port << 16;
	*FIELD(e, v6, __u32, frontend) = new->key.frontend | new->server << 16;
	*FIELD(e, v6, __u32, nat_port) = new->nat;
	next = FIELD(e, v6, __u32, next);
	next[0] = flow.next[0];
	next[1] = flow.next[1];
	SEEN(e) = seen_of(&flow, new->now);
	/* Publishes it: an exchange orders what comes before. */
	__sync_lock_test_and_set((__u32 *)e, control_of(&flow, control >> SEQ_SHIFT));
	if (passthrough)
		forget_later_syn(new->index | (v6 ? FLOW_V6 : 0));
	if (half_open(flow.state))
		half_open_changed(1);
	count(NOTE_FLOW_BEGUN);
	return 0;
}

APART __u32 fill4(struct newcomer *new, struct packet *p)
{
	return new && p ? fill(false, new, p) : REASON(DROP_FLOW_TABLE_FULL);
}

APART __u32 fill6(struct newcomer *new, struct packet *p)
{
	return new && p ? fill(true, new, p) : REASON(DROP_FLOW_TABLE_FULL);
}

/* The path of the newcomer's `nth` choice among its frontend's NAT addresses: its number plus one, or 0. A client
 * keeps to one address, because some services tie a session to it; to others it goes when that has no port left. */
static __always_inline __u32 nth_path(const bool v6, const struct packet *p, const struct newcomer *new, __u32 nth)
{
	const struct config *c = the_config();
	__u32 slot = new->key.frontend, number = new->server, hash = bpf_ntohl(p->src.word[3]), at;
	struct frontend *frontend = bpf_map_lookup_elem(&frontends, &slot);
	struct server *server = bpf_map_lookup_elem(&servers, &number);

	if (!frontend || !server || !c || nth >= frontend->nat_sources)
		return 0;
	if (v6)
		hash ^= bpf_ntohl(p->src.word[0]) ^ bpf_ntohl(p->src.word[1]) ^ bpf_ntohl(p->src.word[2]);
	/* The portable engine's client_hash. */
	hash = hash * 0x9e3779b1 * 0x85ebca6b >> 16;
	at = (hash + nth) % frontend->nat_sources;
	return match_path(v6, &frontend->nat_source[at & (NAT_SOURCES - 1)], &server->address, server->port, p->protocol, c);
}

APART __u32 nth_path4(struct packet *p, struct newcomer *new, __u32 nth)
{
	return p && new ? nth_path(false, p, new, nth) : 0;
}

APART __u32 nth_path6(struct packet *p, struct newcomer *new, __u32 nth)
{
	return p && new ? nth_path(true, p, new, nth) : 0;
}

/* Takes a port of its path, or of the first of the further ones that has one. */
static __always_inline void take_from_paths(const bool v6, struct newcomer *new, struct packet *p)
{
	__u32 id = new->index | (v6 ? FLOW_V6 : 0);

	new->port = take_port(new->path, PORT_RANDOM(new), id, new->now);
	for (__u32 nth = 1; nth < NAT_SOURCES && new->port == NO_PORT; nth++) {
		__u32 path = v6 ? nth_path6(p, new, nth) : nth_path4(p, new, nth);

		if (!path)
			break;
		new->path = path - 1;
		new->port = take_port(new->path, PORT_RANDOM(new), id, new->now);
	}
}

/* `again`: a half-open flow has given way already, where they are as many as may be. */
static __always_inline __u32 claim_and_fill(const bool v6, struct newcomer *new, struct packet *p, const bool again)
{
	/* Every flow begins half-open. */
	bool crowded = !again && is_crowded(v6);
	__u32 reason = crowded ? claim_victim(v6, new, true) : REASON(DROP_FLOW_TABLE_FULL);

	if (reason) {
		reason = v6 ? claim6(new) : claim4(new);
		if (reason)
			reason = claim_victim(v6, new, false);
		if (reason)
			return reason;
		/* Not for one that finds no room. */
		if (crowded)
			v6 ? end_half_open6(new) : end_half_open4(new);
	}
	if (new->was)
		v6 ? settle6(new->index, new->was, new->now) : settle4(new->index, new->was, new->now);
	if (passthrough)
		take_from_paths(v6, new, p);
	reason = v6 ? fill6(new, p) : fill4(new, p);
	if (!reason)
		end_twins(v6, new);
	return reason;
}

/* Ends the flow whose port may be taken over most readily, of all paths. Whether there was one. */
static __always_inline bool end_port_victim(const bool v6, struct newcomer *new, struct packet *p)
{
	__u64 best = 0, *word, old;
	__u32 pool = 0, id;

	for (__u32 nth = 0; nth < NAT_SOURCES; nth++) {
		__u32 path = v6 ? nth_path6(p, new, nth) : nth_path4(p, new, nth);
		__u64 victim;

		if (!path)
			break;
		victim = port_victim(path - 1, PORT_RANDOM(new), new->now);
		if (victim >> 32 > best >> 32) {
			best = victim;
			pool = path - 1;
		}
	}
	word = best ? port_word(pool, (__u32)best) : 0;
	if (!word)
		return false;
	old = *(volatile __u64 *)word;
	id = word_owner(old) - 1;
	if (id & FLOW_V6)
		end_flow6(id & ~FLOW_V6, new->now);
	else
		end_flow4(id, new->now);
	/* It may have been held for no flow. One that lives after all keeps its port: another CPU has used it. */
	if (word_owner(old) && *(volatile __u64 *)word == old && word_age(old, new->now) >= PORT_NOT_YET &&
	    idle_ticks(id, new->now) == NO_FLOW_THERE)
		change_word(pool, (__u32)best, old, make_word(0, CLASS_FREE, new->now));
	new->path = pool;
	count(NOTE_PORT_TAKEN_OVER);
	return true;
}

/* One after the other, because each has a stack of its own. Gives 0, or the reason why there is no flow. */
static __always_inline __u32 begin_flow(const bool v6, struct newcomer *new, struct packet *p)
{
	__u32 reason = claim_and_fill(v6, new, p, false);

	if (!passthrough || reason != REASON(DROP_PORTS_EXHAUSTED) || !end_port_victim(v6, new, p))
		return reason;
	return claim_and_fill(v6, new, p, true);
}

#endif
