// SPDX-License-Identifier: MIT OR GPL-2.0
/* What the engine's programs are measured beside: nothing; dependent reads over a region as large as the flow
 * table, the least that a hit can cost; and a balancer whose connection table is an LRU hash for each CPU, which
 * finds the server by address, counts and rewrites as the engine does for direct server return.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int empty(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_TX;
}

struct line {
	__u64 word[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct line);
} region SEC(".maps");

/* Lines of the region, a power of two. */
const volatile __u32 region_lines = 1;
__u64 walker;

SEC("xdp")
int chain(struct xdp_md *ctx)
{
	__u64 at = walker * 6364136223846793005ULL + 1442695040888963407ULL;
	__u32 index = (at >> 32) & (region_lines - 1);
	struct line *line = bpf_map_lookup_elem(&region, &index);

	(void)ctx;
	if (!line)
		return XDP_ABORTED;
	/* The region is zero, which the processor learns only when the line has come. */
	walker = at + line->word[0];
	return XDP_TX;
}

struct address {
	__be32 word[4];
};

struct endpoint {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct tuple {
	struct address src, dst;
	__be32 ports;
	__u8 protocol;
	__u8 zero[3];
};

struct connection {
	__u32 server;
	__u32 zero;
	__u64 seen;
};

struct server {
	struct address address;
	__u8 destination[6], source[6];
	__u32 ifindex;
};

struct traffic {
	__u64 packets, bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u32);
} lru_vips SEC(".maps");

/* The one of the CPU that is measured: the look-up of the CPU's own among them is left out. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple);
	__type(value, struct connection);
} lru_connections SEC(".maps");

#define RING 65537

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RING);
	__type(key, __u32);
	__type(value, __u32);
} lru_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct server);
} lru_servers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct traffic);
} lru_traffic SEC(".maps");

static __always_inline void account(__u32 slot, __u32 bytes)
{
	struct traffic *t = bpf_map_lookup_elem(&lru_traffic, &slot);

	if (t) {
		t->packets += 1;
		t->bytes += bytes;
	}
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

#define SYN 2

SEC("xdp")
int lru(struct xdp_md *ctx)
{
	struct {
		struct ethhdr eth;
		__u8 version, tos;
		__be16 total, id, fragment;
		__u8 ttl, protocol;
		__u16 check;
		__be32 src, dst;
		__be16 src_port, dst_port;
		__be32 seq, ack;
		__u8 offset, flags;
		__be16 window;
		__u16 tcp_check, urgent;
	} __attribute__((packed, aligned(2))) *h = (void *)(long)ctx->data;
	__u32 *vip, number;
	struct connection *known = 0;

	if ((void *)(h + 1) > (void *)(long)ctx->data_end || h->eth.h_proto != bpf_htons(ETH_P_IP) ||
	    h->version != 0x45 || h->fragment & bpf_htons(0x3fff) || h->protocol != IPPROTO_TCP || h->ttl <= 1)
		return XDP_PASS;
	struct endpoint at = {
		.address.word = { 0, 0, bpf_htonl(0xffff), h->dst },
		.port = h->dst_port,
		.protocol = h->protocol,
	};
	vip = bpf_map_lookup_elem(&lru_vips, &at);
	if (!vip)
		return XDP_PASS;
	struct tuple tuple = {
		.src.word = { 0, 0, bpf_htonl(0xffff), h->src },
		.dst.word = { 0, 0, bpf_htonl(0xffff), h->dst },
		.ports = (__u32)h->src_port | (__u32)h->dst_port << 16,
		.protocol = h->protocol,
	};
	if (!(h->flags & SYN))
		known = bpf_map_lookup_elem(&lru_connections, &tuple);
	if (known) {
		number = known->server;
	} else {
		__u64 hash = (tuple.src.word[3] ^ 0x9e3779b97f4a7c15ULL) * 0xff51afd7ed558ccdULL;
		hash = (hash ^ hash >> 32 ^ tuple.ports) * 0xc4ceb9fe1a85ec53ULL;
		__u32 slot = ((hash >> 32) * RING) >> 32, *chosen = bpf_map_lookup_elem(&lru_ring, &slot);
		if (!chosen)
			return XDP_DROP;
		number = *chosen;
		struct connection new = { .server = number, .seen = bpf_ktime_get_ns() };
		bpf_map_update_elem(&lru_connections, &tuple, &new, BPF_ANY);
	}
	struct server *server = bpf_map_lookup_elem(&lru_servers, &number);
	if (!server)
		return XDP_DROP;
	account(*vip, bpf_ntohs(h->total));
	account(2048 + (number & 2047), bpf_ntohs(h->total));

	__u64 change = (__u64)(__u32)~h->dst + server->address.word[3];
	h->dst = server->address.word[3];
	h->tcp_check = ~fold((__u16)~h->tcp_check + change);
	h->check = ~fold((__u16)~h->check + change + (__u16)~bpf_htons(h->ttl << 8) +
			 bpf_htons((h->ttl - 1) << 8));
	h->ttl -= 1;
	__builtin_memcpy(h->eth.h_dest, server->destination, 6);
	__builtin_memcpy(h->eth.h_source, server->source, 6);
	return server->ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(server->ifindex, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
