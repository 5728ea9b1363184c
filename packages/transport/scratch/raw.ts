import { fork } from 'node:child_process'
import { once } from 'node:events'
import { createConnector } from '../src/connector.ts'
import { Origin } from '../src/origin.ts'
import { Exchange } from '../src/exchange.ts'
import { Pool } from 'undici'
import { messages, model, answerText } from '../../../bench/traffic.ts'
const server = fork(new URL('../../../bench/server-main.ts', import.meta.url), [], { execArgv: ['--conditions=@millrace/source'] })
const [port] = await once(server, 'message')
const url = `http://127.0.0.1:${port}`
const origin = new Origin(url, createConnector({ http2: false, proxy: false }), { maxConnections: 512, maxQueue: 10000, keepAliveMs: 30000, http2: false } as any, () => {})
const headers = { 'content-type': 'application/json', authorization: 'Bearer x' }
const limits = { connectMs: 10000, headersMs: Infinity, maxResponseBytes: 16e6 }
async function viaExchange() {
  const body = JSON.stringify({ model, messages })
  const request = { method: 'POST' as const, url: url + '/v1/chat/completions', headers, body }
  const place = origin.take() ?? (await origin.wait(request))
  const exchange = new Exchange(request, origin, place, limits)
  exchange.start('/v1/chat/completions', undefined)
  const response = await exchange.head
  return JSON.parse(await response.body.text()).choices[0].message.content
}
const pool = new Pool(url)
async function viaPool() {
  const body = JSON.stringify({ model, messages })
  const r = await pool.request({ path: '/v1/chat/completions', method: 'POST', headers, body })
  return JSON.parse(await r.body.text()).choices[0].message.content
}
async function turn(f: () => Promise<string>, c: number, ms: number) {
  const cpu = process.cpuUsage(); const t = performance.now(); let n = 0
  await Promise.all(Array.from({ length: c }, async () => { while (performance.now() - t < ms) { if ((await f()) !== answerText) throw new Error('wrong'); n++ } }))
  const u = process.cpuUsage(cpu); return { cpu: (u.user + u.system) / n, rps: n / ((performance.now() - t) / 1000) }
}
for (const c of [1, 50, 200]) {
  const ratios = [], rps = []
  for (let i = 0; i < 12; i++) { const a = await turn(viaPool, c, 200); const b = await turn(viaExchange, c, 200); if (i > 2) { ratios.push(b.cpu / a.cpu); rps.push(b.rps / a.rps) } }
  ratios.sort(); rps.sort(); console.log(c, 'cpu', ratios[ratios.length >> 1].toFixed(2), 'rps', rps[rps.length >> 1].toFixed(2), JSON.stringify(origin.stats()))
}
server.disconnect(); process.exit()
