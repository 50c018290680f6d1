// SPDX-License-Identifier: MIT OR GPL-2.0
/* The packet engine at TCX ingress. Checksums are adjusted through the helpers that know CHECKSUM_PARTIAL,
 * CHECKSUM_COMPLETE and GSO; what is not ours goes on to the next program and the kernel.
 */
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

typedef struct __sk_buff context_t;

static __always_inline long context_load(context_t *context, __u32 offset, void *to, __u32 bytes)
{
	return bpf_skb_load_bytes(context, offset, to, bytes);
}

#include "frame.h"

static __always_inline struct frame frame_of(struct __sk_buff *skb, __u32 gso_size)
{
	struct frame f = {
		.context = skb,
		.data = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
		.len = skb->len,
		.gso_size = gso_size,
	};

	return f;
}

#include "parse.h"

/* The helpers that set checksums right know open ones. */
#define has_open_sum(v6, f, p) false

#include "core.h"
#include "csum_ipv6.h"
#include "hand_up.h"

/* Debian's linux/bpf.h is older than TCX; clsact knows the same values as TC_ACT_UNSPEC and TC_ACT_SHOT. */
#define TCX_NEXT -1
#define TCX_DROP 2

/* Whether the kernel takes CSUM_IPV6: the loader asks. Where it does not, the sum of a network card is set right when the
 * addresses are written. */
const volatile __u32 csum_ipv6 = 0;

#define TTL_V4 (ETH_HLEN + 8)
#define CHECK_V4 (ETH_HLEN + 10)
#define SRC_V4 (ETH_HLEN + 12)
#define HOP_LIMIT_V6 (ETH_HLEN + 7)
#define SRC_V6 (ETH_HLEN + 8)

static __always_inline bool rewrite(const bool v6, struct __sk_buff *skb, const struct packet *p, struct plan *plan)
{
	bool udp = p->protocol == IPPROTO_UDP;
	__u32 check = p->l4 + (udp ? 6 : 16);
	/* A UDP checksum of 0 means "none" and stays; one that becomes 0 is sent as 0xffff. */
	__u64 flags = (udp ? BPF_F_MARK_MANGLED_0 : 0) | (v6 && csum_ipv6 ? CSUM_IPV6 : 0);
	/* What no other field makes up for changes the sum that a network card has taken: the hop limit, and all that
	 * a checksum would cover where there is none. */
	__u64 uncovered = p->unchecked ? BPF_F_RECOMPUTE_CSUM : 0;
	struct {
		__be16 src, dst;
	} ports = { plan->src_port, plan->dst_port };
	long error = 0;

	if (v6) {
		/* Source and destination stand side by side in both. */
		__s64 change = bpf_csum_diff((void *)&p->src, 2 * sizeof(p->src), (void *)&plan->src, 2 * sizeof(p->src), 0);
		__u8 hops = p->ttl - 1;

		error |= bpf_l4_csum_replace(skb, check, 0, change, flags | BPF_F_PSEUDO_HDR);
		error |= bpf_skb_store_bytes(skb, SRC_V6, &plan->src, 2 * sizeof(plan->src),
					     csum_ipv6 ? uncovered : BPF_F_RECOMPUTE_CSUM);
		error |= bpf_skb_store_bytes(skb, HOP_LIMIT_V6, &hops, sizeof(hops), BPF_F_RECOMPUTE_CSUM);
	} else {
		struct {
			__be32 src, dst;
		} old = { p->src.word[3], p->dst.word[3] }, new = { plan->src.word[3], plan->dst.word[3] };
		__s64 change = bpf_csum_diff((void *)&old, sizeof(old), (void *)&new, sizeof(new), 0);
		__u8 ttl = p->ttl - 1;

		error |= bpf_l4_csum_replace(skb, check, 0, change, flags | BPF_F_PSEUDO_HDR);
		error |= bpf_l3_csum_replace(skb, CHECK_V4, 0, change, 0);
		error |= bpf_l3_csum_replace(skb, CHECK_V4, bpf_htons((__u16)p->ttl << 8), bpf_htons((__u16)ttl << 8), 2);
		error |= bpf_skb_store_bytes(skb, SRC_V4, &new, sizeof(new), 0);
		error |= bpf_skb_store_bytes(skb, TTL_V4, &ttl, sizeof(ttl), 0);
	}
	if (p->src_port != ports.src || p->dst_port != ports.dst) {
		error |= bpf_l4_csum_replace(skb, check, p->src_port, ports.src, flags | 2);
		error |= bpf_l4_csum_replace(skb, check, p->dst_port, ports.dst, flags | 2);
		error |= bpf_skb_store_bytes(skb, p->l4, &ports, sizeof(ports), uncovered);
	}
	return !error;
}

static __always_inline int apply(const bool v6, struct __sk_buff *skb, const struct packet *p, struct plan *plan,
				 const struct hop *hop)
{
	/* Half a rewrite would be a packet with a wrong checksum: better none. */
	if (plan->method != METHOD_L2 && !rewrite(v6, skb, p, plan))
		return TCX_DROP;
	if (bpf_skb_store_bytes(skb, 0, hop->destination, 12, 0))
		return TCX_DROP;
	/* Ethernet's padding stays behind. */
	if (skb->len > p->end && bpf_skb_change_tail(skb, p->end, 0))
		return TCX_DROP;
	return bpf_redirect(hop->ifindex, 0);
}

static __always_inline int finish(struct __sk_buff *skb, __u32 verdict)
{
	if (VERDICT_KIND(verdict) == UP) {
		hand_up(skb, skb->len, skb->ingress_ifindex, skb->gso_size, VERDICT_REASON(verdict));
		return TCX_DROP;
	}
	if (VERDICT_KIND(verdict) == COPY) {
		/* Counted by user space, which may yet send it on. */
		hand_up(skb, skb->len, skb->ingress_ifindex, skb->gso_size, VERDICT_REASON(verdict));
		return TCX_NEXT;
	}
	count(VERDICT_REASON(verdict));
	return VERDICT_KIND(verdict) == DROP ? TCX_DROP : TCX_NEXT;
}

static __always_inline int run(const bool v6, struct __sk_buff *skb)
{
	struct packet p = {};
	union work work;
	const struct hop *hop = 0;
	__u32 verdict;

	p.gso_size = skb->gso_size;
	verdict = decide(v6, skb, skb->ingress_ifindex, &p, &work, &hop);
	if (VERDICT_KIND(verdict) == FORWARD && hop)
		return apply(v6, skb, &p, &work.plan, hop);
	return finish(skb, verdict);
}

SEC("classifier")
int convey_tc(struct __sk_buff *skb)
{
	__be16 type = skb->protocol;
	__u8 first;

	if (own_frames_only && skb->pkt_type == PACKET_OTHERHOST)
		return TCX_NEXT;
	if (skb->vlan_present || type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD) ||
	    type == bpf_htons(0x9100))
		return finish(skb, VERDICT(PASS, PASS_VLAN));
	if (type != bpf_htons(ETH_P_IP) && type != bpf_htons(ETH_P_IPV6))
		return finish(skb, VERDICT(PASS, PASS_NOT_IP));
	if (bpf_skb_load_bytes(skb, 0, &first, sizeof(first)))
		return finish(skb, VERDICT(DROP, DROP_TRUNCATED));
	if (first & 1)
		return finish(skb, VERDICT(PASS, PASS_MULTICAST));
	return type == bpf_htons(ETH_P_IP) ? run(false, skb) : run(true, skb);
}

char _license[] SEC("license") = "Dual MIT/GPL";
