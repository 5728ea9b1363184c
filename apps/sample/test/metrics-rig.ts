import { setTimeout as delay } from 'node:timers/promises'
import { type Adapter, type AdapterStats, createAdapter, type WireProvider } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import type { Chunk, Provider } from '@millrace/core'
import { type NodeTelemetry, startTelemetry } from '@millrace/telemetry/node'
import { type Random, type ScriptedProvider, seededRandom, startOtlpSink, startScriptedProvider } from '@millrace/testkit'
import { createTransport, type Transport, type TransportOptions } from '@millrace/transport'
import { type Gateway, startGateway } from '../src/gateway.ts'
import { createPrice } from '../src/price.ts'
import { partsOf } from './parts.ts'

/** One line of what Prometheus scrapes. */
export interface Series {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export interface RigOptions {
  readonly transport?: TransportOptions | undefined
  /** @default one with the cache's own defaults */
  readonly cache?: { readonly ttlMs?: number; readonly staleWhileRevalidateMs?: number; readonly maxEntries?: number } | 'none'
  /** Tells of a wait of 5 ms in each call, as a limiter does. @default false */
  readonly limited?: boolean | undefined
  /** @default as the environment says, to the rig's own collector */
  readonly traces?: readonly [] | undefined
}

/** A gateway with its provider, its adapter and the real SDK, and what a test asks of it. */
export interface Rig extends AsyncDisposable {
  readonly telemetry: NodeTelemetry
  readonly provider: ScriptedProvider
  readonly gateway: Gateway
  readonly adapter: Adapter
  readonly transport: Transport
  /** Everything fails with 500 from now on, or again not. */
  breakProvider(how: 'broken' | 'well'): void
  ask(prompt: string, more?: AskOptions): Promise<{ readonly status: number; readonly text: string }>
  /** Leaves a stream after its first piece. */
  leave(prompt: string): Promise<void>
  /** What `/v1/stats` and `/metrics` say of the same moment, one at which no call runs. */
  read(): Promise<{ readonly stats: AdapterStats; readonly series: readonly Series[] }>
}

export interface AskOptions {
  readonly stream?: boolean | undefined
  /** Only `scripted-*` have a price. @default 'scripted-large' */
  readonly model?: string | undefined
  readonly messages?: readonly { readonly role: string; readonly content: string }[] | undefined
}

const model = 'scripted-large'

/**
 * Prompts that begin so are answered so: `slow` at a reader's pace, `busy` with 429 for the first time, `refused` with 400,
 * `late` after 1.5 s for the first time.
 */
export async function startRig({ transport: more, cache = {}, limited = false, traces }: RigOptions = {}): Promise<Rig> {
  await using opened = new AsyncDisposableStack()
  let state: 'broken' | 'well' = 'well'
  const seen = new Set<string>()
  const provider = opened.use(
    await startScriptedProvider({
      async reply({ prompt }) {
        if (state === 'broken') return { status: 500 }
        const isFirst = !seen.has(prompt)
        seen.add(prompt)
        if (prompt.startsWith('slow')) return { text: 'word '.repeat(50), tokensPerSecond: 200 }
        if (prompt.startsWith('refused')) return { status: 400 }
        if (prompt.startsWith('busy') && isFirst) return { status: 429, headers: { 'retry-after-ms': '1' } }
        if (prompt.startsWith('late') && isFirst) await delay(1500)
        return undefined
      }
    })
  )
  const collector = opened.use(await startOtlpSink())
  process.env.OTEL_EXPORTER_OTLP_ENDPOINT = collector.url
  const telemetry = opened.use(await startTelemetry({ serviceName: 'rig', metrics: ['prometheus'], traces }))
  delete process.env.OTEL_EXPORTER_OTLP_ENDPOINT
  const upstream = { apiKey: 'k', baseURL: provider.url }
  const transport = opened.use(createTransport({ retry: { baseMs: 1 }, ...more, traceHeaders: telemetry.traceHeaders }))
  const base = openai(upstream)
  const adapter = createAdapter({
    provider: limited ? ({ ...base, connect: (send) => afterWaiting(base.connect(send)) } satisfies WireProvider) : base,
    transport,
    cache: cache === 'none' ? undefined : cache,
    tokens: { contextWindow: 1024 },
    price: createPrice(model)
  })
  const gateway = opened.use(await startGateway(partsOf({ adapter, transport, upstream, telemetry })))
  const owned = opened.move()

  function post(
    prompt: string,
    { stream = false, model: named = model, messages }: AskOptions,
    signal?: AbortSignal
  ): Promise<Response> {
    const body = { model: named, stream, max_tokens: 200, messages: messages ?? [{ role: 'user', content: prompt }] }
    return fetch(`${gateway.url}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify(body),
      ...(signal && { signal })
    })
  }

  return {
    telemetry,
    provider,
    gateway,
    adapter,
    transport,
    breakProvider(how) {
      state = how
    },
    async ask(prompt, asked = {}) {
      const response = await post(prompt, asked)
      return { status: response.status, text: await response.text() }
    },
    async leave(prompt) {
      const controller = new AbortController()
      const response = await post(prompt, { stream: true }, controller.signal)
      await response.body?.getReader().read()
      controller.abort()
    },
    async read() {
      const get = async (path: string): Promise<string> => (await fetch(gateway.url + path)).text()
      for (;;) {
        const before = await get('/v1/stats')
        const series = readMetrics(await get('/metrics'))
        const stats = JSON.parse(before) as AdapterStats
        if (stats.running === 0 && (await get('/v1/stats')) === before) return { stats, series }
        await delay(20)
      }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync()
  }
}

/** Prometheus's text, line by line; a line that is none is an error. */
export function readMetrics(text: string): readonly Series[] {
  return text.split('\n').flatMap((line) => {
    if (line === '' || line.startsWith('#')) return []
    const { name, labels = '', value } = /^(?<name>[a-z_:][\w:]*)(?:\{(?<labels>.*)\})? (?<value>\S+)$/i.exec(line)?.groups ?? {}
    if (name === undefined) throw new Error(`not a line of metrics: ${line}`)
    const pairs = Array.from(labels.matchAll(/([a-z_]\w*)="((?:[^"\\]|\\.)*)"/gi), ([, key, written]) => [key, written] as const)
    return [{ name, labels: Object.fromEntries(pairs), value: Number(value === '+Inf' ? 'Infinity' : value) }]
  })
}

/** The sum of the series of this name that have these labels; a regular expression also fits where there is no such label. */
export function sumOf(series: readonly Series[], name: string, where: Readonly<Record<string, string | RegExp>> = {}): number {
  const fits = ({ labels }: Series): boolean =>
    Object.entries(where).every(([key, wanted]) =>
      typeof wanted === 'string' ? labels[key] === wanted : wanted.test(labels[key] ?? '')
    )
  return series.filter((one) => one.name === name && fits(one)).reduce((sum, { value }) => sum + value, 0)
}

/**
 * A mix of calls, the same for the same seed, up to four at a time: plain and streamed, asked again, asked by three at once,
 * left, refused, tried again, and too long for the model. Returns how many calls it made.
 */
export async function drive(rig: Rig, seed: number, steps: number): Promise<number> {
  const random = seededRandom(seed)
  const asked: string[] = []
  let calls = 0
  let running: Promise<unknown>[] = []
  for (let step = 0; step < steps; step++) {
    const prompt = `${seed} question ${step}`
    const stream = random() < 0.5
    const kind = pick(random, ['new', 'new', 'again', 'joined', 'left', 'busy', 'refused', 'long'] as const)
    if (kind === 'new') running.push(rig.ask(prompt, { stream }))
    else if (kind === 'again') running.push(rig.ask(pick(random, asked) ?? prompt, { stream }))
    else if (kind === 'joined') for (let one = 0; one < 3; one++) running.push(rig.ask(`slow ${prompt}`, { stream }))
    else if (kind === 'left') running.push(rig.leave(`slow ${prompt}`))
    else if (kind === 'long') running.push(rig.ask(prompt, { stream, messages: longTalk(prompt) }))
    else running.push(rig.ask(`${kind} ${prompt}`, { stream }))
    calls += kind === 'joined' ? 3 : 1
    if (running.length < 4 && step < steps - 1) continue
    await Promise.all(running)
    running = []
    if (kind === 'new') asked.push(prompt)
  }
  await Promise.all(running)
  return calls
}

/** The same question three times: a miss, a hit, and, past the lifetime, a stale answer with a refresh behind it. */
export async function askThrice(rig: Rig, ttlMs: number): Promise<number> {
  await rig.ask('What is a sluice?')
  await rig.ask('What is a sluice?')
  await delay(ttlMs + 50)
  await rig.ask('What is a sluice?')
  return 3
}

function pick<T>(random: Random, list: readonly T[]): T {
  return list[Math.floor(random() * list.length)] as T
}

/** Longer than the rig's model takes: old turns are left out. */
export function longTalk(prompt: string): { role: string; content: string }[] {
  const turns = Array.from({ length: 30 }, (_, index) => [
    { role: 'user', content: `${index} ${'What about the weir? '.repeat(12)}` },
    { role: 'assistant', content: `It is upstream of mill ${index}.` }
  ])
  return [...turns.flat(), { role: 'user', content: prompt }]
}

/** What a limiter tells of a call that had to wait. */
function afterWaiting(provider: Provider): Provider {
  return async function* (request, call): AsyncGenerator<Chunk> {
    for await (const chunk of provider(request, call)) {
      yield chunk
      if (chunk.type === 'start') yield { type: 'note', from: 'limits', facts: { waitedMs: 5 } }
    }
  }
}
