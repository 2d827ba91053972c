// Every page in one colour scheme: a screenshot, and what axe says of it; then the page without a
// mouse.
import { audit, eventually, expect, settled, step } from './harness.mjs';

/** What is shown: the address, and what to press or wait for before it is looked at. */
const PAGES = {
  overview: ['/overview'],
  'overview-all': ['/overview', { ns: '_all' }],
  topology: ['/topology'],
  create: ['/create'],
  example: ['/create', { act: (page) => page.getByLabel('Begin with an example').selectOption('Deployment') }],
  deployments: ['/list/apps/deployments'],
  replicasets: ['/list/apps/replicasets'],
  pods: ['/list/core/pods'],
  'pods-all': ['/list/core/pods', { ns: '_all' }],
  services: ['/list/core/services'],
  secrets: ['/list/core/secrets'],
  configmaps: ['/list/core/configmaps'],
  namespaces: ['/list/core/namespaces'],
  nodes: ['/list/core/nodes'],
  events: ['/list/core/events'],
  nothing: ['/list/batch/cronjobs'],
  storageclasses: ['/list/storage.k8s.io/storageclasses'],
  roles: ['/list/rbac.authorization.k8s.io/clusterroles'],
  deployment: ['/object/apps/deployments/default/shop'],
  service: ['/object/core/services/default/shop-lb'],
  pod: ['/object/core/pods/default/talker'],
  crash: ['/object/core/pods/default/crasher'],
  waiting: ['/object/core/pods/default/test-secrets'],
  secret: ['/object/core/secrets/default/my-secrets', { act: (page) => page.getByRole('button', { name: 'Reveal' }).first().click() }],
  configmap: ['/object/core/configmaps/default/kube-root-ca.crt'],
  node: ['/object/core/nodes/-/node'],
  namespace: ['/object/core/namespaces/-/default'],
  logs: ['/object/core/pods/default/talker?tab=logs', { act: (page) => page.getByLabel('Search the log').fill('line 1') }],
  shell: ['/object/core/pods/default/talker?tab=shell', { act: (page) => page.locator('.shell [role=status]', { hasText: 'connected' }).waitFor() }],
  yaml: ['/object/apps/deployments/default/shop?tab=yaml'],
  edit: ['/object/apps/deployments/default/shop?tab=edit', { act: (page) => page.locator('.cm-content').waitFor() }],
  gone: ['/object/core/pods/default/nobody'],
  unknown: ['/nowhere'],
  help: ['/overview', { act: (page) => page.keyboard.press('?'), dialog: true }],
  scale: ['/object/apps/deployments/default/shop', { act: (page) => page.getByRole('button', { name: 'Scale…' }).click(), dialog: true }],
  delete: ['/object/apps/deployments/default/shop', {
    act: async (page) => {
      await page.getByRole('button', { name: 'Delete…' }).click();
      await page.locator('dialog li').first().waitFor();
    },
    dialog: true,
  }],
  menu: ['/list/core/pods', { act: (page) => page.getByRole('button', { name: 'Actions for talker' }).click(), menu: true }],
};

/** The address of a page, with its namespace. */
const address = (hash, ns = 'default') => `${hash}${hash.includes('?') ? '&' : '?'}ns=${ns}`;

export async function everyPage(d, scheme, suffix = scheme) {
  const { page } = d;
  await step(`every page, ${suffix}: no violation of WCAG A or AA`, async () => {
    const found = [];
    for (const [name, [hash, how = {}]] of Object.entries(PAGES)) {
      await page.evaluate((h) => (location.hash = h), address(hash, how.ns));
      await settled(page);
      await how.act?.(page);
      await settled(page);
      await page.waitForTimeout(200);
      await d.shot(`${name}-${suffix}`);
      // Nothing but wide tables scrolls sideways.
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (wide > 1) found.push(`${name}: ${wide} pixels too wide`);
      found.push(...(await audit(page)).map((v) => `${name}: ${v}`));
      if (how.dialog || how.menu) await page.keyboard.press('Escape');
    }
    expect(found.length === 0, `${found.length} violations:\n${found.join('\n')}`);
    expect((await page.evaluate(() => document.documentElement.dataset.theme)) === scheme, scheme);
    return `${Object.keys(PAGES).length} pages`;
  });
}

/** What has the focus, through shadow trees. */
const focused = (page) => page.evaluate(() => {
  let at = document.activeElement;
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  if (!at || at === document.body) return { what: 'body' };
  const { outlineStyle, outlineWidth } = getComputedStyle(at);
  const box = at.getBoundingClientRect();
  const seen = box.width > 2 && box.height > 2 && box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth;
  return {
    what: `${at.tagName.toLowerCase()} ${at.getAttribute('aria-label') ?? at.textContent?.trim().slice(0, 40) ?? ''} ${at.id}`.trim(),
    ring: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1,
    seen,
    inDialog: !!at.closest('dialog'),
    inMain: !!at.closest('main'),
  };
});

/** Tabs from the top until it comes round; every stop is to be seen and to have its ring. */
async function tabThrough(page, limit = 250) {
  const stops = [];
  for (let n = 0; n < limit; n++) {
    await page.keyboard.press('Tab');
    const at = await focused(page);
    if (at.what === 'body' || (stops.length > 2 && at.what === stops[0].what)) return stops;
    stops.push(at);
  }
  throw new Error(`no end after ${limit} stops, the last: ${stops.at(-1).what}`);
}

export async function withoutMouse(d) {
  const { page } = d;
  const fresh = async (hash) => {
    // A new document begins with the focus at its top.
    await page.goto('about:blank');
    await d.go(address(hash));
    await settled(page);
  };

  await step('by keys: every stop is to be seen, and nothing is a trap', async () => {
    let all = 0;
    for (const hash of ['/overview', '/list/core/services', '/object/apps/deployments/default/shop', '/object/core/secrets/default/my-secrets', '/topology']) {
      await fresh(hash);
      const stops = await tabThrough(page);
      expect(stops[0].what.startsWith('a Skip to content'), `${hash} begins with ${stops[0].what}`);
      expect(stops.some((s) => s.inMain), `${hash}: nothing in the content is reached`);
      for (const s of stops) expect(s.seen && s.ring, `${hash}: ${s.what}: ${s.seen ? 'no ring' : 'not seen'}`);
      all += stops.length;
    }
    return `${all} stops`;
  });

  await step('by keys: skip, filter, move, open, help', async () => {
    await fresh('/list/core/pods');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    expect((await page.evaluate(() => document.activeElement?.id)) === 'main', 'the content has the focus');
    await page.keyboard.press('/');
    expect((await page.evaluate(() => document.activeElement?.id)) === 'filter', 'the filter has the focus');
    await page.keyboard.type('talk');
    await eventually('one row is left', async () => (await page.locator('tbody tr').count()) === 1);
    await page.keyboard.press('Escape');
    await eventually('all rows are back', async () => (await page.locator('tbody tr').count()) > 1);
    await page.keyboard.press('j');
    await page.keyboard.press('j');
    const row = () => page.locator('tr.marked').getAttribute('data-name');
    const second = await row();
    await eventually('the row has the focus', async () => (await focused(page)).what.includes(second));
    await page.keyboard.press('?');
    await page.locator('dialog').waitFor();
    for (let n = 0; n < 6; n++) {
      await page.keyboard.press('Tab');
      const at = await focused(page);
      expect(at.inDialog || at.what === 'body', `the focus has left the dialog: ${at.what}`);
    }
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    expect((await focused(page)).what.includes(second), 'the focus is back where it was');
    await page.keyboard.press('Enter');
    await page.locator('main h1', { hasText: second }).waitFor();
    return `opened ${second}`;
  });

  await step('by keys: the menu of a row, and the dialog of a deletion', async () => {
    await fresh('/list/core/pods');
    await page.getByRole('button', { name: 'Actions for talker' }).focus();
    await page.keyboard.press('Enter');
    const item = () => page.evaluate(() => document.activeElement?.getAttribute('role') === 'menuitem' && document.activeElement.textContent);
    await eventually('the first item has the focus', item);
    const first = await item();
    await page.keyboard.press('ArrowDown');
    expect((await item()) && (await item()) !== first, 'the next item');
    await page.keyboard.press('Escape');
    await page.getByRole('menu').waitFor({ state: 'detached' });
    expect((await focused(page)).what.includes('Actions for talker'), 'back on the button');
    await page.keyboard.press('Delete');
    await page.locator('dialog h1', { hasText: 'Delete pod talker?' }).waitFor();
    const seen = new Set();
    for (let n = 0; n < 6; n++) {
      await page.keyboard.press('Tab');
      const at = await focused(page);
      expect(at.inDialog || at.what === 'body', `the focus has left the dialog: ${at.what}`);
      if (at.inDialog) expect(at.ring, `${at.what} has no ring`);
      seen.add(at.what);
    }
    expect([...seen].some((w) => /Cancel/.test(w)) && [...seen].some((w) => /^button Delete/.test(w)), [...seen].join(', '));
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
  });

  await step('by keys: out of the editor and out of the terminal', async () => {
    await fresh('/create');
    await page.locator('.cm-content').focus();
    await page.keyboard.type('a:');
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    expect((await focused(page)).what.includes('Manifest'), 'Tab writes in the editor');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Tab');
    expect(!(await focused(page)).what.includes('Manifest'), 'Escape and Tab leave it');
    await fresh('/object/core/pods/default/talker?tab=shell');
    await page.locator('.shell [role=status]', { hasText: 'connected' }).waitFor();
    await page.locator('.xterm-helper-textarea').focus();
    await page.keyboard.press('Tab');
    expect((await focused(page)).what.includes('Terminal input'), 'Tab goes to the shell');
    await page.keyboard.press('Control+Shift+L');
    expect(!(await focused(page)).what.includes('Terminal input'), 'Ctrl+Shift+L leaves it');
  });
}
