// What every walk uses: steps, patience, the API as a client that is no browser, and pages.
//
// Environment: PROXY (http://localhost:8001, with or without a prefix), LINK (what `coracle
// dashboard` printed), CHROMIUM, SHOTS (a directory for screenshots).
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const { source: AXE } = createRequire(import.meta.url)('axe-core');

export const { PROXY, LINK, CHROMIUM, SHOTS } = process.env;
export const DIRECT = new URL(LINK).origin;
export const NS = '/api/v1/namespaces/default';
export const APPS = '/apis/apps/v1/namespaces/default';
const WAIT = 60_000;
mkdirSync(SHOTS, { recursive: true });

let failed = 0;
let current;
export const complaints = [];
export const failures = () => failed;

export async function step(name, action) {
  const start = Date.now();
  try {
    const said = await action();
    console.log(`ok    ${name} (${Date.now() - start} ms)${said ? `: ${said}` : ''}`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}: ${error.message.split('\n').slice(0, 24).join('\n      ')}`);
    await current?.screenshot({ path: `${SHOTS}/failed-${failed}.png` }).catch(() => {});
  }
}

export function expect(condition, what) {
  if (!condition) throw new Error(what);
}

export async function eventually(what, probe) {
  const end = Date.now() + WAIT;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${WAIT} ms: ${what}`);
    await new Promise((r) => setTimeout(r, 25));
  }
}

/** The API as a client that is no browser. */
export async function api(path, method = 'GET', body, type = 'application/json') {
  const response = await fetch(`${PROXY}${path}`, { method, body: body && JSON.stringify(body), headers: body ? { 'content-type': type } : {} });
  const text = await response.text();
  if (!response.ok && response.status !== 404) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return response.status === 404 ? undefined : text && JSON.parse(text);
}

export const merge = (path, body) => api(path, 'PATCH', body, 'application/merge-patch+json');

export async function launch(...args) {
  return chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', '--disable-dev-shm-usage', '--enable-precise-memory-info', ...args] });
}

const browser = await launch();
export const close = () => browser.close();

export async function open(scheme, options = {}, of = browser) {
  const context = await of.newContext({ colorScheme: scheme, viewport: { width: 1360, height: 860 }, ignoreHTTPSErrors: true, ...options });
  await context.grantPermissions(['clipboard-read', 'clipboard-write']).catch(() => {});
  await context.addInitScript(() => {
    window.breaches = [];
    addEventListener('securitypolicyviolation', (e) => window.breaches.push(`${e.violatedDirective} ${e.blockedURI} ${e.sourceFile ?? ''}`));
  });
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT);
  page.on('pageerror', (e) => complaints.push(`error: ${e.message}`));
  page.on('console', (m) => {
    const text = m.text();
    if (m.type() === 'error' && /Content Security Policy|TypeError|Uncaught/.test(text)) complaints.push(`console: ${page.url()} ${m.location().url}:${m.location().lineNumber}: ${text.slice(0, 300)}`);
  });
  return page;
}

/** A page with short words for what the walks do. */
export function on(page, base) {
  current = page;
  return {
    page,
    go: async (hash) => {
      await page.goto(`${base}#${hash}`);
      await page.locator('main h1').first().waitFor();
    },
    shot: (name) => page.screenshot({ path: `${SHOTS}/${name}.png` }),
    text: (selector = 'main') => page.locator(selector).first().innerText(),
    see: (what, selector = 'main') => page.locator(selector, { hasText: what }).first().waitFor(),
    gone: (what, selector = 'main') => page.locator(selector, { hasText: what }).first().waitFor({ state: 'hidden' }),
    button: (name, within = page) => within.getByRole('button', { name, exact: true }).first(),
    view: (name) => page.getByRole('navigation', { name: 'Views' }).getByRole('link', { name, exact: true }),
  };
}

/** Waits until everything that the page loads has come. */
export async function settled(page) {
  await page.locator('main').first().waitFor();
  await eventually('the page is loaded', () => page.evaluate(() => !/Loading…|Looking…/.test(document.querySelector('main')?.innerText ?? 'Loading…')));
  await page.evaluate(() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r))));
}

/** What axe finds against WCAG 2.2, levels A and AA, on what is shown now. */
export async function audit(page) {
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(AXE);
  return page.evaluate(async () => {
    const found = await window.axe.run(document, {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'],
      resultTypes: ['violations'],
    });
    return found.violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.target.join(' ')}: ${n.failureSummary?.split('\n').slice(1).map((l) => l.trim()).join('; ')}`));
  });
}

/** Puts text into the editor as a paste would. */
export async function edit(page, change) {
  const content = page.locator('.cm-content');
  await content.waitFor();
  await content.click();
  await page.keyboard.press('Control+a');
  await page.keyboard.insertText(change);
}
