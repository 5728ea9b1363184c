import { X509Certificate } from 'node:crypto'
import { expect, it } from 'vitest'
import { createCertificate } from '../src/index.ts'

it('makes a certificate of its own key for the names it is given, valid now', () => {
  const { cert } = createCertificate({ names: ['a.example', '*.b.example', '127.0.0.1', '::1', '2001:db8::7:1'] })
  const read = new X509Certificate(cert)
  expect(read.verify(read.publicKey)).toBe(true)
  for (const host of ['a.example', 'x.b.example']) expect(read.checkHost(host)).toBeDefined()
  for (const address of ['127.0.0.1', '::1', '2001:db8::7:1']) expect(read.checkIP(address)).toBeDefined()
  expect(read.checkHost('localhost')).toBeUndefined()
  expect(read.validFromDate.getTime()).toBeLessThan(Date.now())
  expect(read.validToDate.getTime()).toBeGreaterThan(Date.now())
})

it('makes one that has expired', () => {
  expect(new X509Certificate(createCertificate({ state: 'expired' }).cert).validToDate.getTime()).toBeLessThan(Date.now())
})
