// What the deletion of an object takes along: what it owns, whom that owns, and so on; of a
// namespace, everything in it.

import { get, type Obj } from './api';
import { kinds, oneOf, pathOf, type Kind } from './kinds.svelte';

export interface Dependent {
  kind: string;
  namespace: string;
  name: string;
}

const ACCEPT = 'application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io';
const BATCH = 4;

async function inNamespace(namespace: string): Promise<[Kind, Obj][]> {
  const listed = kinds.all.filter((k) => k.namespaced && k.plural !== 'events' && k.group !== 'metrics.k8s.io');
  const found: [Kind, Obj][] = [];
  // A few at a time: browsers allow six connections, and watching takes one.
  for (let at = 0; at < listed.length; at += BATCH) {
    const lists = await Promise.all(
      listed.slice(at, at + BATCH).map(async (k) => {
        try {
          const list = await get<{ items: Obj[] }>(pathOf(k, namespace), { accept: ACCEPT });
          return list.items.map((o): [Kind, Obj] => [k, o]);
        } catch {
          // A kind that may not be listed cannot be shown.
          return [];
        }
      }),
    );
    found.push(...lists.flat());
  }
  return found;
}

export async function dependents(kind: Kind, object: Obj): Promise<Dependent[]> {
  const whole = kind.plural === 'namespaces' && kind.group === '';
  const all = await inNamespace(whole ? object.metadata.name : (object.metadata.namespace ?? ''));
  const taken = new Set([object.metadata.uid]);
  const list: Dependent[] = [];
  const note = (k: Kind, o: Obj) => list.push({ kind: oneOf(k), namespace: o.metadata.namespace ?? '', name: o.metadata.name });
  if (whole) {
    for (const [k, o] of all) note(k, o);
    return list;
  }
  for (let grown = true; grown;) {
    grown = false;
    for (const [k, o] of all) {
      if (!o.metadata.uid || taken.has(o.metadata.uid)) continue;
      if (o.metadata.ownerReferences?.some((r) => taken.has(r.uid))) {
        taken.add(o.metadata.uid);
        note(k, o);
        grown = true;
      }
    }
  }
  return list;
}
