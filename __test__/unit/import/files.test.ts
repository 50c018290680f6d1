/** Whole files: those that the programs themselves take, what is printed for them, and what must never happen. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadConfigText } from "../../../ts/config/load.ts";
import { importText, type Program, programOf } from "../../../ts/import/index.ts";
import { finish } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";

const SAMPLES = join(import.meta.dirname, "../../../samples");
const FILES = [join(SAMPLES, "migrating"), join(import.meta.dirname, "fixtures")].flatMap((folder) =>
  readdirSync(folder)
    .filter((name) => /\.(cfg|conf)$/.test(name))
    .map((name) => ({ name, file: join(folder, name) })),
);
const STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so";

/** What stands in a file must be in service or be named; what is printed must be valid. */
async function expectValid(text: string, from: Program): Promise<ReturnType<typeof importText>> {
  const made = importText(text, from);
  const last = text.split(/\r\n|\n/).length;
  for (const { line } of made.problems) {
    expect(line).toBeGreaterThanOrEqual(1);
    expect(line).toBeLessThanOrEqual(last);
  }
  if (made.toml === "") expect(made.problems).not.toEqual([]);
  else {
    const loaded = await loadConfigText(made.toml);
    expect(loaded.ok ? [] : loaded.problems, made.toml).toEqual([]);
  }
  return made;
}

describe.each(FILES)("$name", ({ name, file }) => {
  const text = readFileSync(file, "utf8");
  const from: Program = name.endsWith(".cfg") ? "haproxy" : "nginx";

  test("is a file that its program takes", async (context) => {
    needs(context, { tools: [from] });
    if (from === "haproxy") {
      const { code, stdout, stderr } = await finish(["haproxy", "-c", "-f", file]);
      expect(code, stdout + stderr).toBe(0);
      return;
    }
    const home = mkdtempSync(join(tmpdir(), "convey-import-"));
    try {
      const conf = join(home, "nginx.conf");
      // Where the stream module is a file of its own, the file does not say so: that is the host's matter.
      writeFileSync(conf, `${existsSync(STREAM_MODULE) ? `load_module ${STREAM_MODULE};` : ""}${text}`);
      const { code, stderr } = await finish([
        "nginx",
        "-t",
        "-c",
        conf,
        "-e",
        join(home, "error.log"),
        "-g",
        `pid ${join(home, "pid")};`,
      ]);
      expect(code, stderr).toBe(0);
    } finally {
      rmSync(home, { recursive: true, force: true });
    }
  });

  test("is known for what it is", () => {
    expect(programOf(text)).toBe(from);
  });

  test("is a valid configuration once it is imported", async () => {
    const { toml } = await expectValid(text, from);
    expect(toml).not.toBe("");
  });
});

// After a change of what is printed: npx vitest run __test__/unit/import/files.test.ts -u
test.each(["haproxy", "nginx"] as const)(
  "the example of %s in the guide is what is printed for it",
  async (from) => {
    const text = readFileSync(
      join(SAMPLES, `migrating/${from}.${from === "haproxy" ? "cfg" : "conf"}`),
      "utf8",
    );
    await expect(importText(text, from).toml).toMatchFileSnapshot(join(SAMPLES, `migrating/${from}.toml`));
  },
);

test("what the guide says is left of its example is what is said", () => {
  const guide = readFileSync(join(SAMPLES, "migrating.md"), "utf8");
  const shown = [...guide.matchAll(/^line (\d+): `(.*)`: (.*)$/gm)].map(([line]) => line);
  const { problems } = importText(readFileSync(join(SAMPLES, "migrating/haproxy.cfg"), "utf8"), "haproxy");
  const said = problems.map(({ line, text, message }) => `line ${line}: \`${text}\`: ${message}`);
  expect(shown).not.toEqual([]);
  for (const line of shown) expect(said).toContain(line);
});

/** A small seeded generator (mulberry32), so that a failure repeats. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

const WORDS = {
  haproxy:
    "global defaults frontend backend listen resolvers from bind server default-server acl use_backend if unless { } ! or tcp-request connection content reject accept src req.ssl_sni -i -m end mode tcp http option no httpchk tcp-check http-check send expect string status timeout connect client server retries maxconn balance leastconn source check weight inter send-proxy backup disabled slowstart on-marked-down shutdown-sessions :80 :1-99999 10.0.0.1:80 [::1]:80 999.1.1.1:0 unix@/x a b a/b __proto__ constructor 5s 99999d 0 1 -1 4294967296 10.0.0.0/8 ::/0 1.2.3.4/99 \"x ' \\ # \u0024{NAME} é \u0000 \u001b \ud800",
  nginx:
    "stream { } ; { } ; server upstream map $ssl_preread_server_name $x hostnames default events http include listen proxy_pass proxy_timeout proxy_protocol on off udp ssl reuseport allow deny all proxy_bind $remote_addr hash random two least_conn server weight=3 max_conns=9 max_fails=99999999999 fail_timeout=1y backup down 80 1-99999 10.0.0.1:80 [::1]:80 999.1.1.1:0 unix:/x a a/b __proto__ constructor 5s 9999y 0 -1 10.0.0.0/8 ::/0 1.2.3.4/99 *.example.com \"x ' \\ # \u0024{NAME} é \u0000 \u001b \ud800",
} as const;

describe.each(["haproxy", "nginx"] as const)("any text as a file of %s", (from) => {
  test("words of the language in any order are a valid configuration, or problems", async () => {
    const next = random(1);
    const words = WORDS[from].split(" ");
    for (let round = 0; round < 1500; round++) {
      const parts = Array.from({ length: next(60) }, () => words[next(words.length)]);
      await expectValid(parts.map((word) => word + (next(4) === 0 ? "\n" : " ")).join(""), from);
    }
  });

  test("sound files with some pieces changed are a valid configuration, or problems", async () => {
    const next = random(2);
    const words = WORDS[from].split(" ");
    const sound = FILES.filter(({ name }) => name.endsWith(from === "haproxy" ? ".cfg" : ".conf"));
    for (let round = 0; round < 300; round++) {
      const file = sound[next(sound.length)]?.file as string;
      const pieces = readFileSync(file, "utf8").split(/(?=\s)/);
      for (let change = 0; change <= next(12); change++) {
        pieces.splice(next(pieces.length), next(4), ` ${words[next(words.length)]}`);
      }
      await expectValid(pieces.join(""), from);
    }
  });
});

const many = (unit: string | ((n: number) => string), bytes: number): string => {
  const parts: string[] = [];
  for (let n = 0, size = 0; size < bytes; n++) {
    const part = typeof unit === "string" ? unit : unit(n);
    parts.push(part);
    size += part.length;
  }
  return parts.join("");
};

test.each<[string, Program, string]>([
  ["sections", "haproxy", many((n) => `listen a${n}\nbind :1\n`, 1e6)],
  ["sections of one name", "haproxy", many("listen a\nbind :1\nserver s 10.0.0.1:1\n", 1e6)],
  [
    "long lists in many rules",
    "haproxy",
    `listen a\nbind :1\n${many((n) => (n % 2 ? `acl a src 10.${n % 200}.${n % 99}.1\n` : "tcp-request connection reject if a\n"), 1e6)}`,
  ],
  ["open braces", "nginx", many("{", 1e6)],
  [
    "servers for one long map",
    "nginx",
    `stream { map $ssl_preread_server_name $m { ${many((n) => `a${n}.b 10.0.0.1:1;`, 5e5)} } ${many((n) => `server { listen ${n % 60_000}; proxy_pass $m; }`, 5e5)} }`,
  ],
  ["an unclosed quote", "nginx", `stream { "${many("a ", 1e6)}`],
])(
  "a megabyte of %s is read in time",
  (_name, from, text) => {
    const begun = performance.now();
    importText(text, from);
    // What grows with the square takes minutes; a busy machine makes seconds of what are tenths.
    expect(performance.now() - begun).toBeLessThan(20_000);
  },
  60_000,
);
