import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type HostKind, kindOfHost } from '../src/address-guard.ts'

const kindOf = (host: string): HostKind => kindOfHost(new URL(`http://${host}/`).hostname)

describe('the kind of a host', () => {
  it.each<[HostKind, string[]]>([
    ['loopback', ['127.0.0.1', '127.255.0.9', '2130706433', '0x7f.1', '0177.0.0.1', '127.1', '[::1]', '[::ffff:127.0.0.1]']],
    [
      'loopback',
      ['[::ffff:7f00:1]', '[64:ff9b::7f00:1]', '[2002:7f00:1::]', '[::127.0.0.1]', 'localhost', 'a.localhost', 'LOCALHOST.']
    ],
    [
      'private',
      ['10.0.0.1', '172.16.0.1', '172.31.255.255', '192.168.1.1', '100.64.0.1', '[fd00::1]', '[::ffff:a00:1]', '[fec0::1]']
    ],
    ['private', ['models', 'printer.local', 'models.internal', 'nas.lan', 'nas.home.arpa', '[64:ff9b:1::808:808]']],
    ['link-local', ['169.254.1.1', '[fe80::1]', '[febf::1]', '[::ffff:169.254.1.1]']],
    ['metadata', ['169.254.169.254', '0xa9fea9fe', '[::ffff:169.254.169.254]', '[fd00:ec2::254]', '100.100.100.200']],
    ['metadata', ['metadata', 'metadata.google.internal', 'Metadata.Google.Internal.', '168.63.129.16', '[64:ff9b::a9fe:a9fe]']],
    ['unspecified', ['0.0.0.0', '0', '[::]', '[::ffff:0:0]']],
    ['multicast', ['224.0.0.1', '239.255.255.255', '[ff02::1]']],
    ['reserved', ['255.255.255.255', '240.0.0.1', '192.0.2.1', '203.0.113.1', '[2001:db8::1]', '[2001::1]']],
    [
      'public',
      ['8.8.8.8', '172.32.0.1', '172.15.0.1', '100.128.0.1', '[2606:4700::1111]', '[::ffff:8.8.8.8]', '[2002:808:808::]']
    ],
    ['name', ['api.openai.com', 'internal.example.com', 'localhost.example.com', '127.0.0.1.example.com']]
  ])('%s: %j', (kind, hosts) => {
    expect(hosts.map(kindOf)).toEqual(hosts.map(() => kind))
  })

  it('of an address as the system gives it may have a zone', () => {
    expect(kindOfHost('fe80::1%eth0')).toBe('link-local')
  })

  it('is the same in each way in which IPv4 can be written (seed 9)', () => {
    const octets = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255))
    // Most of what is special begins with one of these.
    const likely = fc.tuple(
      fc.constantFrom(0, 10, 100, 127, 169, 172, 192, 198, 203, 224),
      fc.constantFrom(0, 16, 31, 64, 168, 254),
      fc.nat(255),
      fc.nat(255)
    )
    fc.assert(
      fc.property(fc.oneof(octets, likely), (address) => {
        const [a, b, c, d] = address
        const kind = kindOf(address.join('.'))
        const number = ((a * 256 + b) * 256 + c) * 256 + d
        const [high, low] = [(a * 256 + b).toString(16), (c * 256 + d).toString(16)]
        const others = [
          String(number),
          `0x${number.toString(16)}`,
          `0${number.toString(8)}`,
          `${a}.${b * 65_536 + c * 256 + d}`,
          address.map((octet) => `0${octet.toString(8)}`).join('.'),
          `[::ffff:${address.join('.')}]`,
          `[0:0:0:0:0:ffff:${high}:${low}]`,
          `[64:ff9b::${high}:${low}]`,
          `[2002:${high}:${low}::1]`
        ]
        expect(others.map(kindOf)).toEqual(others.map(() => kind))
      }),
      { seed: 9, numRuns: 1000 }
    )
  })
})
