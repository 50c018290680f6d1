// SPDX-License-Identifier: MIT OR GPL-2.0
/* Whether the kernel's bpf_l4_csum_replace knows IPv6 (Linux 6.16): 1 or 0. For a test run with any frame. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "csum_ipv6.h"

SEC("classifier")
int csum_probe(struct __sk_buff *skb)
{
	return !bpf_l4_csum_replace(skb, 0, 0, 0, BPF_F_PSEUDO_HDR | CSUM_IPV6);
}

char _license[] SEC("license") = "Dual MIT/GPL";
