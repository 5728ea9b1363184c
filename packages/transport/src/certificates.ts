import { X509Certificate } from 'node:crypto'

/**
 * The certificates in these texts, each by itself.
 *
 * @throws {TypeError} for what is no PEM text of certificates
 */
export function checkCertificates(ca: string | readonly string[]): readonly string[] {
  const texts: readonly unknown[] = Array.isArray(ca) ? ca : [ca]
  return texts.flatMap((text) => {
    const found = typeof text === 'string' ? text.match(pem) : null
    if (found !== null && found.every(isCertificate)) return found
    throw new TypeError(
      'ca must be the PEM text of certificates (-----BEGIN CERTIFICATE-----): of a file, give what readFileSync(file, "utf8") returns'
    )
  })
}

const pem = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g

function isCertificate(text: string): boolean {
  try {
    return new X509Certificate(text).raw.length > 0
  } catch {
    return false // the caller is told that it is none
  }
}
