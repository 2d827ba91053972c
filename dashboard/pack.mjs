// Compresses what Vite has built into dist/, and writes the table that the server embeds.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { extname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const here = fileURLToPath(new URL('.', import.meta.url));
const built = join(here, 'build');
const dist = join(here, 'dist');
const mediaTypes = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
};

const walk = (dir) =>
  readdirSync(dir).flatMap((name) => {
    const path = join(dir, name);
    return statSync(path).isDirectory() ? walk(path) : [path];
  });

/** The digest that a test of the server compares with the sources it finds. */
function sources() {
  const single = ['index.html', 'package-lock.json', 'pack.mjs', 'vite.config.ts'];
  const files = [...single, ...walk(join(here, 'src')).map((path) => relative(here, path))];
  // Ordered as the server's test orders them: by path component.
  const key = (path) => path.split('/').join('\0');
  files.sort((a, b) => (key(a) < key(b) ? -1 : 1));
  const hash = createHash('sha256');
  for (const file of files) {
    hash.update(file).update('\0').update(readFileSync(join(here, file))).update('\0');
  }
  return hash.digest('hex');
}

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist, { recursive: true });
const rows = [];
for (const path of walk(built)) {
  const name = relative(built, path);
  const bytes = readFileSync(path);
  const mediaType = mediaTypes[extname(name)];
  if (!mediaType) throw new Error(`no media type for ${name}`);
  const flat = name.replaceAll('/', '.');
  // One coding: every browser takes gzip, but Brotli only over TLS or from localhost.
  writeFileSync(join(dist, `${flat}.gz`), gzipSync(bytes, { level: 9 }));
  const etag = createHash('sha256').update(bytes).digest('hex').slice(0, 20);
  rows.push([name, `    Asset {
        path: ${JSON.stringify(name)},
        media_type: ${JSON.stringify(mediaType)},
        etag: "\\"${etag}\\"",
        immutable: ${name.startsWith('assets/')},
        gzip: include_bytes!(${JSON.stringify(`${flat}.gz`)}),
    },
`]);
}
rows.sort(([a], [b]) => (a < b ? -1 : 1));
writeFileSync(join(dist, 'assets.rs'), `// Written by dashboard/pack.mjs.
#[cfg(test)]
const SOURCES: &str = "${sources()}";

const ASSETS: &[Asset] = &[
${rows.map(([, row]) => row).join('')}];
`);
const size = readdirSync(dist).filter((f) => f.endsWith('.gz'))
  .reduce((sum, f) => sum + statSync(join(dist, f)).size, 0);
const html = readFileSync(join(built, 'index.html'), 'utf8');
const first = rows.filter(([name]) => name === 'index.html' || html.includes(name))
  .reduce((sum, [name]) => sum + statSync(join(dist, `${name.replaceAll('/', '.')}.gz`)).size, 0);
console.log(`dashboard: ${rows.length} files, ${size} bytes; first load ${first}`);
