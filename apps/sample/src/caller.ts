import { setTimeout as delay } from 'node:timers/promises'
import type { Conversation } from './workload.ts'

/** One call as its user saw it. */
export interface CallResult {
  readonly firstTextMs: number
  readonly totalMs: number
  /** Requests it took. */
  readonly requests: number
  /** 429s among them. */
  readonly refused: number
  readonly tokensIn: number
  readonly text: string
}

export interface Target {
  readonly baseURL: string
  readonly apiKey: string
  readonly model: string
  readonly maxTokens: number
}

/** A failure the user must be told about, in one line. */
export class CallFailed extends Error {}

const maxTries = 12

/**
 * A streamed chat call with `fetch` alone, as it stands in many services: it waits when it is told to, and tries again.
 * The demo uses it for both sides, so that only what stands behind the address differs.
 *
 * @throws {CallFailed}
 */
export async function call({ messages }: Conversation, target: Target): Promise<CallResult> {
  const startedAt = performance.now()
  let refused = 0
  for (let requests = 1; requests <= maxTries; requests++) {
    const response = await request(messages, target)
    if (response.status === 200) return { ...(await read(response, startedAt)), requests, refused }
    await response.arrayBuffer()
    if (response.status !== 429 && response.status < 500) throw new CallFailed(explain(response.status, target))
    if (response.status === 429) refused++
    // At least what it was told, and more each time, so that a crowd thins out.
    await delay(hint(response.headers) + Math.random() * Math.min(4000, 250 * 2 ** requests))
  }
  throw new CallFailed(`${target.baseURL} refused the same call ${maxTries} times: its rate limit is lower than the demo needs`)
}

async function request(messages: Conversation['messages'], { baseURL, apiKey, model, maxTokens }: Target): Promise<Response> {
  try {
    return await fetch(`${baseURL}/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` },
      body: JSON.stringify({ model, messages, max_tokens: maxTokens, stream: true, stream_options: { include_usage: true } })
    })
  } catch (error) {
    const code = (error as { cause?: { code?: unknown } }).cause?.code
    throw new CallFailed(
      `${baseURL} cannot be reached (${typeof code === 'string' ? code : 'network error'}): check OPENAI_BASE_URL and the network`
    )
  }
}

async function read(response: Response, startedAt: number): Promise<Omit<CallResult, 'requests' | 'refused'>> {
  let firstTextMs: number | undefined
  let text = ''
  let tokensIn = 0
  let pending = ''
  const decoder = new TextDecoder()
  for await (const bytes of response.body as ReadableStream<Uint8Array>) {
    const lines = (pending + decoder.decode(bytes, { stream: true })).split('\n')
    pending = lines.pop() as string
    for (const line of lines) {
      if (!line.startsWith('data: {')) continue
      const event = JSON.parse(line.slice(6)) as {
        choices?: { delta?: { content?: string | null } }[]
        usage?: { prompt_tokens: number } | null
        error?: { message: string }
      }
      if (event.error !== undefined) throw new CallFailed(`the stream failed: ${event.error.message}`)
      const piece = event.choices?.[0]?.delta?.content ?? ''
      if (piece !== '') firstTextMs ??= performance.now() - startedAt
      text += piece
      tokensIn = event.usage?.prompt_tokens ?? tokensIn
    }
  }
  const totalMs = performance.now() - startedAt
  return { firstTextMs: firstTextMs ?? totalMs, totalMs, tokensIn, text }
}

function hint(headers: Headers): number {
  const milliseconds = Number(headers.get('retry-after-ms') ?? Number.NaN)
  const seconds = Number(headers.get('retry-after') ?? Number.NaN)
  if (milliseconds >= 0) return milliseconds
  return seconds >= 0 ? seconds * 1000 : 0
}

function explain(status: number, { baseURL, model }: Target): string {
  if (status === 401 || status === 403) return `${baseURL} does not accept the key (${status}): check OPENAI_API_KEY`
  if (status === 404) return `${baseURL} does not know the model ${model} (404): set OPENAI_MODEL to one it has`
  return `${baseURL} refused the call (${status})`
}
