/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* A frame as a front sees it. */
#ifndef CONVEY_FRAME_H
#define CONVEY_FRAME_H

#include <linux/types.h>

struct frame {
	context_t *context;
	void *data; /* to `end`: what can be read directly, often not all of it */
	void *end;
	__u32 len;
	__u32 gso_size;
};

#endif
