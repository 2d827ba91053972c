// Walks the dashboard as a person would: every page and action, through `kubectl proxy`, under a
// path prefix and directly, in both colour schemes, with and without a mouse, with a thousand pods;
// then as people would who mean harm. Prints a line for each step; ends with 1 if one failed.
//
// Environment: that of the harness and of origins.mjs, and PREFIXED (the API behind a prefix).
import { everyPage, withoutMouse } from './accessibility.mjs';
import { crowd } from './crowd.mjs';
import { APPS, DIRECT, LINK, NS, PROXY, SHOTS, api, audit, close, complaints, edit, eventually, expect, failures, on, open, step } from './harness.mjs';
import { hostile } from './hostile.mjs';
import { origins } from './origins.mjs';

const { PREFIXED } = process.env;

const deployment = (image) => `apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  annotations:
    kubernetes.io/change-cause: first
spec:
  replicas: 3
  selector:
    matchLabels:
      app: shop
  strategy:
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  template:
    metadata:
      labels:
        app: shop
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: nginx
        image: ${image}
        imagePullPolicy: IfNotPresent
        ports:
        - containerPort: 80
`;

// ---------------------------------------------------------------- through kubectl proxy, light
{
  const d = on(await open('light'), `${PROXY}/ui/`);
  const { page } = d;
  const streams = new Set();
  page.on('request', (r) => r.url().includes('/ui/watch') && streams.add(r));
  page.on('requestfinished', (r) => streams.delete(r));
  page.on('requestfailed', (r) => streams.delete(r));

  await step('/ui leads to the page', async () => {
    await page.goto(`${PROXY}/ui`);
    await page.locator('main h1').first().waitFor();
    expect(new URL(page.url()).pathname === '/ui/', page.url());
  });

  await step('the first load is small on the wire', async () => {
    const parts = await page.evaluate(() => [...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]
      .filter((e) => /\/ui\/($|[^/]*$|assets\/)/.test(new URL(e.name).pathname) && !/\/ui\/(watch|session)/.test(e.name)).map((e) => [new URL(e.name).pathname, e.encodedBodySize]));
    const sum = parts.reduce((n, [, size]) => n + size, 0);
    expect(parts.length >= 4 && sum > 20_000, `what was loaded? ${JSON.stringify(parts)}`);
    expect(sum <= 60_000, `${sum} bytes: ${JSON.stringify(parts)}`);
    return `${sum} bytes in ${parts.length} files`;
  });

  await step('the overview begins with what is wrong, and why', async () => {
    await d.go('/overview?ns=default');
    await d.see('CrashLoopBackOff', '[aria-label=Problems] li');
    await d.see('exit code 3', '[aria-label=Problems] li');
    await d.see('Secret is missing', '[aria-label=Problems] li');
    await d.see('Did you mean “my-secrets”?', '[aria-label=Problems] li');
    await d.shot('overview-problems-light');
  });

  await step('create: a mistake is shown at its field, nothing is kept', async () => {
    await d.go('/create?ns=default');
    await edit(page, deployment('nginx').replace('replicas: 3', 'replicas: -1').replace('maxSurge: 1', 'maxSurge: 1\n      typo: 2'));
    await d.button('Check').click();
    await d.see('Not accepted');
    expect(!(await api(`${APPS}/deployments/shop`)), 'a dry run has created something');
    await d.shot('create-refused-light');
  });

  await step('create: dry run, difference, then it is there', async () => {
    await edit(page, deployment('nginx'));
    await d.button('Check').click();
    await d.see('What would happen');
    await d.see('progressDeadlineSeconds', '.diff');
    expect(!(await api(`${APPS}/deployments/shop`)), 'a dry run has created something');
    await d.shot('create-checked-light');
    await d.button('Create').click();
    await d.see('Rolled out.');
    await eventually('its three pods are listed', async () => (await page.locator('[aria-label=Pods] tr[data-name]').count()) === 3);
  });

  await step('a scale and a new pod appear by themselves', async () => {
    const big = page.locator('[aria-label=Rollout] .big');
    await api(`${APPS}/deployments/shop/scale`, 'PATCH', { spec: { replicas: 4 } }, 'application/merge-patch+json');
    const start = Date.now();
    await eventually('four are wanted', async () => (await big.first().innerText()) === '4');
    const seen = Date.now() - start;
    await eventually('four are available', async () => (await big.nth(3).innerText()) === '4');
    return `shown after ${seen} ms`;
  });

  await step('scale dialog', async () => {
    await d.button('Scale…').click();
    await page.locator('dialog input[type=number]').fill('2');
    await d.button('Scale', page.locator('dialog')).click();
    await eventually('two are left', async () => (await page.locator('[aria-label=Rollout] .big').nth(4).innerText()) === '2');
  });

  await step('edit: difference, apply, a second revision rolls out live', async () => {
    await d.view('Edit').click();
    await page.locator('.cm-content').waitFor();
    const fresh = await api(`${APPS}/deployments/shop`);
    fresh.metadata.annotations['kubernetes.io/change-cause'] = 'second';
    fresh.spec.template.spec.containers[0].image = 'nginx:1.9.1';
    delete fresh.status;
    await edit(page, JSON.stringify(fresh, null, 1));
    await d.button('Check').click();
    await d.see('nginx:1.9.1', '.diff .plus');
    await d.shot('edit-checked-light');
    await d.button('Apply').click();
    await d.see('second', '[aria-label=Revisions]');
    await d.see('Rolled out.');
    await d.see('nginx:1.9.1', '.diff .plus');
    expect((await page.locator('.revisions tbody tr').count()) === 2, 'two revisions');
    await d.shot('deployment-rolled-out-light');
  });

  await step('undo goes back to the first replica set', async () => {
    await d.button('Undo to revision 1').click();
    await eventually('revision 3 is current', async () => /^3/.test(await page.locator('.revisions tbody tr').first().innerText()));
    await d.see('Rolled out.');
    const sets = (await api(`${APPS}/replicasets?labelSelector=app%3Dshop`)).items;
    expect(sets.length === 2, `${sets.length} replica sets`);
    const live = sets.find((s) => s.spec.replicas > 0);
    expect(live.spec.template.spec.containers[0].image === 'nginx', 'the old template is back');
    expect(live.metadata.annotations['kubernetes.io/change-cause'] === 'first', 'and its change cause');
  });

  await step('pause, resume, restart', async () => {
    await d.button('Pause rollout').click();
    await d.see('The rollout is paused.');
    await d.button('Resume rollout').click();
    await d.button('Pause rollout').waitFor();
    await d.button('Restart').click();
    await eventually('a third revision', async () => (await page.locator('.revisions tbody tr').count()) >= 3);
    await d.see('Rolled out.');
  });

  await step('a stateful set: its revisions, their difference, and the way back', async () => {
    const labels = { app: 'store' };
    const spec = (image) => ({ terminationGracePeriodSeconds: 0, containers: [{ name: 'c', image, imagePullPolicy: 'IfNotPresent', command: ['sleep', '3600'] }] });
    await api(`${APPS}/statefulsets`, 'POST', { metadata: { name: 'store' }, spec: { replicas: 1, serviceName: 'store', selector: { matchLabels: labels }, template: { metadata: { labels }, spec: spec('busybox') } } });
    await d.go('/object/apps/statefulsets/default/store?ns=default');
    await d.see('Rolled out.');
    await api(`${APPS}/statefulsets/store`, 'PATCH', { spec: { template: { spec: spec('busybox:latest') } } }, 'application/merge-patch+json');
    await d.see('busybox:latest', '.diff .plus');
    await eventually('two revisions', async () => (await page.locator('.revisions tbody tr').count()) === 2);
    await d.see('Rolled out.');
    await d.shot('statefulset-light');
    const found = await audit(page);
    expect(found.length === 0, found.join('\n'));
    await d.button('Go back to 1').click();
    await eventually('the old image is back', async () => (await api(`${APPS}/statefulsets/store`)).spec.template.spec.containers[0].image === 'busybox');
    await eventually('it is revision 3', async () => /^3/.test(await page.locator('.revisions tbody tr').first().innerText()));
    await api(`${APPS}/statefulsets/store`, 'DELETE');
    await d.see('There is no stateful set store');
  });

  await step('a crash loop appears by itself', async () => {
    await d.go('/overview?ns=default');
    await d.see('crasher', '[aria-label=Problems] li');
    await api(`${NS}/pods`, 'POST', { metadata: { name: 'second-crasher' }, spec: { terminationGracePeriodSeconds: 0, containers: [{ name: 'c', image: 'busybox', imagePullPolicy: 'IfNotPresent', command: ['sh', '-c', 'exit 7'] }] } });
    await d.see('second-crasher', '[aria-label=Problems] li');
    await api(`${NS}/pods/second-crasher`, 'DELETE');
    await d.gone('second-crasher', '[aria-label=Problems] li');
  });

  await step('every kind that is served has a list', async () => {
    await d.go('/overview?ns=default');
    await page.getByRole('button', { name: /Everything else/ }).click();
    const links = await page.locator('nav a.kind').evaluateAll((all) => all.map((a) => [a.textContent, a.getAttribute('href')]));
    expect(links.length >= 20, `${links.length} kinds`);
    for (const [title, href] of links) {
      await page.evaluate((h) => (location.hash = h), href);
      await page.locator('main h1', { hasText: title }).waitFor();
      await eventually(`${title} is listed`, async () => !/Loading…/.test(await d.text()));
      expect((await page.locator('main .note.bad').count()) === 0, `${title}: ${await d.text()}`);
    }
    for (const title of ['Namespaces', 'Nodes', 'Persistent Volumes', 'Storage Classes', 'Deployments', 'Replica Sets', 'Replication Controllers', 'Daemon Sets', 'Stateful Sets', 'Jobs', 'Cron Jobs', 'Pods', 'Services', 'Secrets', 'Config Maps', 'Persistent Volume Claims']) {
      expect(links.some(([t]) => t === title), `${title} is in the menu`);
    }
    return `${links.length} kinds`;
  });

  await step('a custom resource gets its list when it is defined', async () => {
    if (!(await api('/apis/apiextensions.k8s.io/v1'))) return 'this server has no custom resources yet';
    const crd = {
      apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition', metadata: { name: 'boats.example.com' },
      spec: { group: 'example.com', scope: 'Namespaced', names: { plural: 'boats', singular: 'boat', kind: 'Boat', listKind: 'BoatList' },
        versions: [{ name: 'v1', served: true, storage: true, schema: { openAPIV3Schema: { type: 'object', properties: { spec: { type: 'object', properties: { seats: { type: 'integer' } } } } } }, additionalPrinterColumns: [{ name: 'Seats', type: 'integer', jsonPath: '.spec.seats' }] }] },
    };
    await api('/apis/apiextensions.k8s.io/v1/customresourcedefinitions', 'POST', crd);
    await eventually('it is served', () => api('/apis/example.com/v1'));
    await api('/apis/example.com/v1/namespaces/default/boats', 'POST', { apiVersion: 'example.com/v1', kind: 'Boat', metadata: { name: 'coracle' }, spec: { seats: 1 } });
    await page.reload();
    await page.locator('nav a.kind', { hasText: 'Boats' }).click();
    await d.see('coracle', 'tbody tr');
    await d.see('Seats', 'thead');
    await d.shot('custom-light');
  });

  await step('lists: classic columns, filter by key, rows by key', async () => {
    await d.go('/list/apps/replicasets?ns=default');
    const head = await page.locator('thead').innerText();
    for (const column of ['Name', 'Labels', 'Pods', 'Age', 'Images']) expect(head.includes(column), `${column} in ${head}`);
    await d.see('2 / 2', 'tbody td');
    await d.see('0 / 0', 'tbody td');
    await d.shot('replicasets-light');
    await d.go('/list/core/pods?ns=default');
    await d.see('talker', 'tbody tr');
    await page.keyboard.press('/');
    await page.keyboard.type('talk');
    await eventually('one row is left', async () => (await page.locator('tbody tr').count()) === 1);
    await page.keyboard.press('Enter');
    await page.keyboard.press('j');
    await page.keyboard.press('Enter');
    await page.locator('main h1', { hasText: 'talker' }).waitFor();
    await page.keyboard.press('g');
    await page.keyboard.press('d');
    await page.locator('main h1', { hasText: 'Deployments' }).waitFor();
    await page.keyboard.press('?');
    await d.see('Keys', 'dialog');
    await d.shot('help-light');
    await page.keyboard.press('Escape');
    await page.locator('#namespace').selectOption('kube-system');
    await eventually('another namespace', async () => page.url().includes('ns=kube-system'));
    await page.locator('#namespace').selectOption('default');
  });

  await step('a service: selector, endpoints, links, pods', async () => {
    await d.go('/list/core/services?ns=default');
    for (const column of ['Name', 'Labels', 'Cluster IP', 'Internal endpoints', 'External endpoints']) expect((await page.locator('thead').innerText()).includes(column), column);
    await d.see('kubernetes:443 TCP', 'tbody td');
    await d.shot('services-light');
    await d.go('/object/core/services/default/shop-lb?ns=default');
    await d.see('shop-lb:8088 TCP');
    await d.see('2 ready of 2', '[aria-label=Endpoints]');
    const link = page.locator('dd a[target=_blank]').first();
    await link.waitFor();
    const answer = await fetch(await link.getAttribute('href'));
    expect((await answer.text()).includes('nginx'), 'the link works');
    await d.see('Running', '[aria-label=Pods] td');
    // A sample every ten seconds: the lines grow while they are looked at.
    await eventually('CPU and memory of its pods, with history', () => page.evaluate(() => {
      const lines = [...document.querySelectorAll('[aria-label=Pods] tbody svg[role=img]')];
      const points = (svg) => svg.querySelector('polyline').getAttribute('points').split(' ').length;
      const labelled = (what) => lines.filter((svg) => svg.getAttribute('aria-label').startsWith(`${what} of shop-`) && points(svg) >= 4);
      return labelled('CPU').length === 2 && labelled('Memory').length === 2;
    }));
    expect(/\d (Ki|Mi)/.test(await d.text('[aria-label=Pods] tbody')), 'memory in figures');
    await d.shot('service-light');
  });

  await step('a pod: conditions, containers, events, start-up in milliseconds', async () => {
    await d.go('/object/core/pods/default/talker?ns=default');
    await d.see('Initialized', '[aria-label=Conditions]');
    await d.see('busybox', '[aria-label="Container c"]');
    await d.see('Started', '[aria-label="Events of this object"]');
    for (const what of ['Scheduled', 'Network', 'Volumes', 'Image there', 'Container made', 'Started', 'Ready']) await d.see(what, '.steps');
    expect(/\d ms/.test(await page.locator('.steps').innerText()), 'milliseconds');
    // Each step is at or after the one before it, and none is a guess in whole seconds.
    const at = (await page.locator('.steps li').allInnerTexts()).map((t) => Number(/([\d.]+) ms/.exec(t)?.[1]));
    expect(at.length >= 7 && at.every((ms, n) => ms >= (n ? at[n - 1] : 0)), `the steps: ${at}`);
    for (const what of ['CPU', 'Memory']) await page.locator(`[aria-label="${what} history"] canvas`).waitFor();
    await d.shot('pod-light');
    await d.go('/object/core/pods/default/crasher?ns=default');
    await d.see('exit code 3', '.problem');
    await d.shot('crash-light');
  });

  await step('logs: follow, search, previous; a line is never markup', async () => {
    await d.go('/object/core/pods/default/talker?tab=logs&ns=default');
    await d.see('line 2', '.lines');
    const lines = () => page.locator('.lines > div').count();
    const before = await lines();
    await eventually('more lines', async () => (await lines()) > before);
    await page.keyboard.press('/');
    await page.keyboard.type('line 1');
    await page.locator('mark').first().waitFor();
    await d.shot('logs-light');
    await d.go('/object/core/pods/default/crasher?tab=logs&previous=1&ns=default');
    await d.see('one', '.lines');
  });

  await step('a shell, through the proxy', async () => {
    await d.go('/object/core/pods/default/talker?tab=shell&ns=default');
    await d.see('connected', '.shell');
    await page.locator('.xterm-helper-textarea').focus();
    await page.keyboard.type('echo answer $((6*7)); stty size\n');
    await d.see('answer 42', '.xterm-rows');
    await d.shot('shell-light');
    await page.keyboard.type('exit 5\n');
    await d.see('exit code 5', '.shell');
  });

  await step('secrets: metadata in lists, one value at a time, and what is missing', async () => {
    const bodies = [];
    const note = async (r) => { if (/secrets/.test(r.url()) && !/\/ui\/watch/.test(r.url())) bodies.push(r.url()); };
    page.on('response', note);
    await d.go('/list/core/secrets?ns=default');
    await d.see('my-secrets', 'tbody tr');
    await d.see('my-secret', '[aria-label="Secrets that are missing"]');
    expect(bodies.length === 0, `values were asked for: ${bodies}`);
    page.off('response', note);
    expect(!(await page.content()).includes('This is a secret'), 'a value in a list');
    await d.shot('secrets-light');
    await d.go('/object/core/secrets/default/my-secrets?ns=default');
    const row = page.locator('tr[data-key="secret1.txt"]');
    await row.waitFor();
    expect(!(await page.content()).includes('This is a secret'), 'a value that nobody revealed');
    await d.button('Reveal', row).click();
    await d.see('This is a secret', 'tr[data-key="secret1.txt"]');
    expect(!(await page.content()).includes('another value'), 'the other value');
    await d.button('Encoded', row).click();
    await d.see('VGhpcyBpcyBhIHNlY3JldA==', 'tr[data-key="secret1.txt"]');
    await d.shot('secret-encoded-light');
    await d.button('Hide', row).click();
    await d.gone('VGhpcyBpcyBhIHNlY3JldA==', 'tr[data-key="secret1.txt"]');
  });

  await step('the missing secret is created from where it is missed, and the pod starts', async () => {
    await d.go('/list/core/secrets?ns=default');
    await page.getByRole('link', { name: 'Create it' }).click();
    await page.locator('.cm-content').waitFor();
    await d.button('Check').click();
    await d.see('What would happen');
    await d.button('Create').click();
    await page.locator('main h1', { hasText: 'my-secret' }).waitFor();
    await d.go('/object/core/pods/default/test-secrets?ns=default');
    await d.see('Running', '.head');
  });

  await step('topology', async () => {
    await d.go('/topology?ns=default');
    for (const name of ['shop-lb', 'shop', 'talker']) await page.locator(`svg a[aria-label*=" ${name}: "]`).first().waitFor();
    expect((await page.locator('svg path.edge').count()) >= 5, 'edges');
    await d.shot('topology-light');
  });

  await step('one connection watches it all', async () => {
    await eventually('the old ones are closed', () => streams.size <= 1);
    expect(streams.size === 1, `${streams.size} connections`);
  });

  await step('hidden, it watches nothing; seen again, it goes on from where it was', async () => {
    await d.go('/list/core/configmaps?ns=default');
    await d.see('kube-root-ca.crt', 'tbody tr');
    const hide = (hidden) => page.evaluate((hidden) => {
      Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);
    await hide(true);
    await d.see('paused', 'header .live');
    await eventually('no connection is left', () => streams.size === 0);
    await api(`${NS}/configmaps`, 'POST', { metadata: { name: 'made-meanwhile' } });
    const resumed = page.waitForRequest((r) => r.url().includes('/ui/watch'));
    await hide(false);
    const asked = decodeURIComponent(decodeURIComponent((await resumed).url()));
    expect(/configmaps\?[^:]*resourceVersion=\d+/.test(asked) && !asked.includes('sendInitialEvents'), `not resumed: ${asked}`);
    await d.see('made-meanwhile', 'tbody tr');
    await d.see('live', 'header .live');
    await api(`${NS}/configmaps/made-meanwhile`, 'DELETE');
    await d.gone('made-meanwhile', 'tbody tr');
  });

  await everyPage(d, 'light');
  await withoutMouse(d);
  await hostile(d);
  await page.context().close();
}

// ---------------------------------------------------------------- directly, dark
{
  const base = `${DIRECT}/ui/`;
  const d = on(await open('dark'), base);
  const { page } = d;

  await step('directly, nothing without a login', async () => {
    await page.goto(base);
    await d.see('coracle dashboard');
    await d.shot('login-dark');
    const found = await audit(page);
    expect(found.length === 0, found.join('\n'));
  });

  await step('a login link logs in once', async () => {
    await page.goto('about:blank');
    await page.goto(LINK);
    await page.locator('nav').waitFor();
    expect(!page.url().includes('login'), 'the token stays out of the history');
    const cookie = (await page.context().cookies()).find((c) => c.name === '__Host-coracle');
    expect(cookie?.httpOnly && cookie.secure && cookie.sameSite === 'Strict', JSON.stringify(cookie));
    // Whoever listens at another port of the host is sent it.
    const alone = await page.evaluate(async () => (await (await fetch('session')).json()).anonymous);
    expect(alone === true, 'the cookie alone is worth nothing');
    const other = await open('dark');
    await other.goto(LINK);
    await other.locator('[role=alert]', { hasText: 'has been used' }).waitFor();
    await other.context().close();
    on(page, base);
  });

  await step("another user's login link does not replace the session unasked", async () => {
    const headers = { 'Impersonate-User': 'mallory', 'Impersonate-Group': 'system:masters' };
    const link = await (await fetch(`${PROXY}/ui/login-link`, { method: 'POST', headers })).json();
    await page.goto(DIRECT + link.path);
    await d.see('Log in as mallory to');
    await d.button('Stay kubernetes-admin').click();
    await page.locator('nav').waitFor();
    const me = () => page.evaluate(async () => {
      const headers = { 'X-Coracle-Dashboard': localStorage.getItem('coracle-page') ?? '' };
      return (await (await fetch('session', { headers })).json()).user;
    }).catch(() => '');
    expect((await me()) === 'kubernetes-admin', await me());
    await page.goto('about:blank');
    await page.goto(DIRECT + link.path);
    await d.button('Log in as mallory').click();
    await eventually('the other session', async () => (await me()) === 'mallory');
    const { path } = await api('/ui/login-link', 'POST');
    await page.goto('about:blank');
    await page.goto(DIRECT + path);
    await d.button('Log in as kubernetes-admin').click();
    await eventually('the first user again', async () => (await me()) === 'kubernetes-admin');
    await page.locator('nav').waitFor();
  });

  await step('a shell, directly', async () => {
    await d.go('/object/core/pods/default/talker?tab=shell&ns=default');
    await d.see('connected', '.shell');
    await page.locator('.xterm-helper-textarea').focus();
    await page.keyboard.type('echo answer $((6*7))\n');
    await d.see('answer 42', '.xterm-rows');
    await d.shot('shell-dark');
  });

  await everyPage(d, 'dark');

  await step('logging out ends it', async () => {
    await d.button('Log out').click();
    await d.see('coracle dashboard');
  });
  await page.context().close();
}

// ---------------------------------------------------------------- under a path prefix, then the end
{
  // As narrow as a page may be asked to be (WCAG 1.4.10).
  const d = on(await open('light', { viewport: { width: 320, height: 860 } }), `${PREFIXED}/ui/`);
  const { page } = d;
  const outside = [];
  page.on('request', (r) => !r.url().startsWith(`${PREFIXED}/`) && !r.url().startsWith('blob:') && outside.push(r.url()));

  await step('under a path prefix: the page, its parts, watches, logs, a terminal, a write', async () => {
    await page.goto(`${PREFIXED}/ui`);
    await page.locator('main h1').first().waitFor();
    expect(page.url().startsWith(`${PREFIXED}/ui/`), page.url());
    await d.go('/list/core/configmaps?ns=default');
    await api(`${NS}/configmaps`, 'POST', { metadata: { name: 'prefixed' }, data: { key: 'value' } });
    await d.see('prefixed', 'tbody tr');
    await d.go('/object/core/configmaps/default/prefixed?tab=edit&ns=default');
    await edit(page, JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'prefixed', namespace: 'default' }, data: { key: 'other' } }));
    await d.button('Check').click();
    await d.see('other', '.diff .plus');
    await d.button('Apply').click();
    await d.see('other', '[aria-label=Data] pre');
    await api(`${NS}/configmaps/prefixed`, 'DELETE');
    await d.see('There is no config map prefixed');
    await d.go('/object/core/pods/default/talker?tab=logs&ns=default');
    await d.see('line', '.lines');
    await d.go('/object/core/pods/default/talker?tab=shell&ns=default');
    await d.see('connected', '.shell');
    expect(outside.length === 0, `asked outside of the prefix: ${outside}`);
  });

  await everyPage(d, 'light', 'narrow');

  await step('delete says what goes with it', async () => {
    await d.go('/object/apps/deployments/default/shop?ns=default');
    await d.button('Delete…').click();
    await d.see('Replica Set', 'dialog');
    await d.see('Pod', 'dialog li');
    await d.shot('delete-light');
    await d.button('Delete', page.locator('dialog')).click();
    await page.locator('main h1', { hasText: 'Deployments' }).waitFor();
    await d.gone('shop', 'tbody tr');
    await eventually('its pods are gone', async () => (await api(`${NS}/pods?labelSelector=app%3Dshop`)).items.length === 0);
  });
  await page.context().close();
}

// ---------------------------------------------------------------- a crowd, and other people's pages
await crowd(`${PROXY}/ui/`);

await step('no error and no breach of the policy on any page', async () => {
  // What Chromium itself writes when text is pasted into the editor, which has no script as its
  // place and is refused.
  const own = complaints.filter((c) => !/(tab=edit|create\?)\S*:0: Applying inline/.test(c));
  expect(own.length === 0, own.slice(0, 5).join('\n'));
});
await origins();
await close();
console.log(`${SHOTS}: screenshots`);
process.exit(failures() ? 1 : 0);
