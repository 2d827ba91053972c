// The Kubernetes API as the page uses it: relative to where the page is, errors as Status objects.

export interface Meta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: { apiVersion: string; kind: string; name: string; uid: string; controller?: boolean }[];
  finalizers?: string[];
  managedFields?: unknown;
  [field: string]: unknown;
}

/* An object of any kind: what is read from it is checked by the reader. */
export type Obj = { apiVersion?: string; kind?: string; metadata: Meta; [field: string]: any };

/** Where the API is: the page is at `<root>ui/`, whatever prefix a proxy puts before it. */
export const root = new URL('../', new URL('.', location.href)).pathname;

const PAGE_KEY = 'coracle-page';
let pageToken = '';

/** Keeps the session's token of this page, or forgets it. A browser sends the session's cookie to every port of
 *  the host; what is kept here, only scripts of this origin have. */
export function keepPageToken(token: string) {
  pageToken = token;
  try {
    localStorage.setItem(PAGE_KEY, token);
  } catch {
    // Without storage the session ends with the page.
  }
}

/** What shows that a request comes from this page. */
export function mark(): Record<string, string> {
  let token = pageToken;
  try {
    // Another tab may have begun another session.
    token = localStorage.getItem(PAGE_KEY) ?? token;
  } catch {
    // As above.
  }
  return { 'X-Coracle-Dashboard': token || '1' };
}

export interface Cause {
  field?: string;
  message?: string;
  reason?: string;
}

/** A refusal: the server's Status. */
export class ApiFailure extends Error {
  readonly code: number;
  readonly reason: string;
  readonly causes: Cause[];
  constructor(code: number, message: string, reason = '', causes: Cause[] = []) {
    super(message);
    this.code = code;
    this.reason = reason;
    this.causes = causes;
  }
}

export async function failureOf(response: Response): Promise<ApiFailure> {
  const text = await response.text();
  try {
    const status = JSON.parse(text);
    return new ApiFailure(response.status, status.message ?? text, status.reason, status.details?.causes);
  } catch {
    return new ApiFailure(response.status, text.trim() || response.statusText);
  }
}

type Init = { method?: string; accept?: string; type?: string; body?: string; signal?: AbortSignal };

export async function send(path: string, init: Init = {}): Promise<Response> {
  const headers: Record<string, string> = { ...mark(), Accept: init.accept ?? 'application/json' };
  if (init.type) headers['Content-Type'] = init.type;
  const response = await fetch(root + path.replace(/^\//, ''), {
    method: init.method ?? 'GET',
    headers,
    body: init.body,
    signal: init.signal,
    cache: 'no-store',
  });
  if (!response.ok) throw await failureOf(response);
  // What a list says of its own version helps nobody who only looks.
  const warning = response.headers.get('warning');
  if (warning && init.method) warnings.add(warning);
  return response;
}

/** Warnings of the API (`299 - "text"`), for whoever sent the request. */
export const warnings = {
  listener: (_: string) => {},
  add(header: string) {
    for (const [, text] of header.matchAll(/299 - "((?:[^"\\]|\\.)*)"/g)) {
      this.listener(text.replace(/\\(.)/g, '$1'));
    }
  },
};

export async function get<T = Obj>(path: string, init: Init = {}): Promise<T> {
  return (await send(path, init)).json();
}

export function patch(path: string, body: unknown, kind: 'merge-patch' | 'json-patch' | 'strategic-merge-patch' = 'merge-patch'): Promise<Obj> {
  const query = path.includes('?') ? '&' : '?';
  return get(`${path}${query}fieldManager=coracle-dashboard`, {
    method: 'PATCH',
    type: `application/${kind}+json`,
    body: JSON.stringify(body),
  });
}

/** Readable text of anything thrown. */
export const text = (error: unknown) => (error instanceof Error ? error.message : String(error));
