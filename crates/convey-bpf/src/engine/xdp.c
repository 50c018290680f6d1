// SPDX-License-Identifier: MIT OR GPL-2.0
/* The packet engine at XDP. */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

typedef struct xdp_md context_t;

static __always_inline long context_load(context_t *context, __u32 offset, void *to, __u32 bytes)
{
	return bpf_xdp_load_bytes(context, offset, to, bytes);
}

#include "frame.h"

static __always_inline struct frame frame_of(struct xdp_md *ctx, __u32 gso_size)
{
	struct frame f = {
		.context = ctx,
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.gso_size = gso_size,
	};

	f.len = f.end - f.data;
	return f;
}

#include "parse.h"

/* A frame longer than so many pieces is not summed here. */
#define PIECES 256

/* Whether the transport checksum is right, from the sum of the pseudo-header on: of the whole segment, in pieces. */
APART __u32 is_whole(struct xdp_md *ctx, const struct packet *p, __u32 sum_of_pseudo)
{
	__u64 sum = sum_of_pseudo;

	if (!ctx || !p)
		return 0;
	__u32 at = p->l4, end = p->end;
	for (int i = 0; i < PIECES && at < end; i++) {
		__u32 piece[16] = {}, bytes = end - at;

		if (bytes > sizeof(piece))
			bytes = sizeof(piece);
		if (bytes < 1 || context_load(ctx, at, piece, bytes))
			return 0;
		for (int j = 0; j < 16; j++)
			sum += piece[j];
		at += bytes;
	}
	return at >= end && fold(sum) == 0xffff;
}

/* Whether the sender, on this machine, has left the checksum to a network card that there is none of: the field holds the
 * sum of the pseudo-header. XDP is not told. User space knows how to send such a packet, but it may be dead: of whole
 * ones, of which one in 65,536 looks the same, none must need it. */
static __always_inline bool has_open_sum(const bool v6, const struct frame *f, const struct packet *p)
{
	__u64 sum = (__u64)p->src.word[3] + p->dst.word[3] + bpf_htons(p->end - p->l4) + bpf_htons(p->protocol);
	__u16 check;

	if (v6)
		for (int i = 0; i < 3; i++)
			sum += (__u64)p->src.word[i] + p->dst.word[i];
	if (!frame_load(f, p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6), &check) || check != fold(sum))
		return false;
	return !is_whole(f->context, p, check);
}

#include "core.h"
#include "hand_up.h"
#include "rewrite.h"

static __always_inline int apply(const bool v6, struct xdp_md *ctx, const struct packet *p, const struct plan *plan,
				 const struct hop *hop)
{
	char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + ETH_HLEN + (v6 ? sizeof(struct ipv6) : sizeof(struct ipv4)) > end)
		return XDP_DROP;
	write_link(data, hop);
	if (plan->method != METHOD_L2) {
		__u64 addresses = address_change(v6, p, plan), transport = addresses + port_change(p, plan);
		__u32 l4 = p->l4;

		write_network(v6, data + ETH_HLEN, p, plan, addresses);
		if (l4 > DIRECT)
			return XDP_DROP;
		if (p->protocol == IPPROTO_TCP) {
			struct tcp_header *tcp = (void *)(data + l4);

			if ((void *)(tcp + 1) > (void *)end)
				return XDP_DROP;
			write_ports(tcp, plan);
			apply_transport(false, &tcp->check, transport);
		} else {
			struct udp_header *udp = (void *)(data + l4);

			if ((void *)(udp + 1) > (void *)end)
				return XDP_DROP;
			write_ports(udp, plan);
			apply_transport(true, &udp->check, transport);
		}
	}
	if ((long)(end - data) > p->end && bpf_xdp_adjust_tail(ctx, (int)p->end - (int)(end - data)))
		return XDP_DROP;
	if (hop->ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(hop->ifindex, 0);
}

static __always_inline int finish(struct xdp_md *ctx, __u32 verdict)
{
	switch (VERDICT_KIND(verdict)) {
	case COPY:
		/* Counted by user space, which may yet send it on. */
		hand_up(ctx, bpf_xdp_get_buff_len(ctx), ctx->ingress_ifindex, 0, VERDICT_REASON(verdict));
		return XDP_PASS;
	case PASS:
		count(VERDICT_REASON(verdict));
		return XDP_PASS;
	case UP:
		hand_up(ctx, bpf_xdp_get_buff_len(ctx), ctx->ingress_ifindex, 0, VERDICT_REASON(verdict));
		return XDP_DROP;
	default:
		count(VERDICT_REASON(verdict));
		return XDP_DROP;
	}
}

static __always_inline int run(const bool v6, struct xdp_md *ctx)
{
	struct packet p = {};
	union work work;
	const struct hop *hop = 0;
	__u32 verdict = decide(v6, ctx, ctx->ingress_ifindex, &p, &work, &hop);

	if (VERDICT_KIND(verdict) == FORWARD && hop)
		return apply(v6, ctx, &p, &work.plan, hop);
	return finish(ctx, verdict);
}

/* The addresses of interfaces, by the lower bits of their index. */
#define LINKS 1024 /* tables.rs knows it, too */

struct link {
	__u32 ifindex;
	__u8 mac[8]; /* six bytes */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LINKS);
	__type(key, __u32);
	__type(value, struct link);
} links SEC(".maps");

/* A card passes on what is for itself; a veth all there is. */
static __always_inline bool is_for_another_host(const struct xdp_md *ctx, const struct ethhdr *eth)
{
	__u32 at = ctx->ingress_ifindex % LINKS;
	struct link *link = bpf_map_lookup_elem(&links, &at);

	return link && link->ifindex == ctx->ingress_ifindex &&
	       (*(__u32 *)eth->h_dest != *(__u32 *)link->mac ||
		*(__u16 *)(eth->h_dest + 4) != *(__u16 *)(link->mac + 4));
}

SEC("xdp")
int convey_xdp(struct xdp_md *ctx)
{
	char *data = (void *)(long)ctx->data;
	__be16 type;

	if ((void *)(data + ETH_HLEN) > (void *)(long)ctx->data_end)
		return finish(ctx, VERDICT(DROP, DROP_TRUNCATED));
	type = *(__be16 *)(data + 2 * ETH_ALEN);
	if (type != bpf_htons(ETH_P_IP) && type != bpf_htons(ETH_P_IPV6)) {
		bool vlan = type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD) || type == bpf_htons(0x9100);

		return finish(ctx, VERDICT(PASS, vlan ? PASS_VLAN : PASS_NOT_IP));
	}
	if (*data & 1)
		return finish(ctx, VERDICT(PASS, PASS_MULTICAST));
	if (is_for_another_host(ctx, (void *)data))
		return XDP_PASS;
	return type == bpf_htons(ETH_P_IP) ? run(false, ctx) : run(true, ctx);
}

char _license[] SEC("license") = "Dual MIT/GPL";
