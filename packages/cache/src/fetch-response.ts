import { STATUS_CODES } from 'node:http'
import { type CacheLookup, linkAbort, sleep } from '@millrace/core'
import type { Items } from './question.ts'
import type { HttpAnswer } from './wire-answer.ts'
import { bytesOf, type HttpItem, type HttpTail, isTail } from './wire-item.ts'

type State = CacheLookup['state']

/** Says on a response how the cache came by it. It stays what it is: nothing of it is read or copied but its headers. */
export function marked(response: Response, state: State, reason?: string): Response {
  const headers = new Headers(response.headers)
  headers.set(stateHeader, state)
  if (reason !== undefined) headers.set('x-millrace-cache-reason', reason)
  return Object.defineProperty(response, 'headers', { value: headers, enumerable: true, configurable: true })
}

const stateHeader = 'x-millrace-cache'

export interface KeptOptions {
  readonly state: 'hit' | 'stale'
  readonly ageMs: number
  readonly url: string
  readonly signal: AbortSignal | undefined
}

/** A response of what was kept: all at once, or as it came where its times were kept. */
export function keptResponse(answer: HttpAnswer, { state, ageMs, url, signal }: KeptOptions): Response {
  const { status, headers: pairs, body, cuts, atMs } = answer
  const headers = new Headers(pairs as [string, string][])
  headers.set(stateHeader, state)
  headers.set('age', String(Math.floor(ageMs / 1000)))
  return responseOf(cuts && atMs ? pacedStream({ body, cuts, atMs }, signal) : body, status, headers, url)
}

function responseOf(body: ReadableStream | string | null, status: number, headers: Headers, url: string): Response {
  const response = new Response(body, { status, statusText: STATUS_CODES[status] ?? '', headers })
  // Else it is empty, and some log it.
  return Object.defineProperty(response, 'url', { value: url, enumerable: true, configurable: true })
}

type Paced = Required<Pick<HttpAnswer, 'body' | 'cuts' | 'atMs'>>

/** Nothing waits while nobody reads; who reads late gets all that is due. */
function pacedStream({ body, cuts, atMs }: Paced, signal: AbortSignal | undefined): ReadableStream<Uint8Array> {
  const startedAt = performance.now()
  const encoder = new TextEncoder()
  let at = 0
  let end: ((reason: unknown) => void) | undefined
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const linked = linkAbort(signal)
        end = (reason) => linked.abort(reason)
        try {
          await sleep((atMs[at] ?? 0) - (performance.now() - startedAt), linked.signal)
        } finally {
          linked[Symbol.dispose]()
        }
        const from = at === 0 ? 0 : (cuts[at - 1] as number)
        const elapsed = performance.now() - startedAt
        do at++
        while (at < cuts.length && (atMs[at] as number) <= elapsed)
        const isLast = at >= cuts.length
        controller.enqueue(encoder.encode(body.slice(from, isLast ? undefined : cuts[at - 1])))
        if (isLast) controller.close()
      },
      cancel: (reason) => end?.(reason)
    },
    { highWaterMark: 0 }
  )
}

export interface RunningOptions {
  readonly state: State
  readonly url: string
  readonly status: number
  readonly headers: Headers
  /** Read already, behind the head. */
  readonly first: readonly HttpItem[]
  readonly items: Items<HttpItem>
  readonly onTail: (tail: HttpTail) => void
  readonly asGiven: (error: unknown) => unknown
}

/** Bodies whose response nobody holds any more, and which are therefore never read. One for each `fetch`. */
export type Abandoned = FinalizationRegistry<Items<HttpItem>>

/** An asker that is gone without a word would keep the call for ever. */
export function watchAbandoned(): Abandoned {
  return new FinalizationRegistry((items) => void items.return?.())
}

/** A response of a call under way. Nothing is read ahead; leaving its body leaves the call. */
export function runningResponse(options: RunningOptions, abandoned: Abandoned): Response {
  const { state, url, status, headers: given, items } = options
  const headers = new Headers(given)
  headers.set(stateHeader, state)
  if (nullBodyStatuses.has(status)) {
    void items.return?.()
    return responseOf(null, status, headers, url)
  }
  const stream = streamOf(options, () => abandoned.unregister(items))
  abandoned.register(stream, items, items)
  return responseOf(stream, status, headers, url)
}

/** Fetch standard, section 2.2.3. */
const nullBodyStatuses: ReadonlySet<number> = new Set([204, 205, 304])

function streamOf({ first, items, onTail, asGiven }: RunningOptions, onEnd: () => void): ReadableStream<Uint8Array> {
  let waiting: readonly HttpItem[] | undefined = first
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          // A pull that brings nothing is not followed by another one.
          for (let isEmpty = true; isEmpty; ) {
            const batch: readonly HttpItem[] | undefined = waiting ?? (await items.nextBatch())
            waiting = undefined
            for (const item of batch ?? []) {
              if (isTail(item)) onTail(item)
              else if (typeof item === 'string') {
                controller.enqueue(bytesOf(item))
                isEmpty = false
              }
            }
            if (batch !== undefined && !items.ended) continue
            onEnd()
            return controller.close()
          }
        } catch (error) {
          onEnd()
          throw asGiven(error)
        }
      },
      async cancel() {
        onEnd()
        await items.return?.()
      }
    },
    { highWaterMark: 0 }
  )
}

/** What a wrong header is answered with, in the form that clients of OpenAI and Anthropic read. */
export function refusal(message: string): Response {
  const body = JSON.stringify({ type: 'error', error: { type: 'invalid_request_error', message, code: 'x-millrace-cache' } })
  return new Response(body, {
    status: 400,
    headers: { 'content-type': 'application/json', [stateHeader]: 'bypass', 'x-should-retry': 'false' }
  })
}
