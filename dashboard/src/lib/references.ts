// What pods refer to by name: Secrets, ConfigMaps and claims.

import type { Obj } from './api';

export interface Missing {
  plural: string;
  namespace: string;
  name: string;
  pods: string[];
  near?: string;
}

type Ref = [plural: string, name: string];

interface Source {
  name?: string;
  optional?: boolean;
}

/** Every object that a pod needs before it can start. */
export function references(pod: Obj): Ref[] {
  const refs: Ref[] = [];
  const add = (plural: string, source?: Source) => {
    if (source?.name && !source.optional) refs.push([plural, source.name]);
  };
  for (const v of pod.spec?.volumes ?? []) {
    if (v.secret) add('secrets', { name: v.secret.secretName, optional: v.secret.optional });
    if (v.configMap) add('configmaps', v.configMap);
    if (v.persistentVolumeClaim) add('persistentvolumeclaims', { name: v.persistentVolumeClaim.claimName });
    for (const p of v.projected?.sources ?? []) {
      add('secrets', p.secret);
      add('configmaps', p.configMap);
    }
  }
  for (const c of [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])]) {
    for (const e of c.envFrom ?? []) {
      add('secrets', e.secretRef);
      add('configmaps', e.configMapRef);
    }
    for (const e of c.env ?? []) {
      add('secrets', e.valueFrom?.secretKeyRef);
      add('configmaps', e.valueFrom?.configMapKeyRef);
    }
  }
  return refs;
}

/** What of one kind the pods refer to and is not there, with the nearest name that is. */
export function missing(plural: string, pods: Obj[], present: Obj[]): Missing[] {
  const there = new Set(present.map((o) => `${o.metadata.namespace}/${o.metadata.name}`));
  const found = new Map<string, Missing>();
  for (const pod of pods) {
    if (pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed') continue;
    const namespace = pod.metadata.namespace ?? '';
    for (const [p, name] of references(pod)) {
      const key = `${namespace}/${name}`;
      if (p !== plural || there.has(key)) continue;
      const entry = found.get(key) ?? { plural, namespace, name, pods: [], near: nearest(name, namespace, present) };
      if (!entry.pods.includes(pod.metadata.name)) entry.pods.push(pod.metadata.name);
      found.set(key, entry);
    }
  }
  return [...found.values()];
}

/** Users of one object. */
export const usersOf = (plural: string, name: string, pods: Obj[]) =>
  pods.filter((pod) => references(pod).some(([p, n]) => p === plural && n === name));

function nearest(name: string, namespace: string, present: Obj[]): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(name.length / 4)) + 1;
  for (const o of present) {
    if (o.metadata.namespace !== namespace) continue;
    const d = distance(name, o.metadata.name, least);
    if (d < least) [best, least] = [o.metadata.name, d];
  }
  return best;
}

/** Edits between two names (Levenshtein), given up at `limit`. */
function distance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(next[j - 1] + 1, row[j] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}
