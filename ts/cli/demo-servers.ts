/** The demo's servers: small HTTP servers on loopback that say who they are and can be switched off and on. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";

/** One embedded server. Its port stays the same while it is off. */
export class DemoServer {
  readonly name: string;
  readonly port: number;
  #server: Server | undefined;

  private constructor(name: string, server: Server) {
    this.name = name;
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
  }

  /** Starts one on a free loopback port. */
  static async start(name: string): Promise<DemoServer> {
    return new DemoServer(name, await listen(name, 0));
  }

  get on(): boolean {
    return this.#server !== undefined;
  }

  /** Stops listening and cuts what is open, as a crash would. */
  async switchOff(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }

  /** Listens on the same port again. */
  async switchOn(): Promise<void> {
    this.#server ??= await listen(this.name, this.port);
  }
}

function listen(name: string, port: number): Promise<Server> {
  const server = createServer((_request, response) => {
    // One connection a request, so that each curl and each reload of a page shows the next server.
    response.writeHead(200, { "content-type": "text/plain; charset=utf-8", connection: "close" });
    response.end(`Hello from server ${name}\n`);
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      server.off("error", reject);
      server.on("error", () => {});
      resolve(server);
    });
  });
}
