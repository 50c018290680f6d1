/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Whose a packet is, by its addresses and ports. */
#ifndef CONVEY_DIRECTORY_H
#define CONVEY_DIRECTORY_H

#include "nat.h"

static __always_inline bool same_address(const bool v6, const struct address *a, const struct address *b)
{
	if (!v6)
		return a->word[3] == b->word[3];
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline __u32 find_direction(__u64 addresses, __u32 rest, const struct config *c)
{
	/* Read once: it names lines as they were written for it. */
	__u64 seed = *(const volatile __u64 *)&c->directory_seed;
	__u64 hash = (addresses ^ seed ^ rest) * 0xff51afd7ed558ccdULL;
	__u32 line = (__u32)(hash ^ hash >> 32) * 0xc4ceb9feU >> 18 | (__u32)(seed & 1) * DIRECTORY_LINES;
	struct directory4 *at = bpf_map_lookup_elem(&directory, &line);

	if (!at)
		return 0;
#pragma unroll
	for (int way = 0; way < DIRECTORY_WAYS; way++)
		if (at->way[way].addresses == addresses && (__u32)at->way[way].rest == rest)
			return (at->way[way].rest >> 32) + 1;
	return 0;
}

static __always_inline __u32 direction_of(__be16 port, __u8 protocol, __u32 kind)
{
	return port | (__u32)protocol << 16 | kind << 24;
}

/* The frontend that listens there, or 0: its slot plus one. */
static __always_inline __u32 match_vip(const bool v6, const struct address *at, __be16 port, __u8 protocol,
				       const struct config *c)
{
	__u32 *slot;

	if (!v6) {
		__u32 found = find_direction(at->word[3], direction_of(port, protocol, DIRECTION_VIP), c);

		if (!found && c->any_port)
			found = find_direction(at->word[3], direction_of(0, protocol, DIRECTION_VIP), c);
		return found;
	}
	struct vip6 vip = { .address = *at, .port = port, .protocol = protocol };
	slot = bpf_map_lookup_elem(&vips6, &vip);
	if (!slot && c->any_port) {
		vip.port = 0;
		slot = bpf_map_lookup_elem(&vips6, &vip);
	}
	return slot ? *slot + 1 : 0;
}

/* The path along which `server` answers to `nat`, or 0: its number plus one. */
static __always_inline __u32 match_path(const bool v6, const struct address *nat, const struct address *server,
					__be16 port, __u8 protocol, const struct config *c)
{
	if (!v6)
		return find_direction(nat->word[3] | (__u64)server->word[3] << 32,
				      direction_of(port, protocol, DIRECTION_PATH), c);
	struct path6 key = { .nat = *nat, .server = *server, .port = port, .protocol = protocol };
	__u32 *path = bpf_map_lookup_elem(&paths6, &key);

	return path ? *path + 1 : 0;
}

/* The live flow that holds this port of the pool. */
static __always_inline char *flow_of_port(const bool v6, __u32 pool, __u32 port, const struct config *c, __u32 now,
					  __u32 *index)
{
	__u64 *word = port_word(pool, port - nat_first);
	__u32 control, id;
	char *e;

	if (!word)
		return 0;
	id = word_owner(*(volatile __u64 *)word) - 1;
	if (!(id & FLOW_V6) == v6)
		return 0;
	id &= ~FLOW_V6;
	e = entry_at(v6, id);
	if (!e)
		return 0;
	control = CONTROL(e);
	if (*FIELD(e, v6, __u32, nat_port) != NAT(port, pool) || !(control >> FLAGS_SHIFT & FLAG_HAS_PORT) ||
	    !in_use(control) || is_expired(control, SEEN(e), c, now))
		return 0;
	*index = id;
	return e;
}

#endif
