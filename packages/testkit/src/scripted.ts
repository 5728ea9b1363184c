import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { composeAnswer, type ScriptedReply } from './answer.ts'
import { anthropicDialect } from './anthropic-dialect.ts'
import { type Dialect, isObject, type JsonObject, type RateState, Refusal, type ScriptedRequest } from './dialect.ts'
import { closeServer, listen } from './listen.ts'
import { openaiDialect } from './openai-dialect.ts'
import { seedOf } from './random.ts'
import { createRateLimiter, type RateLimit } from './token-bucket.ts'

const maxBodyBytes = 4 * 1024 * 1024
const keptRequests = 100
const models: readonly string[] = ['scripted-large', 'scripted-small']
const dialects: ReadonlyMap<string, Dialect> = new Map([
  ['/v1/chat/completions', openaiDialect],
  ['/v1/messages', anthropicDialect]
])

export interface ScriptedOptions {
  /** @default 0: a free one */
  readonly port?: number | undefined
  /** Pace of every answer; a plain answer comes when its last token would. @default Infinity */
  readonly tokensPerSecond?: number | undefined
  /** Wait before an answer's head, up to a half longer depending on the prompt. @default 0 */
  readonly firstTokenMs?: number | undefined
  /** Accepts so many at once and refills evenly; what is above gets a 429. @default none */
  readonly rateLimit?: RateLimit | undefined
  /** Without exactly this key a request gets a 401. @default any key, or none */
  readonly apiKey?: string | undefined
  /** Scripts an answer; `undefined` leaves it to the server. @default prose of 40 to 120 words about the prompt */
  readonly reply?: ((request: ScriptedRequest) => Reply | Promise<Reply>) | undefined
}

type Reply = string | ScriptedReply | undefined

export interface ScriptedStats {
  /** Seen so far, refused ones included, `GET /stats` not. */
  readonly requests: number
  /** Connections that carried a request. */
  readonly sockets: number
  readonly tokensIn: number
  /** Written so far; an answer whose reader left counts as far as it got. */
  readonly tokensOut: number
  readonly rateLimited: number
  /** Requests that the rate limit let through, and what it counted for them. */
  readonly accepted: number
  readonly acceptedTokens: number
  /** Answers being waited for or written at this moment. */
  readonly openAnswers: number
  readonly maxOpenAnswers: number
}

export interface ScriptedProvider extends AsyncDisposable {
  /** Base URL, ends in `/v1`. */
  readonly url: string
  /** The last 100 accepted requests, oldest first. */
  readonly requests: readonly ScriptedRequest[]
  stats(): ScriptedStats
  /** Breaks open answers off. */
  close(): Promise<void>
}

/**
 * A real HTTP server on 127.0.0.1 that speaks OpenAI's chat completions and Anthropic's messages. The same conversation
 * gets the same text.
 *
 * @throws {TypeError} for a wrong option; what `listen` reports, such as `EADDRINUSE`
 *
 * @example
 * const provider = await startScriptedProvider({ tokensPerSecond: 80, firstTokenMs: 150 })
 * await fetch(`${provider.url}/models`)
 * await provider.close()
 */
export async function startScriptedProvider(options: ScriptedOptions = {}): Promise<ScriptedProvider> {
  checkOptions(options)
  const { port = 0, tokensPerSecond = Number.POSITIVE_INFINITY, firstTokenMs = 0, rateLimit, apiKey, reply } = options
  const takeRate = rateLimit && createRateLimiter(rateLimit)
  const counts = {
    requests: 0,
    sockets: 0,
    tokensIn: 0,
    tokensOut: 0,
    rateLimited: 0,
    accepted: 0,
    acceptedTokens: 0,
    openAnswers: 0,
    maxOpenAnswers: 0
  }
  const sockets = new WeakSet<Socket>()
  const requests: ScriptedRequest[] = []

  async function respond(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (incoming.url ?? '').split('?')[0] ?? ''
    if (incoming.method === 'GET' && path === '/stats') return sendJson(response, 200, { ...counts })
    const number = ++counts.requests
    if (!sockets.has(incoming.socket)) {
      sockets.add(incoming.socket)
      counts.sockets++
    }
    const dialect = dialects.get(path) ?? openaiDialect
    let rate: RateState | undefined
    try {
      const key = dialect.keyOf(incoming.headers)
      if (apiKey !== undefined && key !== apiKey)
        throw new Refusal(401, 'the API key is missing or wrong', null, 'invalid_api_key')
      if (incoming.method === 'GET' && path === '/v1/models') return sendJson(response, 200, listModels())
      if (incoming.method !== 'POST' || !dialects.has(path)) {
        throw new Refusal(404, `there is no ${incoming.method} ${path} here`, null, 'unknown_url')
      }
      const body = parseBody(await readBody(incoming))
      const request = dialect.read(body, incoming.headers)
      if (takeRate !== undefined) {
        // What a script will answer is not known yet: only its request counts.
        const answerTokens = rateLimit?.tokens === undefined || reply ? 0 : composeAnswer(request, {}, number).tokensOut
        rate = takeRate(performance.now(), request.tokensIn + answerTokens)
        if (rate.waitMs > 0) {
          counts.rateLimited++
          throw new Refusal(429, `rate limit reached, try again in ${rate.waitMs}ms`, null, 'rate_limit_exceeded')
        }
        counts.acceptedTokens += request.tokensIn + answerTokens
      }
      counts.accepted++
      requests.push(request)
      if (requests.length > keptRequests) requests.shift()
      if (response.destroyed) return
      await answer({ number, request, response, dialect, headers: dialect.headers(number, rate) })
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      sendJson(response, error.status, dialect.refusal(error), dialect.headers(number, rate))
    }
  }

  /** The answer counts as open until its connection is done with it, whoever ends it. */
  async function answer(exchange: Exchange): Promise<void> {
    const gone = new AbortController()
    counts.openAnswers++
    counts.maxOpenAnswers = Math.max(counts.maxOpenAnswers, counts.openAnswers)
    exchange.response.once('close', () => {
      counts.openAnswers--
      gone.abort()
    })
    const replied = (await reply?.(exchange.request)) ?? {}
    const scripted: ScriptedReply = typeof replied === 'string' ? { text: replied } : replied
    try {
      const jitter = 1 + (seedOf(exchange.request.conversation) % 1000) / 2000
      await pause(scripted.firstTokenMs ?? firstTokenMs * jitter, gone.signal)
      await write(exchange, scripted, gone.signal)
    } catch (error) {
      // The reader has left: there is nobody to answer, and openAnswers went down already.
      if (!gone.signal.aborted) throw error
    }
  }

  async function write(exchange: Exchange, scripted: ScriptedReply, gone: AbortSignal): Promise<void> {
    const { number, request, response, dialect } = exchange
    const { status = 200, body, text = 'scripted failure' } = scripted
    const headers = { ...exchange.headers, ...scripted.headers }
    if (body !== undefined) {
      response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(body)
      return
    }
    if (status >= 400) return sendJson(response, status, dialect.refusal(new Refusal(status, text)), headers)
    const composed = composeAnswer(request, scripted, number)
    const perTokenMs = 1000 / (scripted.tokensPerSecond ?? tokensPerSecond)
    counts.tokensIn += request.tokensIn
    if (!request.stream) {
      await pause(composed.tokensOut * perTokenMs, gone)
      counts.tokensOut += composed.tokensOut
      return sendJson(response, status, dialect.plain(composed), headers)
    }
    response.writeHead(status, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache', ...headers })
    const startedAt = performance.now()
    let tokens = 0
    for (const { bytes, token } of dialect.frames(composed)) {
      if (token) {
        // Each token has its own time counted from the start, so that late timers do not add up.
        await pause(startedAt + tokens++ * perTokenMs - performance.now(), gone)
        counts.tokensOut++
      }
      if (!response.write(bytes)) await once(response, 'drain', { signal: gone })
    }
    response.end()
  }

  const server = createServer((incoming, response) => {
    respond(incoming, response).catch((error: unknown) => {
      // A script that throws is a fault of the test: it must read it, not a hang.
      if (response.headersSent) response.destroy()
      else sendJson(response, 500, { error: { message: String(error), type: 'server_error', param: null, code: null } })
    })
  })
  // Node's 5 s would close the sockets of a pool between two tests.
  server.keepAliveTimeout = 75_000
  const url = `http://127.0.0.1:${await listen(server, port)}/v1`
  const close = (): Promise<void> => closeServer(server)

  return {
    url,
    requests,
    stats: () => ({ ...counts }),
    close,
    [Symbol.asyncDispose]: close
  }
}

/** One accepted request and the way to answer it. */
interface Exchange {
  /** The server's how many-th request it is; part of the answer's id. */
  readonly number: number
  readonly request: ScriptedRequest
  readonly response: ServerResponse
  readonly dialect: Dialect
  readonly headers: Readonly<Record<string, string>>
}

/** Not even a timer of 0 ms when there is nothing to wait for: it would cost each answer a millisecond. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await delay(ms, undefined, { signal })
}

/** Gathers the body; a larger one is answered early and the rest of it thrown away, so that the sender can read why. */
function readBody(incoming: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = []
    let bytes = 0
    incoming.on('data', (part: Buffer) => {
      bytes += part.length
      if (bytes <= maxBodyBytes) parts.push(part)
      else {
        parts.length = 0
        reject(new Refusal(413, `a body may have ${maxBodyBytes} bytes`, null, 'request_too_large'))
      }
    })
    incoming.on('end', () => resolve(Buffer.concat(parts).toString()))
    // Nobody is left to be told; the refusal only ends the wait.
    incoming.on('close', () => reject(new Refusal(400, 'the body was broken off')))
    incoming.on('error', () => reject(new Refusal(400, 'the body was broken off')))
  })
}

function parseBody(text: string): JsonObject {
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch {
    throw new Refusal(400, 'the body is not valid JSON')
  }
  if (!isObject(body)) throw new Refusal(400, 'the body must be a JSON object')
  return body
}

function sendJson(response: ServerResponse, status: number, body: object, headers: Readonly<Record<string, string>> = {}): void {
  if (response.destroyed) return
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
}

function listModels(): object {
  return { object: 'list', data: models.map((id) => ({ id, object: 'model', created: 1_780_000_000, owned_by: 'scripted' })) }
}

function checkOptions({ port, tokensPerSecond, firstTokenMs, rateLimit }: ScriptedOptions): void {
  if (port !== undefined && !(Number.isInteger(port) && port >= 0 && port <= 65_535)) {
    throw new TypeError('port must be a whole number from 0 to 65535')
  }
  if (tokensPerSecond !== undefined && !(tokensPerSecond > 0)) throw new TypeError('tokensPerSecond must be a number above 0')
  if (firstTokenMs !== undefined && !(firstTokenMs >= 0 && firstTokenMs < 2 ** 30)) {
    throw new TypeError('firstTokenMs must be a number of at least 0')
  }
  if (rateLimit === undefined) return
  const { requests, tokens, perMs } = rateLimit
  if ((requests ?? tokens) === undefined || !((requests ?? 1) >= 1 && (tokens ?? 1) >= 1 && perMs > 0)) {
    throw new TypeError('rateLimit must be { requests or tokens: at least 1, perMs: above 0 }')
  }
}
