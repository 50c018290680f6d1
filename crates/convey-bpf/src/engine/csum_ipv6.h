/* SPDX-License-Identifier: MIT OR GPL-2.0 */
#ifndef CONVEY_CSUM_IPV6_H
#define CONVEY_CSUM_IPV6_H

/* Tells bpf_l4_csum_replace that no header checksum makes up for other addresses: without it the sum that a network
 * card has taken of an IPv6 frame becomes wrong. Older kernels refuse it, hence the probe. */
#define CSUM_IPV6 (1ULL << 7)

#endif
