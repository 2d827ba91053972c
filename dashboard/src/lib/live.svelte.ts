// Live collections: every watch of the page over one connection, paused while the page is hidden,
// resumed from the last resourceVersion.

import { ApiFailure, failureOf, mark, root, type Obj } from './api';
import { pathOf, type Kind } from './kinds.svelte';

export type Form = 'object' | 'table' | 'metadata';

export interface Wanted {
  kind: Kind;
  namespace?: string;
  form?: Form;
  name?: string;
  labels?: string;
  fields?: string;
}

export interface Row {
  cells: unknown[];
  object: Obj;
}

export interface Column {
  name: string;
  type: string;
  description: string;
  priority: number;
}

/** One watched collection; readers look at `version` to be told of changes. */
export class Collection {
  version = $state(0);
  ready = $state(false);
  error = $state('');
  columns = $state.raw<Column[]>([]);
  readonly items = new Map<string, Obj>();
  readonly cells = new Map<string, unknown[]>();
  /** Where to resume; empty before the first state is whole. */
  revision = '';
  users = 0;
  idleSince = 0;
  refused = false;
  private seen: Set<string> | null = null;
  private dirty = false;
  readonly form: Form;

  constructor(readonly id: string, readonly wanted: Wanted) {
    this.form = wanted.form ?? 'object';
  }

  /** The objects; reading them subscribes to changes. */
  get list(): Obj[] {
    void this.version;
    return [...this.items.values()];
  }

  get(namespace: string, name: string): Obj | undefined {
    void this.version;
    return this.items.get(`${namespace}/${name}`);
  }

  get query(): string {
    const { kind, namespace, name, labels, fields } = this.wanted;
    const q = new URLSearchParams({ watch: '1', allowWatchBookmarks: 'true' });
    if (this.revision) q.set('resourceVersion', this.revision);
    else {
      q.set('sendInitialEvents', 'true');
      q.set('resourceVersionMatch', 'NotOlderThan');
    }
    const selector = [fields, name && `metadata.name=${name}`].filter(Boolean).join(',');
    if (labels) q.set('labelSelector', labels);
    if (selector) q.set('fieldSelector', selector);
    return `${this.id}:${this.form}:/${pathOf(kind, namespace)}?${q}`;
  }

  /** What is known is no longer what the server remembers: start anew, showing the old meanwhile. */
  restart() {
    this.revision = '';
  }

  begin() {
    this.seen = this.revision ? null : new Set();
    this.refused = false;
  }

  take(event: { type: string; object: Obj }): 'go on' | 'restart' | 'refused' {
    const { type, object } = event;
    if (type === 'ERROR') {
      const code = object.code as number;
      if (code === 410) {
        this.restart();
        return 'restart';
      }
      this.refused = true;
      this.error = (object.message as string) ?? 'refused';
      this.ready = true;
      return 'refused';
    }
    if (this.form === 'table') {
      if (object.columnDefinitions?.length && this.columns.length === 0) this.columns = object.columnDefinitions;
      if (type === 'BOOKMARK') {
        const end = (object.rows as Row[]).some((row) => isEnd(row.object));
        this.mark(object.metadata.resourceVersion as string, end);
      } else {
        for (const row of object.rows as Row[]) this.put(type, row.object, row.cells);
      }
    } else if (type === 'BOOKMARK') this.mark(object.metadata.resourceVersion as string, isEnd(object));
    else this.put(type, object);
    return 'go on';
  }

  private put(type: string, object: Obj, cells?: unknown[]) {
    const meta = object.metadata;
    const key = `${meta.namespace ?? ''}/${meta.name}`;
    delete meta.managedFields;
    // A last-applied annotation repeats the values of a Secret.
    if (this.wanted.kind.plural === 'secrets') delete meta.annotations;
    if (type === 'DELETED') {
      this.items.delete(key);
      this.cells.delete(key);
    } else {
      this.items.set(key, object);
      if (cells) this.cells.set(key, cells);
      this.seen?.add(key);
    }
    if (!this.seen && meta.resourceVersion) this.revision = meta.resourceVersion;
    this.touch();
  }

  private mark(revision: string, end: boolean) {
    if (end && this.seen) {
      for (const key of this.items.keys()) {
        if (!this.seen.has(key)) {
          this.items.delete(key);
          this.cells.delete(key);
        }
      }
      this.seen = null;
      this.ready = true;
      this.error = '';
      this.touch();
    }
    if (!this.seen) this.revision = revision;
  }

  /** Tells the readers once in a frame, however many events come. */
  private touch() {
    if (this.dirty) return;
    this.dirty = true;
    const tell = () => {
      this.dirty = false;
      if (this.ready || !this.seen) this.version++;
    };
    // A hidden page has no frames.
    if (document.hidden) setTimeout(tell);
    else requestAnimationFrame(tell);
  }
}

const isEnd = (object: Obj) => object.metadata.annotations?.['k8s.io/initial-events-end'] === 'true';

/** Collections that nobody looks at are kept this long, and so many of them, for the way back. */
const IDLE_MS = 60_000;
const IDLE_MAX = 8;
/** A page that is hidden for this long stops watching. */
const HIDDEN_MS = 2_000;
const RETRY_MS = [300, 600, 1200, 2500, 5000];

class Live {
  state = $state<'connecting' | 'live' | 'paused' | 'lost'>('connecting');
  failure = $state<ApiFailure | null>(null);
  private collections = new Map<string, Collection>();
  private abort: AbortController | null = null;
  private planned = false;
  private retries = 0;
  private counter = 0;
  private connected = '';
  private timer: ReturnType<typeof setTimeout> | undefined;
  private hideTimer: ReturnType<typeof setTimeout> | undefined;

  start() {
    document.addEventListener('visibilitychange', () => {
      clearTimeout(this.hideTimer);
      if (document.hidden) this.hideTimer = setTimeout(() => this.pause(), HIDDEN_MS);
      else if (this.state === 'paused') this.plan();
    });
    addEventListener('online', () => this.plan());
  }

  /** A collection, watched until `drop`. */
  use(wanted: Wanted): Collection {
    const { kind, namespace = '', form = 'object', name = '', labels = '', fields = '' } = wanted;
    const key = [kind.group, kind.plural, namespace, form, name, labels, fields].join('|');
    let found = this.collections.get(key);
    if (!found) {
      found = new Collection(`w${this.counter++}`, wanted);
      this.collections.set(key, found);
    }
    found.users++;
    this.plan();
    return found;
  }

  drop(collection: Collection) {
    collection.users--;
    if (collection.users === 0) {
      collection.idleSince = Date.now();
      // Its place in the stream is lost: what changes from now on comes on resumption.
      this.plan();
    }
  }

  /** Starts over, as after a login. */
  reset() {
    this.failure = null;
    this.retries = 0;
    this.connected = '';
    this.plan();
  }

  private active(): Collection[] {
    return [...this.collections.values()].filter((c) => c.users > 0 && !c.refused);
  }

  private plan() {
    if (this.planned) return;
    this.planned = true;
    setTimeout(() => {
      this.planned = false;
      this.sweep();
      this.connect();
    }, 0);
  }

  private sweep() {
    const idle = [...this.collections].filter(([, c]) => c.users === 0);
    idle.sort(([, a], [, b]) => b.idleSince - a.idleSince);
    idle.forEach(([key, c], at) => {
      if (at >= IDLE_MAX || Date.now() - c.idleSince > IDLE_MS) this.collections.delete(key);
    });
  }

  private pause() {
    this.abort?.abort();
    this.abort = null;
    this.connected = '';
    this.state = 'paused';
  }

  private async connect() {
    const active = this.active();
    const set = active.map((c) => c.id).join(' ');
    if (document.hidden && this.state === 'paused') return;
    if (set === this.connected && this.abort) return;
    clearTimeout(this.timer);
    this.abort?.abort();
    this.abort = null;
    this.connected = set;
    if (active.length === 0) return;
    const abort = new AbortController();
    this.abort = abort;
    try {
      for (const c of active) c.begin();
      await this.follow(active, abort);
      if (abort.signal.aborted) return;
      this.retries = 0;
      this.again(0);
    } catch (error) {
      if (abort.signal.aborted) return;
      if (error instanceof ApiFailure && (error.code === 401 || error.code === 403)) {
        this.failure = error;
        this.state = 'lost';
        return;
      }
      this.state = 'lost';
      this.again(RETRY_MS[Math.min(this.retries++, RETRY_MS.length - 1)]);
    }
  }

  private again(wait: number) {
    this.abort = null;
    this.connected = '';
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), wait);
  }

  private async follow(active: Collection[], abort: AbortController) {
    const query = active.map((c) => `w=${encodeURIComponent(c.query)}`).join('&');
    const response = await fetch(`${root}ui/watch?${query}`, { headers: mark(), signal: abort.signal, cache: 'no-store' });
    if (!response.ok || !response.body) throw await failureOf(response);
    this.state = 'live';
    this.retries = 0;
    const byId = new Map(active.map((c) => [c.id, c]));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done || abort.signal.aborted) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const space = line.indexOf(' ');
        const collection = byId.get(line.slice(0, space));
        if (!collection) continue;
        if (collection.take(JSON.parse(line.slice(space + 1))) === 'restart') {
          abort.abort();
          this.again(0);
          return;
        }
      }
    }
  }
}

export const live = new Live();

/** Watches for as long as the calling component lives. */
export function watched(wanted: () => (Wanted | undefined)[]): { readonly at: (Collection | undefined)[] } {
  let current = $state.raw<(Collection | undefined)[]>([]);
  $effect(() => {
    const used = wanted().map((w) => w && live.use(w));
    current = used;
    return () => used.forEach((c) => c && live.drop(c));
  });
  return {
    get at() {
      return current;
    },
  };
}
