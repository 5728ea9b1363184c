import { createSecureServer, constants } from 'node:http2'
import { setTimeout as delay } from 'node:timers/promises'
import { createCertificate } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { test } from 'vitest'
const certificate = createCertificate()
test('x', async () => {
  const held: any[] = []; const sessions: any[] = []; let n = 0
  const server = createSecureServer(certificate)
  server.on('session', (s) => { sessions.push(s); n++; s.on('error', (e)=>console.log('serr', e.message)); s.on('close', () => console.log('session closed')) })
  server.on('stream', (st) => { st.on('error', (e) => console.log('sterr', e.message)); st.resume(); held.push(st); st.on('close', () => console.log('stream close', st.id, st.rstCode)) })
  server.listen(0); await delay(30)
  const t = createTransport({ http2: true, ca: certificate.cert, retry: false, breaker: false })
  const url = `https://localhost:${(server.address() as any).port}`
  const p = { method: 'POST' as const, url, headers: {}, body: '{}' }
  const a = t.send(p).catch(e => e), b = t.send(p).catch(e => e)
  while (held.length < 2) await delay(5)
  console.log(held.map(h => h.id))
  sessions[0].goaway(0, Number(process.env.LAST ?? 1))
  await delay(300)
  console.log('sessions', n, t.stats().origins, held.map(h => h.id))
  const c = performance.now()
  await t.close({ graceMs: 30 })
  console.log('closed', performance.now() - c)
  console.log(String(await a), String(await b))
  for (const s of sessions) s.destroy()
  server.close()
}, 3000)
