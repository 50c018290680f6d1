// SPDX-License-Identifier: MIT OR GPL-2.0
/* Hands to AF_XDP sockets what the engine in user space forwards: ours.h has the list. All else goes on to the kernel.
 *
 * Handed over as well is what cannot be told apart here and has an address of ours as its destination: a later fragment
 * that came before its first, headers that make no sense. User space gives back what is not its own, by pass.c.
 *
 * Passed unseen: frames for another or a group MAC, frames with a VLAN tag.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>

typedef struct xdp_md context_t;

static __always_inline long context_load(context_t *context, __u32 offset, void *to, __u32 bytes)
{
	return bpf_xdp_load_bytes(context, ETH_HLEN + offset, to, bytes);
}

#include "ours.h"

/* An interface that is listened on: its queues have the sockets `first` and on. */
struct port {
	__u32 first;
	__u32 queues;
	__u8 mac[8]; /* six bytes, the rest zero */
};

_Static_assert(sizeof(struct port) == 16, "port");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* ifindex */
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Destinations for which what is UNDECIDED is handed over. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u32);
} addresses SEC(".maps");

/* Frames of ours for which there was no socket. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} unserved SEC(".maps");

SEC("xdp")
int convey_af_xdp(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	__u32 ifindex = ctx->ingress_ifindex, zero = 0;
	struct packet packet;
	enum ours ours;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	bool v6 = eth->h_proto == bpf_htons(ETH_P_IPV6);
	if (!v6 && eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);
	if (!port || __builtin_memcmp(eth->h_dest, port->mac, 4) || __builtin_memcmp(eth->h_dest + 4, port->mac + 4, 2))
		return XDP_PASS;
	ours = whose(ctx, v6, &packet);
	if (ours == NOT_OURS || (ours == UNDECIDED && !bpf_map_lookup_elem(&addresses, &packet.dst.addr)))
		return XDP_PASS;
	if (ctx->rx_queue_index < port->queues) {
		int action = bpf_redirect_map(&sockets, port->first + ctx->rx_queue_index, XDP_DROP);

		if (action == XDP_REDIRECT)
			return action;
	}
	__u64 *count = bpf_map_lookup_elem(&unserved, &zero);
	if (count)
		*count += 1;
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
