// A model of ours from nothing to its first answer, and on two threads: in Node's thread, or a page's.

const STEADY_MS = 3000;
const WARM = 4; // runs of a turn that are not timed: code and weights come into the caches, and the worker wakes up
const TIMED = 8;

/** Ms to load a model, its scripts included, and of its first run. */
export async function start(importModule, folder, feeds) {
  const begin = performance.now();
  const { load } = await importModule();
  const model = await load(folder, { threads: 1 });
  const loaded = performance.now();
  await model.run(feeds);
  return { loadMs: loaded - begin, firstMs: performance.now() - loaded };
}

/** Ms of every run on one thread and on two, in turns. */
export async function onThreads(importModule, folder, feeds) {
  const { load } = await importModule();
  const sides = [];
  for (const threads of [1, 2]) sides.push({ model: await load(folder, { threads }), times: [] });
  for (const end = performance.now() + STEADY_MS; performance.now() < end; ) {
    for (const { model, times } of sides) {
      for (let i = -WARM; i < TIMED; i++) {
        const begin = performance.now();
        await model.run(feeds);
        if (i >= 0) times.push(performance.now() - begin);
      }
    }
  }
  return sides.map(({ model, times }) => ({ threads: model.threads, times }));
}
