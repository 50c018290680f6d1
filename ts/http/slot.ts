/** The place of the HTTP server within a balancer, and moving it to other settings by reload. */
import { isDeepStrictEqual } from "node:util";
import type { AdminSettings } from "./access.ts";
import type { AdminSource } from "./app.ts";
import { type AdminServer, openAdmin } from "./server.ts";

/** A move that is not final yet; exactly one of both is called. */
export type AdminMove = { commit: () => void; rollBack: () => Promise<void> };

const NO_MOVE: AdminMove = { commit: () => undefined, rollBack: async () => undefined };

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
   * Serves under `settings` from now on, until the move is rolled back. The new server opens beside the old
   * one; where both want one port (another address, another token) the old one closes first.
   *
   * @throws ConveyError when it cannot; the old one serves on.
   */
  async move(settings: AdminSettings | undefined): Promise<AdminMove> {
    if (this.serves(settings)) return NO_MOVE;
    const old = { server: this.#server, settings: this.#settings };
    const clash = old.server !== undefined && settings?.port === old.server.address.port;
    if (clash) void old.server?.close();
    try {
      this.#server = settings && (await openAdmin(settings, this.#source));
      this.#settings = settings;
    } catch (error) {
      if (clash) this.#server = await this.#reopen(old.server);
      throw error;
    }
    const opened = this.#server;
    return {
      commit: () => {
        if (!clash) void old.server?.close();
      },
      rollBack: async () => {
        await opened?.close();
        this.#server = clash ? await this.#reopen(old.server) : old.server;
        this.#settings = old.settings;
      },
    };
  }

  async close(): Promise<void> {
    await this.#server?.close();
  }

  async #reopen(old: AdminServer | undefined): Promise<AdminServer | undefined> {
    if (old === undefined) return undefined;
    return await openAdmin({ ...old.settings, port: old.address.port }, this.#source);
  }
}
