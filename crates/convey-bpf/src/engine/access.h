/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Who may begin a flow at a frontend that has lists of networks. */
#ifndef CONVEY_ACCESS_H
#define CONVEY_ACCESS_H

#include "flow.h"

/* Whether the frontend's lists deny the client; asked of a frontend that has lists. Without its table nobody may. */
static __always_inline __u32 is_denied(const bool v6, const struct packet *p, __u32 frontend)
{
	void *networks = bpf_map_lookup_elem(&access, &frontend);
	struct network client = {
		.bits = 128,
		.address = p->src,
	};
	__u32 *allowed;

	if (!networks)
		return 1;
	if (!v6) {
		client.address.word[0] = client.address.word[1] = 0;
		client.address.word[2] = bpf_htonl(0xffff);
	}
	allowed = bpf_map_lookup_elem(networks, &client);
	return !allowed || !*allowed;
}

#define IS_DENIED(name, v6)                                                                                \
	APART __u32 name(struct packet *p, __u32 frontend)                                                 \
	{                                                                                                  \
		return p ? is_denied(v6, p, frontend) : 1;                                                 \
	}

IS_DENIED(is_denied4, false)
IS_DENIED(is_denied6, true)

#endif
