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
 * Fragments: the first one, which has the ports, is judged like a whole packet. Later ones pass: without the
 * first the kernel never completes the datagram, and says nothing when it gives up.
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

SEC("classifier")
int convey_guard(struct __sk_buff *skb)
{
	struct packet packet;
	bool v6 = skb->protocol == bpf_htons(ETH_P_IPV6);

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return VERDICT_NEXT;
	if (!v6 && skb->protocol != bpf_htons(ETH_P_IP))
		return VERDICT_NEXT;
	if (!skb_parse(skb, 0, v6, &packet) || !packet.first)
		return VERDICT_NEXT;

	if (packet.src.protocol == IPPROTO_TCP || packet.src.protocol == IPPROTO_UDP) {
		if (is_vip(&packet.dst))
			return drop(DROP_VIP);
		if (bpf_map_lookup_elem(&servers, &packet.src) && in_nat_range(&packet.dst))
			return drop(DROP_SERVER);
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
