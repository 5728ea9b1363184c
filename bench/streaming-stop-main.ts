// Ends streams in the middle, one after the other: `streaming-stop-main.ts <subject> <way> <origin> <times>`.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Last } from './streaming-server-main.ts'
import { messages, model } from './traffic.ts'

/** `/paced` for those that end it on their own turn; for the others the provider has fallen silent and a read waits. */
export const ways = {
  break: '/paced',
  'token limit': '/paced',
  'return()': '/silent',
  abort: '/silent',
  deadline: '/silent'
} as const
export type Way = keyof typeof ways

const [subject = '', way = '', origin = '', times = ''] = process.argv.slice(2)
const at = `${origin}${ways[way as Way]}/v1`
const apiKey = 'bench'
const request = { model, messages }
const [{ content: instructions }, { content: prompt }] = messages
const deadlineMs = 200
/** Pieces that are read before it is ended. */
const piecesRead = 20

interface Asked {
  readonly signal: AbortSignal
  /** Undefined for no deadline. */
  readonly totalMs: number | undefined
}

/** Undefined where the client has nothing of that name. */
type Open = ((asked: Asked) => Promise<AsyncIterable<unknown>> | AsyncIterable<unknown>) | undefined

const openers: Readonly<Record<string, () => Promise<Open>>> = {
  'adapter.stream': async () => {
    const { createAdapter } = await import('@millrace/adapter')
    const { openai } = await import('@millrace/adapter/openai')
    const { limitTokens, onlyText } = await import('@millrace/streaming')
    const { tokenizerFor } = await import('@millrace/tokens')
    const adapter = createAdapter({ provider: openai({ apiKey, baseURL: at }) })
    const operator = way === 'token limit' ? limitTokens(piecesRead, tokenizerFor('gpt-5').counter) : undefined
    const open = ({ signal, totalMs = 60_000 }: Asked): AsyncIterable<unknown> => {
      const stream = adapter.stream(request, { signal, timeouts: { totalMs } })
      return operator === undefined ? onlyText()(stream) : operator(stream)
    }
    return open
  },

  'adapter.stream with operators': async () => {
    const { createAdapter } = await import('@millrace/adapter')
    const { openai } = await import('@millrace/adapter/openai')
    const { coalesce, limitTokens } = await import('@millrace/streaming')
    const { tokenizerFor } = await import('@millrace/tokens')
    const max = way === 'token limit' ? piecesRead : 1e9
    const operators = [coalesce({ maxDelayMs: 5 }), limitTokens(max, tokenizerFor('gpt-5').counter)]
    const adapter = createAdapter({ provider: openai({ apiKey, baseURL: at }), operators })
    return ({ signal, totalMs = 60_000 }) => adapter.stream(request, { signal, timeouts: { totalMs } })
  },

  'openai client': async () => {
    const { default: OpenAI } = await import('openai')
    const client = new OpenAI({ apiKey, baseURL: at })
    if (way === 'deadline' || way === 'token limit') return undefined
    return ({ signal }) => client.chat.completions.create({ ...request, stream: true }, { signal })
  },

  'AI SDK streamText': async () => {
    const { streamText } = await import('ai')
    const { createOpenAI } = await import('@ai-sdk/openai')
    const chat = createOpenAI({ apiKey, baseURL: at }).chat(model)
    if (way === 'token limit') return undefined
    return ({ signal, totalMs }) =>
      streamText({
        model: chat,
        instructions,
        prompt,
        abortSignal: signal,
        ...(totalMs === undefined ? {} : { timeout: { totalMs } }),
        onError() {} // told by the iteration
      }).textStream
  }
}

const now = (): number => Number(process.hrtime.bigint()) / 1e6

/** Ends one stream, and gives the time on the clock of all processes at which it was, or should have been, ended. */
async function end(open: NonNullable<Open>): Promise<number> {
  const controller = new AbortController()
  const startedAt = now()
  const stream = await open({ signal: controller.signal, totalMs: way === 'deadline' ? deadlineMs : undefined })
  const iterator = stream[Symbol.asyncIterator]()
  if (way === 'deadline') {
    await drained(iterator)
    return startedAt + deadlineMs
  }
  if (way === 'token limit') {
    let lastAt = startedAt
    for (let read = await iterator.next(); read.done !== true; read = await iterator.next()) lastAt = now()
    return lastAt
  }
  if (way === 'break') {
    let pieces = 0
    let leftAt = 0
    for await (const _ of { [Symbol.asyncIterator]: () => iterator }) {
      if (++pieces < piecesRead) continue
      leftAt = now()
      break
    }
    return leftAt
  }
  for (let pieces = 0; pieces < 3; pieces++) await iterator.next()
  const pending = drained(iterator)
  await sleep(30) // by now it waits for a server that says nothing more
  const leftAt = now()
  if (way === 'abort') controller.abort()
  // A generator answers this only when the read it waits in has ended, which the server does not do.
  else void iterator.return?.()
  await Promise.race([pending, sleep(100)])
  return leftAt
}

/** Reads on until it is over; how it ends is not what is asked here. */
async function drained(iterator: AsyncIterator<unknown>): Promise<void> {
  try {
    while ((await iterator.next()).done !== true);
  } catch {}
}

/** Milliseconds until the server sees it; `null` when it did not within three seconds. */
async function untilClosed(endedAt: number): Promise<number | null> {
  for (let waited = 0; waited < 3000; waited += 10) {
    const { closedAt } = (await (await fetch(`${origin}/last`)).json()) as Last
    if (closedAt !== null) return closedAt - endedAt
    await sleep(10)
  }
  return null
}

const open = await openers[subject]?.()
const taken: (number | null)[] = []
if (open !== undefined) {
  // Run 0 opens what is opened late, and lets the compiler see the code.
  for (let run = 0; run <= Number(times); run++) {
    const ms = await untilClosed(await end(open))
    if (run > 0) taken.push(ms)
    if (ms === null) break
  }
}
process.send?.(open === undefined ? null : taken)
process.once('disconnect', () => process.exit())
