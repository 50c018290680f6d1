/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What packet.h reads from, in programs at tc. */
#ifndef CONVEY_SKB_CONTEXT_H
#define CONVEY_SKB_CONTEXT_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

/* Debian's linux/bpf.h is older than TCX; clsact knows the same values as TC_ACT_UNSPEC and TC_ACT_SHOT. */
#define VERDICT_NEXT -1
#define VERDICT_DROP 2

typedef struct __sk_buff context_t;

static __always_inline long context_load(context_t *skb, __u32 offset, void *to, __u32 bytes)
{
	return bpf_skb_load_bytes_relative(skb, offset, to, bytes, BPF_HDR_START_NET);
}

#endif
