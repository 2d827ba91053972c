// Which kinds the server has, found by discovery; where they stand in the menu.

import { get } from './api';

export interface Kind {
  group: string;
  version: string;
  plural: string;
  singular: string;
  kind: string;
  namespaced: boolean;
  verbs: string[];
  subresources: string[];
  shortNames: string[];
}

interface Discovered {
  items: {
    metadata: { name?: string };
    versions: {
      version: string;
      resources: {
        resource: string;
        singularResource?: string;
        responseKind?: { kind: string };
        scope: string;
        verbs: string[];
        shortNames?: string[];
        subresources?: { subresource: string }[];
      }[];
    }[];
  }[];
}

class Kinds {
  /** The preferred version of each kind that can be listed. */
  all = $state.raw<Kind[]>([]);
  /** Every served version of each kind. */
  versions: Kind[] = [];
  ready = $state(false);

  async load() {
    const accept = 'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList';
    const [core, groups] = await Promise.all([
      get<Discovered>('api', { accept }),
      get<Discovered>('apis', { accept }),
    ]);
    const versions: Kind[] = [];
    for (const group of [...core.items, ...groups.items]) {
      for (const { version, resources } of group.versions) {
        for (const r of resources) {
          versions.push({
            group: group.metadata.name ?? '',
            version,
            plural: r.resource,
            singular: r.singularResource || r.resource,
            kind: r.responseKind?.kind ?? r.resource,
            namespaced: r.scope === 'Namespaced',
            verbs: r.verbs,
            subresources: (r.subresources ?? []).map((s) => s.subresource),
            shortNames: r.shortNames ?? [],
          });
        }
      }
    }
    const listed = versions.filter((k) => k.verbs.includes('list') && k.verbs.includes('watch'));
    const seen = new Set<string>();
    // Groups that only repeat kinds of another (extensions, old PetSets) are not shown twice.
    const shown = listed.filter((k) => {
      const id = `${k.group}/${k.plural}`;
      const twin = k.group === 'extensions' || (k.group === 'apps' && k.plural === 'petsets');
      const events = k.group === 'events.k8s.io';
      if (seen.has(id) || twin || events) return false;
      seen.add(id);
      return true;
    });
    this.versions = versions;
    if (JSON.stringify(shown) !== JSON.stringify(this.all)) this.all = shown;
    this.ready = true;
  }

  find(group: string, plural: string): Kind | undefined {
    return this.all.find((k) => k.group === group && k.plural === plural)
      ?? this.versions.find((k) => k.group === group && k.plural === plural);
  }

  /** The kind of an owner reference or an involved object. */
  ofKind(kind: string, apiVersion?: string): Kind | undefined {
    const group = apiVersion === undefined ? undefined : apiVersion.includes('/') ? apiVersion.split('/')[0] : '';
    return this.all.find((k) => k.kind === kind && (group === undefined || k.group === group));
  }
}

export const kinds = new Kinds();

/** The path of a collection or object. */
export function pathOf(k: Kind, namespace = '', name = ''): string {
  const base = k.group ? `apis/${k.group}/${k.version}` : `api/${k.version}`;
  const ns = k.namespaced && namespace ? `/namespaces/${encodeURIComponent(namespace)}` : '';
  return `${base}${ns}/${k.plural}${name ? `/${encodeURIComponent(name)}` : ''}`;
}

export const core = (plural: string) => kinds.find('', plural);
export const apps = (plural: string) => kinds.find('apps', plural);

const words = (kind: string) => kind.replace(/([a-z])([A-Z])/g, '$1 $2');
const irregular: Record<string, string> = { Endpoints: 'Endpoints', Ingress: 'Ingresses', StorageClass: 'Storage Classes' };

/** `ReplicaSet` → `Replica Sets`. */
export function title(k: Kind): string {
  if (irregular[k.kind]) return irregular[k.kind];
  const text = words(k.kind);
  if (/(s|x|ch)$/.test(text)) return `${text}es`;
  return /[^aeiou]y$/.test(text) ? `${text.slice(0, -1)}ies` : `${text}s`;
}

export const oneOf = (k: Kind) => words(k.kind);

const sections: [string, string[]][] = [
  ['Admin', ['namespaces', 'nodes', 'persistentvolumes', 'storageclasses.storage.k8s.io']],
  ['Workloads', ['deployments.apps', 'replicasets.apps', 'replicationcontrollers', 'daemonsets.apps', 'statefulsets.apps', 'jobs.batch', 'cronjobs.batch', 'pods', 'horizontalpodautoscalers.autoscaling']],
  ['Discovery', ['services', 'ingresses.networking.k8s.io', 'endpoints', 'endpointslices.discovery.k8s.io']],
  ['Config', ['secrets', 'configmaps', 'persistentvolumeclaims']],
];

export interface Section {
  title: string;
  kinds: Kind[];
}

/** The menu: the classic sections, then everything else that is served, by group. */
export function menu(all: Kind[]): Section[] {
  const id = (k: Kind) => (k.group ? `${k.plural}.${k.group}` : k.plural);
  const placed = new Set(sections.flatMap(([, ids]) => ids));
  const classic = sections.map(([title, ids]) => ({
    title,
    kinds: ids.flatMap((wanted) => all.find((k) => id(k) === wanted) ?? []),
  }));
  const rest = all.filter((k) => !placed.has(id(k)) && k.group !== 'metrics.k8s.io');
  const builtIn = (k: Kind) => k.group === '' || !k.group.includes('.') || k.group.endsWith('.k8s.io');
  const custom = rest.filter((k) => !builtIn(k));
  return [
    ...classic,
    { title: 'Custom Resources', kinds: custom },
    { title: 'Cluster', kinds: rest.filter(builtIn) },
  ].filter((section) => section.kinds.length > 0);
}
