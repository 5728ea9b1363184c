import { checkOptions, isMillraceError, onAbort } from '@millrace/core'
import { createEstimator } from './estimate.ts'
import type { HeldPermit, LimiterParts } from './limiter.ts'
import type { Cost } from './permit.ts'
import { fetchBody, requestIn } from './request-body.ts'
import { WiredCall } from './wire-call.ts'
import { costOf } from './wire-cost.ts'

export type Fetch = typeof globalThis.fetch

export interface LimiterFetchOptions {
  /**
   * Whom and what a call is for; what is left out is told by the request: the host's name as `provider`, the body's model, tokens by
   * its length. A tenant can only come from here. @default all by the request
   */
  readonly cost?: ((url: string, init: RequestInit | undefined) => Cost | undefined) | undefined
}

/**
 * A `fetch` whose calls wait for the limits, for any SDK. Requests and responses pass untouched; a call holds its place until its
 * body has been read to the end, cancelled or aborted, or has failed, and is settled with the usage that stands in the last 16 KiB
 * of it. A body that nobody reads gives its place back when the garbage collector takes the response: cancel what you do not read.
 * What a call takes is told by its body: text, bytes, a blob, a form; a `Request` of text or JSON is read through a clone first. A
 * stream counts by its `content-length`, else only its answer counts. What never reached the provider, or came back with a status
 * from 400 up, takes nothing of a budget.
 *
 * Around the `fetch` of a transport that has `limiter.send` a call counts once: its permit goes along as `init.permit`.
 *
 * The response is a view of the one that came: it is read by its own methods, `Response.prototype.text.call(response)` does not
 * take it.
 *
 * A call that gets no permit fails as every fetch does, with a `TypeError` whose `cause` is our error; the caller's own abort is
 * rethrown as it is.
 *
 * @throws {TypeError} for options that make no sense
 *
 * @example
 * const client = new OpenAI({ fetch: limiter.fetch(globalThis.fetch), maxRetries: 0 })
 */
export function createLimiterFetch(parts: LimiterParts): (fetch: Fetch, options?: LimiterFetchOptions) => Fetch {
  const estimator = createEstimator()
  // The guard is what all faces of one response refer to; it is forgotten with the last of them.
  const abandoned = new FinalizationRegistry<WiredCall>((call) => call.left())

  return (fetch, options = {}) => {
    if (typeof fetch !== 'function') throw new TypeError('limiter.fetch takes a fetch, such as globalThis.fetch')
    checkOptions<LimiterFetchOptions>('limiter.fetch', options, { cost: 1 })
    const { cost: tell } = options
    if (tell !== undefined && typeof tell !== 'function') {
      throw new TypeError("cost must be a function: (url, init) => ({ tenant: 'a', tokens: 1000 })")
    }
    return async (input, init) => {
      const request = requestIn(input)
      const url = request?.url ?? (input as string | URL).toString()
      // `null` lifts the signal of the request, as every fetch has it.
      const signal = (init?.signal === undefined ? request?.signal : init.signal) ?? undefined
      const reading = fetchBody(input, init, signal)
      const body = reading instanceof Promise ? await reading : reading
      const { call, cost } = costOf(parts, estimator, url, body, tell?.(url, init))
      let held: HeldPermit
      try {
        held = await parts.acquire(cost, { signal })
      } catch (error) {
        throw isMillraceError(error) && error !== signal?.reason ? new TypeError('fetch failed', { cause: error }) : error
      }
      const wired = new WiredCall(parts, estimator, held, call)
      try {
        // A transport with `limiter.send` goes by it, in place of waiting for another; any other fetch knows no such member.
        const response = await fetch(input, { ...init, permit: held } as RequestInit)
        wired.hear({ status: response.status, headers: Object.fromEntries(response.headers) })
        if (response.body === null) {
          wired.ended('')
          return response
        }
        wired.off = onAbort(signal, () => wired.left())
        const guard: Guard = { wired }
        abandoned.register(guard, wired)
        return watched(response, guard)
      } catch (error) {
        if (signal?.aborted === true) wired.left()
        else wired.failed(error)
        throw error
      }
    }
  }
}

interface Guard {
  readonly wired: WiredCall
}

const wholeBody: ReadonlySet<PropertyKey> = new Set(['arrayBuffer', 'blob', 'bytes', 'formData', 'json', 'text'])

/** The same response, seen through: its fast ways to read the whole body stay, a web stream is only made for who asks for one. */
function watched(response: Response, guard: Guard): Response {
  let stream: ReadableStream<Uint8Array> | undefined
  return new Proxy(response, {
    get(target, name) {
      if (name === 'body') return target.body === null ? null : (stream ??= watchedStream(target, guard))
      if (name === 'clone') return () => watched(target.clone(), guard)
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function' || name === 'constructor') return value
      return wholeBody.has(name) ? () => whole(target, name as 'text', guard) : value.bind(target)
    }
  })
}

async function whole(
  response: Response,
  name: 'arrayBuffer' | 'blob' | 'bytes' | 'formData' | 'json' | 'text',
  guard: Guard
): Promise<unknown> {
  try {
    // JSON is parsed here, so that its text is at hand; what it throws is the same.
    const value: unknown = name === 'json' ? await response.text() : await response[name]()
    if (typeof value === 'string') guard.wired.ended(value)
    else if (value instanceof Uint8Array || value instanceof ArrayBuffer) {
      guard.wired.tail.push(value instanceof ArrayBuffer ? new Uint8Array(value) : value)
      guard.wired.ended()
    } else guard.wired.left()
    return name === 'json' ? JSON.parse(value as string) : value
  } catch (error) {
    guard.wired.failed(error)
    throw error
  }
}

/** Reads on only when it is read: nothing is held here, and who only looks at `body` may still call `text()`. */
function watchedStream(response: Response, guard: Guard): ReadableStream<Uint8Array> {
  let reader: ReadableStreamDefaultReader<Uint8Array> | undefined
  return new ReadableStream(
    {
      type: 'bytes',
      async pull(controller) {
        try {
          // Asked for late: a clone that was made meanwhile has replaced it.
          reader ??= (response.body as ReadableStream<Uint8Array>).getReader()
          for (;;) {
            const { done, value } = await reader.read()
            if (done) {
              guard.wired.ended()
              controller.close()
              // A reader that brought its own memory waits for it back.
              controller.byobRequest?.respond(0)
              return
            }
            if (value.byteLength === 0) continue
            guard.wired.tail.push(value)
            // A stream of bytes takes the memory of what it is given, and with it what else lies there.
            const isAlone = value.byteLength === value.buffer.byteLength
            controller.enqueue(isAlone ? value : new Uint8Array(value))
            return
          }
        } catch (error) {
          guard.wired.failed(error)
          throw error
        }
      },
      async cancel(reason) {
        guard.wired.left()
        await (reader ?? response.body)?.cancel(reason)
      }
    },
    { highWaterMark: 0 }
  )
}
