/** Where the tests of the table are. */
import { allTitles } from "../support/titles.ts";

let titles: ReturnType<typeof allTitles> | undefined;

/** Every test with this piece in its title. */
export function found(piece: string): { file: string; title: string }[] {
  titles ??= allTitles();
  return [...titles].flatMap(([file, all]) =>
    all.filter((title) => title.includes(piece)).map((title) => ({ file, title })),
  );
}
