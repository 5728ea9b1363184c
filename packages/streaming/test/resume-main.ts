// A replica for resume.test.ts: a server with streams over a Redis log, in a process of its own. Its argument is a JSON
// `Replica`; it reports where it listens, and its stats when asked.
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Chunk, isMillraceError, parseSSE } from '@millrace/core'
import { openaiEvents } from '../src/openai-events.ts'
import { createRedisLog } from '../src/redis.ts'
import { createStreams, type StreamsOptions } from '../src/streams.ts'
import { writeSSE } from '../src/write-sse.ts'
import { connect } from './redis-connection.ts'

export interface Replica {
  readonly redisUrl: string
  /** Of OpenAI's API. */
  readonly providerUrl: string
  readonly ttlMs?: number
  readonly patienceMs?: number
  readonly commandTimeoutMs?: number
  readonly options?: Omit<StreamsOptions, 'log' | 'format'>
}

/** Chunks of a real answer over HTTP, without a client library: the streams are what is tested. */
async function* ask(url: string, prompt: string, signal: AbortSignal): AsyncGenerator<Chunk, void, undefined> {
  const body = JSON.stringify({ model: 'scripted-large', stream: true, messages: [{ role: 'user', content: prompt }] })
  const response = await fetch(`${url}/chat/completions`, {
    method: 'POST',
    body,
    signal,
    headers: { 'content-type': 'application/json' }
  })
  yield { type: 'start', provider: 'scripted', model: 'scripted-large' }
  for await (const { data } of parseSSE(response.body as ReadableStream<Uint8Array>)) {
    if (data === '[DONE]') return
    const { choices } = JSON.parse(data) as { choices: { delta: { content?: string }; finish_reason: string | null }[] }
    const text = choices[0]?.delta.content
    if (text) yield { type: 'text', text }
    if (choices[0]?.finish_reason === 'stop') yield { type: 'finish', reason: 'stop' }
  }
}

async function run({ redisUrl, providerUrl, ttlMs, patienceMs, commandTimeoutMs = 250, options }: Replica): Promise<void> {
  const redis = await connect(redisUrl, commandTimeoutMs)
  const log = createRedisLog({
    command: redis.command,
    ...(ttlMs === undefined ? {} : { ttlMs }),
    ...(patienceMs === undefined ? {} : { patienceMs })
  })
  const format = openaiEvents()
  const streams = createStreams({ log, format, ...options })

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://replica')
    try {
      if (url.pathname === '/start') {
        const prompt = url.searchParams.get('prompt') ?? ''
        const { id, events } = streams.start((signal) => ask(providerUrl, prompt, signal))
        await writeSSE(events, response, { format, headers: { 'x-stream-id': id } })
      } else if (url.pathname === '/resume') {
        await writeSSE(await streams.resume(String(request.headers['last-event-id'])), response, { format })
      } else if (url.pathname === '/cancel') {
        response.end(JSON.stringify(await streams.cancel(url.searchParams.get('id') ?? '')))
      } else response.end(JSON.stringify({ ...streams.stats(), log: log.stats() }))
    } catch (error) {
      const status = isMillraceError(error, 'invalid-request') ? 404 : 503
      if (response.headersSent) response.destroy()
      else response.writeHead(status).end(isMillraceError(error) ? error.code : 'error')
    }
  }

  const server = createServer((request, response) => void respond(request, response))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  process.send?.({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` })
  process.on('message', async (message) => {
    if (message !== 'close') return
    server.close()
    await streams.close({ graceMs: 200 })
    await log.close()
    await redis.close()
    server.closeAllConnections()
    process.disconnect?.()
  })
}

if (process.argv[1] === import.meta.filename) await run(JSON.parse(process.argv[2] ?? '') as Replica)
