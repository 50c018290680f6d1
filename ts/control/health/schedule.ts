/**
 * A binary min-heap of things that are due, ordered by time, with removal and rescheduling from the inside:
 * one timer then serves any number of health checks.
 */

/** Something with a due time; `position` belongs to the schedule. */
export type Due = { due: number; position: number };

/** `position` of what is in no schedule. */
export const UNSCHEDULED = -1;

/** See the module's head. All operations take at most log2(n) steps. */
export class Schedule<T extends Due> {
  readonly #heap: T[] = [];

  /** What is due first, if anything is. */
  get first(): T | undefined {
    return this.#heap[0];
  }

  get size(): number {
    return this.#heap.length;
  }

  /** Makes `item` due at `due`, whether or not it was scheduled before. */
  set(item: T, due: number): void {
    if (item.position === UNSCHEDULED) {
      item.due = due;
      item.position = this.#heap.length;
      this.#heap.push(item);
      this.#up(item);
      return;
    }
    const earlier = due < item.due;
    item.due = due;
    if (earlier) this.#up(item);
    else this.#down(item);
  }

  /** Takes `item` out; nothing happens when it is not in. */
  remove(item: T): void {
    const { position } = item;
    if (position === UNSCHEDULED) return;
    item.position = UNSCHEDULED;
    const last = this.#heap.pop();
    if (last === undefined || last === item) return;
    this.#place(last, position);
    this.#up(last);
    this.#down(last);
  }

  #place(item: T, position: number): void {
    this.#heap[position] = item;
    item.position = position;
  }

  #up(item: T): void {
    let at = item.position;
    while (at > 0) {
      const parentAt = (at - 1) >> 1;
      const parent = this.#heap[parentAt];
      if (parent === undefined || parent.due <= item.due) break;
      this.#place(parent, at);
      at = parentAt;
    }
    this.#place(item, at);
  }

  #down(item: T): void {
    let at = item.position;
    for (;;) {
      const left = this.#heap[2 * at + 1];
      const right = this.#heap[2 * at + 2];
      const child = right !== undefined && left !== undefined && right.due < left.due ? right : left;
      if (child === undefined || child.due >= item.due) break;
      const childAt = child.position;
      this.#place(child, at);
      at = childAt;
    }
    this.#place(item, at);
  }
}
