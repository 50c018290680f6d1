// SPDX-License-Identifier: MIT OR GPL-2.0
/* Keeps the kernel from answering what the user-space engine forwards.
 *
 * Runs at TCX ingress, behind the AF_PACKET taps (ETH_P_ALL), so the engine has seen the frame already. Dropped
 * is what the engine handles, and nothing else:
 *   - TCP and UDP to a VIP;
 *   - TCP and UDP from a configured server to a local NAT address and port;
 *   - ICMP errors about packets of either kind in the other direction.
 * So ARP, NDP, echo, ssh, the host's own connections and the balancer's health checks pass.
 *
 * Fragments: the first one, which has the ports, is judged like a whole packet, and the later ones share its lot:
 * those of the host's own services pass. One that comes before its first passes as well: without the first the kernel
 * never completes the datagram, and says nothing when it gives up.
 * Passed unseen as well: frames for another or a group MAC (the kernel does not answer them), frames with a VLAN
 * tag (they belong to another interface), IPv6 with more than EXTENSION_HEADERS_MAX extension headers.
 */
#include "packet.h"

#define PACKET_HOST 0

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

/* Indices of `drops`; guard.rs has the names. */
enum drop { DROP_VIP, DROP_SERVER, DROP_ICMP, DROPS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROPS);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

/* Datagrams whose first fragment was dropped not long ago. */
struct dropped {
	__u64 at; /* ns */
	__u32 reason;
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct datagram);
	__type(value, struct dropped);
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

static __always_inline int drop(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&drops, &reason);

	if (count)
		*count += 1;
	return VERDICT_DROP;
}

/* Drops a packet to a VIP or from a server, and what follows of its datagram. */
static __always_inline int drop_packet(const struct packet *packet, const struct datagram *datagram, __u32 reason)
{
	if (packet->fragmented) {
		struct dropped dropped = { .at = bpf_ktime_get_ns(), .reason = reason };

		bpf_map_update_elem(&datagrams, datagram, &dropped, BPF_ANY);
	}
	return drop(reason);
}

static __always_inline int later_fragment(const struct datagram *datagram)
{
	struct dropped *dropped = bpf_map_lookup_elem(&datagrams, datagram);

	if (!dropped || bpf_ktime_get_ns() - dropped->at > DATAGRAM_NS)
		return VERDICT_NEXT;
	return drop(dropped->reason);
}

SEC("classifier")
int convey_guard(struct __sk_buff *skb)
{
	struct packet packet;
	bool v6 = skb->protocol == bpf_htons(ETH_P_IPV6);

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return VERDICT_NEXT;
	if (!v6 && skb->protocol != bpf_htons(ETH_P_IP))
		return VERDICT_NEXT;
	if (!skb_parse(skb, 0, v6, &packet))
		return VERDICT_NEXT;
	struct datagram datagram = {
		.src = packet.src.addr,
		.dst = packet.dst.addr,
		.id = packet.fragment_id,
		/* IPv6 identifies a datagram without it, and later fragments may name an extension header instead. */
		.protocol = v6 ? 0 : packet.src.protocol,
	};
	if (!packet.first)
		return later_fragment(&datagram);

	if (packet.src.protocol == IPPROTO_TCP || packet.src.protocol == IPPROTO_UDP) {
		if (is_vip(&packet.dst))
			return drop_packet(&packet, &datagram, DROP_VIP);
		if (bpf_map_lookup_elem(&servers, &packet.src) && in_nat_range(&packet.dst))
			return drop_packet(&packet, &datagram, DROP_SERVER);
		if (packet.fragmented)
			bpf_map_delete_elem(&datagrams, &datagram);
	} else if (is_icmp_error(skb, &packet)) {
		struct packet sent;

		/* Embedded is a packet that was sent from here: its source is the local side. */
		if (!skb_parse_embedded(skb, &packet, &sent) || !same_address(&sent.src.addr, &packet.dst.addr))
			return VERDICT_NEXT;
		if (is_vip(&sent.src))
			return drop(DROP_ICMP);
		if (bpf_map_lookup_elem(&servers, &sent.dst) && in_nat_range(&sent.src))
			return drop(DROP_ICMP);
	}
	return VERDICT_NEXT;
}

char _license[] SEC("license") = "Dual MIT/GPL";
