import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises'
import { composeAnswer, type ScriptedReply } from './answer.ts'
import { anthropicDialect, countTokensDialect } from './anthropic-dialect.ts'
import { type Dialect, type RateState, Refusal, type ScriptedRequest } from './dialect.ts'
import { embeddingsDialect } from './embeddings.ts'
import { type AnswerFault, createFaultSwitch, type ScriptedFault } from './fault.ts'
import { closeServer, listen } from './listen.ts'
import { answerModels } from './models.ts'
import { openaiDialect } from './openai-dialect.ts'
import { seedOf } from './random.ts'
import { readBody } from './request-body.ts'
import { responsesDialect } from './responses-dialect.ts'
import { createRateLimiter, type RateLimit } from './token-bucket.ts'

const keptRequests = 100
const dialects: ReadonlyMap<string, Dialect> = new Map([
  ['/v1/chat/completions', openaiDialect],
  ['/v1/responses', responsesDialect],
  ['/v1/embeddings', embeddingsDialect],
  ['/v1/messages', anthropicDialect],
  ['/v1/messages/count_tokens', countTokensDialect]
])

export interface ScriptedOptions {
  /** @default 0: a free one */
  readonly port?: number | undefined
  /** Where it listens; `url` is for this machine all the same. @default '127.0.0.1' */
  readonly host?: string | undefined
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
  /** Seen so far, refused ones included, `/stats` and `/faults` not. */
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
  /**
   * Does to answers that begin from now on what {@link ScriptedFault} tells; over HTTP it is `PUT /faults {"fault": name}`.
   *
   * @throws {TypeError} for a name that is none of a fault
   */
  setFault(name: ScriptedFault): void
  /** Breaks open answers off. */
  close(): Promise<void>
}

/**
 * A real HTTP server on 127.0.0.1 that speaks OpenAI's chat completions, Responses and embeddings, Anthropic's messages and
 * count of tokens, and both lists of models. The same conversation gets the same text.
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
  const { port = 0, host, tokensPerSecond = Number.POSITIVE_INFINITY, firstTokenMs = 0, rateLimit, apiKey, reply } = options
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
  const faults = createFaultSwitch()

  async function respond(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (incoming.url ?? '').split('?')[0] ?? ''
    if (incoming.method === 'GET' && path === '/stats') return sendJson(response, 200, { ...counts })
    if (incoming.method === 'PUT' && path === '/faults') return setFaultOver(incoming, response)
    const number = ++counts.requests
    if (!sockets.has(incoming.socket)) {
      sockets.add(incoming.socket)
      counts.sockets++
    }
    const speaksAnthropic = incoming.headers['anthropic-version'] !== undefined
    const dialect = dialects.get(path) ?? (speaksAnthropic ? anthropicDialect : openaiDialect)
    let rate: RateState | undefined
    try {
      const key = dialect.keyOf(incoming.headers)
      if (apiKey !== undefined && key !== apiKey)
        throw new Refusal(401, 'the API key is missing or wrong', null, 'invalid_api_key')
      if (faults.name === 'rate-limit') {
        rate = { waitMs: 1000 }
        refuseRate(rate)
      }
      const models = incoming.method === 'GET' ? answerModels(path, speaksAnthropic ? 'anthropic' : 'openai') : undefined
      if (models !== undefined) return sendJson(response, 200, models, dialect.headers(number, undefined))
      if (incoming.method !== 'POST' || !dialects.has(path)) {
        throw new Refusal(404, `there is no ${incoming.method} ${path} here`, null, 'unknown_url')
      }
      const request = dialect.read(await readBody(incoming), incoming.headers)
      if (takeRate !== undefined) {
        // What a script will answer is not known yet: only its request counts.
        const answerTokens = rateLimit?.tokens === undefined || reply ? 0 : composeAnswer(request, {}, number).tokensOut
        rate = takeRate(performance.now(), request.tokensIn + answerTokens)
        refuseRate(rate)
        counts.acceptedTokens += request.tokensIn + answerTokens
      }
      counts.accepted++
      requests.push(request)
      if (requests.length > keptRequests) requests.shift()
      if (response.destroyed) return
      await answer({ number, request, response, dialect, headers: dialect.headers(number, rate), fault: faults.next() })
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      sendJson(response, error.status, dialect.refusal(error), dialect.headers(number, rate))
    }
  }

  function refuseRate({ waitMs }: RateState): void {
    if (waitMs === 0) return
    counts.rateLimited++
    throw new Refusal(429, `rate limit reached, try again in ${waitMs}ms`, null, 'rate_limit_exceeded')
  }

  async function setFaultOver(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      faults.set((await readBody(incoming)).fault)
      sendJson(response, 200, { fault: faults.name })
    } catch (error) {
      sendJson(response, 400, { error: { message: (error as Error).message } })
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
    const { pace, reset } = exchange.fault
    const scripted: ScriptedReply = { ...(typeof replied === 'string' ? { text: replied } : replied), ...pace }
    if (reset === 'before-head') return breakOff(exchange.response)
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
    const { number, request, response, dialect, fault } = exchange
    const { status = 200, body, text = 'scripted failure' } = scripted
    const headers = { ...exchange.headers, ...scripted.headers }
    if (body !== undefined) {
      response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(body)
      return
    }
    if (status >= 400) return sendJson(response, status, dialect.refusal(new Refusal(status, text)), headers)
    const composed = composeAnswer(request, scripted, number)
    const perTokenMs = 1000 / (scripted.tokensPerSecond ?? tokensPerSecond)
    const tokensToWrite = fault.reset === 'after-third-token' ? Math.min(3, composed.tokensOut) : composed.tokensOut
    counts.tokensIn += request.tokensIn
    if (!request.stream) {
      await pause(tokensToWrite * perTokenMs, gone)
      counts.tokensOut += tokensToWrite
      if (fault.reset === undefined) return sendJson(response, status, dialect.plain(composed), headers)
      const whole = Buffer.from(JSON.stringify(dialect.plain(composed)))
      response.writeHead(status, { 'content-type': 'application/json', 'content-length': whole.length, ...headers })
      response.write(whole.subarray(0, whole.length / 2))
      return breakOff(response)
    }
    response.writeHead(status, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache', ...headers })
    const startedAt = performance.now()
    let tokens = 0
    for (const { bytes, token } of dialect.frames(composed)) {
      if (fault.reset !== undefined && tokens === tokensToWrite) return breakOff(response)
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
  const url = `http://127.0.0.1:${await listen(server, port, host)}/v1`
  const close = (): Promise<void> => closeServer(server)

  return {
    url,
    requests,
    stats: () => ({ ...counts }),
    setFault: (name) => faults.set(name),
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
  readonly fault: AnswerFault
}

/** Resets the connection under an answer, after what was written of it is on its way. */
async function breakOff(response: ServerResponse): Promise<void> {
  await nextTurn()
  response.socket?.resetAndDestroy()
}

/** Not even a timer of 0 ms when there is nothing to wait for: it would cost each answer a millisecond. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await delay(ms, undefined, { signal })
}

function sendJson(response: ServerResponse, status: number, body: object, headers: Readonly<Record<string, string>> = {}): void {
  if (response.destroyed) return
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
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
