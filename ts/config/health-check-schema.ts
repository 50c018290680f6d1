/**
 * `[backends.<name>.health_check]`: what servers are asked by checks, and how often. Keys have no defaults here: whether
 * a key may stand depends on `type`, so rules need to see what was written; `ts/control/health/settings.ts` fills them in.
 */
import { z } from "zod";
import { parseBytes } from "./bytes.ts";
import { readString, wording } from "./wording.ts";

export const CHECK_TYPES = ["tcp", "http", "send_expect", "none"] as const;
export type CheckType = (typeof CHECK_TYPES)[number];

/** Shorter intervals would be told apart from an attack by nobody. */
export const SHORTEST_INTERVAL_MS = 100;

/** Bytes that a check sends or looks for at most. */
const MOST_BYTES = 4096;

const milliseconds = z.int().min(1).max(86_400_000);
const interval = milliseconds.min(SHORTEST_INTERVAL_MS);
const boolean = z.boolean().register(wording, { type: "boolean", expected: "true or false" });

const text = readString((written) => {
  const bytes = parseBytes(written);
  if (!bytes.ok) return bytes;
  if (bytes.value.length > MOST_BYTES) return { ok: false, message: `has more than ${MOST_BYTES} bytes` };
  return { ok: true, value: written };
}).register(wording, {
  type: "text",
  expected: String.raw`a text in which \r, \n, \t, \0, \\ and \x00 to \xff stand for bytes, such as 'PING\r\n'`,
});

const requestPath = readString((written) =>
  /^\/[\x21-\x7e]*$/.test(written) && !written.includes("#")
    ? { ok: true, value: written }
    : { ok: false, message: "is no path that a request can name" },
).register(wording, {
  type: '"/path"',
  expected: 'a path that begins with "/", such as "/healthz?full=1"',
  pattern: "^/[!-~]*$",
});

const hostHeader = readString((written) =>
  /^[A-Za-z0-9._~:[\]-]{1,255}$/.test(written)
    ? { ok: true, value: written }
    : { ok: false, message: "is no name that a request can carry" },
).register(wording, {
  type: "host name",
  expected: 'a host name, with a port if need be, such as "app.example.com"',
  pattern: "^[0-9A-Za-z._~:\\[\\]-]+$",
});

const serverName = readString((written) =>
  /^(?=.{1,253}$)[a-z0-9_-]+(\.[a-z0-9_-]+)*$/i.test(written) && !/^[0-9.]+$/.test(written)
    ? { ok: true, value: written }
    : { ok: false, message: "is not a host name" },
).register(wording, {
  type: "host name",
  expected: 'a host name, such as "app.example.com"',
  pattern: "^[0-9A-Za-z._-]+$",
});

const path = z.string().min(1).register(wording, { type: "path", expected: "a path" });

export const healthCheckSchema = z
  .strictObject({
    type: z
      .enum(CHECK_TYPES)
      .default("tcp")
      .describe(
        "What a check is: tcp a connection that is accepted, with tls also a handshake; http a request and its status; send_expect an exchange of texts, over TCP or UDP; none leaves the servers unchecked.",
      ),
    port: z
      .int()
      .min(1)
      .max(65535)
      .optional()
      .describe("The port that checks ask; the server's own unless given."),
    method: z
      .enum(["GET", "HEAD", "OPTIONS"])
      .optional()
      .describe("The method of the request, type http; GET unless given."),
    path: requestPath.optional().describe('What is asked for, type http; "/" unless given.'),
    host: hostHeader
      .optional()
      .describe(
        "The Host of the request, type http; tls_sni or else the server's name or address unless given.",
      ),
    expect: text
      .optional()
      .describe(
        'What counts as a success. Type http: statuses, such as "200-299,301"; "200-399" unless given. Type send_expect: a text within the first 64 KiB of the answer; "" is any answer, and without it over UDP it is enough that nobody refuses.',
      ),
    expect_body: text
      .optional()
      .describe("A text that must stand within the first 64 KiB of the body, type http with method GET."),
    send: text
      .optional()
      .describe(
        String.raw`What is sent, type send_expect; \r, \n, \t, \0, \\ and \x00 to \xff stand for bytes. Without it the server speaks first.`,
      ),
    protocol: z
      .enum(["tcp", "udp"])
      .optional()
      .describe(
        "How texts are exchanged, type send_expect; udp where all frontends of the backend are UDP, tcp otherwise.",
      ),
    tls: boolean.optional().describe("Whether checks speak TLS; false unless given. Not over UDP."),
    tls_sni: serverName
      .optional()
      .describe(
        "The name asked for by TLS, and looked for in the certificate; that of host or of the server unless given.",
      ),
    tls_verify: boolean
      .optional()
      .describe(
        "Whether the certificate must be valid, for that name or the server's address; true unless given.",
      ),
    tls_ca: path
      .optional()
      .describe("PEM file with the certificates to trust; those that come with Node.js unless given."),
    interval_ms: interval
      .optional()
      .describe("Milliseconds between checks of a server; in place of health_check_interval."),
    down_interval_ms: interval
      .optional()
      .describe("Milliseconds between checks of a server that is down; as while it is up unless given."),
    fast_interval_ms: interval
      .optional()
      .describe(
        "Milliseconds between checks while a server is changing between up and down; in place of health_check_fast_interval_ms.",
      ),
    timeout_ms: milliseconds
      .optional()
      .describe("Milliseconds that a whole check may take; in place of health_check_timeout_ms."),
    rise: z
      .int()
      .min(1)
      .max(1000)
      .optional()
      .describe("Successful checks in a row that bring a server up; in place of health_check_rise."),
    fall: z
      .int()
      .min(1)
      .max(1000)
      .optional()
      .describe("Failed checks in a row that take a server down; in place of health_check_fall."),
  })
  .describe("How the servers of a backend are checked.");

export type HealthCheckConfig = z.output<typeof healthCheckSchema>;
