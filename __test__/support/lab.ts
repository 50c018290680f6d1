/**
 * Network namespaces of a test's own: what every lab has in common. Names are unique, so labs can stand side by side;
 * addresses and ports inside are private and may be fixed. Needs root.
 */
import { randomBytes } from "node:crypto";
import { finish, succeed } from "./processes.ts";

/** A namespace for each place, to be joined by whoever extends it. `await using` removes it. */
export abstract class Lab<Place extends string> implements AsyncDisposable {
  readonly #prefix: string;
  readonly #places: readonly Place[];

  /** Namespaces are named `<kind>-<random>-<place>`. */
  protected constructor(kind: string, places: readonly Place[]) {
    this.#prefix = `${kind}-${randomBytes(3).toString("hex")}`;
    this.#places = places;
  }

  /** Makes the namespaces and runs these shell lines; what was made goes away again when one fails. */
  protected async build(lines: readonly string[]): Promise<void> {
    const namespaces = this.namespaces().flatMap((name) => [
      `ip netns add ${name}`,
      `ip -n ${name} link set lo up`,
      // Router advertisements and duplicate detection only cost time here.
      `ip netns exec ${name} sysctl -qw net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_dad=0`,
    ]);
    try {
      await succeed(["sh", "-ec", [...namespaces, ...lines].join("\n")]);
    } catch (error) {
      await this.remove();
      throw error;
    }
  }

  namespace(place: Place): string {
    return `${this.#prefix}-${place}`;
  }

  namespaces(): string[] {
    return this.#places.map((place) => this.namespace(place));
  }

  /** The words to put before a command so that it runs there. */
  at(place: Place, ...command: string[]): string[] {
    return ["ip", "netns", "exec", this.namespace(place), ...command];
  }

  /** Runs shell lines there that must succeed; returns their stdout. */
  async sh(place: Place, lines: string): Promise<string> {
    return succeed(this.at(place, "sh", "-ec", lines));
  }

  /** The link-layer address of a device there. */
  async mac(place: Place, device: string): Promise<string> {
    return (await this.sh(place, `cat /sys/class/net/${device}/address`)).trim();
  }

  async remove(): Promise<void> {
    for (const name of this.namespaces()) await finish(["ip", "netns", "del", name]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }
}
