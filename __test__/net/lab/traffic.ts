/** What clients do in the packet labs, with real programs. */
import { isDeepStrictEqual } from "node:util";
import { expect } from "vitest";
import type { Product } from "../../support/convey.ts";
import { finish, succeed } from "../../support/processes.ts";
import { type PacketLab, type Place, SERVERS } from "./lab.ts";
import { HTTP, type Services, SINK } from "./servers.ts";

const url = (vip: string, path: string) => `http://${vip.includes(":") ? `[${vip}]` : vip}:${HTTP}${path}`;
const socat = (vip: string, port: number) =>
  vip.includes(":") ? `TCP6:[${vip}]:${port}` : `TCP4:${vip}:${port}`;

/** Which server answers, over `times` new connections; fails when one of them fails. */
export async function names(lab: PacketLab, vip: string, times: number): Promise<Record<string, number>> {
  const line = `for i in $(seq ${times}); do curl -gsS --max-time 5 ${url(vip, "/name")}; echo; done`;
  const counts: Record<string, number> = {};
  for (const name of (await lab.sh("client", line)).trim().split("\n"))
    counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

/**
 * Fails unless new connections meet every server, all of them answered. The choice is by a hash of their ports: of 30 one
 * server gets none once in 60,000 times, which over all engines, methods and cases is seen, and of 200 never. A server that
 * is held for down fails it at once, with what is known of it.
 */
export async function meetsEveryServer(lab: PacketLab, product?: Product): Promise<void> {
  const met = new Set<string>();
  let known = "";
  for (const times of [30, 170]) {
    for (const name of Object.keys(await names(lab, lab.vip(), times))) met.add(name);
    if (isDeepStrictEqual([...met].sort(), [...SERVERS])) return;
    if (product === undefined) continue;
    const servers = (await product.stats()).backends.http_v4?.server_details ?? {};
    known = `${JSON.stringify(servers, null, 1)}\n${product.process.output()}`;
    if (Object.values(servers).some(({ up }) => !up)) break;
  }
  throw new Error(`only ${[...met]} were met\n${known}`);
}

/** One request; whether it was answered in time. */
export async function answers(lab: PacketLab, vip: string, seconds = 1): Promise<boolean> {
  const done = await finish(
    lab.at("client", "curl", "-gsS", "--max-time", String(seconds), url(vip, "/name")),
  );
  return done.code === 0;
}

/** 50 MiB to the client over HTTP and 50 MiB to a server over a half-closed connection, compared by SHA-256. */
export async function fiftyMebibytesEachWay(lab: PacketLab, services: Services, vip: string): Promise<void> {
  const expected = (await succeed(["sha256sum", services.blob])).split(" ")[0];
  const get = `curl -gsS --max-time 60 ${url(vip, "/blob")} | sha256sum`;
  expect((await lab.sh("client", get)).split(" ")[0], "from the server").toBe(expected);
  const put = `timeout 60 socat -t60 - ${socat(vip, SINK)} < ${services.blob}`;
  expect((await lab.sh("client", put)).split(" ")[0], "to the server").toBe(expected);
}

/** One ICMP echo request; whether it was answered within half a second. */
export async function pings(lab: PacketLab, from: Place, address: string): Promise<boolean> {
  // Type, code, checksum (ICMPv6: the kernel's), identifier 1, sequence 1.
  const line = address.includes(":")
    ? `printf '\\200\\000\\000\\000\\000\\001\\000\\001' | socat -t0.5 - IP6-SENDTO:[${address}]:58`
    : `printf '\\010\\000\\367\\375\\000\\001\\000\\001' | socat -t0.5 - IP4-SENDTO:${address}:1`;
  return Number(await lab.sh(from, `${line} | wc -c`)) > 0;
}
