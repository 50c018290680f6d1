/** One server of a balancer, for programs that deal with one. */
import type { Balancer } from "./balancer.ts";
import type { DrainOptions, DrainResult, RemoveResult } from "./options.ts";
import { noServer } from "./servers.ts";
import type { ServerStats } from "./stats.ts";

/** Given by `Balancer.server()`. Holds nothing but the name: what it is called for is done to the server of that name. */
export class ServerHandle {
  readonly #balancer: Balancer;
  /** `backend/server`. */
  readonly name: string;

  /** @internal */
  constructor(balancer: Balancer, name: string) {
    this.#balancer = balancer;
    this.name = name;
  }

  /**
   * What `/stats` tells of it, read now.
   *
   * @throws ConveyError `NOT_FOUND` when it has left.
   */
  stats(): ServerStats {
    // Neither name has a slash.
    const [backend = "", server = ""] = this.name.split("/");
    const { backends } = this.#balancer.stats();
    const details = Object.hasOwn(backends, backend) ? backends[backend]?.server_details : undefined;
    const found = details !== undefined && Object.hasOwn(details, server) ? details[server] : undefined;
    if (found === undefined) throw noServer(this.name);
    return found;
  }

  /** See `Balancer.drain()`. */
  drain(options?: DrainOptions): Promise<DrainResult> {
    return this.#balancer.drain(this.name, options);
  }

  /** See `Balancer.enable()`. */
  enable(): void {
    this.#balancer.enable(this.name);
  }

  /** See `Balancer.setWeight()`. */
  setWeight(weight: number | null): void {
    this.#balancer.setWeight(this.name, weight);
  }

  /** See `Balancer.removeServer()`. */
  remove(options?: { deadlineMs?: number }): Promise<RemoveResult> {
    return this.#balancer.removeServer(this.name, options);
  }
}
