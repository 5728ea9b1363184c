import { isJsonObject, type Json, type JsonObject } from '@millrace/core'
import { dropIgnored } from './key.ts'
import type { Api } from './wire-answer.ts'
import { isSet, objectsOf } from './wire-verdict.ts'

/** A POST of a JSON object, read. */
export interface WirePost {
  readonly url: URL
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: JsonObject
}

const apis: readonly (readonly [RegExp, Api])[] = [
  [/\/chat\/completions$/, 'chat'],
  [/\/completions$/, 'completions'],
  [/\/responses$/, 'responses'],
  // `/threads/{id}/messages` of the Assistants API adds to a thread: only the one under the version asks a model.
  [/\/v1\/messages$/, 'messages'],
  [/\/embeddings$/, 'embeddings'],
  [/\/rerank$/, 'rerank'],
  [/:(generateContent|streamGenerateContent)$/, 'google'],
  [/:(embedContent|batchEmbedContents)$/, 'google-embeddings']
]

/** Which API a URL asks a model through, if it does. */
export function apiOf(url: string): Api | undefined {
  const end = url.search(/[?#]/)
  let path = end === -1 ? url : url.slice(0, end)
  // Not by a pattern: that would begin again at each slash of a long row.
  while (path.endsWith('/')) path = path.slice(0, -1)
  return apis.find(([pattern]) => pattern.test(path))?.[1]
}

/**
 * Our rule: whether equal requests may have one answer. Not those that go on with, add to or start something at the
 * provider, not those for which it runs tools or searches meanwhile, and not those for several choices: who asks for
 * several wants them to differ.
 *
 * Responses that the provider stores, as it does by default, are cached: an answer never changes behind its id, and
 * `previous_response_id` is part of the key. Whoever deletes stored responses deletes them for all who got the same answer.
 * A chat completion with `store: true` asks for a record of this very call, and is not.
 */
export function isCacheable(api: Api, body: JsonObject): boolean {
  if (severalChoices.some((name) => isAboveOne(body[name]))) return false
  if (isJsonObject(body.generationConfig) && isAboveOne(body.generationConfig.candidateCount)) return false
  if (stateful.some((name) => isSet(body[name]))) return false
  if (api !== 'responses' && body.store === true) return false
  if (!isSet(body.tools)) return true
  return (
    Array.isArray(body.tools) && objectsOf(body.tools).length === body.tools.length && objectsOf(body.tools).every(isRunByCaller)
  )
}

const severalChoices = ['n', 'best_of', 'candidateCount']

/** State at the provider, and searches that it makes by itself. */
const stateful = [
  'background',
  'container',
  'conversation',
  'data_sources',
  'enable_search',
  'mcp_servers',
  'plugins',
  'search_parameters',
  'web_search_options'
]

function isAboveOne(value: Json | undefined): boolean {
  return isSet(value) && value !== 1
}

/** A function that the caller runs after the answer; not a search, an interpreter, a computer or a server used meanwhile. */
function isRunByCaller(tool: JsonObject): boolean {
  if (isSet(tool.type)) return tool.type === 'function' || tool.type === 'custom'
  // Anthropic's tools need no type; Google's are lists under a name of their own.
  return typeof tool.name === 'string' || Object.keys(tool).every((key) => key === 'functionDeclarations')
}

/**
 * Whether a body means the same to every parser: no name twice in an object (some take the first), no number that
 * JavaScript cannot hold, no escape in a name (V8 was seen to read one as another, nodejs/node#63785). Its key would stand
 * for what the provider may not have read.
 */
export function isUnambiguous(text: string, body: JsonObject): boolean {
  let members = 0
  const waiting: Json[] = [body]
  for (let value = waiting.pop(); value !== undefined; value = waiting.pop()) {
    if (typeof value === 'number') {
      if (!Number.isFinite(value) || (Number.isInteger(value) && !Number.isSafeInteger(value))) return false
    } else if (Array.isArray(value)) {
      for (const item of value as readonly Json[]) waiting.push(item)
    } else if (isJsonObject(value)) {
      for (const name of Object.keys(value)) {
        members++
        waiting.push(value[name] as Json)
      }
    }
  }
  return members === membersIn(text)
}

const [quote, colon, backslash] = [34, 58, 92]

/** The colons of a JSON text that stand in no string; NaN when there is an escape in a name. */
function membersIn(text: string): number {
  let members = 0
  let hasEscape = false
  // Looked for from where it was found last: each character is passed once, however many strings there are.
  let escape = escapeFrom(text, 0)
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === colon) {
      if (hasEscape) return Number.NaN
      members++
    } else if (code === quote) {
      if (escape < at) escape = escapeFrom(text, at)
      do at = text.indexOf('"', at + 1)
      while (isEscaped(text, at))
      hasEscape = escape < at
    }
  }
  return members
}

function escapeFrom(text: string, at: number): number {
  const escape = text.indexOf('\\', at)
  return escape === -1 ? text.length : escape
}

function isEscaped(text: string, at: number): boolean {
  let before = at
  while (text.charCodeAt(before - 1) === backslash) before--
  return (at - before) % 2 === 1
}

/** What of a request is keyed, and whose credentials it is sent with. */
export interface Keyed {
  readonly origin: string
  readonly material: Json
  /** All credentials as one text; `''` when there is none. */
  readonly credential: string
  /** Without what may be a credential. */
  readonly url: string
}

/** They shape the bytes of the answer: a stream cannot be made of a plain answer here, nor the other way round. */
const withoutShape = dropIgnored({ stream: 'ignored', stream_options: 'ignored' })

export interface KeyedOptions {
  /** What the URL asks a model through. @default as for every API that streams where `stream` is true */
  readonly api?: Api | undefined
  /** Headers that make no difference. @default [] */
  readonly ignored?: readonly string[] | undefined
}

/**
 * Path, query, body and headers, less what is known to make no difference, and less credentials, which make the scope.
 * `undefined` where it cannot be told whether a stream is asked for. An API that is not known may stream by default: there
 * all of the body counts as it stands.
 */
export function keyedOf({ url, headers, body }: WirePost, { api, ignored = [] }: KeyedOptions = {}): Keyed | undefined {
  const { stream = null, stream_options = null } = body
  if (api !== 'other' && stream !== null && typeof stream !== 'boolean') return undefined
  const credentials: (readonly [string, string])[] = []
  const query: (readonly [string, string])[] = []
  if (url.search !== '') {
    for (const [name, value] of url.searchParams) (isCredentialParameter(name) ? credentials : query).push([name, value])
  }
  if (url.username !== '' || url.password !== '') credentials.push(['', `${url.username}:${url.password}`])
  const kept: [string, string][] = []
  for (const name of Object.keys(headers)) {
    if (ignored.includes(name)) continue
    if (isCredential(name)) credentials.push([name, headers[name] as string])
    else if (name === 'content-type') kept.push([name, plainType(headers[name] as string)])
    else if (!isNoise(name)) kept.push([name, headers[name] as string])
  }
  const asked: Json[] = api === 'other' ? [body, null] : [withoutShape(body), [stream === true ? 'sse' : 'json', stream_options]]
  return {
    origin: url.origin,
    material: [url.pathname, query, kept.toSorted(byName), ...asked],
    credential: credentials.length === 0 ? '' : JSON.stringify(credentials.toSorted(byName)),
    url: url.origin + url.pathname + (query.length === 0 ? '' : `?${new URLSearchParams(query as [string, string][]).toString()}`)
  }
}

/** UTF-8 goes without saying. */
function plainType(contentType: string): string {
  return contentType
    .toLowerCase()
    .split(';')
    .map((part) => part.trim())
    .filter((part) => part !== 'charset=utf-8' && part !== 'charset="utf-8"')
    .join(';')
}

function byName([one]: readonly [string, string], [other]: readonly [string, string]): number {
  return one < other ? -1 : one > other ? 1 : 0
}

const credentialParameter = /^(?:key|api[-_]?key|access[-_]?token|token|sig|signature|code|subscription-key|x-(?:amz|goog)-.*)$/i

function isCredentialParameter(name: string): boolean {
  return credentialParameter.test(name)
}

const credentialHeader =
  /(?:^|[-_])(?:authorization|auth|api[-_]?key|token|secret|password|cookie|subscription-key|credentials?)$/
/** Whom a call is billed to. */
const accounts: ReadonlySet<string> = new Set([
  'anthropic-organization-id',
  'openai-organization',
  'openai-project',
  'x-goog-user-project'
])

/** Whether a header says who somebody is; also one of an answer. */
export function isCredential(name: string): boolean {
  return credentialHeader.test(name) || accounts.has(name)
}

/**
 * Headers that tell of the client, the connection or this one call. All others count: those of gateways choose routes and
 * providers, or say for whom a proxy asks; `accept`, `anthropic-version` and `openai-beta` change answers.
 */
const noise: ReadonlySet<string> = new Set([
  'accept-encoding',
  'anthropic-dangerous-direct-browser-access',
  'b3',
  'baggage',
  'cache-control',
  'connection',
  'content-length',
  'date',
  'dnt',
  'expect',
  'forwarded',
  'host',
  'http-referer',
  'idempotency-key',
  'keep-alive',
  'newrelic',
  'origin',
  'pragma',
  'priority',
  'proxy-connection',
  'referer',
  'request-id',
  'te',
  'traceparent',
  'tracestate',
  'transfer-encoding',
  'uber-trace-id',
  'upgrade',
  'user-agent',
  'via',
  'x-amzn-trace-id',
  'x-app',
  'x-client-request-id',
  'x-cloud-trace-context',
  'x-correlation-id',
  'x-forwarded-for',
  'x-forwarded-port',
  'x-forwarded-proto',
  'x-goog-api-client',
  'x-idempotency-key',
  'x-ms-client-request-id',
  'x-ms-useragent',
  'x-real-ip',
  'x-request-id',
  'x-requested-with',
  'x-title'
])
const noisePrefixes = ['sec-', 'sentry-', 'x-b3-', 'x-datadog-', 'x-millrace-', 'x-stainless-']

function isNoise(name: string): boolean {
  return noise.has(name) || noisePrefixes.some((prefix) => name.startsWith(prefix))
}
