/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What a segment or a datagram does to a flow's state: the machine of convey-core's conntrack, which has the
 * reasons. It works on a flow in registers; flow.h loads and stores it.
 */
#ifndef CONVEY_TCP_H
#define CONVEY_TCP_H

#include "parse.h"

#define FROM_CLIENT 0
#define FROM_SERVER 1

struct flow {
	__u32 control; /* as it was read */
	__u32 next[2], acked[2];
	__u8 state, flags;
	__u8 window[2]; /* exponents */
	__u8 scale[2];
};

/* Bits of what a packet has changed. */
#define CHANGE_ESTABLISHED 1
#define CHANGE_CLOSED 2
#define CHANGE_RESTARTED 4
#define CHANGE_REVIVED 8
#define CHANGE_OUT_OF_WINDOW 16
#define CHANGE_COUNTS 32 /* the flow was used: `seen` moves on */
#define CHANGE_LATER_SYN 64

/* Bytes in flight as 8 bits: 5 of exponent, 3 of mantissa, rounded up; below 16 exact. */
static __always_inline __u32 unpack_flight(__u8 packed)
{
	if (packed < 16)
		return packed;
	return packed < 240 ? (__u32)(8 + (packed & 7)) << ((packed >> 3) - 1) : ~0U;
}

/* 2^`log` if `value` is more than `most`, else 0. A branch would double the verifier's ways. */
static __always_inline __u32 step_above(__u64 value, __u64 most, __u32 log)
{
	__u64 difference = most - value;

	asm volatile("" : "+r"(difference));
	return difference >> 63 << log;
}

static __always_inline __u8 pack_flight(__u32 bytes)
{
	__u32 rest = bytes >> 3, shift, n;

	n = shift = step_above(rest, 0xffff, 4);
	rest >>= n;
	shift += n = step_above(rest, 0xff, 3);
	rest >>= n;
	shift += n = step_above(rest, 0xf, 2);
	rest >>= n;
	shift += n = step_above(rest, 3, 1);
	rest >>= n;
	shift += step_above(rest, 1, 0);
	/* A mantissa that rounds up to 16 carries into the exponent by itself. */
	return (shift << 3) + (((__u64)bytes + (1ULL << shift) - 1) >> shift);
}

static __always_inline bool is_after(__u32 a, __u32 b)
{
	return a != b && a - b < 1U << 31;
}

/* In (from, to]. */
static __always_inline bool is_within(__u32 value, __u32 from, __u32 to)
{
	__u32 distance = value - from;

	return distance && distance <= to - from;
}

static __always_inline bool half_open(__u8 state)
{
	return state == STATE_SYN_SENT || state == STATE_SYN_RECEIVED || state == STATE_UDP_NEW ||
	       state == STATE_UDP_REPLIED;
}

/* The smallest exponent whose power of two is not below `bytes`, at least `exponent`. */
static __always_inline __u8 widened(__u8 exponent, __u32 bytes)
{
	if (bytes <= 1U << (exponent & 31))
		return exponent;
	__u32 rest = bytes - 1;
	__u8 n = 1;
	if (rest >> 16) { n += 16; rest >>= 16; }
	if (rest >> 8) { n += 8; rest >>= 8; }
	if (rest >> 4) { n += 4; rest >>= 4; }
	if (rest >> 2) { n += 2; rest >>= 2; }
	if (rest >> 1) n += 1;
	return n;
}

static __always_inline bool in_window(const struct flow *w, const int me, const struct packet *p)
{
	const int peer = 1 - me;
	__u32 theirs = 1U << (w->window[peer] & 31), mine = 1U << (w->window[me] & 31);

	if (!(p->flags & TCP_ACK) || is_after(p->seq, w->next[me] + theirs) ||
	    is_after(w->next[me] - theirs, end_seq(p)))
		return false;
	__u32 oldest = w->acked[peer] - (mine > OLD_ACKNOWLEDGEMENT ? mine : OLD_ACKNOWLEDGEMENT);
	return !is_after(oldest, p->ack) && !is_after(p->ack, w->next[peer] + mine);
}

/* Whether the segment acknowledges what was not before. Both are rounded: the same once more is none. */
static __always_inline bool acknowledges_more(const struct flow *w, const int me, const struct packet *p)
{
	const int peer = 1 - me;

	return is_after(p->ack, w->next[peer]) ||
	       (is_after(p->ack, w->acked[peer]) &&
		pack_flight(w->next[peer] - p->ack) < pack_flight(w->next[peer] - w->acked[peer]));
}

static __always_inline void move_on(struct flow *w, const int me, const struct packet *p)
{
	const int peer = 1 - me;
	__u32 end = end_seq(p);

	if (is_after(end, w->next[me]))
		w->next[me] = end;
	if (passthrough) {
		__u8 scale = w->scale[me] > MAX_SCALE ? 0 : w->scale[me];

		w->window[me] = widened(w->window[me], (__u32)p->window << scale);
		if (is_after(p->ack, w->next[peer])) {
			w->next[peer] = w->acked[peer] = p->ack;
		} else if (acknowledges_more(w, me, p)) {
			/* What its window would never have allowed was forged: the peer has not sent it. */
			__u32 rest = w->next[peer] - p->ack, most = 1U << (w->window[me] & 31);

			w->acked[peer] = p->ack;
			w->next[peer] = p->ack + (rest < most ? rest : most);
		}
	}
	if (p->flags & TCP_FIN)
		w->flags |= me == FROM_CLIENT ? FLAG_FIN_CLIENT : FLAG_FIN_SERVER;
}

static __always_inline __u32 close_by_fins(struct flow *w)
{
	const __u8 both = FLAG_FIN_CLIENT | FLAG_FIN_SERVER;

	if ((w->state != STATE_ESTABLISHED && w->state != STATE_CLOSING) || !(w->flags & both))
		return 0;
	if ((w->flags & both) != both) {
		w->state = STATE_CLOSING;
		return 0;
	}
	w->state = STATE_CLOSED;
	w->flags &= ~(FLAG_RST_CLIENT | FLAG_RST_SERVER);
	return CHANGE_CLOSED;
}

static __always_inline __u8 reset_from(const int side)
{
	return side == FROM_CLIENT ? FLAG_RST_CLIENT : FLAG_RST_SERVER;
}

/* Whether the segment goes beyond what its side had sent or acknowledged. */
static __always_inline bool goes_on(const struct flow *w, const int me, const struct packet *p)
{
	return is_after(end_seq(p), w->next[me]) || (passthrough && acknowledges_more(w, me, p));
}

/* What kept a later SYN: its number, and whether there was one. */
struct later_syn {
	__u32 seq;
	bool known;
};

static __always_inline bool answers_later_syn(const struct later_syn *later, const struct packet *p)
{
	return later->known && p->flags & TCP_ACK && is_within(p->ack, later->seq, later->seq + 0xffff);
}

/* The client's first sequence number. */
static __always_inline __u32 first_seq(const struct flow *w)
{
	return w->next[1];
}

static __always_inline bool is_own_syn(const struct flow *w, const struct packet *p)
{
	switch (w->state) {
	case STATE_SYN_SENT:
		return p->seq == first_seq(w);
	case STATE_SYN_RECEIVED:
		return passthrough && (end_seq(p) == w->next[0] ||
				       p->seq + 1 - w->acked[0] <= w->next[0] - w->acked[0]);
	case STATE_ESTABLISHED:
		return !passthrough && p->seq == first_seq(w);
	}
	return false;
}

static __always_inline void agree_on_scale(struct flow *w)
{
	if (w->scale[0] == NO_SCALE || w->scale[1] == NO_SCALE)
		w->scale[0] = w->scale[1] = 0;
}

static __always_inline __u32 take_syn(struct flow *w, const int me, const struct packet *p,
				      const struct later_syn *later)
{
	if (me == FROM_CLIENT && !(p->flags & TCP_ACK)) {
		if (!is_own_syn(w, p))
			return CHANGE_LATER_SYN | CHANGE_OUT_OF_WINDOW;
		if (w->state == STATE_SYN_SENT && is_after(end_seq(p), w->next[0]))
			w->next[0] = w->acked[0] = end_seq(p);
		return 0;
	}
	if (me == FROM_SERVER && p->flags & TCP_ACK) {
		bool first = w->state == STATE_SYN_SENT;

		if ((first && is_within(p->ack, first_seq(w), w->next[0])) ||
		    (w->state == STATE_SYN_RECEIVED &&
		     (p->ack == w->acked[0] || is_within(p->ack, w->acked[0], w->next[0])))) {
			if (first || w->acked[1] != p->seq) {
				w->next[1] = end_seq(p);
				w->acked[1] = p->seq;
			}
			w->acked[0] = p->ack;
			if (first) {
				w->window[1] = widened(0, p->window);
				w->scale[1] = p->scale;
				agree_on_scale(w);
			}
			w->state = STATE_SYN_RECEIVED;
			return CHANGE_COUNTS;
		}
		if (answers_later_syn(later, p)) {
			w->next[0] = w->acked[0] = p->ack;
			w->next[1] = end_seq(p);
			w->acked[1] = p->seq;
			/* Of the SYN only its number was kept: the largest windows there are. */
			w->window[0] = 16;
			w->scale[0] = 14;
			w->window[1] = widened(0, p->window);
			w->scale[1] = p->scale;
			agree_on_scale(w);
			w->flags &= FLAG_COUNTED | FLAG_HAS_PORT;
			w->state = STATE_SYN_RECEIVED;
			return CHANGE_RESTARTED | CHANGE_COUNTS;
		}
	}
	return CHANGE_OUT_OF_WINDOW;
}

static __always_inline bool valid_reset(const struct flow *w, const int me, const struct packet *p,
					const struct later_syn *later)
{
	if (me == FROM_SERVER) {
		if (answers_later_syn(later, p))
			return true;
		if (w->state == STATE_SYN_SENT)
			return p->flags & TCP_ACK && is_within(p->ack, first_seq(w), w->next[0]);
	}
	__u32 oldest = w->next[me] - RESET_WINDOW;
	if (passthrough && w->state == STATE_SYN_SENT) {
		oldest = first_seq(w);
	} else if (passthrough) {
		__u32 in_flight = w->next[me] - w->acked[me], most = 1U << (w->window[1 - me] & 31);

		oldest = w->next[me] - (in_flight < most ? in_flight : most);
	}
	return p->seq - oldest <= w->next[me] - oldest;
}

static __always_inline bool counts(const struct flow *w, const int me, const struct packet *p)
{
	if (!passthrough) {
		if (w->state == STATE_SYN_SENT)
			return p->flags & TCP_ACK && is_within(p->seq, first_seq(w), w->next[0]);
		return p->seq - w->next[0] + UNSEEN_WINDOW <= 2 * UNSEEN_WINDOW;
	}
	if (w->state == STATE_SYN_SENT)
		return false;
	if (w->state == STATE_SYN_RECEIVED && me == FROM_CLIENT)
		return in_window(w, me, p) && is_within(p->ack, w->acked[1], w->next[1]);
	return in_window(w, me, p);
}

/* Takes a segment into account; gives what it has changed. */
static __always_inline __u32 advance_tcp(struct flow *w, const int me, const struct packet *p,
					 const struct later_syn *later)
{
	bool closed = w->state == STATE_CLOSED;
	__u32 change = CHANGE_COUNTS;

	if (p->flags & TCP_RST) {
		if (closed)
			return 0;
		if (!valid_reset(w, me, p, later))
			return CHANGE_OUT_OF_WINDOW;
		if (w->state == STATE_ESTABLISHED || w->state == STATE_CLOSING)
			w->flags |= reset_from(me);
		w->state = STATE_CLOSED;
		return CHANGE_CLOSED | CHANGE_COUNTS;
	}
	if (p->flags & TCP_SYN)
		return closed ? 0 : take_syn(w, me, p, later);
	if (!counts(w, me, p))
		return closed ? 0 : CHANGE_OUT_OF_WINDOW;
	if (closed) {
		if (!(w->flags & reset_from(me)) || !goes_on(w, me, p))
			return 0;
		w->state = STATE_CLOSING;
		if (p->payload > 0 && is_after(end_seq(p), w->next[me])) {
			w->flags &= ~reset_from(me);
			w->state = STATE_ESTABLISHED;
		}
		move_on(w, me, p);
		return close_by_fins(w) ? CHANGE_COUNTS : CHANGE_COUNTS | CHANGE_REVIVED;
	}
	if (me == FROM_CLIENT && (w->state == STATE_SYN_SENT || w->state == STATE_SYN_RECEIVED)) {
		w->state = STATE_ESTABLISHED;
		change |= CHANGE_ESTABLISHED;
	}
	if (w->flags & reset_from(me) && goes_on(w, me, p)) {
		w->flags &= ~reset_from(me);
		w->state = STATE_ESTABLISHED;
	}
	move_on(w, me, p);
	return change | close_by_fins(w);
}

static __always_inline __u32 advance_udp(struct flow *w, const int me)
{
	/* Datagrams are counted there, and none of them is in flight. */
	if (w->next[0] != ~0U) {
		w->next[0] += 1;
		w->acked[0] += 1;
	}
	if (w->state == STATE_UDP_NEW && me == FROM_SERVER) {
		w->state = STATE_UDP_REPLIED;
	} else if ((w->state == STATE_UDP_REPLIED || (w->state == STATE_UDP_NEW && !passthrough)) &&
		   me == FROM_CLIENT) {
		w->state = STATE_UDP_STREAM;
		return CHANGE_ESTABLISHED | CHANGE_COUNTS;
	}
	return CHANGE_COUNTS;
}

/* The state of a flow that a client's packet begins. */
static __always_inline void begin(struct flow *w, const struct packet *p)
{
	if (p->protocol == IPPROTO_UDP) {
		w->state = STATE_UDP_NEW;
		w->next[0] = 1;
		w->next[1] = p->now;
		return;
	}
	w->state = p->flags & TCP_SYN ? STATE_SYN_SENT : STATE_SYN_RECEIVED;
	w->next[0] = end_seq(p);
	w->next[1] = p->seq;
	w->window[0] = widened(0, p->window);
	w->scale[0] = p->scale;
	if (w->state == STATE_SYN_RECEIVED && p->flags & TCP_FIN)
		w->flags |= FLAG_FIN_CLIENT;
}

#endif
