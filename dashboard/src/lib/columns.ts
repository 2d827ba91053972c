// The columns of each kind's list: the classic ones where there are any, else the server's own.

import type { Obj } from './api';
import type { Kind } from './kinds.svelte';
import type { Collection } from './live.svelte';
import { quantity } from './format';
import { external, internal } from './services';
import { eventTime } from './problems';
import { containersReady, images, podReason, pods, restarts, state } from './status';

export interface Col {
  id: string;
  title: string;
  /** A CSS grid-free width; what has none shares the rest. */
  width?: string;
  num?: boolean;
  hint?: string;
  /** What is filtered and, without `order`, sorted by. */
  text: (o: Obj) => string;
  order?: (o: Obj) => number;
}

const created = (o: Obj) => -Date.parse(o.metadata.creationTimestamp ?? '') || 0;

export const cols = {
  name: { id: 'name', title: 'Name', text: (o: Obj) => o.metadata.name },
  namespace: { id: 'namespace', title: 'Namespace', width: '120px', text: (o: Obj) => o.metadata.namespace ?? '' },
  labels: { id: 'labels', title: 'Labels', text: (o: Obj) => Object.entries(o.metadata.labels ?? {}).map(([k, v]) => `${k}: ${v}`).join(' ') },
  age: { id: 'age', title: 'Age', width: '76px', text: () => '', order: created },
  images: { id: 'images', title: 'Images', text: (o: Obj) => images(o).join(', ') },
  pods: {
    id: 'pods', title: 'Pods', width: '78px', text: (o: Obj) => { const n = pods(o); return n ? `${n.ready} / ${n.wanted}` : '-'; },
    order: (o: Obj) => { const n = pods(o); return n ? n.wanted * 1000 + n.ready : -1; },
  },
  status: { id: 'status', title: 'Status', width: '170px', text: (o: Obj) => state(o).text },
  ready: { id: 'ready', title: 'Ready', width: '66px', text: (o: Obj) => { const n = containersReady(o); return `${n.ready}/${n.of}`; }, order: (o: Obj) => containersReady(o).ready },
  podStatus: { id: 'status', title: 'Status', width: '150px', text: podReason },
  restarts: { id: 'restarts', title: 'Restarts', width: '72px', num: true, text: (o: Obj) => String(restarts(o)), order: restarts },
  ip: { id: 'ip', title: 'IP', width: '110px', text: (o: Obj) => (o.status?.podIP as string) ?? '-' },
  cpu: { id: 'cpu', title: 'CPU', width: '132px', num: true, text: () => '' },
  memory: { id: 'memory', title: 'Memory', width: '146px', num: true, text: () => '' },
} satisfies Record<string, Col>;

const c = cols;

const workload: Col[] = [c.name, c.labels, c.pods, c.age, c.images];

const classic: Record<string, Col[]> = {
  'apps/deployments': workload,
  'apps/replicasets': [
    c.name, c.labels, c.pods,
    {
      id: 'revision', title: 'Revision', width: '82px',
      text: (o) => o.metadata.annotations?.['deployment.kubernetes.io/revision'] ?? '-',
      order: (o) => Number(o.metadata.annotations?.['deployment.kubernetes.io/revision'] ?? 0),
    },
    c.age, c.images,
  ],
  '/replicationcontrollers': workload,
  'apps/daemonsets': workload,
  'apps/statefulsets': workload,
  'batch/jobs': workload,
  'batch/cronjobs': [
    c.name, c.labels,
    { id: 'schedule', title: 'Schedule', width: '140px', text: (o) => (o.spec?.schedule as string) ?? '' },
    { id: 'suspend', title: 'Suspend', width: '80px', text: (o) => String(!!o.spec?.suspend) },
    { id: 'active', title: 'Active', width: '70px', num: true, text: (o) => String(o.status?.active?.length ?? 0) },
    { id: 'last', title: 'Last', width: '80px', text: (o) => (o.status?.lastScheduleTime as string) ?? '-' },
    c.age, c.images,
  ],
  '/pods': [c.name, c.ready, c.podStatus, c.restarts, c.age, c.cpu, c.memory, c.ip],
  '/services': [
    c.name, c.labels,
    { id: 'clusterip', title: 'Cluster IP', width: '118px', text: (o) => (o.spec?.clusterIP as string) || '-' },
    { id: 'internal', title: 'Internal endpoints', text: (o) => internal(o).join(' ') },
    { id: 'external', title: 'External endpoints', text: (o) => external(o).map((e) => e.text).join(' ') },
    c.age,
  ],
  '/events': [
    {
      id: 'seen', title: 'Last seen', width: '92px', text: (o) => eventTime(o) ?? '-',
      order: (o) => -Date.parse(eventTime(o) ?? '') || 0,
    },
    { id: 'type', title: 'Type', width: '80px', text: (o) => (o.type as string) ?? '' },
    { id: 'reason', title: 'Reason', width: '164px', text: (o) => (o.reason as string) ?? '' },
    { id: 'kind', title: 'Kind', width: '116px', text: (o) => (o.involvedObject?.kind as string) ?? '' },
    { id: 'object', title: 'Object', width: '216px', text: (o) => (o.involvedObject?.name as string) ?? '' },
    { id: 'message', title: 'Message', text: (o) => (o.message as string) ?? '' },
    { id: 'count', title: 'Count', width: '70px', num: true, text: (o) => String(o.series?.count ?? o.count ?? 1), order: (o) => Number(o.series?.count ?? o.count ?? 1) },
  ],
  '/namespaces': [c.name, c.labels, c.status, c.age],
  '/nodes': [
    c.name, c.labels, { ...c.status, width: '120px' },
    { id: 'version', title: 'Version', width: '90px', text: (o) => (o.status?.nodeInfo?.kubeletVersion as string) ?? '' },
    c.cpu, c.memory, c.age,
  ],
};

/** Whether the list shows whole objects; the others are shown as the server's table. */
export const isClassic = (k: Kind) => `${k.group}/${k.plural}` in classic;

export function columnsOf(k: Kind, collection: Collection | undefined, everywhere: boolean): Col[] {
  const known = classic[`${k.group}/${k.plural}`];
  let list: Col[];
  if (known) list = known;
  else {
    const cells = collection?.cells;
    const served = (collection?.columns ?? []).flatMap((column, at): Col[] => {
      if (column.priority > 0 || ['Name', 'Age', 'Created At'].includes(column.name)) return [];
      const cell = (o: Obj) => cells?.get(`${o.metadata.namespace ?? ''}/${o.metadata.name}`)?.[at];
      const number = column.type === 'integer' || column.type === 'number';
      return [{
        id: `c${at}`, title: column.name.replace(/([a-z])([A-Z])/g, '$1 $2'), hint: column.description, num: number, width: number ? '90px' : undefined,
        text: (o) => { const v = cell(o); return v === null || v === undefined || v === '' ? '-' : String(v); },
        order: number ? (o) => Number(cell(o) ?? 0) : /quantity|capacity/i.test(column.name) ? (o) => quantity(String(cell(o) ?? '')) : undefined,
      }];
    });
    const labelled = k.plural !== 'events';
    list = [c.name, ...(labelled ? [c.labels] : []), ...served, c.age];
  }
  return k.namespaced && everywhere ? [list[0], c.namespace, ...list.slice(1)] : list;
}

/** What is searched of an object: the same for as long as it is the same object. */
const texts = new WeakMap<Obj, { columns: Col[]; all: string }>();

/** Whether an object answers the filter: every word somewhere in its name, labels or cells. */
export function answers(o: Obj, columns: Col[], filter: string): boolean {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  let known = texts.get(o);
  if (known?.columns !== columns) {
    known = { columns, all: `${o.metadata.name} ${cols.labels.text(o)} ${columns.map((col) => col.text(o)).join(' ')}`.toLowerCase() };
    texts.set(o, known);
  }
  const { all } = known;
  return words.every((word) => (word.startsWith('!') && word.length > 1 ? !all.includes(word.slice(1)) : all.includes(word)));
}
