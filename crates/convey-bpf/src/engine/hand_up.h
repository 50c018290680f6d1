/* SPDX-License-Identifier: MIT OR GPL-2.0 */
#ifndef CONVEY_HAND_UP_H
#define CONVEY_HAND_UP_H

#include "parse.h"

static __always_inline void fill_up(context_t *context, struct handed_up *up, __u32 len, __u32 ingress, __u32 gso_size,
				    __u32 reason, const __u32 room)
{
	__u32 kept = len > room ? room : len;

	if (!up) {
		count(NOTE_RING_FULL);
		return;
	}
	up->ingress = ingress;
	up->reason = reason;
	up->len = len;
	up->gso_size = gso_size;
	if (kept < 1 || context_load(context, 0, up->frame, kept)) {
		bpf_ringbuf_discard(up, 0);
		count(DROP_TRUNCATED);
		return;
	}
	bpf_ringbuf_submit(up, 0);
	count(NOTE_HANDED_UP);
}

/* Hands the frame to Rust, which decides over the same tables. A full ring is a counted drop. */
static __always_inline void hand_up(context_t *context, __u32 len, __u32 ingress, __u32 gso_size, __u32 reason)
{
	struct handed_up *up;

	/* Sizes must be known to the verifier. */
	if (len <= UP_SHORT) {
		up = bpf_ringbuf_reserve(&slow_path, sizeof(*up) + UP_SHORT, 0);
		fill_up(context, up, len, ingress, gso_size, reason, UP_SHORT);
	} else {
		up = bpf_ringbuf_reserve(&slow_path, sizeof(*up) + UP_LONG, 0);
		fill_up(context, up, len, ingress, gso_size, reason, UP_LONG);
	}
}

#endif
