/** One visit: fresh labs, one peer in them, every kind of work once. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { loadgenPath, startServer } from "../support/loadgen.ts";
import { folder, type Relay } from "../support/peers.ts";
import { family, finish, type Running, start, until } from "../support/processes.ts";
import { address, Row } from "../support/row.ts";
import type { Visit } from "./figures.ts";
import { goOn, guard } from "./interruption.ts";
import type { Options, Profile, Work } from "./options.ts";
import type { Peer } from "./peers.ts";
import {
  bySetup,
  furtherAddresses,
  HELLO,
  openFiles,
  SERVER_NAME,
  type Setup,
  tooManyPairs,
} from "./setups.ts";
import { type Standing, work } from "./works.ts";

/** Servers and clients that must not wait behind what runs on their core. */
const AT_ONCE = ["chrt", "-f", "1"];

/** Visits `peer`; `halfRate` is the fixed rate of the half-load run in requests a second, without which it is left out. */
export async function visit(
  peer: Peer,
  profile: Profile,
  offloads: boolean,
  options: Options,
  halfRate: number | undefined,
): Promise<Visit> {
  const result: Visit = { peer: peer.name, figures: {}, missing: [], failures: 0 };
  for (const [setup, works] of bySetup(options.works)) {
    const limit = openFiles(readFileSync("/proc/self/limits", "utf8"));
    const reason = setup === "idle" ? tooManyPairs(options.pairs, limit) : undefined;
    if (reason === undefined) await stand(setup, works, peer, profile, offloads, options, halfRate, result);
    else result.missing.push(...works.map((name) => `${name}: ${reason}`));
  }
  return result;
}

/** Builds a lab as `setup` wants it and does `works` in it. */
async function stand(
  setup: Setup,
  works: readonly Work[],
  peer: Peer,
  profile: Profile,
  offloads: boolean,
  options: Options,
  halfRate: number | undefined,
  result: Visit,
): Promise<void> {
  goOn();
  await using lab = await Row.create({ offloads, reuseTimeWait: true });
  using _guard = guard(lab.namespaces());
  // As many descriptors as may be had; exec keeps the process id.
  const files = ["sh", "-c", 'ulimit -n "$(ulimit -Hn)"; exec "$@"', "bench"];
  const aside = profile === "one" ? [...files, "taskset", "-c", "0"] : files;
  const apart = profile === "one" ? [...files, "taskset", "-c", "1"] : files;
  const first = setup === "mixed" ? [...aside, ...AT_ONCE] : aside;

  const pairs = setup === "idle" ? options.pairs : 0;
  const more = furtherAddresses("10.77.2", pairs);
  const from = furtherAddresses("10.77.1", pairs);
  for (const one of more) await lab.sh("server", `ip address add ${one}/24 dev back`);
  for (const one of from) await lab.sh("client", `ip address add ${one}/24 dev front`);

  const server = `${address.server}:8080`;
  const target = peer.command === undefined ? server : `${address.front}:8080`;
  const beside = { listen: `${address.front}:8081`, server: `${address.server}:8081` };
  const log = setup === "connect-log" ? join(folder("log"), "connections.log") : undefined;
  const relay: Relay = {
    listen: target,
    server,
    threads: profile === "one" ? 1 : 2,
    ...(setup === "mixed" ? { beside } : {}),
    ...(setup === "idle" ? { pairs, more: more.map((one) => `${one}:8080`) } : {}),
    ...(setup === "connect-proxy" ? { sendProxy: true } : {}),
    ...(setup === "connect-sni" ? { sni: SERVER_NAME } : {}),
    ...(log === undefined ? {} : { log }),
  };
  const command = peer.command?.(relay);
  if (peer.command !== undefined && command === undefined) {
    result.missing.push(...works.map((name) => `${name}: its command has no {config}`));
    return;
  }

  await using small = (
    await startServer({
      prefix: lab.at("server", ...first),
      // On every address there is: the servers of many idle pairs are one process.
      listen: setup === "idle" ? "0.0.0.0:8080" : server,
      args: expected(setup, command !== undefined),
    })
  ).process;
  await using _bulk =
    setup === "mixed"
      ? (await startServer({ prefix: lab.at("server", ...aside), listen: beside.server })).process
      : undefined;
  const balancer: Running | undefined =
    command === undefined ? undefined : start(lab.at("balancer", ...apart, ...command));
  await using _balancer = balancer;

  const client = lab.at("client", ...first, await loadgenPath());
  const hello = setup === "connect-sni" ? ["--hello", HELLO] : [];
  await until(
    async () => {
      if (balancer && !balancer.running) throw new Error(`${peer.name} ended at once\n${balancer.output()}`);
      const hold = ["hold", "--connect", target, "--connections", "1", ...hello];
      return (await finish([...client, ...hold])).code === 0;
    },
    `answer through ${peer.name}`,
    15_000,
    () => balancer?.output() ?? "",
  );

  const standing: Standing = {
    client,
    behind: lab.at("client", ...aside, await loadgenPath()),
    target,
    besides: peer.command === undefined ? beside.server : beside.listen,
    pids: balancer === undefined ? [] : family(balancer.pid),
    serverPid: small.pid,
    from: from.length === 0 ? [] : [address.client, ...from],
    hello,
    log,
  };
  for (const name of works) await work(name, standing, options, halfRate, result);
}

/** What the server insists on, so that a balancer that does not do it has failures and no figures. */
function expected(setup: Setup, balanced: boolean): string[] {
  if (setup === "connect-proxy" && balanced) return ["--expect", "proxy"];
  return setup === "connect-sni" ? ["--expect", "hello"] : [];
}
