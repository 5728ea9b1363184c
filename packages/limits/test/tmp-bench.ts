import { collect } from '@millrace/core'
import { createLimiter, withLimits } from '@millrace/limits'
import { newsOf } from '../src/rate-limit-headers.ts'
import { hear } from '../src/wire-call.ts'
import { limiterParts } from '../src/limiter.ts'
const headers: Record<string,string> = JSON.parse('{"date":"Mon, 23 Nov 2026 12:00:00 GMT","content-type":"application/json","x-request-id":"a","openai-processing-ms":"33","cf-ray":"x","x-ratelimit-limit-requests":"10000","x-ratelimit-remaining-requests":"9999","x-ratelimit-reset-requests":"6ms","x-ratelimit-limit-tokens":"30000","x-ratelimit-remaining-tokens":"29990","x-ratelimit-reset-tokens":"20ms"}')
const limiter = createLimiter({ limits: [{ by: 'provider', requestsPerMinute: 1e9, tokensPerMinute: 1e12 }] })
const held = await limiter[limiterParts].acquire({ provider: 'p' })
const bare = async function* () { yield { type: 'start', provider: 'p', model: 'm' } as const; yield { type: 'text', text: 'x' } as const; yield { type: 'finish', reason: 'stop' } as const }
const lp = withLimits(limiter, { provider: 'p' })(bare)
const chat = { model: 'm', messages: [{ role: 'user', content: 'hello there' }] } as const
const pr = { get: 0 }
for (let i = 0; i < 6; i++) {
  const N = 50000
  let t = process.cpuUsage().user; for (let k = 0; k < N; k++) newsOf({ status: 200, headers }); const a = (process.cpuUsage().user - t) / N
  t = process.cpuUsage().user; for (let k = 0; k < N; k++) newsOf({ status: 200, headers: { a: 'b', date: 'x' } }); const b = (process.cpuUsage().user - t) / N
  t = process.cpuUsage().user; for (let k = 0; k < N; k++) hear(limiter[limiterParts], held, { status: 200, headers }); const c = (process.cpuUsage().user - t) / N
  t = process.cpuUsage().user; for (let k = 0; k < N; k++) await collect(bare()); const d = (process.cpuUsage().user - t) / N
  t = process.cpuUsage().user; for (let k = 0; k < N; k++) await collect(lp(chat, {})); const e = (process.cpuUsage().user - t) / N
  const deadline = { remainingMs: () => 1000, queued: false, [Symbol.dispose]() {} }
  t = process.cpuUsage().user; for (let k = 0; k < N; k++) await collect(lp(chat, { deadline })); const f = (process.cpuUsage().user - t) / N
  console.log('newsOf', a.toFixed(2), 'none', b.toFixed(2), 'hear', c.toFixed(2), 'bare', d.toFixed(2), 'layer+', (e - d).toFixed(2), 'with deadline +', (f - d).toFixed(2))
}
await limiter.close()
