/**
 * Adds and removes servers while a balancer runs. Changes that wait for the same turn reach the data plane in one
 * step, so a thousand at once cost little more than one; one that is refused does not take the others with it.
 */
import { isDeepStrictEqual } from "node:util";
import { problemOf } from "../config/check.ts";
import { serverKey } from "../config/lower.ts";
import { formatPath } from "../config/problem.ts";
import type { ServerConfig } from "../config/schema.ts";
import { parseServers } from "../config/servers.ts";
import { ConveyError } from "../native/index.ts";
import type { Configuration } from "./configuration.ts";
import { type Change, describeChanges, diffServers } from "./diff.ts";
import { invalidConfig } from "./invalid-config.ts";
import type { ChangeResult, NewServer, NewServers } from "./options.ts";
import { type Edit, edit, type Overlay, serverIn, serversOf } from "./overlay.ts";
import { noServer } from "./servers.ts";
import type { Turns } from "./turns.ts";

/** What one call wants, from the servers as those before it leave them. Throws ConveyError. */
type Wish = (overlay: Overlay) => { backend: string; edits: Edit[]; changes: Change[] };

type Waiting = {
  wish: Wish;
  resolve: (result: ChangeResult) => void;
  reject: (error: unknown) => void;
};

/** See the module's head. */
export class RuntimeServers {
  readonly #configuration: Configuration;
  readonly #turns: Turns;
  readonly #tell: (changes: Change[]) => void;
  #waiting: Waiting[] = [];
  /** The turn that will take those who wait. */
  #turn = -1;

  /** `tell` is called with everything that one step has changed. */
  constructor(configuration: Configuration, turns: Turns, tell: (changes: Change[]) => void) {
    this.#configuration = configuration;
    this.#turns = turns;
    this.#tell = tell;
  }

  /** See `Balancer.addServer()`. */
  add(backend: string, { name, ...settings }: NewServer): Promise<ChangeResult> {
    return this.#ask((overlay) => {
      const { base } = this.#configuration;
      this.#known(backend);
      const server = named(backend, name);
      const now = this.#parse(backend, Object.fromEntries([[server, settings]])).get(server) as ServerConfig;
      if (serverIn(base, overlay, backend, server) !== undefined) {
        throw new ConveyError(
          "CONFIG_INVALID",
          `a server named "${serverKey(backend, server)}" is there already`,
          {
            field: formatPath(["backends", backend, "servers", server]),
          },
        );
      }
      const changes = diffServers(backend, new Map(), new Map([[server, now]]));
      return { backend, edits: [{ backend, server, now }], changes };
    });
  }

  /** See `Balancer.removeServer()`. */
  remove(backend: string, server: string): Promise<ChangeResult> {
    return this.#ask((overlay) => {
      const was = serverIn(this.#configuration.base, overlay, backend, server);
      if (was === undefined) throw noServer(serverKey(backend, server));
      const changes = diffServers(backend, new Map([[server, was]]), new Map());
      return { backend, edits: [{ backend, server, now: undefined }], changes };
    });
  }

  /** See `Balancer.setServers()`. */
  set(backend: string, list: NewServers): Promise<ChangeResult> {
    return this.#ask((overlay) => {
      const { base } = this.#configuration;
      this.#known(backend);
      const before = serversOf(base, overlay, backend) as Map<string, ServerConfig>;
      const after = this.#parse(backend, byName(backend, list));
      const names = new Set([...before.keys(), ...after.keys()]);
      const edits = [...names].flatMap((server) =>
        isDeepStrictEqual(before.get(server), after.get(server))
          ? []
          : [{ backend, server, now: after.get(server) }],
      );
      return { backend, edits, changes: diffServers(backend, before, after) };
    });
  }

  #ask(wish: Wish): Promise<ChangeResult> {
    return new Promise((resolve, reject) => {
      const one: Waiting = { wish, resolve, reject };
      // Only while nobody else's turn comes in between.
      if (this.#waiting.length > 0 && this.#turn === this.#turns.asked) {
        this.#waiting.push(one);
        return;
      }
      const together = [one];
      this.#waiting = together;
      void this.#turns.take(async () => {
        if (this.#waiting === together) this.#waiting = [];
        await this.#apply(together);
      });
      this.#turn = this.#turns.asked;
    });
  }

  async #apply(waiting: readonly Waiting[]): Promise<void> {
    const { base } = this.#configuration;
    let { overlay } = this.#configuration;
    const edits: Edit[] = [];
    const agreed = waiting.flatMap((one) => {
      try {
        const wanted = one.wish(overlay);
        overlay = edit(base, overlay, wanted.edits);
        edits.push(...wanted.edits);
        return [{ one, ...wanted }];
      } catch (error) {
        one.reject(error);
        return [];
      }
    });
    if (agreed.length === 0) return;
    try {
      const { changes, warnings } = await this.#configuration.change(edits);
      if (changes.length > 0) this.#tell(changes);
      for (const { one, backend, changes: own } of agreed) {
        const place = formatPath(["backends", backend]);
        const concerned = warnings.filter(({ path }) => path === place || path.startsWith(`${place}.`));
        one.resolve(changeResult(own, concerned));
      }
    } catch (error) {
      const refused = error instanceof ConveyError && error.code === "CONFIG_INVALID";
      if (agreed.length === 1 || !refused) {
        for (const { one } of agreed) one.reject(error);
        return;
      }
      const half = Math.ceil(agreed.length / 2);
      await this.#apply(agreed.slice(0, half).map(({ one }) => one));
      await this.#apply(agreed.slice(half).map(({ one }) => one));
    }
  }

  #known(backend: string): void {
    if (Object.hasOwn(this.#configuration.base.backends, backend)) return;
    throw new ConveyError("NOT_FOUND", `no backend is named "${backend}"`);
  }

  #parse(backend: string, servers: unknown): Map<string, ServerConfig> {
    const parsed = parseServers(backend, servers);
    if (parsed.ok) return parsed.servers;
    throw invalidConfig(parsed.findings.map((finding) => problemOf(finding)));
  }
}

/** The answer to a change that was made, or made no difference. */
export function changeResult(changes: Change[], warnings: ChangeResult["warnings"] = []): ChangeResult {
  if (changes.length === 0) return { result: "unchanged", message: "nothing has changed", changes, warnings };
  return { result: "applied", message: describeChanges(changes), changes, warnings };
}

/** A program without types may leave it out. */
function named(backend: string, name: unknown): string {
  if (typeof name === "string") return name;
  const field = formatPath(["backends", backend, "servers"]);
  throw new ConveyError("CONFIG_INVALID", `${field}: a server needs a name`, { field });
}

/** The table of servers as the configuration has it. */
function byName(backend: string, list: NewServers): unknown {
  if (!Array.isArray(list)) return list;
  const names = new Set<string>();
  const entries = (list as readonly NewServer[]).map((item) => {
    const { name, ...settings } = { ...item };
    const server = named(backend, name);
    if (names.has(server)) {
      throw new ConveyError("CONFIG_INVALID", `the server "${serverKey(backend, server)}" is listed twice`, {
        field: formatPath(["backends", backend, "servers", server]),
      });
    }
    names.add(server);
    return [server, settings];
  });
  return Object.fromEntries(entries);
}
