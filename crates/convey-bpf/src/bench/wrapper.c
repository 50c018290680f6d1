// SPDX-License-Identifier: MIT OR GPL-2.0
/* Measuring by BPF_PROG_TEST_RUN: restores the packet, which the program before has rewritten, makes it another
 * flow's, and calls the program under test. Without this a repeated run would measure its own output, and the
 * cache misses of many short runs would overlap.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define HEADERS 54 /* Ethernet, IPv4, TCP or the first bytes of it */

enum kind {
	CLIENT_RANDOM,  /* flows below `flows` in any order */
	CLIENT_ORDERED, /* one after the other from `position` */
	REPLY,          /* as `replies` has them, one after the other */
};

struct pattern {
	__u64 random;
	__u32 kind;
	__u32 flows;
	__u32 position;
	__u32 sum; /* of the IPv4 header without what is changed here */
	__u8 headers[64];
};

struct reply {
	__be32 server;
	__be16 nat_port;
	__be16 server_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pattern);
} pattern SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct reply);
} replies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} program SEC(".maps");

SEC("xdp")
int wrapper(struct xdp_md *ctx)
{
	char *data = (void *)(long)ctx->data;
	__u32 zero = 0, sum, flow;
	struct pattern *p = bpf_map_lookup_elem(&pattern, &zero);

	if (!p || data + HEADERS > (char *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < 6; i++)
		((__u64 *)data)[i] = ((__u64 *)p->headers)[i];
	*(__u32 *)(data + 48) = *(__u32 *)(p->headers + 48);
	*(__u16 *)(data + 52) = *(__u16 *)(p->headers + 52);

	sum = p->sum;
	if (p->kind == REPLY) {
		__u32 at = p->position;
		struct reply *r = bpf_map_lookup_elem(&replies, &at);

		if (!r)
			return XDP_ABORTED;
		p->position = at + 1 < p->flows ? at + 1 : 0;
		*(__be32 *)(data + 26) = r->server;
		*(__be16 *)(data + 34) = r->server_port;
		*(__be16 *)(data + 36) = r->nat_port;
		sum += (r->server & 0xffff) + (r->server >> 16);
	} else {
		if (p->kind == CLIENT_ORDERED) {
			flow = p->position;
			p->position = flow + 1;
		} else {
			p->random = p->random * 6364136223846793005ULL + 1442695040888963407ULL;
			flow = ((p->random >> 32) * p->flows) >> 32;
		}
		__be32 client = bpf_htonl(0x0a000001 + (flow >> 10));

		*(__be32 *)(data + 26) = client;
		*(__be16 *)(data + 34) = bpf_htons(1024 + (flow & 1023));
		sum += (client & 0xffff) + (client >> 16);
	}
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(__u16 *)(data + 24) = ~sum;
	bpf_tail_call(ctx, &program, 0);
	return XDP_ABORTED;
}

char _license[] SEC("license") = "Dual MIT/GPL";
