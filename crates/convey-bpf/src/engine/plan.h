/* SPDX-License-Identifier: MIT OR GPL-2.0 */
#ifndef CONVEY_PLAN_H
#define CONVEY_PLAN_H

#include "parse.h"

/* How a frame is to leave. */
struct plan {
	struct address src, dst;
	__be16 src_port, dst_port;
	__u8 method;
};

#endif
