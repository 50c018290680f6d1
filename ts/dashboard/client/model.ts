/** What the page knows: the latest full picture with every later frame worked in. */
import type {
  BackendRow,
  Changed,
  Counted,
  DeltaFrame,
  Frame,
  FrontendRow,
  FullFrame,
  History,
  Measure,
  Overview,
  Rated,
  ServerRow,
  Values,
} from "../../control/frame.ts";

export type Frontend = FrontendRow & Rated;
export type Server = ServerRow & Rated & { index: number; backend: string; key: string };
export type Backend = BackendRow & Rated & { servers: Server[] };

/** Rows that are to be shown anew; `all` when every one is another. */
export type Touched = {
  all: boolean;
  frontends: Set<number>;
  backends: Set<number>;
  servers: Set<number>;
};

/** Seconds that the charts show. */
export const SECONDS = 900;

const MEASURES: readonly Measure[] = ["connections", "tx", "rx", "packets", "drops", "refused"];

/** See the module's head. */
export class Model {
  instance: string;
  at: number;
  overview: Overview;
  frontends: Frontend[];
  backends: Backend[];
  /** All of them, by the index that frames use. */
  servers: Server[];
  history: History;

  constructor(frame: FullFrame) {
    this.instance = frame.instance;
    this.at = frame.at;
    this.overview = frame.overview;
    this.frontends = frame.frontends;
    this.servers = [];
    this.backends = frame.backends.map((backend) => {
      const servers = backend.servers.map((row) => {
        const server = {
          ...row,
          index: this.servers.length,
          backend: backend.name,
          key: `${backend.name}/${row.name}`,
        };
        this.servers.push(server);
        return server;
      });
      return { ...backend, servers };
    });
    this.history = frame.history;
  }

  /** Whether answers pass the balancer. */
  get seesAnswers(): boolean {
    return this.overview.return_path_visible !== false;
  }

  /** Works a frame in. */
  apply(frame: DeltaFrame): Touched {
    const elapsed = Math.max(0.001, frame.at - this.at);
    this.at = frame.at;
    Object.assign(this.overview, frame.overview);
    const touched = {
      all: false,
      frontends: renew(this.frontends, frame.frontends, elapsed),
      backends: renew<BackendRow & Rated>(this.backends, frame.backends, elapsed),
      servers: renew<ServerRow & Rated>(this.servers, frame.servers, elapsed),
    };
    for (const measure of MEASURES) push(this.history[measure], frame.point[measure]);
    for (const { name, open } of this.history.backends) {
      push(open, this.backends.find((backend) => backend.name === name)?.open ?? null);
    }
    return touched;
  }
}

export const isFull = (frame: Frame): frame is FullFrame => frame.type === "full";

function push(values: Values, value: number | null): void {
  values.push(value);
  if (values.length > SECONDS) values.shift();
}

/** Rows left out have moved nothing. */
function renew<Row extends Counted & Rated>(
  rows: Row[],
  changes: Changed<Omit<Row, "rates">>[],
  elapsed: number,
): Set<number> {
  const touched = new Set<number>();
  const moved = new Set<number>();
  for (const [index, patch] of changes as [number, Partial<Row>][]) {
    const row = rows[index];
    if (row === undefined) continue;
    touched.add(index);
    moved.add(index);
    const { total, tx, rx } = row;
    Object.assign(row, patch);
    row.rates = {
      ...(row.total === undefined ? {} : { connections: rate(row.total, total ?? row.total, elapsed) }),
      tx: rate(row.tx, tx, elapsed),
      rx: row.rx === null ? null : rate(row.rx, rx ?? 0, elapsed),
    };
  }
  rows.forEach((row, index) => {
    const { rates } = row;
    if (moved.has(index) || !(rates.tx || rates.rx || rates.connections)) return;
    row.rates = {
      ...(row.total === undefined ? {} : { connections: 0 }),
      tx: 0,
      rx: rates.rx === null ? null : 0,
    };
    touched.add(index);
  });
  return touched;
}

const rate = (to: number, from: number, elapsed: number): number => Math.max(0, to - from) / elapsed;
