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
#include "rewrite.h"

/* Debian's linux/bpf.h is older than TCX; clsact knows the same values as TC_ACT_UNSPEC and TC_ACT_SHOT. */
#define TCX_NEXT -1
#define TCX_DROP 2

/* Whether the kernel takes CSUM_IPV6: the loader asks. Where it does not, the sum of a network card is set right when the
 * addresses are written. */
const volatile __u32 csum_ipv6 = 0;

/* The verifier wants a bound; extension headers end before it. */
#define FARTHEST 0x7fff

static __always_inline bool is_zero(__u16 sum)
{
	return !sum || sum == 0xffff;
}

/* Whether the field took a change as a checksum does that covers what changed, and not as the sum of a pseudo-header
 * that the sender has left open. */
static __always_inline bool is_closed(__u16 before, __u16 after, __u64 changed)
{
	return is_zero(fold((__u64)(__u16)~before + changed + after));
}

/* Only one helper knows what else a checksum's change means: where the sender has left it open (CHECKSUM_PARTIAL) the field
 * holds the sum of the pseudo-header, and where a network card has taken a sum (CHECKSUM_COMPLETE) that one changes, too.
 * It is called for the addresses; the way that the field went tells whether ports count in it. */
static __always_inline bool rewrite(const bool v6, struct __sk_buff *skb, const struct packet *p, const struct plan *plan)
{
	bool udp = p->protocol == IPPROTO_UDP;
	__u32 l4 = p->l4, check_at = l4 + (udp ? 6 : 16);
	__u64 flags = (udp ? BPF_F_MARK_MANGLED_0 : 0) | (v6 && csum_ipv6 ? CSUM_IPV6 : 0);
	__u64 addresses = address_change(v6, p, plan), ports = port_change(p, plan), uncovered = 0;
	__u16 before, *check, moved = fold(addresses);
	char *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 *both;

	if (l4 > FARTHEST)
		return false;
	check = (void *)(data + check_at);
	if ((void *)(check + 1) > (void *)end)
		return false;
	before = *check;
	if (bpf_l4_csum_replace(skb, check_at, 0, moved, flags | BPF_F_PSEUDO_HDR))
		return false;
	/* Nothing to tell by. */
	if (is_zero(moved) && bpf_l4_csum_replace(skb, check_at, 0, fold(ports), flags))
		return false;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	both = (void *)(data + l4);
	check = (void *)(data + check_at);
	if ((void *)(both + 1) > (void *)end || (void *)(check + 1) > (void *)end ||
	    data + ETH_HLEN + (v6 ? sizeof(struct ipv6) : sizeof(struct ipv4)) > end)
		return false;
	if (!is_zero(moved) && is_closed(before, *check, moved))
		apply_transport(udp, check, ports);
	write_ports(both, plan);
	write_network(v6, data + ETH_HLEN, p, plan, addresses);
	/* What no other field makes up for changes the sum of a network card. */
	if (p->unchecked)
		uncovered = ports;
	if (v6) {
		uncovered += hop_change(true, p);
		if (p->unchecked || !csum_ipv6)
			uncovered += addresses;
	}
	if (v6 || p->unchecked)
		bpf_csum_update(skb, fold(uncovered));
	return true;
}

static __always_inline int apply(const bool v6, struct __sk_buff *skb, const struct packet *p, const struct plan *plan,
				 const struct hop *hop)
{
	__u32 written = p->l4 + (p->protocol == IPPROTO_UDP ? sizeof(struct udp_header) : sizeof(struct tcp_header));
	char *data;

	/* What is written has to lie in one piece. */
	if ((long)skb->data_end - (long)skb->data < written && bpf_skb_pull_data(skb, written))
		return TCX_DROP;
	/* Half a rewrite would be a packet with a wrong checksum: better none. */
	if (plan->method != METHOD_L2 && !rewrite(v6, skb, p, plan))
		return TCX_DROP;
	data = (void *)(long)skb->data;
	if (data + ETH_HLEN > (char *)(long)skb->data_end)
		return TCX_DROP;
	write_link(data, hop);
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
	struct frame f = frame_of(skb, 0);
	__be16 type = skb->protocol;
	__u8 first;

	if (own_frames_only && skb->pkt_type == PACKET_OTHERHOST)
		return TCX_NEXT;
	if (skb->vlan_present || type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD) ||
	    type == bpf_htons(0x9100))
		return finish(skb, VERDICT(PASS, PASS_VLAN));
	if (type != bpf_htons(ETH_P_IP) && type != bpf_htons(ETH_P_IPV6))
		return finish(skb, VERDICT(PASS, PASS_NOT_IP));
	if (!frame_load(&f, 0, &first))
		return finish(skb, VERDICT(DROP, DROP_TRUNCATED));
	if (first & 1)
		return finish(skb, VERDICT(PASS, PASS_MULTICAST));
	return type == bpf_htons(ETH_P_IP) ? run(false, skb) : run(true, skb);
}

char _license[] SEC("license") = "Dual MIT/GPL";
