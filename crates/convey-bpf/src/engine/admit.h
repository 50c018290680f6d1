/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Whether a client's packet that is of no flow begins one, and which server it gets. */
#ifndef CONVEY_ADMIT_H
#define CONVEY_ADMIT_H

#include "access.h"
#include "begin.h"
#include "hops.h"
#include "refuse.h"

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
	if (frontend->access && (v6 ? is_denied6(p, slot) : is_denied4(p, slot)))
		return VERDICT(DROP, DROP_DENIED);
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

#endif
