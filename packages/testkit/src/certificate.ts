import { generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import { isIP } from 'node:net'

/** A key and its certificate as PEM text, for `tls.createServer`; whoever trusts it is given `cert` as `ca`. */
export interface TestCertificate {
  readonly key: string
  readonly cert: string
}

/**
 * Makes a self-signed certificate on the spot, so that no key lies in the repository and none expires there. Node has no
 * maker of certificates, and `openssl` may be absent: the few DER fields of RFC 5280 are written here.
 *
 * @example
 * const server = createServer(createCertificate())
 */
export function createCertificate(
  options: {
    /** Host names and addresses it stands for. @default ['localhost', '127.0.0.1', '::1'] */
    readonly names?: readonly string[] | undefined
    /** Whether it is valid now or was until yesterday. @default 'valid' */
    readonly state?: 'valid' | 'expired' | undefined
  } = {}
): TestCertificate {
  const { names = ['localhost', '127.0.0.1', '::1'], state = 'valid' } = options
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const day = 86_400_000
  const until = Date.now() + (state === 'valid' ? day : -day)
  const name = sequence(der(0x31, sequence(commonName, der(0x0c, Buffer.from('millrace test')))))
  const extension = sequence(subjectAltName, der(0x04, sequence(...names.map(generalName))))
  const body = sequence(
    der(0xa0, der(0x02, Buffer.of(2))), // version 3
    der(0x02, Buffer.concat([Buffer.of(1), randomBytes(15)])), // serial number, positive
    ecdsaWithSha256,
    name, // issuer
    sequence(time(until - 7 * day), time(until)),
    name, // subject
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(extension))
  )
  const signature = der(0x03, Buffer.of(0), sign('sha256', body, privateKey))
  const cert = sequence(body, ecdsaWithSha256, signature)
    .toString('base64')
    .replaceAll(/.{64}(?=.)/g, '$&\n')
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
    cert: `-----BEGIN CERTIFICATE-----\n${cert}\n-----END CERTIFICATE-----\n`
  }
}

function der(tag: number, ...contents: Buffer[]): Buffer {
  const content = Buffer.concat(contents)
  const { length } = content
  const size = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.of(tag, ...size), content])
}

function sequence(...contents: Buffer[]): Buffer {
  return der(0x30, ...contents)
}

const commonName = Buffer.from('0603550403', 'hex')
const subjectAltName = Buffer.from('0603551d11', 'hex')
const ecdsaWithSha256 = sequence(Buffer.from('06082a8648ce3d040302', 'hex'))

/** As GeneralizedTime: YYYYMMDDHHMMSSZ. */
function time(at: number): Buffer {
  return der(0x18, Buffer.from(`${new Date(at).toISOString().replaceAll(/\D/g, '').slice(0, 14)}Z`))
}

function generalName(name: string): Buffer {
  const family = isIP(name)
  if (family === 0) return der(0x82, Buffer.from(name))
  if (family === 4) return der(0x87, Buffer.from(name.split('.').map(Number)))
  return der(0x87, ipv6(name))
}

function ipv6(address: string): Buffer {
  const [head = '', tail = ''] = address.split('::')
  const left = head.split(':').filter(Boolean)
  const right = tail.split(':').filter(Boolean)
  const zeros = Array.from({ length: 8 - left.length - right.length }, () => '0')
  return Buffer.from([...left, ...zeros, ...right].map((group) => group.padStart(4, '0')).join(''), 'hex')
}
