// Where Services can be reached, written as the classic dashboard wrote it.

import type { Obj } from './api';

interface Port {
  name?: string;
  port: number;
  protocol?: string;
  nodePort?: number;
  targetPort?: number | string;
}

/** `nginx-service:80 TCP`, and the node port where there is one. */
export function internal(service: Obj): string[] {
  const namespace = service.metadata.namespace;
  const host = namespace === 'default' ? service.metadata.name : `${service.metadata.name}.${namespace}`;
  return ((service.spec?.ports ?? []) as Port[]).flatMap((p) => {
    const protocol = p.protocol ?? 'TCP';
    const lines = [`${host}:${p.port} ${protocol}`];
    if (p.nodePort) lines.push(`${host}:${p.nodePort} ${protocol}`);
    return lines;
  });
}

export interface External {
  text: string;
  /** Nothing for what is no TCP. */
  href?: string;
}

const hostPort = (host: string, port: number) => (host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`);

/** Links from outside: load balancer addresses, external addresses, node ports of the nodes. */
export function external(service: Obj, nodes: string[] = []): External[] {
  const ports = (service.spec?.ports ?? []) as Port[];
  const hosts: string[] = [
    ...(service.status?.loadBalancer?.ingress ?? []).map((i: { ip?: string; hostname?: string }) => i.ip ?? i.hostname ?? ''),
    ...(service.spec?.externalIPs ?? []),
  ].filter(Boolean);
  const to = (host: string, port: number, p: Port): External => {
    const secure = p.port === 443 || p.name === 'https' || p.targetPort === 'https';
    const address = hostPort(host, port);
    return (p.protocol ?? 'TCP') === 'TCP'
      ? { text: address, href: `${secure ? 'https' : 'http'}://${address}/` }
      : { text: `${address} ${p.protocol}` };
  };
  const links = hosts.flatMap((host) => ports.map((p) => to(host, p.port, p)));
  const nodePorts = ports.filter((p) => p.nodePort);
  if (links.length === 0) links.push(...nodes.flatMap((node) => nodePorts.map((p) => to(node, p.nodePort!, p))));
  if (service.spec?.type === 'ExternalName') links.push({ text: service.spec.externalName ?? '' });
  return links;
}

/** Addresses that a node is reached at. */
export const addresses = (node: Obj): string[] => {
  const all: { type: string; address: string }[] = node.status?.addresses ?? [];
  const external = all.filter((a) => a.type === 'ExternalIP');
  return (external.length ? external : all.filter((a) => a.type === 'InternalIP')).map((a) => a.address);
};
