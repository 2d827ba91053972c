// What can be done with an object, for menus, buttons and keys.

import { patch, type Obj } from './api';
import { pathOf, type Kind } from './kinds.svelte';
import { objectLink, router } from './route.svelte';
import { ui } from './ui.svelte';

export interface Action {
  id: string;
  label: string;
  key?: string;
  danger?: boolean;
  run: () => void;
}

const go = (kind: Kind, o: Obj, tab: string) =>
  router.go(objectLink(kind.group, kind.plural, o.metadata.namespace, o.metadata.name, { tab }));

export const path = (kind: Kind, o: Obj) => pathOf(kind, o.metadata.namespace, o.metadata.name);

export async function remove(kind: Kind, o: Obj) {
  const { default: Delete } = await import('../parts/Delete.svelte');
  ui.open(Delete, { kind, object: o });
}

async function scale(kind: Kind, o: Obj) {
  const { default: Scale } = await import('../parts/Scale.svelte');
  ui.open(Scale, { kind, object: o });
}

export function restart(kind: Kind, o: Obj) {
  const at = new Date().toISOString();
  const body = { spec: { template: { metadata: { annotations: { 'kubectl.kubernetes.io/restartedAt': at } } } } };
  return ui.attempt(`${o.metadata.name} restarts`, () => patch(path(kind, o), body));
}

const spec = (kind: Kind, o: Obj, what: string, body: unknown) =>
  ui.attempt(`${o.metadata.name} ${what}`, () => patch(path(kind, o), { spec: body }));

export function actionsOf(kind: Kind, o: Obj): Action[] {
  const actions: Action[] = [];
  const add = (id: string, label: string, run: () => void, key?: string, danger = false) =>
    actions.push({ id, label, run, key, danger });
  if (kind.plural === 'pods' && kind.group === '') {
    add('logs', 'Logs', () => go(kind, o, 'logs'), 'l');
    add('shell', 'Shell', () => go(kind, o, 'shell'), 's');
  }
  if (kind.subresources.includes('scale') && kind.verbs.includes('patch')) add('scale', 'Scale…', () => scale(kind, o));
  if (kind.group === 'apps' && ['deployments', 'statefulsets', 'daemonsets'].includes(kind.plural)) {
    add('restart', 'Restart', () => restart(kind, o));
  }
  if (kind.group === 'apps' && kind.plural === 'deployments') {
    const paused = !!o.spec?.paused;
    add('pause', paused ? 'Resume rollout' : 'Pause rollout', () =>
      spec(kind, o, paused ? 'goes on' : 'is paused', { paused: !paused }));
  }
  if (kind.plural === 'cronjobs' || kind.plural === 'jobs') {
    const suspended = !!o.spec?.suspend;
    add('suspend', suspended ? 'Resume' : 'Suspend', () =>
      spec(kind, o, suspended ? 'goes on' : 'is suspended', { suspend: !suspended }));
  }
  if (kind.plural === 'nodes') {
    const cordoned = !!o.spec?.unschedulable;
    add('cordon', cordoned ? 'Uncordon' : 'Cordon', () =>
      spec(kind, o, cordoned ? 'takes pods again' : 'takes no new pods', { unschedulable: cordoned ? null : true }));
  }
  if (kind.plural !== 'secrets') add('yaml', 'YAML', () => go(kind, o, 'yaml'), 'y');
  if (kind.verbs.includes('update')) add('edit', 'Edit…', () => go(kind, o, 'edit'), 'e');
  if (kind.verbs.includes('delete')) add('delete', 'Delete…', () => remove(kind, o), 'Delete', true);
  return actions;
}
