// Manifests: parsed for where they go and where their mistakes are; sent as they are meant.

import { LineCounter, isMap, isSeq, parseAllDocuments, parseDocument, type Document } from 'yaml';
import { ApiFailure, get, text, type Cause, type Obj } from './api';
import { kinds, pathOf, type Kind } from './kinds.svelte';

export interface Fault {
  from: number;
  to: number;
  message: string;
  field?: string;
}

export interface Part {
  object: Obj;
  kind?: Kind;
  namespace: string;
  /** Where in the text its fields are. */
  document: Document.Parsed;
  start: number;
}

export const isJson = (source: string) => /^\s*[{[]/.test(source);

/** Takes a manifest apart. JSON is YAML, so one parser serves. */
export function parse(source: string, namespace: string): { parts: Part[]; faults: Fault[] } {
  const lines = new LineCounter();
  const documents = isJson(source) ? [parseDocument(source, { lineCounter: lines })] : parseAllDocuments(source, { lineCounter: lines, uniqueKeys: true });
  const faults: Fault[] = [];
  const parts: Part[] = [];
  for (const document of Array.isArray(documents) ? documents : []) {
    for (const e of document.errors) faults.push({ from: e.pos[0], to: e.pos[1], message: e.message.split('\n')[0] });
    if (document.errors.length || !document.contents) continue;
    const value = document.toJS({ maxAliasCount: 100 }) as Obj | null;
    if (!value) continue;
    const start = document.contents.range?.[0] ?? 0;
    const objects: Obj[] = value.kind === 'List' && Array.isArray(value.items) ? value.items : [value];
    for (const object of objects) {
      const fault = (message: string) => faults.push({ from: start, to: start + 1, message });
      if (typeof object !== 'object' || !object.apiVersion || !object.kind) fault('apiVersion and kind are needed');
      else if (!object.metadata?.name && !object.metadata?.generateName) fault('metadata.name is needed');
      else {
        const kind = versioned(object.apiVersion, object.kind);
        if (!kind) fault(`the server has no ${object.kind} in ${object.apiVersion}`);
        else parts.push({ object, kind, namespace: kind.namespaced ? object.metadata.namespace ?? (namespace || 'default') : '', document, start });
      }
    }
  }
  return { parts, faults };
}

function versioned(apiVersion: string, kind: string): Kind | undefined {
  const [group, version] = apiVersion.includes('/') ? apiVersion.split('/') : ['', apiVersion];
  return kinds.versions.find((k) => k.group === group && k.version === version && k.kind === kind);
}

/** Where in the text the server's complaint about a field belongs. */
export function faultsOf(error: unknown, part: Part): Fault[] {
  const causes: Cause[] = error instanceof ApiFailure && error.causes.length ? error.causes : [{ message: text(error) }];
  return causes.map(({ field, message = '' }) => {
    // Strict decoding names its fields in the text only.
    const named = /(?:unknown|duplicate) field "([^"]+)"/.exec(message)?.[1];
    const [from, to] = rangeOf(part, field ?? named ?? '');
    return { from, to, field, message: field && !message.startsWith(field) ? `${field}: ${message}` : message };
  });
}

/** The range of `spec.containers[0].image`, or of the nearest field above it. */
function rangeOf(part: Part, field: string): [number, number] {
  let node: unknown = part.document.contents;
  let range: [number, number] = [part.start, part.start + 1];
  const path = field.match(/[^.[\]]+/g) ?? [];
  for (const name of path) {
    if (isMap(node)) {
      const pair = node.items.find((i) => String(i.key) === name);
      if (!pair) break;
      const key = pair.key as { range?: [number, number, number] };
      if (key?.range) range = [key.range[0], key.range[1]];
      node = pair.value;
    } else if (isSeq(node)) {
      node = node.items[Number(name)];
      const item = (node as { range?: [number, number, number] })?.range;
      if (item) range = [item[0], item[0] + 1];
    } else break;
  }
  return range;
}

const base = (part: Part, name = '') => pathOf(part.kind!, part.namespace, name);
const options = (dryRun: boolean) => `fieldManager=coracle-dashboard&fieldValidation=Strict${dryRun ? '&dryRun=All' : ''}`;

export function create(part: Part, dryRun: boolean): Promise<Obj> {
  return get(`${base(part)}?${options(dryRun)}`, { method: 'POST', type: 'application/json', body: JSON.stringify(part.object) });
}

export function update(part: Part, dryRun: boolean): Promise<Obj> {
  return get(`${base(part, part.object.metadata.name)}?${options(dryRun)}`, { method: 'PUT', type: 'application/json', body: JSON.stringify(part.object) });
}

/** Server-side apply, which leaves alone what the manifest does not mention. */
export function apply(part: Part, dryRun: boolean): Promise<Obj> {
  return get(`${base(part, part.object.metadata.name)}?${options(dryRun)}&force=true`, { method: 'PATCH', type: 'application/apply-patch+yaml', body: JSON.stringify(part.object) });
}

export async function present(part: Part): Promise<Obj | undefined> {
  if (!part.object.metadata.name) return undefined;
  try {
    return await get(base(part, part.object.metadata.name));
  } catch (error) {
    if (error instanceof ApiFailure && error.code === 404) return undefined;
    throw error;
  }
}

/** An object without what the server keeps of its own, for comparing and editing. */
export function bare(object: Obj, status = false): Obj {
  const { apiVersion, kind, metadata, ...rest } = structuredClone(object);
  const copy: Obj = { apiVersion, kind, metadata, ...rest };
  delete metadata.managedFields;
  if (!status) delete copy.status;
  return copy;
}

/** For a comparison, also without what differs in every write. */
export function comparable(object: Obj): Obj {
  const copy = bare(object);
  for (const field of ['resourceVersion', 'uid', 'creationTimestamp', 'generation', 'selfLink']) delete copy.metadata[field];
  return copy;
}
