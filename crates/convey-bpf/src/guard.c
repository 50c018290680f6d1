// SPDX-License-Identifier: MIT OR GPL-2.0
/* Keeps the kernel from answering what the user-space engine forwards.
 *
 * Runs at TCX ingress, behind the AF_PACKET taps (ETH_P_ALL), so the engine has seen the frame already. Dropped
 * is what the engine handles, and nothing else: ours.h has the list. So ARP, NDP, echo, ssh, the host's own connections
 * and the balancer's health checks pass.
 *
 * A later fragment that comes before its first passes: without the first the kernel never completes the datagram, and
 * says nothing when it gives up.
 * Passed unseen as well: frames for another or a group MAC (the kernel does not answer them), frames with a VLAN
 * tag (they belong to another interface), IPv6 with more than EXTENSION_HEADERS_MAX extension headers.
 */
#include "skb_context.h"

#include "ours.h"

#define PACKET_HOST 0

/* By `enum ours`; index 0 is not used. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, UNDECIDED);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

SEC("classifier")
int convey_guard(struct __sk_buff *skb)
{
	struct packet packet;
	bool v6 = skb->protocol == bpf_htons(ETH_P_IPV6);

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return VERDICT_NEXT;
	if (!v6 && skb->protocol != bpf_htons(ETH_P_IP))
		return VERDICT_NEXT;
	__u32 ours = whose(skb, v6, &packet);
	if (ours == NOT_OURS || ours == UNDECIDED)
		return VERDICT_NEXT;
	__u64 *count = bpf_map_lookup_elem(&drops, &ours);

	if (count)
		*count += 1;
	return VERDICT_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
