// What a call costs in the process of a gateway: the sample's, and Portkey's where PORTKEY_GATEWAY names its program
// (`npm install @portkey-ai/gateway` in a folder of its own; build/start-server.js there). Each is a process of its own in
// front of one model server in another; turns of a subject and of its base follow each other. `pnpm build` first; Linux only,
// for the CPU of a process is read in /proc. Flags: --rounds=12 --ms=700 --concurrency=50
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Agent, request } from 'undici'
import { start } from './programs.ts'
import { printTable, quantile, quartiles } from './tables.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '12' },
    ms: { type: 'string', default: '700' },
    concurrency: { type: 'string', default: '50' }
  }
})
const [rounds, turnMs, concurrency] = [Number(values.rounds), Number(values.ms), Number(values.concurrency)]

interface Subject {
  readonly name: string
  readonly child: ChildProcess
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  /** True: always the same question. */
  readonly same: boolean
}

interface Taken {
  readonly cpuUs: number
  readonly perSecond: number
  readonly p50Ms: number
}

const agent = new Agent({ connections: concurrency })
let asked = 0

async function turn({ child, url, headers, same }: Subject): Promise<Taken> {
  const times: number[] = []
  const cpuBefore = cpuUsOf(child)
  const startedAt = performance.now()
  async function client(): Promise<void> {
    while (performance.now() - startedAt < turnMs) {
      const content = same ? 'Why is the sky blue?' : `Why is the sky blue, for the ${++asked}th time?`
      const body = JSON.stringify({ model: 'gpt-4.1', messages: [{ role: 'user', content }] })
      const sentAt = performance.now()
      const response = await request(url, { method: 'POST', headers, body, dispatcher: agent })
      const text = await response.body.text()
      if (response.statusCode !== 200) throw new Error(`${url} answered ${response.statusCode}: ${text}`)
      times.push(performance.now() - sentAt)
    }
  }
  await Promise.all(Array.from({ length: concurrency }, client))
  const seconds = (performance.now() - startedAt) / 1000
  return {
    cpuUs: (cpuUsOf(child) - cpuBefore) / times.length,
    perSecond: times.length / seconds,
    p50Ms: quantile(times, 0.5)
  }
}

/** User and system time; the kernel counts in hundredths of a second. */
function cpuUsOf({ pid }: ChildProcess): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10_000
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}

await using server = await start('server-main.ts', ['0'])
const upstream = `http://127.0.0.1:${Number(server.hello)}/v1`

const ours = fork(fileURLToPath(new URL('../apps/sample/dist/main.js', import.meta.url)), [], {
  env: { ...process.env, PORT: '0', OPENAI_API_KEY: 'k', OPENAI_BASE_URL: upstream, OPENAI_MODEL: 'gpt-4.1' },
  execArgv: []
})
const [{ url }] = (await once(ours, 'message')) as [{ url: string }]
const json = { 'content-type': 'application/json' }
const subjects: Subject[] = [
  { name: 'Millrace, sent on', child: ours, url: `${url}/v1/chat/completions`, headers: json, same: false },
  { name: 'Millrace, hit', child: ours, url: `${url}/v1/chat/completions`, headers: json, same: true }
]

const portkey = process.env.PORTKEY_GATEWAY
let theirs: ChildProcess | undefined
if (portkey === undefined) console.log('PORTKEY_GATEWAY is not set: no rival in this run')
else {
  const port = await freePort()
  theirs = spawn(process.execPath, [portkey, `--port=${port}`, '--headless'], { stdio: 'ignore' })
  const address = `http://127.0.0.1:${port}`
  const isUp = async (): Promise<boolean> =>
    request(address)
      .then(({ body }) => body.dump().then(() => true))
      .catch(() => false)
  for (let tries = 0; tries < 100 && !(await isUp()); tries++) await delay(100)
  const headers = { ...json, authorization: 'Bearer k', 'x-portkey-provider': 'openai', 'x-portkey-custom-host': upstream }
  subjects.push({ name: 'Portkey, sent on', child: theirs, url: `${address}/v1/chat/completions`, headers, same: false })
}

const taken = new Map(subjects.map(({ name }) => [name, [] as Taken[]]))
// The first two rounds warm up.
for (let round = -2; round < rounds; round++) {
  for (const subject of subjects) {
    const result = await turn(subject)
    if (round >= 0) taken.get(subject.name)?.push(result)
  }
}

console.log(`\nA plain chat through a gateway, ${concurrency} at a time\n`)
const base = taken.get('Millrace, sent on') ?? []
printTable(
  ['gateway', 'CPU of its process, us a call', 'CPU, times "sent on"', 'quartiles', 'calls a second', 'p50, ms'],
  [...taken].map(([name, samples]) => {
    const of = (pick: (one: Taken) => number): number => quantile(samples.map(pick), 0.5)
    const [low = '', middle = '', high = ''] = quartiles(
      samples.map(({ cpuUs }, index) => cpuUs / (base[index]?.cpuUs ?? Number.NaN)),
      2
    )
    return [
      name,
      of((s) => s.cpuUs).toFixed(0),
      middle,
      `${low} to ${high}`,
      of((s) => s.perSecond).toFixed(0),
      of((s) => s.p50Ms).toFixed(1)
    ]
  })
)

await agent.close()
ours.disconnect()
theirs?.kill()
