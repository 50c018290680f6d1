/* SPDX-License-Identifier: MIT OR GPL-2.0 */
#ifndef CONVEY_HAND_UP_H
#define CONVEY_HAND_UP_H

#include "parse.h"

/* Hands the frame to Rust, which decides over the same tables. A full ring is a counted drop. */
static __always_inline void hand_up(context_t *context, __u32 len, __u32 ingress, __u32 gso_size, __u32 reason)
{
	struct handed_up *up = bpf_ringbuf_reserve(&slow_path, sizeof(*up), 0);

	if (!up) {
		count(NOTE_RING_FULL);
		return;
	}
	up->ingress = ingress;
	up->reason = reason;
	up->len = len;
	up->gso_size = gso_size;
	if (len > UP_BYTES)
		len = UP_BYTES;
	if (len < 1 || context_load(context, 0, up->frame, len)) {
		bpf_ringbuf_discard(up, 0);
		count(DROP_TRUNCATED);
		return;
	}
	bpf_ringbuf_submit(up, 0);
	count(NOTE_HANDED_UP);
}

#endif
