// Where the reader is: all of it in the fragment, so that links work under any prefix.

export interface Route {
  page: string;
  parts: string[];
  query: URLSearchParams;
}

const ALL = '_all';

function parse(hash: string): Route {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?');
  const [page = '', ...parts] = path.split('/').map((p) => {
    try {
      return decodeURIComponent(p);
    } catch {
      return p;
    }
  });
  return { page: page || 'overview', parts, query: new URLSearchParams(query) };
}

class Router {
  route = $state.raw(parse(location.hash));
  /** The chosen namespace; empty for all. */
  namespace = $state('default');

  start() {
    const take = () => {
      this.route = parse(location.hash);
      const ns = this.route.query.get('ns');
      if (ns !== null) this.namespace = ns === ALL ? '' : ns;
    };
    addEventListener('hashchange', take);
    take();
  }

  go(hash: string) {
    location.hash = hash;
  }

  choose(namespace: string) {
    this.namespace = namespace;
    const { page, parts } = this.route;
    // An object is in one namespace: go up to its list.
    const up = page === 'object' ? ['list', parts[0], parts[1]] : [page, ...parts];
    this.go(link(up));
  }
}

export const router = new Router();

/** A link to a page, with the chosen namespace. */
export function link(parts: string[], query: Record<string, string> = {}): string {
  const q = new URLSearchParams({ ns: router.namespace || ALL, ...query });
  return `#/${parts.map(encodeURIComponent).join('/')}?${q}`;
}

export const listLink = (group: string, plural: string, query: Record<string, string> = {}) =>
  link(['list', group || 'core', plural], query);

export const objectLink = (
  group: string, plural: string, namespace: string | undefined, name: string, query: Record<string, string> = {},
) => link(['object', group || 'core', plural, namespace || '-', name], query);
