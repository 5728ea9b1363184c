import { isJsonObject, type Json, type JsonObject, parseJson, sleep } from '@millrace/core'
import { type Answer, leaveStream, type Question, readAnswer, readStream, type StreamedAnswer } from './doctor-answer.ts'
import { type Counts, readCounts } from './doctor-counts.ts'
import { createLink, type Link, type LinkOptions, TooSlow, Unanswered } from './doctor-link.ts'
import { type Metrics, readMetrics } from './doctor-prometheus.ts'
import { oneLine } from './doctor-verdict.ts'

/** The gateway under examination. Every method throws `Unanswered`, and `TooSlow` once a check's time is over. */
export interface Gateway extends AsyncDisposable {
  readonly address: string
  readonly model: string
  /** A gateway may tell none. */
  readonly replica: string | undefined
  /** Gives the next check its time. */
  begin(): void
  /** Requests of chat that were sent so far, broken ones among them. */
  sent(): number
  counts(): Promise<Counts>
  /** Reads until `isSettled`, for two seconds at most: a gateway may count a call just after its answer. */
  settled(isSettled: (counts: Counts) => boolean): Promise<Counts>
  metrics(): Promise<Metrics>
  settledMetrics(isSettled: (metrics: Metrics) => boolean): Promise<Metrics>
  ask(question: Question): Promise<Answer>
  stream(question: Question): Promise<StreamedAnswer>
  /** Streams, and leaves at the first text; false when the answer was over by then. */
  leave(question: Question): Promise<boolean>
  /** Sends a body that is no JSON: refused before any provider, it costs nothing but the gateway's memory for a moment. */
  sendBroken(body: string): Promise<void>
}

export interface GatewayOptions extends LinkOptions {
  /** @default what the gateway says */
  readonly model: string | undefined
}

const chatPath = '/v1/chat/completions'
const streaming = { stream: true, stream_options: { include_usage: true } }

/** @throws {Unanswered} when nothing answers there, no gateway, or several */
export async function openGateway(options: GatewayOptions): Promise<Gateway> {
  const link = createLink(options)
  try {
    return await meet(link, options)
  } catch (error) {
    await link.close()
    throw error
  }
}

async function meet(link: Link, { address, model: asked }: GatewayOptions): Promise<Gateway> {
  const replicas = new Set<string>()
  let sent = 0

  const read = async (path: string): Promise<string> => link.textOf(path, await link.send('GET', path))

  async function stats(): Promise<JsonObject> {
    const body = parseJson(await read('/v1/stats'))
    if (!isJsonObject(body)) throw new Unanswered('/v1/stats is no JSON object')
    if (typeof body.replica === 'string') replicas.add(oneLine(body.replica))
    return body
  }

  async function counts(): Promise<Counts> {
    const told = readCounts(await stats())
    if (told === undefined) throw new Unanswered('/v1/stats does not tell the counts of a Millrace gateway')
    // Each counts for itself: what one answer adds, the next reading may not show.
    if (replicas.size > 1) throw new Unanswered(`${replicas.size} replicas answered: run doctor against one of them`)
    return told
  }

  const refuse = (error: unknown): never => link.refuse(chatPath, error)
  const metrics = async (): Promise<Metrics> => readMetrics(await read('/metrics'))

  function chat({ messages, maxTokens }: Question, more: JsonObject = {}): ReturnType<Link['send']> {
    sent++
    return link.send('POST', chatPath, JSON.stringify({ model, messages, max_completion_tokens: maxTokens, ...more }))
  }

  async function findModel(): Promise<string> {
    const { model: told } = await stats()
    if (typeof told === 'string') return told
    const list = parseJson(await read('/v1/models'))
    const first = isJsonObject(list) && Array.isArray(list.data) ? (list.data[0] as Json | undefined) : undefined
    if (isJsonObject(first) && typeof first.id === 'string') return first.id
    throw new Unanswered('the gateway lists no model: give --model')
  }

  await read('/healthz')
  // Several at once and again: behind a balancer others answer too.
  for (let round = 0; round < 2; round++) await Promise.all(Array.from({ length: 4 }, stats))
  await counts()
  const model = asked ?? (await findModel())

  return {
    address,
    model,
    replica: [...replicas][0],
    begin: link.begin,
    sent: () => sent,
    counts,
    settled: (isSettled) => until(counts, isSettled),
    metrics,
    settledMetrics: (isSettled) => until(metrics, isSettled),
    async ask(question) {
      const startedAt = performance.now()
      const response = await chat(question)
      return readAnswer(response, await link.textOf(chatPath, response), performance.now() - startedAt)
    },
    async stream(question) {
      const startedAt = performance.now()
      return readStream(await chat(question, streaming), startedAt).catch(refuse)
    },
    leave: async (question) => leaveStream(await chat(question, streaming)).catch(refuse),
    async sendBroken(body) {
      sent++
      const refused: unknown = await link.send('POST', chatPath, body).catch((error: unknown) => error)
      if (refused instanceof TooSlow) throw refused
      if (!(refused instanceof Unanswered)) throw new Unanswered('a body that is no JSON was not refused')
      if (refused.status === undefined || refused.status >= 500) throw refused
    },
    [Symbol.asyncDispose]: link.close
  }
}

async function until<T>(read: () => Promise<T>, isSettled: (value: T) => boolean): Promise<T> {
  const end = performance.now() + 2000
  for (;;) {
    const value = await read()
    if (isSettled(value) || performance.now() > end) return value
    await sleep(50)
  }
}
