// Strings of people who mean harm, in every field that the API lets them write, on every page that
// shows them: they are seen as text, nothing runs, and the page's policy is never even asked.
import { APPS, NS, api, complaints, eventually, expect, merge, settled, step } from './harness.mjs';

const EVIL = `<img src=x onerror="window.hit=1"><script>window.hit=1</script>"'\`javascript:window.hit=1{{window.hit=1}}\${window.hit=1}`;
/** For fields that take no quotes, blanks or equals signs. */
const TAG = '<svg/onload/hit()>';
const now = () => new Date().toISOString().replace(/\.\d+/, '');
const condition = (type) => ({ type, status: 'False', reason: EVIL, message: EVIL, lastTransitionTime: now(), lastUpdateTime: now(), lastProbeTime: now() });
const annotations = { 'example.com/evil': EVIL, 'kubernetes.io/change-cause': EVIL, 'kubernetes.io/description': EVIL };
const metadata = (name) => ({ name, annotations, finalizers: [] });

const pod = {
  metadata: { ...metadata('evil'), labels: { app: 'evil' }, ownerReferences: [{ apiVersion: 'example.com/v1', kind: EVIL, name: EVIL, uid: 'evil' }] },
  spec: {
    schedulerName: 'nobody', restartPolicy: 'Never',
    volumes: [{ name: 'h', hostPath: { path: `/${TAG}` } }],
    initContainers: [{ name: 'i', image: EVIL, command: [EVIL], args: [EVIL] }],
    containers: [{
      name: 'c', image: EVIL, command: ['sh', '-c', EVIL], args: [EVIL], workingDir: `/${TAG}`,
      env: [{ name: 'EVIL', value: EVIL }, { name: 'REF', valueFrom: { configMapKeyRef: { name: 'evil', key: 'evil' } } }],
      ports: [{ name: 'evil', containerPort: 80 }],
      volumeMounts: [{ name: 'h', mountPath: `/${TAG}` }],
    }],
  },
};
const ended = { exitCode: 1, reason: EVIL, message: EVIL, startedAt: now(), finishedAt: now() };
const podStatus = {
  phase: 'Pending', reason: EVIL, message: EVIL, nominatedNodeName: '',
  conditions: ['PodScheduled', 'Ready', 'example.com/evil'].map(condition),
  initContainerStatuses: [{ name: 'i', image: EVIL, imageID: EVIL, ready: false, restartCount: 1, state: { terminated: ended }, lastState: { terminated: ended } }],
  containerStatuses: [{ name: 'c', image: EVIL, imageID: EVIL, ready: false, restartCount: 3, state: { waiting: { reason: EVIL, message: EVIL } }, lastState: { terminated: ended } }],
};
const template = { metadata: { labels: { app: 'evil-set' }, annotations }, spec: { ...pod.spec, restartPolicy: 'Always' } };

const OBJECTS = [
  [`${NS}/configmaps`, { metadata: metadata('evil'), data: { evil: EVIL, constructor: EVIL, __proto__evil: EVIL } }],
  [`${NS}/secrets`, { metadata: metadata('evil'), type: `example.com/${TAG}`, stringData: { evil: EVIL, constructor: EVIL, toString: EVIL } }],
  [`${NS}/pods`, pod],
  [`${APPS}/deployments`, { metadata: metadata('evil'), spec: { paused: true, replicas: 0, selector: { matchLabels: { app: 'evil-set' } }, template } }],
  [`${APPS}/replicasets`, { metadata: { ...metadata('evil'), annotations: { ...annotations, 'deployment.kubernetes.io/revision': EVIL } }, spec: { replicas: 0, selector: { matchLabels: { app: 'evil-set' } }, template } }],
  [`${APPS}/statefulsets`, { metadata: metadata('evil'), spec: { replicas: 0, serviceName: 'evil', selector: { matchLabels: { app: 'evil-set' } }, template } }],
  ['/apis/batch/v1/namespaces/default/jobs', { metadata: metadata('evil'), spec: { suspend: true, template: { metadata: { annotations }, spec: pod.spec } } }],
  ['/apis/batch/v1/namespaces/default/cronjobs', { metadata: metadata('evil'), spec: { suspend: true, schedule: '0 0 1 1 *', jobTemplate: { metadata: { annotations }, spec: { template: { spec: pod.spec } } } } }],
  [`${NS}/services`, { metadata: metadata('evil'), spec: { type: 'ExternalName', externalName: 'evil.example.com' } }],
  [`${NS}/services`, { metadata: metadata('evil-ports'), spec: { selector: { app: 'evil' }, ports: [{ name: 'javascript-window', port: 80 }] } }],
  [`${NS}/endpoints`, { metadata: metadata('evil-by-hand'), subsets: [{ addresses: [{ ip: '203.0.113.9', targetRef: { kind: EVIL, name: EVIL } }], ports: [{ port: 1 }] }] }],
  [`${NS}/persistentvolumeclaims`, { metadata: metadata('evil'), spec: { storageClassName: 'evil', accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Mi' } } } }],
  [`${NS}/serviceaccounts`, { metadata: metadata('evil') }],
  [`${NS}/resourcequotas`, { metadata: metadata('evil'), spec: { hard: { 'count/evil.example.com': '5' } } }],
  ['/api/v1/persistentvolumes', { metadata: metadata('evil'), spec: { capacity: { storage: '1Mi' }, accessModes: ['ReadWriteOnce'], persistentVolumeReclaimPolicy: 'Retain', storageClassName: 'evil', hostPath: { path: `/${TAG}` } } }],
  ['/apis/storage.k8s.io/v1/storageclasses', { metadata: metadata('evil'), provisioner: 'example.com/evil', parameters: { evil: EVIL } }],
  ['/api/v1/namespaces', { metadata: { name: 'evil', annotations } }],
  ['/apis/rbac.authorization.k8s.io/v1/clusterroles', { metadata: metadata('evil'), rules: [{ apiGroups: [EVIL], resources: [EVIL], verbs: [EVIL] }] }],
  ['/apis/rbac.authorization.k8s.io/v1/clusterrolebindings', { metadata: metadata('evil'), roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'evil' }, subjects: [{ kind: 'User', apiGroup: 'rbac.authorization.k8s.io', name: EVIL }] }],
];

const STATUSES = [
  [`${NS}/pods/evil/status`, podStatus],
  [`${APPS}/deployments/evil/status`, { conditions: [condition('example.com/evil'), { ...condition('Progressing'), status: 'False' }] }],
  [`${APPS}/replicasets/evil/status`, { conditions: [condition('example.com/evil')] }],
  [`${APPS}/statefulsets/evil/status`, { conditions: [condition('example.com/evil')] }],
  ['/apis/batch/v1/namespaces/default/jobs/evil/status', { conditions: [condition('example.com/evil')] }],
  [`${NS}/services/evil-ports/status`, { conditions: [condition('example.com/evil')] }],
  [`${NS}/persistentvolumeclaims/evil/status`, { phase: 'Pending', conditions: [condition('Resizing')] }],
  ['/api/v1/persistentvolumes/evil/status', { phase: 'Available', reason: EVIL, message: EVIL }],
  ['/api/v1/namespaces/evil/status', { conditions: [condition('example.com/evil')] }],
];

const event = (name, involvedObject) => ({
  metadata: { name, namespace: involvedObject.namespace ?? 'default' }, involvedObject, reason: EVIL.slice(0, 120), message: EVIL, type: 'Warning',
  source: { component: EVIL, host: EVIL }, firstTimestamp: now(), lastTimestamp: now(), count: 3,
});

/** Writes what the server takes; says how much that was, and what it would not have. */
async function plant() {
  const refused = [];
  let taken = 0;
  const attempt = async (path, method, body, type) => {
    try {
      if (await api(path, method, body, type)) taken++;
      else refused.push(`${path}: 404`);
    } catch (error) {
      refused.push(error.message.slice(0, 400));
    }
  };
  for (const [path, body] of OBJECTS) await attempt(path, 'POST', body);
  for (const [path, status] of STATUSES) await attempt(path, 'PATCH', { status }, 'application/merge-patch+json');
  const node = (await api('/api/v1/nodes')).items[0].metadata.name;
  await attempt(`/api/v1/nodes/${node}`, 'PATCH', { metadata: { annotations } }, 'application/merge-patch+json');
  await attempt(`/api/v1/nodes/${node}/status`, 'PATCH', { status: { conditions: [{ ...condition('example.com/evil'), status: 'True' }] } }, 'application/strategic-merge-patch+json');
  const about = (kind, name, apiVersion = 'v1') => ({ kind, name, apiVersion, namespace: 'default' });
  const events = [about('ConfigMap', 'evil'), about('Pod', 'evil'), about('Service', 'evil-ports'), about('Deployment', 'evil', 'apps/v1'), about(EVIL, EVIL, EVIL)];
  for (const [at, of] of events.entries()) await attempt(`${NS}/events`, 'POST', event(`evil.${at}`, of));
  await attempt(`${NS}/events`, 'POST', event('evil.node', { kind: 'Node', name: node, uid: node, apiVersion: 'v1' }));
  // What is wrong with the Deployment that the walk has made, and why it was changed.
  await attempt(`${APPS}/deployments/shop`, 'PATCH', { metadata: { annotations } }, 'application/merge-patch+json');
  return { taken, refused, node };
}

/** Nothing has run, nothing of it is an element, and the policy had nothing to forbid. */
async function clean(page, where) {
  const seen = await page.evaluate(() => ({
    hit: window.hit,
    breaches: window.breaches,
    elements: document.querySelectorAll('img[src="x"], script:not([src]), svg[onload], [onerror], [onload], a[href^="javascript:" i]').length,
  }));
  expect(!seen.hit, `it ran on ${where}`);
  expect(seen.elements === 0, `an element on ${where}`);
  // CodeMirror's own paste target (see walk.mjs).
  const own = seen.breaches.filter((b) => !/style-src/.test(b) || !/tab=edit|create|refusal/.test(where));
  expect(own.length === 0, `the policy was asked on ${where}: ${own}`);
}

export async function hostile(d) {
  const { page } = d;
  let planted;
  await step('hostile strings are taken as any others are', async () => {
    await page.evaluate(() => { window.hit = undefined; window.breaches = []; });
    planted = await plant();
    expect(planted.refused.length === 0, planted.refused.join('\n'));
    return `${planted.taken} objects, statuses and events`;
  });

  await step('hostile strings stay strings, on every page that shows them', async () => {
    const links = await page.locator('nav a.kind').evaluateAll((all) => all.map((a) => a.getAttribute('href').split('?')[0].slice(1)));
    expect(links.length >= 20, `${links.length} kinds`);
    const objects = [...new Set([...OBJECTS, [`/api/v1/nodes`, { metadata: { name: planted.node } }]].map(([path, o]) => {
      const [, group = 'core', plural] = /^\/apis?\/(?:([^/]+)\/)?v1\/(?:namespaces\/default\/)?([^/]+)$/.exec(path.replace('/apis/apps/', '/apis/apps/'));
      return `/object/${path.startsWith('/api/') ? 'core' : group}/${plural}/${path.includes('/namespaces/') ? 'default' : '-'}/${o.metadata.name}`;
    }))];
    const everywhere = [
      ...links, '/overview', '/topology',
      ...objects, ...objects.map((o) => `${o}?tab=yaml`), ...objects.map((o) => `${o}?tab=edit`),
      '/object/apps/deployments/default/shop', '/object/core/pods/default/talker?tab=logs', '/object/core/pods/default/evil?tab=logs',
      // And in the address itself, which anybody may send to somebody.
      `/object/core/pods/default/${encodeURIComponent(EVIL)}`, `/list/${encodeURIComponent(EVIL)}/${encodeURIComponent(EVIL)}`, `/${encodeURIComponent(EVIL)}`,
      `/list/core/pods?labels=${encodeURIComponent(EVIL)}`, `/create?kind=${encodeURIComponent(EVIL)}&name=${encodeURIComponent(EVIL)}`,
      `/object/core/pods/default/talker?tab=logs&container=${encodeURIComponent(EVIL)}`,
    ];
    let shown = 0;
    for (const hash of everywhere) {
      await page.evaluate((h) => (location.hash = h), `${hash}${hash.includes('?') ? '&' : '?'}ns=_all`);
      await settled(page);
      if (/tab=edit/.test(hash) && !/secrets/.test(hash)) await page.locator('.cm-content, main .dim').first().waitFor();
      await page.evaluate(() => document.querySelectorAll('details').forEach((e) => (e.open = true)));
      await clean(page, hash);
      if ((await d.text()).includes('window.hit')) shown++;
    }
    expect(shown >= 30, `they were to be seen on ${shown} pages only`);
    return `${everywhere.length} pages, seen on ${shown}`;
  });

  await step('hostile values of a Secret, under names that every object has', async () => {
    await d.go('/object/core/secrets/default/evil?ns=default');
    for (const key of ['constructor', 'toString', 'evil']) {
      const row = page.locator(`tr[data-key="${key}"]`);
      await row.waitFor();
      expect(!(await row.innerText()).includes('onerror'), `${key} is hidden at first`);
      await d.button('Reveal', row).click();
      await eventually('the value is there', async () => (await row.innerText()).includes('onerror'));
    }
    await clean(page, 'a revealed Secret');
  });

  await step('hostile dialogs, filters and notes', async () => {
    await d.go('/object/apps/deployments/default/evil?ns=default');
    await d.button('Delete…').click();
    await d.see('Delete deployment evil?', 'dialog');
    await clean(page, 'the dialog of a deletion');
    await page.keyboard.press('Escape');
    await d.go('/list/core/events?ns=default');
    await page.keyboard.press('/');
    await page.keyboard.insertText('<img src=x');
    await eventually('the filter has found them', async () => (await page.locator('tbody tr').count()) >= 5);
    await clean(page, 'a filter');
    await page.keyboard.press('Escape');
    // A refusal repeats what was sent.
    await d.go('/create?ns=default');
    await page.locator('.cm-content').click();
    await page.keyboard.insertText(JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: EVIL }, [EVIL]: 1 }));
    await d.button('Check').click();
    await d.see('onerror', '.result .bad');
    await clean(page, 'a refusal');
  });

  await step('what was planted is gone', async () => {
    for (const [path, o] of [...OBJECTS].reverse()) await api(`${path}/${o.metadata.name}?gracePeriodSeconds=0`, 'DELETE');
    for (let at = 0; at < 6; at++) await api(`${NS}/events/evil.${at < 5 ? at : 'node'}`, 'DELETE');
    const none = { 'example.com/evil': null, 'kubernetes.io/description': null };
    const condition = { type: 'example.com/evil', $patch: 'delete' };
    await api(`/api/v1/nodes/${planted.node}/status`, 'PATCH', { status: { conditions: [condition] } }, 'application/strategic-merge-patch+json');
    await merge(`/api/v1/nodes/${planted.node}`, { metadata: { annotations: { ...none, 'kubernetes.io/change-cause': null } } });
    await merge(`${APPS}/deployments/shop`, { metadata: { annotations: none } });
    const left = (await api(`/api/v1/nodes/${planted.node}`)).status.conditions.map((c) => c.type);
    expect(!left.includes('example.com/evil'), left.join(', '));
    expect(!complaints.some((c) => /hit/.test(c)), complaints.join('\n'));
  });
}
