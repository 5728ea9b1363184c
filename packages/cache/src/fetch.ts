import { ask } from './asking.ts'
import type { CacheInner } from './cache.ts'
import { apiOf, isCacheable, isUnambiguous, keyedOf } from './fetch-key.ts'
import {
  checkFetchOptions,
  type Fetch,
  type FetchCall,
  type FetchOptions,
  type FetchPost,
  readCall,
  readPost,
  totalHeader,
  WrongHeader
} from './fetch-request.ts'
import { keptResponse, marked, refusal, runningResponse, watchAbandoned } from './fetch-response.ts'
import { createFailures, openUpstream } from './fetch-upstream.ts'
import { httpKeyOf } from './key.ts'
import { isOutage } from './outage.ts'
import { type Door, once, type Question, type Reply } from './question.ts'
import { type Api, type HttpAnswer, judge } from './wire-answer.ts'
import { decodeItem, encodeItem, type HttpItem, isFailure, isHead, isTail, itemsOf, weighItem, worthOf } from './wire-item.ts'

export type { FetchCallOptions, FetchOptions } from './fetch-request.ts'

/**
 * A `fetch` that answers equal requests to a model from the cache: for any SDK, for chat and legacy completions, Responses,
 * Messages, embeddings, rerank, and Google's. Everything else goes through untouched, and so does a request with state or
 * tools at the provider, or for several choices; see `CacheOptions.eligible`.
 *
 * Every answer says in `x-millrace-cache` what happened (`hit`, `stale`, `joined`, `miss`, `bypass`), a kept one its `age`
 * in seconds. What the first asker gets are the upstream's bytes, unchanged. Of the headers only `content-type`,
 * `content-language` and `openai-version` are kept: the others tell of one call. A stream and a plain answer are kept apart.
 *
 * Credentials (of headers and query) make the scope unless the cache has one of its own. Where callers with different ones
 * share, a failure or refusal of one is not told to the others.
 *
 * @throws {TypeError} for a wrong option; at a call for wrong `x-millrace-cache` headers, and what `next` throws
 *
 * @example
 * const client = new OpenAI({ fetch: cache.fetch(transport.fetch) })
 */
export function createCachedFetch(self: CacheInner, next: Fetch, options: FetchOptions = {}): Fetch {
  if (typeof next !== 'function')
    throw new TypeError('cache.fetch takes a fetch: cache.fetch(transport.fetch), or globalThis.fetch')
  checkFetchOptions(options)
  const abandoned = watchAbandoned()
  const failures = createFailures()

  return async (input, init) => {
    let call: FetchCall
    try {
      call = readCall(input, init, options.options)
    } catch (error) {
      if (error instanceof WrongHeader) return refusal(error.message)
      throw error
    }
    const { signal, asked, url } = call
    signal?.throwIfAborted()
    const passBy = async (reason: string): Promise<Response> => marked(await next(...call.passed), 'bypass', reason)
    const place = await placeOf(self, call, options.ignoreHeaders)
    if (typeof place === 'string') {
      self.announce('bypass', { callId: asked.callId, elapsedMs: 0 })
      return passBy(place)
    }

    const { by } = place
    function asGiven(error: unknown, phase: 'headers' | 'body'): unknown {
      return signal?.aborted === true && error === signal.reason ? error : failures.asGiven(error, phase)
    }
    let own: Headers | undefined
    const start: Question<HttpItem>['start'] = (upstream, background) =>
      openUpstream({
        send: () => next(call.target, initOf(call, place.post, upstream, background)),
        judge: (contentType, bytes) => judge({ api: place.api, request: place.post.body, contentType, bytes }),
        maxBytes: self.settings.maxEntryBytes,
        by,
        onHead(headers) {
          own = headers
        },
        failures
      })
    let reply: Reply<HttpItem>
    let batch: readonly HttpItem[] | undefined
    try {
      reply = await ask(self, questionOf(self, call, place, start), {})
      if ('items' in reply) batch = await reply.items.nextBatch()
    } catch (error) {
      throw asGiven(error, 'headers')
    }

    if ('value' in reply) {
      const answer = reply.value as HttpAnswer
      if (answer.usage !== undefined) self.saved(answer.usage, answer.model ?? '')
      return keptResponse(answer, { state: reply.state, ageMs: reply.ageMs, url, signal })
    }
    const running = reply
    const { items, state } = running
    const [head, ...first] = batch ?? []
    if (!isHead(head)) throw new TypeError('fetch failed', { cause: new Error('an answer without a head') })
    if (head.status >= 400 && head.by !== by) {
      await items.return?.()
      return passBy('other-credential')
    }
    return runningResponse(
      {
        state,
        url,
        status: head.status,
        // The first asker has the whole head, what is its alone included.
        headers: state === 'miss' && own !== undefined ? own : new Headers(head.headers as [string, string][]),
        first,
        items,
        onTail({ usage, model = '' }) {
          if (usage !== undefined && !running.pays()) self.saved(usage, model)
        },
        asGiven: (error) => asGiven(error, 'body')
      },
      abandoned
    )
  }
}

/** A call that the cache is asked about, and where its answer lies. */
interface Place {
  readonly api: Api
  readonly post: FetchPost
  readonly key: string
  readonly scope: string
  /** A digest of the credential. */
  readonly by: string
}

/**
 * `path`: no model is asked there. `body`: no JSON object, or one that parsers may read differently. `not-eligible`: several
 * choices, or state or tools at the provider.
 */
type Bypass = 'asked' | 'closed' | 'path' | 'body' | 'not-eligible' | 'no-key'

/** Or why the call passes by. */
async function placeOf(self: CacheInner, call: FetchCall, ignored: readonly string[] | undefined): Promise<Place | Bypass> {
  const { settings, closing } = self
  const { asked, signal } = call
  if (closing.aborted) return 'closed'
  if (asked.bypass === true) return 'asked'
  const api = apiOf(call.url)
  if (api === undefined && settings.eligible === undefined) return 'path'
  const post = await readPost(call)
  if (post === undefined || !isUnambiguous(post.text, post.body)) return 'body'
  const keyed = keyedOf(post, { api: api ?? 'other', ignored })
  if (keyed === undefined) return 'body'
  const { origin, material, credential, url } = keyed
  const { tenant, callId: _, ...cache } = asked
  try {
    if (!(self.isEligible({ url, body: post.body }) ?? (api !== undefined && isCacheable(api, post.body)))) return 'not-eligible'
    const scope = self.scopeOf({ signal, tenant, cache }, credential)
    const key = httpKeyOf(material, { origin, scope, tenant, secret: settings.secret })
    return { api: api ?? 'other', post, key, scope, by: self.byOf(scope, credential) }
  } catch {
    return 'no-key'
  }
}

const http: Door<HttpItem> = {
  kind: 'http',
  worth: (run, _error, pace) => (run === undefined ? undefined : worthOf(run, pace)),
  itemsOf,
  weigh: weighItem,
  freeze: Object.freeze,
  isLast: isTail,
  isContent: (item) => !isHead(item) || item.status !== 200,
  isFailure,
  isOutage,
  encode: encodeItem,
  decode: decodeItem
}

function questionOf(self: CacheInner, call: FetchCall, place: Place, start: Question<HttpItem>['start']): Question<HttpItem> {
  const { asked, signal, totalMs } = call
  return {
    door: http,
    key: place.key,
    by: () => place.by,
    whole: place.post.body.stream !== true,
    groups: once(() => self.groupsOf(place.scope, asked.tenant, asked.tags)),
    asked,
    callId: asked.callId,
    signal,
    timeouts: totalMs === undefined ? undefined : { totalMs },
    start
  }
}

/**
 * The upstream call belongs to all its askers: each keeps its own signal and total deadline. The rest is the first asker's.
 * A refresh in the background is nobody's call.
 */
function initOf(
  { passed, headers: asked, totalMs }: FetchCall,
  post: FetchPost,
  signal: AbortSignal,
  background: boolean
): RequestInit {
  const [, init] = passed
  const headers: Record<string, string> = { ...asked }
  if (totalMs !== undefined) headers[totalHeader] = 'Infinity'
  if (background) for (const name of ['idempotency-key', 'traceparent', 'tracestate']) delete headers[name]
  return { ...init, method: 'POST', headers, body: post.sent, signal }
}
