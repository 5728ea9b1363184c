import { collect, pipe, watch, checkRequest } from '@millrace/core'
import { openai } from '../src/openai.ts'
import { createRunningCalls } from '../src/running-calls.ts'
import { createCallCounter } from '../src/stats.ts'
import { messages, model, answerBody } from '../../../bench/traffic.ts'
const bytes = Buffer.from(answerBody)
const body = { complete: true, async text() { return bytes.toString() }, cancel() {}, async *[Symbol.asyncIterator]() { yield [bytes] } }
const send: any = (request: any) => Promise.resolve({ status: 200, headers: { 'content-type': 'application/json' }, body, attempts: 1 })
const base = openai({ apiKey: 'x', baseURL: 'http://127.0.0.1:1/v1' }).connect(send)
const calls = createRunningCalls(300000)
const counter = createCallCounter()
const owner = {}
const full = pipe(base, calls.layer, watch(owner, counter.add))
const request = { model, messages }
async function run(name: string, f: () => Promise<unknown>) {
  for (let round = 0; round < 4; round++) {
    const N = 100000
    const cpu = process.cpuUsage()
    for (let i = 0; i < N / 50; i++) await Promise.all(Array.from({ length: 50 }, f))
    const u = process.cpuUsage(cpu)
    if (round === 3) console.log(name, ((u.user + u.system) / N).toFixed(2), 'us')
  }
}
await run('json only', async () => { const b = JSON.stringify({ model, messages }); const r = await send({ body: b }); return JSON.parse(await r.body.text()).choices[0] })

await run('checkRequest', async () => checkRequest(request))


await run('full', () => collect(full(request, { stream: false })))
await run('full', () => collect(full(request, { stream: false })))
