// SPDX-License-Identifier: MIT OR GPL-2.0
/* Floods by BPF_PROG_TEST_RUN with live frames: what this program returns XDP_TX for leaves by the interface that the
 * run was told, several times as fast as a socket sends. A frame that is not due yet is given back.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME 60

enum kind {
	FLOWS,   /* source ports from the template's on, a `run` of packets each */
	SOURCES, /* source address and port drawn anew for each packet; TCP */
};

struct flood {
	__u64 random;
	__u64 due; /* nanoseconds of the monotonic clock */
	__u64 sent;
	__u32 gap; /* 1/1024 nanoseconds between packets */
	__u32 fraction;
	__u32 kind;
	__u32 flows;
	__u32 run;
	__u32 position;
	__u32 ip_sum;  /* of the IPv4 header without its sum; of SOURCES without the source's lower half */
	__u32 tcp_sum; /* of all that the TCP checksum covers, without source and port */
	__u8 frame[64];
};

/* What a pause may be made up for. */
#define LATE_NS 4000

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flood);
} flood SEC(".maps");

static __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	char *data = (void *)(long)ctx->data;
	__u32 zero = 0;
	struct flood *f = bpf_map_lookup_elem(&flood, &zero);

	if (!f || data + FRAME > (char *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (f->gap) {
		__u64 now = bpf_ktime_get_ns();

		if (now < f->due)
			return XDP_DROP;
		if (f->due + LATE_NS < now)
			f->due = now - LATE_NS;
		f->fraction += f->gap;
		f->due += f->fraction >> 10;
		f->fraction &= 1023;
	}
	f->sent++;
	/* The frame comes back as whoever got it left it. */
#pragma unroll
	for (int i = 0; i < 7; i++)
		((__u64 *)data)[i] = ((__u64 *)f->frame)[i];
	*(__u32 *)(data + 56) = *(__u32 *)(f->frame + 56);
	if (f->kind == SOURCES) {
		f->random = f->random * 6364136223846793005ULL + 1442695040888963407ULL;
		__u32 drawn = f->random >> 32;
		__be16 host = drawn;
		__be16 port = bpf_htons(1024 + ((drawn >> 16) & 0x7fff));

		*(__be16 *)(data + 28) = host;
		*(__u16 *)(data + 24) = folded(f->ip_sum + host);
		*(__be16 *)(data + 34) = port;
		*(__u16 *)(data + 50) = folded(f->tcp_sum + host + port);
	} else {
		__u32 position = f->position;
		__u32 flow = f->run > 1 ? position / f->run : position;

		f->position = position + 1 < f->flows * f->run ? position + 1 : 0;
		*(__be16 *)(data + 34) = bpf_htons(10000 + flow);
	}
	return XDP_TX;
}

char _license[] SEC("license") = "Dual MIT/GPL";
