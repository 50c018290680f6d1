/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* A packet as it is read, the headers it is read from, and verdicts. A front defines `context_t`, `struct frame` and
 * `frame_of`, and `context_load` (offset from the Ethernet header), before it includes this.
 */
#ifndef CONVEY_HEADERS_H
#define CONVEY_HEADERS_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include "tables.h"

/* A function of its own for the verifier too: verified once, whatever its callers know. */
#define APART __attribute__((noinline))

/* The verifier wants a bound on offsets into a packet. */
#define DIRECT 0x7ff

/* Reads `*to` at `offset` of the frame, directly where it can. */
#define frame_load(f, offset, to)                                                                          \
	({                                                                                                 \
		__u32 at_ = (offset);                                                                      \
		typeof(to) from_ = (typeof(to))((f)->data + at_);                                          \
		long error_ = 0;                                                                           \
		if (at_ <= DIRECT && (void *)(from_ + 1) <= (f)->end)                                                      \
			*(to) = *from_;                                                                    \
		else                                                                                       \
			error_ = context_load((f)->context, at_, (to), sizeof(*(to)));                     \
		!error_;                                                                                   \
	})

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

struct packet {
	struct address src, dst; /* IPv4: the last word alone */
	__be16 src_port, dst_port;
	__u32 l4;                /* offsets from the start of the frame */
	__u32 end;
	__u8 protocol;
	__u8 ttl;
	bool later_fragment : 1, first_fragment : 1, unchecked : 1; /* UDP without a checksum */
	union {
		__u8 broken;     /* how the transport header is: REASON(), or 0 */
		__u8 met;        /* once that is known to be sound: the state its flow was in, MET_REPLY; 0: it is new */
	};
	/* TCP; of UDP only `payload` */
	__u8 flags;
	__u8 scale;              /* of a SYN, NO_SCALE: none */
	__u16 window;
	union {
		__u32 seq;
		__u32 datagram; /* of a fragment: the identification, as in the packet */
	};
	__u32 ack;
	union {
		__u32 payload;
		__u32 slots;     /* once it is accounted for: its frontend, in the upper half its server */
	};
	__u32 now;               /* tick */
	__u32 gso_size;          /* of the frame; 0: none */
};

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 check;
	__be32 src;
	__be32 dst;
};

struct ipv6 {
	__be32 version_flow;
	__be16 payload;
	__u8 next;
	__u8 hop_limit;
	struct address src;
	struct address dst;
};

struct tcp_header {
	__be16 src_port, dst_port;
	__be32 seq, ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__u16 check;
	__be16 urgent;
};

struct udp_header {
	__be16 src_port, dst_port;
	__be16 len;
	__u16 check;
};

/* The one's complement sum of the halves, twice: added to itself with its halves exchanged, the carry comes back. */
static __always_inline __u16 fold(__u64 sum)
{
	sum += sum << 32 | sum >> 32;
	__u32 half = sum >> 32;

	half += half << 16 | half >> 16;
	return half >> 16;
}

enum verdict { FORWARD, PASS, DROP, UP, COPY /* passes, and is handed up as well */ };

#define VERDICT(kind, reason) ((kind) | (reason) << 8)
#define VERDICT_KIND(v) ((v) & 0xff)
#define VERDICT_REASON(v) ((v) >> 8)

/* Gives 0, or the reason to pass or drop, plus one. */
#define REASON(r) ((r) + 1)

#endif
