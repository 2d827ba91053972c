// A thousand pods: few rows are drawn, the filter finds what it should, and neither many changes
// nor many pages leave anything behind in the tab.
import { api, eventually, expect, merge, open, on, settled, step } from './harness.mjs';

const PODS = 1000;
const CROWD = '/api/v1/namespaces/crowd';
/** No page draws more elements than this, however much there is. */
const NODES_MAX = 6000;
/** How much the heap may grow for good while everything changes again and again. */
const GROWTH_MAX = 12e6;
const ROUNDS = 3;

const name = (n) => `pod-${String(n).padStart(4, '0')}`;

async function inBatches(n, size, action) {
  for (let at = 0; at < n; at += size) await Promise.all(Array.from({ length: Math.min(size, n - at) }, (_, i) => action(at + i)));
}

/** What the tab holds, once what is not needed is gone. */
async function held(session) {
  await session.send('HeapProfiler.collectGarbage');
  const { metrics } = await session.send('Performance.getMetrics');
  const of = (wanted) => metrics.find((m) => m.name === wanted).value;
  return { heap: of('JSHeapUsedSize'), nodes: of('Nodes'), listeners: of('JSEventListeners') };
}

/** Frames and long tasks while something happens. */
const smoothness = (page, action) => page.evaluate(async (action) => {
  const long = [];
  const observer = new PerformanceObserver((list) => long.push(...list.getEntries().map((e) => e.duration)));
  observer.observe({ entryTypes: ['longtask'] });
  const frames = [];
  let last = performance.now();
  const frame = async () => {
    await new Promise((r) => requestAnimationFrame(r));
    const now = performance.now();
    frames.push(now - last);
    last = now;
  };
  if (action === 'scroll') {
    const box = document.querySelector('.box.tall');
    for (let y = 0; y < box.scrollHeight; y += 240) {
      box.scrollTop = y;
      await frame();
    }
    box.scrollTop = 0;
  } else {
    const field = document.getElementById('filter');
    for (const text of ['p', 'po', 'pod', 'pod-', 'pod-0', 'pod-07', 'pod-077', 'pod-0777']) {
      field.value = text;
      field.dispatchEvent(new Event('input', { bubbles: true }));
      await frame();
      await frame();
    }
  }
  await frame();
  observer.takeRecords();
  observer.disconnect();
  frames.sort((a, b) => a - b);
  const at = (share) => frames[Math.min(frames.length - 1, Math.floor(frames.length * share))].toFixed(0);
  return `${frames.length} frames, median ${at(0.5)} ms, p95 ${at(0.95)} ms, longest ${frames.at(-1).toFixed(0)} ms, ${long.length} long tasks${long.length ? ` (longest ${Math.max(...long).toFixed(0)} ms)` : ''}`;
}, action);

export async function crowd(base) {
  const page = await open('light');
  const d = on(page, base);
  const session = await page.context().newCDPSession(page);
  await session.send('Performance.enable');
  const others = [];

  await step(`${PODS} pods are made while the page looks on`, async () => {
    await api('/api/v1/namespaces', 'POST', { metadata: { name: 'crowd' } });
    await eventually('the account', () => api(`${CROWD}/serviceaccounts/default`));
    await d.go('/list/core/pods?ns=crowd');
    await d.see('No pods in crowd.');
    // No scheduler takes them, so that nothing runs.
    const spec = { schedulerName: 'nobody', containers: [{ name: 'c', image: 'busybox' }] };
    await inBatches(PODS, 25, (n) => api(`${CROWD}/pods`, 'POST', { metadata: { name: name(n), labels: { n: String(n), side: n % 2 ? 'odd' : 'even' } }, spec }));
    await d.see(String(PODS), 'main header [role=status]');
  });

  await step('few rows are drawn, wherever it is scrolled to', async () => {
    const scroll = await smoothness(page, 'scroll');
    const box = page.locator('.box.tall');
    for (const share of [0, 0.5, 1]) {
      await box.evaluate((el, share) => (el.scrollTop = el.scrollHeight * share), share);
      await d.see(name(share === 1 ? PODS - 1 : PODS * share), 'tbody tr');
      const rows = await page.locator('tbody tr').count();
      expect(rows < 80, `${rows} rows drawn`);
    }
    expect((await page.locator('table').getAttribute('aria-rowcount')) === String(PODS + 1), 'readers of the screen are told how many there are');
    const { nodes } = await held(session);
    expect(nodes < NODES_MAX, `${nodes} nodes`);
    return `${scroll}; ${nodes} DOM nodes`;
  });

  await step('the filter finds what it should', async () => {
    const found = await smoothness(page, 'filter');
    for (const [text, n] of [['0777', 1], ['side: odd', PODS / 2], ['side: odd !pod-0', 0], ['n: 99', 19], ['nobody-at-all', 0], ['', PODS]]) {
      await page.locator('#filter').fill(text);
      await eventually(`${n} for ${JSON.stringify(text)}`, async () => (await d.text('main header [role=status]')) === (text ? `${n} of ${PODS}` : String(PODS)));
    }
    return found;
  });

  await step('by keys through all of them', async () => {
    await page.locator('main').focus();
    await page.keyboard.press('End');
    await eventually('the last is marked and has the focus', () => page.evaluate((last) => document.activeElement?.closest('tr.marked')?.dataset.name === last, name(PODS - 1)));
    await page.keyboard.press('Home');
    await eventually('the first is', () => page.evaluate((first) => document.activeElement?.closest('tr.marked')?.dataset.name === first, name(0)));
  });

  await step('many changes, seen by four pages, leave nothing behind', async () => {
    for (const hash of ['/list/core/pods?ns=_all', '/overview?ns=_all', '/topology?ns=crowd']) {
      const other = await open('dark');
      await other.goto(`${base}#${hash}`);
      await settled(other);
      others.push(other);
    }
    const change = (round) => inBatches(PODS, 25, (n) => merge(`${CROWD}/pods/${name(n)}`, { metadata: { labels: { round: String(round) } } }));
    const seen = async (page, round) => {
      await page.locator('#filter').fill(`round: ${round}`);
      await eventually(`round ${round} is seen`, async () => (await d.text('main header [role=status]')) === `${PODS} of ${PODS}`);
      await page.locator('#filter').fill('');
    };
    await change(0);
    await seen(page, 0);
    const before = await held(session);
    for (let round = 1; round <= ROUNDS; round++) {
      await change(round);
      await seen(page, round);
    }
    const after = await held(session);
    const say = (h) => `${(h.heap / 1e6).toFixed(1)} MB, ${h.nodes} nodes, ${h.listeners} listeners`;
    const both = `${say(before)} before ${ROUNDS * PODS} changes, ${say(after)} after`;
    expect(after.heap - before.heap < GROWTH_MAX && after.nodes < NODES_MAX, both);
    return both;
  });

  await step('a walk through pages leaves nothing behind', async () => {
    const round = async () => {
      for (const hash of [`/object/core/pods/crowd/${name(7)}`, '/list/core/events', '/topology', '/overview', `/object/core/pods/crowd/${name(7)}?tab=yaml`, '/list/core/pods']) {
        await page.evaluate((h) => (location.hash = h), `${hash}${hash.includes('?') ? '&' : '?'}ns=crowd`);
        await settled(page);
      }
    };
    for (let n = 0; n < 3; n++) await round();
    const before = await held(session);
    for (let n = 0; n < 6; n++) await round();
    const after = await held(session);
    const both = `${(before.heap / 1e6).toFixed(1)} MB and ${before.nodes} nodes, then ${(after.heap / 1e6).toFixed(1)} MB and ${after.nodes} nodes`;
    expect(after.heap - before.heap < GROWTH_MAX && after.nodes < 2 * NODES_MAX, both);
    return both;
  });

  await step('all of them go while the page looks on', async () => {
    await d.go('/list/core/pods?ns=crowd');
    await d.shot('crowd-light');
    await api(`${CROWD}/pods?gracePeriodSeconds=0`, 'DELETE');
    await d.see('No pods in crowd.');
    await api('/api/v1/namespaces/crowd', 'DELETE');
  });
  for (const other of others) await other.context().close();
  await page.context().close();
}
