// What is not as wanted, and why: the first thing that the overview says.

import type { Obj } from './api';
import { age } from './format';
import { missing } from './references';
import { link, objectLink } from './route.svelte';
import { condition, conditions, containerStatuses, owner, podReason, selects } from './status';

export interface Problem {
  id: string;
  kind: string;
  group: string;
  plural: string;
  namespace: string;
  name: string;
  /** What is wrong. */
  what: string;
  /** Why, in the words of whoever knows. */
  why: string;
  /** What can be done about it, and where. */
  hints?: { text: string; href?: string }[];
  since?: string;
  weight: number;
}

export interface World {
  pods: Obj[];
  deployments: Obj[];
  replicaSets: Obj[];
  statefulSets: Obj[];
  daemonSets: Obj[];
  jobs: Obj[];
  services: Obj[];
  nodes: Obj[];
  claims: Obj[];
  events: Obj[];
  secrets: Obj[];
  configMaps: Obj[];
}

/** How long what is on its way may take before it is worth a line. */
const PATIENCE_MS = 8_000;

interface Place {
  kind: string;
  group?: string;
  plural: string;
}

function at(place: Place, o: Obj, rest: Omit<Problem, 'id' | 'kind' | 'group' | 'plural' | 'namespace' | 'name'>): Problem {
  return {
    id: `${place.plural}/${o.metadata.namespace ?? ''}/${o.metadata.name}/${rest.what}`,
    kind: place.kind, group: place.group ?? '', plural: place.plural,
    namespace: o.metadata.namespace ?? '', name: o.metadata.name, ...rest,
  };
}

const toLog = (pod: Obj, container: string) => objectLink('', 'pods', pod.metadata.namespace, pod.metadata.name, { tab: 'logs', container, previous: '1' });

const POD = { kind: 'Pod', plural: 'pods' };

const time = (e: Obj) => (e.series?.lastObservedTime ?? e.lastTimestamp ?? e.eventTime ?? e.firstTimestamp ?? e.metadata.creationTimestamp) as string;

/** The latest warning about an object. */
function warning(events: Obj[], o: Obj): Obj | undefined {
  let last: Obj | undefined;
  for (const e of events) {
    if (e.type !== 'Warning' || e.involvedObject?.uid !== o.metadata.uid) continue;
    if (!last || time(e) >= time(last)) last = e;
  }
  return last;
}

export { time as eventTime };

export function podProblem(pod: Obj, events: Obj[], now: number): Problem | undefined {
  const reason = podReason(pod);
  const late = (since?: string) => now - Date.parse(since ?? pod.metadata.creationTimestamp ?? '') > PATIENCE_MS;
  if (pod.metadata.deletionTimestamp) {
    const overdue = now - Date.parse(pod.metadata.deletionTimestamp) > 2 * PATIENCE_MS;
    return overdue
      ? at(POD, pod, { what: 'Terminating for too long', why: warning(events, pod)?.message ?? 'the grace period is over', since: pod.metadata.deletionTimestamp, weight: 3 })
      : undefined;
  }
  if (pod.status?.phase === 'Succeeded') return undefined;
  const unscheduled = condition(pod, 'PodScheduled');
  if (unscheduled?.status === 'False') {
    return at(POD, pod, { what: unscheduled.reason ?? 'Unschedulable', why: unscheduled.message ?? 'no node takes it', since: unscheduled.lastTransitionTime, weight: 8,
      hints: /insufficient/i.test(unscheduled.message ?? '') ? [{ text: 'Free or lower what pods request.' }] : [] });
  }
  const all = [...(pod.status?.initContainerStatuses ?? []), ...containerStatuses(pod)];
  for (const c of all) {
    const waiting = c.state?.waiting;
    const last = c.lastState?.terminated;
    if (waiting?.reason === 'CrashLoopBackOff' || (last && last.exitCode !== 0 && !c.ready && c.restartCount > 0 && c.state?.running === undefined)) {
      const end = last?.reason === 'OOMKilled' ? 'was killed: out of memory' : `ended with exit code ${last?.exitCode ?? '?'}`;
      return at(POD, pod, { what: waiting?.reason ?? 'Crashing', why: `${c.name} ${end}, ${c.restartCount} restart${c.restartCount === 1 ? '' : 's'}${last?.message ? `: ${last.message}` : ''}`,
        hints: [...(last?.reason === 'OOMKilled' ? [{ text: 'Raise its memory limit.' }] : []), { text: 'See the log of its previous run', href: toLog(pod, c.name) }], since: last?.finishedAt, weight: 9 });
    }
    if (waiting?.reason && !/^(ContainerCreating|PodInitializing)$/.test(waiting.reason)) {
      const image = /Image/.test(waiting.reason);
      return at(POD, pod, { what: waiting.reason, why: waiting.message ?? warning(events, pod)?.message ?? c.image, weight: 9,
        hints: image ? [{ text: 'Check its name, or load it: coracle image load.' }] : [], since: pod.metadata.creationTimestamp });
    }
    const failed = c.state?.terminated;
    if (failed && failed.exitCode !== 0 && pod.status?.phase !== 'Running' && pod.status?.phase !== 'Pending') {
      return at(POD, pod, { what: failed.reason ?? 'Error', why: `${c.name} ended with exit code ${failed.exitCode}${failed.message ? `: ${failed.message}` : ''}`, since: failed.finishedAt, weight: 5 });
    }
  }
  if (pod.status?.phase === 'Failed') return at(POD, pod, { what: reason, why: pod.status.message ?? 'it failed', weight: 5, since: pod.metadata.creationTimestamp });
  const ready = condition(pod, 'Ready');
  if (ready?.status !== 'True') {
    const event = warning(events, pod);
    if (event || late(ready?.lastTransitionTime)) {
      return at(POD, pod, { what: reason === 'Running' ? 'Not ready' : reason, why: event?.message ?? ready?.message ?? (pod.spec?.nodeName ? 'it takes long' : `no scheduler has taken it; it asks for “${pod.spec?.schedulerName ?? 'default-scheduler'}”`), weight: 6, since: ready?.lastTransitionTime ?? pod.metadata.creationTimestamp });
    }
  }
  return undefined;
}

export function problems(world: World, now: number): Problem[] {
  const found: Problem[] = [];
  const add = (p: Problem | undefined) => p && found.push(p);
  for (const node of world.nodes) {
    for (const c of conditions(node)) {
      const wrong = c.type === 'Ready' ? c.status !== 'True' : c.status === 'True';
      if (wrong) add(at({ kind: 'Node', plural: 'nodes' }, node, { what: c.type === 'Ready' ? 'NotReady' : c.type, why: c.message ?? c.reason ?? '', since: c.lastTransitionTime, weight: 10 }));
    }
  }
  const absent = [...missing('secrets', world.pods, world.secrets), ...missing('configmaps', world.pods, world.configMaps)];
  for (const m of absent) {
    const kind = m.plural === 'secrets' ? 'Secret' : 'ConfigMap';
    found.push({
      id: `missing/${m.plural}/${m.namespace}/${m.name}`, kind, group: '', plural: m.plural, namespace: m.namespace, name: m.name,
      what: `${kind} is missing`, why: `${m.pods.length === 1 ? m.pods[0] : `${m.pods.length} pods`} need${m.pods.length === 1 ? 's' : ''} it`,
      hints: [
        ...(m.near ? [{ text: `Did you mean “${m.near}”?`, href: objectLink('', m.plural, m.namespace, m.near) }] : []),
        { text: 'Create it', href: link(['create'], { kind, name: m.name, in: m.namespace }) },
      ], weight: 9,
    });
  }
  // Many pods of one owner with one problem are one line.
  const grouped = new Map<string, Problem & { count: number }>();
  for (const pod of world.pods) {
    const problem = podProblem(pod, world.events, now);
    if (!problem) continue;
    const by = owner(pod);
    const key = by ? `${by.uid}/${problem.what}` : problem.id;
    const known = grouped.get(key);
    if (known) known.count++;
    else grouped.set(key, { ...problem, count: 1 });
  }
  for (const { count, ...problem } of grouped.values()) add(count > 1 ? { ...problem, why: `${problem.why} (and ${count - 1} more like it)` } : problem);
  for (const d of world.deployments) {
    const place = { kind: 'Deployment', group: 'apps', plural: 'deployments' };
    const progressing = condition(d, 'Progressing');
    const failure = condition(d, 'ReplicaFailure');
    if (progressing?.status === 'False') add(at(place, d, { what: progressing.reason ?? 'Stuck', why: progressing.message ?? '', hints: [{ text: 'Undo the rollout, or mend its pods', href: objectLink('apps', 'deployments', d.metadata.namespace, d.metadata.name) }], since: progressing.lastTransitionTime, weight: 8 }));
    if (failure?.status === 'True') add(at(place, d, { what: failure.reason ?? 'ReplicaFailure', why: failure.message ?? '', since: failure.lastTransitionTime, weight: 8 }));
  }
  for (const job of world.jobs) {
    const failed = condition(job, 'Failed');
    if (failed?.status === 'True') add(at({ kind: 'Job', group: 'batch', plural: 'jobs' }, job, { what: failed.reason ?? 'Failed', why: failed.message ?? '', since: failed.lastTransitionTime, weight: 5 }));
  }
  for (const claim of world.claims) {
    const phase = claim.status?.phase;
    if (phase === 'Lost' || (phase === 'Pending' && warning(world.events, claim))) add(at({ kind: 'PersistentVolumeClaim', plural: 'persistentvolumeclaims' }, claim, { what: phase, why: warning(world.events, claim)?.message ?? 'its volume is gone', weight: 7, since: claim.metadata.creationTimestamp }));
  }
  for (const service of world.services) {
    const selector = service.spec?.selector;
    if (!selector || service.spec?.type === 'ExternalName') continue;
    const chosen = world.pods.filter((p) => p.metadata.namespace === service.metadata.namespace && selects(selector, p.metadata.labels) && !p.metadata.deletionTimestamp);
    const place = { kind: 'Service', plural: 'services' };
    const old = now - Date.parse(service.metadata.creationTimestamp ?? '') > PATIENCE_MS;
    if (chosen.length === 0 && old) add(at(place, service, { what: 'No pods', why: `nothing has the labels ${Object.entries(selector).map(([k, v]) => `${k}=${v}`).join(', ')}`, weight: 3, since: service.metadata.creationTimestamp }));
    else if (chosen.length > 0 && old && !chosen.some((p) => condition(p, 'Ready')?.status === 'True') && !chosen.some((p) => now - Date.parse(p.metadata.creationTimestamp ?? '') < PATIENCE_MS)) {
      add(at(place, service, { what: 'No ready pods', why: `${chosen.length} pod${chosen.length === 1 ? '' : 's'} chosen, none ready`, weight: 7, since: service.metadata.creationTimestamp }));
    }
  }
  return found.sort((a, b) => b.weight - a.weight || a.name.localeCompare(b.name));
}

export const since = (p: Problem, now: number) => (p.since ? `for ${age(p.since, now)}` : '');
