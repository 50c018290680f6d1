/**
 * Checks by a datagram: answered, or at least not refused. Who refuses is the server's kernel, by ICMP, which a connected
 * socket is told of; a host that is gone, or a firewall, says nothing, so that an answer to expect is worth more.
 */
import { createSocket } from "node:dgram";
import type { DatagramAsk } from "./ask.ts";
import { Heard, MOST_HEARD } from "./heard.ts";
import { excerpt, type GiveUp, type Outcome, outcomeOf } from "./outcome.ts";

/** Asks once; as `probeTcp()`. */
export function askByDatagram(
  { host, port }: { host: string; port: number },
  { send, expect }: DatagramAsk,
  done: (outcome: Outcome) => void,
): GiveUp {
  const heard = new Heard();
  let settled = false;
  const giveUp = (): void => {
    if (settled) return;
    settled = true;
    socket.close();
  };
  const finish = (outcome: Outcome): void => {
    if (settled) return;
    giveUp();
    done(
      heard.length === 0 || outcome.kind === "local" ? outcome : { answer: excerpt(heard.bytes), ...outcome },
    );
  };
  const failed = (error: NodeJS.ErrnoException): void => {
    const cause = "refused: an ICMP message says that nobody listens (ECONNREFUSED)";
    finish(error.code === "ECONNREFUSED" ? { kind: "failed", cause } : outcomeOf(error));
  };
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  socket.on("error", failed);
  socket.on("message", (message) => {
    heard.add(message);
    if (expect === undefined || expect.length === 0 || heard.has(expect)) {
      finish({ kind: "ok", cause: expect === undefined ? "answered" : "answered as expected" });
    } else if (heard.full) {
      const cause = `an answer without the expected text in its first ${MOST_HEARD / 1024} KiB`;
      finish({ kind: "failed", cause });
    }
  });
  socket.on("connect", () => {
    if (settled) return;
    socket.send(send, (error) => error && failed(error));
  });
  socket.connect(port, host);
  socket.unref();
  const whenLate = (timeoutMs: number): Outcome => {
    if (expect === undefined) return { kind: "ok", cause: `not refused within ${timeoutMs} ms` };
    if (heard.length === 0)
      return { kind: "failed", cause: `no answer within ${timeoutMs} ms`, silent: true };
    const cause = `an answer without the expected text within ${timeoutMs} ms`;
    return { kind: "failed", cause, answer: excerpt(heard.bytes) };
  };
  return Object.assign(giveUp, { whenLate });
}
