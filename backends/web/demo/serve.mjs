// Serves a folder to browsers on this machine: `node serve.mjs [port]` shows the demo beside it.
//
// The two headers make a page cross-origin isolated, which is what threads need. Publish them the same way on your server.
import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join, sep } from "node:path";
import { pipeline } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";

const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".svg": "image/svg+xml",
  ".jpg": "image/jpeg",
  ".png": "image/png",
  ".txt": "text/plain; charset=utf-8",
};

/** A server over the files of a folder; `isolated` is whether its pages may have threads. */
export async function serve(folder, { port = 0, isolated = true } = {}) {
  const root = (await realpath(folder)) + sep;
  const server = createServer(async (request, response) => {
    try {
      const { pathname } = new URL(request.url, "http://localhost");
      const path = await realpath(join(root, decodeURIComponent(pathname), pathname.endsWith("/") ? "index.html" : ""));
      const { size, mtimeMs } = await stat(path);
      if (!path.startsWith(root)) throw new Error("outside");
      const tag = `"${size}-${mtimeMs}"`;
      const isKnown = request.headers["if-none-match"] === tag;
      response.writeHead(isKnown ? 304 : 200, {
        ...(isolated ? ISOLATED : {}),
        ETag: tag,
        "Content-Type": TYPES[extname(path)] ?? "application/octet-stream",
        "Content-Length": size,
        "Cache-Control": "no-cache",
      });
      if (isKnown || request.method === "HEAD") response.end();
      else pipeline(createReadStream(path), response, () => {});
    } catch {
      response.writeHead(404).end("not found");
    }
  });
  await new Promise((resolve, reject) => server.on("error", reject).listen(port, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const here = dirname(fileURLToPath(import.meta.url));
  const { url } = await serve(dirname(here), { port: Number(process.argv[2] ?? 8080) });
  console.log(`${url}demo/`);
}
