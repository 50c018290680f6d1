// SPDX-License-Identifier: MIT OR GPL-2.0
/* Leaves every frame to the kernel. Run by BPF_PROG_TEST_RUN with live frames it gives the kernel a frame as if it had just
 * come; attached to the other end of a veth it lets frames in that were sent by XDP_TX or a redirect.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int convey_pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
