import { expect, test } from "vitest";
import { Turns } from "../../../ts/control/turns.ts";

test("calls have their turn one after another, also after one that failed", async () => {
  const turns = new Turns(10);
  let under = 0;
  let most = 0;
  const call = async (n: number): Promise<number> => {
    under += 1;
    most = Math.max(most, under);
    await new Promise((done) => setTimeout(done, 2));
    under -= 1;
    if (n === 1) throw new Error("one");
    return n;
  };
  const results = await Promise.allSettled([0, 1, 2, 3].map((n) => turns.take(() => call(n))));
  expect(results.map((r) => r.status)).toEqual(["fulfilled", "rejected", "fulfilled", "fulfilled"]);
  expect(most).toBe(1);
});

test("beyond the limit a call is refused at once, and there is room again when one has ended", async () => {
  const turns = new Turns(2);
  let end = (): void => undefined;
  const first = turns.take(
    () =>
      new Promise<void>((done) => {
        end = done;
      }),
  );
  const second = turns.take(async () => undefined);
  await expect(turns.take(async () => undefined)).rejects.toMatchObject({
    code: "INTERNAL",
    message: "busy: 2 such questions are waiting; ask again",
  });
  end();
  await Promise.all([first, second]);
  await turns.take(async () => undefined);
});
