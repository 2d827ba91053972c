// How objects are, in kubectl's words, and whether that is as wanted.

import type { Obj } from './api';

export type Tone = 'good' | 'busy' | 'bad' | 'off';

export interface State {
  tone: Tone;
  text: string;
}

interface ContainerStatus {
  name: string;
  ready: boolean;
  started?: boolean;
  restartCount: number;
  image: string;
  imageID?: string;
  containerID?: string;
  state?: Record<string, { reason?: string; message?: string; exitCode?: number; signal?: number; startedAt?: string; finishedAt?: string }>;
  lastState?: Record<string, { reason?: string; message?: string; exitCode?: number; signal?: number; startedAt?: string; finishedAt?: string }>;
}

export interface Condition {
  type: string;
  status: string;
  reason?: string;
  message?: string;
  lastTransitionTime?: string;
  lastUpdateTime?: string;
}

export const conditions = (o: Obj): Condition[] => o.status?.conditions ?? [];
export const condition = (o: Obj, type: string) => conditions(o).find((c) => c.type === type);
export const containerStatuses = (pod: Obj): ContainerStatus[] => pod.status?.containerStatuses ?? [];

/** The reason that kubectl prints as a pod's status (upstream `printPod`). */
export function podReason(pod: Obj): string {
  let reason: string = pod.status?.reason || pod.status?.phase || 'Unknown';
  let initializing = false;
  const inits: ContainerStatus[] = pod.status?.initContainerStatuses ?? [];
  const specs: { name: string; restartPolicy?: string }[] = pod.spec?.initContainers ?? [];
  for (const [at, c] of inits.entries()) {
    const sidecar = specs.find((s) => s.name === c.name)?.restartPolicy === 'Always';
    const ended = c.state?.terminated;
    if (ended && ended.exitCode === 0) continue;
    if (sidecar && c.started) continue;
    if (ended) {
      reason = ended.reason ? `Init:${ended.reason}` : ended.signal ? `Init:Signal:${ended.signal}` : `Init:ExitCode:${ended.exitCode}`;
    } else if (c.state?.waiting?.reason && c.state.waiting.reason !== 'PodInitializing') {
      reason = `Init:${c.state.waiting.reason}`;
    } else reason = `Init:${at}/${specs.length}`;
    initializing = true;
    break;
  }
  if (!initializing) {
    let running = false;
    for (const c of [...containerStatuses(pod)].reverse()) {
      const ended = c.state?.terminated;
      if (c.state?.waiting?.reason) reason = c.state.waiting.reason;
      else if (ended?.reason) reason = ended.reason;
      else if (ended) reason = ended.signal ? `Signal:${ended.signal}` : `ExitCode:${ended.exitCode}`;
      else if (c.ready && c.state?.running) running = true;
    }
    if (reason === 'Completed' && running) reason = condition(pod, 'Ready')?.status === 'True' ? 'Running' : 'NotReady';
  }
  if (pod.metadata.deletionTimestamp) reason = pod.status?.reason === 'NodeLost' ? 'Unknown' : 'Terminating';
  return reason;
}

/** kubectl's READY: sidecars count, other init containers do not. */
export function containersReady(pod: Obj): { ready: number; of: number } {
  const specs: { name: string; restartPolicy?: string }[] = pod.spec?.initContainers ?? [];
  const sidecars = specs.filter((s) => s.restartPolicy === 'Always').map((s) => s.name);
  const inits: ContainerStatus[] = pod.status?.initContainerStatuses ?? [];
  const all = [...containerStatuses(pod), ...inits.filter((s) => sidecars.includes(s.name))];
  return { ready: all.filter((s) => s.ready && s.state?.running).length, of: (pod.spec?.containers?.length ?? 0) + sidecars.length };
}

export const restarts = (pod: Obj) => containerStatuses(pod).reduce((n, c) => n + c.restartCount, 0);

export function podState(pod: Obj): State {
  const text = podReason(pod);
  if (text === 'Completed' || text === 'Succeeded') return { tone: 'off', text };
  if (text === 'Terminating') return { tone: 'busy', text };
  if (text === 'Running') {
    const ready = condition(pod, 'Ready')?.status === 'True';
    return { tone: ready ? 'good' : 'busy', text: ready ? text : 'Running, not ready' };
  }
  if (/^(Pending|ContainerCreating|PodInitializing|Init:\d+\/\d+|NotReady)$/.test(text)) {
    const unschedulable = condition(pod, 'PodScheduled')?.status === 'False';
    return { tone: unschedulable ? 'bad' : 'busy', text };
  }
  return { tone: 'bad', text };
}

/** Wanted and present pods of whatever has pods. */
export function pods(o: Obj): { ready: number; wanted: number } | undefined {
  switch (o.kind) {
    case 'Deployment':
    case 'StatefulSet':
    case 'ReplicaSet':
    case 'ReplicationController':
      return { ready: o.status?.readyReplicas ?? 0, wanted: o.spec?.replicas ?? 1 };
    case 'DaemonSet':
      return { ready: o.status?.numberReady ?? 0, wanted: o.status?.desiredNumberScheduled ?? 0 };
    case 'Job':
      return { ready: o.status?.succeeded ?? 0, wanted: o.spec?.completions ?? 1 };
  }
  return undefined;
}

/** What is wrong with a Deployment's rollout, if anything. */
export function state(o: Obj): State {
  if (o.kind === 'Pod') return podState(o);
  if (o.metadata.deletionTimestamp) return { tone: 'busy', text: 'Terminating' };
  const n = pods(o);
  if (o.kind === 'Job') {
    const of = (type: string) => condition(o, type)?.status === 'True';
    if (of('Failed')) return { tone: 'bad', text: 'Failed' };
    if (of('Complete')) return { tone: 'off', text: 'Complete' };
    if (of('Suspended')) return { tone: 'off', text: 'Suspended' };
    return { tone: 'busy', text: 'Running' };
  }
  if (o.kind === 'CronJob') return o.spec?.suspend ? { tone: 'off', text: 'Suspended' } : { tone: 'good', text: 'Scheduled' };
  if (o.kind === 'Node') {
    const ready = condition(o, 'Ready')?.status === 'True';
    if (!ready) return { tone: 'bad', text: 'NotReady' };
    return o.spec?.unschedulable ? { tone: 'busy', text: 'Ready, cordoned' } : { tone: 'good', text: 'Ready' };
  }
  if (n) {
    if (o.kind === 'Deployment') {
      const progressing = condition(o, 'Progressing');
      if (progressing?.status === 'False') return { tone: 'bad', text: progressing.reason ?? 'Stuck' };
      if (condition(o, 'ReplicaFailure')?.status === 'True') return { tone: 'bad', text: 'ReplicaFailure' };
      const updated = o.status?.updatedReplicas ?? 0;
      const total = o.status?.replicas ?? 0;
      const seen = (o.status?.observedGeneration ?? 0) >= (o.metadata.generation ?? 0);
      if (o.spec?.paused) return { tone: 'busy', text: 'Paused' };
      if (!seen || updated < n.wanted || total > updated) return { tone: 'busy', text: 'Rolling out' };
    }
    if (n.wanted === 0 && n.ready === 0) return { tone: 'off', text: 'Scaled to zero' };
    return n.ready >= n.wanted ? { tone: 'good', text: 'Ready' } : { tone: 'busy', text: 'Not all ready' };
  }
  const phase = o.status?.phase as string | undefined;
  if (phase) {
    const tone = /^(Active|Bound|Available|Ready)$/.test(phase) ? 'good' : /^(Lost|Failed)$/.test(phase) ? 'bad' : 'busy';
    return { tone, text: phase };
  }
  const ready = condition(o, 'Ready') ?? condition(o, 'Established') ?? condition(o, 'Available');
  if (ready) return ready.status === 'True' ? { tone: 'good', text: ready.type } : { tone: 'busy', text: `Not ${ready.type}` };
  return { tone: 'good', text: '' };
}

export const images = (o: Obj): string[] => {
  const template = o.kind === 'Pod' ? o.spec : o.kind === 'CronJob' ? o.spec?.jobTemplate?.spec?.template?.spec : o.spec?.template?.spec;
  return (template?.containers ?? []).map((c: { image: string }) => c.image);
};

/** The object that controls this one. */
export const owner = (o: Obj) => o.metadata.ownerReferences?.find((r) => r.controller) ?? o.metadata.ownerReferences?.[0];

/** Whether labels satisfy a LabelSelector. */
export function matches(
  selector: { matchLabels?: Record<string, string>; matchExpressions?: { key: string; operator: string; values?: string[] }[] } | undefined,
  labels: Record<string, string> = {},
): boolean {
  if (!selector) return false;
  const equal = Object.entries(selector.matchLabels ?? {}).every(([k, v]) => labels[k] === v);
  return equal && (selector.matchExpressions ?? []).every(({ key, operator, values = [] }) => {
    const has = Object.hasOwn(labels, key);
    switch (operator) {
      case 'In': return has && values.includes(labels[key]);
      case 'NotIn': return !has || !values.includes(labels[key]);
      case 'Exists': return has;
      case 'DoesNotExist': return !has;
    }
    return false;
  });
}

export const selects = (selector: Record<string, string> | undefined, labels: Record<string, string> = {}) =>
  !!selector && Object.keys(selector).length > 0 && Object.entries(selector).every(([k, v]) => labels[k] === v);
