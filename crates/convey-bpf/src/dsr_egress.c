// SPDX-License-Identifier: MIT OR GPL-2.0
/* Direct server return, the server's side of method "rewrite": at egress, replies of a balanced service leave
 * with the VIP as their source instead of the server's address. Ports stay.
 *
 * Not rewritten is what goes to an excluded address: the VIP's holder and every balancer, whose health checks
 * connect to the server's own address and must be answered from it.
 *
 * Checksums are adjusted through the helpers that know CHECKSUM_PARTIAL and GSO; fragments of a datagram follow
 * its first one; ICMP errors about balanced packets are rewritten inside and out, so that the client
 * recognises its flow.
 */
#include "skb_context.h"

#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint); /* the server's own address */
	__type(value, struct address); /* the VIP */
} rewrites SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u32);
} excluded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct datagram);
	__type(value, struct address);
} fragments SEC(".maps");

/* Bytes in front of the IP header: 14 on Ethernet, 0 on devices without a link layer. */
const volatile __u32 link_header_bytes = ETH_HLEN;

#define V4_CHECKSUM 10
#define V4_SRC 12
#define V4_DST 16
#define V6_SRC 8
#define V6_DST 24

static __always_inline __s64 difference(struct address *from, const struct address *to)
{
	struct address new = *to;

	return bpf_csum_diff(from->word, sizeof(*from), new.word, sizeof(new), 0);
}

/* Replaces an address in an IP header (and in its checksum). */
static __always_inline bool set_address(struct __sk_buff *skb, __u32 ip, bool v6, __u32 v4_field, __u32 v6_field,
					const struct address *from, const struct address *to)
{
	if (v6) {
		struct address new = *to;

		return !bpf_skb_store_bytes(skb, ip + v6_field, &new, sizeof(new), 0);
	}
	__be32 new = to->word[3];

	return !bpf_l3_csum_replace(skb, ip + V4_CHECKSUM, from->word[3], new, sizeof(new)) &&
	       !bpf_skb_store_bytes(skb, ip + v4_field, &new, sizeof(new), 0);
}

/* Brings the checksum of TCP or UDP in step with the new source address. */
static __always_inline bool fix_l4_checksum(struct __sk_buff *skb, struct packet *p, const struct address *to)
{
	bool udp = p->src.protocol == IPPROTO_UDP;
	__u32 field = link_header_bytes + p->l4 + (udp ? 6 : 16);
	/* A UDP checksum of 0 means "none" and stays; one that becomes 0 is sent as 0xffff. */
	__u64 flags = BPF_F_PSEUDO_HDR | (udp ? BPF_F_MARK_MANGLED_0 : 0);

	if (p->v6)
		return !bpf_l4_csum_replace(skb, field, 0, difference(&p->src.addr, to), flags);
	return !bpf_l4_csum_replace(skb, field, p->src.addr.word[3], to->word[3], flags | sizeof(__be32));
}

static __always_inline int rewrite_icmp_error(struct __sk_buff *skb, struct packet *outer)
{
	__u32 embedded_at = outer->l4 + ICMP_ERROR_HEADER;
	struct packet embedded;

	if (!packet_parse_embedded(skb, outer, &embedded))
		return VERDICT_NEXT;
	struct address *own = &embedded.dst.addr;
	struct address *vip = bpf_map_lookup_elem(&rewrites, &embedded.dst);
	if (!vip || !same_address(own, &outer->src.addr))
		return VERDICT_NEXT;

	/* ICMPv4's checksum needs nothing: the embedded header changes in its address and, by as much the other
	 * way, in its own checksum. ICMPv6 covers the embedded address and, by the pseudo-header, the outer one. */
	if (outer->v6) {
		__u32 field = link_header_bytes + outer->l4 + 2;
		__s64 diff = difference(own, vip);

		if (bpf_l4_csum_replace(skb, field, 0, diff, 0) ||
		    bpf_l4_csum_replace(skb, field, 0, diff, BPF_F_PSEUDO_HDR))
			return VERDICT_DROP;
	}
	if (!set_address(skb, link_header_bytes + embedded_at, outer->v6, V4_DST, V6_DST, own, vip) ||
	    !set_address(skb, link_header_bytes, outer->v6, V4_SRC, V6_SRC, own, vip))
		return VERDICT_DROP;
	return VERDICT_NEXT;
}

SEC("classifier")
int convey_dsr(struct __sk_buff *skb)
{
	struct packet packet;
	struct address *vip;
	bool v6 = skb->protocol == bpf_htons(ETH_P_IPV6);

	if (!v6 && skb->protocol != bpf_htons(ETH_P_IP))
		return VERDICT_NEXT;
	if (!packet_parse(skb, 0, v6, &packet))
		return VERDICT_NEXT;

	struct datagram datagram = {
		.src = packet.src.addr,
		.dst = packet.dst.addr,
		.id = packet.fragment_id,
		/* IPv6 identifies a datagram without it, and later fragments may name an extension header instead. */
		.protocol = v6 ? 0 : packet.src.protocol,
	};
	if (!packet.first) {
		vip = bpf_map_lookup_elem(&fragments, &datagram);
		if (vip && !set_address(skb, link_header_bytes, v6, V4_SRC, V6_SRC, &packet.src.addr, vip))
			return VERDICT_DROP;
		return VERDICT_NEXT;
	}
	if (bpf_map_lookup_elem(&excluded, &packet.dst.addr))
		return VERDICT_NEXT;
	if (is_icmp_error(skb, &packet))
		return rewrite_icmp_error(skb, &packet);
	if (packet.src.protocol != IPPROTO_TCP && packet.src.protocol != IPPROTO_UDP)
		return VERDICT_NEXT;
	vip = bpf_map_lookup_elem(&rewrites, &packet.src);
	if (!vip)
		return VERDICT_NEXT;

	if (packet.fragmented)
		bpf_map_update_elem(&fragments, &datagram, vip, BPF_ANY);
	/* Half a rewrite would be a packet with a wrong checksum: better none. */
	if (!fix_l4_checksum(skb, &packet, vip) ||
	    !set_address(skb, link_header_bytes, v6, V4_SRC, V6_SRC, &packet.src.addr, vip))
		return VERDICT_DROP;
	return VERDICT_NEXT;
}

char _license[] SEC("license") = "Dual MIT/GPL";
