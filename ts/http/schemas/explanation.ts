/** The body of `GET /api/v1/explain`. */
import { z } from "@hono/zod-openapi";

const addresses = { source: z.string(), destination: z.string() };

export const explanationSchema = z
  .object({
    protocol: z.enum(["tcp", "udp"]),
    ...addresses,
    sni: z.string().optional().openapi({ description: "As asked, in ASCII." }),
    alpn: z.array(z.string()).optional().openapi({ description: "As asked." }),
    frontend: z.string().nullable(),
    flow: z.string().nullable(),
    direction: z.enum(["from_client", "from_server"]).nullable(),
    maglev_slot: z.number().int().nullable(),
    server: z.object({ backend: z.string(), name: z.string(), addr: z.string() }).nullable(),
    method: z.enum(["nat", "rewrite", "l2"]).nullable(),
    rewritten: z.object(addresses).nullable(),
    next_hop: z
      .object({
        ifindex: z.number().int(),
        mtu: z.number().int(),
        source_mac: z.string(),
        destination_mac: z.string(),
      })
      .nullable(),
    verdict: z.string().openapi({ description: "`forward`, `connect`, `wait`, or verdict and reason." }),
    steps: z.array(z.object({ kind: z.string(), text: z.string() })),
  })
  .openapi("Explanation");
