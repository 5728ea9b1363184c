import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { setImmediate as tick } from 'node:timers/promises'
import { closeServer, listen } from './listen.ts'
import { seededRandom } from './random.ts'

/** One HTTP exchange with a real provider, ready to be served again. */
export interface Recording {
  readonly id: string
  readonly provider: string
  readonly api: string
  readonly model: string
  readonly stream: boolean
  /** What is special about it, such as `reasoning` or `done_sentinel`. */
  readonly features: readonly string[]
  /** As the index counts it; `undefined` when the exchange has none. */
  readonly usage: RecordedUsage | undefined
  /** 200 when the recorder kept none. */
  readonly status: number
  /** Without those that described the recorded transfer; a content type is added where the recorder kept no headers. */
  readonly headers: Readonly<Record<string, string | readonly string[]>>
  readonly body: Buffer
  /** What the official SDK makes of these bytes; `undefined` for the streams nobody asked it about. */
  readonly oracle: Readonly<Record<string, unknown>> | undefined
  /** As it was sent; `undefined` when the recorder kept the answer only. */
  readonly request: RecordedRequest | undefined
}

export interface RecordedUsage {
  readonly input?: number
  readonly output?: number
  readonly cached?: number
  readonly reasoning?: number
}

export interface RecordedRequest {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string | readonly string[]>>
  /** The parsed body, or its text where it is not JSON. */
  readonly body: unknown
}

interface IndexLine extends Pick<Recording, 'id' | 'provider' | 'api' | 'model' | 'stream' | 'features'> {
  readonly file: string
  readonly fidelity: string
  readonly usage: RecordedUsage | null
}

interface RecordingFile {
  readonly request: RecordedRequest | null
  readonly response: {
    readonly status: number | null
    readonly headers: Recording['headers']
    readonly bodyEncoding: BufferEncoding
    readonly body: string
  }
}

const folder = new URL('../../../../shared/real/recordings/', import.meta.url)
const transferHeaders: ReadonlySet<string> = new Set(['content-length', 'transfer-encoding', 'content-encoding'])

/**
 * Reads the recorded traffic that lies beside the checkout, or gives `undefined` where it does not.
 *
 * @example
 * const recordings = loadRecordings({ api: 'openai.chat' })
 * test.skipIf(recordings === undefined)('reads every recording', () => {})
 */
export function loadRecordings({ api }: { readonly api: string }): readonly Recording[] | undefined {
  if (!existsSync(folder)) return undefined
  const oracles = new Map((readLines('_oracle/official-sdk.jsonl') as { readonly id: string }[]).map((line) => [line.id, line]))
  return (readLines('index.jsonl') as IndexLine[])
    .filter((line) => line.api === api)
    .map((line) => readRecording(line, oracles.get(line.id) as Recording['oracle']))
}

function readRecording({ file, fidelity, usage, ...facts }: IndexLine, oracle: Recording['oracle']): Recording {
  const { request, response } = JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as RecordingFile
  const headers = Object.entries(response.headers).filter(([name]) => !transferHeaders.has(name.toLowerCase()))
  if (headers.length === 0) headers.push(['content-type', facts.stream ? 'text/event-stream' : 'application/json'])
  return {
    id: facts.id,
    provider: facts.provider,
    api: facts.api,
    model: facts.model,
    stream: facts.stream,
    features: facts.features,
    usage: usage ?? undefined,
    status: response.status ?? 200,
    headers: Object.fromEntries(headers),
    body:
      fidelity === 'event-payload-lines'
        ? Buffer.from(frameLines(response.body, facts.api))
        : Buffer.from(response.body, response.bodyEncoding),
    oracle,
    request: request ?? undefined
  }
}

/** The recorder kept one payload a line: these become events again, for Anthropic named by their type. */
function frameLines(payloads: string, api: string): string {
  const lines = payloads.split('\n').filter((line) => line.trim() !== '')
  if (!api.startsWith('anthropic.')) return lines.map((line) => `data: ${line}\n\n`).join('')
  return lines.map((line) => `event: ${(JSON.parse(line) as { type: string }).type}\ndata: ${line}\n\n`).join('')
}

function readLines(file: string): readonly unknown[] {
  return readFileSync(new URL(file, folder), 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as unknown)
}

export interface ServedRecording extends AsyncDisposable {
  /** Base URL, ends in `/v1`; every path below it gets the recording. */
  readonly url: string
  close(): Promise<void>
}

/**
 * A real server that answers every request with the recording's bytes, cut at random places: the same ones for the same
 * seed. Each cut is written in a turn of its own, so most arrive apart.
 *
 * @example
 * const served = await serveRecording(recording, { seed: 42 })
 * await fetch(`${served.url}/chat/completions`, { method: 'POST', body: '{}' })
 * await served.close()
 */
export async function serveRecording(
  { status, headers, body }: Pick<Recording, 'status' | 'headers' | 'body'>,
  options: {
    readonly seed: number
    /** A cut has 1 to so many bytes. @default 64, more for a long body: it has at most some 2000 cuts */
    readonly maxCutBytes?: number | undefined
  }
): Promise<ServedRecording> {
  const { seed, maxCutBytes = Math.max(64, Math.ceil(body.length / 1000)) } = options
  const server = createServer(async (incoming, response) => {
    const random = seededRandom(seed)
    incoming.resume()
    response.writeHead(status, Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, value as string])))
    for (let offset = 0; offset < body.length && !response.destroyed; ) {
      const end = offset + 1 + Math.floor(random() * maxCutBytes)
      response.write(body.subarray(offset, end))
      offset = end
      await tick()
    }
    response.end()
  })
  const port = await listen(server)
  const close = (): Promise<void> => closeServer(server)
  return { url: `http://127.0.0.1:${port}/v1`, close, [Symbol.asyncDispose]: close }
}
