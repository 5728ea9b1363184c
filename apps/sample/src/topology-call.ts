import { parseJson } from '@millrace/core'
import { parseSSE } from '@millrace/streaming'

/** Where to ask, and with what. */
export interface CallTarget {
  readonly url: string
  readonly token: string
  readonly model: string
}

/** A streamed call as its client saw it, once and without another try. */
export interface SeenCall {
  /** 0 where no answer came. */
  readonly status: number
  /** What `x-millrace-cache` says. */
  readonly cache: string | undefined
  /** Of a stream that can be resumed. */
  readonly streamId: string | undefined
  readonly text: string
  /** The id of the last event that was read. */
  readonly lastEventId: string | undefined
  /** The stream said that it is complete. */
  readonly complete: boolean
  /** Why it is not. */
  readonly error: string | undefined
}

export interface CallAs {
  /** @default false */
  readonly resume?: boolean
  /** Leaves after so many events. @default Infinity */
  readonly events?: number
  /** Told when the first event is there. */
  readonly onFirst?: (streamId: string | undefined) => void
}

/** Asks one question by a streamed chat call, and tells what came of it, whatever it is. */
export function ask({ url, token, model }: CallTarget, question: string, as: CallAs = {}): Promise<SeenCall> {
  const body = JSON.stringify({ model, messages: [{ role: 'user', content: question }], stream: true })
  const headers = {
    authorization: `Bearer ${token}`,
    'content-type': 'application/json',
    ...(as.resume === true && { 'x-millrace-resume': 'true' })
  }
  return see(`${url}/v1/chat/completions`, { method: 'POST', headers, body }, as)
}

/** Goes on with a stream behind this event. */
export function resume({ url, token }: CallTarget, streamId: string, lastEventId: string): Promise<SeenCall> {
  const headers = { authorization: `Bearer ${token}`, 'last-event-id': lastEventId }
  return see(`${url}/v1/streams/${streamId}`, { headers }, {})
}

/** Stops a stream, and tells whether there was one. */
export async function cancel({ url, token }: CallTarget, streamId: string): Promise<boolean> {
  const init = { method: 'DELETE', headers: { authorization: `Bearer ${token}` } }
  const response = await fetch(`${url}/v1/streams/${streamId}`, init)
  return ((await response.json()) as { readonly cancelled?: boolean }).cancelled === true
}

async function see(
  address: string,
  init: RequestInit,
  { events = Number.POSITIVE_INFINITY, onFirst }: CallAs
): Promise<SeenCall> {
  const leaving = new AbortController()
  const seen: { -readonly [Key in keyof SeenCall]: SeenCall[Key] } = {
    status: 0,
    cache: undefined,
    streamId: undefined,
    text: '',
    lastEventId: undefined,
    complete: false,
    error: undefined
  }
  let read = 0
  try {
    const response = await fetch(address, { ...init, signal: leaving.signal })
    seen.status = response.status
    seen.cache = response.headers.get('x-millrace-cache') ?? undefined
    seen.streamId = response.headers.get('x-millrace-stream-id') ?? undefined
    if (response.status !== 200 || response.body === null) {
      seen.error = `${response.status}: ${(await response.text()).slice(0, 200)}`
      return seen
    }
    for await (const { id, data } of parseSSE(response.body)) {
      if (read++ === 0) onFirst?.(seen.streamId)
      seen.lastEventId = id ?? seen.lastEventId
      if (data === '[DONE]') seen.complete = true
      const event = parseJson(data) as { choices?: { delta?: { content?: string } }[]; error?: { code?: string } } | undefined
      seen.text += event?.choices?.[0]?.delta?.content ?? ''
      if (event?.error !== undefined) seen.error = String(event.error.code)
      if (read >= events) break
    }
    if (!seen.complete) seen.error ??= 'the stream ended before its end'
  } catch (error) {
    const { cause } = error as { cause?: unknown }
    seen.error = String(cause ?? error)
  } finally {
    leaving.abort()
  }
  return seen
}
