/**
 * Checks in dsr mode that ask a server for the frontends' addresses (VIPs), as clients do: a server that was not
 * prepared answers a connect to its own address and no client. What a packet finds out is known in Rust; here it is
 * put into words, and what cannot be asked that way is asked at the server's own address, too.
 */
import { hostPort } from "../../config/address.ts";
import { isEverywhere, type Listening, listenTexts, parseListen } from "../../config/listen.ts";
import type { Config, DsrMethod } from "../../config/schema.ts";
import type { NativeProbe, NativeProbeReport } from "../../native/index.ts";
import { askServer } from "./ask-server.ts";
import type { CheckTarget, ProbeFunction } from "./monitor.ts";
import type { GiveUp, Outcome } from "./outcome.ts";
import type { OpenFrom } from "./probe.ts";

/** What a server is asked for. */
export type VipCheck = {
  /** "ip:port" of TCP frontends, all of which it has to answer for. */
  vips: readonly string[];
  method: DsrMethod;
  /** Whether the configuration asks for it, so that nothing else will do. */
  required: boolean;
};

/** Sends a probe; returns how to forget it. */
export type SendProbe = (probe: NativeProbe, done: (report: NativeProbeReport) => void) => () => void;

/** What the servers of a backend are asked for; undefined where they are asked at their own address. */
export function vipCheck(config: Config, name: string): VipCheck | undefined {
  const backend = config.backends[name];
  if (config.mode !== "dsr" || backend === undefined) return undefined;
  const method = backend.dsr_method ?? config.dsr.method;
  if ((backend.check ?? (method === "l2" ? "vip" : "address")) === "address") return undefined;
  const vips = Object.values(config.frontends)
    .filter((frontend) => frontend.backend === name && frontend.protocol === "tcp")
    .flatMap((frontend) => askedFor(frontend, backend.health_check?.port));
  return vips.length === 0
    ? undefined
    : { vips: [...new Set(vips)], method, required: backend.check === "vip" };
}

/** Of a range of ports the first alone: it is the address that a server lacks or has. */
function askedFor(frontend: Listening, otherPort: number | undefined): string[] {
  return listenTexts(frontend).flatMap((text) => {
    const parsed = parseListen(text);
    if (!parsed.ok || isEverywhere(parsed.value)) return [];
    const { host, from: port } = parsed.value;
    return [hostPort({ host, port: otherPort ?? port })];
  });
}

/**
 * The probe of every server: by `send` where frontends' addresses are asked for, else at its own. `tell` hears,
 * once for each backend and cause, that its servers are asked at their own addresses after all.
 */
export function serverProbe(
  send: SendProbe,
  tell: (message: string) => void,
  openFrom?: OpenFrom,
): ProbeFunction {
  const told = new Set<string>();
  return (target, done) => {
    const { host, port, vips: check } = target;
    if (check === undefined) return askServer(target, done, openFrom);
    const startedAt = performance.now();
    const goOn = () => {
      const leftMs = target.settings.timeoutMs - (performance.now() - startedAt);
      return askWithin(target, leftMs, done, openFrom);
    };
    const probe = {
      server: hostPort({ host, port }),
      vips: [...check.vips],
      method: check.method,
      timeoutMs: target.settings.timeoutMs,
    };
    let cancel = send(probe, (report) => {
      if (report.outcome === "answered" && target.ask !== undefined) {
        cancel = goOn();
        return;
      }
      if (report.outcome !== "unavailable" || check.required) {
        done(outcomeOf(report, target, check));
        return;
      }
      const backend = target.key.slice(0, target.key.indexOf("/"));
      const message =
        `servers of backend ${backend} are checked at their own addresses, because ${report.detail}; ` +
        `one that does not answer for ${check.vips.join(", ")} is not noticed`;
      if (!told.has(message)) {
        told.add(message);
        tell(message);
      }
      cancel = goOn();
    });
    return () => cancel();
  };
}

/** A check at the server's own address that ends by itself, as probes of this kind do. */
function askWithin(
  target: CheckTarget,
  leftMs: number,
  done: (outcome: Outcome) => void,
  openFrom: OpenFrom | undefined,
): () => void {
  const answered = (outcome: Outcome): void => {
    clearTimeout(timer);
    done(outcome);
  };
  const giveUp: GiveUp = askServer(target, answered, openFrom);
  const { timeoutMs } = target.settings;
  const timer = setTimeout(() => {
    const late = giveUp.whenLate?.(timeoutMs);
    giveUp();
    done(late ?? { kind: "failed", cause: `no answer within ${timeoutMs} ms`, silent: true });
  }, leftMs);
  timer.unref();
  return () => {
    clearTimeout(timer);
    giveUp();
  };
}

/** What a report means for a server. */
function outcomeOf(report: NativeProbeReport, target: CheckTarget, check: VipCheck): Outcome {
  const { vip, detail, latencyMs: durationMs } = report;
  const failed = (cause: string) => ({ kind: "failed", cause, durationMs }) as const;
  switch (report.outcome) {
    case "answered":
      return { kind: "ok", cause: `answers for VIP ${check.vips.join(", ")}`, durationMs };
    case "refused":
      return failed(`refuses connections to VIP ${vip}`);
    case "silent": {
      const why = silence(vip, detail, target, check);
      return { ...failed(`the server does not answer for VIP ${vip}: ${why}`), silent: true };
    }
    case "elsewhere":
      return failed(
        `the server answers from ${detail} instead of VIP ${vip}: was it prepared, without naming this balancer? ` +
          `convey dsr-server ${vip} --server ${target.host}`,
      );
    case "unresolved":
      return { ...failed(`the server cannot be reached: ${detail}`), silent: true };
    case "noway":
      return failed(`the server cannot be reached: ${detail}`);
    case "notsent":
      return { kind: "local", cause: `this machine cannot send: ${detail}` };
    case "unavailable":
      return { kind: "local", cause: `servers cannot be asked for VIP ${check.vips.join(", ")}: ${detail}` };
  }
}

function silence(vip: string, other: string, { host, settings }: CheckTarget, check: VipCheck): string {
  if (check.method === "rewrite") return `no answer within ${settings.timeoutMs} ms`;
  // Without that, a server that is gone looks the same as one that drops what is not for it.
  const instead =
    other === "" ? "is it up, and" : `${other} does in its place, so it passed the packet on; is`;
  return `${instead} the address on its loopback? convey dsr-server ${vip} --method l2 --server ${host}`;
}
