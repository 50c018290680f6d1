/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Whether a packet is for the engine in user space: the guard keeps such ones from the kernel, the AF_XDP program hands
 * them over.
 *
 *   - TCP and UDP to a VIP;
 *   - TCP and UDP from a configured server to a local NAT address and port;
 *   - ICMP errors about packets of either kind in the other direction.
 *
 * Of a fragmented datagram the first fragment, which has the ports, is judged like a whole packet, and the later ones
 * share its lot.
 */
#ifndef CONVEY_OURS_H
#define CONVEY_OURS_H

#include "packet.h"

/* guard.rs and af_xdp/ have the names. */
enum ours { NOT_OURS, TO_VIP, FROM_SERVER, ICMP_ERROR, UNDECIDED };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u32);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct nat_address);
	__type(value, struct nat_ports);
} nat SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u32);
} servers SEC(".maps");

/* Datagrams whose first fragment was ours not long ago. */
struct begun_datagram {
	__u64 at; /* ns */
	__u32 ours;
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct datagram);
	__type(value, struct begun_datagram);
} datagrams SEC(".maps");

/* As long as the engine follows a datagram. Its identification may be one of another service's next. */
#define DATAGRAM_NS 2000000000ull

/* A VIP with port 0 has every port. */
static __always_inline bool is_vip(const struct endpoint *local)
{
	struct endpoint any = *local;

	any.port = 0;
	return bpf_map_lookup_elem(&vips, local) || bpf_map_lookup_elem(&vips, &any);
}

static __always_inline bool in_nat_range(const struct endpoint *local)
{
	struct nat_address key = { .addr = local->addr, .protocol = local->protocol };
	struct nat_ports *ports = bpf_map_lookup_elem(&nat, &key);
	__u16 port = bpf_ntohs(local->port);

	if (!ports)
		return false;
#pragma unroll
	for (int i = 0; i < NAT_RANGES; i++)
		if (port >= ports->from[i] && port <= ports->to[i])
			return true;
	return false;
}

static __always_inline enum ours begin_datagram(const struct packet *packet, const struct datagram *datagram,
						enum ours ours)
{
	if (packet->fragmented) {
		struct begun_datagram begun = { .at = bpf_ktime_get_ns(), .ours = ours };

		bpf_map_update_elem(&datagrams, datagram, &begun, BPF_ANY);
	}
	return ours;
}

/* UNDECIDED: one that came before its first, or cannot be read as far as its ports; `packet->dst.addr` is set or zero. */
static __always_inline enum ours whose(context_t *context, bool v6, struct packet *packet)
{
	if (!packet_parse(context, 0, v6, packet))
		return UNDECIDED;
	struct datagram datagram = {
		.src = packet->src.addr,
		.dst = packet->dst.addr,
		.id = packet->fragment_id,
		/* IPv6 identifies a datagram without it, and later fragments may name an extension header instead. */
		.protocol = v6 ? 0 : packet->src.protocol,
	};
	if (!packet->first) {
		struct begun_datagram *begun = bpf_map_lookup_elem(&datagrams, &datagram);

		if (!begun || bpf_ktime_get_ns() - begun->at > DATAGRAM_NS)
			return UNDECIDED;
		return begun->ours;
	}
	if (packet->src.protocol == IPPROTO_TCP || packet->src.protocol == IPPROTO_UDP) {
		if (is_vip(&packet->dst))
			return begin_datagram(packet, &datagram, TO_VIP);
		if (bpf_map_lookup_elem(&servers, &packet->src) && in_nat_range(&packet->dst))
			return begin_datagram(packet, &datagram, FROM_SERVER);
		if (packet->fragmented)
			bpf_map_delete_elem(&datagrams, &datagram);
	} else if (is_icmp_error(context, packet)) {
		struct packet sent;

		/* Embedded is a packet that was sent from here: its source is the local side. */
		if (!packet_parse_embedded(context, packet, &sent) ||
		    !same_address(&sent.src.addr, &packet->dst.addr))
			return NOT_OURS;
		if (is_vip(&sent.src) || (bpf_map_lookup_elem(&servers, &sent.dst) && in_nat_range(&sent.src)))
			return ICMP_ERROR;
	}
	return NOT_OURS;
}

#endif
