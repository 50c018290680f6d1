/** What runs on the servers of a packet lab: the same services on each, on fixed ports of its namespace. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Running, start, succeed, until } from "../../support/processes.ts";
import { type PacketLab, SERVERS } from "./lab.ts";

export const HTTP = 80;
/** Takes bytes until end of file, then answers with their SHA-256: needs half-close. */
export const SINK = 9001;

/** Bytes of `/blob`, the same on every server. */
export const BLOB_BYTES = 50 * 1024 * 1024;

export const TOOLS = ["ip", "ss", "sysctl", "tc", "nft", "ethtool", "nginx", "curl", "socat"] as const;

/** Running services of all servers. `await using` ends them. */
export class Services implements AsyncDisposable {
  readonly folder: string;
  readonly #running: Running[] = [];

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** A file of [`BLOB_BYTES`] random bytes: what `/blob` serves, and what a client may send. */
  get blob(): string {
    return join(this.folder, "root", "blob");
  }

  static async start(lab: PacketLab): Promise<Services> {
    const services = new Services(await mkdtemp(join(tmpdir(), "convey-net-")));
    try {
      await services.#start(lab);
    } catch (error) {
      await services[Symbol.asyncDispose]();
      throw error;
    }
    return services;
  }

  async #start(lab: PacketLab): Promise<void> {
    await mkdir(join(this.folder, "root"));
    await succeed(["sh", "-c", `head -c ${BLOB_BYTES} /dev/urandom > ${this.blob}`]);
    for (const place of SERVERS) {
      const conf = join(this.folder, `${place}.conf`);
      await writeFile(conf, nginxConf(this.folder, place));
      const run = (...command: string[]) => this.#running.push(start(lab.at(place, ...command)));
      run("nginx", "-c", conf, "-e", join(this.folder, `${place}.err`));
      run("socat", "-t60", `TCP6-LISTEN:${SINK},fork,reuseaddr,ipv6only=0,backlog=128`, "SYSTEM:sha256sum");
    }
    for (const place of SERVERS) {
      await until(
        async () => {
          const listening = await lab.sh(place, "ss -Hltn");
          return [HTTP, SINK].every((port) => listening.includes(`:${port} `));
        },
        `services on ${place}`,
        10_000,
        () => this.#running.map((r) => r.output()).join("\n"),
      );
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#running.map((r) => r.stop("SIGTERM", 500)));
    await rm(this.folder, { recursive: true, force: true });
  }
}

function nginxConf(folder: string, place: string): string {
  return `
daemon off; pid ${folder}/${place}.pid; worker_processes 1; user root;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; keepalive_requests 100000;
  client_body_temp_path ${folder}/${place}-body; proxy_temp_path ${folder}/${place}-proxy;
  fastcgi_temp_path ${folder}/${place}-f; uwsgi_temp_path ${folder}/${place}-u; scgi_temp_path ${folder}/${place}-s;
  server {
    listen ${HTTP}; listen [::]:${HTTP};
    location = /name { return 200 "${place}"; }
    location = /peer { return 200 "$remote_addr"; }
    location / { root ${folder}/root; }
  }
}
`;
}
