/** The place of the HTTP server within a balancer, and moving it to other settings by reload. */
import { isDeepStrictEqual } from "node:util";
import { hostPort, type SocketAddress } from "../config/address.ts";
import { ConveyError, type ConveyErrorCode } from "../native/index.ts";
import type { AdminSettings } from "./access.ts";
import { type AdminServer, openAdmin } from "./server.ts";
import type { AdminSource } from "./source.ts";

/** A frontend of the data plane and where it listens. */
export type FrontendListener = SocketAddress & { name: string };

/** The frontends' listeners before and after the change that a move is part of. */
export type Neighbours = { before: readonly FrontendListener[]; after: readonly FrontendListener[] };

/**
 * A move that is not final yet: `finish()` once the data plane has changed and its old listeners are closed, then
 * `commit()`; or `rollBack()` at any time before, once the data plane is as it was.
 */
export type AdminMove = {
  /**
   * Takes where the frontends listen now.
   *
   * @throws ConveyError when the address cannot be had.
   */
  finish: (frontends: readonly FrontendListener[]) => Promise<void>;
  commit: () => void;
  /** @throws ConveyError when the old server cannot be opened again. */
  rollBack: () => Promise<void>;
};

const NO_MOVE: AdminMove = {
  finish: async () => undefined,
  commit: () => undefined,
  rollBack: async () => undefined,
};

/** Holds the HTTP server in service, if there is one. */
export class AdminSlot {
  readonly #source: AdminSource;
  #settings: AdminSettings | undefined;
  #server: AdminServer | undefined;

  constructor(source: AdminSource) {
    this.#source = source;
  }

  /** Where it listens. */
  get address(): { host: string; port: number } | undefined {
    return this.#server?.address;
  }

  /** Whether it serves under exactly these settings. */
  serves(settings: AdminSettings | undefined): boolean {
    return isDeepStrictEqual(settings, this.#settings);
  }

  /**
   * Serves under `settings` from now on, until the move is rolled back. The new server opens beside the old one.
   * Where that cannot be, because both or a frontend to come want one port, the old one closes first; where the
   * new address is that of a frontend that goes, the new server opens in `finish()`.
   *
   * @throws ConveyError when it cannot; the old one serves on.
   */
  async move(settings: AdminSettings | undefined, neighbours: Neighbours): Promise<AdminMove> {
    if (this.serves(settings)) return NO_MOVE;
    const old = { server: this.#server, settings: this.#settings };
    const held = old.server?.address.port;
    // By port alone: closing early or opening late does no harm where the addresses differ after all.
    const first =
      held !== undefined && (settings?.port === held || holder(neighbours.after, held) !== undefined);
    const waits = settings !== undefined && holder(neighbours.before, settings.port) !== undefined;
    if (first) {
      void old.server?.close();
      this.#server = undefined;
    }
    const rollBack = async () => {
      const opened = this.#server;
      if (opened !== old.server) await opened?.close();
      if (first) await this.#reopen(old.server);
      else this.#server = old.server;
      this.#settings = old.settings;
    };
    const open = async (frontends: readonly FrontendListener[]) => {
      this.#server =
        settings && (await openAdmin(settings, this.#source).catch((e) => blame(e, settings, frontends)));
      this.#settings = settings;
    };
    const finish = async (frontends: readonly FrontendListener[]) => {
      if (waits) await open(frontends);
    };
    const commit = () => {
      if (!first) void old.server?.close();
    };
    if (!waits) await open(neighbours.after).catch((error) => undo(error, rollBack));
    return { finish, commit, rollBack };
  }

  async close(): Promise<void> {
    await this.#server?.close();
  }

  async #reopen(old: AdminServer | undefined): Promise<void> {
    // Should it fail there is none, and the next reload opens one.
    this.#server = undefined;
    this.#settings = undefined;
    if (old === undefined) return;
    this.#server = await openAdmin({ ...old.settings, port: old.address.port }, this.#source);
  }
}

/** The frontend that has `port`. */
function holder(frontends: readonly FrontendListener[], port: number): FrontendListener | undefined {
  return port === 0 ? undefined : frontends.find((frontend) => frontend.port === port);
}

/** Says so where it is a frontend of ours that holds the address. */
function blame(error: unknown, { host, port }: AdminSettings, frontends: readonly FrontendListener[]): never {
  const other = holder(frontends, port);
  const busy = error instanceof ConveyError && (error.cause as NodeJS.ErrnoException)?.code === "EADDRINUSE";
  if (!busy || other === undefined) throw error;
  throw new ConveyError(
    "BIND_FAILED",
    `cannot serve stats on ${hostPort({ host, port })}: frontend "${other.name}" of this convey listens there; choose another stats.port`,
    { field: "stats.port", cause: error.cause },
  );
}

/**
 * Rolls back because of `error` and throws it; should that fail too, both are told.
 *
 * @throws always.
 */
export async function undo(error: unknown, rollBack: () => Promise<void> | void): Promise<never> {
  try {
    await rollBack();
  } catch (second) {
    const [first, then] = [error, second].map((e) => (e instanceof Error ? e.message : String(e)));
    const { code } = error as { code?: ConveyErrorCode };
    throw new ConveyError(code ?? "INTERNAL", `${first}; nor could everything be put back: ${then}`, {
      cause: error,
    });
  }
  throw error;
}
