import { BlockList, isIP } from 'node:net'

/** What an address is for, as far as a caller must be kept from it. Only `public` ones are everybody's. */
export type AddressKind = 'public' | 'loopback' | 'private' | 'link-local' | 'metadata' | 'unspecified' | 'multicast' | 'reserved'

/** What a host is: the kind of its address, or of a name that says where it leads; `name`: only DNS can tell. */
export type HostKind = AddressKind | 'name'

/**
 * What kind of host a URL leads to, without asking anybody. Of a URL take `hostname`: it has decimal, octal and hexadecimal
 * forms of IPv4 written out already. IPv4 within IPv6 (mapped, compatible, NAT64, 6to4) is judged as the IPv4 it leads to.
 *
 * @example
 * kindOfHost(new URL('http://0x7f.1/').hostname) // 'loopback'
 */
export function kindOfHost(host: string): HostKind {
  const name = host.replace(/^\[|\]$/g, '').replace(/%.*$/, '')
  const family = isIP(name)
  if (family === 4) return kindOfIPv4(name)
  if (family === 6) return kindOfIPv6(name)
  return kindOfName(name.toLowerCase().replace(/\.$/, ''))
}

/** Whether only this machine reaches what listens there. */
export function isLoopback(host: string): boolean {
  return kindOfHost(host) === 'loopback'
}

type Range = readonly [address: string, prefix: number]

// The registries of special addresses of the IANA, and where clouds keep the credentials of their machines. The first match
// counts, so that the metadata services are not taken for what surrounds them.
const rangesOfIPv4: ReadonlyArray<readonly [AddressKind, readonly Range[]]> = [
  [
    'metadata',
    [
      ['169.254.169.254', 32],
      ['169.254.170.2', 32],
      ['169.254.170.23', 32],
      ['100.100.100.200', 32],
      ['168.63.129.16', 32],
      ['192.0.0.192', 32]
    ]
  ],
  ['loopback', [['127.0.0.0', 8]]],
  ['unspecified', [['0.0.0.0', 8]]],
  ['link-local', [['169.254.0.0', 16]]],
  [
    'private',
    [
      ['10.0.0.0', 8],
      ['172.16.0.0', 12],
      ['192.168.0.0', 16],
      ['100.64.0.0', 10],
      ['198.18.0.0', 15]
    ]
  ],
  ['multicast', [['224.0.0.0', 4]]],
  [
    'reserved',
    [
      ['240.0.0.0', 4],
      ['192.0.0.0', 24],
      ['192.0.2.0', 24],
      ['192.88.99.0', 24],
      ['198.51.100.0', 24],
      ['203.0.113.0', 24]
    ]
  ]
]

const rangesOfIPv6: ReadonlyArray<readonly [AddressKind, readonly Range[]]> = [
  [
    'metadata',
    [
      ['fd00:ec2::254', 128],
      ['fd00:ec2::23', 128],
      ['fd20:ce::254', 128]
    ]
  ],
  ['loopback', [['::1', 128]]],
  ['unspecified', [['::', 128]]],
  ['link-local', [['fe80::', 10]]],
  [
    'private',
    [
      ['fc00::', 7],
      ['fec0::', 10],
      ['64:ff9b:1::', 48]
    ]
  ],
  ['multicast', [['ff00::', 8]]],
  [
    'reserved',
    [
      ['100::', 64],
      ['2001::', 23],
      ['2001:db8::', 32],
      ['3fff::', 20],
      ['5f00::', 16]
    ]
  ]
]

const listsOfIPv4 = listsOf(rangesOfIPv4, 'ipv4')
const listsOfIPv6 = listsOf(rangesOfIPv6, 'ipv6')

function listsOf(ranges: typeof rangesOfIPv4, family: 'ipv4' | 'ipv6'): ReadonlyArray<readonly [AddressKind, BlockList]> {
  return ranges.map(([kind, subnets]) => {
    const list = new BlockList()
    for (const [address, prefix] of subnets) list.addSubnet(address, prefix, family)
    return [kind, list]
  })
}

function kindOfIPv4(address: string): AddressKind {
  return listsOfIPv4.find(([, list]) => list.check(address, 'ipv4'))?.[0] ?? 'public'
}

function kindOfIPv6(address: string): AddressKind {
  const known = listsOfIPv6.find(([, list]) => list.check(address, 'ipv6'))?.[0]
  if (known !== undefined) return known
  const within = ipv4Within(address)
  return within === undefined ? 'public' : kindOfIPv4(within)
}

/** The IPv4 address that an IPv6 address stands for. */
function ipv4Within(address: string): string | undefined {
  const groups = groupsOf(address)
  const [a, b] = groups as [number, number]
  if (a === 0x2002) return dotted(b, groups[2] as number)
  const head = groups.slice(0, 6).join()
  const stands = ['0,0,0,0,0,0', '0,0,0,0,0,65535', '0,0,0,0,65535,0', '100,65435,0,0,0,0']
  return stands.includes(head) ? dotted(groups[6] as number, groups[7] as number) : undefined
}

function groupsOf(address: string): number[] {
  // Without dots, shortened: as URL writes it.
  const [before = '', after] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::')
  const numbers = (text: string): number[] => (text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16)))
  const head = numbers(before)
  const tail = after === undefined ? [] : numbers(after)
  return [...head, ...Array.from({ length: 8 - head.length - tail.length }, () => 0), ...tail]
}

function dotted(high: number, low: number): string {
  return [high >> 8, high & 255, low >> 8, low & 255].join('.')
}

const metadataNames: ReadonlySet<string> = new Set([
  'metadata',
  'metadata.google.internal',
  'instance-data',
  'instance-data.ec2.internal'
])

function kindOfName(name: string): HostKind {
  if (metadataNames.has(name)) return 'metadata'
  if (name === 'localhost' || name.endsWith('.localhost')) return 'loopback'
  if (!name.includes('.') || /\.(?:local|localdomain|internal|intranet|lan|home\.arpa)$/.test(name)) return 'private'
  return 'name'
}
