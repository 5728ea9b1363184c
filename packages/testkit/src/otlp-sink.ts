import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import { closeServer, listen } from './listen.ts'
import { answer, checkBehaviour, type OtlpBehaviour, takes } from './otlp-behaviour.ts'
import type { OtlpMetric, OtlpSpan } from './otlp-data.ts'
import { type Cargo, Malformed, noCargo, readBody, readCargo, searchableText, unpack } from './otlp-request.ts'
import { createSpanIds } from './otlp-span-ids.ts'

export interface OtlpSinkOptions {
  /** @default 'take' */
  readonly behaviour?: OtlpBehaviour | undefined
  /** @default 0: a free one */
  readonly port?: number | undefined
  /** Of headers and unpacked bodies kept; above it the oldest requests are dropped with what they carried. @default 64 MiB */
  readonly maxBytes?: number | undefined
}

export interface OtlpRequest {
  /** `/v1/traces`, `/v1/metrics` or `/v1/logs`; of a malformed one whatever it asked for. */
  readonly path: string
  readonly headers: IncomingHttpHeaders
  /** Of the unpacked body. */
  readonly bytes: number
  /** Of the body as it came. */
  readonly wireBytes: number
  /** True when what it carried is in `spans`, `metrics` or `logs`. */
  readonly taken: boolean
}

export interface OtlpSink extends AsyncDisposable {
  /** `http://127.0.0.1:PORT`, as `OTEL_EXPORTER_OTLP_ENDPOINT` takes it; an exporter's own `url` needs `/v1/traces` behind it. */
  readonly url: string
  /** Those that came whole, oldest first, taken or not. */
  readonly requests: readonly OtlpRequest[]
  /** In the order they came. */
  readonly spans: readonly OtlpSpan[]
  /** By name, as it came last. */
  readonly metrics: ReadonlyMap<string, OtlpMetric>
  /** How many records of logs came; they are not read. */
  readonly logs: number
  /** Requests dropped because of `maxBytes`. */
  readonly dropped: number
  /**
   * Everything that came, taken or not, for a search: headers, and bodies as latin1 (every byte), as UTF-8, and, of JSON,
   * names and texts without their escapes.
   *
   * @throws {Error} when requests were dropped, for the search would be over a part
   */
  text(): string
  /**
   * What it does from now on. Requests that stall go on stalling.
   *
   * @throws {TypeError} for a wrong behaviour
   * @throws {Error} `EADDRINUSE` when somebody else has taken the port of a sink that refused
   */
  behave(behaviour: OtlpBehaviour): Promise<void>
  /**
   * Waits until the predicate holds: it is asked now and after each request, for 5000 ms unless told.
   *
   * @throws {Error} with what has come, when it took too long or the sink was closed; what the predicate threw
   */
  waitFor(predicate: (sink: OtlpSink) => boolean, withinMs?: number): Promise<void>
  /**
   * Breaks open connections off. Safe to call twice.
   *
   * @throws {Error} about the first malformed request
   */
  close(): Promise<void>
}

/** Dropped together. */
interface Kept {
  readonly request: OtlpRequest
  readonly head: string
  readonly body: Buffer
  readonly cargo: Cargo
}

/**
 * A real OTLP/HTTP collector on loopback that keeps what it takes: protobuf or JSON, packed with gzip or not. What no exporter
 * should send gets a 4xx, and `close()` throws it: another path, a malformed body, a span or metric that cannot be (it ends
 * before it starts, its buckets do not add up), a span that was taken before. One that was refused, stalled or reset may come
 * again; one whose answer was only late may not.
 *
 * @throws {TypeError} for a wrong option; what `listen` reports, such as `EADDRINUSE`
 *
 * @example
 * const sink = await startOtlpSink()
 * const exporter = new OTLPTraceExporter({ url: `${sink.url}/v1/traces` })
 * await sink.waitFor(({ spans }) => spans.length === 1)
 * await sink.close()
 */
export async function startOtlpSink(options: OtlpSinkOptions = {}): Promise<OtlpSink> {
  const { maxBytes = 64 * 1024 * 1024 } = options
  let { behaviour = 'take' } = options
  checkBehaviour(behaviour)
  if (!(Number.isInteger(maxBytes) && maxBytes > 0)) throw new TypeError('maxBytes must be a whole number above 0')
  const kept: Kept[] = []
  const spanIds = createSpanIds()
  const waiting = new Set<() => void>()
  let keptBytes = 0
  let dropped = 0
  let failure: Error | undefined
  let closed = false

  const server = createServer((incoming, response) => {
    receive(incoming, response).catch((error: Error) => {
      failure ??= error
      response.destroy()
    })
  })
  const port = await listen(server, options.port)
  if (behaviour === 'refuse') await closeServer(server)

  async function receive(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method, url: path = '', headers } = incoming
    const contentType = (headers['content-type'] ?? '').replace(/;.*/, '')
    let wireBytes = 0
    let body: Buffer = Buffer.alloc(0)
    try {
      const wire = await readBody(incoming, maxBytes)
      if (wire === undefined) return
      wireBytes = wire.length
      // As it came, should it not unpack.
      body = wire
      body = await unpack(wire, headers['content-encoding'] ?? 'identity', maxBytes)
      const cargo = readCargo(incoming, contentType, body)
      const ids = spanIds.check(cargo.spans)
      const taken = takes(behaviour)
      if (taken) spanIds.take(ids)
      keep({ path, headers, bytes: body.length, wireBytes, taken }, body, taken ? cargo : noCargo)
    } catch (error) {
      if (!(error instanceof Malformed)) throw error
      failure ??= new Error(`${method} ${path}: ${error.message}`, { cause: error })
      keep({ path, headers, bytes: body.length, wireBytes, taken: false }, body, noCargo)
      response.writeHead(error.status).end(error.message)
      return
    }
    await answer(behaviour, contentType, response)
  }

  function keep(request: OtlpRequest, body: Buffer, cargo: Cargo): void {
    const head = JSON.stringify(request.headers)
    kept.push({ request, head, body, cargo })
    keptBytes += sizeOf(head, body)
    while (keptBytes > maxBytes) {
      const oldest = kept.shift() as Kept
      keptBytes -= sizeOf(oldest.head, oldest.body)
      dropped++
    }
    for (const ask of waiting) ask()
  }

  function inventory(): string {
    const names = [...new Set(sink.spans.map(({ name }) => name)), ...sink.metrics.keys()].slice(0, 20)
    const came = `${kept.length} requests, ${sink.spans.length} spans, ${sink.metrics.size} metrics, ${sink.logs} logs came`
    return `${came} (${names.join(', ')})${failure === undefined ? '' : `; malformed: ${failure.message}`}`
  }

  async function close(): Promise<void> {
    closed = true
    for (const ask of waiting) ask()
    await closeServer(server)
    if (failure !== undefined) throw failure
  }

  const sink: OtlpSink = {
    url: `http://127.0.0.1:${port}`,
    get requests() {
      return kept.map(({ request }) => request)
    },
    get spans() {
      return kept.flatMap(({ cargo }) => cargo.spans)
    },
    get metrics() {
      return new Map(kept.flatMap(({ cargo }) => cargo.metrics.map((metric) => [metric.name, metric])))
    },
    get logs() {
      return kept.reduce((sum, { cargo }) => sum + cargo.logs, 0)
    },
    get dropped() {
      return dropped
    },
    text() {
      if (dropped > 0) throw new Error(`${dropped} requests were dropped: give the sink more maxBytes`)
      return kept.map(({ request, head, body }) => `${request.path}\n${head}\n${searchableText(body)}`).join('\n')
    },
    async behave(next) {
      checkBehaviour(next)
      behaviour = next
      if (next === 'refuse') await closeServer(server)
      else if (!server.listening && !closed) await listen(server, port)
    },
    async waitFor(predicate, withinMs = 5000) {
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      const ask = (): void => {
        try {
          if (predicate(sink)) resolve()
          else if (closed) reject(new Error(`the sink was closed; ${inventory()}`))
        } catch (error) {
          reject(error)
        }
      }
      const timer = setTimeout(() => reject(new Error(`not within ${withinMs} ms; ${inventory()}`)), withinMs)
      waiting.add(ask)
      ask()
      try {
        await promise
      } finally {
        clearTimeout(timer)
        waiting.delete(ask)
      }
    },
    close,
    [Symbol.asyncDispose]: close
  }
  return sink
}

function sizeOf(head: string, body: Buffer): number {
  return head.length + body.length
}
