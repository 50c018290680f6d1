/** `GET /api/v1/explain`: what would become of a packet, by the code that forwards. */
import { z } from "@hono/zod-openapi";
import { parseHello } from "../../control/explain.ts";
import { ConveyError } from "../../native/index.ts";
import { fail, refused } from "../failure.ts";
import { json, route } from "../route.ts";
import { explanationSchema } from "../schemas/explanation.ts";

export const explain = route(
  {
    method: "get",
    path: "/api/v1/explain",
    operationId: "explain",
    summary: "What would become of the next packet of a flow, step by step. Changes nothing.",
    request: {
      query: z.object({
        protocol: z.string().openapi({ description: "tcp or udp", example: "tcp" }),
        source: z.string().openapi({ description: "ip:port, IPv6 in brackets", example: "192.0.2.7:40000" }),
        destination: z.string().openapi({ description: "ip:port", example: "198.51.100.1:80" }),
        sni: z.string().optional().openapi({
          description:
            "The server name in the connection's ClientHello, of an encrypted one the outer name, for a frontend with routes in sni or alpn; 400 for another frontend.",
          example: "app.example.com",
        }),
        alpn: z.string().optional().openapi({
          description: "The protocols it offers in ALPN, the one liked best first, as sni is.",
          example: "h2,http/1.1",
        }),
      }),
    },
    responses: { 200: json("The way of the packet.", explanationSchema) },
  },
  ({ source }) =>
    async (c) => {
      const { protocol, source: from, destination, sni, alpn } = c.req.valid("query");
      try {
        const hello = parseHello(sni, alpn);
        if (!hello.ok) throw new ConveyError("CONFIG_INVALID", hello.message);
        return c.json(await source.explain(protocol, from, destination, hello.value), 200);
      } catch (error) {
        throw refused(error, (code) => (code === "CONFIG_INVALID" ? 400 : 503));
      }
    },
  {
    onInvalid: () =>
      fail(
        400,
        "protocol, source and destination are needed, as in ?protocol=tcp&source=ip:port&destination=ip:port",
      ),
  },
);
