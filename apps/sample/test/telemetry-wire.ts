import { anthropic } from '@millrace/adapter/anthropic'
import { openai, type WireProvider } from '@millrace/adapter/openai'
import {
  chunk,
  type FaultConnection,
  type FaultRequest,
  type FaultServer,
  namedSse,
  responseHead,
  sse,
  startFaultServer
} from '@millrace/testkit'

/** What the two families of providers say, in pieces to be broken anywhere. */
export interface Wire {
  readonly name: 'openai' | 'anthropic'
  provider(url: string): WireProvider
  /** A whole answer as JSON. */
  json(text?: string, finish?: Finish): string
  /** Of a stream, as events: the start with the first content, more content, and the end. */
  readonly opening: string
  readonly more: string
  closing(finish?: Finish): string
  readonly heartbeat: string
  /** An error as the provider tells it: as an event of a stream, and as the body of a refusal. */
  readonly errorEvent: string
  readonly errorBody: string
}

export type Finish = 'stop' | 'length' | 'content-filter'

const overloaded = { type: 'overloaded_error', message: 'busy' }

const delta = (content: string): object => ({ id: 'c', model: 'm', choices: [{ index: 0, delta: { content } }] })
const openaiFinish = { stop: 'stop', length: 'length', 'content-filter': 'content_filter' } as const
const openaiUsage = { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 }

const openaiWire: Wire = {
  name: 'openai',
  provider: (url) => openai({ apiKey: 'k', baseURL: `${url}/v1`, allowInsecure: true }),
  json: (content = 'All is well', finish = 'stop') =>
    JSON.stringify({
      id: 'c',
      model: 'm',
      choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: openaiFinish[finish] }],
      usage: openaiUsage
    }),
  opening: sse([delta('All')]),
  more: sse([delta(' is')]),
  closing: (finish = 'stop') =>
    sse([
      { id: 'c', model: 'm', choices: [{ index: 0, delta: {}, finish_reason: openaiFinish[finish] }] },
      { choices: [], usage: openaiUsage },
      '[DONE]'
    ]),
  heartbeat: sse([delta('')]),
  errorEvent: sse([{ error: { ...overloaded, code: 503 } }]),
  errorBody: JSON.stringify({ error: overloaded })
}

const block = (text: string): { readonly type: string } =>
  Object.assign({ type: 'content_block_delta' }, { index: 0, delta: { type: 'text_delta', text } })
const anthropicFinish = { stop: 'end_turn', length: 'max_tokens', 'content-filter': 'refusal' } as const
const message = { id: 'msg', type: 'message', role: 'assistant', model: 'm' }
const ofType = (type: string, fields: object = {}): { readonly type: string } => ({ type, ...fields })

const anthropicWire: Wire = {
  name: 'anthropic',
  provider: (url) => anthropic({ apiKey: 'k', baseURL: url, allowInsecure: true }),
  json: (text = 'All is well', finish = 'stop') =>
    JSON.stringify({
      ...message,
      content: [{ type: 'text', text }],
      stop_reason: anthropicFinish[finish],
      usage: { input_tokens: 3, output_tokens: 2 }
    }),
  opening: namedSse([
    ofType('message_start', { message: { ...message, content: [], usage: { input_tokens: 3, output_tokens: 1 } } }),
    ofType('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }),
    block('All')
  ]),
  more: namedSse([block(' is')]),
  closing: (finish = 'stop') =>
    namedSse([
      ofType('content_block_stop', { index: 0 }),
      ofType('message_delta', { delta: { stop_reason: anthropicFinish[finish] }, usage: { output_tokens: 2 } }),
      ofType('message_stop')
    ]),
  heartbeat: namedSse([ofType('ping')]),
  errorEvent: namedSse([ofType('error', { error: overloaded })]),
  errorBody: JSON.stringify({ type: 'error', error: overloaded })
}

export const wires: readonly Wire[] = [openaiWire, anthropicWire]

export const streamHead: string = responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })

/** A response of JSON. */
export function jsonResponse(status: number, body: string, headers: Readonly<Record<string, string | number>> = {}): string {
  const type = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
  return responseHead(status, { ...type, ...headers }) + body
}

/** A whole stream of these events. */
export const wholeStream = (...events: readonly string[]): string => streamHead + events.map(chunk).join('') + chunk('')

export const wantsStream = ({ body }: FaultRequest): boolean => body.includes('"stream":true')

/** The good answer to a request, in the shape it asks for. */
export function good(wire: Wire, request: FaultRequest): string {
  return wantsStream(request) ? wholeStream(wire.opening, wire.more, wire.closing()) : jsonResponse(200, wire.json())
}

/** Answers whatever comes on this connection. */
export async function serveGood(connection: FaultConnection, wire: Wire): Promise<void> {
  for (;;) await connection.write(good(wire, await connection.request()))
}

export interface CountingServer extends FaultServer {
  /** The requests that came whole, in their order. */
  readonly requests: readonly FaultRequest[]
}

/** A fault server that keeps what it was asked. */
export async function startCountingServer(
  script: (connection: FaultConnection) => void | Promise<void>
): Promise<CountingServer> {
  const requests: FaultRequest[] = []
  const server = await startFaultServer((connection) =>
    script({
      ...connection,
      async request() {
        const request = await connection.request()
        requests.push(request)
        return request
      }
    })
  )
  return Object.defineProperty(server, 'requests', { value: requests }) as CountingServer
}
