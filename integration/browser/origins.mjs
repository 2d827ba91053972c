// Pages of other origins, in a browser that has a way in: `kubectl proxy` beside it, a session, or a
// client certificate. They can neither read nor write. And a name that somebody has pointed here.
//
// Environment, beside that of the harness: SERVING (the node's key and certificate, for a page of
// the same site), ADMIN (a client certificate and its key).
import { readFileSync } from 'node:fs';
import { createServer as createPlain, request } from 'node:http';
import { createServer as createSecure } from 'node:https';
import { DIRECT, NS, PROXY, api, expect, launch, on, open, step } from './harness.mjs';

const { SERVING, ADMIN } = process.env;
const PAGE = '<!doctype html><title>another origin</title><body>';
const secure = { key: readFileSync(SERVING), cert: readFileSync(SERVING) };

const HEADERS = {
  'content-security-policy': /default-src 'none'.*frame-ancestors 'none'/,
  'x-content-type-options': /^nosniff$/,
  'x-frame-options': /^DENY$/,
  'referrer-policy': /^no-referrer$/,
  'cross-origin-opener-policy': /^same-origin$/,
  'cross-origin-resource-policy': /^same-origin$/,
  'cache-control': /./,
};

async function serve(create, host) {
  const server = create((asked, response) => {
    response.setHeader('content-type', 'text/html');
    response.end(PAGE);
  });
  await new Promise((r) => server.listen(0, host, r));
  return server;
}

/** Everything that a page can try, and what came of it. */
const attack = (page, target) => page.evaluate(async (target) => {
  const outcome = {};
  const attempt = async (name, action) => {
    try {
      outcome[name] = await Promise.race([action(), new Promise((r) => setTimeout(() => r('refused: in time'), 8000))]);
    } catch (error) {
      outcome[name] = `refused: ${error.name}`;
    }
  };
  const namespaces = `${target}/api/v1/namespaces`;
  const named = (name) => JSON.stringify({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
  const read = async (path, init) => {
    const response = await fetch(target + path, init);
    return response.type === 'opaque' ? 'refused: opaque' : `${response.status} ${(await response.text()).slice(0, 80)}`;
  };
  for (const credentials of ['include', 'omit']) {
    await attempt(`read, ${credentials}`, () => read('/api/v1/namespaces', { credentials }));
    await attempt(`watch, ${credentials}`, () => read(`/ui/watch?w=a:object:/api/v1/namespaces%3Fwatch=1`, { credentials }));
    await attempt(`log in, ${credentials}`, () => read('/ui/session', { method: 'POST', credentials, body: 'guess' }));
    await attempt(`delete, ${credentials}`, () => read('/api/v1/namespaces/default/pods/talker', { method: 'DELETE', credentials }));
    await attempt(`patch, ${credentials}`, () => read('/api/v1/namespaces/default/pods/talker', { method: 'PATCH', credentials, headers: { 'content-type': 'application/merge-patch+json' }, body: '{"metadata":{"labels":{"evil":"1"}}}' }));
  }
  await attempt('token', () => read('/ui/terminal-token', { method: 'POST', credentials: 'include', headers: { 'X-Coracle-Dashboard': '1' } }));
  await attempt('opaque read', () => read('/api/v1/namespaces', { mode: 'no-cors', credentials: 'include' }));
  // What is sent without asking first.
  const blind = (name, type) => fetch(namespaces, { method: 'POST', mode: 'no-cors', credentials: 'include', headers: type ? { 'content-type': type } : {}, body: new Blob([named(name)]) });
  await attempt('blind write', async () => (await blind('evil-blind'), 'refused: opaque'));
  await attempt('blind write, as text', async () => (await blind('evil-text', 'text/plain'), 'refused: opaque'));
  await attempt('blind write, as a form', async () => (await blind('evil-form', 'application/x-www-form-urlencoded'), 'refused: opaque'));
  await attempt('beacon', async () => (navigator.sendBeacon(namespaces, named('evil-beacon')), 'refused: opaque'));
  await attempt('form', () => new Promise((resolve) => {
    const form = Object.assign(document.createElement('form'), { method: 'POST', action: namespaces, enctype: 'text/plain', target: 'hole' });
    const field = Object.assign(document.createElement('input'), { name: '{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"evil-posted","annotations":{"a":"', value: '"}}}' });
    const frame = Object.assign(document.createElement('iframe'), { name: 'hole' });
    frame.onload = () => setTimeout(() => {
      try { resolve(frame.contentDocument?.body?.innerText ? 'readable' : 'refused: empty'); } catch { resolve('refused: another origin'); }
    }, 300);
    form.append(field);
    document.body.append(frame, form);
    form.submit();
  }));
  for (const path of ['/ui/terminal/default/talker/exec', '/api/v1/namespaces/default/pods/talker/exec', '/api/v1/namespaces?watch=1']) {
    await attempt(`socket ${path}`, () => new Promise((resolve) => {
      const socket = new WebSocket(`${target.replace('http', 'ws')}${path}${path.includes('?') ? '' : '?command=id&stdout=true'}`, ['v5.channel.k8s.io', 'coracle.terminal.guess']);
      socket.onopen = () => resolve('open');
      socket.onerror = () => resolve('refused: error');
    }));
  }
  const element = (name, tag, attributes) => attempt(name, () => new Promise((resolve) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.onload = () => resolve('loaded');
    made.onerror = () => resolve('refused: error');
    document.body.append(made);
  }));
  await element('script', 'script', { src: `${target}/api/v1/namespaces` });
  await element('style', 'link', { rel: 'stylesheet', href: `${target}/api/v1/namespaces` });
  await element('style of the page', 'link', { rel: 'stylesheet', href: `${target}/ui/` });
  await element('picture', 'img', { src: `${target}/ui/icon.svg` });
  await attempt('frame', () => new Promise((resolve) => {
    const frame = Object.assign(document.createElement('iframe'), { src: `${target}/ui/` });
    frame.onload = () => { try { resolve(frame.contentDocument?.body ? 'readable' : 'refused: another origin'); } catch { resolve('refused: another origin'); } };
    document.body.append(frame);
  }));
  await attempt('window', async () => {
    const other = open(`${target}/ui/`);
    if (!other) return 'refused: no window';
    for (let n = 0; n < 60 && !other.closed; n++) await new Promise((r) => setTimeout(r, 50));
    return other.closed ? 'refused: severed' : `held, ${other.length} frames`;
  });
  return outcome;
}, target);

async function unharmed(got) {
  for (const [name, came] of Object.entries(got)) expect(String(came).startsWith('refused'), `${name}: ${came}`);
  const made = (await api('/api/v1/namespaces')).items.map((n) => n.metadata.name).filter((n) => n.startsWith('evil'));
  expect(made.length === 0, `made: ${made}`);
  const talker = await api(`${NS}/pods/talker`);
  expect(talker && !talker.metadata.deletionTimestamp && !talker.metadata.labels?.evil, 'the pod was changed or deleted');
  return `${Object.keys(got).length} ways`;
}

/** An answer to a request as it is written here, whatever a browser would let a page say. */
const raw = (url, headers, method = 'GET') => new Promise((resolve, reject) => {
  const asked = request(url, { method, headers }, (response) => {
    let text = '';
    response.on('data', (piece) => (text += piece));
    response.on('end', () => resolve({ status: response.statusCode, text }));
  });
  asked.on('error', reject);
  asked.end();
});

export async function origins() {
  await step('the static files carry the headers, directly and through the proxy', async () => {
    const page = await open('light');
    let files = 0;
    for (const base of [`${DIRECT}/ui/`, `${PROXY}/ui/`]) {
      const html = await (await page.request.get(base)).text();
      const parts = [...html.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map(([, path]) => path);
      expect(parts.some((p) => p.endsWith('.js')) && parts.some((p) => p.endsWith('.css')), html);
      for (const path of ['', ...parts]) {
        const response = await page.request.get(base + path, { headers: { 'accept-encoding': 'gzip' } });
        const headers = response.headers();
        expect(response.status() === 200, `${base}${path}: ${response.status()}`);
        for (const [name, wanted] of Object.entries(HEADERS)) expect(wanted.test(headers[name] ?? ''), `${base}${path}: ${name}: ${headers[name]}`);
        expect(!/unsafe|\*/.test(headers['content-security-policy']), headers['content-security-policy']);
        expect(!headers['access-control-allow-origin'], `${path} is for everybody`);
        expect(path.startsWith('assets/') ? /immutable/.test(headers['cache-control']) : headers['cache-control'] === 'no-cache', `${path}: ${headers['cache-control']}`);
        expect(headers['content-encoding'] === 'gzip', `${path}: ${headers['content-encoding']}`);
        files++;
      }
    }
    await page.context().close();
    return `${files} files`;
  });

  await step('another origin can neither read nor write through the proxy', async () => {
    const server = await serve(createPlain, '127.0.0.1');
    const page = await open('light');
    on(page, '');
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    const said = await unharmed(await attack(page, PROXY));
    await page.context().close();
    server.close();
    return said;
  });

  const { hostname } = new URL(DIRECT);
  await step('another origin of the same site can do nothing with the session of who is logged in', async () => {
    const server = await serve((listener) => createSecure(secure, listener), hostname);
    const page = await open('light');
    on(page, '');
    const { path } = await api('/ui/login-link', 'POST');
    await page.goto(DIRECT + path);
    await page.locator('nav').first().waitFor();
    await page.goto(`https://${hostname}:${server.address().port}/`);
    const kept = (await page.context().cookies(DIRECT)).map((c) => c.name);
    expect(kept.includes('__Host-coracle'), 'there is a session that could be used');
    const said = await unharmed(await attack(page, DIRECT));
    // The session is as good as before.
    await page.goto(`${DIRECT}/ui/`);
    await page.locator('nav').first().waitFor();
    await page.context().close();
    server.close();
    return said;
  });

  await step('nor with the client certificate that the browser shows', async () => {
    const server = await serve(createPlain, '127.0.0.1');
    const admin = readFileSync(ADMIN);
    const page = await open('light', { clientCertificates: [{ origin: DIRECT, cert: admin, key: admin }] });
    on(page, '');
    await page.goto(`${DIRECT}/ui/`);
    await page.locator('main h1').first().waitFor();
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    const said = await unharmed(await attack(page, DIRECT));
    await page.context().close();
    server.close();
    return said;
  });

  await step('a name that somebody has pointed here is not answered', async () => {
    const proxy = new URL(PROXY);
    for (const host of ['evil.example', `evil.example:${proxy.port}`, `localhost.evil.example:${proxy.port}`]) {
      for (const path of ['/ui/', '/ui/session', '/api/v1/namespaces', '/ui/watch']) {
        const answer = await raw(PROXY + path, { host });
        expect(answer.status === 403, `${host}${path} through the proxy: ${answer.status} ${answer.text.slice(0, 200)}`);
      }
    }
    const rebound = await launch(`--host-resolver-rules=MAP evil.example ${hostname}`);
    const page = await open('light', {}, rebound);
    on(page, '');
    const { port } = new URL(DIRECT);
    const evil = `https://evil.example:${port}`;
    const refused = await page.goto(`${evil}/ui/`);
    expect(refused.status() === 403, `the page: ${refused.status()}`);
    // Where it is, the page counts as the same origin.
    const got = await page.evaluate(async () => {
      const ask = async (path, init) => { const r = await fetch(path, init); return `${r.status} ${(await r.text()).slice(0, 60)}`; };
      return [await ask('/api/v1/namespaces'), await ask('/ui/session'), await ask('/ui/session', { method: 'POST', headers: { 'X-Coracle-Dashboard': '1' }, body: 'guess' })];
    });
    for (const answer of got) expect(answer.startsWith('403'), answer);
    await rebound.close();
  });
}
